//! The functions of `native/c10d.cpp`, as they are.

use std::ffi::{CStr, CString, c_char, c_int, c_void};

use torch_sys::C_tensor;

/// What kind of C++ exception ended a call; mirrors `ErrorKind` in `native/errors.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorKind {
    Torch,
    Standard,
    Unknown,
    Backend,
    Store,
    Network,
    Distributed,
    OutOfMemory,
}

/// A C++ exception.
#[derive(Debug, Clone)]
pub(super) struct NativeError {
    pub kind: ErrorKind,
    pub text: String,
}

macro_rules! opaque {
    ($($name:ident),*) => {$(
        #[repr(C)]
        pub(super) struct $name {
            _private: [u8; 0],
        }
    )*};
}
opaque!(MaeStore, MaeProcessGroup, MaeWork, MaeReducer, MaeSharderHandle);

unsafe extern "C" {
    fn mae_dist_error() -> *const c_char;
    pub(super) fn mae_dist_init() -> c_int;

    pub(super) fn mae_dist_tcp_store_new(
        host: *const c_char,
        port: u16,
        is_server: c_int,
        listen_fd: c_int,
        world_size: i64,
        wait_for_workers: c_int,
        timeout_ms: i64,
        out: *mut *mut MaeStore,
    ) -> c_int;
    pub(super) fn mae_dist_tcp_store_port(store: *mut MaeStore, port: *mut u16) -> c_int;
    pub(super) fn mae_dist_prefix_store_new(
        prefix: *const c_char,
        store: *mut MaeStore,
        out: *mut *mut MaeStore,
    ) -> c_int;
    pub(super) fn mae_dist_store_share(store: *mut MaeStore, out: *mut *mut MaeStore) -> c_int;
    pub(super) fn mae_dist_store_set(
        store: *mut MaeStore,
        key: *const c_char,
        value: *const u8,
        length: usize,
    ) -> c_int;
    pub(super) fn mae_dist_store_get(
        store: *mut MaeStore,
        key: *const c_char,
        value: *mut *mut u8,
        length: *mut usize,
    ) -> c_int;
    pub(super) fn mae_dist_bytes_free(bytes: *mut u8);
    pub(super) fn mae_dist_store_check(
        store: *mut MaeStore,
        key: *const c_char,
        present: *mut c_int,
    ) -> c_int;
    pub(super) fn mae_dist_store_free(store: *mut MaeStore);

    pub(super) fn mae_dist_process_group_gloo_new(
        store: *mut MaeStore,
        rank: c_int,
        world_size: c_int,
        timeout_ms: i64,
        interfaces: *const *const c_char,
        interface_count: usize,
        address: *const c_char,
        threads: c_int,
        out: *mut *mut MaeProcessGroup,
    ) -> c_int;
    pub(super) fn mae_dist_process_group_attach_nccl(
        group: *mut MaeProcessGroup,
        store: *mut MaeStore,
        attach: *mut c_void,
        device: c_int,
        timeout_ms: i64,
    ) -> c_int;
    pub(super) fn mae_dist_process_group_free(group: *mut MaeProcessGroup);
    pub(super) fn mae_dist_process_group_abort(group: *mut MaeProcessGroup) -> c_int;
    pub(super) fn mae_dist_process_group_set_timeout(group: *mut MaeProcessGroup, timeout_ms: i64) -> c_int;
    pub(super) fn mae_dist_barrier(group: *mut MaeProcessGroup) -> c_int;
    pub(super) fn mae_dist_monitored_barrier(group: *mut MaeProcessGroup, timeout_ms: i64) -> c_int;
    pub(super) fn mae_dist_broadcast(
        group: *mut MaeProcessGroup,
        tensor: *mut C_tensor,
        root: c_int,
        out: *mut *mut MaeWork,
    ) -> c_int;
    pub(super) fn mae_dist_broadcast_coalesced(
        group: *mut MaeProcessGroup,
        tensors: *const *mut C_tensor,
        count: usize,
        buffer_bytes: usize,
        root: c_int,
    ) -> c_int;
    pub(super) fn mae_dist_all_reduce(
        group: *mut MaeProcessGroup,
        tensor: *mut C_tensor,
        op: c_int,
        out: *mut *mut MaeWork,
    ) -> c_int;
    pub(super) fn mae_dist_all_gather_into_tensor(
        group: *mut MaeProcessGroup,
        output: *mut C_tensor,
        input: *mut C_tensor,
        out: *mut *mut MaeWork,
    ) -> c_int;

    pub(super) fn mae_dist_reducer_new(
        group: *mut MaeProcessGroup,
        parameters: *const *mut C_tensor,
        count: usize,
        bucket_bytes: usize,
        first_bucket_bytes: usize,
        out: *mut *mut MaeReducer,
    ) -> c_int;
    pub(super) fn mae_dist_reducer_prepare(reducer: *mut MaeReducer, loss: *mut C_tensor) -> c_int;
    pub(super) fn mae_dist_backward(loss: *mut C_tensor) -> c_int;
    pub(super) fn mae_dist_reducer_free(reducer: *mut MaeReducer);

    pub(super) fn mae_dist_sharder_new(group: *mut MaeProcessGroup, out: *mut *mut MaeSharderHandle)
    -> c_int;
    pub(super) fn mae_dist_sharder_add(
        sharder: *mut MaeSharderHandle,
        parameters: *const *mut C_tensor,
        count: usize,
        wire: c_int,
        held: c_int,
        stays: c_int,
    ) -> c_int;
    pub(super) fn mae_dist_sharder_tensors(
        sharder: *mut MaeSharderHandle,
        unit: usize,
        place: usize,
        whole: *mut *mut C_tensor,
        share: *mut *mut C_tensor,
    ) -> c_int;
    pub(super) fn mae_dist_sharder_part(
        sharder: *mut MaeSharderHandle,
        unit: usize,
        place: usize,
        rank: i64,
        start: *mut i64,
        length: *mut i64,
    ) -> c_int;
    pub(super) fn mae_dist_sharder_begin_pass(sharder: *mut MaeSharderHandle) -> c_int;
    pub(super) fn mae_dist_sharder_gather(
        sharder: *mut MaeSharderHandle,
        units: *const usize,
        count: usize,
    ) -> c_int;
    pub(super) fn mae_dist_sharder_release(
        sharder: *mut MaeSharderHandle,
        units: *const usize,
        count: usize,
        output: *mut C_tensor,
    ) -> c_int;
    pub(super) fn mae_dist_sharder_backward(sharder: *mut MaeSharderHandle, loss: *mut C_tensor) -> c_int;
    pub(super) fn mae_dist_sharder_free(sharder: *mut MaeSharderHandle);

    pub(super) fn mae_dist_work_wait(work: *mut MaeWork) -> c_int;
    pub(super) fn mae_dist_work_free(work: *mut MaeWork);
}

/// Turns the result of a call made on this thread just before into a `Result`.
pub(super) fn check(code: c_int) -> Result<(), NativeError> {
    let kind = match code {
        0 => return Ok(()),
        1 => ErrorKind::Torch,
        2 => ErrorKind::Standard,
        4 => ErrorKind::Backend,
        5 => ErrorKind::Store,
        6 => ErrorKind::Network,
        7 => ErrorKind::Distributed,
        8 => ErrorKind::OutOfMemory,
        _ => ErrorKind::Unknown,
    };
    // SAFETY: the pointer is to a NUL-terminated thread-local string that only this thread's next call
    // changes, and the text is copied before that.
    let text = unsafe { CStr::from_ptr(mae_dist_error()) }.to_string_lossy().into_owned();
    Err(NativeError { kind, text })
}

/// A C string, or an error that says which value has a NUL byte inside.
pub(super) fn c_string(value: &str) -> Result<CString, NativeError> {
    CString::new(value).map_err(|_| NativeError {
        kind: ErrorKind::Standard,
        text: format!("expected text without NUL bytes, found {value:?}"),
    })
}
