//! The text of one object, in chunks, into records.
//!
//! Uses the probe and the scanner. Records are ranges of the chunks they came in; only one that crosses from chunk to
//! chunk is copied together. Every byte is looked at once to frame it (twice until the layout is decided), memory is
//! bounded by the longest record that is allowed, and the records do not depend on where the chunks were cut.

use bytes::Bytes;

use super::probe::{Layout, Probe, is_blank};
use super::scan::{Found, Scanner};

/// How much is kept of a record that is too long.
const KEPT: usize = 64 * 1024;

/// Chunks are cut so that places in them fit 32 bits.
const LONGEST_CHUNK: usize = 1 << 30;

const MARK: &[u8] = b"\xEF\xBB\xBF";

/// Some bytes and the records in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The bytes; shared with the chunk, if no record crossed into it.
    pub bytes: Bytes,
    /// The records in order.
    pub records: Vec<Frame>,
}

/// One record in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Where it starts.
    pub offset: u32,
    /// How long it is, or how much of it is kept.
    pub len: u32,
    /// For a record that is longer than allowed its full length; only its first 64 KB are kept.
    pub too_long: Option<u64>,
}

/// Cuts one object into records. Push its chunks, then finish.
pub struct Framer {
    state: State,
    cut: Cut,
    /// How much of a byte-order mark has been met; 3 when that question is closed.
    mark: usize,
}

enum State {
    Open { probe: Box<Probe>, held: Vec<Bytes> },
    Lines,
    Values(Box<Values>),
}

impl Framer {
    /// A framer. `multi_line` false: every line is a record; true: line ends mean nothing; None: the object decides.
    pub fn new(multi_line: Option<bool>, max_record_bytes: usize) -> Self {
        let state = match multi_line {
            Some(false) => State::Lines,
            Some(true) => State::Values(Box::new(Values::new())),
            None => State::Open { probe: Box::new(Probe::new(max_record_bytes.max(1))), held: Vec::new() },
        };
        Self { state, cut: Cut::new(max_record_bytes), mark: 0 }
    }

    /// Takes the next chunk; gives the records that are complete.
    pub fn push(&mut self, chunk: Bytes) -> Vec<Block> {
        let mut chunk = chunk;
        if self.mark < MARK.len() {
            chunk = self.skip_mark(chunk);
        }
        while chunk.len() > LONGEST_CHUNK {
            let piece = chunk.split_to(LONGEST_CHUNK);
            self.advance(piece);
        }
        self.advance(chunk);
        self.cut.blocks()
    }

    /// The object is over: gives what is left.
    pub fn finish(&mut self) -> Vec<Block> {
        self.not_a_mark();
        if let State::Open { probe, .. } = &self.state
            && !probe.is_blank()
        {
            let layout = probe.finish();
            self.decide(layout);
        }
        if self.cut.open() {
            self.cut.end_object();
        }
        self.cut.blocks()
    }

    /// Takes the byte-order mark off, of which the first bytes may have come in an earlier chunk.
    fn skip_mark(&mut self, mut chunk: Bytes) -> Bytes {
        while let (Some(expected), Some(byte)) = (MARK.get(self.mark), chunk.first()) {
            if expected != byte {
                self.not_a_mark();
                return chunk;
            }
            let _ = chunk.split_to(1);
            self.mark += 1;
        }
        chunk
    }

    /// The bytes taken for a mark were none, if it did not become whole.
    fn not_a_mark(&mut self) {
        let met = if self.mark < MARK.len() { self.mark } else { 0 };
        self.mark = MARK.len();
        if let Some(bytes @ [_, ..]) = MARK.get(..met) {
            self.advance(Bytes::from_static(bytes));
        }
    }

    fn advance(&mut self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        match &mut self.state {
            State::Open { probe, held } => {
                let layout = probe.feed(&chunk);
                if !probe.is_blank() {
                    held.push(chunk);
                }
                if let Some(layout) = layout {
                    self.decide(layout);
                }
            }
            State::Lines => self.cut.chunk(chunk, lines),
            State::Values(values) => self.cut.chunk(chunk, |cut, bytes| values.frame(cut, bytes)),
        }
    }

    /// The layout is known: frames what was held until now.
    fn decide(&mut self, layout: Layout) {
        let state = match layout {
            Layout::Lines => State::Lines,
            Layout::Values => State::Values(Box::new(Values::new())),
        };
        if let State::Open { held, .. } = std::mem::replace(&mut self.state, state) {
            held.into_iter().for_each(|chunk| self.advance(chunk));
        }
    }
}

/// What has been cut out of the chunks.
struct Cut {
    most: usize,
    /// Where the open record starts in the present chunk; 0 if it came from an earlier one.
    start: Option<usize>,
    /// What earlier chunks hold of the open record, as far as it is kept, and how long that is.
    before: Vec<u8>,
    before_len: u64,
    /// How many blanks stand at its end.
    before_blanks: u64,
    /// The last byte of the chunk before.
    last: u8,
    frames: Vec<Frame>,
    done: Vec<Block>,
    chunk: Bytes,
}

impl Cut {
    fn new(most: usize) -> Self {
        Self {
            most,
            start: None,
            before: Vec::new(),
            before_len: 0,
            before_blanks: 0,
            last: b'\n',
            frames: Vec::new(),
            done: Vec::new(),
            chunk: Bytes::new(),
        }
    }

    /// Runs a framer over a chunk and keeps what stays open at its end.
    fn chunk(&mut self, chunk: Bytes, mut framer: impl FnMut(&mut Self, &[u8])) {
        self.chunk = chunk.clone();
        framer(self, &chunk);
        if let Some(start) = self.start {
            self.keep(chunk.get(start..).unwrap_or_default());
            self.start = Some(0);
        }
        self.last = chunk.last().copied().unwrap_or(self.last);
        self.close_block();
        self.chunk = Bytes::new();
    }

    fn open(&self) -> bool {
        self.start.is_some()
    }

    fn begin(&mut self, at: usize) {
        self.start = Some(at);
    }

    /// The byte before this place.
    fn byte_before(&self, bytes: &[u8], at: usize) -> u8 {
        at.checked_sub(1).and_then(|before| bytes.get(before)).copied().unwrap_or(self.last)
    }

    /// The open record ends before this place. White space at its end is not part of it.
    fn end(&mut self, at: usize) {
        let Some(start) = self.start.take() else { return };
        if self.before_len > 0 {
            let chunk = self.chunk.clone();
            self.keep(chunk.get(start..at).unwrap_or_default());
            return self.end_copied();
        }
        let record = self.chunk.get(start..at).unwrap_or_default();
        let frame = frame(start, record, record.len() as u64, blanks(record), self.most);
        self.frames.push(frame);
    }

    /// The object is over, and with it the open record.
    fn end_object(&mut self) {
        self.start = None;
        self.end_copied();
    }

    /// Ends a record that was copied together: it has a block of its own.
    fn end_copied(&mut self) {
        self.close_block();
        let bytes = std::mem::take(&mut self.before);
        let frame =
            frame(0, &bytes, std::mem::take(&mut self.before_len), std::mem::take(&mut self.before_blanks), self.most);
        let mut bytes = Bytes::from(bytes);
        bytes.truncate(frame.len as usize);
        self.done.push(Block { bytes, records: vec![frame] });
    }

    /// Copies a part of the open record, as long as the record is not too long.
    fn keep(&mut self, part: &[u8]) {
        let room = KEPT.max(self.most);
        self.before_len += part.len() as u64;
        let blanks = blanks(part);
        self.before_blanks = if blanks == part.len() as u64 { self.before_blanks + blanks } else { blanks };
        if self.before_len <= room as u64 {
            self.before.extend_from_slice(part);
            return;
        }
        let missing = KEPT.saturating_sub(self.before.len());
        self.before.extend_from_slice(part.get(..missing).unwrap_or(part));
        if self.before.len() > KEPT {
            self.before.truncate(KEPT);
            self.before.shrink_to_fit();
        }
    }

    fn close_block(&mut self) {
        if !self.frames.is_empty() {
            let records = std::mem::take(&mut self.frames);
            self.done.push(Block { bytes: self.chunk.clone(), records });
        }
    }

    fn blocks(&mut self) -> Vec<Block> {
        std::mem::take(&mut self.done)
    }
}

/// The frame of a record of this full length with so many blanks at its end, of which `record` is what was kept.
fn frame(start: usize, record: &[u8], full: u64, blanks: u64, most: usize) -> Frame {
    let (len, too_long) = if full > most as u64 {
        (record.len().min(KEPT), Some(full - blanks))
    } else {
        (record.len() - blanks as usize, None)
    };
    Frame { offset: start as u32, len: len as u32, too_long }
}

/// How many blanks stand at the end.
fn blanks(text: &[u8]) -> u64 {
    text.iter().rev().take_while(|byte| is_blank(**byte)).count() as u64
}

/// Frames lines; a blank one is no record.
fn lines(cut: &mut Cut, bytes: &[u8]) {
    let mut at = 0;
    while at < bytes.len() {
        let rest = bytes.get(at..).unwrap_or_default();
        if cut.open() {
            let Some(length) = memchr::memchr(b'\n', rest) else { return };
            cut.end(at + length);
            at += length + 1;
        } else {
            let Some(blanks) = rest.iter().position(|byte| !is_blank(*byte)) else { return };
            at += blanks;
            cut.begin(at);
        }
    }
}

/// Frames values, whatever the lines.
struct Values {
    place: Place,
    scanner: Scanner,
    in_array: bool,
    /// In a broken element: how many brackets are open in it, and whether a string is.
    open: u64,
    quoted: bool,
    escaped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Between,
    Inside,
    /// Behind an element of the array at the top, before its comma.
    Behind,
    /// In what is no value.
    Broken,
}

impl Values {
    fn new() -> Self {
        let scanner = Scanner::new();
        Self { place: Place::Between, scanner, in_array: false, open: 0, quoted: false, escaped: false }
    }

    fn frame(&mut self, cut: &mut Cut, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            at = match self.place {
                Place::Between => self.between(cut, bytes, at),
                Place::Inside => self.inside(cut, bytes, at),
                Place::Behind => self.behind(cut, bytes, at),
                Place::Broken if self.in_array => self.broken_element(cut, bytes, at),
                Place::Broken => self.broken(cut, bytes, at),
            };
        }
    }

    fn between(&mut self, cut: &mut Cut, bytes: &[u8], at: usize) -> usize {
        match bytes.get(at) {
            Some(byte) if is_blank(*byte) => at + 1,
            Some(b',') if self.in_array => at + 1,
            Some(b']') if self.in_array => {
                self.in_array = false;
                at + 1
            }
            Some(b'[') if !self.in_array => {
                self.in_array = true;
                at + 1
            }
            _ => {
                cut.begin(at);
                self.scanner = Scanner::new();
                self.place = Place::Inside;
                at
            }
        }
    }

    fn inside(&mut self, cut: &mut Cut, bytes: &[u8], at: usize) -> usize {
        match self.scanner.feed(bytes, at) {
            Found::More => bytes.len(),
            Found::End(end) => {
                self.value_over(cut, end);
                end
            }
            Found::Error(end) => {
                self.broken_from(self.scanner.closed_by(bytes.get(end).copied().unwrap_or_default()));
                end
            }
        }
    }

    fn value_over(&mut self, cut: &mut Cut, end: usize) {
        if self.in_array {
            self.place = Place::Behind;
        } else {
            cut.end(end);
            self.place = Place::Between;
        }
    }

    fn behind(&mut self, cut: &mut Cut, bytes: &[u8], at: usize) -> usize {
        match bytes.get(at) {
            Some(byte) if is_blank(*byte) => return at + 1,
            Some(b',' | b']') => {
                cut.end(at);
                self.place = Place::Between;
            }
            _ => self.broken_from(0),
        }
        at
    }

    fn broken_from(&mut self, open: u64) {
        self.place = Place::Broken;
        self.open = open;
        self.quoted = false;
        self.escaped = false;
    }

    /// What is broken reaches to the next line that begins like a record.
    fn broken(&mut self, cut: &mut Cut, bytes: &[u8], at: usize) -> usize {
        if self.line_begins(cut, bytes, at) {
            return at;
        }
        let rest = bytes.get(at..).unwrap_or_default();
        memchr::memchr(b'\n', rest).map_or(bytes.len(), |newline| at + newline + 1)
    }

    /// At such a line: ends the broken record there.
    fn line_begins(&mut self, cut: &mut Cut, bytes: &[u8], at: usize) -> bool {
        let begins = matches!(bytes.get(at), Some(b'{' | b'[')) && cut.byte_before(bytes, at) == b'\n';
        if begins {
            cut.end(at);
            self.place = Place::Between;
        }
        begins
    }

    /// A broken element reaches to such a line too, or to the comma or bracket behind it.
    fn broken_element(&mut self, cut: &mut Cut, bytes: &[u8], at: usize) -> usize {
        if self.line_begins(cut, bytes, at) {
            return at;
        }
        let byte = bytes.get(at).copied().unwrap_or_default();
        if self.quoted {
            self.quoted = byte != b'\n' && (self.escaped || byte != b'"');
            self.escaped = byte == b'\\' && !self.escaped;
            return at + 1;
        }
        match byte {
            b'"' => self.quoted = true,
            b'{' | b'[' => self.open += 1,
            b',' | b']' if self.open == 0 => {
                cut.end(at);
                self.place = Place::Between;
                return at;
            }
            b'}' | b']' => self.open = self.open.saturating_sub(1),
            _ => {}
        }
        at + 1
    }
}
