// Depthwise 7×7 of one image in fp32 scratch [blocks][H+6][W+6][lanes], whose border is zero, and so is what a mask hides.
#pragma once

#include <cstring>

#include "panels.h"

namespace mae::MAE_TARGET {

template <int N>
struct Size {
  static constexpr int value = N;
};

constexpr int kSide = 7, kPad = 3, kTaps = kSide * kSide;

// Places of an image that hold numbers, and their order in the rows [places][C]: all, line by line; or those of the
// visible patches, patch by patch and line by line inside of it.
struct Places {
  int height, width, channels;
  int patch_side;          // 0: all places are visible
  int patches;             // visible ones
  const int64_t* visible;  // their numbers in the grid of patches

  int blocks() const { return vectors(channels); }
  int64_t line() const { return (width + 2 * kPad) * kLanes; }
  int64_t plane() const { return (height + 2 * kPad) * line(); }

  // Calls body(first row, y, x, length) for runs of neighbouring places.
  template <class Body>
  MAE_INLINE void runs(const Places& p, Body body) {
    if (p.patch_side == 0) {
      for (int y = 0; y < p.height; ++y) body(y * p.width, y, 0, p.width);
      return;
    }
    const int across = p.width / p.patch_side, side = p.patch_side;
    for (int i = 0; i < p.patches; ++i) {
      const int y = static_cast<int>(p.visible[i]) / across * side, x = static_cast<int>(p.visible[i]) % across * side;
      for (int line = 0; line < side; ++line) body((i * side + line) * side, y + line, x, side);
    }
  }
};

// Rows [places][stride] into the scratch. A dense image overwrites all but the border, which stays zero.
template <class T>
static void fill_padded(const Places& p, const T* rows, int stride, float* padded) {
  if (p.patch_side) std::memset(padded, 0, sizeof(float) * p.blocks() * p.plane());
  Places::runs(p, [&](int row, int y, int x, int length) __attribute__((always_inline)) {
    for (int i = 0; i < length; ++i) {
      const T* from = rows + static_cast<int64_t>(row + i) * stride;
      float* to = padded + (y + kPad) * p.line() + (x + kPad + i) * kLanes;
      for (int b = 0; b < p.blocks(); ++b, to += p.plane()) {
        store(to, load(from + b * kLanes, first(p.channels - b * kLanes)));
      }
    }
  });
}

template <int Tile>
MAE_INLINE void convolve_tile(const float* in, int64_t line, const float* taps, vec bias, float* out, int stride) {
  vec sum[Tile];
#pragma GCC unroll 8
  for (int i = 0; i < Tile; ++i) sum[i] = bias;
  for (int row = 0; row < kSide; ++row, in += line, taps += kSide * kLanes) {
    vec tap[kSide];
#pragma GCC unroll 8
    for (int i = 0; i < kSide; ++i) tap[i] = load(taps + kLanes * i);
#pragma GCC unroll 16
    for (int i = 0; i < Tile + kSide - 1; ++i) {
      const vec value = load(in + kLanes * i);
#pragma GCC unroll 8
      for (int column = 0; column < kSide; ++column) {
        if (i - column >= 0 && i - column < Tile) sum[i - column] = fma(value, tap[column], sum[i - column]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Tile; ++i) store(out + static_cast<int64_t>(i) * stride, sum[i]);
}

// out rows [places][blocks·lanes]; taps [blocks][49][lanes]; bias [blocks·lanes], or null for none.
static void convolve_padded(const Places& p, const float* padded, const float* taps, const float* bias, float* out) {
  const int stride = p.blocks() * kLanes;
  for (int b = 0; b < p.blocks(); ++b) {
    const float *plane = padded + b * p.plane(), *tap = taps + b * kTaps * kLanes;
    const vec offset = bias ? load(bias + b * kLanes) : zero();
    Places::runs(p, [&](int row, int y, int x, int length) __attribute__((always_inline)) {
      const float* in = plane + y * p.line() + x * kLanes;
      float* to = out + static_cast<int64_t>(row) * stride + b * kLanes;
      int i = 0;
      auto tiles = [&](auto tile) __attribute__((always_inline)) {
        constexpr int size = decltype(tile)::value;
        for (; i + size <= length; i += size) {
          convolve_tile<size>(in + i * kLanes, p.line(), tap, offset, to + static_cast<int64_t>(i) * stride, stride);
        }
      };
      if (length % 7) tiles(Size<8>());
      tiles(Size<7>());
      tiles(Size<4>());
      tiles(Size<2>());
      tiles(Size<1>());
    });
  }
}

// Adds the image's part to the gradients of taps [blocks][49][lanes] and bias [blocks·lanes]. Partial sums of about 64 places are
// added up, then those of images: long sums of single terms would round more.
static void add_tap_gradients(const Places& p, const float* padded, const float* padded_gradient, float* taps, float* bias) {
  constexpr int kPart = 64;
  for (int b = 0; b < p.blocks(); ++b) {
    const float *x = padded + b * p.plane(), *dy = padded_gradient + b * p.plane() + kPad * p.line() + kPad * kLanes;
    for (int row = 0; row < kSide; ++row) {
      vec part[kSide], sum[kSide];
      int terms = 0;
#pragma GCC unroll 8
      for (int i = 0; i < kSide; ++i) part[i] = sum[i] = zero();
      Places::runs(p, [&](int, int y, int first_x, int length) __attribute__((always_inline)) {
        const float* in = x + (y + row) * p.line() + first_x * kLanes;
        const float* gradient = dy + y * p.line() + first_x * kLanes;
        for (int i = 0; i < length; ++i) {
          const vec g = load(gradient + i * kLanes);
#pragma GCC unroll 8
          for (int column = 0; column < kSide; ++column) {
            part[column] = fma(load(in + (i + column) * kLanes), g, part[column]);
          }
        }
        terms += length;
        if (terms >= kPart) {
          terms = 0;
#pragma GCC unroll 8
          for (int i = 0; i < kSide; ++i) {
            sum[i] = add(sum[i], part[i]);
            part[i] = zero();
          }
        }
      });
      float* to = taps + (b * kTaps + row * kSide) * kLanes;
#pragma GCC unroll 8
      for (int i = 0; i < kSide; ++i) {
        store(to + i * kLanes, add(load(to + i * kLanes), add(sum[i], part[i])));
      }
    }
    vec sum = zero();
    Places::runs(p, [&](int, int y, int first_x, int length) __attribute__((always_inline)) {
      vec part = zero();
      for (int i = 0; i < length; ++i) part = add(part, load(dy + y * p.line() + (first_x + i) * kLanes));
      sum = add(sum, part);
    });
    store(bias + b * kLanes, add(load(bias + b * kLanes), sum));
  }
}

}  // namespace mae::MAE_TARGET
