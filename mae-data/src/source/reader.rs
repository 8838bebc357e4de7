//! Files read from several threads, and streams that are unpacked by a thread of their own.

use std::fs::File;
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// What is read or handed over at once.
const CHUNK: usize = 256 << 10;
/// Chunks that a thread may be ahead of its reader.
const AHEAD: usize = 32;

/// Reads a file from a position on. Any number of them share the file.
pub(crate) struct FileReader {
    file: Arc<File>,
    /// Where the buffer ends in the file.
    position: u64,
    buffer: Vec<u8>,
    taken: usize,
    /// The furthest byte that was read from the file, by this or another reader.
    read: Arc<AtomicU64>,
}

impl FileReader {
    /// Reads from `position` on, and tells in `read` how far it came.
    pub(crate) fn new(file: Arc<File>, position: u64, read: Arc<AtomicU64>) -> Self {
        Self { file, position, buffer: Vec::new(), taken: 0, read }
    }

    /// The next byte that will be read.
    pub(crate) fn position(&self) -> u64 {
        self.position - (self.buffer.len() - self.taken) as u64
    }
}

impl BufRead for FileReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken == self.buffer.len() {
            self.taken = 0;
            self.buffer.resize(CHUNK, 0);
            let n = loop {
                match self.file.read_at(&mut self.buffer, self.position) {
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    result => break result,
                }
            };
            self.buffer.truncate(*n.as_ref().unwrap_or(&0));
            self.position += n? as u64;
            self.read.fetch_max(self.position, Ordering::Relaxed);
        }
        Ok(&self.buffer[self.taken..])
    }

    fn consume(&mut self, n: usize) {
        self.taken = (self.taken + n).min(self.buffer.len());
    }
}

impl Read for FileReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, out)
    }
}

/// What a thread produces, in chunks and in order. Dropping it ends the thread at its next chunk.
pub(crate) struct Piped {
    messages: Receiver<Message>,
    chunk: Vec<u8>,
    taken: usize,
    ended: bool,
}

enum Message {
    Chunk(Vec<u8>),
    End(io::Result<()>),
}

/// Where the thread of a [`Piped`] writes to. It blocks while the reader is far behind.
pub(crate) struct Sink {
    sender: SyncSender<Message>,
    buffer: Vec<u8>,
}

impl Piped {
    /// Starts `work` in a thread. Its error is seen by the reader behind all that was written before.
    pub(crate) fn spawn(work: impl FnOnce(&mut Sink) -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let (sender, messages) = sync_channel(AHEAD);
        std::thread::Builder::new().name("mae-unpack".to_owned()).spawn(move || {
            let mut sink = Sink { sender, buffer: Vec::with_capacity(CHUNK) };
            // What came before an error is handed over: it tells the last whole member.
            let result = work(&mut sink);
            let result = sink.flush().and(result);
            // A reader that is gone does not want to know.
            let _ = sink.sender.send(Message::End(result));
        })?;
        Ok(Self { messages, chunk: Vec::new(), taken: 0, ended: false })
    }
}

impl BufRead for Piped {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.taken == self.chunk.len() && !self.ended {
            match self.messages.recv() {
                Ok(Message::Chunk(chunk)) => (self.chunk, self.taken) = (chunk, 0),
                Ok(Message::End(result)) => {
                    self.ended = true;
                    result?;
                }
                Err(_) => {
                    self.ended = true;
                    return Err(io::Error::other("the thread that unpacks the archive has died"));
                }
            }
        }
        Ok(&self.chunk[self.taken..])
    }

    fn consume(&mut self, n: usize) {
        self.taken = (self.taken + n).min(self.chunk.len());
    }
}

impl Read for Piped {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, out)
    }
}

impl Sink {
    /// Writes all that `reader` gives.
    pub(crate) fn read_from(&mut self, reader: &mut impl Read) -> io::Result<()> {
        loop {
            let filled = self.buffer.len();
            self.buffer.resize(CHUNK, 0);
            let n = match reader.read(&mut self.buffer[filled..]) {
                Err(e) if e.kind() == ErrorKind::Interrupted => Ok(None),
                result => result.map(Some),
            };
            self.buffer.truncate(filled + n.as_ref().ok().copied().flatten().unwrap_or(0));
            match n {
                Ok(Some(0)) => return Ok(()),
                Err(error) => return Err(error),
                Ok(_) => {}
            }
            if self.buffer.len() == CHUNK {
                self.flush()?;
            }
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..n]);
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.sender.send(Message::Chunk(chunk)).map_err(|_| ErrorKind::BrokenPipe.into())
    }
}

/// `Read` for what is a `BufRead`.
pub(crate) fn read_buffered(reader: &mut impl BufRead, out: &mut [u8]) -> io::Result<usize> {
    let buffer = reader.fill_buf()?;
    let n = buffer.len().min(out.len());
    out[..n].copy_from_slice(&buffer[..n]);
    reader.consume(n);
    Ok(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_come_in_order_and_the_error_last() {
        let data: Vec<u8> = (0..3 * CHUNK + 17).map(|i| (i * 7 + i / 251) as u8).collect();
        let sent = data.clone();
        let mut piped = Piped::spawn(move |sink| {
            sink.write_all(&sent[..100])?;
            sink.read_from(&mut &sent[100..])?;
            Err(io::Error::new(ErrorKind::InvalidData, "damaged here"))
        })
        .unwrap();
        let mut got = Vec::new();
        let error = piped.read_to_end(&mut got).unwrap_err();
        assert_eq!((got == data, error.to_string()), (true, "damaged here".to_owned()));
    }

    #[test]
    fn a_thread_that_dies_is_an_error_and_one_without_reader_ends() {
        let mut piped = Piped::spawn(|_| panic!("on purpose")).unwrap();
        assert!(piped.fill_buf().unwrap_err().to_string().contains("has died"));
        let (sender, receiver) = std::sync::mpsc::channel();
        let piped = Piped::spawn(move |sink| {
            let result = sink.read_from(&mut io::repeat(1));
            let _ = sender.send(result.is_err());
            result
        })
        .unwrap();
        drop(piped);
        assert!(receiver.recv().unwrap());
    }
}
