//! A pipeline whose stages don't fit is one readable error, at the stage that doesn't fit.

use std::fs;

#[test]
fn misfits() {
    trybuild::TestCases::new().compile_fail("tests/misfits/*.rs");
}

#[test]
fn each_is_one_error() {
    let mut messages = 0;
    for entry in fs::read_dir("tests/misfits").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "stderr") {
            let message = fs::read_to_string(&path).unwrap();
            let errors = message.lines().filter(|line| line.starts_with("error")).count();
            assert_eq!(errors, 1, "{}", path.display());
            messages += 1;
        }
    }
    assert!(messages > 0);
}
