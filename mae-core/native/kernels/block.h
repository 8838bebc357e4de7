// The arithmetic of a ConvNeXt V2 block, forward and backward, for one thread and a run of images. README.md derives it.
// Nothing of libtorch is needed here: this is the border between code for any CPU and code for AVX-512.
#pragma once

#include <cstdint>

namespace mae {

// C channels, D = 4C; P places that hold numbers.
struct BlockShape {
  int64_t height, width, channels;
  int64_t patch_side, patches;  // 0 and 0 when dense; otherwise places along a patch, and visible patches of an image
  float eps;                    // of the layer norm

  int64_t places() const { return patch_side ? patches * patch_side * patch_side : height * width; }
  int64_t hidden() const { return 4 * channels; }
};

// Parameters in fp32, laid out as in the state dict.
struct BlockWeights {
  const float *taps, *taps_bias;            // [C][49], [C]
  const float *norm_weight, *norm_bias;     // [C]
  const float *expand, *expand_bias;        // [D][C], [D]
  const float *gamma, *beta;                // [D]
  const float *project, *project_bias;      // [C][D], [C]
};

struct BlockGradients {
  float *taps, *taps_bias, *norm_weight, *norm_bias, *expand, *expand_bias, *gamma, *beta, *project, *project_bias;
};

// Tensors of all images, in the kernel's dtype T unless said otherwise.
struct BlockTensors {
  const void* x;           // [N][P][C]
  const int64_t* visible;  // [N][patches], sparse only
  const float* scale;      // [N]: factor of a sample's branch; null for 1
  void* out;               // [N][P][C]; forward only
  // What the backward pass needs; null in a forward pass without one.
  void* normalized;       // [N][P][C]: the layer norm's result before its affine part
  float* deviation;       // [N][P] fp32: 1/σ of the layer norm
  void* expanded;         // [N][P][D]: before GELU
  float* energy;          // [N][D] fp32: sums of squares after GELU
  const void* d_out;      // [N][P][C]
  void* d_x;              // [N][P][C]
  float* operands;        // of the images that are added to the products next: their first, and how many
  int64_t operands_begin, operands_images;
};

struct BlockKernel {
  // Sizes in floats. `prepared` holds the weights as the products want them, `scratch` is one thread's, `sums` one run's
  // part of the weights' gradients.
  int64_t (*prepared_size)(const BlockShape&, bool backward);
  int64_t (*scratch_size)(const BlockShape&, int64_t images, bool backward);
  int64_t (*zeroed_size)(const BlockShape&, bool backward);
  // Of so many images; none where every group of images adds to products of its own.
  int64_t (*operands_size)(const BlockShape&, int64_t images);
  // The first, and every further group's.
  int64_t (*sums_size)(const BlockShape&);
  int64_t (*group_sums_size)(const BlockShape&);

  // Part `index` of `parts`; the parts can run side by side, and together fill `prepared`.
  void (*prepare)(const BlockShape&, const BlockWeights&, bool backward, int64_t index, int64_t parts, float* prepared);
  // Images `begin` to `end`. The first `zeroed_size` of `scratch` must be zero at first; it can be used again for the same
  // shape and direction.
  void (*forward)(const BlockShape&, const BlockWeights&, const float* prepared, const BlockTensors&, int64_t begin,
                  int64_t end, float* scratch);
  // Adds to a group's `sums`, and writes the images' operands.
  void (*backward)(const BlockShape&, const BlockWeights&, const float* prepared, const BlockTensors&, int64_t begin,
                   int64_t end, float* scratch, float* sums);
  // Adds the products of the operands to the first group's sums, or writes them there; in parts, as `prepare`.
  void (*add_products)(const BlockShape&, const BlockTensors&, int64_t index, int64_t parts, bool overwrite, float* sums);
  // Gradients of the weights from the sums over all images; in parts, as `prepare`.
  void (*finish)(const BlockShape&, const BlockWeights&, const float* sums, const BlockGradients&, int64_t index,
                 int64_t parts);
};

// T is float in all but the last, which keeps bf16; sums, statistics and weight gradients are fp32 in all.
extern const BlockKernel block_kernel_avx2;         // AVX2, FMA
extern const BlockKernel block_kernel_avx512;       // AVX-512 F, BW, DQ, VL
extern const BlockKernel block_kernel_avx512_bf16;  // and BF16

}  // namespace mae
