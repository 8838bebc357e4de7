//! The tools on small data sets.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use super::*;
use crate::testing::{sample_png, tar_of};
use crate::{Dataset, Error, Layout, OpenOptions};

fn open(path: &Path, layout: Layout) -> Dataset {
    Dataset::open(path.to_str().unwrap(), layout, &OpenOptions::default()).unwrap()
}

/// Classes a (10 images) and b (5), one image of which is no image, one a copy, one cut off.
fn dataset(folder: &Path, layout: Layout) -> Dataset {
    let mut files: Vec<(String, Vec<u8>)> =
        (0..15).map(|i| (format!("{}/{i:02}.png", if i < 10 { "a" } else { "b" }), sample_png(i))).collect();
    files[3].1 = b"<html>".to_vec();
    files[7].1 = files[12].1.clone();
    let kept = files[8].1.len() - 60;
    files[8].1.truncate(kept);
    let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    let path = folder.join("images.tar");
    fs::write(&path, tar_of(&files)).unwrap();
    open(&path, layout)
}

#[test]
fn a_survey_finds_copies_and_what_is_broken() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), Layout::ImageFolder);
    let first = survey(&dataset, 1, |_| ControlFlow::Continue(())).unwrap().unwrap();
    assert_eq!(survey(&dataset, 3, |_| ControlFlow::Continue(())).unwrap().unwrap(), first);
    assert_eq!(first.images, 15);
    assert_eq!(first.formats, [("PNG", 14)].into());
    assert_eq!(first.classes, [("a".to_owned(), 10), ("b".to_owned(), 5)]);
    assert_eq!(first.duplicates, [vec![7, 12]]);
    let sizes = first.sizes.unwrap();
    assert_eq!((sizes.smallest, sizes.median, sizes.largest, sizes.distinct), ((9, 12), (9, 12), (9, 12), 1));
    let bad: Vec<_> = first.bad.iter().map(|bad| (bad.index, bad.replaced)).collect();
    assert_eq!(bad, [(3, true), (8, false)], "{:?}", first.bad);
}

#[test]
fn a_survey_can_be_broken_off() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), Layout::Flat);
    let stopped =
        survey(
            &dataset,
            2,
            |done| if done == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) },
        );
    assert_eq!(stopped.unwrap(), None);
}

#[test]
fn a_contact_sheet_has_a_row_a_class() {
    let dir = tempfile::tempdir().unwrap();
    let (sheet, rows) = contact_sheet(&dataset(dir.path(), Layout::ImageFolder));
    let counts: Vec<_> = rows.iter().map(|row| (row.class.as_deref(), row.images.len())).collect();
    assert_eq!(counts, [(Some("a"), 10), (Some("b"), 5)]);
    assert_eq!((sheet.width, sheet.height), (10 * 98 + 2, 2 * 98 + 2));
    let pixel = |x: usize, y: usize| sheet.data[(y * sheet.width + x) * 3..][..3].to_vec();
    assert_eq!(pixel(3 * 98 + 50, 50), [200, 0, 0], "the broken one is red");
    assert_ne!(pixel(4 * 98 + 50, 50), [200, 0, 0]);
    let (_, rows) = contact_sheet(&dataset(dir.path(), Layout::Flat));
    assert_eq!(rows.iter().map(|row| row.images.len()).collect::<Vec<_>>(), [12, 3]);
}

#[test]
fn shards_hold_the_same_images_in_the_same_order() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), Layout::ImageFolder);
    let folder = dir.path().join("shards");
    let options = PackOptions { folder: folder.clone(), stem: "train".to_owned(), shard_bytes: 8000 };
    let all: Vec<usize> = (0..dataset.len()).collect();
    let run = || pack(&dataset, &all, &options, |_| ControlFlow::Continue(()));
    let shards = run().unwrap().unwrap();
    assert!(shards.len() > 2);
    let mut next = 0;
    for shard in &shards {
        assert!(shard.bytes <= 10_240 && fs::metadata(&shard.path).unwrap().len() == shard.bytes);
        let part = open(&shard.path, Layout::Flat);
        assert_eq!(part.len(), shard.images);
        for i in 0..part.len() {
            assert_eq!(part.name(i), dataset.name(next));
            assert_eq!(part.read(i).unwrap(), dataset.read(next).unwrap());
            next += 1;
        }
    }
    assert_eq!(next, dataset.len());
    assert!(matches!(run(), Err(Error::Io { .. })), "shards that are there are kept");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), shards.len(), "no temporary file stays");

    let options = PackOptions { folder: dir.path().join("again"), ..options };
    let again = pack(&dataset, &all, &options, |_| ControlFlow::Continue(())).unwrap().unwrap();
    for (a, b) in shards.iter().zip(&again) {
        assert_eq!(fs::read(&a.path).unwrap(), fs::read(&b.path).unwrap(), "the same bytes");
    }
}

#[test]
fn packing_that_is_broken_off_leaves_no_part_of_a_shard() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), Layout::Flat);
    let folder = dir.path().join("shards");
    let options = PackOptions { folder: folder.clone(), stem: "x".to_owned(), shard_bytes: 1 << 30 };
    let stopped = pack(&dataset, &[0, 1, 2], &options, |done| {
        if done == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(stopped.unwrap(), None);
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
}

#[test]
fn a_split_takes_each_class_alike() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), Layout::ImageFolder);
    let parts = split(&dataset, &[0.2, 0.2], 7).unwrap();
    let counts = |part: &[usize]| {
        let of_a = part.iter().filter(|&&i| dataset.label(i) == Some(0)).count();
        (of_a, part.len() - of_a)
    };
    assert_eq!(parts.iter().map(|part| counts(part)).collect::<Vec<_>>(), [(2, 1), (2, 1), (6, 3)]);
    let all: BTreeSet<usize> = parts.iter().flatten().copied().collect();
    assert_eq!(all.len(), 15, "each image is in one part");
    assert_eq!(split(&dataset, &[0.2, 0.2], 7).unwrap(), parts);
    assert_ne!(split(&dataset, &[0.2, 0.2], 8).unwrap(), parts);
    for shares in [&[0.0][..], &[1.0], &[0.5, 0.5], &[f64::NAN], &[-0.1]] {
        assert!(matches!(split(&dataset, shares, 0), Err(Error::InvalidSetting { .. })), "{shares:?}");
    }
}
