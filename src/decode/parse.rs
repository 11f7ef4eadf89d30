//! The text of one record and a place in it: the grammar of JSON, byte by byte, without a tree or a tape.
//!
//! Uses nothing of the project. The text is valid UTF-8 (the caller looked); everything else is checked here. A fault
//! of the grammar stops the record at once. A value that is well-formed but does not fit its column is a *misfit*: it
//! leaves the cursor behind the value, so that the grammar of the rest is still checked and a later key can replace it.

/// How deep arrays and objects may be nested.
pub(super) const NESTING: usize = 256;

/// How many characters of a value a reason repeats.
const SHOWN: usize = 40;

/// Why a record, or one of its values, cannot be read.
#[derive(Debug)]
pub(super) struct Fault {
    /// The text is no JSON: nothing of the record can be used.
    pub syntax: bool,
    path: String,
    what: String,
}

/// The result of parsing; the box keeps the good way small.
pub(super) type Parse<T> = Result<T, Box<Fault>>;

impl Fault {
    /// The text breaks the grammar.
    #[cold]
    pub fn syntax(what: impl Into<String>) -> Box<Self> {
        Box::new(Self { syntax: true, path: String::new(), what: what.into() })
    }

    /// The value is well-formed and does not fit.
    #[cold]
    pub fn misfit(what: impl Into<String>) -> Box<Self> {
        Box::new(Self { syntax: false, path: String::new(), what: what.into() })
    }

    /// Puts a column, a field or an index in front of the path.
    #[cold]
    pub fn within(mut self: Box<Self>, name: &str) -> Box<Self> {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{name}{dot}{}", self.path);
        self
    }

    /// The reason in words.
    pub fn reason(&self) -> String {
        if self.syntax || self.path.is_empty() { self.what.clone() } else { format!("`{}`: {}", self.path, self.what) }
    }
}

/// A string as it stands between its quotes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quoted<'a> {
    /// The bytes between the quotes.
    pub raw: &'a [u8],
    /// Whether there are escapes (already found valid) to resolve.
    pub escaped: bool,
}

/// A number as it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number<'a> {
    /// Its characters, all ASCII.
    pub text: &'a [u8],
    /// Neither fraction nor exponent.
    pub integer: bool,
}

/// A place in the text of a record.
pub(super) struct Cursor<'a> {
    /// The whole text.
    pub text: &'a [u8],
    /// The next byte.
    pub at: usize,
    /// What does not fit becomes NULL instead of a fault.
    pub lenient: bool,
    /// Something became NULL that way.
    pub misfit: bool,
}

impl<'a> Cursor<'a> {
    /// At the start of a text.
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, lenient: false, misfit: false }
    }

    /// The next byte, if there is one.
    #[inline]
    pub fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Steps over white space.
    #[inline]
    pub fn blank(&mut self) {
        if self.peek().is_some_and(|byte| byte > b' ') {
            return;
        }
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Steps over one byte that must come now.
    #[inline]
    pub fn expect(&mut self, byte: u8) -> Parse<()> {
        if self.peek() != Some(byte) {
            return Err(self.unexpected());
        }
        self.at += 1;
        Ok(())
    }

    /// Only white space may follow.
    pub fn end(&mut self) -> Parse<()> {
        self.blank();
        if self.at == self.text.len() {
            return Ok(());
        }
        Err(Fault::syntax(format!("text after the value at byte {}", self.at)))
    }

    /// The fault that stands at this place.
    #[cold]
    pub fn unexpected(&self) -> Box<Fault> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let rest = std::str::from_utf8(rest).unwrap_or_default();
        let Some(found) = rest.chars().next() else {
            return Fault::syntax("value ends too early");
        };
        for word in ["NaN", "Infinity", "-Infinity", "undefined", "None", "True", "False"] {
            if rest.starts_with(word) {
                return Fault::syntax(format!("`{word}` is not JSON, at byte {}", self.at));
            }
        }
        if rest.starts_with("//") || rest.starts_with("/*") {
            return Fault::syntax(format!("comment at byte {}", self.at));
        }
        Fault::syntax(format!("unexpected {found:?} at byte {}", self.at))
    }

    /// The fault of a comma with nothing behind it, where a closing bracket stands.
    #[cold]
    fn trailing_comma(&self) -> Box<Fault> {
        Fault::syntax(format!("trailing comma before byte {}", self.at))
    }

    /// Behind a comma, before the next key or element: the closing bracket may not stand here.
    #[inline]
    pub fn after_comma(&mut self, closing: u8) -> Parse<()> {
        self.blank();
        if self.peek() == Some(closing) { Err(self.trailing_comma()) } else { Ok(()) }
    }

    /// Steps over `null`, `true` or `false`.
    #[inline]
    pub fn literal(&mut self, word: &str) -> Parse<()> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        if rest.starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(());
        }
        if word.as_bytes().starts_with(rest) {
            self.at = self.text.len();
        }
        Err(self.unexpected())
    }

    /// Goes one level deeper than `depth` levels.
    #[inline]
    pub fn deeper(&mut self, depth: usize) -> Parse<usize> {
        if depth >= NESTING {
            return Err(Fault::syntax(format!("nesting deeper than {NESTING}")));
        }
        self.at += 1;
        self.blank();
        Ok(depth + 1)
    }

    /// Reads a string; the cursor stands at its first quote.
    #[inline]
    pub fn string(&mut self) -> Parse<Quoted<'a>> {
        let (text, start) = (self.text, self.at + 1);
        if self.peek() != Some(b'"') {
            return Err(self.unexpected());
        }
        let end = special(text, start);
        if text.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(Quoted { raw: text.get(start..end).unwrap_or_default(), escaped: false });
        }
        self.at = end;
        self.escaped_string(start)
    }

    /// Goes on with a string that started at `start`, at something that is not its end.
    #[inline(never)]
    fn escaped_string(&mut self, start: usize) -> Parse<Quoted<'a>> {
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                _ => return Err(self.bad_string()),
            }
            self.at = special(self.text, self.at);
        }
        let raw = self.text.get(start..self.at).unwrap_or_default();
        self.at += 1;
        Ok(Quoted { raw, escaped: true })
    }

    #[cold]
    fn bad_string(&self) -> Box<Fault> {
        if self.peek().is_none() {
            return self.unexpected();
        }
        Fault::syntax(format!("control character in a string at byte {}", self.at))
    }

    /// Steps over one escape, or over both halves of a surrogate pair.
    fn escape(&mut self) -> Parse<()> {
        let start = self.at;
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                let unit = self.unit(start)?;
                let paired = matches!(unit, 0xD800..=0xDBFF)
                    && self.text.get(self.at..).is_some_and(|rest| rest.starts_with(b"\\u"));
                let low = if paired { self.low_half(start)? } else { 0 };
                if matches!(unit, 0xDC00..=0xDFFF) || (matches!(unit, 0xD800..=0xDBFF) && low == 0) {
                    return Err(Fault::syntax(format!("lone surrogate at byte {start}")));
                }
            }
            None => return Err(self.unexpected()),
            Some(_) => return Err(Fault::syntax(format!("invalid escape at byte {start}"))),
        }
        Ok(())
    }

    /// The second half of a surrogate pair, or 0 where another character stands.
    fn low_half(&mut self, start: usize) -> Parse<u32> {
        self.at += 1;
        let unit = self.unit(start)?;
        Ok(if matches!(unit, 0xDC00..=0xDFFF) { unit } else { 0 })
    }

    /// Reads `uXXXX`.
    fn unit(&mut self, start: usize) -> Parse<u32> {
        let Some(digits) = self.text.get(self.at + 1..self.at + 5) else {
            self.at = self.text.len();
            return Err(self.unexpected());
        };
        let unit = hex(digits).ok_or_else(|| Fault::syntax(format!("invalid escape at byte {start}")))?;
        self.at += 5;
        Ok(unit)
    }

    /// Reads a number.
    #[inline]
    pub fn number(&mut self) -> Parse<Number<'a>> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        let first = self.peek();
        let whole = self.digits()?;
        if first == Some(b'0') && whole > 1 {
            return Err(Fault::syntax(format!("number with a leading zero at byte {start}")));
        }
        let mut integer = true;
        if self.peek() == Some(b'.') {
            integer = false;
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            integer = false;
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        let text = self.text.get(start..self.at).unwrap_or_default();
        Ok(Number { text, integer })
    }

    /// Steps over at least one digit and says how many.
    #[inline]
    fn digits(&mut self) -> Parse<usize> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let count = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        self.at += count;
        if count == 0 { Err(self.unexpected()) } else { Ok(count) }
    }

    /// Steps over a value that is neither object nor array.
    fn scalar(&mut self) -> Parse<()> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'n') => self.literal("null"),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'-' | b'0'..=b'9') => self.number().map(|_| ()),
            _ => Err(self.unexpected()),
        }
    }

    /// Steps over a key and its colon.
    pub fn key(&mut self) -> Parse<Quoted<'a>> {
        let key = self.string()?;
        self.colon()?;
        Ok(key)
    }

    /// Steps over a colon and the blanks around it.
    #[inline]
    pub fn colon(&mut self) -> Parse<()> {
        self.blank();
        self.expect(b':')?;
        self.blank();
        Ok(())
    }

    /// Steps over any value below `depth` levels, checking its grammar. Iterative: nesting costs no stack.
    pub fn skip(&mut self, depth: usize) -> Parse<()> {
        let mut objects = [false; NESTING + 1];
        let mut level = depth;
        loop {
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    level = self.deeper(level)?;
                    if let Some(slot) = objects.get_mut(level) {
                        *slot = open == b'{';
                    }
                    // In ASCII both closing brackets stand two behind the opening ones.
                    if self.peek() != Some(open + 2) {
                        if open == b'{' {
                            self.key()?;
                        }
                        continue;
                    }
                    self.at += 1;
                    level -= 1;
                }
                _ => self.scalar()?,
            }
            if self.close(depth, &mut level, &objects)? {
                return Ok(());
            }
        }
    }

    /// Behind a value: closes what closes. True when the value at `depth` is over, false before the next one.
    fn close(&mut self, depth: usize, level: &mut usize, objects: &[bool]) -> Parse<bool> {
        while *level > depth {
            let object = objects.get(*level).copied().unwrap_or_default();
            let closing = if object { b'}' } else { b']' };
            self.blank();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.after_comma(closing)?;
                    if object {
                        self.key()?;
                    }
                    return Ok(false);
                }
                Some(found) if found == closing => {
                    self.at += 1;
                    *level -= 1;
                }
                _ => return Err(self.unexpected()),
            }
        }
        Ok(true)
    }

    /// Steps over the value that stands here and says that it is not what was expected.
    #[cold]
    pub fn mismatch(&mut self, expected: &str, depth: usize) -> Box<Fault> {
        let start = self.at;
        if let Err(fault) = self.skip(depth) {
            return fault;
        }
        let found = describe(self.text.get(start..self.at).unwrap_or_default());
        Fault::misfit(format!("expected {expected}, found {found}"))
    }
}

/// What a well-formed value is, in words.
#[cold]
pub(super) fn describe(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let shown = match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_string(),
    };
    match value.first() {
        Some(b'{') => "an object".to_owned(),
        Some(b'[') => "an array".to_owned(),
        Some(b'"') => format!("the string {shown}"),
        Some(b'-' | b'0'..=b'9') => format!("the number {shown}"),
        _ => shown,
    }
}

/// The first quote, backslash or control character from `at` on, or the end. First by whole blocks, which compile to
/// vector instructions, then eight bytes at a time.
#[inline]
pub(super) fn special(text: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    while let Some(block) = text.get(at..).and_then(|rest| rest.first_chunk::<16>()) {
        // No early exit: that is what makes the loop a few wide comparisons.
        let marked = block.iter().fold(false, |any, byte| any | (*byte == b'"') | (*byte == b'\\') | (*byte < 0x20));
        if marked {
            break;
        }
        at += block.len();
    }
    while let Some(eight) = text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*eight);
        let quote = word ^ (ONES * 0x22);
        let backslash = word ^ (ONES * 0x5C);
        // A borrow can only mark bytes above a true hit, so the lowest mark is always true.
        let marks = (quote.wrapping_sub(ONES) & !quote)
            | (backslash.wrapping_sub(ONES) & !backslash)
            | (word.wrapping_sub(ONES * 0x20) & !word);
        if marks & HIGH != 0 {
            return at + (marks & HIGH).trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while text.get(at).is_some_and(|byte| !matches!(byte, b'"' | b'\\' | 0..=0x1F)) {
        at += 1;
    }
    at
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |unit, digit| Some(unit * 16 + char::from(*digit).to_digit(16)?))
}

/// Appends a string with its escapes resolved. They were found valid when the string was read.
pub(super) fn unescape(raw: &[u8], out: &mut Vec<u8>) {
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(rest.get(..at).unwrap_or_default());
        let code = rest.get(at + 1).copied().unwrap_or_default();
        let mut length = 2;
        match code {
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'u' => {
                let (found, used) = code_point(rest.get(at..).unwrap_or_default());
                out.extend_from_slice(found.encode_utf8(&mut [0; 4]).as_bytes());
                length = used;
            }
            other => out.push(other),
        }
        rest = rest.get(at + length..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
}

/// The character of `\uXXXX` or of a surrogate pair, and how many bytes it takes.
fn code_point(text: &[u8]) -> (char, usize) {
    let high = text.get(2..6).and_then(hex).unwrap_or_default();
    if !matches!(high, 0xD800..=0xDBFF) {
        return (char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER), 6);
    }
    let low = text.get(8..12).and_then(hex).unwrap_or_default();
    let code = 0x10000 + ((high - 0xD800) << 10) + low.wrapping_sub(0xDC00) % 0x400;
    (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 12)
}

/// Appends a value's source text without the white space between its tokens.
pub(super) fn compact(source: &[u8], out: &mut Vec<u8>) {
    let mut rest = source;
    let mut quoted = false;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | b' ' | b'\n' | b'\r' | b'\t')) {
        let found = rest.get(at).copied().unwrap_or_default();
        let keep = quoted || found == b'"';
        // Behind a backslash the next byte is part of the escape, whatever it is.
        let length = if found == b'\\' { 2 } else { 1 };
        quoted ^= found == b'"';
        let end = (at + length).min(rest.len());
        out.extend_from_slice(rest.get(..if keep { end } else { at }).unwrap_or_default());
        rest = rest.get(end..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
}
