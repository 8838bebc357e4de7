//! Any bytes as a spec: an error or a plan, in bounded time and memory; and what is read is written back the same.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use mae_cli::spec::{Action, Plan, compose_bytes, yaml};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(map) = yaml::read(bytes, "spec.yaml") {
        let written = yaml::write(&map);
        // YAML 1.1 breaks lines at these, the reader's YAML 1.2 does not.
        if !written.contains(['\u{85}', '\u{2028}', '\u{2029}']) {
            let again = yaml::read(written.as_bytes(), "again.yaml");
            let again = again.unwrap_or_else(|error| panic!("{error}\n{written}"));
            assert_eq!(yaml::write(&again), written);
        }
    }
    // `results_dir` and data are given, so that the rules are reached.
    let overrides = ["results_dir=/r", "dataset.train_data_sources=/d", "dataset.val_data_sources=/d"];
    let folder = Path::new("/nonexistent/spec.yaml");
    if let Ok(composed) = compose_bytes(bytes, folder, &overrides) {
        if let Ok(plan) = Plan::of(composed, Action::Train, "spec.yaml", &|_| None) {
            let _ = (plan.to_yaml(), plan.to_resolved_yaml(), plan.differences_from_tao());
        }
    }
});
