// Global response normalisation of one image, and its gradient: README.md derives them.
#pragma once

#include "simd.h"

namespace mae::MAE_TARGET {

MAE_INLINE float square_root(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }

// GRN of one image from its sums of squares: norms g, n = g / (mean g + 1e-6), s = 1 + γ n. Returns the divisor.
static float response(int d, const float* energy, const float* gamma, float* norm, float* n, float* s) {
  double mean = 0;
  for (int j = 0; j < d; ++j) {
    norm[j] = square_root(energy[j]);
    mean += norm[j];
  }
  const float divisor = static_cast<float>(mean / d) + 1e-6F;
  for (int j = 0; j < d; ++j) {
    n[j] = norm[j] / divisor;
    s[j] = 1.0F + gamma[j] * n[j];
  }
  return divisor;
}

// From a_j = Σ over places of d(scaled hidden)·hidden: γ's gradient, and the factor t of hidden in its own gradient
// s·d(scaled hidden) + t·hidden, which comes through the norms.
static void response_gradient(int d, float divisor, const float* gamma, const float* a, const float* norm,
                              const float* n, float* d_gamma, float* t) {
  double through_mean = 0;
  for (int j = 0; j < d; ++j) {
    d_gamma[j] += n[j] * a[j];
    through_mean += static_cast<double>(gamma[j]) * a[j] * norm[j];
  }
  const float common = static_cast<float>(through_mean / (static_cast<double>(divisor) * divisor * d));
  // A channel that is zero everywhere has a norm without a slope.
  for (int j = 0; j < d; ++j) t[j] = norm[j] > 0 ? (gamma[j] * a[j] / divisor - common) / norm[j] : 0.0F;
}

}  // namespace mae::MAE_TARGET
