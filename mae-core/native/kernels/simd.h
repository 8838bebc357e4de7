// Vectors of floats and of words for the target that this file is compiled for, AVX-512 or AVX2, and what is written over
// them alone. Included by the one source file of a target: everything here is inlined, or local to the target's namespace.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define MAE_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
#define MAE_TARGET avx512
#else
#define MAE_TARGET avx2
#endif

namespace mae::MAE_TARGET {

using bf16 = uint16_t;
// Four bytes as an operand of a product: a float, or two bf16 that are neighbours along the summed dimension.
typedef uint32_t word __attribute__((may_alias, aligned(2)));

// Numbers of type T in a word.
template <class T>
constexpr int kPerWord = sizeof(T) == 2 ? 2 : 1;

}  // namespace mae::MAE_TARGET

#if defined(__AVX512F__)
#include "simd_avx512.h"
#else
#include "simd_avx2.h"
#endif

namespace mae::MAE_TARGET {

template <class T>
MAE_INLINE float as(float value) {
  return total(only(first(1), as<T>(all(value))));
}

// Vectors that hold so many columns.
constexpr int vectors(int columns) { return (columns + kLanes - 1) / kLanes; }

// exp of z <= 0: 2ⁿ·p(r), p of degree 7 on |r| <= ln 2 / 2.
MAE_INLINE vec exp_of_negative(vec z) {
  z = larger(all(-87.0F), z);  // in this order a NaN stays
  const vec n = rounded(mul(z, all(1.44269504F)));
  vec r = fnma(n, all(0.693359375F), z);
  r = fnma(n, all(-2.12194440e-4F), r);
  vec p = all(1.9875691500e-4F);
  p = fma(p, r, all(1.3981999507e-3F));
  p = fma(p, r, all(8.3334519073e-3F));
  p = fma(p, r, all(4.1665795894e-2F));
  p = fma(p, r, all(1.6666665459e-1F));
  p = fma(p, r, all(5.0000001201e-1F));
  p = fma(mul(p, r), r, add(r, all(1.0F)));
  return times_power_of_two(p, n);
}

// GELU and its slope from tail = 1 − Φ(|u|) and e = exp(−u²/2): Φ mirrors at zero.
MAE_INLINE void gelu_from_tail(vec u, vec tail, vec e, vec& value, vec& slope) {
  const vec phi = where_negative(u, tail, sub(all(1.0F), tail));
  value = mul(u, phi);
  slope = fma(mul(u, e), all(0.3989422804F), phi);
}

// erf GELU for float: Abramowitz and Stegun 7.1.26, Φ to 1e-7; one exponential gives value and slope.
MAE_INLINE void gelu(const float*, vec u, vec& value, vec& slope) {
  const vec t = reciprocal(fma(mul(absolute(u), all(0.70710678F)), all(0.3275911F), all(1.0F)));
  const vec e = exp_of_negative(mul(mul(u, u), all(-0.5F)));
  vec p = all(0.5F * 1.061405429F);
  p = fma(p, t, all(-0.5F * 1.453152027F));
  p = fma(p, t, all(0.5F * 1.421413741F));
  p = fma(p, t, all(-0.5F * 0.284496736F));
  p = fma(p, t, all(0.5F * 0.254829592F));
  gelu_from_tail(u, mul(mul(p, t), e), e, value, slope);
}

// For bf16: Abramowitz and Stegun 7.1.25 (2.5e-5) with a cubic for 2ᶠ (1e-4), which bf16's rounding hides.
MAE_INLINE void gelu(const bf16*, vec u, vec& value, vec& slope) {
  const vec t = rough_reciprocal(fma(absolute(u), all(0.47047F * 0.70710678F), all(1.0F)));
  const vec z = larger(all(-120.0F), mul(mul(u, u), all(-0.5F * 1.44269504F)));
  const vec n = rounded(z), f = sub(z, n);
  vec p = all(0.0555041F);
  p = fma(p, f, all(0.2402265F));
  p = fma(p, f, all(0.6931472F));
  p = fma(p, f, all(1.0F));
  const vec e = times_power_of_two(p, n);
  vec q = fma(all(0.5F * 0.7478556F), t, all(-0.5F * 0.0958798F));
  q = fma(q, t, all(0.5F * 0.3480242F));
  gelu_from_tail(u, mul(mul(q, t), e), e, value, slope);
}

}  // namespace mae::MAE_TARGET
