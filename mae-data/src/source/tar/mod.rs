//! Tar archives, read member by member: v7, ustar with prefix, GNU long names and base-256 sizes, PAX path and size.
//!
//! Written for untrusted input: nothing is allocated in proportion to what a header claims, links and devices are
//! reported as what they are and never followed, and a cut-off archive says which member was the last whole one.

mod header;

use std::io::{self, BufRead, ErrorKind, Write};

pub(super) use header::text;
use header::{PaxRecord, check_sum, header_name, number, pax_record, until_nul};

const BLOCK: usize = 512;
/// Long names and PAX records beyond this size are refused.
const MAX_EXTENSION: u64 = 1 << 20;

/// One member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name as written in the archive; a byte that is not UTF-8 is shown as `\xE9`.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Size of its payload in bytes.
    pub size: u64,
    /// Where its payload begins, in bytes of the tar stream.
    pub offset: u64,
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A symbolic or hard link.
    Link,
    /// A file with holes, stored without them.
    Sparse,
    /// A device, a pipe or a type this reader does not know.
    Other,
}

/// Why reading stopped.
#[derive(Debug)]
pub struct TarError {
    /// What happened.
    pub cause: Cause,
    /// Where, in bytes of the tar stream.
    pub at: u64,
    /// The last member whose payload was there as a whole.
    pub last_member: Option<String>,
}

/// The kinds of [`TarError`].
#[derive(Debug)]
pub enum Cause {
    /// The stream ended inside a header or a payload.
    Truncated,
    /// The bytes are not those of a tar archive.
    Malformed(String),
    /// The compressed stream around the archive is damaged.
    Corrupt(String),
    /// More than an archive of its size can reasonably hold.
    Excess(String),
    /// Reading failed.
    Io(io::Error),
    /// Writing a payload elsewhere failed.
    Write(io::Error),
}

/// Reads an archive from a stream, one member after the other.
pub struct Walker<R> {
    reader: R,
    position: u64,
    /// Payload and padding of the current member that were not read yet.
    payload_left: u64,
    padding_left: u64,
    current: Option<String>,
    last_member: Option<String>,
    global_path: Option<String>,
    end_marker: bool,
}

/// What extension headers said about the member that follows them.
#[derive(Default)]
struct Pending {
    name: Option<String>,
    size: Option<u64>,
    sparse: bool,
}

/// All members of an archive that lies in memory.
///
/// # Errors
/// When the bytes are no tar archive or end too early.
pub fn walk(bytes: &[u8]) -> Result<Vec<Member>, TarError> {
    let mut walker = Walker::new(bytes);
    let mut members = Vec::new();
    while let Some(member) = walker.next_member()? {
        members.push(member);
    }
    Ok(members)
}

impl<R: BufRead> Walker<R> {
    /// Starts at the first header.
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            position: 0,
            payload_left: 0,
            padding_left: 0,
            current: None,
            last_member: None,
            global_path: None,
            end_marker: false,
        }
    }

    /// An error when the stream ended without the marker that ends an archive, two blocks of zeros. A stream that
    /// nothing else vouches for may then be cut off between two members.
    ///
    /// # Errors
    /// [`Cause::Truncated`].
    pub fn expect_end_marker(&self) -> Result<(), TarError> {
        if self.end_marker { Ok(()) } else { Err(self.failed(Cause::Truncated)) }
    }

    /// The next member, or `None` at the end. An unread payload of the one before is skipped.
    ///
    /// # Errors
    /// When the stream ends inside a member, is not a tar archive, or cannot be read.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        self.finish_member()?;
        if self.end_marker {
            return Ok(None);
        }
        let mut pending = Pending::default();
        let mut zero_blocks = 0;
        loop {
            let Some(header) = self.block(true)? else {
                // Some writers are content with half a marker.
                self.end_marker = zero_blocks > 0;
                return Ok(None);
            };
            if header.iter().all(|&b| b == 0) {
                zero_blocks += 1;
                if zero_blocks == 2 {
                    self.end_marker = true;
                    return Ok(None);
                }
                continue;
            }
            zero_blocks = 0;
            let at = self.position - BLOCK as u64;
            check_sum(&header).map_err(|detail| self.malformed(at, detail))?;
            let size = number(&header[124..136]).map_err(|detail| self.malformed(at, detail))?;
            match header[156] {
                kind @ (b'x' | b'g' | b'L' | b'K') => {
                    let content = self.extension(at, size)?;
                    self.apply_extension(kind, &content, &mut pending)
                        .map_err(|detail| self.malformed(at, detail))?;
                }
                kind => return self.member(&header, kind, size, pending).map(Some),
            }
        }
    }

    /// Copies the payload of the current member.
    ///
    /// # Errors
    /// When the stream ends too early or cannot be read ([`Cause::Io`]), or `out` refuses ([`Cause::Write`]).
    pub fn copy_payload(&mut self, out: &mut impl Write) -> Result<(), TarError> {
        while self.payload_left > 0 {
            let n = self.some(self.payload_left)?;
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(e) => return Err(self.read_failed(e)),
            };
            let written = out.write_all(&chunk[..n]);
            written.map_err(|e| self.failed(Cause::Write(e)))?;
            self.consume(n);
            self.payload_left -= n as u64;
        }
        Ok(())
    }

    /// Reads what follows the end marker, so that a compressed stream checks its sum, and says whether it was all
    /// zeros, as it should be.
    ///
    /// # Errors
    /// When the stream cannot be read or ends too early.
    pub fn drain(&mut self) -> Result<bool, TarError> {
        let mut clean = true;
        loop {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.read_failed(e)),
            };
            if chunk.is_empty() {
                return Ok(clean);
            }
            clean &= chunk.iter().all(|&b| b == 0);
            let n = chunk.len();
            self.consume(n);
        }
    }

    fn finish_member(&mut self) -> Result<(), TarError> {
        self.skip_payload()?;
        if let Some(name) = self.current.take() {
            self.last_member = Some(name);
        }
        // Some writers leave out the padding after the last member.
        while self.padding_left > 0 {
            let available = self.available()?;
            if available == 0 {
                self.padding_left = 0;
                break;
            }
            let n = available.min(self.padding_left as usize);
            self.consume(n);
            self.padding_left -= n as u64;
        }
        Ok(())
    }

    fn skip_payload(&mut self) -> Result<(), TarError> {
        while self.payload_left > 0 {
            let n = self.some(self.payload_left)?;
            self.consume(n);
            self.payload_left -= n as u64;
        }
        Ok(())
    }

    fn member(
        &mut self,
        header: &[u8; BLOCK],
        kind: u8,
        size: u64,
        pending: Pending,
    ) -> Result<Member, TarError> {
        let at = self.position - BLOCK as u64;
        let size = pending.size.unwrap_or(size);
        let name = pending.name.or_else(|| self.global_path.clone()).unwrap_or_else(|| header_name(header));
        let has_payload = !matches!(kind, b'1'..=b'6');
        let kind = match kind {
            b'0' | 0 | b'7' if pending.sparse => Kind::Sparse,
            b'0' | 0 | b'7' if name.ends_with('/') => Kind::Directory,
            b'0' | 0 | b'7' => Kind::File,
            b'1' | b'2' => Kind::Link,
            b'5' => Kind::Directory,
            b'S' => {
                // The map of an old GNU sparse file may go on in blocks of its own.
                let mut more = header[482] != 0;
                while more {
                    more = self.block(false)?.is_some_and(|block| block[504] != 0);
                }
                Kind::Sparse
            }
            _ => Kind::Other,
        };
        let size = if has_payload { size } else { 0 };
        let padded = size
            .checked_next_multiple_of(BLOCK as u64)
            .ok_or_else(|| self.malformed(at, format!("a member of {size} bytes")))?;
        self.payload_left = size;
        self.padding_left = padded - size;
        self.current = Some(name.clone());
        Ok(Member { name, kind, size, offset: self.position })
    }

    fn extension(&mut self, at: u64, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENSION {
            return Err(self.malformed(at, format!("an extension header of {size} bytes, more than 1 MiB")));
        }
        let mut content = Vec::new();
        self.payload_left = size;
        self.padding_left = size.next_multiple_of(BLOCK as u64) - size;
        self.copy_payload(&mut content)?;
        self.finish_member()?;
        Ok(content)
    }

    fn apply_extension(&mut self, kind: u8, content: &[u8], pending: &mut Pending) -> Result<(), String> {
        match kind {
            b'L' => pending.name = Some(text(until_nul(content))),
            b'K' => {}
            _ => {
                let mut rest = content;
                while !rest.is_empty() {
                    let record = pax_record(rest)?;
                    rest = record.rest;
                    let PaxRecord { key, value, .. } = record;
                    match (key, kind) {
                        (b"path", b'x') => pending.name = Some(text(value)),
                        (b"path", _) => self.global_path = Some(text(value)),
                        (b"size", b'x') => {
                            let size = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                            pending.size = Some(size.ok_or("a PAX size that is no number")?);
                        }
                        (key, _) if key.starts_with(b"GNU.sparse") => pending.sparse = true,
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// The next 512 bytes; `None` when `may_end` and the stream ends just here.
    fn block(&mut self, may_end: bool) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let available = self.available()?;
            if available == 0 {
                if filled == 0 && may_end {
                    return Ok(None);
                }
                return Err(self.failed(Cause::Truncated));
            }
            let n = available.min(BLOCK - filled);
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(e) => return Err(self.read_failed(e)),
            };
            block[filled..filled + n].copy_from_slice(&chunk[..n]);
            self.consume(n);
            filled += n;
        }
        Ok(Some(block))
    }

    /// How many of `wanted` bytes can be consumed at once; an error when there are none.
    fn some(&mut self, wanted: u64) -> Result<usize, TarError> {
        let available = self.available()?;
        if available == 0 {
            return Err(self.failed(Cause::Truncated));
        }
        Ok(usize::try_from(wanted).map_or(available, |wanted| available.min(wanted)))
    }

    fn available(&mut self) -> Result<usize, TarError> {
        loop {
            match self.reader.fill_buf() {
                Ok(chunk) => return Ok(chunk.len()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(self.read_failed(e)),
            }
        }
    }

    fn consume(&mut self, n: usize) {
        self.reader.consume(n);
        self.position += n as u64;
    }

    /// The error of a payload that could not be written elsewhere.
    pub(crate) fn write_failed(&self, error: io::Error) -> TarError {
        self.failed(Cause::Write(error))
    }

    /// The error of an archive that holds too much.
    pub(crate) fn excess(&self, detail: String) -> TarError {
        self.failed(Cause::Excess(detail))
    }

    fn read_failed(&self, error: io::Error) -> TarError {
        match error.kind() {
            ErrorKind::UnexpectedEof => self.failed(Cause::Truncated),
            // What a decompressor says of bytes that it cannot understand.
            ErrorKind::InvalidData | ErrorKind::InvalidInput => {
                self.failed(Cause::Corrupt(error.to_string()))
            }
            _ => self.failed(Cause::Io(error)),
        }
    }

    fn failed(&self, cause: Cause) -> TarError {
        TarError { cause, at: self.position, last_member: self.last_member.clone() }
    }

    fn malformed(&self, at: u64, detail: impl Into<String>) -> TarError {
        TarError { cause: Cause::Malformed(detail.into()), at, last_member: self.last_member.clone() }
    }
}

#[cfg(test)]
mod tests;
