//! Is this object made of lines, or of values that go over lines? Decided on its first bytes.
//!
//! Uses the scanner. A first line that is a whole value, or that nothing can mend, speaks for lines. A value that goes
//! on behind its line end in good order speaks for values; but if every line so far begins like a record, and the
//! grammar breaks exactly where a new line begins like one, then the first line was only cut off.

use super::scan::{Found, Scanner};

/// How an object is cut into records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Each line is a record.
    Lines,
    /// Each value is a record, and each element of an array at the top.
    Values,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Before the first value.
    Blank,
    /// In the first value, on its first line.
    FirstLine,
    /// Behind the first value, on its first line.
    RestOfLine,
    /// In a broken array that began on this line.
    BrokenLine,
    /// Behind an array that filled its line.
    Beyond,
    /// In the first value, on a later line.
    LaterLines,
}

/// The decision, while it is open.
#[derive(Debug)]
pub(super) struct Probe {
    phase: Phase,
    scanner: Scanner,
    array: bool,
    /// Bytes since the value began.
    length: usize,
    most: usize,
    last: u8,
}

impl Probe {
    /// A probe that decides after `most` bytes at the latest.
    pub fn new(most: usize) -> Self {
        let (phase, scanner) = (Phase::Blank, Scanner::new());
        Self { phase, scanner, array: false, length: 0, most, last: b'\n' }
    }

    /// Whether nothing but blanks has come.
    pub fn is_blank(&self) -> bool {
        self.phase == Phase::Blank
    }

    /// Takes the next bytes; a layout as soon as it is certain.
    pub fn feed(&mut self, bytes: &[u8]) -> Option<Layout> {
        let mut at = 0;
        if self.phase == Phase::Blank {
            at = bytes.iter().position(|byte| !is_blank(*byte))?;
            self.array = bytes.get(at) == Some(&b'[');
            self.phase = Phase::FirstLine;
        }
        let allowed = bytes.len().min(at.saturating_add(self.most - self.length));
        while at < allowed {
            // Line by line, as the line ends are where things are decided.
            let rest = bytes.get(at..allowed).unwrap_or_default();
            let end = memchr::memchr(b'\n', rest).map_or(allowed, |newline| at + newline + 1);
            let piece = bytes.get(at..end).unwrap_or_default();
            if let Some(layout) = self.piece(piece) {
                return Some(layout);
            }
            self.length += piece.len();
            self.last = piece.last().copied().unwrap_or_default();
            at = end;
        }
        (allowed < bytes.len()).then(|| self.give_up())
    }

    /// The value is as long as a record may be: what is likelier?
    fn give_up(&self) -> Layout {
        let one_line = matches!(self.phase, Phase::FirstLine | Phase::RestOfLine);
        if one_line && !self.array { Layout::Lines } else { Layout::Values }
    }

    /// The object is over.
    pub fn finish(&self) -> Layout {
        match self.phase {
            Phase::LaterLines => Layout::Lines,
            _ if self.array => Layout::Values,
            _ => Layout::Lines,
        }
    }

    /// Takes a line, or a part of one.
    fn piece(&mut self, piece: &[u8]) -> Option<Layout> {
        match self.phase {
            Phase::Blank => None,
            Phase::FirstLine => self.first_line(piece),
            Phase::RestOfLine => self.rest_of_line(piece),
            Phase::BrokenLine => {
                self.line_over(piece);
                None
            }
            Phase::Beyond => piece.iter().any(|byte| !is_blank(*byte)).then_some(Layout::Lines),
            Phase::LaterLines => self.later_line(piece),
        }
    }

    fn first_line(&mut self, piece: &[u8]) -> Option<Layout> {
        match self.scanner.feed(piece, 0) {
            Found::End(at) => {
                self.phase = Phase::RestOfLine;
                self.rest_of_line(piece.get(at..).unwrap_or_default())
            }
            Found::Error(_) if self.array => {
                self.phase = Phase::BrokenLine;
                self.line_over(piece);
                None
            }
            Found::Error(_) => Some(Layout::Lines),
            Found::More if piece.last() != Some(&b'\n') => None,
            // A bracket alone on its line is how values are printed over lines.
            Found::More if self.scanner.just_opened() => Some(Layout::Values),
            Found::More => {
                self.phase = Phase::LaterLines;
                None
            }
        }
    }

    fn rest_of_line(&mut self, piece: &[u8]) -> Option<Layout> {
        if piece.iter().any(|byte| !is_blank(*byte)) {
            return Some(Layout::Lines);
        }
        if !self.line_over(piece) || self.array {
            return None;
        }
        Some(Layout::Lines)
    }

    /// Notes that an array's line is over, if it is.
    fn line_over(&mut self, piece: &[u8]) -> bool {
        let over = piece.last() == Some(&b'\n');
        if over {
            self.phase = Phase::Beyond;
        }
        over
    }

    fn later_line(&mut self, piece: &[u8]) -> Option<Layout> {
        let line_start = self.last == b'\n';
        if line_start && piece.first().is_some_and(|byte| !matches!(byte, b'{' | b'[' | b'\r' | b'\n')) {
            return Some(Layout::Values);
        }
        match self.scanner.feed(piece, 0) {
            Found::End(_) => Some(Layout::Values),
            // The grammar breaks where a line begins like a record: what came before was cut off.
            Found::Error(0) if line_start => Some(Layout::Lines),
            Found::Error(_) => Some(Layout::Values),
            // No line of records ends in a comma, unless it was cut off just there; two in a row hardly.
            Found::More if piece.last() == Some(&b'\n') && self.scanner.goes_on() => Some(Layout::Values),
            Found::More => None,
        }
    }
}

/// White space of JSON.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}
