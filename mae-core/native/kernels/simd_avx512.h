// AVX-512: sixteen lanes, and products of bf16 where the CPU has them.
#pragma once

namespace mae::avx512 {

using vec = __m512;
using word_vec = __m512i;
using mask = __mmask16;

constexpr int kLanes = 16;
// Tiles of sums that the 32 registers hold: vectors of the widest, and rows for each width.
constexpr int kWidest = 4;
constexpr int tile_rows(int width) { return width == 4 ? 6 : width == 3 ? 8 : 12; }

// The first `count` lanes; all of them from 16 on.
MAE_INLINE mask first(int count) { return count >= kLanes ? mask(0xffff) : mask((1U << count) - 1); }

MAE_INLINE vec zero() { return _mm512_setzero_ps(); }
MAE_INLINE vec all(float value) { return _mm512_set1_ps(value); }
MAE_INLINE vec add(vec a, vec b) { return _mm512_add_ps(a, b); }
MAE_INLINE vec sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
MAE_INLINE vec mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
MAE_INLINE vec fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
MAE_INLINE vec fnma(vec a, vec b, vec c) { return _mm512_fnmadd_ps(a, b, c); }
// `b` where one is NaN.
MAE_INLINE vec larger(vec a, vec b) { return _mm512_max_ps(a, b); }
MAE_INLINE vec absolute(vec a) { return _mm512_abs_ps(a); }
MAE_INLINE vec rounded(vec a) { return _mm512_roundscale_ps(a, 8); }
MAE_INLINE vec times_power_of_two(vec a, vec n) { return _mm512_scalef_ps(a, n); }
MAE_INLINE vec rough_reciprocal(vec a) { return _mm512_rcp14_ps(a); }
MAE_INLINE vec reciprocal(vec a) {
  const vec t = _mm512_rcp14_ps(a);
  return mul(t, fnma(a, t, all(2.0F)));
}
MAE_INLINE float total(vec a) { return _mm512_reduce_add_ps(a); }
MAE_INLINE vec only(mask m, vec a) { return _mm512_maskz_mov_ps(m, a); }
MAE_INLINE vec where_negative(vec a, vec negative, vec rest) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, zero(), _CMP_LT_OQ), rest, negative);
}

MAE_INLINE vec load(const float* from) { return _mm512_loadu_ps(from); }
MAE_INLINE vec load(const float* from, mask m) { return _mm512_maskz_loadu_ps(m, from); }
MAE_INLINE vec widen(__m256i value) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(value), 16)); }
MAE_INLINE vec load(const bf16* from) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))); }
MAE_INLINE vec load(const bf16* from, mask m) { return widen(_mm256_maskz_loadu_epi16(m, from)); }
MAE_INLINE void store(float* to, vec value) { _mm512_storeu_ps(to, value); }
MAE_INLINE void store(float* to, vec value, mask m) { _mm512_mask_storeu_ps(to, m, value); }

MAE_INLINE word_vec load_words(const word* from) { return _mm512_loadu_si512(from); }
MAE_INLINE void store_words(word* to, word_vec words) { _mm512_storeu_si512(to, words); }
MAE_INLINE void store_words(word* to, word_vec words, mask m) { _mm512_mask_storeu_epi32(to, m, words); }
MAE_INLINE word_vec broadcast(word value) { return _mm512_set1_epi32(static_cast<int>(value)); }

// Two rows as words: lane j holds number j of both. In fp32 a word is a number, and there is no second.
template <class T>
MAE_INLINE word_vec words_of(vec one, vec other);
// The first (0) or second (1) row of words_of.
template <class T>
MAE_INLINE vec number(word_vec words, int which);
// The nearest numbers that T holds.
template <class T>
MAE_INLINE vec as(vec value);
// sum + the products of a word's numbers.
template <class T>
MAE_INLINE vec add_products(vec sum, word_vec a, word_vec b);

template <>
inline __attribute__((always_inline)) word_vec words_of<float>(vec one, vec) {
  return _mm512_castps_si512(one);
}
template <>
inline __attribute__((always_inline)) vec number<float>(word_vec words, int) {
  return _mm512_castsi512_ps(words);
}
template <>
inline __attribute__((always_inline)) vec as<float>(vec value) {
  return value;
}
template <>
inline __attribute__((always_inline)) vec add_products<float>(vec sum, word_vec a, word_vec b) {
  return fma(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
}

#if defined(__AVX512BF16__)
MAE_INLINE __m256i narrow(vec value) { return (__m256i)_mm512_cvtneps_pbh(value); }
MAE_INLINE void store(bf16* to, vec value) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), narrow(value)); }
MAE_INLINE void store(bf16* to, vec value, mask m) { _mm256_mask_storeu_epi16(to, m, narrow(value)); }

template <>
inline __attribute__((always_inline)) word_vec words_of<bf16>(vec one, vec other) {
  const word_vec low = _mm512_cvtepu16_epi32(narrow(one));
  return _mm512_or_si512(low, _mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow(other)), 16));
}
template <>
inline __attribute__((always_inline)) vec number<bf16>(word_vec words, int which) {
  if (which == 0) return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
  return _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(0xffff0000U))));
}
template <>
inline __attribute__((always_inline)) vec as<bf16>(vec value) {
  return widen(narrow(value));
}
template <>
inline __attribute__((always_inline)) vec add_products<bf16>(vec sum, word_vec a, word_vec b) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}
#endif

// 16×16 transposition in registers.
MAE_INLINE void transpose(vec (&r)[16]) {
  vec t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512d a = (__m512d)t[4 * i], b = (__m512d)t[4 * i + 1], c = (__m512d)t[4 * i + 2], d = (__m512d)t[4 * i + 3];
    r[4 * i] = (vec)_mm512_unpacklo_pd(a, c);
    r[4 * i + 1] = (vec)_mm512_unpackhi_pd(a, c);
    r[4 * i + 2] = (vec)_mm512_unpacklo_pd(b, d);
    r[4 * i + 3] = (vec)_mm512_unpackhi_pd(b, d);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
  }
}

}  // namespace mae::avx512
