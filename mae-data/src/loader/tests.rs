//! Batches: the same whatever the threads, and honest about images that cannot be read.

use std::path::Path;

use super::*;
use crate::augment::MixupMode;
use crate::testing::{sample_png, tar_of};
use crate::{Augmentation, Layout, OpenOptions};

/// A data set of two classes with `count` images, those in `broken` unreadable.
fn dataset(count: usize, broken: &[usize], layout: Layout) -> Arc<Dataset> {
    let names: Vec<String> = (0..count).map(|i| format!("{}/{i:03}.png", ["a", "b"][i % 2])).collect();
    let files: Vec<(&str, Vec<u8>)> = names
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let bytes = if broken.contains(&i) { b"<html>".to_vec() } else { sample_png(i as u8) };
            (name.as_str(), bytes)
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images.tar");
    std::fs::write(&path, tar_of(&files)).unwrap();
    // The mapping outlives the name.
    Arc::new(Dataset::open(path.to_str().unwrap(), layout, &OpenOptions::default()).unwrap())
}

fn pipeline() -> Pipeline {
    Pipeline::finetune(&Augmentation { input_size: (8, 10), re_prob: 0.3, ..Augmentation::default() })
        .unwrap()
}

fn options(threads: usize) -> LoaderOptions {
    LoaderOptions { batch_size: 4, seed: 11, shuffle: true, threads, ..LoaderOptions::default() }
}

fn mixup() -> Mixup {
    Mixup {
        mixup_alpha: 0.8,
        cutmix_alpha: 1.0,
        cutmix_minmax: None,
        prob: 1.0,
        switch_prob: 0.5,
        mode: MixupMode::Elem,
        label_smoothing: 0.1,
        num_classes: 2,
    }
}

fn values(images: &Images) -> &[f32] {
    match images {
        Images::Normalized(values) => values,
        Images::Bytes(_) => panic!("bytes"),
    }
}

fn batches(loader: &Loader, epoch: u64, start: usize) -> Vec<Batch> {
    loader.epoch(epoch, start).map(Result::unwrap).collect()
}

fn loader(dataset: &Arc<Dataset>, options: LoaderOptions) -> Loader {
    Loader::new(Arc::clone(dataset), pipeline(), options).unwrap()
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let dataset = dataset(22, &[3, 8], Layout::ImageFolder);
    let run = |threads, prefetch_batches| {
        let options = LoaderOptions {
            mixup: Some(mixup()),
            max_bad_fraction: 0.2,
            prefetch_batches,
            ..options(threads)
        };
        let loader = loader(&dataset, options);
        (batches(&loader, 2, 0), loader.bad_samples())
    };
    let first = run(1, 1);
    assert_eq!(first.0.len(), 6);
    for (threads, prefetch) in [(1, 4), (2, 1), (3, 2), (8, 8)] {
        assert!(run(threads, prefetch) == first, "{threads} threads, {prefetch} batches ahead");
    }
    let batch = &first.0[0];
    assert_eq!((batch.shape, batch.images.len()), ([4, 3, 8, 10], 4 * 3 * 80));
    assert_eq!(batch.targets.as_ref().unwrap().len(), 4 * 2);
    assert_eq!((batch.epoch, batch.index), (2, 0));
    assert_eq!(first.0[5].shape[0], 2, "the last batch is smaller");
}

#[test]
fn an_epoch_can_be_entered_anywhere() {
    let dataset = dataset(22, &[], Layout::ImageFolder);
    let loader = loader(&dataset, options(2));
    let whole = batches(&loader, 1, 0);
    for start in 0..=whole.len() {
        assert!(batches(&loader, 1, start) == whole[start..], "from batch {start}");
    }
    assert!(batches(&loader, 1, 100).is_empty());
    assert_ne!(whole, batches(&loader, 0, 0), "another epoch, another order");
}

#[test]
fn ranks_see_together_what_one_rank_sees() {
    let dataset = dataset(21, &[], Layout::ImageFolder);
    let whole = batches(&loader(&dataset, LoaderOptions { batch_size: 6, ..options(1) }), 0, 0);
    let ranks: Vec<Vec<Batch>> = (0..3)
        .map(|rank| {
            let options = LoaderOptions { batch_size: 2, rank, world_size: 3, ..options(1) };
            batches(&loader(&dataset, options), 0, 0)
        })
        .collect();
    for (step, whole) in whole.iter().enumerate() {
        let mut images = Vec::new();
        for rank in &ranks {
            images.extend_from_slice(&values(&rank[step].images)[..rank[step].valid * 240]);
        }
        assert!(images == values(&whole.images), "step {step}");
    }
    assert_eq!(ranks.iter().map(|rank| rank[3].valid).collect::<Vec<_>>(), [1, 1, 1]);
}

#[test]
fn labels_follow_the_samples() {
    let labelled = dataset(9, &[], Layout::ImageFolder);
    let mut seen = Vec::new();
    for batch in batches(&loader(&labelled, options(2)), 0, 0) {
        for (&sample, &label) in batch.samples.iter().zip(&batch.labels) {
            assert_eq!(labelled.label(sample as usize), Some(label as usize));
            seen.push(sample);
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..9).collect::<Vec<u64>>());
    let flat = dataset(3, &[], Layout::Flat);
    let batch = batches(&loader(&flat, options(1)), 0, 0).remove(0);
    assert_eq!((batch.labels, batch.targets), (vec![-1; 3], None));
}

#[test]
fn evaluation_in_order_is_the_images_themselves() {
    let dataset = dataset(5, &[], Layout::Flat);
    let augmentation =
        Augmentation { input_size: (9, 12), mean: [0.0; 3], std: [1.0; 3], ..Augmentation::default() };
    let pipeline = Pipeline::evaluate(&augmentation).unwrap();
    let options = LoaderOptions { batch_size: 2, ..LoaderOptions::default() };
    let loader = Loader::new(dataset, pipeline, options).unwrap();
    let samples: Vec<u64> = batches(&loader, 0, 0).into_iter().flat_map(|batch| batch.samples).collect();
    assert_eq!(samples, [0, 1, 2, 3, 4]);
    assert_eq!(
        batches(&loader, 0, 0),
        batches(&loader, 7, 0).into_iter().map(|b| Batch { epoch: 0, ..b }).collect::<Vec<_>>()
    );
}

#[test]
fn unreadable_images_are_replaced_and_named() {
    // Names sort by class, so place 3 is the fourth image of class a.
    let dataset = dataset(20, &[6, 7], Layout::ImageFolder);
    let loader = loader(&dataset, LoaderOptions { max_bad_fraction: 0.1, ..options(2) });
    let mut replaced = 0;
    for batch in batches(&loader, 0, 0) {
        assert!(
            batch
                .samples
                .iter()
                .all(|&sample| !["a/006.png", "b/007.png"].contains(&dataset.name(sample as usize)))
        );
        assert_eq!(batch.shape[0], batch.samples.len());
        replaced += batch.replaced.len();
    }
    assert_eq!(replaced, 2);
    let bad: Vec<String> = loader
        .bad_samples()
        .into_iter()
        .map(|bad| format!("{}: {}", bad.name.rsplit_once("images.tar/").unwrap().1, bad.reason))
        .collect();
    insta::assert_snapshot!(bad.join("\n"));
}

#[test]
fn too_many_unreadable_images_are_an_error() {
    let dataset = dataset(20, &[6, 7, 9], Layout::ImageFolder);
    let fail = |threads| {
        let loader = loader(&dataset, LoaderOptions { max_bad_fraction: 0.1, ..options(threads) });
        let mut iter = loader.epoch(0, 0);
        let good = iter.by_ref().take_while(Result::is_ok).count();
        assert!(iter.next().is_none(), "the error is the last item");
        let error = loader.epoch(0, 0).find_map(Result::err).unwrap().to_string();
        (good, error.replace(Path::new(dataset.source()).parent().unwrap().to_str().unwrap(), "DIR"))
    };
    let first = fail(1);
    assert_eq!(fail(4), first, "it comes at the same batch");
    insta::assert_snapshot!(first.1);
}

#[test]
fn nothing_readable_at_all_is_an_error_under_any_limit() {
    let dataset = dataset(2, &[0, 1], Layout::Flat);
    let loader = loader(&dataset, LoaderOptions { max_bad_fraction: 1.0, ..options(1) });
    assert!(matches!(loader.epoch(0, 0).next(), Some(Err(Error::TooManyBadSamples { bad: 2, .. }))));
}

#[test]
fn an_epoch_that_is_given_up_ends_its_threads() {
    let dataset = dataset(40, &[], Layout::ImageFolder);
    let loader = loader(&dataset, LoaderOptions { prefetch_batches: 1, ..options(3) });
    let mut iter = loader.epoch(0, 0);
    iter.next().unwrap().unwrap();
    drop(iter);
    drop(loader);
    assert_eq!(Arc::strong_count(&dataset), 1, "no thread holds on to the data");
}

/// Bytes, normalised by the rule, are the same images; what mixup or erasing changes stays normalised.
#[test]
fn bytes_are_the_pixels_before_normalisation() {
    let dataset = dataset(9, &[2], Layout::ImageFolder);
    let augmentation = Augmentation { input_size: (8, 10), ..Augmentation::default() };
    let pipeline = |re_prob| Pipeline::finetune(&Augmentation { re_prob, ..augmentation.clone() }).unwrap();
    let options = |bytes| LoaderOptions { bytes, max_bad_fraction: 0.5, ..options(2) };
    let run =
        |pipeline, options| batches(&Loader::new(Arc::clone(&dataset), pipeline, options).unwrap(), 1, 0);
    let normalizer = crate::transform::Normalizer::new(augmentation.mean, augmentation.std);
    for (bytes, expected) in run(pipeline(0.0), options(true)).iter().zip(run(pipeline(0.0), options(false)))
    {
        let Images::Bytes(pixels) = &bytes.images else { panic!("no bytes") };
        let mut normalized = vec![0.0; pixels.len()];
        for (pixels, out) in pixels.chunks_exact(240).zip(normalized.chunks_exact_mut(240)) {
            let image = crate::decode::RgbImage { width: 10, height: 8, data: pixels.to_vec() };
            normalizer.apply(&image, out);
        }
        assert!(normalized == values(&expected.images));
        assert_eq!((bytes.shape, &bytes.samples), (expected.shape, &expected.samples));
    }
    for (pipeline, mixup) in [(pipeline(0.5), None), (pipeline(0.0), Some(mixup()))] {
        let batch = run(pipeline, LoaderOptions { mixup, ..options(true) }).remove(0);
        assert!(matches!(batch.images, Images::Normalized(_)));
    }
}

/// A buffer that comes back holds the pixels of another batch, of another size.
#[test]
fn buffers_that_come_back_change_nothing() {
    let dataset = dataset(22, &[], Layout::ImageFolder);
    for bytes in [false, true] {
        let pipeline =
            || Pipeline::pretrain(&Augmentation { input_size: (8, 10), ..Augmentation::default() }).unwrap();
        let options = LoaderOptions { bytes, ..options(2) };
        let expected =
            batches(&Loader::new(Arc::clone(&dataset), pipeline(), options.clone()).unwrap(), 0, 0);
        let loader = Loader::new(Arc::clone(&dataset), pipeline(), options).unwrap();
        for _ in 0..2 {
            for (batch, expected) in loader.epoch(0, 0).zip(&expected) {
                let batch = batch.unwrap();
                assert!(batch == *expected);
                loader.recycle(batch.images);
            }
        }
        assert!(!loader.inner.spare().is_empty());
    }
}

#[test]
fn a_selection_keeps_whole_images() {
    let images = Images::Bytes((0..12).collect());
    assert_eq!(images.select(&[3, 0], 4), Images::Bytes(vec![9, 10, 11, 0, 1, 2]));
}

#[test]
fn illegal_settings_are_refused() {
    let labelled = dataset(6, &[], Layout::ImageFolder);
    let flat = dataset(6, &[], Layout::Flat);
    let base = || options(1);
    let cases = [
        (&labelled, LoaderOptions { batch_size: 0, ..base() }),
        (&labelled, LoaderOptions { rank: 2, world_size: 2, ..base() }),
        (&labelled, LoaderOptions { max_bad_fraction: -0.5, ..base() }),
        (&labelled, LoaderOptions { world_size: 2, drop_last: true, ..base() }),
        (&labelled, LoaderOptions { mixup: Some(Mixup { num_classes: 1, ..mixup() }), ..base() }),
        (&labelled, LoaderOptions { mixup: Some(Mixup { prob: 1.5, ..mixup() }), ..base() }),
        (&flat, LoaderOptions { mixup: Some(mixup()), ..base() }),
    ];
    let lines: Vec<String> = cases
        .into_iter()
        .map(|(dataset, options)| {
            let error = Loader::new(Arc::clone(dataset), pipeline(), options).unwrap_err().to_string();
            error.replace(Path::new(dataset.source()).parent().unwrap().to_str().unwrap(), "DIR")
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

/// The demo data set of the repository, through the whole path.
#[test]
fn the_demo_archive_gives_batches() {
    let archive =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../datasets/fashion_mnist_8k/images_val.tar.gz");
    let cache = tempfile::tempdir().unwrap();
    let open = OpenOptions { cache_dir: cache.path().to_owned(), ..OpenOptions::default() };
    let dataset = Arc::new(Dataset::open(archive.to_str().unwrap(), Layout::ImageFolder, &open).unwrap());
    assert_eq!((dataset.len(), dataset.class_counts()), (1000, vec![100; 10]));
    let augmentation = Augmentation { input_size: (32, 32), ..Augmentation::default() };
    let options = LoaderOptions { batch_size: 128, ..options(2) };
    let loader = Loader::new(dataset, Pipeline::pretrain(&augmentation).unwrap(), options).unwrap();
    let batches = batches(&loader, 0, 0);
    assert_eq!(batches.iter().map(|batch| batch.valid).sum::<usize>(), 1000);
    let values = batches.iter().flat_map(|batch| values(&batch.images));
    let (low, high) = values.fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
    // Black and white after normalisation by ImageNet's mean and standard deviation.
    assert!((-2.2..-2.0).contains(&low) && (2.2..2.7).contains(&high), "{low} {high}");
    assert!(loader.bad_samples().is_empty());
}
