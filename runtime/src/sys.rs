//! System calls that neither the standard library nor a crate of ours wraps.
//!
//! Rule for this module: a descriptor that a call gives has no other owner.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// A counter whose read waits until it isn't zero.
pub(crate) fn event_counter() -> io::Result<OwnedFd> {
    // SAFETY: the call has no pointer.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call made this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
