// The backward pass of a ConvNeXt V2 block: a run of images, then the weights' gradients from the sums.
#pragma once

#include "block_forward.h"

namespace mae::MAE_TARGET {

// The gradient of the branch: the output's, times each sample's factor.
template <class T>
static const T* scaled_gradient(const T* d_out, const float* scale, int count, int64_t size, T* to) {
  if (!scale) return d_out;
  for (int i = 0; i < count; ++i) {
    const vec factor = all(scale[i]);
    for (int64_t j = i * size; j < (i + 1) * size; j += kLanes) {
      const mask m = first(static_cast<int>((i + 1) * size - j < kLanes ? (i + 1) * size - j : kLanes));
      store(to + j, mul(factor, load(d_out + j, m)), m);
    }
  }
  return to;
}

// One image: d W2 before GRN's scale also holds the reduction that GRN's gradient needs, a_j = Σ_o W2_oj (d outᵀ h)_oj.
template <class T>
static void hidden_gradient_folded(const BlockWeights& w, const Prepared<T>& p, const Scratch<T>& m, const Sums& sum, int rows,
                                   int c, const T* expanded, const T* d_branch) {
  const int d = 4 * c;
  const int64_t depth = words_of_rows<T>(rows);
  T* slopes = m.hidden;
  pack_rows<T>(m.right, depth, 0, rows, d, [=](int i, int j) __attribute__((always_inline)) {
    vec value, slope;
    const int64_t at = static_cast<int64_t>(i) * d + j;
    gelu(expanded, load(expanded + at), value, slope);
    store(slopes + at, slope);
    return value;
  });
  pair_rows(m.left, rows, c, d_branch);
  add_transposed_product<T>(c, d, depth, m.left, m.right, true, m.product);
  for (int j = 0; j < d; j += kLanes) {
    vec reduced = zero();
    const vec scale = load(m.scale + j);
    for (int i = 0; i < c; ++i) {
      const int64_t at = static_cast<int64_t>(i) * d + j;
      const vec value = load(m.product + at);
      reduced = fma(value, as<T>(load(w.project + at)), reduced);
      store(sum.project + at, fma(value, scale, load(sum.project + at)));
    }
    store(m.reduced + j, reduced);
  }
  response_gradient(d, m.mean[0], w.gamma, m.reduced, m.norm, m.response, sum.gamma, m.slope);
  const float *scale = m.scale, *t = m.slope;
  scale_packed<T>(m.scaled, p.project, c, d, [=](int, int j) __attribute__((always_inline)) { return load(scale + j); });
  const Left rows_left = rows_of<T>(d_branch, c);
  for_panels(d, [&](int column, int width) __attribute__((always_inline)) {
    const word* values = m.right + depth * column;
    auto chain = [=](int i, int j, vec d_scaled) __attribute__((always_inline)) {
      T* at = slopes + static_cast<int64_t>(i) * d + j;
      const vec value = packed_row<T>(values, width, i, (j - column) / kLanes);
      store(at, mul(fma(value, load(t + j), d_scaled), load(at)));
    };
    multiply_panel_of<T>(width, rows, c / kPerWord<T>, rows_left, m.scaled + static_cast<int64_t>(c / kPerWord<T>) * column, column, chain);
  });
}

// Several images, each with a scale of its own; `first` is the first one's place among the operands.
template <class T>
static void hidden_gradient(const BlockWeights& w, const Prepared<T>& p, const Scratch<T>& m, const Sums& sum,
                            const Operands<T>& o, int64_t first, int count, int64_t places, int c, const T* expanded,
                            const T* d_branch) {
  const int d = 4 * c, rows = static_cast<int>(count * places);
  const float* scale = m.scale;
  T *values = m.values, *slopes = m.hidden;
  for (int64_t image = 0; image < count; ++image) {
    const int64_t offset = image * places, word = (first + image) * o.words_of_image;
    pack_rows<T>(o.hidden, o.words, word, static_cast<int>(places), d, [=](int i, int j) __attribute__((always_inline)) {
      vec value, slope;
      const int64_t at = (offset + i) * d + j;
      gelu(expanded, load(expanded + at), value, slope);
      store(values + at, value);
      store(slopes + at, slope);
      return mul(value, load(scale + image * d + j));
    });
    pair_rows(o.d_out + word * c, static_cast<int>(places), c, d_branch + offset * c);
  }
  float *d_scaled = m.d_hidden, *reduced = m.reduced;
  std::memset(reduced, 0, sizeof(float) * count * d);
  multiply<T>(rows, d, c / kPerWord<T>, rows_of<T>(d_branch, c), p.project,
              [=](int i, int j, vec value) __attribute__((always_inline)) {
                const int64_t at = static_cast<int64_t>(i) * d + j;
                float* to = reduced + i / places * d + j;
                store(d_scaled + at, value);
                store(to, fma(load(values + at), value, load(to)));
              });
  for (int i = 0; i < count; ++i) {
    response_gradient(d, m.mean[i], w.gamma, reduced + i * d, m.norm + i * d, m.response + i * d, sum.gamma, m.slope + i * d);
  }
  for (int64_t i = 0; i < rows; ++i) {
    const float *image_scale = scale + i / places * d, *t = m.slope + i / places * d;
    for (int j = 0; j < d; j += kLanes) {
      const int64_t at = i * d + j;
      const vec direct = mul(load(d_scaled + at), load(image_scale + j));
      store(slopes + at, mul(fma(load(values + at), load(t + j), direct), load(slopes + at)));
    }
  }
}

// In place: the gradient of the normal form → that of the convolution, (1/σ)(g − mean g − n·mean(g·n)).
template <class T>
MAE_INLINE void normalize_gradient(int c, const T* n, float deviation, float* row) {
  vec sum = zero(), product = zero();
  for (int j = 0; j < c; j += kLanes) {
    const mask m = first(c - j);
    const vec g = load(row + j, m);
    sum = add(sum, g);
    product = fma(g, load(n + j, m), product);
  }
  const vec mean = all(total(sum) / static_cast<float>(c));
  const vec along = all(total(product) / static_cast<float>(c));
  for (int j = 0; j < c; j += kLanes) {
    const mask m = first(c - j);
    const vec rest = sub(load(row + j, m), fma(load(n + j, m), along, mean));
    store(row + j, only(m, mul(all(deviation), rest)));
  }
}

template <class T>
static void backward_images(const BlockShape& s, const BlockWeights& w, const Prepared<T>& p, const BlockTensors& t,
                            const Scratch<T>& m, const Sums& sum, int64_t image, int count) {
  const int c = static_cast<int>(s.channels), d = 4 * c, stride = vectors(c) * kLanes;
  const int64_t places = s.places(), row = image * places;
  const int rows = static_cast<int>(count * places);
  const T *x = static_cast<const T*>(t.x) + row * c, *expanded = static_cast<const T*>(t.expanded) + row * d;
  const T *normalized = static_cast<const T*>(t.normalized) + row * c, *d_out = static_cast<const T*>(t.d_out) + row * c;
  const T* d_branch = scaled_gradient(d_out, t.scale ? t.scale + image : nullptr, count, places * c, m.d_out);

  for (int i = 0; i < count; ++i) {
    m.mean[i] = response(d, t.energy + (image + i) * d, w.gamma, m.norm + i * d, m.response + i * d, m.scale + i * d);
  }
  add_column_sums(rows, c, d_branch, sum.project_bias);
  const Operands<T> o(s, t.operands_images, t.operands);
  const int64_t first_operand = image - t.operands_begin;
  if (folds(s)) {
    hidden_gradient_folded(w, p, m, sum, rows, c, expanded, d_branch);
  } else {
    hidden_gradient(w, p, m, sum, o, first_operand, count, places, c, expanded, d_branch);
  }
  // m.hidden now holds the gradient of `expanded`.
  const T* d_expanded = m.hidden;
  add_column_sums(rows, d, d_expanded, sum.expand_bias);
  if (folds(s)) {
    const int64_t depth = words_of_rows<T>(rows);
    pack_rows<T>(m.d_right, depth, 0, rows, d,
                 [=](int i, int j) __attribute__((always_inline)) { return load(d_expanded + static_cast<int64_t>(i) * d + j); });
    pair_rows(m.left, rows, c, normalized);
    add_transposed_product<T>(c, d, depth, m.left, m.d_right, false, sum.expand);
  } else {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t word = (first_operand + i) * o.words_of_image;
      const T* from = d_expanded + i * places * d;
      pack_rows<T>(o.d_expanded, o.words, word, static_cast<int>(places), d,
                   [=](int k, int j) __attribute__((always_inline)) { return load(from + static_cast<int64_t>(k) * d + j); });
      pair_rows(o.normalized + word * c, static_cast<int>(places), c, normalized + i * places * c);
    }
  }
  float* d_rows = m.rows;
  multiply<T>(rows, c, d / kPerWord<T>, rows_of<T>(d_expanded, d), p.expand,
              [=](int i, int j, vec value) __attribute__((always_inline)) { store(d_rows + static_cast<int64_t>(i) * stride + j, value); });
  for (int i = 0; i < rows; ++i) normalize_gradient(c, normalized + static_cast<int64_t>(i) * c, t.deviation[row + i], d_rows + static_cast<int64_t>(i) * stride);

  for (int i = 0; i < count; ++i) {
    const Places visible = places_of(s, t, image + i);
    float* d_convolved = d_rows + i * places * stride;
    fill_padded(visible, x + i * places * c, c, m.padded);
    fill_padded(visible, static_cast<const float*>(d_convolved), stride, m.d_padded);
    add_tap_gradients(visible, m.padded, m.d_padded, sum.taps, sum.taps_bias);
    convolve_padded(visible, m.d_padded, p.taps, nullptr, d_convolved);
  }
  T* d_x = static_cast<T*>(t.d_x) + row * c;
  for (int64_t i = 0; i < rows; ++i) {
    for (int j = 0; j < c; j += kLanes) {
      const mask within = first(c - j);
      store(d_x + i * c + j, add(load(d_rows + i * stride + j), load(d_out + i * c + j, within)), within);
    }
  }
}

template <class T>
static void backward(const BlockShape& s, const BlockWeights& w, const float* prepared, const BlockTensors& t,
                     int64_t begin, int64_t end, float* memory, float* sums) {
  const Prepared<T> p(s, true, const_cast<float*>(prepared));
  const Scratch<T> m(s, end - begin, true, memory);
  const Sums sum(s, sums);
  const int64_t together = images_together(s, end - begin);
  for (int64_t image = begin; image < end; image += together) {
    const int count = static_cast<int>(image + together < end ? together : end - image);
    backward_images(s, w, p, t, m, sum, image, count);
  }
}

// A part of the hidden columns in the two weights' sums, from the operands of all images.
template <class T>
static void add_products(const BlockShape& s, const BlockTensors& t, int64_t index, int64_t parts, bool overwrite,
                         float* sums) {
  const Operands<T> o(s, t.operands_images, t.operands);
  const Sums sum(s, sums);
  const Part part{index, parts};
  const int c = static_cast<int>(s.channels), d = 4 * c;
  add_transposed_product<T>(c, d, o.words, o.normalized, o.d_expanded, overwrite, sum.expand, part);
  add_transposed_product<T>(c, d, o.words, o.d_out, o.hidden, overwrite, sum.project, part);
}

// A part of the gradients.
template <class T>
static void finish(const BlockShape& s, const BlockWeights& w, const float* sums, const BlockGradients& g, int64_t index,
                   int64_t parts) {
  const Sums sum(s, const_cast<float*>(sums));
  const Part part{index, parts};
  const int c = static_cast<int>(s.channels), d = 4 * c;
  for (int64_t i = part.begin(c); i < part.end(c); ++i) {
    g.taps_bias[i] = sum.taps_bias[i];
    g.project_bias[i] = sum.project_bias[i];
    for (int tap = 0; tap < kTaps; ++tap) g.taps[i * kTaps + tap] = sum.taps[(i / kLanes * kTaps + tap) * kLanes + i % kLanes];
  }
  const int first_j = static_cast<int>(part.begin(d / kLanes)) * kLanes, last_j = static_cast<int>(part.end(d / kLanes)) * kLanes;
  for (int j = first_j; j < last_j; ++j) {
    g.expand_bias[j] = sum.expand_bias[j];
    g.gamma[j] = sum.gamma[j];
    g.beta[j] = 0.0F;
  }
  // Σ over places of h·s + β: β's part is d project_bias · β.
  for (int i = 0; i < c; ++i) {
    const vec bias = all(sum.project_bias[i]);
    for (int j = first_j; j < last_j; j += kLanes) {
      const int64_t at = static_cast<int64_t>(i) * d + j;
      store(g.project + at, fma(bias, load(w.beta + j), load(sum.project + at)));
      store(g.beta + j, fma(bias, as<T>(load(w.project + at)), load(g.beta + j)));
    }
  }
  // expanded = normalized · (W diag g)ᵀ + W b + bias, seen from W, g and b.
  for (int64_t block = part.begin(vectors(c)); block < part.end(vectors(c)); ++block) {
    const int i = static_cast<int>(block) * kLanes;
    const mask within = first(c - i);
    const vec weight = load(w.norm_weight + i, within), bias = load(w.norm_bias + i, within);
    vec d_weight = zero(), d_bias = zero();
    for (int j = 0; j < d; j += kLanes) {
      vec tile[kLanes];
#pragma GCC unroll 16
      for (int k = 0; k < kLanes; ++k) tile[k] = i + k < c ? load(sum.expand + static_cast<int64_t>(i + k) * d + j) : zero();
      transpose(tile);
#pragma GCC unroll 16
      for (int k = 0; k < kLanes; ++k) {
        const int64_t at = static_cast<int64_t>(j + k) * c + i;
        const vec expand = as<T>(load(w.expand + at, within)), d_offset = all(sum.expand_bias[j + k]);
        d_weight = fma(expand, tile[k], d_weight);
        d_bias = fma(expand, d_offset, d_bias);
        store(g.expand + at, fma(tile[k], weight, mul(d_offset, bias)), within);
      }
    }
    store(g.norm_weight + i, d_weight, within);
    store(g.norm_bias + i, d_bias, within);
  }
}

template <class T>
static int64_t prepared_size(const BlockShape& s, bool backward) { return Prepared<T>(s, backward, nullptr).size; }
template <class T>
static int64_t scratch_size(const BlockShape& s, int64_t images, bool backward) {
  return Scratch<T>(s, images, backward, nullptr).size;
}
template <class T>
static int64_t zeroed_size(const BlockShape& s, bool backward) { return Scratch<T>(s, 1, backward, nullptr).zeroed; }
template <class T>
static int64_t operands_size(const BlockShape& s, int64_t images) { return Operands<T>(s, images, nullptr).size; }
static int64_t sums_size(const BlockShape& s) { return Sums(s, nullptr).size; }
static int64_t group_sums_size(const BlockShape& s) { return Sums(s, nullptr).of_group; }

template <class T>
constexpr BlockKernel kernel_of() {
  return {prepared_size<T>, scratch_size<T>, zeroed_size<T>,  operands_size<T>, sums_size, group_sums_size,
          prepare<T>,       forward<T>,      backward<T>,     add_products<T>,  finish<T>};
}

}  // namespace mae::MAE_TARGET
