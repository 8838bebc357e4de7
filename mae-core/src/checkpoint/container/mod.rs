//! The files around the pickle.
//!
//! | Room | What lives here |
//! |---|---|
//! | [`zip_reader`] | `torch.save` since 1.6: a zip archive with `data.pkl` and one record a storage |
//! | [`zip_writer`] | the same, written |
//! | [`digests`] | the digests that the writer adds |
//! | [`legacy`] | `torch.save` before 1.6: pickles followed by raw storages |
//! | [`tar_reader`] | `torch.save` of PyTorch 0.1: a tar archive |
//! | [`safetensors`] | `.safetensors`, read and written |

pub(crate) mod digests;
pub(crate) mod legacy;
pub(crate) mod safetensors;
pub(crate) mod tar_reader;
pub(crate) mod zip_reader;
pub(crate) mod zip_writer;
