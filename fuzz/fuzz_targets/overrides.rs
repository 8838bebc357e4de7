//! Any text as an override: an error or a value, which is printed and parsed back the same; sweeps are bounded.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mae_cli::spec::overrides::{self, sweep};
use mae_cli::spec::{Action, Plan, compose};

fuzz_target!(|text: &str| {
    if let Ok(parsed) = overrides::parse(text, 1) {
        let printed = parsed.to_string();
        let again = overrides::parse(&printed, 1).unwrap_or_else(|error| panic!("{printed}: {error}"));
        assert_eq!(again.key, parsed.key);
        assert_eq!(again.to_string(), printed);
    }
    let lines: Vec<&str> = text.lines().collect();
    if let Ok(runs) = sweep::expand(&lines) {
        assert!(runs.len() <= sweep::MAX_RUNS);
    }
    if let Ok(composed) = compose(None, &lines) {
        let _ = Plan::of(composed, Action::Evaluate, "spec.yaml", &|_| None);
    }
});
