use std::net::SocketAddr;

use perihelion_pipeline::proxy_protocol::*;
use perihelion_pipeline::testing::{verify_bytes, verify_codec};
use perihelion_pipeline::*;
use proptest::prelude::*;

/// Headers, one behind the other.
struct Headers;

impl Codec for Headers {
    type Frame = ProxyHeader;
    type Item = ProxyHeader;

    fn decode(&mut self, input: &mut Input) -> Result<Option<ProxyHeader>> {
        match ProxyHeader::parse(input.as_slice())? {
            Parsed::NeedMore(_) => Ok(None),
            Parsed::Header(header, length) => {
                input.advance(length);
                Ok(Some(header))
            }
        }
    }

    fn encode(&mut self, header: ProxyHeader, output: &mut Output) -> Result<()> {
        header.encode(output.put_buf());
        Ok(())
    }
}

fn encoded(header: &ProxyHeader) -> Vec<u8> {
    let mut bytes = Vec::new();
    header.encode(&mut bytes);
    bytes
}

/// The header that these bytes are, and nothing else.
fn whole(bytes: &[u8]) -> Result<ProxyHeader, InvalidHeader> {
    match ProxyHeader::parse(bytes)? {
        Parsed::Header(header, length) => {
            assert_eq!(length, bytes.len());
            Ok(header)
        }
        Parsed::NeedMore(missing) => panic!("{missing} bytes are missing: {}", bytes.escape_ascii()),
    }
}

/// A header of version 2: command, family, block.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = (block.len() as u16).to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, block].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &(value.len() as u16).to_be_bytes(), value].concat()
}

/// Bit by bit, as RFC 4960 has it.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 & 0u32.wrapping_sub(crc & 1)))
    })
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let port = prop_oneof![Just(0), Just(u16::MAX), any::<u16>()];
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(std::net::IpAddr::from),
        any::<[u8; 16]>().prop_map(std::net::IpAddr::from),
        any::<[u8; 4]>().prop_map(|ip| std::net::Ipv4Addr::from(ip).to_ipv6_mapped().into()),
        Just("::".parse().unwrap()),
    ];
    (ip, port).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

/// TLVs that a header may have.
fn tlvs() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let any_kind = prop_oneof![Just(kind::ALPN), Just(kind::NOOP), 6..0x20u8, 0x21..=0xffu8];
    let one = prop_oneof![
        (any_kind, prop::collection::vec(any::<u8>(), 0..40)),
        "[a-zé.]{0,20}".prop_map(|name| (kind::AUTHORITY, name.into_bytes())),
        prop::collection::vec(any::<u8>(), 0..128).prop_map(|id| (kind::UNIQUE_ID, id)),
        any::<[u8; 5]>().prop_map(|ssl| (kind::SSL, [&ssl[..], &tlv(0x21, b"TLSv1.3")].concat())),
    ];
    prop::collection::vec(one, 0..4)
}

fn binary_header() -> impl Strategy<Value = ProxyHeader> {
    let kind = || prop_oneof![Just(SocketType::Stream), Just(SocketType::Datagram)];
    let path = || prop_oneof!["/[a-z/]{0,30}", "\0[a-z\0]{0,30}[a-z]", Just(String::new()), "[a-z]{108}"];
    let header = prop_oneof![
        3 => (kind(), address(), address()).prop_map(|(kind, from, to)| ProxyHeader::v2(kind, from, to)),
        1 => (kind(), path(), path()).prop_map(|(kind, from, to)| ProxyHeader::v2_unix(kind, from, to).unwrap()),
        1 => Just(ProxyHeader::local()),
        1 => Just(ProxyHeader::unspecified(Version::V2)),
    ];
    (header, tlvs(), any::<bool>()).prop_map(|(header, tlvs, checksum)| {
        let header = tlvs.iter().fold(header, |header, (kind, value)| header.with_tlv(*kind, value).unwrap());
        if checksum { header.with_checksum().unwrap() } else { header }
    })
}

pub(super) fn header() -> impl Strategy<Value = ProxyHeader> {
    prop_oneof![
        2 => (address(), address()).prop_map(|(from, to)| ProxyHeader::v1(from, to)),
        1 => Just(ProxyHeader::unspecified(Version::V1)),
        5 => binary_header(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_is_parsed_however_it_is_cut(headers in prop::collection::vec(header(), 1..3)) {
        verify_codec(|| Headers, &headers);
    }

    #[test]
    fn it_says_how_much_is_missing(header in header()) {
        let bytes = encoded(&header);
        for end in 0..bytes.len() {
            let Parsed::NeedMore(missing) = ProxyHeader::parse(&bytes[..end]).unwrap() else {
                panic!("{end} bytes of {} are no header", bytes.len())
            };
            let left = bytes.len() - end;
            prop_assert!((1..=left).contains(&missing), "{} of {}", missing, left);
            if header.version() == Version::V2 && end >= 16 {
                prop_assert_eq!(missing, left);
            }
        }
    }

    #[test]
    fn what_is_no_header_is_never_a_panic_and_the_same_however_it_is_cut(
        beginning in prop_oneof![
            Just(&b""[..]),
            Just(&b"PROXY "[..]),
            Just(&b"PROXY TCP4 "[..]),
            Just(&b"PROXY UNKNOWN"[..]),
            Just(&b"\r\n\r\n\0\r\nQUIT\n"[..]),
            Just(&b"\r\n\r\n\0\r\nQUIT\n\x21"[..]),
            Just(&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x20"[..]),
        ],
        rest in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..150),
            "[0-9. \r\n]{0,120}".prop_map(String::into_bytes),
            "[0-9. ]{85,105}[\r\n]{1,3}".prop_map(String::into_bytes),
        ],
    ) {
        verify_bytes(|| Headers, &[beginning, &rest].concat());
    }

    #[test]
    fn a_header_with_a_wrong_byte_fails_by_its_checksum(header in binary_header(), at in 0.0..1.0f64, bit in 0..8u32) {
        let mut bytes = encoded(&header.with_checksum().unwrap());
        // What follows the command and the length is only protected by the checksum.
        let at = 16 + ((bytes.len() - 16) as f64 * at) as usize;
        bytes[at] ^= 1u8 << bit;
        let parsed = ProxyHeader::parse(&bytes);
        // Where no address counts, a TLV that is cut off makes the block none of TLVs.
        let has_none = |header: &ProxyHeader| *header.addresses() == Addresses::Unspecified && header.tlvs().count() == 0;
        match parsed {
            Err(_) => {}
            Ok(Parsed::Header(header, _)) => prop_assert!(has_none(&header) || !header.has_checksum()),
            Ok(Parsed::NeedMore(_)) => panic!("its length has not changed"),
        }
    }
}

#[test]
fn lines_of_version_1() {
    let internet = |from: &str, to: &str| (from.parse().ok(), to.parse().ok());
    for (line, (source, destination)) in [
        ("TCP4 192.168.0.1 192.168.0.11 56324 443", internet("192.168.0.1:56324", "192.168.0.11:443")),
        ("TCP4 255.255.255.255 0.0.0.0 65535 0", internet("255.255.255.255:65535", "0.0.0.0:0")),
        ("TCP6 2001:DB8::1 ::1 1 2", internet("[2001:db8::1]:1", "[::1]:2")),
        ("TCP6 ::ffff:1.2.3.4 ::ffff:102:304 1 2", internet("[::ffff:1.2.3.4]:1", "[::ffff:1.2.3.4]:2")),
        ("UNKNOWN", (None, None)),
        ("UNKNOWN ", (None, None)),
        ("UNKNOWN what\never \r comes \u{e9}", (None, None)),
    ] {
        let header =
            whole(format!("PROXY {line}\r\n").as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!((header.source(), header.destination()), (source, destination), "{line}");
        assert_eq!((header.version(), header.command()), (Version::V1, Command::Proxy));
    }
    let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(91));
    assert_eq!((longest.len(), whole(longest.as_bytes()).is_ok()), (107, true));
}

#[test]
fn wrong_lines_of_version_1() {
    for line in [
        "PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4  1 2\r\n",
        "PROXY TCP4\t1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY\r\nTCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXYTCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY unknown\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n",
        "PROXY TCP4 example.org 1.2.3.4 1 2\r\n",
        "PROXY TCP6 fe80::1%lo ::1 1 2\r\n",
        "PROXY TCP6 [::1] ::1 1 2\r\n",
        "PROXY TCP6 ::1:: ::1 1 2\r\n",
        "PROXY TCP6 00001::1 ::1 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 00\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 0x1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 http\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 \u{661} 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\r\n",
    ] {
        let (headers, error) = verify_bytes(|| Headers, line.as_bytes());
        assert_eq!(headers, [], "{line:?}");
        assert!(matches!(error.unwrap().downcast_ref(), Some(InvalidHeader::Line(_))), "{line:?}");
    }
    let endless = format!("PROXY UNKNOWN {}", "f".repeat(93));
    assert_eq!(ProxyHeader::parse(&endless.as_bytes()[..105]), Ok(Parsed::NeedMore(2)));
    assert_eq!(ProxyHeader::parse(&endless.as_bytes()[..106]), Ok(Parsed::NeedMore(1)));
    let too_long = InvalidHeader::Line("has more than 107 bytes");
    assert_eq!(ProxyHeader::parse(endless.as_bytes()), Err(too_long));
    for other in
        ["proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n", "PROX\r\n", "GET / HTTP/1.1\r\n", "\r\n\r\n\0\r\nQUIT\r", "\0"]
    {
        assert_eq!(ProxyHeader::parse(other.as_bytes()), Err(InvalidHeader::NoSignature), "{other:?}");
    }
}

#[test]
fn bytes_of_version_2() {
    let block = b"\x01\x02\x03\x04\x05\x06\x07\x08\x00\x50\x01\xbb";
    let header = whole(&v2(0x21, 0x11, block)).unwrap();
    let (from, to) = ("1.2.3.4:80".parse().unwrap(), "5.6.7.8:443".parse().unwrap());
    assert_eq!(header, ProxyHeader::v2(SocketType::Stream, from, to));
    assert_eq!(whole(&v2(0x21, 0x12, block)).unwrap(), ProxyHeader::v2(SocketType::Datagram, from, to));

    let block = [[0xfe; 16].as_slice(), &[0; 15], &[1, 0, 80, 1, 187]].concat();
    let header = whole(&v2(0x21, 0x21, &block)).unwrap();
    let from = "[fefe:fefe:fefe:fefe:fefe:fefe:fefe:fefe]:80".parse().unwrap();
    assert_eq!(header, ProxyHeader::v2(SocketType::Stream, from, "[::1]:443".parse().unwrap()));

    let mut block = [0; 216];
    block[..6].copy_from_slice(b"/a\0bcd"); // behind a zero byte stands nothing
    block[108..112].copy_from_slice(b"\0b\0c");
    let header = whole(&v2(0x21, 0x31, &block)).unwrap();
    assert_eq!(*header.addresses(), Addresses::Unix { source: "/a".into(), destination: "\0b\0c".into() });
    assert_eq!(header.source(), None);
}

#[test]
fn a_local_header_is_taken_whatever_stands_in_it() {
    let unique = tlv(kind::UNIQUE_ID, b"check 7");
    for (family, block, tlvs) in [
        (0x00, vec![], 0),
        (0x00, unique.clone(), 1),
        (0x11, [&[9; 12][..], &unique].concat(), 1),
        (0x11, vec![9; 3], 0),
        (0xff, vec![9; 300], 0),
        (0x00, b"no TLVs".to_vec(), 0),
    ] {
        let header = whole(&v2(0x20, family, &block)).unwrap();
        assert_eq!((header.command(), header.addresses()), (Command::Local, &Addresses::Unspecified));
        assert_eq!(header.tlvs().count(), tlvs, "{family:#x}");
    }
    for family in [0x00, 0x01, 0x02, 0x10, 0x20, 0x30] {
        let header = whole(&v2(0x21, family, &[9; 250])).unwrap();
        assert_eq!((header.command(), header.addresses()), (Command::Proxy, &Addresses::Unspecified));
    }
}

#[test]
fn wrong_bytes_of_version_2() {
    let addresses = [7; 12];
    let with = |tlvs: &[&[u8]]| v2(0x21, 0x11, &[&addresses[..], &tlvs.concat()].concat());
    let cut_off = |length, needed| InvalidHeader::AddressesCutOff { length, needed };
    let checksum = tlv(kind::CRC32C, &[0; 4]);
    for (bytes, error) in [
        (v2(0x11, 0x11, &addresses), InvalidHeader::VersionOrCommand(0x11)),
        (v2(0x01, 0x11, &addresses), InvalidHeader::VersionOrCommand(0x01)),
        (v2(0x22, 0x11, &addresses), InvalidHeader::VersionOrCommand(0x22)),
        (v2(0x21, 0x41, &addresses), InvalidHeader::Family(0x41)),
        (v2(0x21, 0x13, &addresses), InvalidHeader::Family(0x13)),
        (v2(0x21, 0x40, &addresses), InvalidHeader::Family(0x40)),
        (v2(0x21, 0x11, &[7; 11]), cut_off(11, 12)),
        (v2(0x21, 0x21, &[7; 35]), cut_off(35, 36)),
        (v2(0x21, 0x32, &[7; 215]), cut_off(215, 216)),
        (with(&[&[0xEE]]), InvalidHeader::Tlv(0xEE)),
        (with(&[&[0xEE, 0, 1]]), InvalidHeader::Tlv(0xEE)),
        (with(&[&tlv(1, b"h2"), &[0xEE, 0xff, 0xff, 0]]), InvalidHeader::Tlv(0xEE)),
        (with(&[&tlv(kind::AUTHORITY, b"\xff")]), InvalidHeader::Tlv(kind::AUTHORITY)),
        (with(&[&tlv(kind::UNIQUE_ID, &[0; 129])]), InvalidHeader::Tlv(kind::UNIQUE_ID)),
        (with(&[&tlv(kind::SSL, &[1, 0, 0, 0])]), InvalidHeader::Tlv(kind::SSL)),
        (with(&[&tlv(kind::SSL, &[1, 0, 0, 0, 0, 0x21, 0, 9])]), InvalidHeader::Tlv(kind::SSL)),
        (with(&[&tlv(kind::CRC32C, &[0; 3])]), InvalidHeader::Tlv(kind::CRC32C)),
        (with(&[&checksum, &checksum]), InvalidHeader::Tlv(kind::CRC32C)),
        (with(&[&checksum]), InvalidHeader::Checksum),
        (v2(0x20, 0x00, &checksum), InvalidHeader::Checksum),
    ] {
        assert_eq!(whole(&bytes), Err(error));
    }
}

#[test]
fn a_checksum_is_over_the_whole_header() {
    assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    let mut bytes =
        v2(0x21, 0x11, &[&[7; 12][..], &tlv(kind::CRC32C, &[0; 4]), &tlv(kind::ALPN, b"h2")].concat());
    let checksum = crc32c(&bytes);
    bytes[31..35].copy_from_slice(&checksum.to_be_bytes());
    let header = whole(&bytes).unwrap();
    assert!(header.has_checksum());
    assert_eq!(header.tlvs().collect::<Vec<_>>(), [(kind::ALPN, &b"h2"[..])]);
    let mut again = encoded(&header);
    let written = again.split_off(again.len() - 4);
    assert_eq!(written, crc32c(&[&again[..], &[0; 4]].concat()).to_be_bytes());
}

#[test]
fn what_a_proxy_says_of_a_client() {
    let subs = [
        tlv(0x21, b"TLSv1.2"),
        tlv(0x22, "Ada Ł".as_bytes()),
        tlv(0x23, b"ECDHE-RSA-AES128-GCM-SHA256"),
        tlv(0x24, b"RSA-SHA256"),
        tlv(0x25, b"\xff"),
        tlv(0x28, b"a certificate\xff"),
    ];
    let ssl = |client: u8, verify: u8| [&[client, 0, 0, 0, verify][..], &subs.concat()].concat();
    let header =
        ProxyHeader::v2(SocketType::Stream, "1.2.3.4:5".parse().unwrap(), "[::1]:6".parse().unwrap());
    let header = header
        .with_tlv(kind::ALPN, b"h2")
        .and_then(|header| header.with_tlv(kind::AUTHORITY, b"example.org"))
        .and_then(|header| header.with_tlv(kind::SSL, &ssl(3, 0)))
        .and_then(|header| header.with_tlv(0xE0, b"own"))
        .and_then(|header| header.with_tlv(0xE0, b"second"))
        .unwrap();
    let header = whole(&encoded(&header)).unwrap();
    assert_eq!(header.source(), Some("[::ffff:1.2.3.4]:5".parse().unwrap()), "both are of one family");
    assert_eq!((header.alpn(), header.authority()), (Some(&b"h2"[..]), Some("example.org")));
    assert_eq!((header.unique_id(), header.tlv(0xE0)), (None, Some(&b"own"[..])));
    let info = header.ssl().unwrap();
    assert!(
        info.uses_tls() && info.has_certificate() && !info.has_certificate_in_session() && info.is_verified()
    );
    assert_eq!((info.version(), info.common_name()), (Some("TLSv1.2"), Some("Ada Ł")));
    assert_eq!(info.cipher(), Some("ECDHE-RSA-AES128-GCM-SHA256"));
    assert_eq!((info.signature_algorithm(), info.key_algorithm()), (Some("RSA-SHA256"), None));
    assert_eq!(info.tlvs().count(), subs.len());
    for (client, verify) in [(1, 0), (3, 1), (0, 0)] {
        let header = ProxyHeader::local().with_tlv(kind::SSL, &ssl(client, verify)).unwrap();
        assert!(!header.ssl().unwrap().is_verified(), "{client} {verify}");
    }
}

#[test]
fn sixty_four_kilobytes() {
    let header =
        ProxyHeader::v2(SocketType::Stream, "1.2.3.4:5".parse().unwrap(), "1.2.3.4:6".parse().unwrap());
    let fits = header.clone().with_tlv(0xE0, &vec![7; 65_535 - 12 - 3]).unwrap();
    let bytes = encoded(&fits);
    assert_eq!((bytes.len(), whole(&bytes)), (16 + 65_535, Ok(fits)));
    for too_long in [65_535 - 12 - 2, 65_536] {
        let refused = header.clone().with_tlv(0xE0, &vec![7; too_long]);
        assert_eq!(refused, Err(InvalidHeader::TooLong));
    }
    let full = header.clone().with_tlv(0xE0, &vec![7; 65_535 - 12 - 3 - 6]).unwrap();
    assert_eq!(full.with_checksum(), Err(InvalidHeader::TooLong));
}

#[test]
fn headers_that_can_not_be_made() {
    let text = ProxyHeader::unspecified(Version::V1);
    assert_eq!(text.clone().with_tlv(0xE0, b""), Err(InvalidHeader::TlvInVersion1));
    assert_eq!(text.with_checksum(), Err(InvalidHeader::TlvInVersion1));
    assert_eq!(ProxyHeader::local().with_tlv(kind::CRC32C, &[0; 4]), Err(InvalidHeader::Tlv(kind::CRC32C)));
    for path in ["/a\0b", "/a\0", "\0", &"x".repeat(109)] {
        let refused = ProxyHeader::v2_unix(SocketType::Stream, path, "").unwrap_err();
        assert_eq!(refused, InvalidHeader::Path(path.into()));
    }
}
