//! Tasks, timers and blocking calls on a real runtime.

use perihelion_runtime::{Config, Runtime, sleep};
use std::time::Duration;

fn runtime() -> Runtime {
    let mut config = Config::default();
    config.runtime.workers = 1;
    Runtime::from_config(config).unwrap()
}

#[test]
fn a_future_runs_and_gives_its_result() {
    let runtime = runtime();
    assert_eq!(runtime.block_on(|| async { 1 + 1 }).unwrap(), 2);
    assert!(runtime.stop());
}

#[test]
fn sleeping_takes_its_time() {
    let runtime = runtime();
    runtime.block_on(|| async { sleep(Duration::from_millis(5)).await }).unwrap();
}
