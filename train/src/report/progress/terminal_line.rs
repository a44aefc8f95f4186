//! The last line of a terminal, drawn again and again.
use std::io::Write;
use std::time::{Duration, Instant};

/// Line that is redrawn in place. The cursor stays at its start: when the terminal becomes narrower, the line may wrap, and clearing from
/// the cursor on removes all of it.
pub struct TerminalLine<W: Write> {
    terminal: W,
    drawn: Option<Instant>,
}

/// Shortest time between two drawings.
const INTERVAL: Duration = Duration::from_millis(100);
/// Clears from the cursor to the end of the screen.
const CLEAR: &str = "\x1b[J";

impl<W: Write> TerminalLine<W> {
    /// Creates a line that is not drawn yet.
    pub fn new(terminal: W) -> TerminalLine<W> {
        TerminalLine { terminal, drawn: None }
    }

    /// True if the last drawing is long enough ago.
    pub fn is_due(&self) -> bool {
        self.drawn.is_none_or(|last| last.elapsed() >= INTERVAL)
    }

    /// Draws a text, which must be narrower than the terminal.
    pub fn draw(&mut self, text: &str) {
        self.drawn = Some(Instant::now());
        self.write(&format!("{CLEAR}{text}\r"));
    }

    /// Writes a line that stays, above this one, which is drawn again at the next update.
    pub fn write_above(&mut self, text: &str) {
        let clear = if self.drawn.take().is_some() { CLEAR } else { "" };
        self.write(&format!("{clear}{text}\n"));
    }

    /// Removes the line.
    pub fn clear(&mut self) {
        if self.drawn.take().is_some() {
            self.write(CLEAR);
        }
    }

    /// A closed terminal is not an error.
    fn write(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).and_then(|()| self.terminal.flush()).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_cleared_before_other_text_and_at_the_end() {
        let mut line = TerminalLine::new(vec![]);
        assert!(line.is_due());
        line.draw("a");
        assert!(!line.is_due());
        line.write_above("kept");
        line.write_above("kept too");
        line.draw("b");
        line.clear();
        line.clear();
        let text = String::from_utf8(line.terminal).expect("UTF-8");
        assert_eq!(text, "\x1b[Ja\r\x1b[Jkept\nkept too\n\x1b[Jb\r\x1b[J");
    }
}
