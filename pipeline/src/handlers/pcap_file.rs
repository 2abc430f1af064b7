//! The file format of libpcap, and packets to put into it.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// With times in microseconds.
const MAGIC: u32 = 0xa1b2_c3d4;
/// A packet begins with its IPv4 or IPv6 header.
const LINKTYPE_RAW: u32 = 101;
const PACKET_BYTES_MAX: usize = 65_535;
/// The headers of IPv6 and TCP; those of IPv4 are shorter.
const HEADER_BYTES_MAX: usize = 40 + TCP_HEADER_BYTES;
const TCP_HEADER_BYTES: usize = 20;
const PROTOCOL_TCP: u8 = 6;
const TIME_TO_LIVE: u8 = 64;

/// The most bytes in one packet.
pub(crate) const PAYLOAD_BYTES_MAX: usize = PACKET_BYTES_MAX - HEADER_BYTES_MAX;

/// A capture file in the format of libpcap, which Wireshark and tcpdump open. The channels of a worker may share one.
///
/// Each packet is one `write_all`, so put a `BufWriter` around a file, and [`flush`](PcapFile::flush) it in the end.
/// A capture never disturbs what it captures: after an [error](PcapFile::failure) it stops, and so when the next
/// packet has no room.
pub struct PcapFile<F> {
    file: F,
    bytes_left: u64,
    now: Instant,
    time: SystemTime,
    state: State,
    /// Where a packet is put together.
    packet: Vec<u8>,
}

enum State {
    Writing,
    Full,
    Failed(io::Error),
}

impl<F: Write> PcapFile<F> {
    /// Begins a capture of at most `max_bytes`, headers and all. A handler has no clock, so that it is told what time
    /// it is now, by both clocks.
    ///
    /// # Errors
    /// The file's error.
    pub fn new(mut file: F, max_bytes: u64, now: Instant, time: SystemTime) -> io::Result<Self> {
        let mut header = Vec::new();
        header.extend(MAGIC.to_le_bytes());
        header.extend(2u16.to_le_bytes()); // the version: 2.4
        header.extend(4u16.to_le_bytes());
        header.extend([0; 8]); // no time zone, no accuracy
        header.extend((PACKET_BYTES_MAX as u32).to_le_bytes());
        header.extend(LINKTYPE_RAW.to_le_bytes());
        file.write_all(&header)?;
        let bytes_left = max_bytes.saturating_sub(header.len() as u64);
        Ok(PcapFile { file, bytes_left, now, time, state: State::Writing, packet: Vec::new() })
    }

    /// Passes on what a buffering writer holds.
    ///
    /// # Errors
    /// The file's error.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    /// Whether a packet had no room, so that the capture has ended.
    pub fn is_full(&self) -> bool {
        matches!(self.state, State::Full)
    }

    /// The error of the file that has ended the capture.
    pub fn failure(&self) -> Option<&io::Error> {
        match &self.state {
            State::Failed(error) => Some(error),
            State::Writing | State::Full => None,
        }
    }

    pub(crate) fn write(&mut self, at: Instant, segment: &Segment<'_>) {
        if !matches!(self.state, State::Writing) {
            return;
        }
        let time = self.time + at.saturating_duration_since(self.now);
        let time = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.packet.clear();
        self.packet.extend((time.as_secs() as u32).to_le_bytes());
        self.packet.extend(time.subsec_micros().to_le_bytes());
        let bytes = (segment.packet_bytes() as u32).to_le_bytes();
        self.packet.extend([bytes, bytes].concat()); // those that are here, and those that there were
        segment.put(&mut self.packet);
        let Some(bytes_left) = self.bytes_left.checked_sub(self.packet.len() as u64) else {
            self.state = State::Full;
            return;
        };
        self.bytes_left = bytes_left;
        if let Err(error) = self.file.write_all(&self.packet) {
            self.state = State::Failed(error);
        }
    }
}

/// A segment of TCP.
pub(crate) struct Segment<'a> {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) sequence: u32,
    pub(crate) acknowledged: u32,
    pub(crate) flags: u8,
    /// At most [`PAYLOAD_BYTES_MAX`].
    pub(crate) payload: &'a [u8],
}

impl Segment<'_> {
    pub(crate) const FIN: u8 = 1;
    pub(crate) const SYN: u8 = 2;
    pub(crate) const RST: u8 = 4;
    pub(crate) const PSH: u8 = 8;
    pub(crate) const ACK: u8 = 16;

    fn ip_header_bytes(&self) -> usize {
        if self.from.is_ipv4() && self.to.is_ipv4() { 20 } else { 40 }
    }

    fn packet_bytes(&self) -> usize {
        self.ip_header_bytes() + TCP_HEADER_BYTES + self.payload.len()
    }

    fn put(&self, packet: &mut Vec<u8>) {
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut header = [0; 20];
                header[0] = 0x45; // version 4, five words
                header[2..4].copy_from_slice(&(self.packet_bytes() as u16).to_be_bytes());
                header[8] = TIME_TO_LIVE;
                header[9] = PROTOCOL_TCP;
                header[12..16].copy_from_slice(&from.octets());
                header[16..].copy_from_slice(&to.octets());
                let checksum = checksum(&header);
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                packet.extend(header);
            }
            (from, to) => {
                let mut header = [0; 40];
                header[0] = 0x60; // version 6
                header[4..6].copy_from_slice(&((TCP_HEADER_BYTES + self.payload.len()) as u16).to_be_bytes());
                header[6] = PROTOCOL_TCP;
                header[7] = TIME_TO_LIVE;
                header[8..24].copy_from_slice(&ipv6(from).octets());
                header[24..].copy_from_slice(&ipv6(to).octets());
                packet.extend(header);
            }
        }
        packet.extend(self.from.port().to_be_bytes());
        packet.extend(self.to.port().to_be_bytes());
        packet.extend(self.sequence.to_be_bytes());
        packet.extend(self.acknowledged.to_be_bytes());
        packet.extend([0x50, self.flags]); // five words
        packet.extend(u16::MAX.to_be_bytes()); // the window
        packet.extend([0; 4]); // no checksum, as from a network card that computes it, and nothing urgent
        packet.extend(self.payload);
    }
}

fn ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// The ones' complement of the sum of all words.
fn checksum(header: &[u8; 20]) -> u16 {
    let words = header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}
