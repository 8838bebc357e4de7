use super::*;

/// A results folder as a training leaves it, with the empty files of these names.
fn run(names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        fs::write(folder.path().join(name), "").unwrap();
    }
    folder
}

fn link(folder: &Path, name: &str, target: &str) {
    std::os::unix::fs::symlink(target, folder.join(name)).unwrap();
}

/// What is chosen, or what the user reads.
fn chosen(folder: &Path, selector: &str) -> String {
    match choose("evaluate.checkpoint", &format!("{}{selector}", folder.display())) {
        Ok(artefact) => name_of(&artefact.path),
        Err(error) => error.to_string().replace(&folder.display().to_string(), "RUN"),
    }
}

const THREE: [&str; 3] =
    ["model_epoch_001_step_00008.pth", "model_epoch_003_step_00012.pth", "model_epoch_003_step_00016.pth"];

#[test]
fn a_file_is_itself() {
    let folder = run(&["a@epoch=3"]);
    let path = folder.path().join("a@epoch=3");
    let artefact = choose("evaluate.checkpoint", path.to_str().unwrap()).unwrap();
    assert_eq!(artefact, Artefact { path, rule: None });
}

#[test]
fn the_only_checkpoint_needs_no_choice() {
    let folder = run(&[THREE[0], "status.json", ".model_epoch_002_step_00009.pth.X.tmp"]);
    link(folder.path(), "convnextv2_atto_latest.pth", THREE[0]);
    assert_eq!(chosen(folder.path(), ""), THREE[0]);
    assert_eq!(chosen(folder.path(), "@epoch=1"), THREE[0]);
}

#[test]
fn the_root_of_the_results_means_its_training() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("train")).unwrap();
    fs::write(root.path().join("train").join(THREE[0]), "").unwrap();
    assert_eq!(chosen(root.path(), ""), THREE[0]);
    assert_eq!(chosen(root.path(), "@step=8"), THREE[0]);
}

#[test]
fn weights_of_others_need_no_name_of_ours() {
    let folder = run(&["mae_pretrain_vit_base.pth", "readme.md"]);
    assert_eq!(chosen(folder.path(), ""), "mae_pretrain_vit_base.pth");
}

#[test]
fn one_of_several_must_be_asked_for() {
    let folder = run(&THREE);
    link(folder.path(), "convnextv2_atto_latest.pth", THREE[1]);
    let mut out = String::new();
    let selectors = [
        "",
        "@epoch=3",
        "@epoch=003",
        "@epoch=1",
        "@step=12",
        "@epoch=3,step=16",
        "@epoch=1,step=16",
        "@step=99",
    ];
    for selector in selectors.iter().chain(&["@latest", "@best", "@newest", "@epoch=three", "@epoch"]) {
        out.push_str(&format!("RUN{selector} -> {}\n", chosen(folder.path(), selector)));
    }
    insta::assert_snapshot!(out);
}

#[test]
fn what_is_not_there() {
    let empty = run(&["status.json"]);
    let two = run(&["a.pth", "b.safetensors"]);
    let archs = run(&["vit_base_patch16_latest.pth", "hiera_tiny_224_latest.pth"]);
    let mut out = String::new();
    for (folder, selector) in [
        (&empty, ""),
        (&empty, "@latest"),
        (&empty, "@best"),
        (&empty, "/x@latest"),
        (&two, ""),
        (&archs, "@latest"),
        (&two, "/a.pth@best"),
    ] {
        out.push_str(&format!("RUN{selector} -> {}\n", chosen(folder.path(), selector)));
    }
    insta::assert_snapshot!(out);
}

#[test]
fn the_best_is_that_of_the_metric() {
    let folder = run(&THREE);
    let epoch = |epoch: u64, step: u64, kpi: &str, train_loss: f64| {
        format!(
            "{{\"message\": \"Eval metrics skipped.\", \"kpi\": {kpi}}}\n\
             {{\"epoch\": {epoch}, \"step\": {step}, \"message\": \"Training loop in progress\"}}\n\
             {{\"message\": \"Train metrics generated.\", \"kpi\": {{\"train_loss\": {train_loss}}}}}\n"
        )
    };
    let status = |lines: &[String]| fs::write(folder.path().join("status.json"), lines.concat()).unwrap();
    // Epoch 2 was the best, and its checkpoint was not kept; step 12 is the middle of epoch 3.
    let accuracies = [(1, 8, 0.5), (2, 12, 0.9), (3, 16, 0.6)];
    status(
        &accuracies.map(|(at, step, acc)| {
            epoch(at, step, &format!("{{\"val_loss\": 1.5, \"ACC_all\": {acc}}}"), 0.1)
        }),
    );
    assert_eq!(chosen(folder.path(), "@best"), THREE[2]);
    status(&[epoch(1, 8, "{\"val_loss\": 0.25}", 0.5), epoch(3, 16, "{\"val_loss\": 0.5}", 0.25)]);
    assert_eq!(chosen(folder.path(), "@best"), THREE[0]);
    status(&[epoch(1, 8, "{}", 0.5), epoch(3, 16, "{}", 0.25)]);
    let artefact = choose("evaluate.checkpoint", &format!("{}@best", folder.path().display())).unwrap();
    assert_eq!(name_of(&artefact.path), THREE[2]);
    assert!(artefact.rule.unwrap().ends_with("the best, by train_loss = 0.25 in status.json"));
}

#[test]
fn a_run_is_resumed_from_its_link_or_its_newest_checkpoint() {
    let folder = run(&THREE);
    let at =
        |arch: Option<&str>| resume_point(folder.path(), arch).map(|path| path.map(|path| name_of(&path)));
    assert_eq!(at(None).unwrap().as_deref(), Some(THREE[2]), "the link was lost");
    link(folder.path(), "vit_base_patch16_latest.pth", THREE[1]);
    assert_eq!(at(None).unwrap().as_deref(), Some(THREE[1]));
    assert_eq!(at(Some("hiera_tiny_224")).unwrap().as_deref(), Some(THREE[1]), "the caller sees what it is");
    link(folder.path(), "hiera_tiny_224_latest.pth", THREE[0]);
    assert_eq!(at(Some("hiera_tiny_224")).unwrap().as_deref(), Some(THREE[0]));
    assert!(
        at(None).unwrap_err().to_string().contains("hiera_tiny_224_latest.pth, vit_base_patch16_latest.pth")
    );
    assert_eq!(resume_point(&folder.path().join("nowhere"), None).unwrap(), None);
}
