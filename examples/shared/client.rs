//! What the example clients have in common: they send what is read from standard input.

use perihelion::prelude::*;
use std::process::ExitCode;

/// Lines that wait to be sent.
pub(crate) const QUEUE_LINES: usize = 16;

/// Runs a conversation on one worker. It gives why the connection ended, unless in order.
pub(crate) fn run<C>(program: &str, converse: impl FnOnce(Config) -> C + Send + 'static) -> ExitCode
where
    C: Future<Output = Result<Option<String>>> + 'static,
{
    match try_run(converse) {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(reason)) => eprintln!("{program}: the connection ended: {reason}"),
        Err(error) => eprintln!("{program}: {error}"),
    }
    ExitCode::FAILURE
}

fn try_run<C>(converse: impl FnOnce(Config) -> C + Send + 'static) -> Result<Option<String>>
where
    C: Future<Output = Result<Option<String>>> + 'static,
{
    let mut config = Config::from_env()?;
    config.runtime.workers = 1;
    let runtime = Runtime::from_config(config.clone())?;
    runtime.block_on(move || converse(config))?
}

/// Writes a message for each line of standard input. Its end, or one that can't be read, ends the conversation; replies
/// to come are still printed.
pub(crate) async fn send_input<T>(writer: Writer<T>, message: impl Fn(String) -> T) {
    while let Some(line) = next_line().await {
        if writer.write(message(line)).await.is_err() {
            return;
        }
    }
    writer.close_output();
}

/// The next line of standard input; `None`: its end, or what can't be read.
pub(crate) async fn next_line() -> Option<String> {
    run_blocking(|| std::io::stdin().lines().next()).await.ok()??.ok()
}
