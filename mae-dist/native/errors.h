// C++ exceptions stop at the shim's edge: a function returns 0 or an ErrorKind, and the text waits in
// the thread that failed until it is asked for.
#pragma once
#include <c10/util/Exception.h>
#include <exception>

// Mirrored by `ErrorKind` in src/c10d/ffi.rs.
enum ErrorKind : int {
  kOk = 0,
  kTorch = 1,        // c10::Error
  kStandard = 2,     // std::exception; gloo's exceptions arrive as these
  kUnknown = 3,      // anything else that was thrown
  kBackend = 4,      // c10::DistBackendError
  kStore = 5,        // c10::DistStoreError
  kNetwork = 6,      // c10::DistNetworkError
  kDistributed = 7,  // any other c10::DistError
  kOutOfMemory = 8,  // c10::OutOfMemoryError
};

int mae_dist_set_error(ErrorKind kind, const char* what) noexcept;

// To be called in a catch block. The text leaves out the C++ backtrace, which says nothing to a user.
inline int mae_dist_catch() noexcept {
  try {
    throw;
  } catch (const c10::OutOfMemoryError& error) {
    return mae_dist_set_error(kOutOfMemory, error.what_without_backtrace());
  } catch (const c10::DistBackendError& error) {
    return mae_dist_set_error(kBackend, error.what_without_backtrace());
  } catch (const c10::DistStoreError& error) {
    return mae_dist_set_error(kStore, error.what_without_backtrace());
  } catch (const c10::DistNetworkError& error) {
    return mae_dist_set_error(kNetwork, error.what_without_backtrace());
  } catch (const c10::DistError& error) {
    return mae_dist_set_error(kDistributed, error.what_without_backtrace());
  } catch (const c10::Error& error) {
    return mae_dist_set_error(kTorch, error.what_without_backtrace());
  } catch (const std::exception& error) {
    return mae_dist_set_error(kStandard, error.what());
  } catch (...) {
    return mae_dist_set_error(kUnknown, "an exception that is no std::exception");
  }
}

// Runs `body`, which throws or returns nothing, and turns what it throws into a kind.
template <typename Body>
int mae_dist_guard(Body&& body) noexcept {
  try {
    body();
    return kOk;
  } catch (...) {
    return mae_dist_catch();
  }
}
