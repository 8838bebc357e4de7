//! What needs no model: the default spec, the version.

use crate::common::Sandbox;

#[test]
fn a_default_spec_trains_once_the_data_is_named() {
    let sandbox = Sandbox::new().with_images(1, 1);
    let run = sandbox.mae("default_specs results_dir=specs");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(run.stdout, "Default specification file for mae generated at 'specs/experiment.yaml'\n");

    // As it is, it says what is left to fill in.
    let run = sandbox.mae("train -e specs/experiment.yaml");
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    let run = sandbox.mae("train -e specs/experiment.yaml results_dir=results");
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("dataset.train_data_sources"), "{}", run.stderr);

    // The default model is ViT-B/16 at 224 pixels, which is not for a test.
    sandbox
        .mae(
            "train -e specs/experiment.yaml results_dir=results device=cpu model.arch=convnextv2_atto \
             dataset.train_data_sources=train dataset.val_data_sources=val dataset.augmentation.input_size=64 \
             train.num_epochs=1 train.validation_interval=1 train.checkpoint_interval=1",
        )
        .passed();
    assert!(sandbox.path("results/train/convnextv2_atto_latest.pth").exists());
}

#[test]
fn the_version_is_the_packages() {
    let sandbox = Sandbox::new();
    for arguments in ["--version", "train --version"] {
        let run = sandbox.mae(arguments);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{arguments}");
        assert!(run.stdout.trim_end().ends_with(env!("CARGO_PKG_VERSION")), "{}", run.stdout);
    }
}
