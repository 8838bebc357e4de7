// Where the numbers of a block lie while it is computed: prepared weights, one thread's scratch, sums over images.
#pragma once

#include "block.h"
#include "padded.h"

namespace mae::MAE_TARGET {

// Images of at least so many places, and of more than twice as many places as channels, are projected with weights of their own, into which
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

static bool folds(const BlockShape& s) { return s.places() >= kFoldFrom && s.places() > 2 * s.channels; }

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
  word *left, *right, *d_right;       // operands of sums over rows: [R][C], panels [R][D] twice; if folded
  float* product;                     // [C][D] if folded
  T* values;                          // [R][D] unless folded
  float* d_hidden;                    // [R][D] unless folded
  int64_t zeroed, size;  // the first are zero at first

  Scratch(const BlockShape& s, int64_t images, bool backward, float* base) {
    Carver carver{base};
    const int64_t c = s.channels, d = s.hidden(), together = images_together(s, images), r = together * s.places();
    const int64_t blocks = vectors(static_cast<int>(c));
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
    const int64_t folded_words = backward && fold ? words_of_rows<T>(r) : 0, kept = backward && !fold ? r * d : 0;
    left = carver.take<word>(folded_words * c);
    right = carver.take<word>(folded_words * d);
    d_right = carver.take<word>(folded_words * d);
    product = carver.take<float>(backward && fold ? c * d : 0);
    values = carver.take<T>(kept);
    d_hidden = carver.take<float>(kept);
    size = carver.used;
  }
};

// Operands of the two weights' gradients, for images that are not folded: first all images write theirs, then the products
// are made, in parts of the hidden columns. So there is one sum of each, and not one for every group of images.
template <class T>
struct Operands {
  word *d_out, *normalized;    // left: [words][C]
  word *hidden, *d_expanded;   // right: panels [words][D]
  int64_t words_of_image, words, size;

  Operands(const BlockShape& s, int64_t images, float* base) {
    Carver carver{base};
    words_of_image = words_of_rows<T>(s.places());
    words = folds(s) ? 0 : images * words_of_image;
    d_out = carver.take<word>(words * s.channels);
    normalized = carver.take<word>(words * s.channels);
    hidden = carver.take<word>(words * s.hidden());
    d_expanded = carver.take<word>(words * s.hidden());
    size = carver.used;
  }
};

// Sums over images from which the weights' gradients follow.
struct Sums {
  float *taps, *taps_bias;  // [blocks][49][lanes], [blocks·lanes]
  float *expand_bias, *gamma, *project_bias;
  float* expand;            // [C][D]: normalizedᵀ · d expanded
  float* project;           // [C][D]: d outᵀ · (scaled hidden)
  int64_t of_group, size;   // what every group of images has a sum of, and all

  Sums(const BlockShape& s, float* base) {
    Carver carver{base};
    const int64_t c = s.channels, d = s.hidden(), blocks = vectors(static_cast<int>(c));
    taps = carver.take<float>(blocks * kTaps * kLanes);
    taps_bias = carver.take<float>(blocks * kLanes);
    expand_bias = carver.take<float>(d);
    gamma = carver.take<float>(d);
    project_bias = carver.take<float>(blocks * kLanes);
    of_group = carver.used;
    expand = carver.take<float>(c * d);
    project = carver.take<float>(c * d);
    size = carver.used;
    if (folds(s)) of_group = size;
  }
};

}  // namespace mae::MAE_TARGET
