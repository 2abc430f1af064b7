//! The loads of the ancestors, as a program, with small amounts.

use std::process::{Command, Output};

fn seeds(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_seeds")).args(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn each_load_is_measured_in_rounds_and_shown_beside_what_others_have_published() {
    let (code, said, error) = seeds(&["--rounds", "3", "--messages", "1050", "--seconds", "0.05"]);
    assert_eq!(code, Some(0), "{said}\n{error}");
    let (rounds, rest) = said.split_once("\nload ").unwrap();
    let (table, published) = rest.split_once("\nPublished by others, on other machines").unwrap();
    for (load, unit) in [
        ("tcp-channel", "messages/s"),
        ("ping-pong", "round trips/s"),
        ("pump", "MB/s"),
        ("chat-perf", "MB/s"),
    ] {
        assert_eq!(rounds.matches(&format!("{load}, round ")).count(), 3, "{said}");
        let row = table.lines().find(|line| line.starts_with(load)).unwrap_or_else(|| panic!("{said}"));
        let figures: Vec<f64> =
            row[load.len()..].split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [median, least, greatest] = figures[..] else { panic!("{row}") };
        assert!(0.0 < least && least <= median && median <= greatest, "{row}");
        assert!(row.ends_with(unit), "{row}");
        assert!(published.lines().any(|line| line.starts_with(load)), "{said}");
    }
}

#[test]
fn one_load_can_be_chosen() {
    let (code, said, error) = seeds(&["--load", "tcp-channel", "--rounds", "1", "--messages", "1"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(said.contains("tcp-channel") && !said.contains("pump"), "{said}");
}

#[test]
fn arguments_that_can_not_be_used_are_said_to_be_so() {
    for (arguments, code, part) in [
        (&["--load", "udp"][..], 2, "possible values"),
        (&["--rounds", "0"], 2, "--rounds"),
        (&["--seconds", "soon"], 2, "it is no number"),
        (&["--listen", "nowhere"], 1, "`nowhere` is no address"),
    ] {
        let (found, _, error) = seeds(arguments);
        assert!(found == Some(code) && error.contains(part), "{error}");
    }
}
