//! Runs the tests in the example `auth`, which show how handlers are tested.

#[expect(dead_code, reason = "the program's main function is none here")]
#[path = "../examples/auth.rs"]
mod auth;
