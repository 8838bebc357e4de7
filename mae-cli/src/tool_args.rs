//! The command line of what is no action of TAO's: `mae data` and `mae bench`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use crate::bench::StepOptions;

/// `mae data …`.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum DataTool {
    /// Count classes, formats, sizes, copies and broken files, and draw a contact sheet
    Inspect {
        /// Folder or archive of images
        source: String,
        /// How classes are read
        #[arg(long, value_enum, default_value_t)]
        layout: LayoutChoice,
        /// Where the contact sheet goes
        #[arg(long, value_name = "PNG", default_value = "contact_sheet.png")]
        sheet: PathBuf,
        /// One JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Decode every image; exit with 3 if one is broken
    Verify {
        /// Folder or archive of images
        source: String,
        /// One JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Write the images into plain tar archives (shards), which are used in place
    Pack {
        /// Folder or archive of images
        source: String,
        /// The shards become TARGET-0000.tar, TARGET-0001.tar and so on
        target: PathBuf,
        /// Size that a shard stays below
        #[arg(long, value_name = "MB", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
        shard_size: u64,
    },
    /// Divide the images at random, each class alike, into FOLDER/train-*.tar, FOLDER/val-*.tar and FOLDER/test-*.tar
    Split {
        /// Folder or archive of images
        source: String,
        /// Folder of the archives
        folder: PathBuf,
        /// Share of each class that becomes validation data
        #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
        val: f64,
        /// Share of each class that becomes test data; 0 for none
        #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
        test: f64,
        /// Another seed divides otherwise
        #[arg(long, default_value_t = 1234)]
        seed: u64,
        /// How classes are read
        #[arg(long, value_enum, default_value_t)]
        layout: LayoutChoice,
        /// Size that a shard stays below
        #[arg(long, value_name = "MB", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
        shard_size: u64,
    },
}

/// How classes are read from the names of images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LayoutChoice {
    /// From top-level folders, or no classes where there are none
    #[default]
    Auto,
    /// From top-level folders
    Folders,
    /// No classes
    Flat,
}

/// `mae bench …`.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum Bench {
    /// Measure the training step of an architecture, on made-up images
    Step(StepOptions),
    /// Measure how many images a second the loader prepares for training, without a model
    Loader {
        /// Values that win over the spec file, e.g. dataset.num_workers_per_gpu=1
        #[arg(value_name = "KEY=VALUE")]
        overrides: Vec<String>,
        /// How long and how
        #[command(flatten)]
        limits: BenchLimits,
    },
}

/// How long and how a loader is measured.
#[derive(Debug, Clone, Copy, PartialEq, clap::Args)]
pub struct BenchLimits {
    /// Stop after this time
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Stop after this many batches
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub batches: Option<u64>,
    /// Pretend that a training step takes this long, to see whether it would wait
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    pub step_ms: f64,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}
