//! Conformance with Hydra 1.3.2, OmegaConf 2.3 and PyYAML 6: data recorded from them, read from `$MAE_GOLDENS/config`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

mod defaults;
mod golden;
mod overrides;
mod yaml_dump;
