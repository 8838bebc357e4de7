//! Data sets that are read while their archives are still being unpacked.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::Augmentation;
use crate::loader::{Batch, Images, Loader, LoaderOptions};
use crate::testing::{gzip, sample_png, tar_of};
use crate::transform::Pipeline;

fn options(dir: &Path) -> OpenOptions {
    OpenOptions { cache_dir: dir.join("cache"), ..OpenOptions::default() }
}

/// Images whose order in the archive is not that of their names, with two that have no byte and one that is no image.
fn files(count: usize) -> Vec<(String, Vec<u8>)> {
    let name = |i: usize| format!("{}/{:03}.png", ["a", "b", "c"][i % 3], i * 7 % 101);
    let bytes = |i: usize| match i {
        5 => b"<html>".to_vec(),
        8 | 9 => Vec::new(),
        _ => sample_png(i as u8),
    };
    (0..count).map(|i| (name(i), bytes(i))).collect()
}

fn archive(dir: &Path, name: &str, files: &[(String, Vec<u8>)]) -> String {
    let files: Vec<(&str, Vec<u8>)> = files.iter().map(|(name, bytes)| (&**name, bytes.clone())).collect();
    let tar = tar_of(&files);
    let bytes = match Path::new(name).extension().and_then(|extension| extension.to_str()) {
        Some("gz") => gzip(&tar),
        Some("zst") => zstd::encode_all(&tar[..], 1).unwrap(),
        _ => tar,
    };
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

fn loader(dataset: Dataset, threads: usize) -> Loader {
    let augmentation = Augmentation { input_size: (8, 8), ..Augmentation::default() };
    let options = LoaderOptions {
        batch_size: 4,
        seed: 3,
        shuffle: true,
        shuffle_buffer: Some(10),
        drop_last: true,
        threads,
        max_bad_fraction: 1.0,
        ..LoaderOptions::default()
    };
    Loader::new(Arc::new(dataset), Pipeline::pretrain(&augmentation).unwrap(), options).unwrap()
}

fn batches(loader: &Loader, start: usize) -> Vec<Batch> {
    loader.epoch(0, start).map(Result::unwrap).collect()
}

fn settle(dataset: &Dataset) -> usize {
    loop {
        if let Extent::Whole(len) = dataset.extent().unwrap() {
            return len;
        }
        dataset.wait_beyond(dataset.len(), Duration::from_secs(1));
    }
}

/// The same batches whether the archive is being unpacked, was unpacked before, or has to be known before the first.
#[test]
fn a_growing_data_set_gives_the_batches_of_a_whole_one() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let files = files(83);
    for name in ["images.tar.gz", "images.tar.zst", "images.tar"] {
        let source = archive(dir.path(), name, &files);
        let fresh = loader(Dataset::open_growing(&source, &options).unwrap(), 2);
        let seen = batches(&fresh, 0);
        assert_eq!(seen.len(), 20, "{name}");
        assert!(fresh.dataset().is_growing());
        // Where images without a byte stand among their neighbours, a copy of the images does not tell.
        let has_bytes = |name: &&str| files.iter().any(|(other, bytes)| other == name && !bytes.is_empty());
        let names = (0..83).map(|i| fresh.dataset().name(i)).filter(has_bytes);
        assert!(names.eq(files.iter().map(|(name, _)| &**name).filter(has_bytes)), "{name}");

        let unpacked = loader(Dataset::open_growing(&source, &options).unwrap(), 1);
        let whole = loader(Dataset::open_in_archive_order(&source, &options).unwrap(), 3);
        assert_eq!(whole.batches_per_epoch(), 20);
        for other in [&unpacked, &whole] {
            assert_eq!(batches(other, 0), seen, "{name}");
            assert_eq!(batches(other, 17), seen[17..], "{name}");
            assert_eq!(batches(other, 20), [], "{name}");
            assert_eq!(other.bad_samples(), fresh.bad_samples(), "{name}");
        }
        assert_eq!(fresh.bad_samples().len(), 3);
    }
}

#[test]
fn several_archives_follow_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let files = files(60);
    let second = archive(dir.path(), "2.tar.gz", &files[..20]);
    let first = archive(dir.path(), "1.tar", &files[20..]);
    let source = format!("{second},{first}");
    let growing = Dataset::open_growing(&source, &options).unwrap();
    let whole = Dataset::open_in_archive_order(&source, &options).unwrap();
    assert_eq!((settle(&growing), whole.len()), (60, 60));
    for i in 0..60 {
        assert_eq!(growing.display_path(i), whole.display_path(i));
        assert_eq!(growing.read(i).unwrap(), whole.read(i).unwrap());
    }
}

/// A batch comes as soon as its images and those of the shuffle buffer are there; the rest of the archive may be
/// missing, and is waited for.
#[test]
fn batches_come_before_the_archive_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let files = files(40);
    let file = tempfile::tempfile_in(dir.path()).unwrap();
    let (dataset, growth) = Dataset::fed("a", file.try_clone().unwrap());
    let mut end = 0;
    let mut feed = |range: std::ops::Range<usize>| {
        for (name, bytes) in &files[range] {
            use std::os::unix::fs::FileExt;
            file.write_all_at(bytes, end).unwrap();
            growth
                .add(&Sample { name: name.as_str().into(), offset: end, size: bytes.len() as u64, part: 0 })
                .unwrap();
            end += bytes.len() as u64;
        }
    };
    feed(0..18);
    let loader = loader(dataset, 2);
    let mut epoch = loader.epoch(0, 0);
    // Two batches of four, and a buffer of ten.
    let mut seen = vec![epoch.next().unwrap().unwrap(), epoch.next().unwrap().unwrap()];
    assert!(seen.iter().all(|batch| batch.samples.iter().all(|&sample| sample < 18)));
    feed(18..40);
    assert!(!loader.dataset().is_whole());
    growth.end_with(Ok(()));
    assert!(loader.dataset().is_whole() && loader.batches_per_epoch() == 10);
    seen.extend(epoch.map(Result::unwrap));
    assert_eq!(seen.len(), 10);
    assert!(
        seen.iter()
            .all(|batch| matches!(&batch.images, Images::Normalized(values) if values.len() == 4 * 3 * 64))
    );
    let mut samples: Vec<u64> = seen.iter().flat_map(|batch| batch.samples.clone()).collect();
    samples.sort_unstable();
    samples.dedup();
    // Three cannot be read, and others stand in for them.
    assert!(samples.len() >= 37, "{samples:?}");
}

#[test]
fn what_ends_the_unpacking_ends_the_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let mut twice = files(50);
    twice.push(twice[0].clone());
    let cut = archive(dir.path(), "cut.tar.gz", &files(50));
    let bytes = std::fs::read(&cut).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() - 20]).unwrap();
    let few = archive(dir.path(), "few.tar.gz", &files(3));
    let mut errors = Vec::new();
    for source in [archive(dir.path(), "twice.tar.gz", &twice), cut, few] {
        // The first image may come before the error, or not.
        let error = match Dataset::open_growing(&source, &options) {
            Ok(dataset) => loader(dataset, 2).epoch(0, 0).find_map(Result::err).unwrap(),
            Err(error) => error,
        };
        errors.push(error.to_string().replace(dir.path().to_str().unwrap(), "DIR"));
        let left: Vec<_> = std::fs::read_dir(dir.path().join("cache")).unwrap().flatten().collect();
        let building = left.iter().any(|entry| entry.file_name().to_string_lossy().contains("building"));
        assert!(!building, "{left:?}");
    }
    insta::assert_snapshot!(errors.join("\n"));
}

#[test]
fn sources_without_an_image_are_an_error_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let texts = archive(dir.path(), "texts.tar.gz", &[("a/notes.txt".to_owned(), b"no image".to_vec())]);
    let missing = dir.path().join("missing.tar.gz").to_str().unwrap().to_owned();
    let refusals = [texts, missing].map(|source| {
        let error = Dataset::open_growing(&source, &options).unwrap_err().to_string();
        error.replace(dir.path().to_str().unwrap(), "DIR")
    });
    insta::assert_snapshot!(refusals.join("\n"));
}

/// Whoever does not want the rest leaves nothing behind.
#[test]
fn an_unpacking_that_is_given_up_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = tempfile::tempfile_in(dir.path()).unwrap();
    let (dataset, growth) = Dataset::fed("a", file);
    let sample = |name: &str| Sample { name: name.into(), offset: 0, size: 1, part: 0 };
    growth.add(&sample("a.png")).unwrap();
    drop(dataset);
    assert!(growth.add(&sample("b.png")).is_err());
}
