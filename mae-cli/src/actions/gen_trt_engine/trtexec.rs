//! NVIDIA's builder: where it is, which version, and its command line.
//!
//! The options are those of trtexec's own help text, of TensorRT 8.6, 10 and 11.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mae_core::onnx::Description;

use super::profile::Profile;
use super::wants_int8;
use crate::spec::{EnginePrecision, Plan};

/// Where TensorRT's packages put it when it is not on `PATH`.
const PLACES: [&str; 3] =
    ["/usr/src/tensorrt/bin/trtexec", "/opt/tensorrt/bin/trtexec", "/usr/local/tensorrt/bin/trtexec"];

/// The builder of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trtexec {
    /// The program.
    pub path: PathBuf,
    /// Major, minor and patch, when it says so.
    pub version: Option<[u32; 3]>,
}

impl Trtexec {
    /// The builder that the plan names, or else one on `PATH` or where packages put it; in words where it was looked for.
    pub(super) fn find(plan: &Plan) -> Result<Self, String> {
        if let Some(path) = &plan.gen_trt_engine.trtexec {
            // A bare name would be looked for on PATH.
            let found = std::fs::canonicalize(path).ok().filter(|path| path.is_file());
            return found
                .map(Self::at)
                .ok_or_else(|| format!("gen_trt_engine.trtexec names {path}, and no such file exists"));
        }
        let variable = std::env::var_os("PATH").unwrap_or_default();
        let on_path = std::env::split_paths(&variable).map(|folder| folder.join("trtexec"));
        let found = on_path.chain(PLACES.map(PathBuf::from)).find(|path| path.is_file());
        found.map(Self::at).ok_or_else(|| format!("it is neither on PATH nor at {}", PLACES.join(", ")))
    }

    fn at(path: PathBuf) -> Self {
        let output = Command::new(&path).arg("--help").stdin(Stdio::null()).output();
        let said = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        let version = version(&String::from_utf8_lossy(&said));
        Self { path, version }
    }

    /// The version in words.
    pub(super) fn version_text(&self) -> String {
        self.version.map_or_else(
            || "of unknown version".to_owned(),
            |[major, minor, patch]| format!("{major}.{minor}.{patch}"),
        )
    }

    /// Whether precisions come from the ONNX file alone, and the options for them are gone.
    pub(super) fn is_strongly_typed(&self) -> bool {
        self.version.is_some_and(|[major, ..]| major >= 11)
    }

    fn skips_inference_by_its_new_name(&self) -> bool {
        self.version.is_none_or(|version| version >= [8, 6, 0])
    }
}

/// The version in the banner `RUNNING TensorRT.trtexec [TensorRT v100300]`: two digits for each part, or one for those
/// of version 8.
fn version(text: &str) -> Option<[u32; 3]> {
    let (_, rest) = text.split_once("[TensorRT v")?;
    let (number, _) = rest.split_once(']')?;
    if number.contains('.') {
        let mut parts = number.split('.').map(str::parse);
        return Some([
            parts.next()?.ok()?,
            parts.next()?.ok()?,
            parts.next().and_then(Result::ok).unwrap_or(0),
        ]);
    }
    let value: u32 = number.parse().ok()?;
    if value >= 100_000 {
        Some([value / 10_000, value / 100 % 100, value % 100])
    } else {
        Some([value / 1000, value / 100 % 10, value % 100])
    }
}

/// trtexec's arguments. Without a builder, those of TensorRT 8.6 to 10.
pub(super) fn arguments(
    plan: &Plan,
    builder: Option<&Trtexec>,
    onnx: &Path,
    description: &Description,
    profile: &Profile,
    engine: &Path,
) -> Vec<String> {
    let settings = &plan.gen_trt_engine;
    let mut out = vec![format!("--onnx={}", onnx.display()), format!("--saveEngine={}", engine.display())];
    if profile.fixed.is_none() {
        let [min, opt, max] = profile.batches;
        for (name, batch) in [("min", min), ("opt", opt), ("max", max)] {
            out.push(format!("--{name}Shapes={}", profile.shape(batch)));
        }
    }
    if !builder.is_some_and(Trtexec::is_strongly_typed) {
        precision(&mut out, plan, description);
    }
    let tensorrt = &settings.tensorrt;
    // 0 leaves the limit to TensorRT.
    if tensorrt.workspace_size > 0 {
        out.push(format!("--memPoolSize=workspace:{}", tensorrt.workspace_size));
    }
    if let Some(cache) = &settings.timing_cache {
        out.push(format!("--timingCacheFile={cache}"));
    }
    out.push(format!("--device={}", settings.gpu_id));
    let new_name = builder.is_none_or(Trtexec::skips_inference_by_its_new_name);
    out.push(if new_name { "--skipInference" } else { "--buildOnly" }.to_owned());
    if settings.verbose {
        out.push("--verbose".to_owned());
    }
    out
}

/// The options for precisions of TensorRT up to 10.
fn precision(out: &mut Vec<String>, plan: &Plan, description: &Description) {
    let tensorrt = &plan.gen_trt_engine.tensorrt;
    let int8 = wants_int8(plan);
    if int8 {
        out.push("--int8".to_owned());
        if let (Some(cache), false) = (&tensorrt.int8_calibration.cal_cache_file, description.is_quantized) {
            out.push(format!("--calib={cache}"));
        }
    }
    // With int8 too: what has no 8-bit kernel is then 16 bits wide, not 32.
    if int8 || plan.engine_precision() == Some(EnginePrecision::Fp16) {
        out.push("--fp16".to_owned());
    }
    if !tensorrt.layers_precision.is_empty() {
        out.push("--precisionConstraints=obey".to_owned());
        out.push(format!("--layerPrecisions={}", tensorrt.layers_precision.join(",")));
    }
}

/// A command that a shell reads as these words.
pub(super) fn shell(program: &str, arguments: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    let quote = |word: &str| {
        if !word.is_empty() && word.chars().all(plain) {
            word.to_owned()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    let words = std::iter::once(program).chain(arguments.iter().map(String::as_str)).map(quote);
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_has_the_version() {
        let banner = |number: &str| {
            version(&format!("&&&& RUNNING TensorRT.trtexec [TensorRT v{number}] # trtexec --help"))
        };
        assert_eq!(banner("8602"), Some([8, 6, 2]));
        assert_eq!(banner("100300"), Some([10, 3, 0]));
        assert_eq!(banner("101601"), Some([10, 16, 1]));
        assert_eq!(banner("110400"), Some([11, 4, 0]));
        assert_eq!(banner("8.6.1"), Some([8, 6, 1]));
        assert_eq!(version("no banner"), None);
        assert_eq!(banner("x"), None);
    }

    #[test]
    fn a_shell_gets_the_words_back() {
        let words = ["--onnx=a b.onnx", "--layerPrecisions=*head*:fp32", "--x=it's", "--plain=1x3"]
            .map(str::to_owned);
        let line = shell("/opt/trt exec", &words);
        assert_eq!(
            line,
            r"'/opt/trt exec' '--onnx=a b.onnx' '--layerPrecisions=*head*:fp32' '--x=it'\''s' --plain=1x3"
        );
    }
}
