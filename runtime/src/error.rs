//! What can go wrong with a runtime: each error names its cause and what to do about it.

use std::io;

/// Why a runtime could not be started, or a configuration not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refuses io_uring to this process.
    #[error("io_uring can't be used: {cause}; {remedy}")]
    IoUringRefused {
        /// What the kernel said.
        cause: io::Error,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A CPU that this process may not run on.
    #[error("worker {worker} can't be pinned to CPU {cpu}; this process may use the CPUs {allowed}")]
    CpuNotAllowed {
        /// The worker that was to run there.
        worker: usize,
        /// The CPU.
        cpu: usize,
        /// Those that the process may use.
        allowed: String,
    },
    /// A value of the configuration that can't be used.
    #[error("{key} = {value}: {allowed}")]
    InvalidValue {
        /// The key, with its sections: `runtime.workers`.
        key: &'static str,
        /// What it was set to.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// A configuration that can't be read.
    #[error("{origin}: {cause}")]
    InvalidConfig {
        /// The file or environment variable.
        origin: String,
        /// What is wrong with it, and where.
        cause: String,
    },
    /// The operating system refused something.
    #[error("{what}: {cause}{remedy}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// What the operating system said.
        cause: io::Error,
        /// What to do about it; may be empty.
        remedy: &'static str,
    },
    /// The runtime, or the worker that was asked, has stopped.
    #[error("the runtime has stopped")]
    Stopped,
    /// The mailbox of a worker holds as many messages as it may.
    #[error("the mailbox of a worker is full; runtime.mailbox_messages sets how many it holds")]
    MailboxFull,
}

impl Error {
    pub(crate) fn os(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |cause| {
            let remedy = match cause.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE) => {
                    "; raise the limit of open files (ulimit -n, LimitNOFILE=)"
                }
                Some(libc::EAGAIN) => "; raise the limit of threads (ulimit -u, TasksMax=)",
                _ => "",
            };
            Error::Os { what, cause, remedy }
        }
    }

    /// Turns what `io_uring_setup` or a registration said into cause and remedy.
    pub(crate) fn io_uring(cause: io::Error) -> Error {
        let remedy = match cause.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile, \
                 or set the sysctl kernel.io_uring_disabled to 0"
            }
            Some(libc::ENOSYS) => "a Linux kernel from 6.1 on, built with CONFIG_IO_URING, is needed",
            Some(libc::EINVAL) => "a Linux kernel from 6.1 on is needed",
            Some(libc::ENOMEM) => {
                "raise the limit of locked memory (ulimit -l, LimitMEMLOCK=), or lower runtime.ring.submissions, \
                 runtime.ring.completions and runtime.workers"
            }
            Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open files (ulimit -n, LimitNOFILE=)",
            _ => "see io_uring_setup(2) for this error",
        };
        Error::IoUringRefused { cause, remedy }
    }
}
