//! What a hostile or broken spec may cost: bounded time and memory, and an error that says where.

use mae_cli::spec::{Kind, Plan, compose, overrides, yaml};
use std::fmt::Write as _;

fn kind(text: &str) -> Option<Kind> {
    yaml::read(text.as_bytes(), "spec.yaml").err().map(|error| error.kind())
}

#[test]
fn an_alias_bomb_ends_early() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let _ = writeln!(text, "a{level}: &a{level} [{}]", vec![format!("*a{}", level - 1); 9].join(", "));
    }
    assert_eq!(kind(&text), Some(Kind::TooLarge));
}

#[test]
fn anchors_around_anchors_do_not_multiply_memory() {
    let open: String = (0..60).map(|level| format!("&a{level} [")).collect();
    let items = "x, ".repeat(100_000);
    assert_eq!(kind(&format!("a: {open}{items}x{}\n", "]".repeat(60))), Some(Kind::TooLarge));
}

#[test]
fn an_alias_inside_its_own_anchor_is_an_error() {
    assert_eq!(kind("train: &t {optim: *t}\n"), Some(Kind::YamlSyntax));
}

#[test]
fn deep_nesting_is_refused_in_every_syntax() {
    assert_eq!(kind(&format!("a: {}{}", "[".repeat(100_000), "]".repeat(100_000))), Some(Kind::TooLarge));
    assert_eq!(kind(&format!("a: {}", "{a: ".repeat(100_000))), Some(Kind::TooLarge));
    let block: String = (0..500).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    assert_eq!(kind(&block), Some(Kind::TooLarge));
    let value = format!("train.freeze={}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(overrides::parse(&value, 1).unwrap_err().kind(), Kind::TooLarge);
    let mapping = format!("+a={}", "{a:".repeat(100_000));
    assert_eq!(overrides::parse(&mapping, 1).unwrap_err().kind(), Kind::TooLarge);
    let nested = format!("a: '{}'", "${".repeat(100_000));
    let folder = tempfile::tempdir().unwrap();
    let spec = folder.path().join("spec.yaml");
    std::fs::write(&spec, nested).unwrap();
    assert_eq!(compose(Some(&spec), &[] as &[&str]).unwrap_err().kind(), Kind::TooLarge);
}

#[test]
fn a_file_that_is_no_spec_is_not_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pth");
    // A sparse file: 8 GiB of zeros without a byte on the disk.
    std::fs::File::create(&path).unwrap().set_len(8 << 30).unwrap();
    assert_eq!(yaml::read_file(&path).unwrap_err().kind(), Kind::TooLarge);
    assert_eq!(yaml::read_file(folder.path()).unwrap_err().kind(), Kind::ConfigNotFound);
}

#[test]
fn interpolations_that_double_at_every_level_end_early() {
    for leaf in ["x", "''"] {
        let mut text = format!("results_dir: /r\nwandb:\n  name: {leaf}\n");
        let keys = ["wandb.name", "wandb.project", "wandb.entity", "wandb.group", "wandb.run_id"];
        for pair in keys.windows(2) {
            let (from, to) = (pair[0], pair[1].trim_start_matches("wandb."));
            let _ = writeln!(text, "  {to}: {}", format!("${{{from}}}").repeat(100));
        }
        let folder = tempfile::tempdir().unwrap();
        let spec = folder.path().join("spec.yaml");
        std::fs::write(&spec, text).unwrap();
        let error = Plan::load(&spec, &[] as &[&str], mae_cli::spec::Action::Train).unwrap_err();
        assert_eq!(error.kind(), Kind::TooLarge, "{error}");
    }
}

#[test]
fn a_cycle_of_references_is_named() {
    let overrides = ["results_dir=/r", "wandb.name=${wandb.group}", "wandb.group=${wandb.name}"];
    let folder = tempfile::tempdir().unwrap();
    let spec = folder.path().join("spec.yaml");
    std::fs::write(&spec, "").unwrap();
    let error = Plan::load(&spec, &overrides, mae_cli::spec::Action::Train).unwrap_err();
    assert_eq!(error.kind(), Kind::ResolveError);
    assert!(error.path().is_some_and(|path| path.starts_with("wandb.")), "{error}");
}
