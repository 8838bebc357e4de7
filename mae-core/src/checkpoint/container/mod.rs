//! The files around the pickle.
//!
//! | Room | What lives here |
//! |---|---|
//! | [`zip_reader`] | `torch.save` since 1.6: a zip archive with `data.pkl` and one record a storage |
//! | [`zip_writer`] | the same, written |
//! | [`legacy`] | `torch.save` before 1.6: pickles followed by raw storages |
//! | [`safetensors`] | `.safetensors`, read and written |

pub(crate) mod legacy;
pub(crate) mod safetensors;
pub(crate) mod zip_reader;
pub(crate) mod zip_writer;
