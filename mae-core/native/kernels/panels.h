// Matrix products of words with fp32 sums, for one thread. The right operand [K][N] is packed into panels of a few
// vectors, [K][width] each; the left one is read in place; what becomes of a tile of sums is the caller's epilogue.
#pragma once

#include "simd.h"

namespace mae::MAE_TARGET {

// Words of a packed operand of `depth` words by `columns`.
constexpr int64_t panel_words(int64_t depth, int columns) { return depth * vectors(columns) * kLanes; }

// A share of some work: part `index` of `count`.
struct Part {
  int64_t index = 0, count = 1;

  int64_t begin(int64_t items) const { return items * index / count; }
  int64_t end(int64_t items) const { return items * (index + 1) / count; }
};

// Calls body(first column, vectors) for every panel of a part: as equal in width as can be.
template <class Body>
MAE_INLINE void for_panels(int columns, Body body, Part part = {}) {
  const int all_vectors = vectors(columns), panels = (all_vectors + kWidest - 1) / kWidest;
  int done = 0;
  for (int i = 0; i < panels; ++i) {
    const int width = (all_vectors - done + panels - i - 1) / (panels - i);
    if (i >= part.begin(panels) && i < part.end(panels)) body(done * kLanes, width);
    done += width;
  }
}

// The left operand: element (row, k) is at `words[row·row_step + k·k_step]`.
struct Left {
  const word* words;
  int64_t row_step, k_step;
};

// One panel, `Rows` rows of it at a time. The epilogue is called as f(row, column, sums of a vector of columns).
template <class T, int Rows, int Width, class Epilogue>
static __attribute__((noinline)) void multiply_panel(int rows, int64_t depth, Left a, const word* panel, int column,
                                                     Epilogue& epilogue) {
  for (int row = 0; row < rows; row += Rows) {
    const word* at[Rows];
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) at[i] = a.words + (row + i < rows ? row + i : rows - 1) * a.row_step;
    vec sum[Rows][Width];
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < Width; ++v) sum[i][v] = zero();
    }
    const word* b = panel;
    int64_t step = 0;
    for (int64_t k = 0; k < depth; ++k, b += kLanes * Width, step += a.k_step) {
      word_vec right[Width];
#pragma GCC unroll 4
      for (int v = 0; v < Width; ++v) right[v] = load_words(b + kLanes * v);
#pragma GCC unroll 16
      for (int i = 0; i < Rows; ++i) {
        const word_vec left = broadcast(at[i][step]);
#pragma GCC unroll 4
        for (int v = 0; v < Width; ++v) sum[i][v] = add_products<T>(sum[i][v], left, right[v]);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      if (row + i >= rows) break;
#pragma GCC unroll 4
      for (int v = 0; v < Width; ++v) epilogue(row + i, column + kLanes * v, sum[i][v]);
    }
  }
}

template <class T, class Epilogue>
MAE_INLINE void multiply_panel_of(int width, int rows, int64_t depth, Left a, const word* panel, int column,
                                  Epilogue& epilogue) {
  if constexpr (kWidest == 4) {
    if (width == 4) return multiply_panel<T, tile_rows(4), 4>(rows, depth, a, panel, column, epilogue);
    if (width == 3) return multiply_panel<T, tile_rows(3), 3>(rows, depth, a, panel, column, epilogue);
  }
  if (width == 2) return multiply_panel<T, tile_rows(2), 2>(rows, depth, a, panel, column, epilogue);
  multiply_panel<T, tile_rows(1), 1>(rows, depth, a, panel, column, epilogue);
}

// A [rows][depth] · packed [depth][columns].
template <class T, class Epilogue>
static void multiply(int rows, int columns, int64_t depth, Left a, const word* packed, Epilogue epilogue) {
  for_panels(columns, [&](int column, int width) __attribute__((always_inline)) {
    multiply_panel_of<T>(width, rows, depth, a, packed + depth * column, column, epilogue);
  });
}

// sum [m][columns] += Aᵀ B over `depth` words of rows: A as words [depth][m], B packed; sum = Aᵀ B if `overwrite`. Partial
// sums of at most 512 words are added up: long sums of single terms would round more.
template <class T>
static void add_transposed_product(int m, int columns, int64_t depth, const word* a, const word* packed, bool overwrite,
                                   float* sum, Part part = {}) {
  constexpr int64_t kBlock = 512;
  for (int64_t k = 0; k < depth; k += kBlock) {
    const int64_t size = depth - k < kBlock ? depth - k : kBlock;
    for_panels(columns, [&](int column, int width) __attribute__((always_inline)) {
      auto accumulate = [=](int row, int j, vec value) __attribute__((always_inline)) {
        float* to = sum + static_cast<int64_t>(row) * columns + j;
        const mask within = first(columns - j);
        store(to, overwrite && k == 0 ? value : add(value, load(to, within)), within);
      };
      const word* panel = packed + depth * column + k * width * kLanes;
      multiply_panel_of<T>(width, m, size, Left{a + k * m, 1, m}, panel, column, accumulate);
    }, part);
  }
}

// Packs a weight as the right operand: `from` is [depth][columns], or [columns][depth] if Transposed (columns then a
// multiple of 16); numbers are rounded to T, then multiplied by by_row[k] or by_column[column] where given.
template <class T, bool Transposed>
static void pack_weight(Part part, word* to, int depth, int columns, const float* from, const float* by_row,
                        const float* by_column) {
  const int words = depth / kPerWord<T>;
  for_panels(columns, [&](int column, int width) __attribute__((always_inline)) {
    for (int v = 0; v < width; ++v) {
      const int j = column + kLanes * v;
      const mask m = first(columns - j);
      const vec factor = by_column ? load(by_column + j, m) : all(1.0F);
      word* panel = to + static_cast<int64_t>(words) * column + kLanes * v;
      for (int k = 0; k < depth; k += kLanes) {
        const int count = depth - k < kLanes ? depth - k : kLanes;
        vec r[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
          r[i] = zero();
          if constexpr (Transposed) {
            if (j + i < columns) r[i] = load(from + static_cast<int64_t>(j + i) * depth + k, first(count));
          } else {
            if (i < count) r[i] = load(from + static_cast<int64_t>(k + i) * columns + j, m);
          }
        }
        if constexpr (Transposed) transpose(r);
        for (int i = 0; i < count; ++i) {
          r[i] = mul(as<T>(r[i]), by_row ? mul(factor, all(by_row[k + i])) : factor);
        }
        for (int i = 0; i < count; i += kPerWord<T>) {
          word* at = panel + static_cast<int64_t>(k + i) / kPerWord<T> * width * kLanes;
          store_words(at, words_of<T>(r[i], r[i + kPerWord<T> - 1]));
        }
      }
    }
  }, part);
}

// to = packed, every number multiplied by factors(k, column) of its two words' parts.
template <class T, class Factors>
static void scale_packed(word* to, const word* packed, int depth, int columns, Factors factors) {
  const int words = depth / kPerWord<T>;
  for_panels(columns, [&](int column, int width) __attribute__((always_inline)) {
    for (int k = 0; k < words; ++k) {
      for (int v = 0; v < width; ++v) {
        const int64_t at = static_cast<int64_t>(words) * column + (static_cast<int64_t>(k) * width + v) * kLanes;
        const int j = column + kLanes * v;
        const word_vec value = load_words(packed + at);
        constexpr int last = kPerWord<T> - 1;
        const vec first = mul(number<T>(value, 0), factors(kPerWord<T> * k, j));
        store_words(to + at, words_of<T>(first, mul(number<T>(value, last), factors(kPerWord<T> * k + last, j))));
      }
    }
  });
}

// Words of so many rows.
template <class T>
constexpr int64_t words_of_rows(int64_t rows) {
  return (rows + kPerWord<T> - 1) / kPerWord<T>;
}

// Packs rows that `row(i, column)` computes, [rows][columns], as the right operand of a sum over rows: the words from
// `first_word` of `words`. Rows outside, panels inside: the source then streams through the cache.
template <class T, class Row>
static void pack_rows(word* to, int64_t words, int64_t first_word, int rows, int columns, Row row) {
  for (int64_t k = 0; k < words_of_rows<T>(rows); ++k) {
    for_panels(columns, [&](int column, int width) __attribute__((always_inline)) {
      word* at = to + words * column + (first_word + k) * width * kLanes;
      for (int v = 0; v < width; ++v, at += kLanes) {
        const int j = column + kLanes * v;
        const int64_t one = kPerWord<T> * k, other = one + kPerWord<T> - 1;
        const vec value = row(one, j);
        store_words(at, words_of<T>(value, other > one && other < rows ? row(other, j) : zero()));
      }
    });
  }
}

// Number (row, column + 0..15) of what pack_rows packed; `panel` is the one that holds the column, its vector `v`.
template <class T>
MAE_INLINE vec packed_row(const word* panel, int width, int row, int v) {
  return number<T>(load_words(panel + (static_cast<int64_t>(row / kPerWord<T>) * width + v) * kLanes), row % kPerWord<T>);
}

// Rows [rows][columns] as the left operand of a sum over rows: as they are in fp32, in pairs in bf16.
template <class T>
static void pair_rows(word* to, int rows, int columns, const T* from) {
  for (int64_t i = 0; i < rows; i += kPerWord<T>) {
    const int64_t other = i + kPerWord<T> - 1;
    for (int j = 0; j < columns; j += kLanes) {
      const mask m = first(columns - j);
      const vec odd = other > i && other < rows ? load(from + other * columns + j, m) : zero();
      store_words(to + i / kPerWord<T> * columns + j, words_of<T>(load(from + i * columns + j, m), odd), m);
    }
  }
}

// sum [columns] += the rows of [rows][columns], in partial sums of 64 rows.
template <class T>
static void add_column_sums(int64_t rows, int columns, const T* from, float* sum) {
  for (int64_t i = 0; i < rows; i += 64) {
    const int64_t end = i + 64 < rows ? i + 64 : rows;
    for (int j = 0; j < columns; j += kLanes) {
      const mask m = first(columns - j);
      vec part = zero();
      for (int64_t r = i; r < end; ++r) part = add(part, load(from + r * columns + j, m));
      store(sum + j, add(load(sum + j, m), part), m);
    }
  }
}

}  // namespace mae::MAE_TARGET
