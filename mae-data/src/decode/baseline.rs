//! A window of a baseline JPEG, without the work that the rest of the image would be.
//!
//! The entropy-coded data has no index, so it is read from its beginning to the window's last row; the inverse
//! transform, the interpolation of the colours and the conversion to RGB happen for the window alone. The pixels are
//! those of a whole decode. What is not plain – progressive, arithmetic, other samplings, anything damaged – is left
//! to the whole decode.

use std::ops::Range;

use libjpeg_turbo_rs::decode::bitstream::BitReader;
use libjpeg_turbo_rs::decode::entropy::{McuDecoder, resolve_mcu_plan};
use libjpeg_turbo_rs::decode::marker::JpegMetadata;
use libjpeg_turbo_rs::simd::{SimdRoutines, detect};

use super::RgbImage;
use crate::transform::resample::Window;

/// Memory that is used again from image to image: two rows of blocks of each component, and rows of colour.
pub(super) struct Scratch {
    planes: [Vec<u8>; 3],
    colors: [Vec<u8>; 2],
    sums: Vec<u16>,
    routines: SimdRoutines,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { planes: Default::default(), colors: Default::default(), sums: Vec::new(), routines: detect() }
    }
}

/// One component of an image, and which part of it is wanted.
struct Component<'a> {
    /// Blocks of one MCU in a row and in a column.
    blocks: (usize, usize),
    quant: &'a [u16; 64],
    /// Samples in a row and rows, without padding.
    width: usize,
    height: usize,
    /// Wanted blocks.
    columns: Range<usize>,
    rows: Range<usize>,
}

impl Component<'_> {
    fn stride(&self) -> usize {
        self.columns.len() * 8
    }

    /// The plane holds two rows of MCUs, the older of which is overwritten by the next.
    fn ring(&self) -> usize {
        self.blocks.1 * 16
    }

    /// The samples of a row that are there, from the first wanted column on.
    fn row<'p>(&self, plane: &'p [u8], y: usize) -> &'p [u8] {
        let first = self.columns.start * 8;
        let width = self.width.min(self.columns.end * 8) - first;
        &plane[y % self.ring() * self.stride()..][..width]
    }
}

/// How the colours of an image are sampled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sampling {
    Grey,
    /// As many colours as pixels.
    Full,
    /// Half in a row.
    HalfWidth,
    /// Half in a row and half in a column.
    Half,
}

/// Whether [`decode`] is for this kind of image.
pub(super) fn is_plain(metadata: &JpegMetadata) -> bool {
    sampling(metadata).is_some()
}

fn sampling(metadata: &JpegMetadata) -> Option<Sampling> {
    let (frame, scan) = (&metadata.frame, &metadata.scan);
    let plain = !frame.is_progressive
        && !frame.is_lossless
        && !metadata.is_arithmetic
        && frame.precision == 8
        && metadata.scans.len() <= 1
        && metadata.extraneous_bytes == 0
        && frame.width > 0
        && frame.height > 0
        && scan.components.len() == frame.components.len()
        && scan.components.iter().zip(&frame.components).all(|(s, f)| s.component_id == f.id);
    if !plain {
        return None;
    }
    let factors: Vec<_> =
        frame.components.iter().map(|c| (c.horizontal_sampling, c.vertical_sampling)).collect();
    let is_ycc = metadata.saw_jfif_marker_at_first_sos
        || metadata.adobe_transform_at_first_sos == Some(1)
        || metadata.adobe_transform_at_first_sos.is_none()
            && frame.components.iter().map(|c| c.id).eq([1, 2, 3]);
    match factors[..] {
        [_] => Some(Sampling::Grey),
        [(1, 1), (1, 1), (1, 1)] if is_ycc => Some(Sampling::Full),
        // Colours at most two samples wide are not interpolated.
        [(2, 1), (1, 1), (1, 1)] if is_ycc && frame.width > 4 => Some(Sampling::HalfWidth),
        [(2, 2), (1, 1), (1, 1)] if is_ycc && frame.width > 4 => Some(Sampling::Half),
        _ => None,
    }
}

/// Decodes a window, which lies inside the image, into `out`. `None` when the image is not plain or is damaged before
/// the window's end.
pub(super) fn decode(
    bytes: &[u8],
    metadata: &JpegMetadata,
    window: Window,
    scratch: &mut Scratch,
    out: &mut RgbImage,
) -> Option<()> {
    let sampling = sampling(metadata)?;
    let frame = &metadata.frame;
    let (width, height) = (frame.width(), frame.height());
    let components = components(metadata, sampling, window)?;
    let plan =
        resolve_mcu_plan(frame, &metadata.scan, &metadata.dc_huffman_tables, &metadata.ac_huffman_tables)
            .ok()?;
    if plan.len() != components.len() {
        return None;
    }
    let [mcu_width, mcu_height] = match sampling {
        Sampling::Grey | Sampling::Full => [8, 8],
        Sampling::HalfWidth => [16, 8],
        Sampling::Half => [16, 16],
    };
    let mcus_x = width.div_ceil(mcu_width);
    let mcu_rows = components.iter().map(|c| c.rows.end.div_ceil(c.blocks.1)).max()?;
    for (plane, component) in scratch.planes.iter_mut().zip(&components) {
        plane.resize(component.ring() * component.stride(), 0);
    }
    (out.width, out.height) = (window.width, window.height);
    out.data.resize(window.height * window.width * 3, 0);
    let mut rows = out.data.chunks_exact_mut(window.width * 3).zip(window.top..window.top + window.height);

    let mut reader = BitReader::new(bytes.get(metadata.entropy_data_offset..)?);
    let mut decoder = McuDecoder::new(components.len());
    let restart = usize::from(metadata.restart_interval);
    let (mut coefficients, mut block) = ([0i16; 64], [0u8; 64]);
    let mut until_restart = restart;
    let mut written = window.top;
    for mcu_y in 0..mcu_rows {
        for mcu_x in 0..mcus_x {
            if restart > 0 {
                if until_restart == 0 {
                    reader.reset();
                    decoder.reset();
                    until_restart = restart;
                }
                until_restart -= 1;
            }
            for ((component, plane), plan) in components.iter().zip(&mut scratch.planes).zip(&plan) {
                for y in (mcu_y * component.blocks.1..).take(component.blocks.1) {
                    for x in (mcu_x * component.blocks.0..).take(component.blocks.0) {
                        decoder
                            .decode_block(
                                &mut reader,
                                plan.comp_idx,
                                plan.dc_table,
                                plan.ac_table,
                                &mut coefficients,
                            )
                            .ok()?;
                        if component.columns.contains(&x) && component.rows.contains(&y) {
                            (scratch.routines.idct_islow)(&coefficients, component.quant, &mut block);
                            let stride = component.stride();
                            let corner =
                                y * 8 % component.ring() * stride + (x - component.columns.start) * 8;
                            for (row, samples) in block.as_chunks::<8>().0.iter().enumerate() {
                                plane[corner + row * stride..][..8].copy_from_slice(samples);
                            }
                        }
                    }
                }
            }
            if reader.insufficient_data() {
                return None;
            }
        }
        // Rows whose colours depend on the row of MCUs below wait for it.
        let complete = (mcu_y + 1) * mcu_height;
        let ready = match sampling {
            Sampling::Half if complete < height => complete - 2,
            _ => complete,
        };
        let count = ready.saturating_sub(written);
        for (out, y) in rows.by_ref().take(count) {
            write_row(sampling, &components, scratch, window, y, out);
        }
        written = written.max(ready);
    }
    rows.next().is_none().then_some(())
}

/// The components with the blocks that a window needs.
fn components<'a>(
    metadata: &'a JpegMetadata,
    sampling: Sampling,
    window: Window,
) -> Option<Vec<Component<'a>>> {
    let frame = &metadata.frame;
    let component = |i: usize, blocks, (share_x, share_y): (usize, usize)| {
        let (width, height) = (frame.width().div_ceil(share_x), frame.height().div_ceil(share_y));
        // Interpolation looks one sample further; a second one keeps what is interpolated at least three wide.
        let margin = |share: usize, samples: usize| if share == 1 { 0 } else { samples };
        let wanted = |start: usize, length: usize, share: usize, size: usize| {
            let first = (start / share).saturating_sub(margin(share, 2));
            let end = ((start + length - 1) / share + 1 + margin(share, 1)).min(size);
            first / 8..end.div_ceil(8)
        };
        let quant = metadata.quant_tables[usize::from(frame.components[i].quant_table_index)].as_ref()?;
        Some(Component {
            blocks,
            quant: &quant.values,
            width,
            height,
            columns: wanted(window.left, window.width, share_x, width),
            rows: wanted(window.top, window.height, share_y, height),
        })
    };
    let (luma, share) = match sampling {
        Sampling::Grey => return Some(vec![component(0, (1, 1), (1, 1))?]),
        Sampling::Full => ((1, 1), (1, 1)),
        Sampling::HalfWidth => ((2, 1), (2, 1)),
        Sampling::Half => ((2, 2), (2, 2)),
    };
    Some(vec![component(0, luma, (1, 1))?, component(1, (1, 1), share)?, component(2, (1, 1), share)?])
}

/// Interpolates the colours of row `y` of the image, and writes its part inside the window as RGB.
fn write_row(
    sampling: Sampling,
    components: &[Component<'_>],
    scratch: &mut Scratch,
    window: Window,
    y: usize,
    out: &mut [u8],
) {
    let Scratch { planes, colors, sums, routines } = scratch;
    let luma = &components[0].row(&planes[0], y)[window.left - components[0].columns.start * 8..];
    if sampling == Sampling::Grey {
        for (pixel, &grey) in out.as_chunks_mut::<3>().0.iter_mut().zip(luma) {
            *pixel = [grey; 3];
        }
        return;
    }
    for ((color, component), plane) in colors.iter_mut().zip(&components[1..]).zip(&planes[1..]) {
        match sampling {
            Sampling::Grey | Sampling::Full => {}
            Sampling::HalfWidth => {
                let row = component.row(plane, y);
                color.resize(row.len() * 2, 0);
                routines.fancy_upsample_h2v1(row, row.len(), color);
            }
            Sampling::Half => {
                let near = if y.is_multiple_of(2) { (y / 2).saturating_sub(1) } else { y / 2 + 1 };
                let near = near.min(component.height - 1);
                let (row, near) = (component.row(plane, y / 2), component.row(plane, near));
                color.resize(row.len() * 2, 0);
                interpolate(row, near, sums, color);
            }
        }
    }
    let share = if sampling == Sampling::Full { 1 } else { 2 };
    let [blue, red] = [1, 2].map(|i| {
        let row = if share == 1 { components[i].row(&planes[i], y) } else { &colors[i - 1][..] };
        &row[window.left - components[i].columns.start * 8 * share..]
    });
    routines.ycbcr_to_rgb_row(luma, blue, red, out, window.width);
}

/// libjpeg's "fancy" interpolation to twice the width: 3/4 of the nearer row and sample, 1/4 of the other, with
/// roundings that alternate. At least two samples.
fn interpolate(row: &[u8], near: &[u8], sums: &mut Vec<u16>, out: &mut [u8]) {
    sums.clear();
    sums.extend(row.iter().zip(near).map(|(&row, &near)| u16::from(row) * 3 + u16::from(near)));
    let out = out.as_chunks_mut::<2>().0;
    let (&[first, second, ..], &[.., before, last]) = (&sums[..], &sums[..]) else { return };
    let n = sums.len();
    out[0] = [((first * 4 + 8) >> 4) as u8, ((first * 3 + second + 7) >> 4) as u8];
    for (out, ((left, sum), right)) in
        out[1..n - 1].iter_mut().zip(sums.iter().zip(&sums[1..]).zip(&sums[2..]))
    {
        *out = [((sum * 3 + left + 8) >> 4) as u8, ((sum * 3 + right + 7) >> 4) as u8];
    }
    out[n - 1] = [((last * 3 + before + 8) >> 4) as u8, ((last * 4 + 7) >> 4) as u8];
}
