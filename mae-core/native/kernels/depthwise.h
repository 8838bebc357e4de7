// Depthwise 7x7 convolution of channels-last images, stride 1, padding 3: README.md explains the formulation.
#pragma once
#include <ATen/core/Tensor.h>

namespace mae {

// x [N, H, W, C], weight [C, 1, 7, 7], bias [C], each fp32 or bf16 -> [N, H, W, C] of x's dtype, with a backward pass. Sums are
// fp32. `lanes` is 8 or 16; the result depends on neither it nor the number of threads.
at::Tensor depthwise_conv(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, int lanes);

}  // namespace mae
