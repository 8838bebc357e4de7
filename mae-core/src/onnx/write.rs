//! The file: streamed, so that a model is never in memory a second time, and in place only when it is complete.

use std::fs::{self, File, Permissions};
use std::io::{BufWriter, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use prost::Message;
use tempfile::{Builder, NamedTempFile};

use super::graph::Initializer;
use super::proto::{EXTERNAL, ModelProto, StringStringEntryProto, TensorProto};
use crate::error::{Error, Result};

/// The most that a protobuf message can hold, and so a model in one file.
const MESSAGE_LIMIT: u64 = i32::MAX as u64;
/// Constants below this many bytes stay in the model: shape inference reads them there.
const EXTERNAL_MINIMUM: usize = 1024;
/// Tensors in the other file start at multiples of the page size, so that runtimes can map them.
const EXTERNAL_ALIGNMENT: u64 = 4096;

/// Fields 7 of `ModelProto`, 5 of `GraphProto` and 9 of `TensorProto`, each of the wire type "bytes of a length".
const MODEL_GRAPH: u8 = 7 << 3 | 2;
const GRAPH_INITIALIZER: u8 = 5 << 3 | 2;
const TENSOR_RAW_DATA: u8 = 9 << 3 | 2;

/// A recorded model: its messages, and its constants apart.
#[derive(Debug)]
pub(super) struct Model {
    pub proto: ModelProto,
    pub initializers: Vec<Initializer>,
}

/// What was written.
#[derive(Debug)]
pub(super) struct Written {
    pub bytes: u64,
    pub files: Vec<PathBuf>,
}

/// The file that holds the tensors of the model at `path` when they are not in it: `model.onnx.data`, as PyTorch names
/// it.
pub(super) fn data_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".data");
    PathBuf::from(name)
}

impl Model {
    /// Writes the model to `path`, its tensors beside it where `external` says so or, if it says nothing, where they
    /// must be.
    pub fn write(&self, path: &Path, external: Option<bool>, overwrite: bool) -> Result<Written> {
        let inside: Vec<TensorProto> = self.initializers.iter().map(|tensor| tensor.header.clone()).collect();
        let size = self.size(&inside);
        let fits = size <= MESSAGE_LIMIT;
        if external == Some(false) && !fits {
            return Err(Error::Onnx {
                problem: format!("the model takes {size} bytes, and one ONNX file holds {MESSAGE_LIMIT}"),
                remedy: "let the tensors be written to a file beside it".into(),
            });
        }
        let data = data_path(path);
        let external = external.unwrap_or(!fits);
        let targets: &[&Path] = if external { &[&data, path] } else { &[path] };
        if !overwrite {
            refuse_existing(targets)?;
        }
        let mut outputs = Vec::with_capacity(2);
        if external {
            let headers = self.external_headers(&data, inside)?;
            // The tensors go into place first: a model never stands there without them.
            outputs.push(Output::write(&data, |out| self.stream_external(out, &headers))?);
            outputs.push(Output::write(path, |out| self.stream(out, &headers))?);
        } else {
            outputs.push(Output::write(path, |out| self.stream(out, &inside))?);
        }
        put_in_place(outputs, overwrite)
    }

    /// The tensors' headers, those of some size pointing to the file `data`.
    fn external_headers(&self, data: &Path, mut headers: Vec<TensorProto>) -> Result<Vec<TensorProto>> {
        let location = data.file_name().and_then(|name| name.to_str()).ok_or_else(|| Error::Onnx {
            problem: format!(
                "the name of {} is not UTF-8, which a reference from the model needs",
                data.display()
            ),
            remedy: "choose another file name".into(),
        })?;
        let mut end = 0;
        for (header, tensor) in headers.iter_mut().zip(&self.initializers) {
            if tensor.len() < EXTERNAL_MINIMUM {
                continue;
            }
            let offset = aligned(end);
            end = offset + tensor.len() as u64;
            let entry = |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
            header.data_location = EXTERNAL;
            header.external_data = vec![
                entry("location", location.to_owned()),
                entry("offset", offset.to_string()),
                entry("length", tensor.len().to_string()),
            ];
        }
        Ok(headers)
    }

    fn stream_external(&self, out: &mut Output, headers: &[TensorProto]) -> Result<()> {
        for (_, tensor) in headers.iter().zip(&self.initializers).filter(|(header, _)| is_external(header)) {
            out.put(&vec![0; (aligned(out.bytes) - out.bytes) as usize])?;
            out.put(&tensor.bytes()?)?;
        }
        Ok(())
    }

    /// Writes the model message. Tensors are fetched one at a time.
    fn stream(&self, out: &mut Output, headers: &[TensorProto]) -> Result<()> {
        let mut model = self.proto.clone();
        let graph = model.graph.take().unwrap_or_default();
        out.put(&model.encode_to_vec())?;
        out.put_prefix(MODEL_GRAPH, self.graph_size(headers))?;
        out.put(&graph.encode_to_vec())?;
        for (header, tensor) in headers.iter().zip(&self.initializers) {
            out.put_prefix(GRAPH_INITIALIZER, tensor_size(header, tensor))?;
            out.put(&header.encode_to_vec())?;
            if !is_external(header) {
                out.put_prefix(TENSOR_RAW_DATA, tensor.len() as u64)?;
                out.put(&tensor.bytes()?)?;
            }
        }
        Ok(())
    }

    /// Bytes of the model message.
    fn size(&self, headers: &[TensorProto]) -> u64 {
        let graph = self.proto.graph.as_ref().map_or(0, |graph| field_size(graph.encoded_len() as u64));
        self.proto.encoded_len() as u64 - graph + field_size(self.graph_size(headers))
    }

    fn graph_size(&self, headers: &[TensorProto]) -> u64 {
        let graph = self.proto.graph.as_ref().map_or(0, Message::encoded_len) as u64;
        let tensors = headers.iter().zip(&self.initializers);
        graph + tensors.map(|(header, tensor)| field_size(tensor_size(header, tensor))).sum::<u64>()
    }
}

fn is_external(header: &TensorProto) -> bool {
    header.data_location == EXTERNAL
}

fn tensor_size(header: &TensorProto, tensor: &Initializer) -> u64 {
    let inside = if is_external(header) { 0 } else { field_size(tensor.len() as u64) };
    header.encoded_len() as u64 + inside
}

/// Bytes of a field of `length` bytes with its key and its length.
fn field_size(length: u64) -> u64 {
    1 + prost::length_delimiter_len(length as usize) as u64 + length
}

fn aligned(offset: u64) -> u64 {
    offset.next_multiple_of(EXTERNAL_ALIGNMENT)
}

/// Refuses to write where something is.
///
/// # Errors
/// [`Error::Onnx`] that names the file.
pub(super) fn refuse_existing(paths: &[&Path]) -> Result<()> {
    paths.iter().find(|path| path.exists()).map_or(Ok(()), |path| Err(exists(path)))
}

fn exists(path: &Path) -> Error {
    Error::Onnx {
        problem: format!("{} exists already", path.display()),
        remedy: "choose another name, or remove the file".into(),
    }
}

/// A file on its way: under a temporary name in the folder where it will be, removed unless it gets there.
struct Output {
    file: BufWriter<NamedTempFile>,
    path: PathBuf,
    bytes: u64,
}

impl Output {
    /// Writes all of a file under its temporary name.
    fn write(path: &Path, body: impl FnOnce(&mut Output) -> Result<()>) -> Result<Output> {
        let file = Builder::new()
            .prefix(".onnx-")
            // Readable by others as far as the umask allows: temporary files are private by default.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder(path))
            .map_err(|source| io_error("creating", path, source))?;
        let mut output =
            Output { file: BufWriter::with_capacity(1 << 20, file), path: path.to_owned(), bytes: 0 };
        body(&mut output)?;
        let synced = output.file.flush().and_then(|()| output.file.get_ref().as_file().sync_all());
        synced.map_err(|source| io_error("writing", path, source))?;
        Ok(output)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|source| io_error("writing", &self.path, source))
    }

    /// The key and the length of a field that follows.
    fn put_prefix(&mut self, key: u8, length: u64) -> Result<()> {
        let mut prefix = vec![key];
        // It fails only where the buffer cannot grow, and a vector does.
        let _ = prost::encode_length_delimiter(length as usize, &mut prefix);
        self.put(&prefix)
    }

    fn put_in_place(self, overwrite: bool) -> Result<()> {
        let path = &self.path;
        let mut file =
            self.file.into_inner().map_err(|error| io_error("writing", path, error.into_error()))?;
        if !overwrite {
            match file.persist_noclobber(path) {
                Ok(_) => return Ok(()),
                Err(failed) if failed.error.kind() == ErrorKind::AlreadyExists => return Err(exists(path)),
                // Not every file system can rename without replacing. That nothing was there is known from before.
                Err(failed) => file = failed.file,
            }
        }
        file.persist(path).map(drop).map_err(|failed| io_error("writing", path, failed.error))
    }
}

/// Moves the files to their names, or none of them where nothing was before.
fn put_in_place(outputs: Vec<Output>, overwrite: bool) -> Result<Written> {
    let mut written = Written { bytes: 0, files: Vec::with_capacity(outputs.len()) };
    for output in outputs {
        let (path, bytes) = (output.path.clone(), output.bytes);
        if let Err(error) = output.put_in_place(overwrite) {
            if !overwrite {
                // The first error is the one to report.
                written.files.iter().for_each(|file| drop(fs::remove_file(file)));
            }
            return Err(error);
        }
        written.bytes += bytes;
        written.files.push(path);
    }
    if let Some(path) = written.files.first() {
        let folder = folder(path);
        // A rename is durable when its folder is.
        File::open(folder)
            .and_then(|file| file.sync_all())
            .map_err(|source| io_error("writing", folder, source))?;
    }
    Ok(written)
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn io_error(action: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Io { action, path: path.to_owned(), source }
}
