//! onnxruntime through the `ort` crate.

use std::path::Path;

use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::TensorRef;
use tch::Tensor;

use crate::error::{Error, Result};

/// A model loaded by onnxruntime.
pub(super) struct Runtime {
    session: Session,
}

impl Runtime {
    pub(super) fn open(path: &Path, library: &Path) -> Result<Self> {
        let environment = ort::init_from(library).map_err(|error| Error::OnnxRuntime {
            problem: format!("{} cannot be used: {error}", library.display()),
            remedy: format!(
                "install onnxruntime 1.{} or newer (pip install onnxruntime), or name another libonnxruntime.so with onnxruntime=… \
                 or ORT_DYLIB_PATH",
                ort::MINOR_VERSION
            ),
        })?;
        // False when a session was opened before: then its environment goes on.
        let _ = environment.commit();
        let session = session(path).map_err(|error| Error::OnnxRuntime {
            problem: format!("{} cannot be loaded: {}", path.display(), error.message()),
            remedy: "export the model again, with an older opset_version if this onnxruntime is old".into(),
        })?;
        Ok(Runtime { session })
    }

    /// The outputs for one batch, which is as the model takes it.
    pub(super) fn run(&mut self, batch: &Tensor, bytes: bool) -> Result<Vec<Tensor>> {
        let (shape, flat) = (batch.size(), batch.f_contiguous()?.f_reshape([-1])?);
        let outputs = if bytes {
            let values = Vec::<u8>::try_from(flat)?;
            TensorRef::from_array_view((shape, &values[..]))
                .and_then(|input| self.session.run(ort::inputs![input]))
                .and_then(|outputs| floats(&outputs))
        } else {
            let values = Vec::<f32>::try_from(flat)?;
            TensorRef::from_array_view((shape, &values[..]))
                .and_then(|input| self.session.run(ort::inputs![input]))
                .and_then(|outputs| floats(&outputs))
        };
        let outputs = outputs.map_err(|error| Error::OnnxRuntime {
            problem: format!("the model failed: {}", error.message()),
            remedy: "check it with export.verify=true".into(),
        })?;
        outputs
            .iter()
            .map(|(shape, values)| Ok(Tensor::f_from_slice(values)?.f_reshape(&shape[..])?))
            .collect()
    }
}

fn session(path: &Path) -> ort::Result<Session> {
    Session::builder()?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(tch::get_num_threads().max(1) as usize)?
        // Threads that wait without sleeping would keep libtorch's from working.
        .with_intra_op_spinning(false)?
        .commit_from_file(path)
}

fn floats(outputs: &ort::session::SessionOutputs<'_>) -> ort::Result<Vec<(Vec<i64>, Vec<f32>)>> {
    outputs
        .values()
        .map(|output| {
            let (shape, values) = output.try_extract_tensor::<f32>()?;
            Ok((shape.to_vec(), values.to_vec()))
        })
        .collect()
}
