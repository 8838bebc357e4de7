//! Checkpoints that only a passphrase opens: the `.pth` inside an [age](https://age-encryption.org/v1) file.
//!
//! `age --decrypt` and `rage` open them too.

use std::fmt;
use std::io::{self, Read, Write};
use std::iter::once;

use age::secrecy::SecretString;

use super::{Error, Result};

/// Start of every age file.
const MAGIC: &[u8] = b"age-encryption.org/v1\n";
/// Logarithm of scrypt's cost: a quarter of a second and 64 MiB, at each checkpoint and each reading of one.
const WORK_FACTOR: u8 = 16;
/// More than this would take minutes, whoever asks for it.
const MAX_WORK_FACTOR: u8 = 20;

/// A passphrase. It is never shown, and wiped from memory in the end.
#[derive(Clone)]
pub struct Passphrase(SecretString);

impl Passphrase {
    /// From its text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(...)")
    }
}

/// Whether `bytes` are an age file.
pub(super) fn is_encrypted(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// The contents of an age file.
pub(super) fn decrypt(bytes: &[u8], passphrase: &Passphrase) -> Result<Vec<u8>> {
    let failed = |error: age::DecryptError| match error {
        age::DecryptError::DecryptionFailed | age::DecryptError::NoMatchingKeys => Error::WrongPassphrase,
        other => damaged(&other.to_string()),
    };
    let mut identity = age::scrypt::Identity::new(passphrase.0.clone());
    identity.set_max_work_factor(MAX_WORK_FACTOR);
    let decryptor = age::Decryptor::new_buffered(bytes).map_err(failed)?;
    let mut reader = decryptor.decrypt(once(&identity as &dyn age::Identity)).map_err(failed)?;
    let mut contents = Vec::with_capacity(bytes.len());
    reader.read_to_end(&mut contents).map_err(|error| damaged(&error.to_string()))?;
    Ok(contents)
}

/// Writes an age file to `out`, whose contents `fill` writes.
pub(super) fn encrypt<W: Write, E: From<io::Error>>(
    out: W,
    passphrase: &Passphrase,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    let mut recipient = age::scrypt::Recipient::new(passphrase.0.clone());
    recipient.set_work_factor(WORK_FACTOR);
    let encryptor = age::Encryptor::with_recipients(once(&recipient as &dyn age::Recipient));
    let encryptor = encryptor.map_err(io::Error::other)?;
    let mut writer = encryptor.wrap_output(out)?;
    fill(&mut writer)?;
    writer.finish()?;
    Ok(())
}

fn damaged(problem: &str) -> Error {
    Error::Container { container: "age", problem: problem.to_owned() }
}
