//! Connections among ranks: [frames](Frame), one deadline for a whole greeting, the [handshake](Handshake) that proves the token of a job, and
//! the [acceptor](Acceptor) of the listeners.
mod acceptor;
mod frame;
mod handshake;
mod timed;
mod token;

pub(super) use acceptor::{Acceptor, Arrival};
pub use frame::Frame;
pub(super) use frame::MAX_CONTROL;
pub use handshake::{Handshake, HandshakeError};
pub use timed::Timed;
pub(super) use token::random_text;
pub use token::{RendezvousToken, TOKEN_FILE_VARIABLE, TOKEN_VARIABLE};

/// Most characters of a stranger's text in a message.
const MAX_TEXT: usize = 200;

/// A text of another process for a message: control characters are escaped, and a long text is truncated.
pub(super) fn shown(text: &str) -> String {
    let mut escaped = crate::text::escape_control(text).into_owned();
    if let Some((end, _)) = escaped.char_indices().nth(MAX_TEXT) {
        escaped.truncate(end);
        escaped.push('…');
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_is_escaped_and_truncated() {
        assert_eq!(shown("node1"), "node1");
        assert_eq!(shown("a\n[rank 7] b\u{1b}[2J"), "a\\n[rank 7] b\\u{1b}[2J");
        assert_eq!(shown(&"é".repeat(1 << 20)).chars().count(), MAX_TEXT + 1);
    }
}
