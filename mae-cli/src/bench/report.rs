//! What a measurement found.

use std::fmt;

use serde::Serialize;

/// The training step of one model, measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepReport {
    /// Architecture.
    pub arch: String,
    /// `pretrain` or `finetune`.
    pub stage: String,
    /// Whether ConvNeXt V2's encoder was the sparse one.
    pub sparse_encoder: bool,
    /// Images a step.
    pub batch_size: u64,
    /// Side of the images in pixels.
    pub input_size: u64,
    /// `fp32`, `bf16` or `fp16`.
    pub precision: String,
    /// Whether the device multiplies in that precision, or rounds to it and multiplies in fp32.
    pub native_precision: bool,
    /// `cpu` or `cuda:0`.
    pub device: String,
    /// Threads of libtorch.
    pub threads: u64,
    /// Parameters.
    pub parameters: u64,
    /// Steps that were measured, after the warm-up.
    pub steps: u64,
    /// Images a second, by the median step.
    pub images_per_second: f64,
    /// Wall time of a step.
    pub step_ms: Spread,
    /// Time that all threads together spent on a step; on a busy machine it is steadier than the wall time.
    pub step_cpu_ms: Spread,
    /// The most memory in use while stepping, in bytes; `null` where the system does not say.
    pub peak_memory_bytes: Option<u64>,
    /// Memory in use before the model was built, in bytes: the program and its libraries.
    pub base_memory_bytes: Option<u64>,
    /// Floating-point operations of the step's products: three times the forward pass's.
    pub flops_per_step: u64,
    /// The same by the median step.
    pub flops_per_second: f64,
    /// Loss of the last step.
    pub loss: f64,
}

/// Times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Half of the steps took no longer.
    pub median: f64,
    /// The shortest.
    pub min: f64,
    /// The longest.
    pub max: f64,
    /// Half of the steps lie within this distance of the median.
    pub median_deviation: f64,
}

impl Spread {
    /// The spread of some times in milliseconds; zeros for none.
    pub fn of(times: &[f64]) -> Self {
        let middle = median(times);
        let distances: Vec<f64> = times.iter().map(|time| (time - middle).abs()).collect();
        Spread {
            median: middle,
            min: times.iter().copied().reduce(f64::min).unwrap_or(0.0),
            max: times.iter().copied().reduce(f64::max).unwrap_or(0.0),
            median_deviation: median(&distances),
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[count / 2],
        count => (sorted[count / 2 - 1] + sorted[count / 2]) / 2.0,
    }
}

impl fmt::Display for StepReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sparse = if self.sparse_encoder { ", sparse encoder" } else { "" };
        let native = if self.native_precision { "" } else { " (rounded; this CPU multiplies in fp32)" };
        writeln!(
            f,
            "{} {}{sparse} at {size}x{size}, batch {}, {}{native}, {} with {} threads",
            self.arch,
            self.stage,
            self.batch_size,
            self.precision,
            self.device,
            self.threads,
            size = self.input_size,
        )?;
        let Spread { median, min, max, .. } = self.step_ms;
        writeln!(
            f,
            "  {:.1} images/s; a step takes {median:.1} ms ({min:.1} to {max:.1} in {} steps)",
            self.images_per_second, self.steps
        )?;
        if let (Some(peak), Some(base)) = (self.peak_memory_bytes, self.base_memory_bytes) {
            let (peak, base) = (peak as f64 / 1e6, base as f64 / 1e6);
            writeln!(
                f,
                "  {peak:.0} MB of memory at the peak, {base:.0} MB of them before the model was built"
            )?;
        }
        write!(
            f,
            "  {:.1} M parameters, {:.1} GFLOP a step, {:.1} GFLOP/s",
            self.parameters as f64 / 1e6,
            self.flops_per_step as f64 / 1e9,
            self.flops_per_second / 1e9
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_step_moves_the_maximum_alone() {
        let spread = Spread::of(&[10.0, 12.0, 11.0, 900.0]);
        assert_eq!((spread.median, spread.min, spread.max), (11.5, 10.0, 900.0));
        assert_eq!(spread.median_deviation, 1.0);
        assert_eq!(Spread::of(&[]).median, 0.0);
    }
}
