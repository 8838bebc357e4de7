// Compiled for AVX2, and so without the standard library: convnext_block_avx512.cpp says why.
#include "block_backward.h"

namespace mae {

const BlockKernel block_kernel_avx2 = avx2::kernel_of<float>();

}  // namespace mae
