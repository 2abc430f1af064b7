//! The table of results, beside what others have published.

use std::fmt;

use crate::Load;

/// The rates of all rounds.
#[derive(Default)]
pub(crate) struct Report {
    rates: Vec<(Load, Vec<f64>)>,
}

impl Report {
    pub(crate) fn add(&mut self, load: Load, rate: f64) {
        match self.rates.last_mut() {
            Some((last, rates)) if *last == load => rates.push(rate),
            _ => self.rates.push((load, vec![rate])),
        }
    }
}

impl Load {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Load::TcpChannel => "tcp-channel",
            Load::PingPong => "ping-pong",
            Load::Pump => "pump",
            Load::ChatPerf => "chat-perf",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Load::TcpChannel => "messages/s",
            Load::PingPong => "round trips/s",
            Load::Pump | Load::ChatPerf => "MB/s",
        }
    }

    pub(crate) fn show(self, rate: f64) -> String {
        format!("{rate:.0} {}", self.unit())
    }

    /// Figures that others have published, of loads that come near.
    fn published(self) -> &'static [&'static str] {
        match self {
            Load::TcpChannel => &[
                "Helios 2.1.0: 99,728 messages/s in, 945 connections, a build server (its release notes)",
                "Helios 1.x: about 125,000 messages/s of 200 bytes, a laptop (helios PR #30)",
                "DotNetty 0.3.0: about 150,000 messages/s, the same load, Azure D2v2 (orleans #307)",
                "DotNetty: 1.57 to 1.7 s a run; the source says 1,000,000 messages, the thread does not (PR #95)",
            ],
            Load::PingPong | Load::Pump | Load::ChatPerf => &["none is known"],
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:12}{:>14}{:>14}{:>14}  ", "load", "median", "least", "greatest")?;
        for (load, rates) in &self.rates {
            let mut sorted = rates.clone();
            sorted.sort_by(f64::total_cmp);
            let (least, greatest) = (sorted[0], sorted[sorted.len() - 1]);
            let median = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
            writeln!(f, "{:12}{median:>14.0}{least:>14.0}{greatest:>14.0}  {}", load.name(), load.unit())?;
        }
        writeln!(
            f,
            "\nPublished by others, on other machines and partly of other loads: orders of magnitude."
        )?;
        for (load, _) in &self.rates {
            for figure in load.published() {
                writeln!(f, "{:12}{figure}", load.name())?;
            }
        }
        Ok(())
    }
}
