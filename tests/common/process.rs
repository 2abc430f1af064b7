//! Processes: what this one holds, this test again in one of its own, and programs.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

use super::{Limit, PATIENCE};

/// Set for a child process: what it is to do.
const ROLE: &str = "ROLE_OF_CHILD";

/// How many descriptors this process has open.
pub(crate) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// How many threads this process has with a name that begins like this.
pub(crate) fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|found| found.starts_with(name)).count()
}

/// For tests that look at what the whole process has: one at a time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs the test that calls it again in a process of its own, where it calls `child`, and expects it to succeed.
///
/// The role tells several of these calls in one test apart. In the child, those for other roles do nothing, and the
/// one for its own doesn't return.
pub(crate) fn in_child(role: &str, child: impl FnOnce()) {
    in_child_with(role, |command| command, child);
}

/// The same, with another way to start the child.
pub(crate) fn in_child_with(role: &str, change: impl FnOnce(Command) -> Command, child: impl FnOnce()) {
    if let Some(mine) = std::env::var_os(ROLE) {
        if mine == role {
            let _limit = Limit::new();
            child();
            std::process::exit(0);
        }
        return;
    }
    let test = thread::current().name().expect("a test's thread has its name").to_owned();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &test, "--nocapture", "--test-threads=1"]);
    let Output { status, stdout, stderr } = change(command).env(ROLE, role).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "the child for `{role}` ended with {status}\n{stdout}\n{stderr}");
}

/// The same, with this variable in the child's environment.
pub(crate) fn in_child_where(variable: &str, value: impl AsRef<OsStr>, child: impl FnOnce()) {
    let set = |mut command: Command| {
        command.env(variable, value);
        command
    };
    in_child_with(variable, set, child);
}

/// Cargo builds examples beside the tests.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(|deps| deps.parent()).unwrap().join("examples").join(name);
    assert!(path.exists(), "there is no {}: run `cargo build --examples` first", path.display());
    path
}

/// The address in an example's ready line.
pub(crate) fn address_in(line: &str) -> SocketAddr {
    let rest = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("`{line}`"));
    let (_scheme, rest) = rest.split_once("://").unwrap_or_else(|| panic!("`{line}`"));
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

/// Runs a program on this input, and gives its exit code, what it prints, and what it says beside that.
pub(crate) fn run_on(path: &Path, arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut child = Command::new(path)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_owned());
    // It may end before it has read all.
    let feeder = thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A program that runs until it is told to end. Dropped, it is killed.
pub(crate) struct Program(Child);

impl Program {
    /// Starts it, and gives the first line that it prints.
    pub(crate) fn start(path: &Path, arguments: &[&str]) -> (Self, String) {
        let mut child = Command::new(path)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        // What follows stays in the pipe: this program says one more line.
        child.stdout = Some(stdout.into_inner());
        (Program(child), line)
    }

    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.0.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Waits for its end, and gives its exit code and what else it has printed.
    pub(crate) fn wait(mut self) -> (Option<i32>, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "the program doesn't end");
            thread::sleep(std::time::Duration::from_millis(1));
        };
        let mut rest = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut rest).unwrap();
        (status.code(), rest)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
