//! `mae data` and `mae bench`: what a user does with images beside training.

use std::fs;

use crate::common::{Sandbox, demo_images, write_archive, write_folder};

/// Ten images of two classes, one of them no image and one a copy of another.
fn with_flaws() -> Sandbox {
    let sandbox = Sandbox::new();
    let mut images: Vec<_> = demo_images("train", 5).into_iter().take(10).collect();
    images[2].1 = b"<html>".to_vec();
    images[9].1 = images[8].1.clone();
    write_archive(&sandbox.path("images.tar.gz"), &images);
    write_folder(&sandbox.path("images"), &images);
    sandbox
}

#[test]
fn inspection_tells_what_there_is() {
    let sandbox = with_flaws();
    let run = sandbox.mae("data inspect images.tar.gz");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("data_inspect", run.stdout);
    });
    assert!(fs::read(sandbox.path("contact_sheet.png")).unwrap().starts_with(b"\x89PNG"));

    let run = sandbox.mae("data inspect images --json --sheet sheets.png");
    let told: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((told["images"].as_u64(), told["formats"]["PNG"].as_u64()), (Some(10), Some(9)));
    assert_eq!(told["duplicates"].as_array().unwrap().len(), 1);
    assert_eq!(told["bad"][0]["broken"], true);
    assert!(sandbox.path("sheets.png").exists());
}

#[test]
fn verification_fails_where_an_image_is_broken() {
    let sandbox = with_flaws();
    let run = sandbox.mae("data verify images");
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert!(run.stdout.contains("1 of 10 images cannot be decoded, 0 only in part"), "{}", run.stdout);
    let broken = run.stdout.lines().nth(1).unwrap().trim().split_once(": ").unwrap().0;
    fs::remove_file(sandbox.path(broken)).unwrap();
    let run = sandbox.mae("data verify images");
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "images: all 9 images can be decoded\n"));
}

#[test]
fn shards_and_parts_are_data_sources() {
    let sandbox = Sandbox::new().with_images(5, 1).with_specs();
    let run = sandbox.mae("data pack train shards/all --shard-size 1");
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "50 images, 65.0 kB in 1 shard: shards/all-0000.tar\n"),
        "{}",
        run.stderr
    );
    let again = sandbox.mae("data pack train shards/all");
    assert_eq!(again.code, Some(3), "{}", again.stderr);

    let run = sandbox.mae("data split train parts --val 0.2 --test 0.2");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let counts: Vec<_> = run.stdout.lines().map(|line| line.split(" images").next().unwrap()).collect();
    assert_eq!(counts, ["val: 10", "test: 10", "train: 30"], "{}", run.stdout);
    let data = "dataset.train_data_sources=parts/train-0000.tar dataset.val_data_sources=parts/val-0000.tar";
    let run = sandbox.mae(&format!("bench loader -e finetune.yaml {data} --batches 2 --json"));
    let told: serde_json::Value =
        serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{}", run.stderr));
    assert_eq!(told["dataset_images"], 30);
    assert!(told["images"].as_u64().unwrap() > 0 && told["bytes_read"].as_u64().unwrap() > 0);
}
