//! Restart points of a gzip file: random access without unpacking it.
//!
//! At a block boundary, decompression can start anew when the 32 KiB before it, the window, are known. Images hardly
//! repeat, so of most windows only a few bytes are ever referred to; the others are kept as zeros and compress to
//! almost nothing.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;

use crate::sys::{At, Inflate, Wrapping};

const WINDOW: usize = 32 << 10;
/// Unpacked bytes between two points. Not below the window's size: later data could reach back past the next point.
const SPAN: u64 = 64 << 10;
const PIECE: usize = 64 << 10;
/// Sum and size behind the blocks of a gzip member.
const TRAILER: usize = 8;

/// Where decompression can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    /// Bytes unpacked before it.
    unpacked: u64,
    /// The first whole byte of the file that belongs to it.
    packed: u64,
    /// Bits of the byte before that belong to it as well.
    bits: u8,
    /// End of its window in `Points::windows`; it begins where that of the point before ends.
    window_end: u64,
}

/// The restart points of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Points {
    points: Vec<Point>,
    /// Compressed windows, one after the other.
    windows: Vec<u8>,
}

/// Unpacks a whole file into `sink`, which is also told how many bytes of it were read, and notes restart points.
/// Sums are checked on the way.
///
/// # Errors
/// When the file is damaged or cut off, or when `sink` fails.
pub fn build(gz: &[u8], sink: &mut dyn FnMut(&[u8], u64) -> io::Result<()>) -> io::Result<Points> {
    let mut points = Points::default();
    let mut inflate = Inflate::new(Wrapping::Gzip)?;
    // New bytes are in `filled - new..filled`; the window is the 32 KiB before `filled`.
    let mut buffer = vec![0; WINDOW + 4 * PIECE];
    let (mut read, mut filled, mut sent) = (0, WINDOW, WINDOW);
    let (mut unpacked, mut member_start) = (0u64, 0u64);
    let mut pending: Option<Draft> = None;
    loop {
        let step = inflate.run(&gz[read..], &mut buffer[filled..], true)?;
        read += step.consumed;
        filled += step.produced;
        unpacked += step.produced as u64;
        if let At::Block { unused_bits } = step.at {
            let due = pending.as_ref().is_none_or(|draft| unpacked - draft.unpacked >= SPAN);
            if due {
                let length = (unpacked - member_start).min(WINDOW as u64) as usize;
                let window = buffer[filled - length..filled].to_vec();
                let draft = Draft { unpacked, packed: read as u64, bits: unused_bits, window };
                if let Some(before) = pending.replace(draft) {
                    points.push(before, gz, unpacked)?;
                }
            }
        }
        let ended = step.at == At::End;
        if filled == buffer.len() || ended {
            sink(&buffer[sent..filled], read as u64)?;
            buffer.copy_within(filled - WINDOW..filled, 0);
            (filled, sent) = (WINDOW, WINDOW);
        }
        if ended {
            if !super::is_member(&gz[read..]) {
                break;
            }
            inflate = Inflate::new(Wrapping::Gzip)?;
            member_start = unpacked;
        } else if step.consumed == 0 && step.produced == 0 && read == gz.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    if let Some(last) = pending {
        points.push(last, gz, unpacked)?;
    }
    Ok(points)
}

/// A point with its whole window.
struct Draft {
    unpacked: u64,
    packed: u64,
    bits: u8,
    window: Vec<u8>,
}

impl Points {
    /// The `size` unpacked bytes from `offset` on.
    ///
    /// # Errors
    /// When the file is damaged, ends before, or is not the one of these points.
    pub fn read(&self, gz: &[u8], offset: u64, size: usize) -> io::Result<Vec<u8>> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "no restart point");
        let index = self.points.partition_point(|point| point.unpacked <= offset);
        let index = index.checked_sub(1).ok_or_else(damaged)?;
        let point = self.points[index];
        let start = index.checked_sub(1).map_or(0, |before| self.points[before].window_end);
        let window = self.windows.get(start as usize..point.window_end as usize).ok_or_else(damaged)?;
        let mut whole = Vec::with_capacity(WINDOW);
        DeflateDecoder::new(window).take(WINDOW as u64).read_to_end(&mut whole)?;

        let mut cursor = Cursor::at(gz, point.packed, point.bits, &whole)?;
        let mut skip = offset - point.unpacked;
        let mut scratch = vec![0; PIECE.min(usize::try_from(skip).unwrap_or(PIECE))];
        while skip > 0 {
            let n = scratch.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
            cursor.fill(&mut scratch[..n])?;
            skip -= n as u64;
        }
        let mut out = vec![0; size];
        cursor.fill(&mut out)?;
        Ok(out)
    }

    fn push(&mut self, draft: Draft, gz: &[u8], end: u64) -> io::Result<()> {
        let window = used_part(&draft, gz, end)?;
        let mut encoder = DeflateEncoder::new(&mut self.windows, Compression::default());
        encoder.write_all(&window)?;
        encoder.finish()?;
        let Draft { unpacked, packed, bits, .. } = draft;
        self.points.push(Point { unpacked, packed, bits, window_end: self.windows.len() as u64 });
        Ok(())
    }

    /// Appends the points to a table.
    pub(crate) fn write(&self, table: &mut Vec<u8>) {
        table.extend_from_slice(&(self.points.len() as u64).to_le_bytes());
        for point in &self.points {
            for number in [point.unpacked, point.packed, point.window_end] {
                table.extend_from_slice(&number.to_le_bytes());
            }
            table.push(point.bits);
        }
        table.extend_from_slice(&self.windows);
    }

    /// Reads what [`write`](Self::write) wrote; all of `table` belongs to it.
    pub(crate) fn parse(table: &[u8]) -> Option<Self> {
        const ENTRY: usize = 25;
        let (count, rest) = table.split_first_chunk::<8>()?;
        let count = usize::try_from(u64::from_le_bytes(*count)).ok()?;
        let (entries, windows) = rest.split_at_checked(count.checked_mul(ENTRY)?)?;
        let number = |entry: &[u8], at: usize| {
            entry[at..].first_chunk().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes))
        };
        let points = entries
            .chunks_exact(ENTRY)
            .map(|entry| Point {
                unpacked: number(entry, 0),
                packed: number(entry, 8),
                window_end: number(entry, 16),
                bits: entry[24],
            })
            .collect();
        Some(Self { points, windows: windows.to_vec() })
    }
}

/// The window with zeros for what nothing between the point and `end` refers to.
///
/// The span is unpacked with the true window and with two false ones, `w ^ (1 + i % 255)` and `w ^ (1 + i / 255)`:
/// where the outputs differ from the true one, the two differences name the byte of the window that it came from.
fn used_part(draft: &Draft, gz: &[u8], end: u64) -> io::Result<Vec<u8>> {
    let window = &draft.window;
    let changed = |mask: fn(usize) -> usize| -> Vec<u8> {
        window.iter().enumerate().map(|(i, byte)| byte ^ mask(i) as u8).collect()
    };
    let cursor = |window: &[u8]| Cursor::at(gz, draft.packed, draft.bits, window);
    let mut truth = cursor(window)?;
    let mut low = cursor(&changed(|i| 1 + i % 255))?;
    let mut high = cursor(&changed(|i| 1 + i / 255))?;
    let mut pieces = [vec![0; PIECE], vec![0; PIECE], vec![0; PIECE]];
    let mut used = vec![0; window.len()];
    let mut left = end - draft.unpacked;
    while left > 0 {
        let n = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
        let [t, l, h] = &mut pieces;
        truth.fill(&mut t[..n])?;
        low.fill(&mut l[..n])?;
        high.fill(&mut h[..n])?;
        if t[..n] != l[..n] {
            for ((t, l), h) in t[..n].iter().zip(&l[..n]).zip(&h[..n]).filter(|((t, l), _)| t != l) {
                let at = usize::from((t ^ l) - 1) + usize::from((t ^ h).saturating_sub(1)) * 255;
                if let (Some(used), Some(byte)) = (used.get_mut(at), window.get(at)) {
                    *used = *byte;
                }
            }
        }
        left -= n as u64;
    }
    Ok(used)
}

/// Unpacks forward from a restart point, over the ends of gzip members.
struct Cursor<'a> {
    gz: &'a [u8],
    inflate: Inflate,
    wrapping: Wrapping,
    read: usize,
}

impl<'a> Cursor<'a> {
    fn at(gz: &'a [u8], packed: u64, bits: u8, window: &[u8]) -> io::Result<Self> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a restart point outside of the file");
        let read = usize::try_from(packed).ok().filter(|read| *read <= gz.len()).ok_or_else(damaged)?;
        let mut inflate = Inflate::new(Wrapping::Raw)?;
        if bits > 0 {
            let byte = read.checked_sub(1).and_then(|before| gz.get(before)).ok_or_else(damaged)?;
            if bits > 7 {
                return Err(damaged());
            }
            inflate.prime(*byte, bits)?;
        }
        if !window.is_empty() {
            inflate.set_window(window)?;
        }
        Ok(Self { gz, inflate, wrapping: Wrapping::Raw, read })
    }

    fn fill(&mut self, mut out: &mut [u8]) -> io::Result<()> {
        while !out.is_empty() {
            let step = self.inflate.run(&self.gz[self.read..], out, false)?;
            self.read += step.consumed;
            out = &mut out[step.produced..];
            if step.at == At::End {
                if self.wrapping == Wrapping::Raw {
                    self.read = (self.read + TRAILER).min(self.gz.len());
                }
                self.wrapping = Wrapping::Gzip;
                self.inflate = Inflate::new(Wrapping::Gzip)?;
            } else if step.consumed == 0 && step.produced == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}
