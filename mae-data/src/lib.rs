//! Images from folders and archives to training batches, in a fixed order.
//!
//! | room | what it does |
//! | --- | --- |
//! | [`source`] | where bytes come from: a folder, a `.tar`, a `.tar.gz`; the index, the cache |
//! | [`decode`] | encoded bytes to RGB pixels, equal to Pillow's |
//! | [`transform`] | crop, resize, flip, normalise |
//! | [`augment`] | policies, colour jitter, random erasing, mixup and CutMix |
//! | [`loader`] | (seed, epoch, batch) to batches: order, threads, prefetch |
//! | [`tools`] | a data set looked at, packed anew, divided |
//!
//! Nothing here knows of models or of libtorch: a [`Batch`] owns plain buffers with their shape.
//!
//! ```no_run
//! # fn main() -> Result<(), mae_data::Error> {
//! use std::sync::Arc;
//! use mae_data::{Augmentation, Dataset, Layout, Loader, LoaderOptions, OpenOptions, Pipeline};
//!
//! let dataset = Arc::new(Dataset::open("images_train.tar.gz", Layout::ImageFolder, &OpenOptions::default())?);
//! let pipeline = Pipeline::finetune(&Augmentation::default())?;
//! let options = LoaderOptions { batch_size: 32, shuffle: true, ..LoaderOptions::default() };
//! let loader = Loader::new(dataset, pipeline, options)?;
//! for batch in loader.epoch(0, 0) {
//!     let batch = batch?;
//!     assert_eq!(batch.images.len(), batch.shape.iter().product::<usize>());
//! }
//! # Ok(()) }
//! ```

pub mod augment;
pub mod decode;
mod error;
pub mod loader;
pub mod rng;
pub mod source;
mod sys;
#[cfg(test)]
mod testing;
pub mod tools;
pub mod transform;

pub use augment::{Augmentation, Interpolation, Mixup, MixupMode};
pub use error::Error;
pub use loader::{BadSample, Batch, EpochIter, Images, Loader, LoaderOptions, Meter};
pub use source::{Dataset, Layout, OpenOptions, OpenProgress};
pub use transform::{CropRule, Pipeline};
