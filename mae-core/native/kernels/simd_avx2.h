// AVX2 with FMA: eight lanes, floats only.
#pragma once

namespace mae::avx2 {

using vec = __m256;
using word_vec = __m256i;
using mask = __m256i;

constexpr int kLanes = 8;
// Tiles of sums that the 16 registers hold: vectors of the widest, and rows for each width.
constexpr int kWidest = 2;
constexpr int tile_rows(int width) { return width == 2 ? 6 : 12; }

// The first `count` lanes; all of them from 8 on.
MAE_INLINE mask first(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

MAE_INLINE vec zero() { return _mm256_setzero_ps(); }
MAE_INLINE vec all(float value) { return _mm256_set1_ps(value); }
MAE_INLINE vec add(vec a, vec b) { return _mm256_add_ps(a, b); }
MAE_INLINE vec sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
MAE_INLINE vec mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
MAE_INLINE vec fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
MAE_INLINE vec fnma(vec a, vec b, vec c) { return _mm256_fnmadd_ps(a, b, c); }
// `b` where one is NaN.
MAE_INLINE vec larger(vec a, vec b) { return _mm256_max_ps(a, b); }
MAE_INLINE vec absolute(vec a) { return _mm256_andnot_ps(all(-0.0F), a); }
MAE_INLINE vec rounded(vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// For -126 <= n <= 127.
MAE_INLINE vec times_power_of_two(vec a, vec n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return mul(a, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
MAE_INLINE vec rough_reciprocal(vec a) { return _mm256_rcp_ps(a); }
MAE_INLINE vec reciprocal(vec a) { return _mm256_div_ps(all(1.0F), a); }
MAE_INLINE float total(vec a) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}
MAE_INLINE vec only(mask m, vec a) { return _mm256_and_ps(_mm256_castsi256_ps(m), a); }
MAE_INLINE vec where_negative(vec a, vec negative, vec rest) {
  return _mm256_blendv_ps(rest, negative, _mm256_cmp_ps(a, zero(), _CMP_LT_OQ));
}

MAE_INLINE vec load(const float* from) { return _mm256_loadu_ps(from); }
MAE_INLINE vec load(const float* from, mask m) { return _mm256_maskload_ps(from, m); }
MAE_INLINE void store(float* to, vec value) { _mm256_storeu_ps(to, value); }
MAE_INLINE void store(float* to, vec value, mask m) { _mm256_maskstore_ps(to, m, value); }

MAE_INLINE word_vec load_words(const word* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
MAE_INLINE void store_words(word* to, word_vec words) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), words); }
MAE_INLINE void store_words(word* to, word_vec words, mask m) {
  _mm256_maskstore_epi32(reinterpret_cast<int*>(to), m, words);
}
MAE_INLINE word_vec broadcast(word value) { return _mm256_set1_epi32(static_cast<int>(value)); }

// A row as words, and back: with floats there is no second row.
template <class T>
MAE_INLINE word_vec words_of(vec one, vec) {
  return _mm256_castps_si256(one);
}
template <class T>
MAE_INLINE vec number(word_vec words, int) {
  return _mm256_castsi256_ps(words);
}
template <class T>
MAE_INLINE vec as(vec value) {
  return value;
}
template <class T>
MAE_INLINE vec add_products(vec sum, word_vec a, word_vec b) {
  return fma(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), sum);
}

// 8×8 transposition in registers.
MAE_INLINE void transpose(vec (&r)[8]) {
  vec t[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m256d a = (__m256d)t[4 * i], b = (__m256d)t[4 * i + 1], c = (__m256d)t[4 * i + 2], d = (__m256d)t[4 * i + 3];
    r[4 * i] = (vec)_mm256_unpacklo_pd(a, c);
    r[4 * i + 1] = (vec)_mm256_unpackhi_pd(a, c);
    r[4 * i + 2] = (vec)_mm256_unpacklo_pd(b, d);
    r[4 * i + 3] = (vec)_mm256_unpackhi_pd(b, d);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
    t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) r[i] = t[i];
}

}  // namespace mae::avx2
