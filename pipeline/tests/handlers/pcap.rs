use std::cell::RefCell;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use perihelion_pipeline::handlers::{Pcap, PcapFile};
use perihelion_pipeline::*;
use proptest::prelude::*;

use crate::common::{Echo, Host, cut, frames, length};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

#[derive(Clone, Default)]
struct File(Rc<RefCell<Vec<u8>>>);

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct Packet {
    micros: u64,
    from: SocketAddr,
    to: SocketAddr,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    payload: Vec<u8>,
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_first_chunk().expect("the file is cut off");
        self.0 = rest;
        *taken
    }
    fn u32_le(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }
    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }
}

/// Strict: what it does not expect is wrong.
fn parse(file: &[u8]) -> Vec<Packet> {
    let mut file = Reader(file);
    assert_eq!(file.u32_le(), 0xa1b2c3d4);
    assert_eq!((file.take(), file.take()), ([2, 0], [4, 0]));
    assert_eq!(file.take(), [0; 8]);
    let packet_bytes_max = file.u32_le();
    assert_eq!(file.u32_le(), 101);
    let mut packets = Vec::new();
    while !file.0.is_empty() {
        let (seconds, micros) = (file.u32_le(), file.u32_le());
        assert!(micros < 1_000_000);
        let bytes = file.u32_le();
        assert_eq!(bytes, file.u32_le());
        assert!(bytes <= packet_bytes_max);
        let (packet, rest) = file.0.split_at(bytes as usize);
        file.0 = rest;
        packets.push(parse_packet(packet, u64::from(seconds) * 1_000_000 + u64::from(micros)));
    }
    packets
}

fn parse_packet(bytes: &[u8], micros: u64) -> Packet {
    let mut packet = Reader(bytes);
    let (from, to): (IpAddr, IpAddr) = match bytes[0] >> 4 {
        4 => {
            let sum: u32 =
                bytes[..20].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the checksum of the header");
            assert_eq!(packet.take(), [0x45, 0]);
            assert_eq!(usize::from(packet.u16()), bytes.len());
            assert_eq!(packet.take(), [0, 0, 0, 0, 64, 6]);
            packet.u16();
            (Ipv4Addr::from(packet.take::<4>()).into(), Ipv4Addr::from(packet.take::<4>()).into())
        }
        6 => {
            assert_eq!(packet.take(), [0x60, 0, 0, 0]);
            assert_eq!(usize::from(packet.u16()), bytes.len() - 40);
            assert_eq!(packet.take(), [6, 64]);
            (Ipv6Addr::from(packet.take::<16>()).into(), Ipv6Addr::from(packet.take::<16>()).into())
        }
        version => panic!("IP version {version}"),
    };
    let (from, to) = ((from, packet.u16()).into(), (to, packet.u16()).into());
    let (sequence, acknowledged) = (packet.u32(), packet.u32());
    let [words, flags] = packet.take();
    assert_eq!(words, 0x50);
    packet.take::<6>();
    Packet { micros, from, to, sequence, acknowledged, flags, payload: packet.0.to_vec() }
}

/// What a connection carried in each direction, from the one that opened it first. Checks every number on the way.
fn follow(packets: &[Packet]) -> [Vec<u8>; 2] {
    let client = packets[0].from;
    let mut streams = [Vec::new(), Vec::new()];
    let mut sequences = [0u32; 2];
    for (n, packet) in packets.iter().enumerate() {
        let side = usize::from(packet.from != client);
        assert_eq!(if side == 0 { packet.from } else { packet.to }, client);
        assert_eq!(packet.sequence, sequences[side], "packet {n}");
        assert_eq!(packet.flags & ACK != 0, n > 0);
        assert_eq!(packet.acknowledged, if n == 0 { 0 } else { sequences[1 - side] }, "packet {n}");
        assert_eq!(packet.flags & SYN != 0, n < 2);
        assert!(n == 0 || packet.micros >= packets[n - 1].micros);
        sequences[side] += packet.payload.len() as u32 + u32::from(packet.flags & (SYN | FIN) != 0);
        streams[side].extend(&packet.payload);
    }
    streams
}

fn fin_count(packets: &[Packet]) -> usize {
    packets.iter().filter(|packet| packet.flags & FIN != 0).count()
}

fn capture(file: &File, max_bytes: u64) -> Rc<RefCell<PcapFile<File>>> {
    let time = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    Rc::new(RefCell::new(PcapFile::new(file.clone(), max_bytes, Instant::now(), time).unwrap()))
}

fn v4(port: u16) -> SocketAddr {
    ([192, 168, 200, 250], port).into()
}

fn v6(port: u16) -> SocketAddr {
    ([0xfd00, 1, 2, 3, 4, 5, 6, 0xffff], port).into()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_capture_is_a_connection_that_carries_what_passed(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..10),
        sizes in prop::collection::vec(1..300usize, 1..5),
        is_v4 in any::<bool>(), mixed in any::<bool>(), serves in any::<bool>(), error in any::<bool>(),
        window in prop_oneof![Just(usize::MAX), 1..100usize],
    ) {
        let file = File::default();
        let local = if is_v4 { v4(80) } else { v6(80) };
        let peer = if is_v4 && !mixed { v4(4000) } else { v6(4000) };
        let capture = capture(&file, u64::MAX);
        let pcap = if serves { Pcap::server(capture, local, peer) } else { Pcap::client(capture, local, peer) };
        let mut host = Host::new(transport().then(pcap).codec(length()).tail(Echo));
        host.window = window;
        let stream = frames(&payloads);
        for piece in cut(&stream, &sizes) {
            host.feed(piece).advance(Duration::from_millis(3));
        }
        if error { host.fail(Error::msg("a reset")) } else { host.feed_end().run(); }
        let packets = parse(&file.0.borrow());
        let streams = follow(&packets);
        prop_assert!(streams[usize::from(!serves)] == stream && streams[usize::from(serves)] == stream);
        prop_assert_eq!(packets.last().unwrap().flags & RST != 0, error);
        prop_assert_eq!(fin_count(&packets), if error { 0 } else { 2 });
        prop_assert_eq!(packets[0].micros / 1_000_000 / 100, 17_000_000);
    }

    #[test]
    fn a_capture_has_a_maximum_and_no_packet_is_cut(max_bytes in 24..3000u64) {
        let file = File::default();
        let capture = capture(&file, max_bytes);
        let mut host = Host::new(transport().then(Pcap::server(capture.clone(), v4(80), v6(4000))).tail(Echo));
        for _ in 0..20 {
            host.feed([1; 50]).run();
        }
        prop_assert!(file.0.borrow().len() as u64 <= max_bytes);
        parse(&file.0.borrow());
        prop_assert!(capture.borrow().is_full());
        prop_assert_eq!(host.sent.len(), 1000, "which disturbs nobody");
    }
}

#[test]
fn channels_share_a_file_and_large_messages_are_many_packets() {
    let file = File::default();
    let capture = capture(&file, u64::MAX);
    for port in [4000, 4001] {
        let mut host =
            Host::new(transport().then(Pcap::server(capture.clone(), v4(80), v6(port))).tail(Echo));
        host.feed(vec![5; 200_000]).feed_end().run();
    }
    let (first, second): (Vec<_>, Vec<_>) = parse(&file.0.borrow())
        .into_iter()
        .partition(|packet| packet.from.port() == 4000 || packet.to.port() == 4000);
    for packets in [first, second] {
        assert_eq!(follow(&packets).map(|stream| stream.len()), [200_000, 200_000]);
    }
}

#[test]
fn a_half_close_ends_one_direction_where_it_happens() {
    struct Ends;
    impl Tail for Ends {
        type In = Bytes;
        type Out = Bytes;
        fn open(&mut self, cx: &mut Context<'_, Bytes>) -> Result<()> {
            cx.write("bye".into())?;
            cx.close_output()
        }
        fn read(&mut self, _cx: &mut Context<'_, Bytes>, _msg: Bytes) -> Result<()> {
            Ok(())
        }
    }
    let file = File::default();
    let mut host =
        Host::new(transport().then(Pcap::client(capture(&file, u64::MAX), v4(9), v4(80))).tail(Ends));
    host.feed("more").feed_end().run();
    let packets = parse(&file.0.borrow());
    assert_eq!(follow(&packets), [b"bye".to_vec(), b"more".to_vec()]);
    let ends: Vec<_> =
        packets.iter().filter(|packet| packet.flags & FIN != 0).map(|packet| packet.from.port()).collect();
    assert_eq!(ends, [9, 80]);
}

#[test]
fn an_error_of_the_file_ends_the_capture_and_not_the_channel() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let capture =
        Rc::new(RefCell::new(PcapFile::new(Full(300), u64::MAX, Instant::now(), UNIX_EPOCH).unwrap()));
    let mut host = Host::new(transport().then(Pcap::server(capture.clone(), v4(80), v4(4000))).tail(Echo));
    host.feed([0; 1000]).run();
    assert_eq!((host.sent.len(), &host.closed), (1000, &None));
    assert_eq!(capture.borrow().failure().unwrap().kind(), io::ErrorKind::StorageFull);
}
