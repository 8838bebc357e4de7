//! One large object, read from beginning to end over any number of connections.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use futures_util::StreamExt;
use object_store::{GetOptions, GetRange, ObjectMeta};

use super::client::{ATTEMPTS, Client, IDLE, detail, is_final, pause, runtime};
use crate::error::Error;

/// How much of the beginning is looked at to tell what it is.
const HEAD: usize = 512;
/// Pieces that the network may be ahead of the reader.
const AHEAD: usize = 64;

/// What is said of a server that cannot begin in the middle.
const NO_RANGES: &str = "the server has no ranges";

/// An object that is there.
pub(super) struct Object {
    client: Client,
    meta: ObjectMeta,
    head: Vec<u8>,
}

impl Object {
    /// The object of an address; `None` when there is none and it may be a folder.
    pub(super) fn find(client: &Client) -> Result<Option<Self>, Error> {
        match client.wait(Self::ask(client.clone()))? {
            Ok(object) => Ok(Some(object)),
            Err(object_store::Error::NotFound { .. }) if client.is_http() => Err(client.missing()),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(client.failed(&error)),
        }
    }

    /// Asks for the object itself: a signed address allows nothing but that.
    async fn ask(client: Client) -> object_store::Result<Self> {
        let result = client.store.get_opts(&client.key, GetOptions::default()).await?;
        let meta = result.meta.clone();
        let mut stream = result.into_stream();
        let mut head = Vec::new();
        while head.len() < HEAD {
            match stream.next().await {
                Some(bytes) => head.extend_from_slice(&bytes?),
                None => break,
            }
        }
        head.truncate(HEAD);
        Ok(Self { client, meta, head })
    }

    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }

    pub(super) fn size(&self) -> u64 {
        self.meta.size
    }

    /// What tells this version of the object from others.
    pub(super) fn version(&self) -> String {
        self.meta.e_tag.clone().unwrap_or_else(|| self.meta.last_modified.to_rfc3339())
    }

    /// Its bytes; how many were received can be seen in `read`.
    pub(super) fn stream(self, read: Arc<AtomicU64>) -> Stream {
        let (sender, pieces) = sync_channel(AHEAD);
        let left = self.meta.size;
        match runtime() {
            Ok(runtime) => {
                runtime.spawn(self.send(sender, read));
            }
            Err(error) => {
                // There is room for one.
                let _ = sender.send(Err(error));
            }
        }
        Stream { pieces, piece: Vec::new(), taken: 0, left }
    }

    /// Hands the object over piece by piece. A connection that is lost, cut off or silent is followed by another that
    /// goes on where it ended.
    async fn send(self, sender: SyncSender<io::Result<Vec<u8>>>, read: Arc<AtomicU64>) {
        let mut progress = Progress { at: 0, attempt: 0, ranges: true };
        while progress.at < self.meta.size {
            pause(progress.attempt).await;
            match self.go_on(&mut progress, &sender, &read).await {
                Ok(()) => {}
                Err(Trouble::Unread) => return,
                Err(Trouble::Again(detail)) => {
                    // A server without ranges: all over again, and the first part is thrown away.
                    progress.ranges &= detail != NO_RANGES;
                    progress.attempt += 1;
                    tracing::info!(url = self.client.shown(), at = progress.at, detail, "connecting again");
                    if progress.attempt >= ATTEMPTS {
                        let at = progress.at;
                        let detail =
                            format!("lost at byte {at}, and {ATTEMPTS} attempts to go on failed: {detail}");
                        fail(&sender, self.client.remote(detail));
                        return;
                    }
                }
                Err(Trouble::Final(error)) => return fail(&sender, error),
            }
        }
    }

    /// One connection.
    async fn go_on(
        &self,
        progress: &mut Progress,
        sender: &SyncSender<io::Result<Vec<u8>>>,
        read: &AtomicU64,
    ) -> Result<(), Trouble> {
        let from = if progress.ranges { progress.at } else { 0 };
        let mut skip = progress.at - from;
        let options = GetOptions {
            if_match: self.meta.e_tag.clone(),
            range: (from > 0).then_some(GetRange::Offset(from)),
            ..GetOptions::default()
        };
        let request = self.client.store.get_opts(&self.client.key, options);
        let result = timed(request).await?.map_err(|error| self.trouble(&error))?;
        // A server may ignore the condition.
        if result.meta.size != self.meta.size || result.meta.e_tag != self.meta.e_tag {
            return Err(self.changed());
        }
        let mut stream = result.into_stream();
        while let Some(bytes) = timed(stream.next()).await? {
            let bytes = bytes.map_err(|error| self.trouble(&error))?;
            let old = skip.min(bytes.len() as u64);
            skip -= old;
            let new = &bytes[old as usize..];
            if new.is_empty() {
                continue;
            }
            progress.attempt = 0;
            progress.at += new.len() as u64;
            read.store(progress.at, Ordering::Relaxed);
            let piece = new.to_vec();
            // The channel blocks while the reader is far behind, which the other requests must not feel.
            if tokio::task::block_in_place(|| sender.send(Ok(piece))).is_err() {
                return Err(Trouble::Unread);
            }
        }
        if progress.at < self.meta.size {
            Err(Trouble::Again("the connection ended".to_owned()))
        } else {
            Ok(())
        }
    }

    fn trouble(&self, error: &object_store::Error) -> Trouble {
        match error {
            object_store::Error::Precondition { .. } => self.changed(),
            object_store::Error::NotSupported { .. } => Trouble::Again(NO_RANGES.to_owned()),
            error if is_final(error) => Trouble::Final(self.client.failed(error)),
            error => Trouble::Again(detail(error)),
        }
    }

    fn changed(&self) -> Trouble {
        Trouble::Final(self.client.changed(&self.client.key))
    }
}

/// How far an object has come.
struct Progress {
    at: u64,
    /// Attempts since the last byte.
    attempt: u32,
    /// Whether the server is asked to begin in the middle.
    ranges: bool,
}

/// Why a connection ended.
enum Trouble {
    /// Another may do better.
    Again(String),
    Final(Error),
    /// Nobody reads any more.
    Unread,
}

async fn timed<T>(request: impl Future<Output = T>) -> Result<T, Trouble> {
    let silent = |_| Trouble::Again(format!("nothing came for {} s", IDLE.as_secs()));
    tokio::time::timeout(IDLE, request).await.map_err(silent)
}

fn fail(sender: &SyncSender<io::Result<Vec<u8>>>, error: Error) {
    // A reader that is gone does not want to know.
    let _ = tokio::task::block_in_place(|| sender.send(Err(io::Error::other(error))));
}

/// The bytes of an object, in order.
pub(super) struct Stream {
    pieces: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    taken: usize,
    /// Bytes that have not come yet.
    left: u64,
}

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.piece.len() {
            match self.pieces.recv() {
                Ok(piece) => {
                    (self.piece, self.taken) = (piece?, 0);
                    self.left -= (self.piece.len() as u64).min(self.left);
                }
                Err(_) if self.left > 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(_) => return Ok(0),
            }
        }
        let n = out.len().min(self.piece.len() - self.taken);
        out[..n].copy_from_slice(&self.piece[self.taken..self.taken + n]);
        self.taken += n;
        Ok(n)
    }
}
