//! The order of a channel's events, as a state machine, over random sequences of what may happen to it.

use perihelion_pipeline::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::time::Duration;

use crate::common::{Echo, Host, Log, frame, length, spy};

/// What happens to a channel.
#[derive(Clone, Debug)]
enum Happening {
    Frame(usize),
    HalfFrame,
    End,
    Close,
    Fail,
    Wake,
    Event,
    Window(usize),
    Turn,
    Advance,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => (0..300usize).prop_map(Happening::Frame),
        1 => Just(Happening::HalfFrame),
        1 => Just(Happening::End),
        1 => Just(Happening::Close),
        1 => Just(Happening::Fail),
        2 => Just(Happening::Wake),
        2 => Just(Happening::Event),
        3 => (0..200usize).prop_map(Happening::Window),
        4 => Just(Happening::Turn),
        1 => Just(Happening::Advance),
    ]
}

/// Where a stage is in its life, as its calls tell.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Life {
    Fresh,
    Open,
    HalfClosed,
    Closed,
}

/// The life-cycle that a stage may rely on. Gives what is wrong with a sequence of calls.
fn check(calls: &[String]) -> Result<(), String> {
    let (mut life, mut writable) = (Life::Fresh, true);
    for (at, call) in calls.iter().enumerate() {
        let wrong = |why: &str| Err(format!("{why} at call {at} of {calls:?}"));
        let word = call.split(['=', ' ']).next().unwrap_or_default();
        match (life, word) {
            (Life::Fresh, "open") => life = Life::Open,
            (Life::Fresh, _) => return wrong("not open yet"),
            (Life::Closed, _) => return wrong("closed already"),
            (_, "open") => return wrong("opened twice"),
            (Life::Open, "half_closed") => life = Life::HalfClosed,
            (Life::HalfClosed, "half_closed") => return wrong("half closed twice"),
            (Life::HalfClosed, "read") => return wrong("a message behind the end"),
            (_, "writable") => {
                let now = call == "writable=true";
                if now == writable {
                    return wrong("told the same twice");
                }
                writable = now;
            }
            (_, "closed") => life = Life::Closed,
            _ => {}
        }
    }
    if life == Life::Closed { Ok(()) } else { Err(format!("not closed: {calls:?}")) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn stages_are_told_in_order_whatever_happens(happenings in vec(happening(), 0..60)) {
        let log = Log::default();
        let limits =
            Limits { high_water_bytes: 500, low_water_bytes: 100, messages_per_turn: 3, ..Limits::default() };
        let mut host = Host::with_limits(
            codec(length()).then(spy("1", &log)).then(spy("2", &log)).then(spy("3", &log)).tail(Echo),
            limits,
        );
        let (mut ended, mut failed) = (false, false);
        for happening in happenings {
            match happening {
                Happening::Frame(size) if !ended => { host.feed(frame(vec![0; size])); }
                Happening::HalfFrame if !ended => { host.feed([0, 0]); }
                Happening::End => { ended = true; host.feed_end(); }
                Happening::Close if host.closed.is_none() => host.close(),
                Happening::Fail if host.closed.is_none() => { failed = true; host.fail(Error::msg("broken")); }
                Happening::Wake => host.wake(),
                Happening::Event if host.closed.is_none() => host.event("happening"),
                Happening::Window(window) => host.window = window,
                Happening::Turn => { host.turn(); }
                Happening::Advance => { host.advance(Duration::from_secs(1)); }
                _ => {}
            }
        }
        host.window = usize::MAX;
        host.run();
        if host.closed.is_none() {
            host.close();
            host.run();
        }
        prop_assert!(!failed || host.closed.clone().flatten().is_some());
        let lines = log.take();
        let of = |name: &str| -> Vec<String> {
            lines.iter().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(String::from).collect()
        };
        for name in ["1", "2", "3"] {
            if let Err(why) = check(&of(name)) {
                prop_assert!(false, "stage {name}: {why}");
            }
        }
        // Events of life reach the stages from the transport to the tail.
        for word in ["open", "half_closed", "closed"] {
            let order: Vec<&str> =
                lines.iter().filter(|l| l[2..].split(' ').next() == Some(word)).map(|l| &l[..1]).collect();
            prop_assert!(order.is_empty() || order == ["1", "2", "3"], "{word}: {order:?}");
        }
    }
}
