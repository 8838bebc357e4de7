// The forward pass of a ConvNeXt V2 block: preparation of the weights, and a run of images.
#pragma once

#include "block_memory.h"
#include "grn.h"

namespace mae::MAE_TARGET {

template <class T>
static Left rows_of(const T* rows, int columns) {
  return {reinterpret_cast<const word*>(rows), columns / kPerWord<T>, 1};
}

// Of a weight that is rounded to T with a vector that is not.
template <class T>
MAE_INLINE float dot(int count, const float* a, const float* b) {
  vec sum = zero();
  for (int i = 0; i < count; i += kLanes) {
    const mask m = first(count - i);
    sum = fma(as<T>(load(a + i, m)), load(b + i, m), sum);
  }
  return total(sum);
}

// One row of the convolution → its normal form; returns 1/σ.
template <class T>
MAE_INLINE float normalize(int c, float eps, const float* from, T* to) {
  vec sum = zero(), squares = zero();
  for (int i = 0; i < c; i += kLanes) sum = add(sum, load(from + i, first(c - i)));
  const vec mean = all(total(sum) / static_cast<float>(c));
  for (int i = 0; i < c; i += kLanes) {
    const vec centred = only(first(c - i), sub(load(from + i), mean));
    squares = fma(centred, centred, squares);
  }
  const float deviation = 1.0F / square_root(total(squares) / static_cast<float>(c) + eps);
  for (int i = 0; i < c; i += kLanes) {
    store(to + i, mul(sub(load(from + i), mean), all(deviation)), first(c - i));
  }
  return deviation;
}

// hidden = GELU(expanded) of one image; energy = its sums of squares, in partial sums of 64 places.
template <class T>
static void activate(int d, int64_t places, const T* expanded, T* hidden, float* energy, float* part) {
  std::memset(energy, 0, sizeof(float) * d);
  for (int64_t start = 0; start < places; start += 64) {
    const int64_t end = start + 64 < places ? start + 64 : places;
    std::memset(part, 0, sizeof(float) * d);
    for (int64_t at = start * d; at < end * d; at += d) {
      for (int j = 0; j < d; j += kLanes) {
        vec value, slope;
        gelu(expanded, load(expanded + at + j), value, slope);
        store(hidden + at + j, value);
        store(part + j, fma(value, value, load(part + j)));
      }
    }
    for (int j = 0; j < d; j += kLanes) store(energy + j, add(load(energy + j), load(part + j)));
  }
}

template <class T>
static void forward_images(const BlockShape& s, const BlockWeights& w, const Prepared<T>& p, const BlockTensors& t,
                           const Scratch<T>& m, int64_t image, int count) {
  const int c = static_cast<int>(s.channels), d = 4 * c, stride = vectors(c) * kLanes;
  const int64_t places = s.places(), row = image * places;
  const int rows = static_cast<int>(count * places);
  const T* x = static_cast<const T*>(t.x) + row * c;
  T* out = static_cast<T*>(t.out) + row * c;
  T* normalized = t.normalized ? static_cast<T*>(t.normalized) + row * c : m.normalized;
  T* expanded = t.expanded ? static_cast<T*>(t.expanded) + row * d : m.expanded;
  float* deviation = t.deviation ? t.deviation + row : m.deviation;
  float* energy = t.energy ? t.energy + image * d : m.energy;

  for (int i = 0; i < count; ++i) {
    const Places visible = places_of(s, t, image + i);
    fill_padded(visible, x + i * places * c, c, m.padded);
    convolve_padded(visible, m.padded, p.taps, p.taps_bias, m.rows);
    for (int64_t k = 0; k < places; ++k) {
      deviation[i * places + k] = normalize(c, s.eps, m.rows + k * stride, normalized + (i * places + k) * c);
    }
  }
  const float* expand_bias = p.expand_bias;
  multiply<T>(rows, d, c / kPerWord<T>, rows_of<T>(normalized, c), p.expand,
              [=](int i, int j, vec sum) __attribute__((always_inline)) {
                store(expanded + static_cast<int64_t>(i) * d + j, add(sum, load(expand_bias + j)));
              });
  for (int i = 0; i < count; ++i) activate(d, places, expanded + i * places * d, m.hidden + i * places * d, energy + i * d, m.part);

  const word* project = p.project;
  for (int i = 0; i < count; ++i) {
    response(d, energy + i * d, w.gamma, m.norm, m.response, m.scale);
    const float* scale = m.scale;
    if (folds(s)) {
      scale_packed<T>(m.scaled, p.project, d, c, [=](int k, int) __attribute__((always_inline)) { return all(scale[k]); });
      project = m.scaled;
      continue;
    }
    for (int64_t k = 0; k < places; ++k) {
      T* hidden = m.hidden + (i * places + k) * d;
      for (int j = 0; j < d; j += kLanes) store(hidden + j, mul(load(hidden + j), load(scale + j)));
    }
  }
  const float *bias = p.project_bias, *factor = t.scale ? t.scale + image : nullptr;
  multiply<T>(rows, c, d / kPerWord<T>, rows_of<T>(m.hidden, d), project,
              [=](int i, int j, vec sum) __attribute__((always_inline)) {
                const int64_t at = static_cast<int64_t>(i) * c + j;
                const mask within = first(c - j);
                vec branch = add(sum, load(bias + j));
                if (factor) branch = mul(branch, all(factor[i / places]));
                store(out + at, add(branch, load(x + at, within)), within);
              });
}

template <class T>
static void forward(const BlockShape& s, const BlockWeights& w, const float* prepared, const BlockTensors& t,
                    int64_t begin, int64_t end, float* memory) {
  const Prepared<T> p(s, false, const_cast<float*>(prepared));
  const Scratch<T> m(s, end - begin, false, memory);
  const int64_t together = images_together(s, end - begin);
  for (int64_t image = begin; image < end; image += together) {
    const int count = static_cast<int>(image + together < end ? together : end - image);
    forward_images(s, w, p, t, m, image, count);
  }
}

// A part of the preparation; the parts together fill `to`.
template <class T>
static void prepare(const BlockShape& s, const BlockWeights& w, bool backward, int64_t index, int64_t parts, float* to) {
  const Prepared<T> p(s, backward, to);
  const Part part{index, parts};
  const int c = static_cast<int>(s.channels), d = 4 * c, blocks = vectors(c), padded = blocks * kLanes;
  for (int64_t i = part.begin(blocks) * kLanes; i < part.end(blocks) * kLanes; ++i) {
    for (int tap = 0; tap < kTaps; ++tap) {
      const int place = backward ? kTaps - 1 - tap : tap;  // the transposed convolution has its taps turned round
      p.taps[(i / kLanes * kTaps + place) * kLanes + i % kLanes] = i < c ? as<T>(w.taps[i * kTaps + tap]) : 0.0F;
    }
  }
  if (backward) {
    pack_weight<T, false>(part, p.project, c, d, w.project, nullptr, nullptr);
    pack_weight<T, false>(part, p.expand, d, c, w.expand, nullptr, w.norm_weight);
    return;
  }
  pack_weight<T, true>(part, p.expand, c, d, w.expand, w.norm_weight, nullptr);
  pack_weight<T, true>(part, p.project, d, c, w.project, nullptr, nullptr);
  for (int64_t i = part.begin(padded); i < part.end(padded); ++i) {
    p.taps_bias[i] = i < c ? as<T>(w.taps_bias[i]) : 0.0F;
    p.project_bias[i] = i < c ? as<T>(w.project_bias[i]) + dot<T>(d, w.project + i * d, w.beta) : 0.0F;
  }
  for (int64_t i = part.begin(d); i < part.end(d); ++i) {
    p.expand_bias[i] = as<T>(w.expand_bias[i]) + dot<T>(c, w.expand + i * c, w.norm_bias);
  }
}

}  // namespace mae::MAE_TARGET
