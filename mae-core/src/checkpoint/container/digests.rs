//! A record of the zip format that PyTorch does not know and skips: the BLAKE3 digest of every other record.
//!
//! A CRC-32 notices that a disk lost a sector; a digest also notices what was put there instead. Written as `b3sum`
//! writes them: `<64 hexadecimal digits>  <name>`, one a line.

use std::collections::HashMap;

/// Name of the record in the root folder.
pub(crate) const DIGESTS: &str = ".data/digests";

/// Adds a line; a name that is no line has no digest.
pub(crate) fn append(out: &mut String, name: &str, digest: &blake3::Hash) {
    if name.contains('\n') {
        return;
    }
    out.push_str(&format!("{}  {name}\n", digest.to_hex()));
}

/// The digest of each record by name.
pub(crate) fn parse(text: &[u8]) -> Option<HashMap<String, blake3::Hash>> {
    let lines = std::str::from_utf8(text).ok()?.split_terminator('\n');
    lines
        .map(|line| {
            let (digest, name) = line.split_once("  ")?;
            Some((name.to_owned(), blake3::Hash::from_hex(digest).ok()?))
        })
        .collect()
}
