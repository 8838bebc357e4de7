#include "depthwise.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstring>
#include <vector>

// Everything below a function with a target attribute is inlined into it, and so compiled for that target.
#define MAE_INLINE __attribute__((always_inline)) inline

namespace mae {
namespace {

constexpr int kSide = 7, kPad = kSide / 2, kTaps = kSide * kSide;
// Images are summed in at most this many groups, whatever the number of threads: the result then does not depend on it.
constexpr int64_t kGroups = 16;

template <int Lanes>
struct Vector;
template <>
struct Vector<8> {
  typedef float type __attribute__((vector_size(32), aligned(4)));
};
template <>
struct Vector<16> {
  typedef float type __attribute__((vector_size(64), aligned(4)));
};

struct Shape {
  int64_t images, height, width, channels;
};

// One block of `Lanes` channels of one image.
template <int Lanes>
struct Block {
  using vec = typename Vector<Lanes>::type;

  Shape shape;
  int64_t first;  // channel
  int count;      // channels that exist; fewer than Lanes in the last block

  int64_t padded_width() const { return shape.width + 2 * kPad; }

  // Copies the block into the middle of `padded` [H+6][W+6][Lanes], whose border stays zero.
  MAE_INLINE void pack(const float* image, vec* padded) const {
    for (int64_t y = 0; y < shape.height; ++y) {
      const float* from = image + y * shape.width * shape.channels + first;
      vec* to = padded + (y + kPad) * padded_width() + kPad;
      for (int64_t x = 0; x < shape.width; ++x, from += shape.channels) {
        if (count == Lanes) {
          to[x] = *reinterpret_cast<const vec*>(from);
        } else {
          vec value = {};
          std::memcpy(&value, from, count * sizeof(float));
          to[x] = value;
        }
      }
    }
  }

  MAE_INLINE void store(float* to, const vec& value) const {
    if (count == Lanes) {
      *reinterpret_cast<vec*>(to) = value;
    } else {
      std::memcpy(to, &value, count * sizeof(float));
    }
  }

  // `Tile` neighbouring results of one row.
  template <int Tile>
  MAE_INLINE void convolve_tile(const vec* in, const vec* taps, const vec& bias, float* out) const {
    vec sum[Tile];
    for (int i = 0; i < Tile; ++i) sum[i] = bias;
    for (int row = 0; row < kSide; ++row, in += padded_width(), taps += kSide) {
#pragma GCC unroll 16
      for (int i = 0; i < Tile + kSide - 1; ++i) {
        const vec value = in[i];
#pragma GCC unroll 8
        for (int column = 0; column < kSide; ++column) {
          if (i - column >= 0 && i - column < Tile) sum[i - column] += value * taps[column];
        }
      }
    }
    for (int i = 0; i < Tile; ++i) store(out + i * shape.channels, sum[i]);
  }

  // The whole image; `taps` are [7][7][Lanes].
  MAE_INLINE void convolve(const vec* padded, const vec* taps, const vec& bias, float* image) const {
    for (int64_t y = 0; y < shape.height; ++y) {
      const vec* in = padded + y * padded_width();
      float* out = image + y * shape.width * shape.channels + first;
      int64_t x = 0;
      auto tiles = [&](auto tile) __attribute__((always_inline)) {
        constexpr int size = decltype(tile)::value;
        for (; x + size <= shape.width; x += size) convolve_tile<size>(in + x, taps, bias, out + x * shape.channels);
      };
      tiles(std::integral_constant<int, 8>());
      tiles(std::integral_constant<int, 7>());
      tiles(std::integral_constant<int, 4>());
      tiles(std::integral_constant<int, 2>());
      tiles(std::integral_constant<int, 1>());
    }
  }

  // Adds the image's part to the gradients of taps [7][7][Lanes] and bias.
  MAE_INLINE void weight_gradient(const vec* padded_x, const vec* padded_dy, vec* dtaps, vec& dbias) const {
    // Sums of lines, then of images, then of groups: long sums of single terms would round more.
    for (int row = 0; row < kSide; ++row) {
      vec sum[kSide] = {};
      for (int64_t y = 0; y < shape.height; ++y) {
        const vec* x = padded_x + (y + row) * padded_width();
        const vec* dy = padded_dy + (y + kPad) * padded_width() + kPad;
        vec line[kSide] = {};
        for (int64_t i = 0; i < shape.width; ++i) {
#pragma GCC unroll 8
          for (int column = 0; column < kSide; ++column) line[column] += dy[i] * x[i + column];
        }
        for (int column = 0; column < kSide; ++column) sum[column] += line[column];
      }
      for (int column = 0; column < kSide; ++column) dtaps[row * kSide + column] += sum[column];
    }
    vec sum = {};
    for (int64_t y = 0; y < shape.height; ++y) {
      const vec* dy = padded_dy + (y + kPad) * padded_width() + kPad;
      vec line = {};
      for (int64_t i = 0; i < shape.width; ++i) line += dy[i];
      sum += line;
    }
    dbias += sum;
  }
};

struct Arguments {
  Shape shape;
  const float *x, *taps, *bias, *dy;  // taps [49][C]; dy only in the backward pass
  float *y, *dx, *partial;            // dx may be null; partial [groups][50][C] holds gradients of taps, then of the bias
};

template <int Lanes>
struct Scratch {
  using vec = typename Vector<Lanes>::type;
  std::vector<float> memory;
  MAE_INLINE vec* get(const Shape& shape) {
    memory.assign((shape.height + 2 * kPad) * (shape.width + 2 * kPad) * Lanes, 0.0F);
    return reinterpret_cast<vec*>(memory.data());
  }
};

template <int Lanes>
MAE_INLINE Block<Lanes> block_of(const Shape& shape, int64_t index) {
  const int64_t first = index * Lanes;
  return {shape, first, static_cast<int>(std::min<int64_t>(Lanes, shape.channels - first))};
}

// Rows `from` [49][C] of a block as vectors.
template <int Lanes>
MAE_INLINE void load_taps(const Block<Lanes>& block, const float* from, typename Vector<Lanes>::type* taps) {
  for (int tap = 0; tap < kTaps; ++tap) {
    typename Vector<Lanes>::type value = {};
    std::memcpy(&value, from + tap * block.shape.channels + block.first, block.count * sizeof(float));
    taps[tap] = value;
  }
}

// Work items `begin` to `end` of images x blocks.
template <int Lanes>
MAE_INLINE void forward_items(const Arguments& a, int64_t begin, int64_t end) {
  using vec = typename Vector<Lanes>::type;
  const int64_t blocks = (a.shape.channels + Lanes - 1) / Lanes;
  const int64_t size = a.shape.height * a.shape.width * a.shape.channels;
  Scratch<Lanes> scratch;
  vec* padded = scratch.get(a.shape);
  for (int64_t item = begin; item < end; ++item) {
    const auto block = block_of<Lanes>(a.shape, item % blocks);
    const int64_t image = item / blocks;
    vec taps[kTaps], bias = {};
    load_taps(block, a.taps, taps);
    std::memcpy(&bias, a.bias + block.first, block.count * sizeof(float));
    block.pack(a.x + image * size, padded);
    block.convolve(padded, taps, bias, a.y + image * size);
  }
}

// Work items `begin` to `end` of groups x blocks.
template <int Lanes>
MAE_INLINE void backward_items(const Arguments& a, int64_t begin, int64_t end) {
  using vec = typename Vector<Lanes>::type;
  const int64_t blocks = (a.shape.channels + Lanes - 1) / Lanes;
  const int64_t groups = std::min(a.shape.images, kGroups);
  const int64_t size = a.shape.height * a.shape.width * a.shape.channels;
  Scratch<Lanes> scratch_x, scratch_dy;
  vec *padded_x = scratch_x.get(a.shape), *padded_dy = scratch_dy.get(a.shape);
  for (int64_t item = begin; item < end; ++item) {
    const auto block = block_of<Lanes>(a.shape, item % blocks);
    const int64_t group = item / blocks;
    vec taps[kTaps], flipped[kTaps], dtaps[kTaps] = {}, dbias = {};
    load_taps(block, a.taps, taps);
    for (int tap = 0; tap < kTaps; ++tap) flipped[tap] = taps[kTaps - 1 - tap];
    const vec zero = {};
    for (int64_t image = group * a.shape.images / groups; image < (group + 1) * a.shape.images / groups; ++image) {
      block.pack(a.x + image * size, padded_x);
      block.pack(a.dy + image * size, padded_dy);
      if (a.dx != nullptr) block.convolve(padded_dy, flipped, zero, a.dx + image * size);
      block.weight_gradient(padded_x, padded_dy, dtaps, dbias);
    }
    float* out = a.partial + group * (kTaps + 1) * a.shape.channels + block.first;
    for (int tap = 0; tap < kTaps; ++tap) block.store(out + tap * a.shape.channels, dtaps[tap]);
    block.store(out + kTaps * a.shape.channels, dbias);
  }
}

__attribute__((target("avx512f,fma"))) void forward_avx512(const Arguments& a, int64_t begin, int64_t end) {
  forward_items<16>(a, begin, end);
}
__attribute__((target("avx512f,fma"))) void backward_avx512(const Arguments& a, int64_t begin, int64_t end) {
  backward_items<16>(a, begin, end);
}
__attribute__((target("avx2,fma"))) void forward_avx2(const Arguments& a, int64_t begin, int64_t end) {
  forward_items<8>(a, begin, end);
}
__attribute__((target("avx2,fma"))) void backward_avx2(const Arguments& a, int64_t begin, int64_t end) {
  backward_items<8>(a, begin, end);
}
// Sixteen lanes as pairs of eight: what tests of the wide variant run on a CPU without AVX-512.
__attribute__((target("avx2,fma"))) void forward_pairs(const Arguments& a, int64_t begin, int64_t end) {
  forward_items<16>(a, begin, end);
}
__attribute__((target("avx2,fma"))) void backward_pairs(const Arguments& a, int64_t begin, int64_t end) {
  backward_items<16>(a, begin, end);
}

using Items = void (*)(const Arguments&, int64_t, int64_t);

bool has_avx512() { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("fma"); }
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

void check_lanes(int64_t lanes) {
  TORCH_CHECK(has_avx2(), "the depthwise kernel needs a CPU with AVX2 and FMA");
  TORCH_CHECK(lanes == 8 || lanes == 16, "the depthwise kernel has 8 or 16 lanes, not ", lanes);
}

Items forward_for(int64_t lanes) { return lanes == 8 ? forward_avx2 : has_avx512() ? forward_avx512 : forward_pairs; }
Items backward_for(int64_t lanes) {
  return lanes == 8 ? backward_avx2 : has_avx512() ? backward_avx512 : backward_pairs;
}

Shape shape_of(const at::Tensor& x) { return {x.size(0), x.size(1), x.size(2), x.size(3)}; }

// [C, 1, 7, 7] -> [49, C] in fp32.
at::Tensor tap_rows(const at::Tensor& weight) {
  return weight.to(at::kFloat).reshape({weight.size(0), kTaps}).t().contiguous();
}

class DepthwiseConv : public torch::autograd::Function<DepthwiseConv> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& bias, int64_t lanes) {
    context->save_for_backward({x, weight});
    context->saved_data["lanes"] = lanes;
    const auto input = x.to(at::kFloat).contiguous(), taps = tap_rows(weight), offset = bias.to(at::kFloat).contiguous();
    auto y = at::empty(x.sizes(), input.options());
    Arguments arguments{};
    arguments.shape = shape_of(x);
    arguments.x = input.const_data_ptr<float>();
    arguments.taps = taps.const_data_ptr<float>();
    arguments.bias = offset.const_data_ptr<float>();
    arguments.y = y.mutable_data_ptr<float>();
    const int64_t items = x.size(0) * ((x.size(3) + lanes - 1) / lanes);
    at::parallel_for(0, items, 1, [&, run = forward_for(lanes)](int64_t begin, int64_t end) { run(arguments, begin, end); });
    return y.to(x.scalar_type());
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto &x = saved[0], &weight = saved[1];
    const int64_t lanes = context->saved_data["lanes"].toInt();
    const auto input = x.to(at::kFloat).contiguous(), dy = gradients[0].to(at::kFloat).contiguous();
    const auto taps = tap_rows(weight);
    const int64_t channels = x.size(3), groups = std::min(x.size(0), kGroups);
    auto partial = at::empty({groups, kTaps + 1, channels}, input.options());
    at::Tensor dx;
    Arguments arguments{};
    arguments.shape = shape_of(x);
    arguments.x = input.const_data_ptr<float>();
    arguments.taps = taps.const_data_ptr<float>();
    arguments.dy = dy.const_data_ptr<float>();
    arguments.partial = partial.mutable_data_ptr<float>();
    if (context->needs_input_grad(0)) {
      dx = at::empty(x.sizes(), input.options());
      arguments.dx = dx.mutable_data_ptr<float>();
    }
    const int64_t items = groups * ((channels + lanes - 1) / lanes);
    at::parallel_for(0, items, 1, [&, run = backward_for(lanes)](int64_t begin, int64_t end) { run(arguments, begin, end); });
    const auto sums = partial.sum(0);
    auto dweight = sums.narrow(0, 0, kTaps).t().reshape(weight.sizes()).to(weight.scalar_type());
    auto dbias = sums.select(0, kTaps).to(weight.scalar_type());
    return {dx.defined() ? dx.to(x.scalar_type()) : dx, dweight, dbias, at::Tensor()};
  }
};

}  // namespace

at::Tensor depthwise_conv(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, int lanes) {
  check_lanes(lanes);
  TORCH_CHECK(x.dim() == 4 && x.device().is_cpu(), "expected images [N, H, W, C] on the CPU, found ", x.sizes());
  TORCH_CHECK(weight.sizes() == at::IntArrayRef({x.size(3), 1, kSide, kSide}) && bias.numel() == x.size(3),
              "expected a depthwise weight [", x.size(3), ", 1, 7, 7], found ", weight.sizes());
  return DepthwiseConv::apply(x, weight, bias, static_cast<int64_t>(lanes));
}

}  // namespace mae
