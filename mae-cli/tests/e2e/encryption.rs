//! Encrypted checkpoints: written, and read by every action that has the passphrase.

use std::fs;

use crate::common::{Run, Sandbox, files_below};

const PASSPHRASE: &str = "a stapled battery";
const TRAIN: &str = "train -e finetune.yaml train.encrypt_checkpoints=true encryption_key=${oc.env:KEY} \
                     train.checkpoint_interval_unit=step train.checkpoint_interval=2";
const LATEST: &str = "results/finetune/train/convnextv2_atto_latest.pth";

/// Runs `mae` with a passphrase in `KEY` and in `MAE_ENCRYPTION_KEY`.
fn mae(sandbox: &Sandbox, passphrase: &str, arguments: &str) -> Run {
    let mut command = sandbox.command(&arguments.split_whitespace().collect::<Vec<_>>());
    command.env("KEY", passphrase).env("MAE_ENCRYPTION_KEY", passphrase);
    Sandbox::finished(command)
}

/// What must be nowhere on the disk: the passphrase, and a name that every plain checkpoint has.
fn assert_nothing_is_in_the_clear(sandbox: &Sandbox) {
    for file in files_below(&sandbox.path("results")) {
        let bytes = fs::read(sandbox.path("results").join(&file)).unwrap();
        for text in [PASSPHRASE, "stages.0.0.dwconv.weight"] {
            let found = bytes.windows(text.len()).any(|window| window == text.as_bytes());
            assert!(!found, "{text:?} in {file:?}");
        }
    }
    assert!(fs::read(sandbox.path(LATEST)).unwrap().starts_with(b"age-encryption.org/v1\n"));
}

#[test]
fn every_action_reads_what_an_encrypted_training_wrote() {
    let sandbox = Sandbox::new().with_specs().with_images(3, 1);
    mae(&sandbox, PASSPHRASE, &format!("{TRAIN} train.num_epochs=1")).passed();
    assert_nothing_is_in_the_clear(&sandbox);
    let experiment = sandbox.path("results/finetune/train/experiment.yaml");
    assert!(fs::read_to_string(experiment).unwrap().contains("encryption_key: ${oc.env:KEY}"));

    // A resumed run ends as one that was never interrupted, and as one that is not encrypted.
    mae(&sandbox, PASSPHRASE, &format!("{TRAIN} train.num_epochs=2")).passed();
    assert_nothing_is_in_the_clear(&sandbox);
    sandbox.mae("train -e finetune.yaml results_dir=plain train.num_epochs=2").passed();
    let plain = "plain/train/convnextv2_atto_latest.pth";
    let diff = mae(&sandbox, PASSPHRASE, &format!("ckpt diff --weights-only {LATEST} {plain}"));
    assert_eq!(diff.code, Some(0), "{}{}", diff.stdout, diff.stderr);

    // A passphrase as plain text is not written beside what it protects.
    let text =
        "results_dir=results/text train.num_epochs=1 encryption_key=a_word train.encrypt_checkpoints=true";
    sandbox.mae(&format!("train -e finetune.yaml {text}")).passed();
    let experiment = fs::read_to_string(sandbox.path("results/text/train/experiment.yaml")).unwrap();
    assert!(experiment.contains("encryption_key: '***'") && !experiment.contains("a_word"), "{experiment}");

    let key = "encryption_key=${oc.env:KEY}";
    for arguments in [
        format!("evaluate -e finetune.yaml evaluate.checkpoint={LATEST} {key}"),
        format!("inference -e finetune.yaml inference.checkpoint={LATEST} {key}"),
        format!("export -e finetune.yaml export.checkpoint={LATEST} export.onnx_file=a.onnx {key}"),
        format!("train -e finetune.yaml results_dir=again train.pretrained_model_path={LATEST} {key}"),
    ] {
        mae(&sandbox, PASSPHRASE, &arguments).passed();
        let locked =
            sandbox.mae(&arguments.replace(key, "").replace("=a.onnx", "=b.onnx").replace("=again", "=b"));
        assert_eq!(locked.code, Some(1), "{}", locked.stderr);
        assert!(
            locked.stderr.contains("the file is encrypted (age, with a passphrase)"),
            "{}",
            locked.stderr
        );
    }
    let inspected = mae(&sandbox, PASSPHRASE, &format!("ckpt inspect {LATEST}"));
    assert!(inspected.stdout.contains("encrypted with age"), "{}", inspected.stdout);
    assert!(inspected.stdout.contains("the BLAKE3 digests match"), "{}", inspected.stdout);
}

#[test]
fn a_wrong_passphrase_changes_nothing() {
    let sandbox = Sandbox::new().with_specs().with_images(3, 1);
    mae(&sandbox, PASSPHRASE, &format!("{TRAIN} train.num_epochs=1")).passed();
    let before = files_below(&sandbox.path("results/finetune/train"));
    let run = mae(&sandbox, "another", &format!("{TRAIN} train.num_epochs=2"));
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("the passphrase does not open it"), "{}", run.stderr);
    assert_eq!(files_below(&sandbox.path("results/finetune/train")), before);

    // A damaged file is passed over, as one that is not encrypted is.
    let newest = fs::canonicalize(sandbox.path(LATEST)).unwrap();
    let bytes = fs::read(&newest).unwrap();
    fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
    let run = mae(&sandbox, PASSPHRASE, &format!("{TRAIN} train.num_epochs=1")).passed();
    assert!(run.stderr.contains("the age container is damaged"), "{}", run.stderr);

    for (settings, expected) in [
        ("train.encrypt_checkpoints=true", "which is not set"),
        ("train.encrypt_checkpoints=true encryption_key=x train.checkpoint_safetensors=true", "in the clear"),
    ] {
        let run = sandbox.mae(&format!("train -e finetune.yaml results_dir=other {settings}"));
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        assert!(run.stderr.contains(expected), "{}", run.stderr);
        assert!(!sandbox.path("other").exists());
    }
}
