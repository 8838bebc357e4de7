// Runs every variant of the block that this CPU has on shapes of all kinds, every array exactly as large as it must be, so
// that a sanitizer sees each access outside. scripts/sanitize-kernels builds and starts it; the numbers themselves are
// compared in the tests of mae-core.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "block.h"

namespace {

using mae::BlockKernel;
using mae::BlockShape;

// Exactly `bytes`, at a multiple of 64, behind which everything is poisoned.
struct Array {
  void* data;
  explicit Array(int64_t bytes) : data(nullptr) {
    if (posix_memalign(&data, 64, bytes > 0 ? bytes : 1) != 0) std::abort();
  }
  Array(const Array&) = delete;
  ~Array() { std::free(data); }
  template <class T>
  operator T*() const {
    return static_cast<T*>(data);
  }
};

struct Numbers {
  std::mt19937 random{1};

  std::unique_ptr<Array> floats(int64_t count, int bytes = 4) {
    auto array = std::make_unique<Array>(count * bytes);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < count; ++i) {
      const float value = normal(random);
      if (bytes == 4) {
        static_cast<float*>(*array)[i] = value;
      } else {
        const uint32_t bits = reinterpret_cast<const uint32_t&>(value);
        static_cast<uint16_t*>(*array)[i] = static_cast<uint16_t>(bits >> 16);
      }
    }
    return array;
  }
};

bool run(const BlockKernel& kernel, int bytes, const BlockShape& s, int64_t images, bool scaled) {
  Numbers numbers;
  const int64_t c = s.channels, d = s.hidden(), p = s.places(), rows = images * p;
  std::vector<std::unique_ptr<Array>> weights, gradients;
  for (const int64_t size : {c * 49, c, c, c, d * c, d, d, d, c * d, c}) {
    weights.push_back(numbers.floats(size));
    gradients.push_back(numbers.floats(size));
  }
  const auto weight = [&](int i) -> const float* { return *weights[i]; };
  const auto gradient = [&](int i) -> float* { return *gradients[i]; };
  const mae::BlockWeights w{weight(0), weight(1), weight(2), weight(3), weight(4),
                            weight(5), weight(6), weight(7), weight(8), weight(9)};
  const mae::BlockGradients g{gradient(0), gradient(1), gradient(2), gradient(3), gradient(4),
                              gradient(5), gradient(6), gradient(7), gradient(8), gradient(9)};

  const auto x = numbers.floats(rows * c, bytes), d_out = numbers.floats(rows * c, bytes), scale = numbers.floats(images);
  const Array out(rows * c * bytes), normalized(rows * c * bytes), expanded(rows * d * bytes), d_x(rows * c * bytes);
  const Array deviation(rows * 4), energy(images * d * 4), visible(images * s.patches * 8);
  const int64_t grid = s.patches ? s.height / s.patch_side * (s.width / s.patch_side) : 0;
  for (int64_t i = 0; i < images * s.patches; ++i) {
    static_cast<int64_t*>(visible)[i] = grid - s.patches + i % s.patches;
  }
  mae::BlockTensors t{};
  t.x = *x, t.visible = visible, t.out = out, t.d_out = *d_out, t.d_x = d_x;
  t.scale = scaled ? static_cast<float*>(*scale) : nullptr;

  const auto zeroed = [](int64_t size, int64_t zeros) {
    auto array = std::make_unique<Array>(size * 4);
    std::fill_n(static_cast<float*>(*array), zeros, 0.0F);
    return array;
  };
  for (const bool backward_follows : {false, true}) {
    if (backward_follows) t.normalized = normalized, t.deviation = deviation, t.expanded = expanded, t.energy = energy;
    const Array prepared(kernel.prepared_size(s, false) * 4);
    for (int64_t part = 0; part < 3; ++part) kernel.prepare(s, w, false, part, 3, prepared);
    const auto scratch = zeroed(kernel.scratch_size(s, images, false), kernel.zeroed_size(s, false));
    kernel.forward(s, w, prepared, t, 0, images, *scratch);
  }
  const Array prepared(kernel.prepared_size(s, true) * 4), operands(kernel.operands_size(s, images) * 4);
  for (int64_t part = 0; part < 3; ++part) kernel.prepare(s, w, true, part, 3, prepared);
  const auto scratch = zeroed(kernel.scratch_size(s, images, true), kernel.zeroed_size(s, true));
  const auto sums = zeroed(kernel.sums_size(s), kernel.sums_size(s));
  t.operands = operands, t.operands_begin = 0, t.operands_images = images;
  kernel.backward(s, w, prepared, t, 0, images, *scratch, *sums);
  if (kernel.operands_size(s, 1) > 0) {
    for (int64_t part = 0; part < 3; ++part) kernel.add_products(s, t, part, 3, true, *sums);
  }
  for (int64_t part = 0; part < 3; ++part) kernel.finish(s, w, *sums, g, part, 3);
  bool finite = true;
  for (int64_t i = 0; i < c * d; ++i) finite = finite && std::isfinite(g.expand[i]) && std::isfinite(g.project[i]);
  return finite;
}

}  // namespace

int main() {
  struct Variant {
    const char* name;
    const BlockKernel& kernel;
    int bytes;
    bool here;
  };
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const Variant variants[] = {{"avx2", mae::block_kernel_avx2, 4, avx2},
                              {"avx512", mae::block_kernel_avx512, 4, avx512},
                              {"avx512_bf16", mae::block_kernel_avx512_bf16, 2,
                               avx512 && __builtin_cpu_supports("avx512bf16")}};
  std::mt19937 random{7};
  const auto draw = [&](int64_t from, int64_t to) { return std::uniform_int_distribution<int64_t>(from, to)(random); };
  int runs = 0;
  for (const auto& variant : variants) {
    if (!variant.here) {
      std::printf("%s: not on this CPU\n", variant.name);
      continue;
    }
    for (int i = 0; i < 120; ++i) {
      BlockShape s{draw(1, 20), draw(1, 20), 8 * draw(1, 12), 0, 0, 1e-6F};
      if (i % 3 == 0) {
        s.patch_side = int64_t{1} << draw(0, 3);
        const int64_t rows = draw(1, 4), columns = draw(1, 4);
        s.height = rows * s.patch_side;
        s.width = columns * s.patch_side;
        s.patches = draw(1, rows * columns);
      }
      if (!run(variant.kernel, variant.bytes, s, draw(1, 5), i % 2 == 0)) {
        std::printf("%s: a gradient is not finite\n", variant.name);
        return 1;
      }
      ++runs;
    }
    std::printf("%s: 120 shapes\n", variant.name);
  }
  return runs > 0 ? 0 : 1;
}
