//! Lists of CPUs, as Linux writes them: `0,2-5`.

use serde::Deserialize;
use std::fmt;
use std::str::FromStr;

/// CPUs in the order in which workers are pinned to them. Written as `"0,2-5"`, in TOML also as `[0, 2, 3]`.
///
/// ```
/// # use perihelion_runtime::CpuList;
/// let cpus: CpuList = "0,2-4".parse().unwrap();
/// assert_eq!(cpus.as_slice(), [0, 2, 3, 4]);
/// assert_eq!(cpus.to_string(), "0,2-4");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Spelling")]
pub struct CpuList(Vec<usize>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Spelling {
    Text(String),
    Numbers(Vec<usize>),
    Number(usize),
}

/// The greatest CPU number that Linux can have.
const CPU_MAX: usize = 8191;

impl CpuList {
    /// The CPUs.
    pub fn as_slice(&self) -> &[usize] {
        &self.0
    }

    /// Whether it names no CPU.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<usize>> for CpuList {
    fn from(cpus: Vec<usize>) -> Self {
        CpuList(cpus)
    }
}

impl TryFrom<Spelling> for CpuList {
    type Error = String;
    fn try_from(spelling: Spelling) -> Result<Self, String> {
        match spelling {
            Spelling::Text(text) => text.parse(),
            Spelling::Numbers(cpus) => Ok(CpuList(cpus)),
            Spelling::Number(cpu) => Ok(CpuList(vec![cpu])),
        }
    }
}

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut cpus = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.trim().parse().ok().filter(|cpu: &usize| *cpu <= CPU_MAX);
            match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => cpus.extend(first..=last),
                _ => return Err(format!("`{part}` is no CPU and no range of CPUs; write a list like 0,2-5")),
            }
        }
        Ok(CpuList(cpus))
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.0.chunk_by(|a, b| a + 1 == *b);
        for (i, run) in runs.enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match run {
                [one] => write!(f, "{comma}{one}")?,
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn written_and_read_again(cpus in prop::collection::vec(0usize..300, 0..20)) {
            let list = CpuList(cpus);
            prop_assert_eq!(list.to_string().parse::<CpuList>(), Ok(list));
        }
    }

    #[test]
    fn what_is_no_list_is_named() {
        for text in ["1,x", "4-2", "-1", "99999999999", "0-8192"] {
            assert!(text.parse::<CpuList>().is_err(), "{text}");
        }
    }
}
