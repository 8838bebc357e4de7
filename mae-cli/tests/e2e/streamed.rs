//! `dataset.first_epoch: streamed`: the first epoch begins while the archive is still being unpacked.

use rustix::process::Signal;

use crate::common::{Sandbox, contents, demo_images, files_below, status_lines, write_archive};

const LATEST: &str = "train/convnextv2_atto_latest.pth";
/// Batches of 4, and two epochs, so that the second one has another order.
const TRAIN: &str = "train -e pretrain.yaml dataset.train_data_sources=images.tar.gz dataset.first_epoch=streamed \
                     dataset.shuffle_buffer=20 dataset.batch_size=4 train.num_epochs=2 train.accum_grad_batches=3";

/// 80 training images, 20 batches, 7 steps an epoch.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new().with_specs().with_images(1, 1);
    write_archive(&sandbox.path("images.tar.gz"), &demo_images("train", 8));
    sandbox
}

/// The same weights whether the archive was unpacked before or not, and whether the run was interrupted or not.
#[test]
fn the_order_does_not_depend_on_what_was_unpacked() {
    let sandbox = sandbox();
    let train = |results: &str, more: &str| format!("{TRAIN} results_dir={results} {more}");
    let run = sandbox.mae(&train("first", "")).passed();
    assert!(run.stderr.contains("The first epoch takes the images of images.tar.gz while they are unpacked"));
    assert!(run.stderr.contains("epoch 1/2"), "{}", run.stderr);
    sandbox.mae(&train("second", "dataset.num_workers_per_gpu=3")).passed();
    let state = |results: &str| contents(&sandbox.path(results).join(LATEST));
    let (first, second) = (state("first"), state("second"));
    assert_eq!(first.global_step, 14);
    assert!(first.state_dict == second.state_dict && first.optimizer == second.optimizer);
    assert_eq!(first.extra, second.extra);
    let lines = status_lines(&sandbox.path("first/train/status.json"));
    let epochs: Vec<_> = lines.iter().filter(|line| line["max_step"] == 40).collect();
    assert_eq!(epochs.len(), 2, "{lines:?}");

    // Another machine: nothing is unpacked yet.
    std::fs::remove_dir_all(sandbox.path("cache")).unwrap();
    let arguments = train("parts", "train.checkpoint_interval_unit=step train.checkpoint_interval=2");
    let mut run = sandbox.start("parts", &arguments.split_whitespace().collect::<Vec<_>>());
    let folder = sandbox.path("parts/train");
    run.wait_until("a checkpoint", || {
        folder.is_dir() && files_below(&folder).iter().any(|file| file.contains("model_epoch_000_step_00002"))
    });
    run.signal(Signal::INT);
    assert_eq!(run.wait().code(), Some(4), "{}", run.log());
    std::fs::remove_dir_all(sandbox.path("cache")).unwrap();
    let run = sandbox.mae(&arguments).passed();
    assert!(run.stderr.contains("Resuming from parts/train/model_epoch_000_step_"), "{}", run.stderr);
    let parts = state("parts");
    assert!(first.state_dict == parts.state_dict && first.optimizer == parts.optimizer);
    assert_eq!(first.extra, parts.extra);
}

/// Another order than that of an archive that is unpacked first.
#[test]
fn streaming_is_another_order() {
    let sandbox = sandbox();
    let one_epoch = format!("{TRAIN} train.num_epochs=1");
    sandbox.mae(&format!("{one_epoch} results_dir=streamed")).passed();
    sandbox.mae(&format!("{one_epoch} results_dir=complete dataset.first_epoch=complete")).passed();
    let state = |results: &str| contents(&sandbox.path(results).join(LATEST));
    let (streamed, complete) = (state("streamed"), state("complete"));
    assert_eq!(streamed.global_step, complete.global_step);
    assert!(streamed.state_dict != complete.state_dict);
}

#[test]
fn what_needs_the_whole_archive_first_is_refused() {
    let sandbox = sandbox();
    let streamed = "dataset.first_epoch=streamed";
    let refusal = |arguments: &str| {
        let run = sandbox.mae(&format!("{arguments} {streamed}"));
        assert_eq!(run.code, Some(1), "{arguments}: {}", run.stderr);
        run.stderr
    };
    let said = refusal("train -e finetune.yaml");
    assert!(said.contains("fine-tuning needs the names of all class folders"), "{said}");
    let said = refusal("train -e pretrain.yaml train.optim.lr_scheduler=cosine");
    assert!(said.contains("a cosine schedule needs the number of steps"), "{said}");
    let said = refusal("train -e pretrain.yaml train.num_gpus=2");
    assert!(said.contains("streamed is for one process, and there are 2"), "{said}");
}

/// Damage that shows only at the end of the archive ends the run, which keeps what it has learnt.
#[test]
fn an_archive_that_is_cut_off() {
    let sandbox = sandbox();
    let path = sandbox.path("images.tar.gz");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
    let run = sandbox.mae(TRAIN);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert!(run.stderr.contains("images.tar.gz is cut off"), "{}", run.stderr);
    let lines = status_lines(&sandbox.path("results/pretrain/train/status.json"));
    assert_eq!(lines.last().unwrap()["status"], "FAILURE");
    let left = files_below(&sandbox.path("cache"));
    assert!(!left.iter().any(|file| file.contains("building") || file.ends_with(".maearc")), "{left:?}");
}
