// Compiled for AVX-512, and so without the standard library: an inline function of it that was emitted here could be the
// one that the linker keeps for everybody.
#include "block_backward.h"

namespace mae {

const BlockKernel block_kernel_avx512 = avx512::kernel_of<float>();
const BlockKernel block_kernel_avx512_bf16 = avx512::kernel_of<avx512::bf16>();

}  // namespace mae
