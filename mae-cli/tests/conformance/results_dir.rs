//! Where results go: the recorded command lines of category `results_dir`.

use crate::golden;
use mae_cli::spec::{Action, Kind, Plan, Value, select, yaml};

#[test]
fn the_results_folder_is_chosen_as_upstream_does() {
    let cases = golden::read("cli_cases.json");
    let mut count = 0;
    for case in cases["cases"].as_array().unwrap().iter().filter(|case| case["category"] == "results_dir") {
        let id = case["id"].as_str().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let spec = folder.path().join("spec.yaml");
        std::fs::write(&spec, case["files"]["cfg/spec.yaml"].as_str().unwrap()).unwrap();
        let arguments: Vec<&str> =
            case["argv"].as_array().unwrap().iter().filter_map(|text| text.as_str()).collect();
        let (action, given) = (arguments[0], &arguments[3..]);
        let action = *Action::ALL.iter().find(|known| known.name() == action).unwrap();
        let mut overrides = vec!["dataset.train_data_sources=/d".to_owned()];
        overrides.extend(given.iter().map(|text| (*text).to_owned()));
        let plan = Plan::load(&spec, &overrides, action);
        count += 1;
        if let Some(config) = case["expect"]["config"].as_object() {
            let plan = plan.unwrap_or_else(|error| panic!("{id}: {error}"));
            let written = yaml::read(plan.to_yaml().as_bytes(), "experiment.yaml").unwrap();
            for (path, expected) in config {
                let found = select(&written, path).map(|node| node.value.clone());
                assert_eq!(found, Some(golden::value(expected)), "{id}: {path}");
            }
            assert_eq!(
                Some(Value::Str(plan.results_dir().display().to_string())),
                config.get("results_dir").map(golden::value),
                "{id}"
            );
        } else if case["expect"]["task_ran"] == false && case["files"].as_object().unwrap().len() == 1 {
            assert_eq!(plan.unwrap_err().kind(), Kind::Required, "{id}");
        }
    }
    assert!(count == 0 || count > 5, "{count} cases");
}
