//! Checkpoints behind a passphrase: age files (<https://age-encryption.org/v1>), which the program `age` opens, too.
//!
//! The key of a file comes from the passphrase by scrypt (RFC 7914) with a salt of its own. The file is encrypted in
//! chunks of 64 KiB with ChaCha20-Poly1305, so that every changed, missing or moved byte is noticed. Nothing is ever on
//! the disk in the clear: a file is encrypted as it is written, and opened into memory.

use std::fmt;
use std::io::{Read, Write};

use age::secrecy::SecretString;
use age::stream::StreamWriter;
use age::{DecryptError, Decryptor, Encryptor};

use super::{Error, Result};

/// How every age file begins.
const MAGIC: &[u8] = b"age-encryption.org/v1\n";
/// scrypt's N is two to the power of this: 64 MiB of memory and a fifth of a second for each file and each guess.
const WORK_FACTOR: u8 = 16;
/// What other programs may have asked for: 1 GiB. More is refused, for a hostile header could ask for hours.
const MAX_WORK_FACTOR: u8 = 20;

/// What opens an encrypted checkpoint. It is wiped from memory when dropped, and never shown.
#[derive(Clone)]
pub struct Passphrase(SecretString);

impl Passphrase {
    /// Takes the passphrase as it was typed.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(...)")
    }
}

/// Whether the file is one of age's.
pub(super) fn is_encrypted(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Encrypts what is written to the result; the caller ends it with `finish`.
pub(super) fn encrypt<W: Write>(out: W, passphrase: &Passphrase) -> std::io::Result<StreamWriter<W>> {
    let mut recipient = age::scrypt::Recipient::new(passphrase.0.clone());
    recipient.set_work_factor(WORK_FACTOR);
    let encryptor = Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient));
    encryptor.map_err(std::io::Error::other)?.wrap_output(out)
}

/// The contents of an encrypted file.
///
/// # Errors
/// [`Error::Locked`] without a passphrase, [`Error::WrongPassphrase`], and [`Error::Container`] for a file that is
/// damaged.
pub(super) fn decrypt(bytes: &[u8], passphrase: Option<&Passphrase>) -> Result<Vec<u8>> {
    let decryptor = Decryptor::new_buffered(bytes).map_err(refused)?;
    if !decryptor.is_scrypt() {
        return Err(Error::UnsupportedFormat {
            what: "a file that age encrypted for a key pair, not with a passphrase,",
            remedy: "decrypt it with `age -d -i KEY_FILE` first",
        });
    }
    let Some(passphrase) = passphrase else { return Err(Error::Locked) };
    let mut identity = age::scrypt::Identity::new(passphrase.0.clone());
    identity.set_max_work_factor(MAX_WORK_FACTOR);
    let mut reader = decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity)).map_err(refused)?;
    let mut plain = Vec::with_capacity(bytes.len());
    // The last chunk says that it is the last: a file that was cut off does not end well.
    reader.read_to_end(&mut plain).map_err(|error| damaged(&error))?;
    Ok(plain)
}

fn refused(error: DecryptError) -> Error {
    match error {
        DecryptError::NoMatchingKeys | DecryptError::KeyDecryptionFailed | DecryptError::DecryptionFailed => {
            Error::WrongPassphrase
        }
        DecryptError::ExcessiveWork { required, .. } => Error::Limit {
            what: format!("opening the file would take scrypt's work factor {required}"),
            limit: MAX_WORK_FACTOR.to_string(),
        },
        DecryptError::UnknownFormat => Error::UnsupportedFormat {
            what: "a file of a newer version of age",
            remedy: "decrypt it with `age -d` first",
        },
        error => damaged(&error),
    }
}

fn damaged(error: &dyn fmt::Display) -> Error {
    Error::Container { container: "age", problem: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(plain: &[u8], passphrase: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = encrypt(&mut out, &Passphrase::new(passphrase)).unwrap();
        writer.write_all(plain).unwrap();
        writer.finish().unwrap();
        out
    }

    #[test]
    fn what_is_sealed_is_opened_with_its_passphrase_alone() {
        let plain: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        let file = sealed(&plain, "correct horse");
        assert!(is_encrypted(&file) && !is_encrypted(b"PK\x03\x04"));
        // Neither the plain text nor the same file twice.
        assert!(!file.windows(16).any(|window| window == &plain[..16]));
        assert_ne!(file, sealed(&plain, "correct horse"));
        assert_eq!(decrypt(&file, Some(&Passphrase::new("correct horse"))).unwrap(), plain);
        assert!(matches!(decrypt(&file, None), Err(Error::Locked)));
        assert!(matches!(decrypt(&file, Some(&Passphrase::new("horse"))), Err(Error::WrongPassphrase)));
    }

    #[test]
    fn damage_is_noticed_wherever_it_is() {
        let key = Passphrase::new("k");
        let file = sealed(&[7; 150_000], "k");
        for at in [0, 30, 60, MAGIC.len() + 150, 1000, 70_000, file.len() - 1] {
            let mut other = file.clone();
            other[at] ^= 1;
            assert!(decrypt(&other, Some(&key)).is_err(), "byte {at}");
        }
        for length in [0, 10, 100, 200, 70_000, file.len() - 1] {
            assert!(decrypt(&file[..length], Some(&key)).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_header_that_asks_for_hours_is_refused_at_once() {
        let file = sealed(b"x", "k");
        let text = String::from_utf8_lossy(&file).into_owned();
        assert!(text.contains(" 16\n"), "{text}");
        let at = file.windows(4).position(|window| window == b" 16\n").unwrap();
        let mut greedy = file;
        greedy[at + 1..at + 3].copy_from_slice(b"40");
        let error = decrypt(&greedy, Some(&Passphrase::new("k"))).unwrap_err();
        assert!(matches!(error, Error::Limit { .. } | Error::Container { .. }), "{error}");
    }

    #[test]
    fn a_passphrase_is_never_shown() {
        assert_eq!(format!("{:?}", Passphrase::new("secret")), "Passphrase(...)");
    }
}
