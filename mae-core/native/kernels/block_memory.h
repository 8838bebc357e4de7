// Where the numbers of a block lie while it is computed: prepared weights, one thread's scratch, sums over images.
#pragma once

#include "block.h"
#include "padded.h"

namespace mae::MAE_TARGET {

// Images of at least so many places, and of more places than channels, are projected with weights of their own, into which
// GRN's scale is folded; others are handled together, and scaled themselves.
constexpr int64_t kFoldFrom = 150;
constexpr int64_t kRowsTogether = 1024;

// Hands out pieces of one buffer, each at a multiple of 64 bytes; without a buffer it only counts.
struct Carver {
  float* base;
  int64_t used = 0;

  template <class U>
  U* take(int64_t count) {
    U* piece = base ? reinterpret_cast<U*>(base + used) : nullptr;
    used += (count * static_cast<int64_t>(sizeof(U)) + 63) / 64 * 16;
    return piece;
  }
};

static bool folds(const BlockShape& s) { return s.places() >= kFoldFrom && s.places() > s.channels; }

static int64_t images_together(const BlockShape& s, int64_t images) {
  const int64_t most = folds(s) || s.places() > kRowsTogether ? 1 : kRowsTogether / s.places();
  return images < most ? images : most;
}

static Places places_of(const BlockShape& s, const BlockTensors& t, int64_t image) {
  const int64_t* visible = s.patch_side ? t.visible + image * s.patches : nullptr;
  return {static_cast<int>(s.height),     static_cast<int>(s.width),   static_cast<int>(s.channels),
          static_cast<int>(s.patch_side), static_cast<int>(s.patches), visible};
}

template <class T>
struct Prepared {
  float *taps, *taps_bias, *expand_bias, *project_bias;
  word *expand, *project;
  int64_t size;

  Prepared(const BlockShape& s, bool backward, float* base) {
    Carver carver{base};
    const int c = static_cast<int>(s.channels), d = 4 * c, padded = vectors(c) * kLanes;
    taps = carver.take<float>(padded * kTaps);
    taps_bias = carver.take<float>(padded);
    expand_bias = carver.take<float>(d);
    project_bias = carver.take<float>(padded);
    expand = carver.take<word>(backward ? panel_words(d / kPerWord<T>, c) : panel_words(c / kPerWord<T>, d));
    project = carver.take<word>(backward ? panel_words(c / kPerWord<T>, d) : panel_words(d / kPerWord<T>, c));
    size = carver.used;
  }
};

// For the images that are handled together: R rows.
template <class T>
struct Scratch {
  float *padded, *d_padded;  // stay zero where nothing is written
  float *mean, *response, *scale, *slope, *reduced, *norm, *part;  // [images][D] but mean [images] and part [D]
  float* rows;       // [R][blocks·lanes]
  T *hidden, *normalized, *expanded;  // [R][D], [R][C], [R][D]
  float *deviation, *energy;          // [R], [images][D]
  word* scaled;      // a weight with GRN's scale folded in
  T* d_out;          // [R][C]
  word *left, *right, *d_right;       // operands of sums over rows: [R][C], panels [R][D] twice
  T* values;                          // [R][D] unless folded
  float *d_hidden, *product;          // [R][D] unless folded, [C][D] if folded
  int64_t zeroed, size;  // the first are zero at first

  Scratch(const BlockShape& s, int64_t images, bool backward, float* base) {
    Carver carver{base};
    const int64_t c = s.channels, d = s.hidden(), together = images_together(s, images), r = together * s.places();
    const int64_t blocks = vectors(static_cast<int>(c)), even = r + r % 2;
    const bool fold = folds(s);
    padded = carver.take<float>(blocks * (s.height + 2 * kPad) * (s.width + 2 * kPad) * kLanes);
    d_padded = carver.take<float>(backward ? blocks * (s.height + 2 * kPad) * (s.width + 2 * kPad) * kLanes : 0);
    zeroed = carver.used;
    mean = carver.take<float>(together);
    response = carver.take<float>(together * d);
    scale = carver.take<float>(together * d);
    norm = carver.take<float>(together * d);
    slope = carver.take<float>(backward ? together * d : 0);
    reduced = carver.take<float>(backward ? together * d : 0);
    part = carver.take<float>(d);
    rows = carver.take<float>((backward ? r : s.places()) * blocks * kLanes);
    hidden = carver.take<T>(r * d);
    normalized = carver.take<T>(backward ? 0 : r * c);
    expanded = carver.take<T>(backward ? 0 : r * d);
    deviation = carver.take<float>(backward ? 0 : r);
    energy = carver.take<float>(backward ? 0 : together * d);
    const int64_t weight = backward ? panel_words(c / kPerWord<T>, static_cast<int>(d)) : panel_words(d / kPerWord<T>, static_cast<int>(c));
    scaled = carver.take<word>(fold ? weight : 0);
    d_out = carver.take<T>(backward ? r * c : 0);
    left = carver.take<word>(backward && kPerWord<T> == 2 ? even / 2 * c : 0);
    right = carver.take<word>(backward ? even / kPerWord<T> * d : 0);
    d_right = carver.take<word>(backward ? even / kPerWord<T> * d : 0);
    values = carver.take<T>(backward && !fold ? r * d : 0);
    d_hidden = carver.take<float>(backward && !fold ? r * d : 0);
    product = carver.take<float>(backward && fold ? c * d : 0);
    size = carver.used;
  }
};

// Sums over images from which the weights' gradients follow.
struct Sums {
  float *taps, *taps_bias;  // [blocks][49][lanes], [blocks·lanes]
  float* expand;            // [C][D]: normalizedᵀ · d expanded
  float* project;           // [C][D]: d outᵀ · (scaled hidden)
  float *expand_bias, *gamma, *project_bias;
  int64_t size;

  Sums(const BlockShape& s, float* base) {
    Carver carver{base};
    const int64_t c = s.channels, d = s.hidden(), blocks = vectors(static_cast<int>(c));
    taps = carver.take<float>(blocks * kTaps * kLanes);
    taps_bias = carver.take<float>(blocks * kLanes);
    expand = carver.take<float>(c * d);
    project = carver.take<float>(c * d);
    expand_bias = carver.take<float>(d);
    gamma = carver.take<float>(d);
    project_bias = carver.take<float>(blocks * kLanes);
    size = carver.used;
  }
};

}  // namespace mae::MAE_TARGET
