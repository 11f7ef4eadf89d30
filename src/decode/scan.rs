//! The coarse grammar of JSON as a machine that is fed in pieces: where does a value end, or break?
//!
//! Uses the parser's search for special bytes. Coarse means: what stands inside a string or an atom (a number, a word)
//! is the decoder's business; here only the structure counts, so that a wrong number does not upset the framing.

use super::parse::special;

/// How many levels are remembered by their kind. Deeper ones, which no decoder takes, are only counted.
const LEVELS: usize = 512;

/// What a machine says about the bytes it was fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// All were taken and the value goes on.
    More,
    /// The value ends before this byte.
    End(usize),
    /// This byte cannot stand here.
    Error(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// A value.
    Value,
    /// A value or the end of the array.
    FirstElement,
    /// A key or the end of the object.
    FirstKey,
    Key,
    Colon,
    /// A comma or a closing bracket.
    Comma,
    /// The rest of a string; true for a key.
    Text(bool),
    /// The byte behind a backslash.
    Escaped(bool),
    /// The rest of a number or a word.
    Atom,
    /// Anything, below more levels than are remembered: only brackets and strings count.
    Deep,
    /// The value is over.
    Nothing,
}

/// The machine, somewhere in one value.
#[derive(Debug)]
pub(super) struct Scanner {
    expect: Expect,
    depth: u64,
    /// For each level one bit: it is an object.
    objects: [u64; LEVELS / 64],
}

impl Scanner {
    /// Before a value.
    pub fn new() -> Self {
        Self { expect: Expect::Value, depth: 0, objects: [0; LEVELS / 64] }
    }

    /// Whether only the opening bracket of the value was met.
    pub fn just_opened(&self) -> bool {
        self.depth == 1 && matches!(self.expect, Expect::FirstKey | Expect::FirstElement)
    }

    /// Whether a comma or a colon was the last thing that was met.
    pub fn goes_on(&self) -> bool {
        matches!(self.expect, Expect::Value | Expect::Key)
    }

    /// How many levels are open up to the one that this misplaced byte closes; all, if it closes none.
    pub fn closed_by(&self, byte: u8) -> u64 {
        let remembered = self.depth.min(LEVELS as u64);
        let is_object =
            |level: u64| self.objects.get(level as usize / 64).is_some_and(|word| word >> (level % 64) & 1 == 1);
        match byte {
            b'}' => (0..remembered).rev().find(|level| is_object(*level)).map_or(self.depth, |level| level + 1),
            b']' => (0..remembered).rev().find(|level| !is_object(*level)).map_or(0, |level| level + 1),
            _ => self.depth,
        }
    }

    /// Takes the bytes from `at` on.
    pub fn feed(&mut self, bytes: &[u8], mut at: usize) -> Found {
        while let Some(byte) = bytes.get(at) {
            match self.expect {
                Expect::Nothing => return Found::End(at),
                Expect::Text(key) => {
                    at = special(bytes, at);
                    match bytes.get(at) {
                        Some(b'"') => self.expect = if key { Expect::Colon } else { self.behind() },
                        Some(b'\\') => self.expect = Expect::Escaped(key),
                        Some(b'\n') => return Found::Error(at),
                        Some(_) => {}
                        None => return Found::More,
                    }
                }
                Expect::Atom if !is_atom(*byte) => {
                    self.expect = self.behind();
                    continue;
                }
                Expect::Atom => {}
                Expect::Escaped(_) if *byte == b'\n' => return Found::Error(at),
                Expect::Escaped(key) => self.expect = Expect::Text(key),
                _ if matches!(byte, b' ' | b'\n' | b'\r' | b'\t') => {}
                _ => {
                    if !self.structure(*byte) {
                        return Found::Error(at);
                    }
                }
            }
            at += 1;
        }
        if self.expect == Expect::Nothing { Found::End(at) } else { Found::More }
    }

    /// Takes a byte between the scalars. False: it cannot stand here.
    fn structure(&mut self, byte: u8) -> bool {
        self.expect = match (self.expect, byte) {
            (Expect::FirstKey | Expect::Key, b'"') => Expect::Text(true),
            (Expect::FirstKey, b'}') => return self.close(true),
            (Expect::FirstElement, b']') => return self.close(false),
            (Expect::Value | Expect::FirstElement, b'{' | b'[') => self.open(byte == b'{'),
            (Expect::Value | Expect::FirstElement, b'"') => Expect::Text(false),
            (Expect::Value | Expect::FirstElement, _) if is_atom(byte) => Expect::Atom,
            (Expect::Colon, b':') => Expect::Value,
            (Expect::Comma, b'}' | b']') => return self.close(byte == b'}'),
            (Expect::Comma, b',') if self.in_object() => Expect::Key,
            (Expect::Comma, b',') => Expect::Value,
            (Expect::Deep, b'{' | b'[') => self.open(false),
            (Expect::Deep, b'}' | b']') => return self.close(false),
            (Expect::Deep, b'"') => Expect::Text(false),
            (Expect::Deep, _) => Expect::Deep,
            _ => return false,
        };
        true
    }

    fn open(&mut self, object: bool) -> Expect {
        let level = self.depth as usize;
        self.depth += 1;
        let Some(word) = self.objects.get_mut(level / 64) else { return Expect::Deep };
        let bit = 1 << (level % 64);
        *word = if object { *word | bit } else { *word & !bit };
        if object { Expect::FirstKey } else { Expect::FirstElement }
    }

    fn close(&mut self, object: bool) -> bool {
        if self.depth <= LEVELS as u64 && self.in_object() != object {
            return false;
        }
        self.depth -= 1;
        self.expect = self.behind();
        true
    }

    fn in_object(&self) -> bool {
        let level = self.depth.saturating_sub(1) as usize;
        self.objects.get(level / 64).is_some_and(|word| word >> (level % 64) & 1 == 1)
    }

    fn behind(&self) -> Expect {
        match self.depth {
            0 => Expect::Nothing,
            depth if depth > LEVELS as u64 => Expect::Deep,
            _ => Expect::Comma,
        }
    }
}

/// A byte of a number or a word.
fn is_atom(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.' | b'_')
}
