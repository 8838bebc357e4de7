//! The two passes of the resize with AVX2, chosen at run time.
//!
//! A coefficient is split as `high * 65536 + low`, two signed 16-bit halves, so that one instruction multiplies and
//! adds two taps. Sums are modulo 2³², as in Pillow, so the order of additions does not matter and the results are
//! those of the portable code, bit for bit.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_loadu_si128, _mm_packs_epi32, _mm_packus_epi16,
    _mm_set1_epi32, _mm_srai_epi32, _mm256_add_epi32, _mm256_broadcastsi128_si256, _mm256_castsi256_si128,
    _mm256_extracti128_si256, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_packs_epi32, _mm256_packus_epi16,
    _mm256_set1_epi32, _mm256_setr_epi8, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi32,
    _mm256_srai_epi32, _mm256_storeu_si256, _mm256_unpackhi_epi8, _mm256_unpacklo_epi8,
};

use super::rows::{Rows, Taps};

/// Memory that is used again.
#[derive(Default)]
pub(crate) struct Scratch {
    packed: Vec<i16>,
    padded: Vec<u8>,
    pairs: Vec<[i32; 2]>,
}

/// Whether the processor has AVX2.
pub(crate) fn is_available() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
}

/// One output row a row, `taps.positions.len()` pixels wide. `BITS` is the number of fractional bits of a coefficient.
///
/// # Panics
/// When AVX2 is missing or the sizes do not fit each other.
pub(crate) fn horizontal<const BITS: i32>(
    rows: Rows<'_>,
    taps: Taps<'_>,
    scratch: &mut Scratch,
    out: &mut [u8],
) {
    let width = taps.positions.len();
    assert!(is_available() && is_sound(rows) && out.len() == width * rows.height * 3);
    assert!(taps.positions.iter().all(|&(low, n)| n <= taps.each && low + n <= rows.width));
    assert!(taps.values.len() == width * taps.each);
    // A position has groups of four coefficients: 16 high halves ([k0 k1] × 4, [k2 k3] × 4), then 16 low ones.
    let groups = taps.each.div_ceil(4);
    scratch.packed.clear();
    scratch.packed.resize(width * groups * 32, 0);
    for (x, &(_, n)) in taps.positions.iter().enumerate() {
        for (i, &value) in taps.values[x * taps.each..][..n].iter().enumerate() {
            let (high, low) = split(value);
            let first = (x * groups + i / 4) * 32 + (i % 4 / 2) * 8 + i % 2;
            for repeat in 0..4 {
                scratch.packed[first + repeat * 2] = high;
                scratch.packed[first + 16 + repeat * 2] = low;
            }
        }
    }
    // A group reads 16 bytes and begins at most at the row's last pixel.
    let reach = rows.width * 3 + 13;
    for y in (0..rows.height).step_by(4) {
        let n = (rows.height - y).min(4);
        let start = y * rows.stride;
        let (base, stride) = if start + (n - 1) * rows.stride + reach <= rows.data.len() {
            (&rows.data[start..], rows.stride)
        } else {
            scratch.padded.clear();
            scratch.padded.resize(4 * reach, 0);
            for (i, padded) in scratch.padded.chunks_exact_mut(reach).enumerate().take(n) {
                padded[..rows.width * 3]
                    .copy_from_slice(&rows.data[start + i * rows.stride..][..rows.width * 3]);
            }
            (&scratch.padded[..], reach)
        };
        let out = &mut out[y * width * 3..][..n * width * 3];
        let packed = &scratch.packed;
        // SAFETY: AVX2 is there. `base` holds `n` rows with `reach` readable bytes each, `packed` holds `groups * 32`
        // values a position, `out` holds `n` rows of `width` pixels, and the positions were checked above.
        unsafe {
            match n {
                4 => horizontal_rows::<4, BITS>(base, stride, taps.positions, groups, packed, out),
                3 => horizontal_rows::<3, BITS>(base, stride, taps.positions, groups, packed, out),
                2 => horizontal_rows::<2, BITS>(base, stride, taps.positions, groups, packed, out),
                _ => horizontal_rows::<1, BITS>(base, stride, taps.positions, groups, packed, out),
            }
        }
    }
}

/// Output rows as wide as the input, one a position of `taps`. `BITS` as in [`horizontal`].
///
/// # Panics
/// When AVX2 is missing or the sizes do not fit each other.
pub(crate) fn vertical<const BITS: i32>(
    rows: Rows<'_>,
    taps: Taps<'_>,
    scratch: &mut Scratch,
    out: &mut [u8],
) {
    let length = rows.width * 3;
    assert!(is_available() && is_sound(rows) && out.len() == taps.positions.len() * length);
    assert!(taps.positions.iter().all(|&(low, n)| n <= taps.each && low + n <= rows.height));
    assert!(taps.values.len() == taps.positions.len() * taps.each);
    let word = |a: i16, b: i16| i32::from(a) & 0xffff | i32::from(b) << 16;
    for ((&(low, n), values), out) in
        taps.positions.iter().zip(taps.values.chunks_exact(taps.each)).zip(out.chunks_exact_mut(length))
    {
        scratch.pairs.clear();
        scratch.pairs.extend(values[..n].chunks(2).map(|pair| {
            let (first, second) = (split(pair[0]), split(pair.get(1).copied().unwrap_or(0)));
            [word(first.0, second.0), word(first.1, second.1)]
        }));
        // SAFETY: AVX2 is there; the `n` rows from `low` on lie inside the data and have `length` bytes, as `out` has.
        let done = unsafe { vertical_row::<BITS>(rows, low, n, &scratch.pairs, out) };
        for (i, out) in out.iter_mut().enumerate().skip(done) {
            let sum = values[..n].iter().enumerate().fold(1i32 << (BITS - 1), |sum, (y, &value)| {
                sum.wrapping_add(i32::from(rows.data[(low + y) * rows.stride + i]).wrapping_mul(value))
            });
            *out = (sum >> BITS).clamp(0, 255) as u8;
        }
    }
}

/// Whether every pixel lies inside the data.
fn is_sound(rows: Rows<'_>) -> bool {
    rows.height == 0
        || (rows.stride >= rows.width * 3
            && (rows.height - 1)
                .checked_mul(rows.stride)
                .and_then(|last| last.checked_add(rows.width * 3))
                .is_some_and(|end| end <= rows.data.len()))
}

/// `value` as `high * 65536 + low`.
fn split(value: i32) -> (i16, i16) {
    let low = value as i16;
    ((value.wrapping_sub(i32::from(low)) >> 16) as i16, low)
}

/// # Safety
/// AVX2 is there. For each of `N` rows, `stride` apart in `base`, the bytes from `3 * low` on that the groups of each
/// position cover can be read; `packed` holds `groups * 32` values a position; `out` holds `N` rows of
/// `positions.len()` pixels.
#[target_feature(enable = "avx2")]
unsafe fn horizontal_rows<const N: usize, const BITS: i32>(
    base: &[u8],
    stride: usize,
    positions: &[(usize, usize)],
    groups: usize,
    packed: &[i16],
    out: &mut [u8],
) {
    // Pixels 0 and 1 in the lower half, 2 and 3 in the upper one, as 16-bit pairs: r0 r1 g0 g1 b0 b1 and nothing.
    let pairs = _mm256_setr_epi8(
        0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, 6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1,
        -1, -1, -1, -1,
    );
    let half = _mm_set1_epi32(1 << (BITS - 1));
    let width = positions.len();
    for (x, &(low, n)) in positions.iter().enumerate() {
        let mut high_sums = [_mm256_setzero_si256(); N];
        let mut low_sums = [_mm256_setzero_si256(); N];
        for group in 0..n.div_ceil(4) {
            let at = (x * groups + group) * 32;
            // SAFETY: the caller's promise about `packed`.
            let (high, low_half) = unsafe {
                let at = packed.as_ptr().add(at);
                (_mm256_loadu_si256(at.cast::<__m256i>()), _mm256_loadu_si256(at.add(16).cast::<__m256i>()))
            };
            for row in 0..N {
                // SAFETY: the caller's promise about `base`.
                let pixels = unsafe {
                    _mm_loadu_si128(base.as_ptr().add(row * stride + (low + group * 4) * 3).cast::<__m128i>())
                };
                let pixels = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(pixels), pairs);
                high_sums[row] = _mm256_add_epi32(high_sums[row], _mm256_madd_epi16(pixels, high));
                low_sums[row] = _mm256_add_epi32(low_sums[row], _mm256_madd_epi16(pixels, low_half));
            }
        }
        for row in 0..N {
            let sum = _mm256_add_epi32(_mm256_slli_epi32(high_sums[row], 16), low_sums[row]);
            let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
            let value = _mm_srai_epi32(_mm_add_epi32(sum, half), BITS);
            let value = _mm_packus_epi16(_mm_packs_epi32(value, value), value);
            let [red, green, blue, _] = _mm_cvtsi128_si32(value).to_le_bytes();
            out[(row * width + x) * 3..][..3].copy_from_slice(&[red, green, blue]);
        }
    }
}

/// One output row from the rows `low..low + n`; returns how many bytes, from the left, it has written.
///
/// # Safety
/// AVX2 is there. The rows lie inside the data and have at least as many bytes as `out`; `pairs` holds a pair of
/// coefficients for each two rows.
#[target_feature(enable = "avx2")]
unsafe fn vertical_row<const BITS: i32>(
    rows: Rows<'_>,
    low: usize,
    n: usize,
    pairs: &[[i32; 2]],
    out: &mut [u8],
) -> usize {
    let zero = _mm256_setzero_si256();
    let half = _mm256_set1_epi32(1 << (BITS - 1));
    let mut at = 0;
    while at + 32 <= out.len() {
        let (mut high_sums, mut low_sums) = ([zero; 4], [zero; 4]);
        for (i, &[high, low_half]) in pairs.iter().enumerate() {
            let (high, low_half) = (_mm256_set1_epi32(high), _mm256_set1_epi32(low_half));
            // SAFETY: the caller's promise about the rows; `at + 32` is within a row.
            let load = |y: usize| unsafe {
                _mm256_loadu_si256(rows.data.as_ptr().add((low + y) * rows.stride + at).cast::<__m256i>())
            };
            let first = load(2 * i);
            let second = if 2 * i + 1 < n { load(2 * i + 1) } else { zero };
            let (left, right) = (_mm256_unpacklo_epi8(first, second), _mm256_unpackhi_epi8(first, second));
            let quarters = [
                _mm256_unpacklo_epi8(left, zero),
                _mm256_unpackhi_epi8(left, zero),
                _mm256_unpacklo_epi8(right, zero),
                _mm256_unpackhi_epi8(right, zero),
            ];
            for k in 0..4 {
                high_sums[k] = _mm256_add_epi32(high_sums[k], _mm256_madd_epi16(quarters[k], high));
                low_sums[k] = _mm256_add_epi32(low_sums[k], _mm256_madd_epi16(quarters[k], low_half));
            }
        }
        let mut values = [zero; 4];
        for k in 0..4 {
            let sum = _mm256_add_epi32(_mm256_slli_epi32(high_sums[k], 16), low_sums[k]);
            values[k] = _mm256_srai_epi32(_mm256_add_epi32(sum, half), BITS);
        }
        let bytes = _mm256_packus_epi16(
            _mm256_packs_epi32(values[0], values[1]),
            _mm256_packs_epi32(values[2], values[3]),
        );
        // SAFETY: `at + 32` is within `out`.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(at).cast::<__m256i>(), bytes) };
        at += 32;
    }
    at
}
