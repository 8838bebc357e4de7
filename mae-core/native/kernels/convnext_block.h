// The ConvNeXt V2 block as one operation with a backward pass: README.md explains the formulation.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

namespace mae {

// What computes a block, from the slowest.
enum BlockVariant : int { kBlockNone = 0, kBlockAvx2 = 1, kBlockAvx512 = 2, kBlockAvx512Bf16 = 3 };

// The fastest variant that this CPU has. The last computes in bf16, and in fp32 as the one before.
int block_variant();

// Where the rows of an image lie. Dense images [N, H, W, C] have none of it; those of a sparse encoder are stacks
// [N, K·s, s, C] of the visible patches `visible` [N, K] int64 of `grid_rows` × `grid_columns` patches.
struct BlockGrid {
  at::Tensor visible;
  int64_t grid_rows = 0, grid_columns = 0;
};

// x [N, H, W, C] fp32 or bf16, C a multiple of 8, to the same. `weights` in any floating dtype, as in the state dict:
// depthwise weight and bias, norm weight and bias, expanding weight and bias, GRN's gamma and beta, projecting weight and
// bias. `scale` [N] fp32 is the factor of each sample's branch; undefined for 1. With bf16 images the weights of products are
// rounded to bf16, and their gradients are sums in fp32. The result does not depend on the number of threads.
at::Tensor convnext_block(const at::Tensor& x, const BlockGrid& grid, const at::Tensor& scale,
                          const std::vector<at::Tensor>& weights, double eps, int variant);

}  // namespace mae
