//! The messages of the chat. Their format is in chat.rs.

use perihelion::prelude::*;
use perihelion::transports::PeerStatistics;
use std::sync::Arc;

/// What somebody says. Clones share the text, so that one for each listener costs nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) text: Arc<str>,
    /// Who says it; empty: the system.
    pub(crate) name: Arc<str>,
}

/// Bytes to messages and back.
pub(crate) struct Chat;

/// The bytes of a message that are neither text nor name.
const LENGTHS_BYTES: usize = 3;
/// What a length of two bytes can say.
const MESSAGE_BYTES_MAX: usize = u16::MAX as usize;
/// What a length of one byte can say.
const NAME_BYTES_MAX: usize = u8::MAX as usize;

impl Codec for Chat {
    type Frame = Message;
    type Item = Message;

    fn decode(&mut self, input: &mut Input) -> Result<Option<Message>> {
        let Some((total, rest)) = input.as_slice().split_first_chunk() else { return Ok(None) };
        let total = usize::from(u16::from_le_bytes(*total));
        let Some(bytes) = rest.get(..total) else { return Ok(None) };
        let contradiction = || Error::msg("a message whose lengths contradict each other");
        let (text, name) = split(bytes).ok_or_else(contradiction)?;
        let message = Message { text: str::from_utf8(text)?.into(), name: str::from_utf8(name)?.into() };
        input.advance(2 + total);
        Ok(Some(message))
    }

    fn encode(&mut self, message: Message, output: &mut Output) -> Result<()> {
        let (text, name) = (message.text.as_bytes(), message.name.as_bytes());
        let total = LENGTHS_BYTES + text.len() + name.len();
        if name.len() > NAME_BYTES_MAX {
            let len = name.len();
            return Err(Error::msg(format!("a name of {len} bytes: at most {NAME_BYTES_MAX} are allowed")));
        }
        if total > MESSAGE_BYTES_MAX {
            return Err(Error::msg(format!(
                "a message of {total} bytes: at most {MESSAGE_BYTES_MAX} are allowed"
            )));
        }
        output.put_slice(&(total as u16).to_le_bytes());
        output.put_slice(&(text.len() as u16).to_le_bytes());
        output.put_slice(text);
        output.put_slice(&[name.len() as u8]);
        output.put_slice(name);
        Ok(())
    }
}

/// Text and name, behind their lengths, if these say what is there.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (text, rest) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
    let (length, name) = rest.split_first()?;
    (name.len() == usize::from(*length)).then_some((text, name))
}

/// One line about what a connection has done.
pub(crate) fn summary(statistics: &PeerStatistics) -> String {
    let PeerStatistics { frames_in, frames_out, bytes_in, bytes_out, alive, .. } = statistics;
    format!("{frames_in} messages in, {frames_out} out; {bytes_in} bytes in, {bytes_out} out; {alive:.1?}")
}
