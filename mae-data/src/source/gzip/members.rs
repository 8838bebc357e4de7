//! A gzip file whose members are unpacked by several threads.
//!
//! Where a member begins is only known once the one before was read. But the bytes of a header are rare, so what
//! looks like one is taken as a start ahead of time. When a member ends elsewhere, what was begun ahead is thrown away.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use flate2::bufread::GzDecoder;

use super::super::reader::{FileReader, Piped, read_buffered};
use super::is_member;

/// Sizes that decide how the work is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// Compressed bytes that one thread unpacks at least.
    pub(crate) part: u64,
    /// How far behind that a start is looked for.
    pub(crate) search: u64,
    /// Threads at most.
    pub(crate) threads: usize,
}

impl Default for Cut {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
        Self { part: 4 << 20, search: 32 << 20, threads }
    }
}

/// The unpacked bytes of a gzip file, in order.
pub(crate) struct Members {
    file: Arc<File>,
    size: u64,
    cut: Cut,
    parts: VecDeque<Part>,
    /// Where the next part begins; unknown while the last one has an open end.
    next: Option<u64>,
    read: Arc<AtomicU64>,
    members: Arc<AtomicU64>,
}

/// Members that one thread unpacks.
struct Part {
    start: u64,
    bytes: Piped,
    /// Set when the thread is through: the end, and how many members there were.
    end: Arc<OnceLock<(u64, u64)>>,
}

impl Members {
    /// Reads `file`; how much of it was read can be seen in `read`.
    pub(crate) fn new(file: File, read: Arc<AtomicU64>, cut: Cut) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let file = Arc::new(file);
        Ok(Self { file, size, cut, parts: VecDeque::new(), next: Some(0), read, members: Arc::default() })
    }

    /// How many members were read so far.
    pub(crate) fn count(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.members)
    }

    /// Begins as many parts as there are threads.
    fn begin(&mut self) -> io::Result<()> {
        while self.parts.len() < self.cut.threads {
            let Some(start) = self.next else { break };
            if start > 0 && !self.is_member_at(start)? {
                self.next = None;
                break;
            }
            let from = start + self.cut.part;
            let stop = self.find(from, from.saturating_add(self.cut.search))?;
            self.next = stop;
            let end = Arc::new(OnceLock::new());
            let (file, ended, read) = (Arc::clone(&self.file), Arc::clone(&end), Arc::clone(&self.read));
            let stop = stop.unwrap_or(from);
            let bytes = Piped::spawn(move |sink| {
                let (mut reader, mut members) = (FileReader::new(Arc::clone(&file), start, read), 0);
                loop {
                    let mut decoder = GzDecoder::new(reader);
                    sink.read_from(&mut decoder)?;
                    reader = decoder.into_inner();
                    members += 1;
                    if reader.position() >= stop || !is_member(&head(&file, reader.position())?) {
                        // The only thread that sets it.
                        let _ = ended.set((reader.position(), members));
                        return Ok(());
                    }
                }
            })?;
            self.parts.push_back(Part { start, bytes, end });
        }
        Ok(())
    }

    fn is_member_at(&self, at: u64) -> io::Result<bool> {
        Ok(is_member(&head(&self.file, at)?))
    }

    /// The first place in a range that looks like the header of a member.
    fn find(&self, from: u64, until: u64) -> io::Result<Option<u64>> {
        const WINDOW: usize = 1 << 20;
        if self.cut.threads < 2 {
            return Ok(None);
        }
        let finder = memchr::memmem::Finder::new(b"\x1f\x8b\x08");
        let (mut at, until) = (from, until.min(self.size));
        let mut window = vec![0; WINDOW];
        while at < until {
            let n = read_at_most(&self.file, &mut window, at)?;
            for found in finder.find_iter(&window[..n]) {
                // Flags that are defined, a level and a system that exist.
                if let Some([_, _, _, flags, _, _, _, _, level, system]) = window[found..n].first_chunk()
                    && flags & 0xe0 == 0
                    && matches!(level, 0 | 2 | 4)
                    && matches!(system, 0..=13 | 255)
                {
                    return Ok(Some(at + found as u64));
                }
            }
            if n < WINDOW {
                break;
            }
            // A header may lie across the border.
            at += (n - 9) as u64;
        }
        Ok(None)
    }
}

impl BufRead for Members {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        loop {
            self.begin()?;
            let Some(part) = self.parts.front_mut() else { return Ok(&[]) };
            if !part.bytes.fill_buf()?.is_empty() {
                break;
            }
            // The thread sets the end before it ends its stream.
            let (end, members) = part.end.get().copied().unwrap_or((self.size, 1));
            self.parts.pop_front();
            self.members.fetch_add(members, Ordering::Relaxed);
            if self.parts.front().is_none_or(|next| next.start != end) {
                self.parts.clear();
                self.next = Some(end);
            }
        }
        // Asked again, for the borrow to end in the loop.
        self.parts.front_mut().map_or(Ok(&[]), |part| part.bytes.fill_buf())
    }

    fn consume(&mut self, n: usize) {
        if let Some(part) = self.parts.front_mut() {
            part.bytes.consume(n);
        }
    }
}

impl Read for Members {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, out)
    }
}

/// The first bytes of what may be a member.
fn head(file: &File, at: u64) -> io::Result<Vec<u8>> {
    let mut head = vec![0; 10];
    let n = read_at_most(file, &mut head, at)?;
    head.truncate(n);
    Ok(head)
}

fn read_at_most(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
