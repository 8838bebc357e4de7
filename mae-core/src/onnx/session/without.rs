//! A build without onnxruntime: opening a model is an error that says so.

use std::convert::Infallible;
use std::path::Path;

use tch::Tensor;

use crate::error::{Error, Result};

/// A model loaded by onnxruntime; there is none in this build.
pub(super) struct Runtime(Infallible);

impl Runtime {
    pub(super) fn open(path: &Path, _: &Path) -> Result<Self> {
        Err(Error::OnnxRuntime {
            problem: format!("{} cannot be run: this program was built without onnxruntime", path.display()),
            remedy: "build it with its default features, or with --features onnxruntime".into(),
        })
    }

    pub(super) fn run(&mut self, _: &Tensor, _: bool) -> Result<Vec<Tensor>> {
        match self.0 {}
    }
}
