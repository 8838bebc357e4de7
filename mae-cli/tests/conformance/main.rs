//! Conformance with Hydra 1.3.2, OmegaConf 2.3 and PyYAML 6: data recorded from them, read from `$MAE_GOLDENS/config`,
//! and with what a run of TAO wrote, from `$MAE_GOLDENS/e2e`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

mod cli;
mod defaults;
mod experiment;
mod golden;
mod overrides;
mod packaged;
mod status;
mod yaml_dump;
