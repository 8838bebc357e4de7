//! The table. Types, defaults, bounds and options are TAO's (release 7.0.1), the help text is ours.
//!
//! A row reads `name: type in the plan => what the schema says`; its doc comment is its help. Sections nest.

use super::choice::{
    Compat, Device, DistributedStrategy, ExportFormat, ExportHead, ExportPrecision, FirstEpoch,
    InferenceOutput, Interpolation, IntervalUnit, LrScheduler, MixupMode, MonitorName, OptimType, Precision,
    Stage,
};
use super::row::{Condition::*, Entry, Leaf, Limit, Literal, Row};
use serde::Deserialize;

/// Declares a section: a struct of the plan and the rows of the table.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $name:ident {
            $( $(#[doc = $help:literal])+ $field:ident : $type:ty => $entry:expr; )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $( $(#[doc = $help])+ pub $field: $type, )+
        }

        impl $name {
            /// The rows of this section in the order in which a spec is written.
            pub const ROWS: &'static [Row] = &[
                $( Row { name: plain(stringify!($field)), doc: &[$($help),+], entry: $entry.row() }, )+
            ];
        }
    };
}

impl Leaf {
    const fn row(self) -> Entry {
        Entry::Leaf(self)
    }
}

impl Entry {
    const fn row(self) -> Entry {
        self
    }
}

/// The name of a field whose Rust name had to be written raw, e.g. `r#type`.
const fn plain(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', rest @ ..] => match std::str::from_utf8(rest) {
            Ok(name) => name,
            Err(_) => name,
        },
        _ => name,
    }
}

const fn section(rows: &'static [Row]) -> Entry {
    Entry::Section(rows)
}

const NULL: Literal = Literal::Null;
const EMPTY: Literal = Literal::Text("");
const INF: f64 = f64::INFINITY;

section! {
    /// A whole spec with every default filled in.
    Spec {
        /// Model label used only by a generic multi-model launcher.
        model_name: Option<String> => Leaf::optional_text(NULL).title("Model name").unused();
        /// Passphrase of encrypted checkpoints, read and written; best as ${oc.env:NAME}.
        encryption_key: Option<String> => Leaf::optional_text(NULL).title("Encryption key");
        /// Root output folder; each action writes into a sub-folder with its own name.
        results_dir: Option<String> => Leaf::optional_text(EMPTY).title("Results directory").example("./results");
        /// Weights & Biases. Accepted so that specs load; nothing is ever sent anywhere.
        wandb: Wandb => section(Wandb::ROWS);
        /// Images and how they are loaded.
        dataset: Dataset => section(Dataset::ROWS);
        /// Training.
        train: Train => section(Train::ROWS);
        /// The network.
        model: Model => section(Model::ROWS);
        /// Class of each image of a folder.
        inference: Inference => section(Inference::ROWS);
        /// Accuracy on the validation images.
        evaluate: Evaluate => section(Evaluate::ROWS);
        /// TensorRT engine from an ONNX file, built by NVIDIA's trtexec.
        gen_trt_engine: GenTrtEngine => section(GenTrtEngine::ROWS);
        /// ONNX export.
        export: Export => section(Export::ROWS);
        /// `fixed`: documented meaning of every key. `tao`: upstream's behaviour, bugs included.
        compat: Compat => Leaf::text("fixed").options(&["fixed", "tao"]).extension();
        /// Where to run: `auto` takes CUDA when a device is there.
        device: Device => Leaf::text("auto").options(&["auto", "cpu", "cuda"]).extension();
        /// libonnxruntime.so, or the folder it is in, for ONNX files; null looks for an installed one.
        onnxruntime: Option<String> => Leaf::optional_text(NULL).extension().example("/opt/onnxruntime/lib");
    }
}

section! {
    /// Weights & Biases settings of TAO. Accepted, never used: this program sends nothing.
    Wandb {
        /// Turn on Weights & Biases logging.
        enable: bool => Leaf::bool(true).unused();
        /// Project name.
        project: String => Leaf::text("TAO Toolkit").unused();
        /// Team or user.
        entity: Option<String> => Leaf::optional_text(EMPTY).unused();
        /// Group of runs.
        group: Option<String> => Leaf::optional_text(EMPTY).unused();
        /// Tags of the run.
        tags: Vec<String> => Leaf::texts(&["training", "tao-toolkit"]).packaged(Literal::Texts(&["tao-toolkit"])).unused();
        /// Allow several runs in one process.
        reinit: bool => Leaf::bool(false).unused();
        /// Mirror TensorBoard events.
        sync_tensorboard: bool => Leaf::bool(false).unused();
        /// Upload source code.
        save_code: bool => Leaf::bool(false).unused();
        /// Name of the run.
        name: String => Leaf::text("TAO Toolkit training experiment").packaged(Literal::Text("TAO Toolkit Training")).unused();
        /// Identifier of a run to resume.
        run_id: String => Leaf::text("").unused();
    }
}

section! {
    /// Images and how they are loaded.
    Dataset {
        /// Images per device and step.
        batch_size: usize => Leaf::int(3).title("Batch size").packaged(Literal::Int(1)).min(1.0).max(INF).example("64");
        /// Training images: a folder, a .tar, .tar.gz, .tar.zst or .zip archive, an address of one, or a list or pattern of them.
        train_data_sources: String => Leaf::text("").title("Image directory of the training set").joins_lists().example("/data/images_train.tar.gz");
        /// Validation images, used by train and evaluate.
        val_data_sources: String => Leaf::text("").title("Image directory of the validation set").joins_lists().example("/data/images_val.tar.gz");
        /// Images for inference.
        test_data_sources: Option<String> => Leaf::optional_text(EMPTY).title("Image directory of the test set").packaged(NULL).joins_lists().example("/data/images_test.tar.gz");
        /// Loader threads per device; unset, one a core. Results do not depend on it.
        num_workers_per_gpu: usize => Leaf::int(2).title("Number of workers per GPU.").limit(Limit::AtLeast(0.0));
        /// Resizing, cropping and mixing of images.
        augmentation: Augmentation => section(Augmentation::ROWS);
        /// Share of images that may be unreadable before a run stops with an error; each one is counted and named.
        max_bad_fraction: f64 => Leaf::float(0.01).limit(Limit::Between(0.0, 1.0)).extension();
        /// Folder for unpacked archives and indexes; null takes $MAE_CACHE/archives, else ~/.cache/mae/archives.
        cache_dir: Option<String> => Leaf::optional_text(NULL).extension().example("/tmp/mae-cache");
        /// Size in GB that this folder may have; null for as much as the disk leaves free.
        cache_limit_gb: Option<f64> => Leaf::optional_float().limit(Limit::AtLeast(0.0)).extension().example("200");
        /// Throw away the archives in it that were unused for the longest time when there is no room for another.
        cache_eviction: bool => Leaf::bool(true).extension();
        /// streamed: pretraining starts while the archive is still being unpacked, in its order through a shuffle buffer.
        first_epoch: FirstEpoch => Leaf::text("complete").options(&["complete", "streamed"]).extension();
        /// Images among which the next one of a streamed epoch is drawn.
        shuffle_buffer: usize => Leaf::int(1000).limit(Limit::AtLeast(1.0)).extension();
    }
}

section! {
    /// Resizing, cropping and mixing of images.
    Augmentation {
        /// Side of the square input in pixels.
        input_size: usize => Leaf::int(224).title("Input size").limit(Limit::AtLeast(1.0)).honoured_here("the model is built for this size");
        /// Mean of each channel, for images scaled to 0..1.
        mean: Vec<f64> => Leaf::floats(Literal::Floats(&[0.485, 0.456, 0.406])).title("Mean for the image normalization").limit(Limit::Length(3));
        /// Standard deviation of each channel.
        std: Vec<f64> => Leaf::floats(Literal::Floats(&[0.229, 0.224, 0.225])).title("Image standard deviation").limit(Limit::Length(3));
        /// Smallest share of the image's area that a random crop takes.
        min_scale: f64 => Leaf::float(0.1).title("Min scale.").limit(Limit::Above(0.0));
        /// Largest share of the image's area that a random crop takes; draws above 1 are drawn again.
        max_scale: f64 => Leaf::float(2.0).title("Max scale.").limit(Limit::Above(0.0));
        /// Smallest aspect ratio of a random crop (finetune).
        min_ratio: f64 => Leaf::float(0.75).title("Min ratio.").limit(Limit::Above(0.0));
        /// Largest aspect ratio of a random crop (finetune).
        max_ratio: f64 => Leaf::float(1.33).title("Max ratio.").limit(Limit::Above(0.0));
        /// Probability of a horizontal flip (finetune; pretraining flips half of the images).
        hflip: f64 => Leaf::float(0.5).title("Horizontal flip probability.").limit(Limit::Between(0.0, 1.0));
        /// Probability of random erasing (finetune).
        re_prob: f64 => Leaf::float(0.0).title("Random erasing probability.").limit(Limit::Between(0.0, 1.0));
        /// Resampling of the finetune training crop.
        interpolation: Interpolation => Leaf::text("bilinear").title("Interpolation mode.").options(&["bilinear", "bicubic", "random"]);
        /// Share of the side that the centre crop of validation, evaluation and inference keeps; null is TAO's rule: 0.875 up to 224 pixels, else 1.
        crop_pct: Option<f64> => Leaf::optional_float().limit(Limit::Between(0.1, 1.0)).extension().example("1.0");
        /// Label smoothing (finetune).
        smoothing: f64 => Leaf::float(0.1).title("Label smoothing.").limit(Limit::Between(0.0, 1.0));
        /// Strength of colour jitter; without effect while auto_aug is set.
        color_jitter: f64 => Leaf::float(0.0).title("Color jittering.").limit(Limit::AtLeast(0.0));
        /// RandAugment or AutoAugment policy (finetune); null for none.
        auto_aug: Option<String> => Leaf::optional_text(Literal::Text("rand-m9-mstd0.5-inc1")).title("Auto augmentation settings.");
        /// Mixup alpha (finetune); 0 turns mixup off.
        mixup: f64 => Leaf::float(0.8).title("Mixup augmentation.").limit(Limit::AtLeast(0.0));
        /// CutMix alpha (finetune); 0 turns CutMix off.
        cutmix: f64 => Leaf::float(1.0).title("Cutmix augmentation.").limit(Limit::AtLeast(0.0));
        /// Smallest and largest side of a CutMix box as shares of the image, instead of alpha; null for none.
        cutmix_minmax: Option<[f64; 2]> => Leaf::optional_pair().title("Cutmix minmax augmentation.").example("[0.2, 0.8]");
        /// Probability that a batch is mixed at all.
        mixup_prob: f64 => Leaf::float(1.0).title("Mixup probability.").limit(Limit::Between(0.0, 1.0));
        /// Probability of CutMix instead of mixup when both are on.
        mixup_switch_prob: f64 => Leaf::float(0.5).title("Mixup switch probability.").limit(Limit::Between(0.0, 1.0));
        /// What shares one mixing weight.
        mixup_mode: MixupMode => Leaf::text("batch").title("Mixup mode.").options(&["batch", "pair", "elem"]);
    }
}

section! {
    /// Training.
    Train {
        /// Number of devices.
        num_gpus: usize => Leaf::int(1).title("Number of GPUs").min(1.0).limit(Limit::Between(1.0, 1024.0)).popular();
        /// Indexes of the devices; as many as num_gpus.
        gpu_ids: Vec<usize> => Leaf::ints(&[0]).title("GPU IDs").limit(Limit::AtLeast(0.0)).popular();
        /// Number of machines.
        num_nodes: usize => Leaf::int(1).title("Number of nodes").min(1.0).popular();
        /// Random seed; -1 draws one.
        seed: i64 => Leaf::int(1234).title("Seed for randomization").min(-1.0).max(INF);
        /// cuDNN.
        cudnn: Cudnn => section(Cudnn::ROWS);
        /// Length of training in epochs.
        num_epochs: usize => Leaf::int(10).title("Number of epochs").min(1.0).max(INF).popular();
        /// Save a checkpoint every so many epochs or steps.
        checkpoint_interval: usize => Leaf::int(1).title("Checkpoint interval").min(1.0).popular();
        /// What checkpoint_interval counts.
        checkpoint_interval_unit: IntervalUnit => Leaf::text("epoch").title("Checkpoint interval unit").options(&["epoch", "step"]);
        /// Validate every so many epochs.
        validation_interval: usize => Leaf::int(1).title("Validation interval").min(1.0).popular();
        /// Checkpoint to continue from, instead of the run found in the results folder.
        resume_training_checkpoint_path: Option<String> => Leaf::optional_text(NULL).title("Resume checkpoint path");
        /// Output folder of this action; wins over the root results_dir.
        results_dir: Option<String> => Leaf::optional_text(NULL).title("Results directory").derived("results_dir and the action's name");
        /// `pretrain`: reconstruct masked patches. `finetune`: classify.
        stage: Stage => Leaf::text("pretrain").title("Stage").options(&["pretrain", "finetune"]);
        /// Batches accumulated per optimizer step.
        accum_grad_batches: usize => Leaf::int(1).title("Accum gradient batches").min(1.0).max(INF);
        /// Weights to start from (finetune); counts only when there is no run to continue.
        pretrained_model_path: Option<String> => Leaf::optional_text(NULL).title("Pretrained model");
        /// Numeric precision.
        precision: Precision => Leaf::text("fp32").title("precision").options(&["fp16", "bf16", "fp32"]);
        /// How several devices share the model.
        distributed_strategy: DistributedStrategy => Leaf::text("ddp").title("distributed_strategy").options(&["ddp", "fsdp"]);
        /// Optimizer and schedule.
        optim: Optim => section(Optim::ROWS);
        /// Normalise the target patches of the reconstruction loss.
        norm_pix_loss: bool => Leaf::bool(true).title("Normalize pixel loss").honoured_here("Hiera too uses it");
        /// Modules to freeze, e.g. [encoder.stages.0].
        freeze: Vec<String> => Leaf::texts(&[]).title("freeze").or_null();
        /// Share of patches hidden in pretraining; the papers use 0.75 for ViT, 0.6 for ConvNeXt V2 and Hiera.
        mask_ratio: f64 => Leaf::float(0.75).title("Mask ratio.").limit(Limit::Within(0.0, 1.0));
        /// Largest norm of the gradient; null does not clip.
        clip_grad_norm: Option<f64> => Leaf::optional_float().limit(Limit::Above(0.0)).extension().example("1.0");
        /// Steps in a row whose loss or gradients may be NaN or infinite; each is left out, and the run stops after so many.
        max_bad_steps: usize => Leaf::int(20).limit(Limit::AtLeast(1.0)).extension();
        /// End a run after this time, DD:HH:MM:SS, with its state saved and exit code 4; the same command goes on.
        max_time: Option<String> => Leaf::optional_text(NULL).extension().example("00:03:55:00");
        /// Keep only so many of the newest checkpoints; 0 keeps all.
        checkpoint_keep_last: usize => Leaf::int(0).limit(Limit::AtLeast(0.0)).extension();
        /// Keep the checkpoint of the best validation, and point ARCH_best.pth to it.
        checkpoint_keep_best: bool => Leaf::bool(false).extension();
        /// Write the weights of each checkpoint as .safetensors, too.
        checkpoint_safetensors: bool => Leaf::bool(false).extension();
        /// Encrypt checkpoints with encryption_key, as files of age; every action reads them with the same key.
        encrypt_checkpoints: bool => Leaf::bool(false).extension();
        /// Seconds that the processes of a run may take to find each other, to do their first step, and to wait for a checkpoint.
        init_timeout: usize => Leaf::int(600).min(1.0).extension();
        /// Seconds after the first step in which a process must take part in what all do, before it counts as lost.
        comm_timeout: usize => Leaf::int(120).min(1.0).extension();
        /// How often a training on several processes is started again from its last checkpoint after one of them failed.
        max_restarts: usize => Leaf::int(0).min(0.0).extension();
    }
}

section! {
    /// cuDNN.
    Cudnn {
        /// Try several algorithms and keep the fastest.
        benchmark: bool => Leaf::bool(false);
        /// Ask for deterministic kernels. Takes effect only when set explicitly, as the default costs speed.
        deterministic: bool => Leaf::bool(true);
    }
}

section! {
    /// Optimizer and schedule.
    Optim {
        /// Optimizer.
        r#type: OptimType => Leaf::text("AdamW").options(&["AdamW"]).or_options(&["SGD"]).any_case();
        /// Metric that the scheduler would watch; no schedule here watches one.
        monitor_name: MonitorName => Leaf::text("train_loss").title("monitor_name").options(&["val_loss", "train_loss"]).unused();
        /// Learning rate.
        lr: f64 => Leaf::float(0.0002).title("learning rate").min(0.0).max(1.0).when(Above(0.0)).limit(Limit::Above(0.0)).automl(true).example("2e-4");
        /// Factor on the learning rate of the backbone (finetune).
        backbone_multiplier: f64 => Leaf::float(0.1).title("backbone learning rate multiplier").min(0.0).max(1.0).when(Above(0.0)).automl(true).popular()
            .honoured_here("the backbone learns at lr times this");
        /// Momentum of SGD; set explicitly it is AdamW's first beta.
        momentum: f64 => Leaf::float(0.9).title("momentum - AdamW").min(0.0).max(1.0).when(Above(0.0)).automl(true).popular()
            .honoured_here("it is AdamW's first beta");
        /// Decoupled weight decay.
        weight_decay: f64 => Leaf::float(0.05).title("weight decay").min(0.0).max(1.0).when(Above(0.0)).automl(true).popular();
        /// Factor on the learning rate from each layer to the one before (finetune).
        layer_decay: f64 => Leaf::float(0.75).title("layer decay").when(Above(0.0)).popular().honoured_here("the learning rate decays layer by layer");
        /// Schedule of the learning rate.
        lr_scheduler: LrScheduler => Leaf::text("MultiStep").title("learning rate scheduler").options(&["MultiStep", "cosine"]).any_case();
        /// Epochs at which MultiStep multiplies the learning rate by gamma.
        milestones: Vec<usize> => Leaf::ints(&[88, 96]).title("learning rate decay epochs.").limit(Limit::AtLeast(0.0));
        /// Factor of MultiStep.
        gamma: f64 => Leaf::float(0.1).title("gamma").when(Above(0.0));
        /// Epochs of linear warm-up before the cosine.
        warmup_epochs: f64 => Leaf::float(1.0).title("Warmup epochs").packaged(Literal::Int(1)).min(0.0).max(100.0).when(AtLeast(0.0)).automl(true);
        /// Both betas of AdamW; null is TAO's (0.9, 0.95).
        betas: Option<[f64; 2]> => Leaf::optional_pair().limit(Limit::Between(0.0, 1.0)).extension().example("[0.9, 0.999]");
    }
}

section! {
    /// The network.
    Model {
        /// Architecture; unset, that of the checkpoint that an action starts from.
        arch: String => Leaf::text("convnextv2_base").title("Model arch").options(&[
            "convnextv2_atto", "convnextv2_femto", "convnextv2_pico", "convnextv2_nano", "convnextv2_tiny",
            "convnextv2_base", "convnextv2_large", "convnextv2_huge", "hiera_tiny_224", "hiera_small_224",
            "hiera_base_224", "hiera_large_224", "hiera_huge_224", "vit_base_patch16", "vit_large_patch16",
            "vit_huge_patch14",
        ]);
        /// Number of classes (finetune); unset, that of the checkpoint that an action starts from.
        num_classes: usize => Leaf::int(1000).title("Number of classes").packaged(Literal::Int(1)).min(1.0).max(INF);
        /// Rate of stochastic depth.
        drop_path_rate: f64 => Leaf::float(0.1).title("Drop path rate").limit(Limit::Between(0.0, 0.999)).honoured_here("stochastic depth is on");
        /// Average the patch tokens instead of taking the class token.
        global_pool: bool => Leaf::bool(true).title("Global pooling").honoured_here("it chooses the pooling");
        /// Number of decoder blocks (pretrain).
        decoder_depth: usize => Leaf::int(1).title("Decoder depth").limit(Limit::Between(1.0, 1024.0)).honoured_here("the decoder has this many blocks");
        /// Width of the decoder (pretrain).
        decoder_embed_dim: usize => Leaf::int(512).limit(Limit::Between(1.0, 65536.0)).honoured_here("the decoder has this width");
        /// ConvNeXt V2's pretraining computes on visible patches alone, as its paper does; TAO's lets hidden ones leak in.
        sparse_encoder: bool => Leaf::bool(false).extension();
    }
}

section! {
    /// Class of each image of a folder.
    Inference {
        /// Number of devices.
        num_gpus: usize => Leaf::int(1).title("Number of GPUs").min(1.0).limit(Limit::Between(1.0, 1024.0)).popular();
        /// Indexes of the devices; as many as num_gpus.
        gpu_ids: Vec<usize> => Leaf::ints(&[0]).title("GPU IDs").limit(Limit::AtLeast(0.0)).popular();
        /// Number of machines.
        num_nodes: usize => Leaf::int(1).title("Number of nodes").min(1.0).popular();
        /// Checkpoint to load: a file, or a results folder, of several followed by @latest, @best, @epoch=3 or @step=99.
        checkpoint: String => Leaf::text("???").title("Checkpoint path").example("results/train/vit_base_patch16_latest.pth");
        /// TensorRT engine, for TAO's deploy package.
        trt_engine: Option<String> => Leaf::optional_text(NULL).title("TensorRT Engine").unused();
        /// Output folder of this action; wins over the root results_dir.
        results_dir: Option<String> => Leaf::optional_text(NULL).title("Results directory").derived("results_dir and the action's name");
        /// Images per step; -1 takes dataset.batch_size.
        batch_size: i64 => Leaf::int(-1).title("batch size").min(-1.0).honoured_here("inference runs with this batch size");
        /// File of the results. `csv` alone is TAO's results.csv, without a header.
        output: InferenceOutput => Leaf::text("csv").options(&["csv", "jsonl", "parquet"]).extension();
        /// Classes to name for each image, with their probabilities; set, results.csv has a header.
        top_k: usize => Leaf::int(1).limit(Limit::AtLeast(1.0)).extension().example("5");
    }
}

section! {
    /// Accuracy on the validation images.
    Evaluate {
        /// Number of devices.
        num_gpus: usize => Leaf::int(1).title("Number of GPUs").min(1.0).limit(Limit::Between(1.0, 1024.0)).popular();
        /// Indexes of the devices; as many as num_gpus.
        gpu_ids: Vec<usize> => Leaf::ints(&[0]).title("GPU IDs").limit(Limit::AtLeast(0.0)).popular();
        /// Number of machines.
        num_nodes: usize => Leaf::int(1).title("Number of nodes").min(1.0).popular();
        /// Checkpoint to load: a file, or a results folder, of several followed by @latest, @best, @epoch=3 or @step=99.
        checkpoint: String => Leaf::text("???").title("Checkpoint path").example("results/train/vit_base_patch16_latest.pth");
        /// TensorRT engine, for TAO's deploy package.
        trt_engine: Option<String> => Leaf::optional_text(NULL).title("TensorRT Engine").unused();
        /// Output folder of this action; wins over the root results_dir.
        results_dir: Option<String> => Leaf::optional_text(NULL).title("Results directory").derived("results_dir and the action's name");
        /// Images per step; -1 takes dataset.batch_size.
        batch_size: i64 => Leaf::int(-1).title("batch size").min(-1.0).honoured_here("evaluation runs with this batch size");
    }
}

section! {
    /// TensorRT engine from an ONNX file.
    GenTrtEngine {
        /// Output folder of this action; wins over the root results_dir.
        results_dir: Option<String> => Leaf::optional_text(NULL).title("Results directory").derived("results_dir and the action's name");
        /// Device that builds the engine.
        gpu_id: i64 => Leaf::int(0).title("GPU ID").min(0.0).popular();
        /// Input ONNX file.
        onnx_file: String => Leaf::text("???").title("ONNX file").example("results/export/convnextv2_atto.onnx");
        /// Output engine; without it, results_dir and the name of the ONNX file.
        trt_engine: Option<String> => Leaf::optional_text(Literal::Text("???")).title("TensorRT engine").example("results/mae.engine");
        /// Timing cache, read and written, which makes the next build faster.
        timing_cache: Option<String> => Leaf::optional_text(NULL).title("TensorRT timing cache").example("results/timing.cache");
        /// Fixed batch size, or -1 for the profile of min, opt and max_batch_size.
        batch_size: i64 => Leaf::int(-1).title("Batch size").min(-1.0).popular();
        /// Verbose log.
        verbose: bool => Leaf::bool(false).title("Verbose");
        /// Builder settings.
        tensorrt: Tensorrt => section(Tensorrt::ROWS);
        /// NVIDIA's builder; null looks for trtexec on PATH and where TensorRT's packages put it.
        trtexec: Option<String> => Leaf::optional_text(NULL).extension().example("/usr/src/tensorrt/bin/trtexec");
    }
}

section! {
    /// TensorRT builder settings.
    Tensorrt {
        /// Builder workspace in MB.
        workspace_size: i64 => Leaf::int(1024).title("Max workspace size").min(0.0);
        /// Smallest batch of the profile.
        min_batch_size: i64 => Leaf::int(1).title("Min batch size").min(1.0).popular();
        /// Tuned batch of the profile.
        opt_batch_size: i64 => Leaf::int(1).title("Optimum batch size").min(1.0).popular();
        /// Largest batch of the profile.
        max_batch_size: i64 => Leaf::int(1).title("Maximum batch size").min(1.0).popular();
        /// Precision of single layers, as `layer:fp32`; `*` stands for any text.
        layers_precision: Vec<String> => Leaf::texts(&[]).title("layers_precision").or_null().example("[\"*head*:fp32\"]");
        /// Precision of the engine: fp32, fp16 or int8.
        data_type: String => Leaf::text("fp32").title("Data type").packaged(Literal::Text("fp32,fp16")).example("fp16");
        /// Calibration of int8.
        int8_calibration: Calibration => section(Calibration::ROWS);
    }
}

section! {
    /// Calibration of int8, with the names of TAO's other models.
    Calibration {
        /// Folders or archives of images to calibrate with.
        cal_image_dir: Vec<String> => Leaf::texts(&[]).or_null().extension().example("[/data/images_train.tar.gz]");
        /// Calibration cache of TensorRT, instead of images; TensorRT 10 and older only.
        cal_cache_file: Option<String> => Leaf::optional_text(NULL).extension().example("calibration.cache");
        /// Images per calibration batch.
        cal_batch_size: usize => Leaf::int(8).limit(Limit::AtLeast(1.0)).extension();
        /// Calibration batches.
        cal_batches: usize => Leaf::int(16).limit(Limit::AtLeast(1.0)).extension();
    }
}

section! {
    /// ONNX export.
    Export {
        /// Output folder of this action; wins over the root results_dir.
        results_dir: Option<String> => Leaf::optional_text(NULL).title("Results directory").derived("results_dir and the action's name");
        /// Device used for the export.
        gpu_id: i64 => Leaf::int(0).title("GPU ID");
        /// Checkpoint to export: a file, or a results folder, of several followed by @latest, @best, @epoch=3 or @step=99.
        checkpoint: String => Leaf::text("???").title("checkpoint").example("results/train/vit_base_patch16_latest.pth");
        /// Output ONNX file; an existing one is never overwritten.
        onnx_file: String => Leaf::text("???").title("onnx file").example("results/export/model.onnx").derived("results_dir and the architecture's name");
        /// Export on the CPU.
        on_cpu: bool => Leaf::bool(false).title("on cpu");
        /// Channels of the input.
        input_channel: usize => Leaf::int(3).title("input channel").min(1.0).options(&["1", "3"]);
        /// Width of the input in pixels.
        input_width: usize => Leaf::int(960).title("input width").min(32.0).derived("dataset.augmentation.input_size");
        /// Height of the input in pixels.
        input_height: usize => Leaf::int(544).title("input height").min(32.0).derived("dataset.augmentation.input_size");
        /// ONNX operator set.
        opset_version: i64 => Leaf::int(17).title("opset version").min(1.0);
        /// Fixed batch size, or -1 for a dynamic one.
        batch_size: i64 => Leaf::int(-1).title("batch size").min(-1.0);
        /// Verbose log.
        verbose: bool => Leaf::bool(false).title("verbose");
        /// Output format: onnx, or safetensors for the weights alone.
        format: ExportFormat => Leaf::text("onnx").title("export format").options(&["onnx", "xdl"]).or_options(&["safetensors"]);
        /// What a model of stage pretrain ends with: its pooled features, or upstream's random classifier.
        head: ExportHead => Leaf::text("features").options(&["features", "random"]).extension();
        /// Numbers that the exported model computes in; its input and output stay fp32.
        precision: ExportPrecision => Leaf::text("fp32").options(&["fp32", "fp16"]).extension();
        /// Take images of bytes, [N, H, W, 3] RGB, and normalise them in the model.
        include_preprocessing: bool => Leaf::bool(false).extension();
        /// Compare onnxruntime with libtorch on images of the spec; without agreement no file is written.
        verify: bool => Leaf::bool(false).extension();
    }
}
