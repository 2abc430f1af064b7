//! Reads a configuration from TOML, and from the environment over it.

use std::path::Path;
use toml::{Table, Value};

use super::Config;
use crate::Error;

/// Environment variables that begin like this set a key each; two underscores go into a section.
const PREFIX: &str = "PERIHELION_";

impl Config {
    /// Reads a file, and the environment over it.
    ///
    /// # Errors
    /// A file that can't be read, an unknown key or a value that can't be used: the error names it, the file or
    /// variable it stands in, and what is allowed.
    pub fn load(file: impl AsRef<Path>) -> Result<Config, Error> {
        let origin = file.as_ref().display().to_string();
        let text = std::fs::read_to_string(file)
            .map_err(|cause| Error::InvalidConfig { origin: origin.clone(), cause: cause.to_string() })?;
        read(&origin, &text, environment())
    }

    /// The defaults, and the environment over them.
    ///
    /// # Errors
    /// As for [`load`](Config::load).
    pub fn from_env() -> Result<Config, Error> {
        read("the environment", "", environment())
    }

    /// Reads TOML text alone.
    ///
    /// # Errors
    /// As for [`load`](Config::load).
    pub fn parse(text: &str) -> Result<Config, Error> {
        read("configuration", text, std::iter::empty())
    }
}

/// A variable of others may be no text; one of ours that isn't has no value that any key takes.
fn environment() -> impl Iterator<Item = (String, String)> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (text(name), text(value)))
}

fn read(origin: &str, text: &str, env: impl Iterator<Item = (String, String)>) -> Result<Config, Error> {
    let invalid = |origin: &str, cause: toml::de::Error| Error::InvalidConfig {
        origin: origin.into(),
        cause: cause.to_string(),
    };
    // The file alone first: its errors then show the line.
    let mut config: Config = toml::from_str(text).map_err(|cause| invalid(origin, cause))?;
    let mut table: Table = toml::from_str(text).map_err(|cause| invalid(origin, cause))?;
    let mut variables: Vec<_> = env.filter(|(name, _)| name.starts_with(PREFIX)).collect();
    variables.sort();
    for (name, value) in variables {
        let path = name[PREFIX.len()..].to_lowercase();
        let keys: Vec<&str> = path.split("__").collect();
        let origin = format!("environment variable {name}");
        insert(&mut table, &keys, literal(&value))
            .map_err(|cause| Error::InvalidConfig { origin: origin.clone(), cause })?;
        config = table.clone().try_into().map_err(|cause| invalid(&origin, cause))?;
    }
    config.check()?;
    Ok(config)
}

fn insert(table: &mut Table, keys: &[&str], value: Value) -> Result<(), String> {
    match keys {
        [] => Ok(()),
        [key] => {
            table.insert((*key).into(), value);
            Ok(())
        }
        [section, rest @ ..] => match table.entry(*section).or_insert_with(|| Table::new().into()) {
            Value::Table(table) => insert(table, rest, value),
            _ => Err(format!("`{section}` is no section")),
        },
    }
}

/// A TOML value where it is one, otherwise a string: `4`, `true`, `[0, 1]`, but also `0,2-3` and `io_uring`.
fn literal(text: &str) -> Value {
    let document: Result<Table, _> = toml::from_str(&format!("value = {text}"));
    document.ok().and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DriverChoice;

    fn env<'a>(variables: &'a [(&str, &str)]) -> impl Iterator<Item = (String, String)> + 'a {
        variables.iter().map(|(name, value)| ((*name).into(), (*value).into()))
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let variables = [
            ("PERIHELION_RUNTIME__WORKERS", "4"),
            ("PERIHELION_RUNTIME__CPUS", "0,2-3"),
            ("PERIHELION_RUNTIME__DRIVER", "io_uring"),
            ("PERIHELION_RUNTIME__RECEIVE__BUFFERS", "7"),
            ("UNRELATED", "x"),
        ];
        let config = read("file", "[runtime]\nworkers = 2\nspin_us = 9", env(&variables)).unwrap();
        assert_eq!(config.runtime.workers, 4);
        assert_eq!(config.runtime.spin_us, 9);
        assert_eq!(config.runtime.cpus.as_slice(), [0, 2, 3]);
        assert_eq!(config.runtime.driver, DriverChoice::IoUring);
        assert_eq!(config.runtime.receive.buffers, 7);
    }

    #[test]
    fn errors_name_the_key_and_where_it_stands() {
        let error = |text: &str, variables: &[(&str, &str)]| {
            read("s.toml", text, env(variables)).unwrap_err().to_string()
        };
        let unknown = error("[runtime]\nworker = 2", &[]);
        assert!(
            unknown.contains("s.toml")
                && unknown.contains("line 2")
                && unknown.contains("unknown field `worker`")
        );
        let unknown = error("", &[("PERIHELION_RUNTIME__WORKER", "2")]);
        assert!(unknown.contains("PERIHELION_RUNTIME__WORKER") && unknown.contains("`workers`"), "{unknown}");
        let wrong = error("", &[("PERIHELION_RUNTIME__WORKERS__X", "2")]);
        assert!(wrong.contains("PERIHELION_RUNTIME__WORKERS__X"), "{wrong}");
        let range = error("[channel]\nlow_water_bytes = 0", &[]);
        assert_eq!(range, "channel.low_water_bytes = 0: it must be from 1 to 65536");
        let range = error("[server]\nipv6_prefix_bits = 129", &[]);
        assert_eq!(range, "server.ipv6_prefix_bits = 129: it must be from 1 to 128");
        let close = error("[channel]\nclose_ms = 0", &[]);
        assert_eq!(close, "channel.close_ms = 0: it must be at least 1");
        let delay = error("[channel]\nconnect_attempt_delay_ms = 9", &[]);
        assert_eq!(delay, "channel.connect_attempt_delay_ms = 9: it must be at least 10");
        let max = error("[reconnect]\nfirst_ms = 7\nmax_ms = 6", &[]);
        assert_eq!(max, "reconnect.max_ms = 6: it must be at least 7");
        assert!(error("[runtime]\ndriver = \"iocp\"", &[]).contains("`io_uring`"));
        assert!(error("[runtime]\ncpus = \"a\"", &[]).contains("0,2-5"));
    }
}
