//! What is shown while the load runs and when it is over.

use hdrhistogram::Histogram;
use perihelion::prelude::Result;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::TICK;
use crate::arguments::{Framing, Plan};
use crate::phase::Shared;
use crate::target::Target;
use crate::worker::{Errors, Failures, Handshakes, Results, histogram};

const BAR_WIDTH: usize = 40;

/// Everything that was measured.
pub(crate) struct Report {
    target: String,
    plan: Plan,
    measured: Duration,
    latencies: Histogram<u64>,
    connections: u64,
    replies_total: u64,
    handshakes: Handshakes,
    errors: Errors,
}

impl Report {
    pub(crate) fn new(target: &Target, plan: &Plan, measured: Duration) -> Self {
        Report {
            target: target.to_string(),
            plan: plan.clone(),
            measured,
            latencies: histogram(),
            connections: 0,
            replies_total: 0,
            handshakes: Handshakes::default(),
            errors: Errors::new(),
        }
    }

    pub(crate) fn add(&mut self, results: &Results) {
        self.latencies.add(&results.latencies).expect("all histograms have the same bounds");
        self.connections += results.connections;
        self.replies_total += results.replies_total;
        self.handshakes.full += results.handshakes.full;
        self.handshakes.resumed += results.handshakes.resumed;
        for (kind, failures) in &results.errors {
            self.add_failures(kind, failures);
        }
    }

    pub(crate) fn worker_is_missing(&mut self) {
        let first = "a worker did not end in time".into();
        self.add_failures("worker_without_result", &Failures { count: 1, first });
    }

    fn add_failures(&mut self, kind: &'static str, failures: &Failures) {
        self.errors
            .entry(kind)
            .and_modify(|all| all.count += failures.count)
            .or_insert_with(|| failures.clone());
    }

    /// The text of the first error of this kind.
    pub(crate) fn first_error(&self, kind: &str) -> Option<&str> {
        Some(&self.errors.get(kind)?.first)
    }

    /// Whether there was no error, and something to measure.
    pub(crate) fn is_clean(&self) -> bool {
        self.errors.is_empty() && self.replies_total > 0
    }

    /// Writes what was asked for.
    pub(crate) fn write_files(&self, json: Option<&Path>, hdr: Option<&Path>) -> Result<()> {
        if let Some(file) = json {
            std::fs::write(file, format!("{:#}\n", self.json()))?;
        }
        if let Some(file) = hdr {
            std::fs::write(file, self.percentile_table())?;
        }
        Ok(())
    }

    fn requests(&self) -> u64 {
        self.latencies.len()
    }

    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.measured.as_secs_f64()
    }

    fn micros(&self, percentile: f64) -> f64 {
        self.latencies.value_at_percentile(percentile) as f64 / 1e3
    }

    fn json(&self) -> serde_json::Value {
        let framing = match self.plan.framing {
            Framing::Raw => "raw",
            Framing::Length => "length",
        };
        let counts: BTreeMap<_, _> =
            self.errors.iter().map(|(kind, failures)| (kind, failures.count)).collect();
        let mut report = json!({
            "target": self.target,
            "codec": framing,
            "connections": self.plan.connections,
            "depth": self.plan.depth,
            "flooders": self.plan.flooders,
            "flood_depth": self.plan.flood_depth,
            "size": self.plan.size,
            "seconds": self.measured.as_secs_f64(),
            "requests": self.requests(),
            "requests_total": self.replies_total,
            "requests_per_second": self.per_second(self.requests()),
            "bytes_per_second": self.per_second(self.requests() * self.plan.size as u64),
            "connections_per_second": self.per_second(self.connections),
            "latency_us": {
                "min": self.latencies.min() as f64 / 1e3,
                "mean": self.latencies.mean() / 1e3,
                "p50": self.micros(50.0),
                "p90": self.micros(90.0),
                "p99": self.micros(99.0),
                "p99.9": self.micros(99.9),
                "max": self.latencies.max() as f64 / 1e3,
            },
            "errors": counts,
        });
        if self.plan.security.is_some() {
            report["handshakes"] = json!({
                "full": self.handshakes.full,
                "resumed": self.handshakes.resumed,
                "per_second": self.per_second(self.handshakes.full + self.handshakes.resumed),
            });
        }
        report
    }

    /// The format that HdrHistogram's plotters read; values in microseconds.
    fn percentile_table(&self) -> String {
        let mut table = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
        for at in self.latencies.iter_quantiles(5) {
            let (value, quantile) = (at.value_iterated_to() as f64 / 1e3, at.quantile_iterated_to());
            let count = self.latencies.count_between(0, at.value_iterated_to());
            let inverse =
                if quantile < 1.0 { format!("{:.2}", 1.0 / (1.0 - quantile)) } else { "inf".into() };
            table += &format!("{value:12.3} {quantile:14.12} {count:10} {inverse:>14}\n");
        }
        table += &format!(
            "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]\n#[Max     = {:12.3}, Total count    = {:12}]\n",
            self.latencies.mean() / 1e3,
            self.latencies.stdev() / 1e3,
            self.latencies.max() as f64 / 1e3,
            self.requests(),
        );
        table
    }

    /// Rows that each cover a factor of about 1.6, with a bar as long as the share of the requests.
    fn draw(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let edges = [1.0, 1.6, 2.5, 4.0, 6.3, 10.0];
        let edge = |row: i32| 1e3 * edges[row.rem_euclid(5) as usize] * 10f64.powi(row.div_euclid(5));
        let rows: Vec<(f64, u64)> = (-5..40)
            .map(|row| {
                let (from, to) = (edge(row) as u64, edge(row + 1) as u64);
                (edge(row + 1), self.latencies.count_between(from + 1, to))
            })
            .collect();
        let most = rows.iter().map(|row| row.1).max().unwrap_or(0).max(1);
        let first = rows.iter().position(|row| row.1 > 0).unwrap_or(rows.len());
        let last = rows.iter().rposition(|row| row.1 > 0).map_or(first, |last| last + 1);
        for (edge, count) in &rows[first..last] {
            let share = 100.0 * *count as f64 / self.requests().max(1) as f64;
            let width = (*count as f64 / most as f64 * BAR_WIDTH as f64).ceil() as usize;
            writeln!(f, "  {:>9} {share:>8.3} %  {}", format!("≤ {}", time(edge / 1e3)), "█".repeat(width))?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { connections, depth, size, .. } = self.plan;
        writeln!(
            f,
            "{}: {connections} connections × {depth} requests of {size} bytes, {:.1} s, closed loop",
            self.target,
            self.measured.as_secs_f64(),
        )?;
        let per_second = self.per_second(self.requests());
        let megabytes = per_second * size as f64 / 1e6;
        writeln!(
            f,
            "  {} requests, {} a second, {megabytes:.1} MB/s each way",
            grouped(self.requests()),
            grouped(per_second as u64),
        )?;
        if self.plan.requests_per_connection.is_some() {
            let per_second = grouped(self.per_second(self.connections) as u64);
            writeln!(f, "  {} connections, {per_second} a second", grouped(self.connections))?;
            if self.plan.security.is_some() {
                let Handshakes { full, resumed } = self.handshakes;
                let per_second = grouped(self.per_second(full + resumed) as u64);
                let (full, resumed) = (grouped(full), grouped(resumed));
                writeln!(f, "  {full} full handshakes and {resumed} resumed, {per_second} a second")?;
            }
        }
        write!(f, "  latency:")?;
        for (name, percentile) in [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)] {
            write!(f, " {name} {} ", time(self.micros(percentile)))?;
        }
        writeln!(f, " max {}", time(self.latencies.max() as f64 / 1e3))?;
        self.draw(f)?;
        if self.errors.is_empty() {
            return write!(f, "  no errors: every reply was what had been sent");
        }
        write!(f, "  errors:")?;
        for (kind, failures) in &self.errors {
            write!(f, " {kind} {} ", failures.count)?;
        }
        for (kind, failures) in &self.errors {
            write!(f, "\n  the first of {kind}: {}", failures.first)?;
        }
        Ok(())
    }
}

/// A line on a terminal, rewritten; elsewhere a line each second.
pub(crate) struct Progress {
    quiet: bool,
    terminal: bool,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Self {
        Progress { quiet, terminal: std::io::stderr().is_terminal() }
    }

    /// Waits, or until a signal comes.
    pub(crate) fn during(&mut self, shared: &Shared, duration: Duration, what: &str) {
        let start = Instant::now();
        let (mut shown, mut replies) = (start, shared.replies());
        while start.elapsed() < duration && !shared.interrupted().is_set() {
            std::thread::sleep(TICK.min(duration.saturating_sub(start.elapsed())));
            let since = shown.elapsed();
            if since >= Duration::from_secs(1) {
                let now = shared.replies();
                let rate = (now - replies) as f64 / since.as_secs_f64();
                (shown, replies) = (Instant::now(), now);
                self.show(&format!(
                    "{what}, {:.0} s: {} requests a second",
                    start.elapsed().as_secs_f64(),
                    grouped(rate as u64)
                ));
            }
        }
    }

    pub(crate) fn end(&mut self) {
        if self.terminal {
            self.show("");
        }
    }

    fn show(&self, line: &str) {
        // Progress that can't be shown is no reason to stop.
        let mut stderr = std::io::stderr();
        let _ = match (self.quiet, self.terminal) {
            (true, _) => Ok(()),
            (false, true) => write!(stderr, "\r\x1b[K{line}"),
            (false, false) => writeln!(stderr, "{line}"),
        };
    }
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| str::from_utf8(group).unwrap_or("")).collect();
    groups.join(",")
}

/// A time given in microseconds, in a unit that suits it.
fn time(micros: f64) -> String {
    match micros {
        ..10.0 => format!("{micros:.1} µs"),
        ..10_000.0 => format!("{micros:.0} µs"),
        ..1e6 => format!("{:.0} ms", micros / 1e3),
        _ => format!("{:.1} s", micros / 1e6),
    }
}
