//! What goes in comes out, whatever the sizes, the order and the time.

use perihelion::prelude::*;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use crate::common::*;
use crate::setup::Setup;

const BYTES_MAX: usize = 3 << 20;

/// Up to 128 KiB, small ones as often as large ones.
fn piece(random: &mut Random) -> usize {
    let magnitude = random.below(18);
    1 + random.below(1 << magnitude)
}

/// Writes all, in pieces, and ends.
fn write_in_pieces(mut stream: &TcpStream, mut bytes: &[u8], seed: u64) {
    let mut random = Random(seed);
    while !bytes.is_empty() {
        let (now, later) = bytes.split_at(piece(&mut random).min(bytes.len()));
        stream.write_all(now).unwrap();
        bytes = later;
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

/// Reads to the end, in pieces.
fn read_in_pieces(mut stream: &TcpStream, seed: u64) -> Vec<u8> {
    let (mut random, mut bytes, mut buffer) = (Random(seed), Vec::new(), vec![0; 128 << 10]);
    loop {
        let n = stream.read(&mut buffer[..piece(&mut random)]).unwrap();
        if n == 0 {
            return bytes;
        }
        bytes.extend(&buffer[..n]);
    }
}

/// Both sides write and read at once, and each ends when it has written everything. Gives how much that was.
fn transfer(client: &TcpStream, target: &TcpStream, seed: u64) -> [u64; 2] {
    let mut random = Random(seed);
    let [up, down] = [0, 1].map(|n| text(seed + n, random.below(BYTES_MAX)));
    thread::scope(|scope| {
        scope.spawn(|| write_in_pieces(client, &up, seed + 2));
        scope.spawn(|| write_in_pieces(target, &down, seed + 3));
        scope.spawn(|| assert!(read_in_pieces(client, seed + 4) == down, "seed {seed}"));
        assert!(read_in_pieces(target, seed + 5) == up, "seed {seed}");
    });
    [up.len() as u64, down.len() as u64]
}

/// Few pipes, small ones and small buffers, so that bytes wait everywhere on their way.
#[test]
fn both_sides_get_what_the_other_has_sent() {
    for seed in 0..8 {
        let mut random = Random(seed);
        let setup = Setup::with(|config| {
            config.runtime.workers = 1 + random.below(2);
            config.runtime.pipes.pipe_bytes = [4096, 64 << 10, 256 << 10][random.below(3)];
            config.runtime.pipes.pipes_max = [1, 2, 64][random.below(3)];
            config.tcp.send_buffer_bytes = [0, 8 << 10][random.below(2)];
            config.tcp.receive_buffer_bytes = [0, 8 << 10][random.below(2)];
        });
        let pairs: Vec<_> = (0..4).map(|_| setup.pair()).collect();
        let sums = thread::scope(|scope| {
            let transfers = pairs.iter().zip(1..).map(|((client, target), number)| {
                scope.spawn(move || transfer(client, target, 1000 * seed + 100 * number))
            });
            let transfers: Vec<_> = transfers.collect();
            transfers.into_iter().map(|transfer| transfer.join().unwrap()).collect::<Vec<_>>()
        });
        let report = setup.stop();
        assert_eq!(report.connections, 4);
        assert_eq!(report.bytes_in, sums.iter().map(|sum| sum[0]).sum::<u64>());
        assert_eq!(report.bytes_out, sums.iter().map(|sum| sum[1]).sum::<u64>());
    }
}

/// To another relay, on the same worker.
#[test]
fn relays_can_be_chained() {
    let setup = Setup::new();
    let first = Server::bind(V4).relay_to(setup.server.address().to_string());
    let first = first.start(&setup.fixture).unwrap();
    let client = connect(address_of(&first));
    let sums = transfer(&client, &setup.accept(), 7);
    drop(client);
    let reports = [first.stop(DRAIN), setup.stop()];
    assert_eq!(reports.map(|report| [report.bytes_in, report.bytes_out]), [sums; 2]);
}

/// splice(2) stops before an urgent byte, and says that there is nothing, or that the other side has ended.
#[test]
fn urgent_bytes_stay_in_their_place() {
    let setup = Setup::new();
    for ends_at_once in [false, true] {
        let (mut client, mut target) = setup.pair();
        let mut expected = Vec::new();
        for byte in b'a'..=b'e' {
            expected.extend([b"before ", &[byte][..], b" after "].concat());
            client.write_all(b"before ").unwrap();
            socket2::SockRef::from(&client).send_out_of_band(&[byte]).unwrap();
            client.write_all(b" after ").unwrap();
            if !ends_at_once {
                let mut bytes = [0; 15];
                target.read_exact(&mut bytes).unwrap();
                assert!(expected.ends_with(&bytes), "{}", String::from_utf8_lossy(&bytes));
                expected.clear();
            }
        }
        client.shutdown(Shutdown::Write).unwrap();
        let (bytes, end) = read_to_end(&target);
        assert_eq!(
            (String::from_utf8(bytes).unwrap(), end),
            (String::from_utf8(expected).unwrap(), End::InOrder)
        );
    }
    setup.stop();
}
