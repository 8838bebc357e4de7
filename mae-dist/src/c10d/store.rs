//! The key-value store where the processes of a group find each other.

use std::fmt;
use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::ptr::{self, NonNull};
use std::sync::Once;
use std::time::Duration;

use super::ffi::{self, NativeError};
use super::{describe, milliseconds};
use crate::error::{DistError, Origin};

/// Who keeps the values of a [`Store`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreRole {
    /// This process, for as long as its `Store` lives.
    Server,
    /// Another process.
    Client,
}

/// Where a TCP store is, and how to join it.
#[derive(Debug, Clone)]
pub struct TcpStoreOptions {
    /// Name or address of the machine that serves the store.
    pub host: String,
    /// Its port; a server may give 0 and ask [`Store::port`] which one it got.
    pub port: u16,
    /// Whether this process serves the store.
    pub role: StoreRole,
    /// How many processes join; `None` if that is not counted.
    pub world_size: Option<usize>,
    /// Whether a server returns only when all `world_size` processes have joined.
    pub wait_for_workers: bool,
    /// How long joining, and every later call, may take.
    pub timeout: Duration,
    /// The rank to name in errors; a launcher has none.
    pub rank: Option<usize>,
}

/// A c10d store: byte strings under text keys, seen by every process that joined.
pub struct Store {
    handle: NonNull<ffi::MaeStore>,
    address: String,
    origin: Origin,
}

// SAFETY: the handle owns a reference, counted atomically, to a c10d store; a TCPStore guards its
// connection with a mutex, and a PrefixStore only forwards to one.
unsafe impl Send for Store {}

impl Store {
    /// Joins a TCP store, or serves it on all addresses of this machine. A client tries again until the
    /// server is there.
    ///
    /// # Errors
    /// [`DistError::Store`]: nobody serves at that address, the port is taken, or processes did not
    /// join within the timeout.
    pub fn tcp(options: &TcpStoreOptions) -> Result<Self, DistError> {
        Self::open(options, None)
    }

    /// Serves a store on a socket that listens already, at its address only. `options` name it to
    /// others, and their port is not used.
    ///
    /// # Errors
    /// [`DistError::Store`], as for [`tcp`](Self::tcp).
    pub fn serve(listener: TcpListener, options: &TcpStoreOptions) -> Result<Self, DistError> {
        let port = listener.local_addr().map_or(options.port, |address| address.port());
        Self::open(&TcpStoreOptions { port, role: StoreRole::Server, ..options.clone() }, Some(listener))
    }

    fn open(options: &TcpStoreOptions, listener: Option<TcpListener>) -> Result<Self, DistError> {
        initialise();
        let address = format!("{}:{}", options.host, options.port);
        let origin = Origin { rank: options.rank, host: crate::host_name() };
        let handle = ffi::c_string(&options.host).and_then(|host| {
            // SAFETY: `host` is a C string that outlives the call, the socket is handed over, `out` is a
            // place to write to.
            made(|out| unsafe {
                ffi::mae_dist_tcp_store_new(
                    host.as_ptr(),
                    options.port,
                    i32::from(options.role == StoreRole::Server),
                    listener.map_or(-1, IntoRawFd::into_raw_fd),
                    options.world_size.and_then(|size| i64::try_from(size).ok()).unwrap_or(0),
                    i32::from(options.wait_for_workers),
                    milliseconds(options.timeout),
                    out,
                )
            })
        });
        match handle {
            Ok(handle) => {
                let mut store = Self { handle, address, origin };
                let port = store.port()?;
                store.address = format!("{}:{port}", options.host);
                Ok(store)
            }
            Err(error) => Err(store_error("TCPStore", address, origin, error)),
        }
    }

    /// The port of the server.
    ///
    /// # Errors
    /// [`DistError::Store`] if this is a store under a prefix.
    pub fn port(&self) -> Result<u16, DistError> {
        let mut port = 0;
        // SAFETY: the handle is valid while `self` lives, `port` is a place to write to.
        let code = unsafe { ffi::mae_dist_tcp_store_port(self.handle.as_ptr(), &mut port) };
        self.check("port", code)?;
        Ok(port)
    }

    /// Host and port of the server.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The same store, with every key put under `prefix` and a slash.
    ///
    /// # Errors
    /// [`DistError::Store`] if the prefix has a NUL byte.
    pub fn prefix(&self, prefix: &str) -> Result<Self, DistError> {
        let handle = ffi::c_string(prefix)
            .and_then(|prefix| {
                // SAFETY: `prefix` outlives the call, the handle is valid, `out` is a place to write to.
                made(|out| unsafe {
                    ffi::mae_dist_prefix_store_new(prefix.as_ptr(), self.handle.as_ptr(), out)
                })
            })
            .map_err(|error| self.error("PrefixStore", error))?;
        Ok(self.sibling(handle))
    }

    /// The same store for use on another thread. Calls take turns.
    ///
    /// # Errors
    /// [`DistError::Store`] if memory runs out.
    pub fn share(&self) -> Result<Self, DistError> {
        // SAFETY: the handle is valid while `self` lives, `out` is a place to write to.
        let handle = made(|out| unsafe { ffi::mae_dist_store_share(self.handle.as_ptr(), out) })
            .map_err(|error| self.error("share", error))?;
        Ok(self.sibling(handle))
    }

    /// Puts a value under a key, over one that is there.
    ///
    /// # Errors
    /// [`DistError::Store`] if the server cannot be reached.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), DistError> {
        let key = ffi::c_string(key).map_err(|error| self.error("set", error))?;
        // SAFETY: key and value outlive the call, which copies them.
        let code = unsafe {
            ffi::mae_dist_store_set(self.handle.as_ptr(), key.as_ptr(), value.as_ptr(), value.len())
        };
        self.check("set", code)
    }

    /// The value under a key, once it is there.
    ///
    /// # Errors
    /// [`DistError::Store`] if it is not there within the store's timeout.
    pub fn get(&self, key: &str) -> Result<Vec<u8>, DistError> {
        let key = ffi::c_string(key).map_err(|error| self.error("get", error))?;
        let (mut value, mut length) = (ptr::null_mut(), 0);
        // SAFETY: the key outlives the call, `value` and `length` are places to write to.
        let code =
            unsafe { ffi::mae_dist_store_get(self.handle.as_ptr(), key.as_ptr(), &mut value, &mut length) };
        self.check("get", code)?;
        // SAFETY: the call succeeded, so `value` points to `length` bytes that are ours until freed.
        let bytes = unsafe { std::slice::from_raw_parts(value, length) }.to_vec();
        // SAFETY: `value` comes from `mae_dist_store_get` and is freed once.
        unsafe { ffi::mae_dist_bytes_free(value) };
        Ok(bytes)
    }

    /// Whether there is a value under a key, without waiting for it.
    ///
    /// # Errors
    /// [`DistError::Store`] if the server cannot be reached.
    pub fn contains(&self, key: &str) -> Result<bool, DistError> {
        let key = ffi::c_string(key).map_err(|error| self.error("check", error))?;
        let mut present = 0;
        // SAFETY: the key outlives the call, `present` is a place to write to.
        let code = unsafe { ffi::mae_dist_store_check(self.handle.as_ptr(), key.as_ptr(), &mut present) };
        self.check("check", code)?;
        Ok(present != 0)
    }

    pub(super) fn as_ptr(&self) -> *mut ffi::MaeStore {
        self.handle.as_ptr()
    }

    fn sibling(&self, handle: NonNull<ffi::MaeStore>) -> Self {
        Self { handle, address: self.address.clone(), origin: self.origin.clone() }
    }

    fn check(&self, operation: &'static str, code: i32) -> Result<(), DistError> {
        ffi::check(code).map_err(|error| self.error(operation, error))
    }

    fn error(&self, operation: &'static str, error: NativeError) -> DistError {
        store_error(operation, self.address.clone(), self.origin.clone(), error)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and freed once.
        unsafe { ffi::mae_dist_store_free(self.handle.as_ptr()) }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("address", &self.address).field("origin", &self.origin).finish()
    }
}

fn store_error(operation: &'static str, address: String, origin: Origin, error: NativeError) -> DistError {
    let (failure, reason) = describe(error);
    DistError::Store { operation, address, origin, failure, reason }
}

/// Runs a function that makes an object, and gives its handle.
pub(super) fn made<T>(make: impl FnOnce(*mut *mut T) -> i32) -> Result<NonNull<T>, NativeError> {
    let mut handle = ptr::null_mut();
    ffi::check(make(&mut handle))?;
    NonNull::new(handle).ok_or_else(|| NativeError {
        kind: ffi::ErrorKind::Unknown,
        text: "expected an object, found a null pointer".into(),
    })
}

/// Without it, libtorch's logger prints before it is set up.
fn initialise() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: takes nothing and gives nothing; called once. A logger that cannot be set up still logs.
        unsafe { ffi::mae_dist_init() };
    });
}
