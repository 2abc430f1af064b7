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

/// Raises this process's limit of open descriptors as far as it may without privileges, and gives the limit.
///
/// # Errors
/// What the operating system says.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call writes to `limit` only, which is of the type that it expects.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the call reads `limit` only.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}
