//! Has the disk write a file while more of it is being made, so that little is left to wait for at its end.

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// The disk is set going each time that this much was written.
const INTERVAL: u64 = 8 << 20;

/// A file whose bytes are on their way to the disk.
pub(crate) struct Writeback {
    started: u64,
    sender: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Writeback {
    /// For what is written to `file`, through whichever handle.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let file = file.try_clone()?;
        // One request may wait while another is served; more would add nothing.
        let (sender, requests) = sync_channel::<()>(1);
        let thread = std::thread::Builder::new().name("mae-writeback".to_owned()).spawn(move || {
            // The system tells an error of the disk once, so it is kept for the end.
            requests.iter().try_for_each(|()| file.sync_data())
        })?;
        Ok(Self { started: 0, sender, thread })
    }

    /// The file has so many bytes now.
    pub(crate) fn at(&mut self, end: u64) {
        if end >= self.started + INTERVAL {
            self.started = end;
            // A thread that is busy, or that has ended with an error, is not waited for.
            let _ = self.sender.try_send(());
        }
    }

    /// Waits until nothing is on its way any more.
    ///
    /// # Errors
    /// What the disk said meanwhile.
    pub(crate) fn finish(self) -> io::Result<()> {
        drop(self.sender);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that writes back has died")))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_is_written_as_without_it() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut writeback = Writeback::of(file.as_file()).unwrap();
        let part = vec![7; 3 << 20];
        for i in 1..=10 {
            file.write_all(&part).unwrap();
            writeback.at(i * part.len() as u64);
        }
        writeback.finish().unwrap();
        assert!(std::fs::read(file.path()).unwrap() == vec![7; 30 << 20]);
    }

    /// Of a pipe, nothing can be made sure.
    #[test]
    fn what_the_disk_says_comes_at_the_end() {
        let (_reader, writer) = io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let mut writeback = Writeback::of(&file).unwrap();
        writeback.at(INTERVAL);
        assert!(writeback.finish().is_err());
    }
}
