//! A small server for the tests: objects behind http and S3's interface, and everything that goes wrong with them.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// An answer with this status and nothing else.
    Status(u16),
    /// The connection is closed after so many bytes of the body.
    Cut(usize),
    /// The connection is reset after so many bytes of the body.
    Reset(usize),
    /// Nothing comes any more after so many bytes of the body.
    Silent(usize),
    /// The body comes in small pieces with pauses.
    Slow,
    /// The object is replaced by another of the same size before the answer.
    Replaced,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, (Vec<u8>, u64)>,
    faults: VecDeque<Fault>,
    requests: Vec<String>,
    no_ranges: bool,
    ignores_conditions: bool,
}

/// A server on a port of its own; it ends with the process.
#[derive(Clone)]
pub(super) struct Server {
    state: Arc<Mutex<State>>,
    port: u16,
}

impl Server {
    pub(super) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Self { state: Arc::default(), port };
        let shared = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = shared.clone();
                std::thread::spawn(move || server.answer(stream));
            }
        });
        server
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(super) fn put(&self, path: &str, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        let version = state.objects.get(path).map_or(1, |(_, version)| version + 1);
        state.objects.insert(path.to_owned(), (bytes.to_vec(), version));
    }

    /// What goes wrong with the next requests, in this order.
    pub(super) fn faults(&self, faults: &[Fault]) {
        self.state.lock().unwrap().faults.extend(faults);
    }

    pub(super) fn without_ranges(&self) {
        self.state.lock().unwrap().no_ranges = true;
    }

    pub(super) fn without_conditions(&self) {
        self.state.lock().unwrap().ignores_conditions = true;
    }

    /// The first lines of the requests so far.
    pub(super) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }

    fn answer(&self, mut stream: TcpStream) {
        // Looked at without being taken: what is unread when a connection is dropped makes it a reset.
        let mut buffer = vec![0; 64 << 10];
        let mut n = 0;
        while !buffer[..n].windows(4).any(|w| w == b"\r\n\r\n") {
            let seen = stream.peek(&mut buffer).unwrap_or(0);
            if seen == 0 {
                return;
            }
            if seen == n {
                std::thread::sleep(Duration::from_millis(1));
            }
            n = seen;
        }
        let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
        let fault = {
            let mut state = self.state.lock().unwrap();
            state.requests.push(text.lines().next().unwrap_or_default().to_owned());
            state.faults.pop_front()
        };
        if !matches!(fault, Some(Fault::Reset(_))) {
            let _ = stream.read(&mut buffer);
        }
        // A client that has gone is what some tests want.
        let _ = self.respond(&mut stream, &text, fault);
    }

    fn respond(&self, stream: &mut TcpStream, request: &str, fault: Option<Fault>) -> std::io::Result<()> {
        let target = request.split_whitespace().nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let header = |name: &str| {
            request.lines().find_map(|line| {
                let (key, value) = line.split_once(": ")?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        if let Some(Fault::Status(status)) = fault {
            return write!(
                stream,
                "HTTP/1.1 {status} Fault\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        if let Some(Fault::Replaced) = fault {
            let object = self.state.lock().unwrap().objects.get(path).cloned();
            let other: Vec<u8> = object.unwrap_or_default().0.iter().map(|byte| !byte).collect();
            self.put(path, &other);
        }
        if path.starts_with("/bucket")
            && !header("authorization").unwrap_or_default().starts_with("AWS4-HMAC-SHA256 Credential=key/")
        {
            return write!(
                stream,
                "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        if query.contains("list-type=2") {
            let body = self.listing(query);
            let length = body.len();
            return write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
        }
        let state = self.state.lock().unwrap();
        let object = state.objects.get(path).cloned();
        let (no_ranges, ignores_conditions) = (state.no_ranges, state.ignores_conditions);
        drop(state);
        let Some((bytes, version)) = object else {
            return write!(
                stream,
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        };
        let tag = format!("\"v{version}\"");
        if header("if-match").is_some_and(|wanted| wanted != tag) && !ignores_conditions {
            return write!(stream, "HTTP/1.1 412 Changed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        let start = header("range")
            .filter(|_| !no_ranges)
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        let body = &bytes[start.unwrap_or(0)..];
        let (status, range) = match start {
            Some(start) => {
                let (last, all) = (bytes.len() - 1, bytes.len());
                ("206 Partial Content", format!("Content-Range: bytes {start}-{last}/{all}\r\n"))
            }
            None => ("200 OK", String::new()),
        };
        write!(
            stream,
            "HTTP/1.1 {status}\r\nETag: {tag}\r\nLast-Modified: Wed, 01 Jan 2025 00:00:00 GMT\r\n{range}Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        )?;
        match fault {
            Some(Fault::Cut(n)) => stream.write_all(&body[..n.min(body.len())]),
            Some(Fault::Reset(n)) => {
                stream.write_all(&body[..n.min(body.len())])?;
                // Time for the client to take it before the reset throws it away.
                std::thread::sleep(Duration::from_millis(100));
                Ok(())
            }
            Some(Fault::Silent(n)) => {
                stream.write_all(&body[..n.min(body.len())])?;
                std::thread::sleep(Duration::from_secs(4));
                Ok(())
            }
            Some(Fault::Slow) => body.chunks(body.len().div_ceil(20)).try_for_each(|piece| {
                std::thread::sleep(Duration::from_millis(5));
                stream.write_all(piece)
            }),
            _ => stream.write_all(body),
        }
    }

    /// S3's list of the objects below a prefix.
    fn listing(&self, query: &str) -> String {
        let prefix = query.split('&').find_map(|part| part.strip_prefix("prefix=")).unwrap_or_default();
        let prefix = prefix.replace("%2F", "/");
        let state = self.state.lock().unwrap();
        let contents: String = state
            .objects
            .iter()
            .filter_map(|(path, (bytes, version))| {
                let key = path.strip_prefix("/bucket/")?;
                let key = percent_decoded(key);
                key.starts_with(&prefix).then(|| {
                    format!(
                        "<Contents><Key>{key}</Key><LastModified>2025-01-01T00:00:00.000Z</LastModified><ETag>\"v{version}\"</ETag><Size>{}</Size></Contents>",
                        bytes.len()
                    )
                })
            })
            .collect();
        format!(
            "<?xml version=\"1.0\"?><ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
        )
    }
}

fn percent_decoded(text: &str) -> String {
    url::form_urlencoded::parse(format!("k={}", text.replace('+', "%2B")).as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}
