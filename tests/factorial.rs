//! The examples `factorial` and `factorial-client`, and their wire format.

mod common;
#[path = "../examples/shared/numbers.rs"]
#[expect(dead_code, reason = "the programs' arguments are none here")]
mod numbers;

use common::*;
use num_bigint::BigInt;
use numbers::Numbers;
use perihelion::pipeline::testing::{decode, verify_codec};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::thread;

fn server(arguments: &[&str]) -> (Program, String) {
    let (program, line) = Program::start(&example("factorial"), &[&["--listen", V4], arguments].concat());
    (program, address_in(&line).to_string())
}

/// The product of the numbers from 1 to this one.
fn factorial(count: u64) -> BigInt {
    (1..=count).map(BigInt::from).product()
}

fn bytes(number: impl Into<BigInt>) -> Vec<u8> {
    let bytes = number.into().to_signed_bytes_le();
    [b"F", &(bytes.len() as u32).to_be_bytes()[..], &bytes].concat()
}

#[test]
fn numbers_of_all_sizes_come_back_however_they_are_cut() {
    let codec = || Numbers { bytes_max: 100 };
    let numbers = [0, 1, -1, 127, 128, -128, -129, i64::MAX, i64::MIN].map(BigInt::from);
    verify_codec(codec, &[&numbers[..], &[factorial(50), -factorial(60)]].concat());
    let wire = b"F\0\0\0\0F\0\0\0\x01\xffF\0\0\0\x02\x00\x01F\0\0\0\x03\x02\0\0";
    let (numbers, error) = decode(codec(), [&wire[..]]);
    assert_eq!(numbers, [0, -1, 256, 2].map(BigInt::from), "with zeros too many, or without a byte");
    assert!(error.is_none());
}

#[test]
fn the_client_prints_the_factorial_that_the_server_has_computed() {
    let _limit = Limit::new();
    let (program, address) = server(&[]);
    for count in [1, 2, 63, 64, 65, 1000] {
        let arguments = [&address, "--count", &count.to_string()];
        let printed = format!("{}\n", factorial(count));
        assert_eq!(run_on(&example("factorial-client"), &arguments, ""), (Some(0), printed, String::new()));
    }
    program.signal("TERM");
    let (code, said) = program.wait();
    assert_eq!(code, Some(0));
    assert!(said.contains("served 6 connections and 1195 messages"), "{said}");
}

#[test]
fn wrong_numbers_close_their_connection_and_say_why() {
    let _limit = Limit::new();
    let (program, address) = server(&["--number-max", "1000"]);
    let large: BigInt = BigInt::from(1) << (8 * 600);
    let first = bytes(7);
    for wrong in [
        b"G\0\0\0\x01\x02".to_vec(),
        b"F\xff\xff\xff\xff\x02".to_vec(),
        b"F\x80\0\0\0".to_vec(),
        b"F\0\0\x03\xe9".to_vec(),
        b"F\x7f\xff\xff\xff".to_vec(),
        b"F\0\0".to_vec(),
        b"F\0\0\0\x05\x01\x02".to_vec(),
    ] {
        let client = connect(address.parse().unwrap());
        (&client).write_all(&[&first[..], &wrong].concat()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&client), (first.clone(), End::InOrder), "what came before it is answered");
    }
    let client = connect(address.parse().unwrap());
    (&client).write_all(&[bytes(large.clone()), bytes(large.clone())].concat()).unwrap();
    assert_eq!(read_to_end(&client), (bytes(large), End::InOrder), "their product is too long");
    drop(client);
    program.signal("TERM");
    let (code, said) = program.wait();
    assert_eq!(code, Some(0));
    for reason in [
        "a number begins with 'F', not with 'G'",
        "a number has the length -1, which is negative",
        "a number has the length -2147483648",
        "a number of 1001 bytes: --number-max allows 1000",
        "a number of 2147483647 bytes",
        "the stream ended inside a frame, after 3 bytes of it",
        "the stream ended inside a frame, after 7 bytes of it",
        "a number of 1201 bytes: --number-max allows 1000",
    ] {
        assert!(said.contains(reason), "{reason}\n{said}");
    }
}

#[test]
fn the_client_believes_no_wrong_product_and_no_early_end() {
    let _limit = Limit::new();
    for (answers, said) in [
        (vec![bytes(1), bytes(2), bytes(7)], "the server has not multiplied by 3"),
        (vec![bytes(1), bytes(2)], "the server has sent 2 of 5 products, and ended"),
        (vec![bytes(1), b"F\0\0".to_vec()], "the stream ended inside a frame"),
        (vec![b"220 ready\r\n".to_vec()], "a number begins with 'F', not with '2'"),
    ] {
        let listener = TcpListener::bind(V4).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let liar = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&answers.concat()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let (code, printed, error) = run_on(&example("factorial-client"), &[&address, "--count", "5"], "");
        assert_eq!((code, printed), (Some(1), String::new()));
        assert!(error.contains(said), "{error}");
        liar.join().unwrap();
    }
    let (code, _, error) = run_on(&example("factorial-client"), &["--count", "0"], "");
    assert!(code == Some(2) && error.contains("--count"), "{error}");
}
