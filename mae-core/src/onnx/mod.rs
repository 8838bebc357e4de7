//! ONNX: the interpreter of [`Ops`](crate::ops::Ops) that records, and the file it becomes.
//!
//! ```no_run
//! # fn classify(
//! #     classifier: &mae_core::backbone::Encoder,
//! #     params: &mae_core::params::Params,
//! # ) -> mae_core::Result<()> {
//! use mae_core::onnx::{self, ExportOptions};
//!
//! let options = ExportOptions { height: 224, width: 224, ..ExportOptions::default() };
//! onnx::export("model.onnx".as_ref(), params, &options, |ops, images| classifier.features(ops, images))?;
//! # Ok(())
//! # }
//! ```
//!
//! | room | what lives there |
//! | --- | --- |
//! | `recorder` | values and the table of what has been recorded |
//! | `operations` | what each operation becomes |
//! | `shapes` | reshapes, reductions, and the arithmetic of dimensions |
//! | `graph` | nodes, constants, names |
//! | `opset` | what the versions of the operator set change |
//! | `proto` | the messages of the file format |
//! | `preprocess` | images of bytes as the input |
//! | `write` | streaming, external data, putting files in place |
//! | `inspect` | what an ONNX file says of itself, ours or another's, without its weights |
//! | [`Calibrator`] | 8-bit integers: ranges measured on images, and the quantised file |
//! | [`Session`] | running an ONNX file in onnxruntime |
//!
//! # What the graph looks like
//! - The input is `input`, `[batch_size, C, H, W]` fp32, the result `output`; every result in between has its shape, the
//!   batch being the only dimension that may be open.
//! - Parameters keep their names of the state dict. A linear layer's weight is stored transposed, `[in, out]`, and says
//!   so in its `doc_string`: `MatMul` and `Add` on a constant are what onnxruntime and TensorRT fuse best over more than
//!   two dimensions (`Gemm` has two only, and a `Transpose` node would leave the work to each loading). What is computed
//!   from parameters alone, such as resampled positions, is stored as `NAME.folded`.
//! - A node is called after the module of its parameters, else after the part of the model it stands in:
//!   `blocks.3.attn.qkv/MatMul`. The same operation on the same inputs is one node, the same small constant one
//!   initializer.
//! - Images are channels-last between convolutions, which ONNX has channels-first: reorderings wait until an operation
//!   needs them, so that they cancel where they can.
//! - No tensor that is needed has more than eight dimensions, which is TensorRT's limit: Hiera's reordering of its tokens
//!   is a `Gather` of rows.
//! - In fp16, weights and results are 16-bit floats, but input and output stay fp32, and so does what fp16 cannot hold:
//!   sums of squares over an image, and means.
//! - `LayerNormalization` and `Gelu` are single nodes in the operator sets that have them (17, 20), else the
//!   compositions that runtimes recognise; attention is `MatMul`, `Mul`, `Softmax`, `MatMul`.

mod graph;
mod inspect;
mod operations;
mod opset;
mod preprocess;
mod proto;
mod quantize;
mod recorder;
mod session;
mod shapes;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

pub use graph::DataType;
pub use inspect::{Described, Description, describe};
pub use opset::{NEWEST_OPSET, OLDEST_OPSET};
pub use preprocess::Preprocessing;
pub use quantize::Calibrator;
pub use recorder::{Recorder, Value};
pub use session::{Session, find_library};

use crate::error::{Error, Result};
use crate::params::Params;
use opset::Opset;
use proto::{ModelProto, OperatorSetIdProto, StringStringEntryProto};
use write::Model;

/// The name of the model's input.
pub const INPUT_NAME: &str = "input";
/// The name of the model's result.
pub const OUTPUT_NAME: &str = "output";

/// How a model is exported.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportOptions {
    /// Version of the operator set, [`OLDEST_OPSET`] to [`NEWEST_OPSET`].
    pub opset: i64,
    /// Images a batch; `None` leaves it open, as the dimension `batch_size`.
    pub batch_size: Option<i64>,
    /// Channels of an image.
    pub channels: i64,
    /// Height of an image in pixels.
    pub height: i64,
    /// Width of an image in pixels.
    pub width: i64,
    /// Whether the model computes in 16-bit floats. Input and output stay fp32.
    pub fp16: bool,
    /// Takes images of bytes, `[N, H, W, 3]`, and normalises them itself; `None`: takes `[N, C, H, W]` fp32, normalised.
    pub preprocessing: Option<Preprocessing>,
    /// Keys and values for the model's `metadata_props`, in this order.
    pub metadata: Vec<(String, String)>,
    /// Whether tensors go to a file beside the model, its name followed by `.data`. `None`: only when the model would
    /// exceed the 2 GiB of one file.
    pub external_data: Option<bool>,
    /// Whether files that exist are replaced.
    pub overwrite: bool,
}

impl Default for ExportOptions {
    /// Operator set 17, open batch, three channels, 224 by 224 pixels, fp32, nothing replaced.
    fn default() -> Self {
        ExportOptions {
            opset: 17,
            batch_size: None,
            channels: 3,
            height: 224,
            width: 224,
            fp16: false,
            preprocessing: None,
            metadata: Vec::new(),
            external_data: None,
            overwrite: false,
        }
    }
}

/// What an export wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportSummary {
    /// Nodes of the graph.
    pub nodes: usize,
    /// How often each operator is there, by name.
    pub operators: Vec<(String, usize)>,
    /// Constant tensors: parameters and small constants.
    pub initializers: usize,
    /// Bytes of all files.
    pub bytes: u64,
    /// Shape of the result; -1 for an open batch.
    pub output_shape: Vec<i64>,
    /// The files, the model last.
    pub files: Vec<PathBuf>,
}

/// Records `forward` for normalised images `[N, C, H, W]` and writes it to `path`. The folder must exist. No file appears, or is
/// replaced, before it is complete.
///
/// # Errors
/// [`Error::Onnx`] for options that cannot be met or a file that exists; [`Error::Shape`] when the model does not fit
/// the images; [`Error::Io`]; what `forward` returns.
pub fn export(
    path: &Path,
    params: &Params,
    options: &ExportOptions,
    forward: impl FnOnce(&Recorder<'_>, &Value) -> Result<Value>,
) -> Result<ExportSummary> {
    if !options.overwrite {
        write::refuse_existing(&[path])?;
    }
    let (model, output_shape) = record(params, options, forward)?;
    let written = model.write(path, options.external_data, options.overwrite)?;
    let nodes = model.proto.graph.as_ref().map(|graph| &graph.node[..]).unwrap_or_default();
    let mut operators = BTreeMap::<&str, usize>::new();
    nodes.iter().for_each(|node| *operators.entry(&node.op_type).or_default() += 1);
    Ok(ExportSummary {
        nodes: nodes.len(),
        operators: operators.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
        initializers: model.initializers.len(),
        bytes: written.bytes,
        output_shape,
        files: written.files,
    })
}

/// Records `forward`: the model and the shape of its result.
fn record(
    params: &Params,
    options: &ExportOptions,
    forward: impl FnOnce(&Recorder<'_>, &Value) -> Result<Value>,
) -> Result<(Model, Vec<i64>)> {
    let opset = Opset::new(options.opset)?;
    let metadata_props = metadata(&options.metadata)?;
    let shape = input_shape(options)?;
    let _guard = tch::no_grad_guard();
    let float_type = if options.fp16 { opset.half()? } else { DataType::Float };
    let recorder = Recorder::new(params, opset, float_type, OUTPUT_NAME);
    let images = recorder.images(INPUT_NAME, &shape, options.preprocessing.as_ref())?;
    let output = forward(&recorder, &images)?;
    let output_shape = output.shape().to_vec();
    let (graph, output) = recorder.finish(&output)?;
    let (graph, initializers) = graph.finish("mae", output);
    let proto = ModelProto {
        ir_version: opset.ir_version(),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: opset.version() }],
        producer_name: "mae".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(graph),
        metadata_props,
    };
    Ok((Model { proto, initializers }, output_shape))
}

fn input_shape(options: &ExportOptions) -> Result<[i64; 4]> {
    let &ExportOptions { batch_size, channels, height, width, .. } = options;
    let sizes = [
        ("batch_size", batch_size.unwrap_or(1)),
        ("channels", channels),
        ("height", height),
        ("width", width),
    ];
    if let Some((name, size)) = sizes.into_iter().find(|(_, size)| *size < 1) {
        return Err(Error::Onnx {
            problem: format!("{name} is {size}, expected at least 1"),
            remedy: "correct it; an open batch is set by leaving it unset (-1 in a spec)".into(),
        });
    }
    Ok([batch_size.unwrap_or(-1), channels, height, width])
}

fn metadata(entries: &[(String, String)]) -> Result<Vec<StringStringEntryProto>> {
    let mut keys = HashSet::new();
    entries
        .iter()
        .map(|(key, value)| {
            if keys.insert(key) {
                return Ok(StringStringEntryProto { key: key.clone(), value: value.clone() });
            }
            Err(Error::Onnx {
                problem: format!("the metadata has two values for '{key}', and a reader would see one"),
                remedy: "keep one".into(),
            })
        })
        .collect()
}
