//! The world: blocks, and what is written with them.

use flate2::{Compression, write::GzEncoder};
use perihelion::prelude::*;
use std::io::Write;
use std::str::FromStr;
use std::sync::Arc;

use crate::packets::{CHUNK_BYTES, Packet, Place, Position};

/// The highest number of a block.
pub(crate) const BLOCK_MAX: u8 = 49;
pub(crate) const AIR: u8 = 0;
const GRASS: u8 = 2;
const DIRT: u8 = 3;
const GOLD: u8 = 41;

/// The world.
pub(crate) struct World {
    size: Size,
    /// Shared while the level is made of them.
    blocks: Arc<Vec<u8>>,
}

/// How many blocks there are in each direction.
#[derive(Clone, Copy)]
pub(crate) struct Size(Position);

impl Size {
    pub(crate) fn contains(self, at: Position) -> bool {
        at.iter().zip(self.0).all(|(at, size)| (0..size).contains(at))
    }

    /// The most packets that a level has: it is not compressed to more than twice its size.
    pub(crate) fn level_packets_max(self) -> usize {
        4 + self.blocks() / (CHUNK_BYTES / 2)
    }

    /// Where players begin: in the middle, over the ground.
    pub(crate) fn start(self) -> Place {
        let [x, y, z] = self.0.map(|size| size / 2 * 32);
        Place { at: [x, y + 2 * 32, z], yaw: 0, pitch: 0 }
    }

    fn blocks(self) -> usize {
        self.0.iter().map(|size| *size as usize).product()
    }

    fn index(self, at: Position) -> Option<usize> {
        let ([x, y, z], [width, _, depth]) = (at.map(|at| at as usize), self.0.map(|size| size as usize));
        self.contains(at).then_some(x + width * (z + depth * y))
    }
}

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let numbers = text.split('x').map(str::parse).collect::<Result<Vec<i16>, _>>();
        let size = numbers.ok().and_then(|numbers| Position::try_from(numbers).ok());
        let allowed = |size: &Position| size.iter().all(|size| (16..=256).contains(size));
        size.filter(allowed).map(Size).ok_or("it is WIDTHxHEIGHTxDEPTH, each from 16 to 256")
    }
}

impl World {
    /// Flat ground up to half of the height.
    pub(crate) fn new(size: Size) -> Self {
        let [width, height, depth] = size.0;
        let layer = |y| match height / 2 - y {
            2.. => DIRT,
            1 => GRASS,
            _ => AIR,
        };
        let blocks = (0..height).flat_map(|y| vec![layer(y); width as usize * depth as usize]).collect();
        World { size, blocks: Arc::new(blocks) }
    }

    pub(crate) fn size(&self) -> Size {
        self.size
    }

    /// False if there is no such place.
    pub(crate) fn set(&mut self, at: Position, block: u8) -> bool {
        let index = self.size.index(at);
        if let Some(index) = index {
            Arc::make_mut(&mut self.blocks)[index] = block;
        }
        index.is_some()
    }

    /// Writes in gold, as far as there is room, from the lower left on. Gives what has changed.
    pub(crate) fn write(&mut self, text: &str, [x, y, z]: Position) -> Vec<Packet> {
        let mut changes = Vec::new();
        for (glyph, column) in text.bytes().map(glyph).zip((x..).step_by(4)) {
            for dot in (0..15).filter(|dot| glyph >> (14 - dot) & 1 == 1) {
                let at = [column + dot % 3, y + 4 - dot / 3, z];
                if self.set(at, GOLD) {
                    changes.push(Packet::SetBlock { at, block: GOLD });
                }
            }
        }
        changes
    }

    /// What a client needs to know of the world.
    pub(crate) async fn level(&self) -> Result<Vec<Packet>> {
        let blocks = Arc::clone(&self.blocks);
        // It takes a while, and the event loop has other things to do.
        let data = run_blocking(move || compress(&blocks)).await??;
        let chunk = |start: usize| {
            let end = data.len().min(start + CHUNK_BYTES);
            Packet::LevelChunk { data: data.slice(start..end), percent: (end * 100 / data.len()) as u8 }
        };
        let mut packets = vec![Packet::LevelInitialize];
        packets.extend((0..data.len()).step_by(CHUNK_BYTES).map(chunk));
        packets.push(Packet::LevelFinalize { size: self.size.0 });
        Ok(packets)
    }
}

fn compress(blocks: &[u8]) -> Result<Bytes> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&(blocks.len() as i32).to_be_bytes())?;
    gzip.write_all(blocks)?;
    Ok(gzip.finish()?.into())
}

/// Three dots in each of five rows, the uppermost first: an octal digit each.
fn glyph(byte: u8) -> u16 {
    const LETTERS: [u16; 26] = [
        0o25755, 0o65656, 0o34443, 0o65556, 0o74647, 0o74644, 0o34553, 0o55755, 0o72227, 0o11152, 0o55655,
        0o44447, 0o57755, 0o65555, 0o25552, 0o65644, 0o25563, 0o65655, 0o34216, 0o72222, 0o55557, 0o55552,
        0o55775, 0o55255, 0o55222, 0o71247,
    ];
    const DIGITS: [u16; 10] =
        [0o75557, 0o26227, 0o71747, 0o71717, 0o55711, 0o74717, 0o74757, 0o71111, 0o75757, 0o75717];
    match byte.to_ascii_uppercase() {
        letter @ b'A'..=b'Z' => LETTERS[usize::from(letter - b'A')],
        digit @ b'0'..=b'9' => DIGITS[usize::from(digit - b'0')],
        _ => 0,
    }
}
