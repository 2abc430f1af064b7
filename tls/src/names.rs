//! Names of hosts, exact and with a wildcard.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use rustls_pki_types::DnsName;

/// Something for each of many names, found without looking at the others. `*.example.org` stands for every name with
/// one label more than `example.org`. Upper and lower case are the same, and a dot at the end is nothing.
pub(crate) struct Names<T> {
    exact: HashMap<String, T>,
    /// Without their `*.`.
    wildcard: HashMap<String, T>,
}

impl<T> Names<T> {
    pub(crate) fn new() -> Self {
        Names { exact: HashMap::new(), wildcard: HashMap::new() }
    }

    /// The place of a name or a pattern; none if a client can't ask for it.
    pub(crate) fn entry(&mut self, name: &str) -> Option<Entry<'_, String, T>> {
        let (map, name) = match name.strip_prefix("*.") {
            Some(rest) => (&mut self.wildcard, rest),
            None => (&mut self.exact, name),
        };
        DnsName::try_from(name).ok()?;
        Some(map.entry(normal(name)))
    }

    /// What is for this name: first that of the name itself, then that of a wildcard.
    pub(crate) fn find(&self, name: &str) -> impl Iterator<Item = &T> {
        let name = normal(name);
        let exact = self.exact.get(&name);
        let wildcard = name.split_once('.').and_then(|(_, rest)| self.wildcard.get(rest));
        exact.into_iter().chain(wildcard)
    }
}

fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names<u8> {
        let mut names = Names::new();
        for (name, value) in [("a.example.org", 1), ("*.EXAMPLE.org", 2), ("example.org.", 3)] {
            names.entry(name).expect("a name").insert_entry(value);
        }
        names
    }

    fn found(name: &str) -> Vec<u8> {
        names().find(name).copied().collect()
    }

    #[test]
    fn a_wildcard_stands_for_one_label_and_behind_the_name_itself() {
        assert_eq!(found("a.example.org"), [1, 2]);
        assert_eq!(found("b.example.org"), [2]);
        assert!(found("b.a.example.org").is_empty());
        assert_eq!(found("example.org"), [3]);
        assert!(found("org").is_empty());
    }

    #[test]
    fn case_and_a_last_dot_say_nothing() {
        assert_eq!(found("A.Example.ORG"), [1, 2]);
        assert_eq!(found("a.example.org."), [1, 2]);
    }

    #[test]
    fn what_no_client_can_ask_for_has_no_place() {
        for name in ["", "*.", "*", "a b.org", "*.*.org", "a.*.org", "192.0.2.1", "bücher.example"] {
            assert!(names().entry(name).is_none(), "{name}");
        }
    }
}
