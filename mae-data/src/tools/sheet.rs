//! A contact sheet: small pictures of a few images, to see at a glance what a data set is.

use crate::decode::{self, RgbImage};
use crate::source::Dataset;
use crate::transform::{CropRule, Filter, Resize, ResizeScratch, Window, center, covering_size};

/// Side of a picture in pixels.
const TILE: usize = 96;
/// Pixels between pictures.
const GAP: usize = 2;
/// Pictures in a row.
const COLUMNS: usize = 12;
/// Rows at most.
const ROWS: usize = 24;
/// What stands for an image that cannot be read.
const BROKEN: [u8; 3] = [200, 0, 0];

/// What a row of a contact sheet shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SheetRow {
    /// The class; `None` without labels.
    pub class: Option<String>,
    /// The images from left to right, by index.
    pub images: Vec<usize>,
}

/// Pictures of some images, spread evenly over the data set: one row a class, or a few rows without labels. An image
/// that cannot be read is a red square.
pub fn contact_sheet(dataset: &Dataset) -> (RgbImage, Vec<SheetRow>) {
    let rows = choose(dataset);
    let columns = rows.iter().map(|row| row.images.len()).max().unwrap_or(0);
    let side = |count: usize| count * (TILE + GAP) + GAP;
    let (width, height) = (side(columns), side(rows.len()));
    let mut sheet = RgbImage { width, height, data: vec![32; width * height * 3] };
    let mut scratch = (decode::Scratch::default(), ResizeScratch::default());
    let mut tile = RgbImage::default();
    for (y, row) in rows.iter().enumerate() {
        for (x, &index) in row.images.iter().enumerate() {
            if picture(dataset, index, &mut scratch, &mut tile).is_none() {
                tile = RgbImage { width: TILE, height: TILE, data: BROKEN.repeat(TILE * TILE) };
            }
            for (line, pixels) in tile.data.chunks_exact(TILE * 3).enumerate() {
                let at = ((side(y) + line) * width + side(x)) * 3;
                sheet.data[at..at + TILE * 3].copy_from_slice(pixels);
            }
        }
    }
    (sheet, rows)
}

fn choose(dataset: &Dataset) -> Vec<SheetRow> {
    // `count` of `of`, evenly spread.
    let spread = |of: usize, count: usize| {
        let count = count.min(of);
        (0..count).map(move |i| i * of / count)
    };
    if dataset.classes().is_empty() {
        let images: Vec<usize> = spread(dataset.len(), COLUMNS * 8).collect();
        return images.chunks(COLUMNS).map(|row| SheetRow { class: None, images: row.to_vec() }).collect();
    }
    let mut members = vec![Vec::new(); dataset.classes().len()];
    for index in 0..dataset.len() {
        if let Some(label) = dataset.label(index) {
            members[label].push(index);
        }
    }
    spread(members.len(), ROWS)
        .map(|label| SheetRow {
            class: dataset.classes().get(label).cloned(),
            images: spread(members[label].len(), COLUMNS).map(|i| members[label][i]).collect(),
        })
        .collect()
}

fn picture(
    dataset: &Dataset,
    index: usize,
    (decoding, resizing): &mut (decode::Scratch, ResizeScratch),
    tile: &mut RgbImage,
) -> Option<()> {
    let bytes = dataset.read(index).ok()?;
    let mut resize = None;
    let choose = |size| {
        let covering = covering_size(size, (TILE, TILE), CropRule::Tao { finetune: false });
        let part = center(covering, (TILE, TILE));
        let all = Resize { window: Window::whole(size), size: covering, part, filter: Filter::Bicubic };
        resize.insert(all).needs()
    };
    let (part, _) = decode::decode_part(&bytes, choose, decoding).ok()?;
    resize?.apply(part, resizing, tile);
    Some(())
}
