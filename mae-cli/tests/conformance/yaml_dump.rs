//! `experiment.yaml` is spelled as PyYAML spells it.

use crate::golden;
use mae_cli::spec::{Map, Node, yaml};

#[test]
fn every_recorded_value_is_written_byte_for_byte() {
    let vectors = golden::read("yaml_dump_vectors.json");
    let mut failures = Vec::new();
    let mut count = 0;
    for group in ["strings", "scalars", "containers"] {
        for vector in vectors[group].as_array().unwrap() {
            count += 1;
            let node = Node::new(golden::value(&vector["value"]), Default::default());
            let written = yaml::write(&Map::from_iter([("k".to_owned(), node)]));
            let expected = vector["yaml"].as_str().unwrap();
            if written != expected {
                failures.push(format!("{}: wrote {written:?}, expected {expected:?}", vector["value"]));
            }
        }
    }
    assert!(count > 50, "only {count} vectors found");
    assert!(failures.is_empty(), "{} of {count}:\n{}", failures.len(), failures.join("\n"));
}
