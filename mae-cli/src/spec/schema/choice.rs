//! The enums of the plan: options of fields that steer what a run does.

use serde::Deserialize;

/// Declares an enum whose variants are the options of a field.
macro_rules! choice {
    ( $(#[doc = $about:literal])+ $name:ident { $( $(#[doc = $help:literal])+ $variant:ident = $text:literal ),+ $(,)? } ) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
        pub enum $name { $( $(#[doc = $help])+ #[serde(rename = $text)] $variant, )+ }

        impl $name {
            /// The option as a spec spells it.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $text, )+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

choice! {
    /// What a run does where TAO ignores a key or has a bug.
    Compat {
        /// The documented meaning.
        Fixed = "fixed",
        /// Upstream's behaviour, bugs included, where it can matter to a result.
        Tao = "tao",
    }
}

choice! {
    /// Where the mathematics runs.
    Device {
        /// CUDA when a device is there, else the CPU, said in one line.
        Auto = "auto",
        /// The CPU.
        Cpu = "cpu",
        /// CUDA, or an error.
        Cuda = "cuda",
    }
}

choice! {
    /// What is trained.
    Stage {
        /// Self-supervised reconstruction of masked patches.
        Pretrain = "pretrain",
        /// Supervised classification.
        Finetune = "finetune",
    }
}

choice! {
    /// Numeric precision of training.
    Precision {
        /// 32-bit floats.
        Fp32 = "fp32",
        /// Mixed precision with bfloat16.
        Bf16 = "bf16",
        /// Mixed precision with 16-bit floats and loss scaling.
        Fp16 = "fp16",
    }
}

choice! {
    /// How several devices share a model.
    DistributedStrategy {
        /// Every device holds the whole model.
        Ddp = "ddp",
        /// Parameters, gradients and optimizer state are sharded.
        Fsdp = "fsdp",
    }
}

choice! {
    /// What `train.checkpoint_interval` counts.
    IntervalUnit {
        /// Epochs.
        Epoch = "epoch",
        /// Optimizer steps.
        Step = "step",
    }
}

choice! {
    /// When the first epoch of a training begins.
    FirstEpoch {
        /// When the archives are unpacked.
        Complete = "complete",
        /// With the first images that are.
        Streamed = "streamed",
    }
}

choice! {
    /// The optimizer.
    OptimType {
        /// AdamW.
        AdamW = "AdamW",
        /// Stochastic gradient descent with momentum; TAO accepts it without listing it.
        Sgd = "SGD",
    }
}

choice! {
    /// The learning-rate schedule.
    LrScheduler {
        /// Multiplied by `gamma` at each of `milestones` (epochs).
        MultiStep = "MultiStep",
        /// Linear warm-up, then half a cosine, counted in optimizer steps.
        Cosine = "cosine",
    }
}

choice! {
    /// The metric that TAO's options name for the scheduler.
    MonitorName {
        /// Validation loss.
        ValLoss = "val_loss",
        /// Training loss.
        TrainLoss = "train_loss",
    }
}

choice! {
    /// Resampling of the finetune training transform.
    Interpolation {
        /// Bilinear.
        Bilinear = "bilinear",
        /// Bicubic.
        Bicubic = "bicubic",
        /// Bilinear or bicubic, drawn for each image.
        Random = "random",
    }
}

choice! {
    /// What shares one mixing weight.
    MixupMode {
        /// The batch.
        Batch = "batch",
        /// A pair of images.
        Pair = "pair",
        /// Each image has its own.
        Elem = "elem",
    }
}

choice! {
    /// What an exported pretraining model ends with.
    ExportHead {
        /// Pooled features after the final norm.
        Features = "features",
        /// Upstream's random classifier.
        Random = "random",
    }
}

choice! {
    /// File format of an export.
    ExportFormat {
        /// ONNX.
        Onnx = "onnx",
        /// Named by TAO's schema; neither TAO's export nor ours writes it.
        Xdl = "xdl",
        /// The state dict, for programs that build the network themselves.
        Safetensors = "safetensors",
    }
}

choice! {
    /// Numbers that an exported model computes in.
    ExportPrecision {
        /// 32-bit floats.
        Fp32 = "fp32",
        /// 16-bit floats.
        Fp16 = "fp16",
    }
}

choice! {
    /// File of the results of inference.
    InferenceOutput {
        /// `results.csv`.
        Csv = "csv",
        /// `results.jsonl`: one JSON object an image.
        Jsonl = "jsonl",
        /// `results.parquet`.
        Parquet = "parquet",
    }
}
