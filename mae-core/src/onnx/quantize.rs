//! 8-bit integers: the ranges of a model's numbers measured on real images, and the model with these ranges in it.
//!
//! A quantised model states them itself, as pairs of `QuantizeLinear` and `DequantizeLinear` before the operations that may
//! compute in int8 (ONNX's "QDQ" form). TensorRT has read that form since version 8, and since 11 no other; onnxruntime
//! runs it too. Ranges are symmetric, as TensorRT asks: of activations one for the whole tensor, of weights one for each
//! output channel.
//!
//! What is quantised is where nearly all of the work is: linear layers and undivided convolutions. The first convolution,
//! which reads the pixels, and the last linear layer, the classifier, stay as they are: they cost little, and errors there
//! count most. So do depthwise convolutions, which gain nothing.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::Path;

use prost::Message;
use tch::{Kind, Tensor};

use super::graph::DataType;
use super::inspect::describe;
use super::preprocess::Preprocessing;
use super::proto::{
    ATTRIBUTE_INT, AttributeProto, EXTERNAL, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};
use super::session::Session;
use crate::checkpoint::mmap::SharedBytes;
use crate::error::{Error, Result};

mod histogram;

use histogram::Histogram;

/// The largest 8-bit value that is used: ranges are symmetric.
const LARGEST: f64 = 127.0;

/// Measures the ranges of an exported model in onnxruntime.
pub struct Calibrator {
    model: ModelProto,
    sites: Vec<Site>,
    activations: Vec<(String, Histogram)>,
    session: Session,
}

/// An operation to quantise.
struct Site {
    node: usize,
    /// The axis of the weight's output channels.
    axis: i64,
}

impl Calibrator {
    /// For the model at `path`, one that this project exported in fp32 into one file. `library` and `normalisation` are as
    /// in [`Session::open`].
    ///
    /// # Errors
    /// [`Error::OnnxFile`] for another model, [`Error::OnnxRuntime`] when onnxruntime is missing or refuses it.
    pub fn open(path: &Path, library: &Path, normalisation: Preprocessing) -> Result<Self> {
        let description = describe(path)?;
        let refuse = |problem: &str, remedy: &str| {
            Err(Error::OnnxFile { path: path.to_owned(), problem: problem.into(), remedy: remedy.into() })
        };
        if !description.producer.starts_with("mae ") {
            return refuse(
                "only models that mae export wrote are quantised here",
                "quantise it with the program that wrote it",
            );
        }
        if description.is_fp16 || description.is_quantized {
            return refuse("int8 starts from a model in fp32", "export it with export.precision=fp32");
        }
        let bytes = SharedBytes::map(path)?;
        let model = ModelProto::decode(&bytes[..]).map_err(|error| Error::OnnxFile {
            path: path.to_owned(),
            problem: format!("this is no ONNX file: {error}"),
            remedy: "export it again".into(),
        })?;
        let graph = model.graph.clone().unwrap_or_default();
        if graph.initializer.iter().any(|tensor| tensor.data_location == EXTERNAL) {
            return refuse(
                "its weights are in a second file, and the quantised model would not fit into one",
                "use fp16 for a model of this size",
            );
        }
        let sites = sites(&graph);
        let mut seen = HashSet::new();
        let names = sites.iter().map(|site| graph.node[site.node].input[0].clone());
        let activations: Vec<String> = names.filter(|name| seen.insert(name.clone())).collect();
        let observed = observed(&model, &activations);
        let file = temporary(path, &observed)?;
        let session = Session::open_described(file.path(), description, library, normalisation)?;
        Ok(Calibrator {
            model,
            sites,
            activations: activations.into_iter().map(|name| (name, Histogram::default())).collect(),
            session,
        })
    }

    /// Adds normalised images `[N, 3, H, W]` to what was measured.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn add(&mut self, images: &Tensor) -> Result<()> {
        let activations = &mut self.activations;
        // One at a time: all the activations of a batch would not fit into memory.
        self.session.batches(images, 1, |outputs| {
            // The model's own output comes first.
            for ((_, histogram), values) in activations.iter_mut().zip(&outputs[1..]) {
                histogram.add(values)?;
            }
            Ok(())
        })
    }

    /// Writes the quantised model, in place of an older one, and returns how many operations compute in int8.
    ///
    /// # Errors
    /// [`Error::Io`], or when libtorch fails.
    pub fn write(&self, path: &Path) -> Result<usize> {
        let model = self.quantized()?;
        let file = temporary(path, &model)?;
        file.persist(path).map_err(|failed| io_error(path, failed.error))?;
        Ok(self.sites.len())
    }

    fn quantized(&self) -> Result<ModelProto> {
        let mut model = self.model.clone();
        let mut graph = model.graph.take().unwrap_or_default();
        let axes: HashMap<usize, i64> = self.sites.iter().map(|site| (site.node, site.axis)).collect();
        let nodes = std::mem::take(&mut graph.node);
        let mut added = HashSet::new();
        for (index, mut node) in nodes.into_iter().enumerate() {
            if let Some(&axis) = axes.get(&index) {
                let (activation, weight) = (node.input[0].clone(), node.input[1].clone());
                if added.insert(activation.clone()) {
                    let range = self.activations.iter().find(|(name, _)| *name == activation);
                    let limit = range.map_or(0.0, |(_, histogram)| histogram.limit());
                    let scale = Tensor::f_from_slice(&[scale(limit)])?.f_reshape(&[] as &[i64])?;
                    pair(&mut graph, &activation, &scale, None)?;
                }
                if added.insert(weight.clone()) {
                    let scales = weight_scales(&graph, &weight, axis)?;
                    pair(&mut graph, &weight, &scales, Some(axis))?;
                }
                node.input[0] = dequantized(&activation);
                node.input[1] = dequantized(&weight);
            }
            graph.node.push(node);
        }
        model.graph = Some(graph);
        Ok(model)
    }
}

/// The operations to quantise: those with a constant weight, but the first convolution and the last linear layer.
fn sites(graph: &GraphProto) -> Vec<Site> {
    let constants: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    let has_weight =
        |node: &NodeProto| node.input.get(1).is_some_and(|name| constants.contains(name.as_str()));
    let site = |(index, node): (usize, &NodeProto)| match node.op_type.as_str() {
        "MatMul" if has_weight(node) => Some(Site { node: index, axis: 1 }),
        "Conv" if has_weight(node) && group(node) == 1 => Some(Site { node: index, axis: 0 }),
        _ => None,
    };
    let all: Vec<Site> = graph.node.iter().enumerate().filter_map(site).collect();
    let op = |site: &Site| graph.node[site.node].op_type.as_str();
    let first = all.iter().position(|site| op(site) == "Conv");
    let last = all.iter().rposition(|site| op(site) == "MatMul");
    let kept = |index: &usize| Some(*index) != first && Some(*index) != last;
    all.into_iter().enumerate().filter(|(index, _)| kept(index)).map(|(_, site)| site).collect()
}

fn group(node: &NodeProto) -> i64 {
    let attribute = node.attribute.iter().find(|attribute| attribute.name == "group");
    attribute.and_then(|attribute| attribute.i).unwrap_or(1)
}

/// The model with the activations as further outputs.
fn observed(model: &ModelProto, activations: &[String]) -> ModelProto {
    let mut model = model.clone();
    if let Some(graph) = &mut model.graph {
        let known: HashMap<&str, &ValueInfoProto> =
            graph.value_info.iter().map(|info| (info.name.as_str(), info)).collect();
        let infos =
            activations.iter().filter_map(|name| known.get(name.as_str()).map(|info| (*info).clone()));
        let infos: Vec<_> = infos.collect();
        graph.output.extend(infos);
    }
    model
}

/// Largest absolute value of each output channel of a weight, as scales.
fn weight_scales(graph: &GraphProto, name: &str, axis: i64) -> Result<Tensor> {
    let tensor = graph.initializer.iter().find(|tensor| tensor.name == name).cloned().unwrap_or_default();
    let words = tensor.raw_data.as_chunks::<4>().0;
    let values: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
    let weight = Tensor::f_from_slice(&values)?.f_reshape(&tensor.dims[..])?;
    let others: Vec<i64> = (0..tensor.dims.len() as i64).filter(|&dim| dim != axis).collect();
    let limits = weight.f_abs()?.f_amax(&others[..], false)?;
    Ok(limits.f_div_scalar(LARGEST)?.f_clamp_min(f64::from(f32::MIN_POSITIVE))?)
}

/// The step between neighbouring 8-bit values.
fn scale(limit: f64) -> f32 {
    ((limit / LARGEST) as f32).max(f32::MIN_POSITIVE)
}

fn dequantized(name: &str) -> String {
    format!("{name}/DequantizeLinear_output")
}

/// Adds the pair of nodes through which the tensor `name` is read as 8-bit integers.
fn pair(graph: &mut GraphProto, name: &str, scale: &Tensor, axis: Option<i64>) -> Result<()> {
    let (scale_name, zero_name) = (format!("{name}/scale"), format!("{name}/zero_point"));
    let dims = scale.size();
    let values = Vec::<f32>::try_from(scale.f_to_kind(Kind::Float)?.f_reshape([-1])?)?;
    let constant = |name: &str, data_type, raw_data| TensorProto {
        dims: dims.clone(),
        data_type,
        name: name.to_owned(),
        raw_data,
        ..TensorProto::default()
    };
    graph.initializer.push(constant(
        &scale_name,
        DataType::Float as i32,
        values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    ));
    // Its type says that the integers are signed.
    graph.initializer.push(constant(&zero_name, INT8, vec![0; values.len()]));
    let quantized = format!("{name}/QuantizeLinear_output");
    let mut node = |op: &str, input: &str, output: &str| {
        graph.node.push(NodeProto {
            input: [input, &scale_name, &zero_name].map(str::to_owned).to_vec(),
            output: vec![output.to_owned()],
            name: format!("{name}/{op}"),
            op_type: op.to_owned(),
            attribute: axis.iter().map(|&axis| axis_attribute(axis)).collect(),
        });
    };
    node("QuantizeLinear", name, &quantized);
    node("DequantizeLinear", &quantized, &dequantized(name));
    Ok(())
}

/// `TensorProto.DataType` of signed bytes.
const INT8: i32 = 3;

fn axis_attribute(axis: i64) -> AttributeProto {
    AttributeProto { name: "axis".into(), r#type: ATTRIBUTE_INT, i: Some(axis), ..AttributeProto::default() }
}

/// The model under a temporary name in the folder of `path`.
fn temporary(path: &Path, model: &ModelProto) -> Result<tempfile::NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    let mut file = tempfile::Builder::new()
        .prefix(".onnx-")
        .permissions(permissions)
        .tempfile_in(folder)
        .map_err(|source| io_error(path, source))?;
    file.write_all(&model.encode_to_vec())
        .and_then(|()| file.as_file().sync_all())
        .map_err(|source| io_error(path, source))?;
    Ok(file)
}

fn io_error(path: &Path, source: std::io::Error) -> Error {
    Error::Io { action: "writing", path: path.to_owned(), source }
}
