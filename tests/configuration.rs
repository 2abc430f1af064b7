//! Configurations that can't be used, and kernels that refuse: no runtime starts, and the error says why and what to
//! do. What changes the process is tried in a process of its own.

mod common;

use common::*;
use perihelion::prelude::*;
use perihelion::runtime::CpuList;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

/// What starting a runtime with this change says.
fn refusal(change: impl FnOnce(&mut Config)) -> String {
    let mut config = Config::default();
    config.runtime.workers = 1;
    change(&mut config);
    let error = Runtime::from_config(config).err().expect("no runtime starts").to_string();
    eventually("no thread remains", || threads("perihelion-") == 0);
    error
}

fn usable() -> Vec<usize> {
    Runtime::usable_cpus()
}

#[test]
fn an_unknown_key_is_named_with_those_that_there_are() {
    let error = Config::parse("[runtime]\nworkers = 1\nbuffers = 7").unwrap_err().to_string();
    assert!(error.contains("line 3") && error.contains("unknown field `buffers`"), "{error}");
    assert!(error.contains("`workers`") && error.contains("`receive`"), "{error}");
    let error = Config::parse("[network]").unwrap_err().to_string();
    assert!(error.contains("unknown field `network`") && error.contains("`channel`"), "{error}");
}

#[test]
fn a_variable_that_sets_an_unknown_key_is_named() {
    for (variable, part) in [
        ("PERIHELION_RUNTIME__THREADS", "unknown field `threads`"),
        ("PERIHELION_WORKERS", "unknown field `workers`"),
        ("PERIHELION_RUNTIME__WORKERS__MAX", "`runtime.workers`"),
    ] {
        in_child_where(variable, "2", || {
            for error in [Runtime::new().err().unwrap(), Config::from_env().unwrap_err()] {
                let error = error.to_string();
                assert!(error.contains(&format!("environment variable {variable}")), "{error}");
                assert!(error.contains(part), "{error}");
            }
        });
    }
}

#[test]
fn a_variable_wins_over_the_file() {
    in_child_where("PERIHELION_CHANNEL__CLOSE_MS", "7", || {
        let file = std::env::temp_dir().join(format!("perihelion-{}.toml", std::process::id()));
        std::fs::write(&file, "[channel]\nclose_ms = 1\ndrain_ms = 2").unwrap();
        let config = Config::load(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!((config.channel.close_ms, config.channel.drain_ms), (7, 2));
        let error = Config::load("/nowhere/server.toml").unwrap_err().to_string();
        assert_eq!(error, "/nowhere/server.toml: No such file or directory (os error 2)");
    });
}

#[test]
fn a_variable_that_is_no_text_is_no_reason_to_panic() {
    let unreadable = OsStr::from_bytes(b"\xff\xfe");
    in_child_where("UNRELATED", unreadable, || assert!(Config::from_env().is_ok()));
    in_child_where("PERIHELION_RUNTIME__WORKERS", unreadable, || {
        let error = Config::from_env().unwrap_err().to_string();
        assert!(error.contains("PERIHELION_RUNTIME__WORKERS"), "{error}");
    });
}

#[test]
fn workers_need_a_cpu_each() {
    let count = usable().len();
    assert_eq!(
        refusal(|config| config.runtime.workers = count + 1),
        format!(
            "runtime.workers = {}: this process may use {count} CPUs, and each worker needs one of its own",
            count + 1
        )
    );
    let error = refusal(|config| {
        config.runtime.workers = 2;
        config.runtime.cpus = vec![usable()[0]].into();
    });
    assert_eq!(error, "runtime.workers = 2: runtime.cpus lists 1 CPUs, and each worker needs one of its own");
}

#[test]
fn a_cpu_that_there_is_not_is_refused() {
    let last = *usable().last().unwrap();
    let error = refusal(|config| {
        config.runtime.workers = 2;
        config.runtime.cpus = vec![last, 4000].into();
    });
    let allowed = CpuList::from(usable());
    assert_eq!(
        error,
        format!("worker 1 can't be pinned to CPU 4000; this process may use the CPUs {allowed}")
    );
}

#[test]
fn workers_run_on_the_cpus_that_are_listed() {
    let mut cpus = usable();
    cpus.reverse();
    let listed = cpus.clone();
    let fixture = Fixture::with(|config| {
        (config.runtime.workers, config.runtime.cpus) = (0, listed.into());
    });
    assert_eq!(fixture.cpus(), cpus);
    fixture.stop();
}

/// From here on the kernel fails these calls of this process with this error.
fn refuse(calls: &[i64], errno: i32) {
    let rules: BTreeMap<_, _> = calls.iter().map(|call| (*call, vec![])).collect();
    let (allow, fail) = (SeccompAction::Allow, SeccompAction::Errno(errno as u32));
    let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let filter: BpfProgram = SeccompFilter::new(rules, allow, fail, arch).unwrap().try_into().unwrap();
    seccompiler::apply_filter_all_threads(&filter).unwrap();
}

#[test]
fn io_uring_that_is_refused_is_an_error_that_says_what_to_do() {
    for (errno, remedy) in [
        (libc::EPERM, "seccomp profile, or set the sysctl kernel.io_uring_disabled to 0"),
        (libc::ENOSYS, "a Linux kernel from 6.1 on, built with CONFIG_IO_URING, is needed"),
        (libc::ENOMEM, "raise the limit of locked memory (ulimit -l, LimitMEMLOCK=)"),
        (libc::EINVAL, "a Linux kernel from 6.1 on is needed"),
    ] {
        in_child(&format!("io_uring_setup says {errno}"), || {
            refuse(&[libc::SYS_io_uring_setup], errno);
            let before = descriptors();
            let error = refusal(|_| ());
            assert!(error.starts_with("io_uring can't be used: "), "{error}");
            assert!(error.contains(&format!("(os error {errno})")) && error.contains(remedy), "{error}");
            eventually("no descriptor remains", || descriptors() == before);
        });
    }
}

#[test]
fn registering_that_is_refused_is_an_error_that_says_what_to_do() {
    in_child("io_uring_register says EPERM", || {
        refuse(&[libc::SYS_io_uring_register], libc::EPERM);
        let error = refusal(|config| config.runtime.workers = 0);
        assert!(error.contains("allow io_uring_setup, io_uring_enter and io_uring_register"), "{error}");
    });
}

#[test]
fn entering_that_is_refused_is_an_error_that_says_what_to_do() {
    in_child("io_uring_enter says EPERM", || {
        refuse(&[libc::SYS_io_uring_enter], libc::EPERM);
        let error = refusal(|_| ());
        assert!(error.contains("allow io_uring_setup, io_uring_enter and io_uring_register"), "{error}");
    });
}

/// Root may lock memory without limit, unless it gives that privilege up.
fn without_the_privilege_to_lock(command: Command) -> Command {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return command;
    }
    let mut without = Command::new("setpriv");
    without.arg("--bounding-set=-ipc_lock").arg(command.get_program()).args(command.get_args());
    without
}

#[test]
fn memory_that_may_not_be_locked_is_an_error_that_says_what_to_do() {
    in_child_with("no locked memory", without_the_privilege_to_lock, || {
        rlimit::Resource::MEMLOCK.set(0, 0).unwrap();
        // Kernels that charge rings to the memory of the control group have nothing against it.
        if let Err(error) = Runtime::from_config(Config::default()) {
            let error = error.to_string();
            assert!(error.contains("Cannot allocate memory") && error.contains("ulimit -l"), "{error}");
            eventually("no thread remains", || threads("perihelion-") == 0);
        }
    });
}
