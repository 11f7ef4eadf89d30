//! Which column a key belongs to, learnt from the records before.
//!
//! Uses the parser only. Records of one stream have their keys in one order, so every key remembers which key came
//! behind it the last time; that guess costs one comparison. A wrong guess costs a look-up and corrects the memory.

use std::collections::HashMap;

use super::parse::{Cursor, Parse, Quoted, unescape};

/// How many keys are remembered at most, and how long they may be: foreign records must not fill the memory.
const MOST_KEYS: usize = 4096;
const LONGEST_KEY: usize = 256;

/// A column that a key stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Match {
    /// The column's index.
    pub field: usize,
    /// Whether the key is the column's name as it stands, not only but for upper and lower case.
    pub exact: bool,
}

/// How much of a key is compared in one go, without a loop.
const HEAD: usize = 24;

/// A key that was seen, with its quotes and the colon, as it nearly always stands.
struct Entry {
    /// Its first bytes as words, and which bits of them count.
    head: [u64; HEAD / 8],
    mask: [u64; HEAD / 8],
    /// All of it.
    quoted: Vec<u8>,
    found: Option<Match>,
    /// The entry that came behind this one the last time; 0 is none.
    next: usize,
}

impl Entry {
    fn new(quoted: Vec<u8>, found: Option<Match>) -> Self {
        let mut head = [0; HEAD];
        let mut mask = [0; HEAD];
        for (at, byte) in quoted.iter().take(HEAD).enumerate() {
            head[at] = *byte;
            mask[at] = u8::MAX;
        }
        Self { head: words(&head), mask: words(&mask), quoted, found, next: 0 }
    }

    /// Whether the text starts with this key.
    #[inline]
    fn starts(&self, text: &[u8]) -> bool {
        let Some(head) = text.first_chunk::<HEAD>() else { return text.starts_with(&self.quoted) };
        let head = words(head);
        let differ = (0..HEAD / 8).fold(0, |differ, at| differ | ((head[at] ^ self.head[at]) & self.mask[at]));
        differ == 0 && (self.quoted.len() <= HEAD || text.starts_with(&self.quoted))
    }
}

fn words(bytes: &[u8; HEAD]) -> [u64; HEAD / 8] {
    let mut words = [0; HEAD / 8];
    for (word, eight) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*eight);
    }
    words
}

/// The keys of one kind of object.
pub(super) struct Keys {
    /// The first entry stands for the start of the object.
    entries: Vec<Entry>,
    seen: HashMap<Vec<u8>, usize>,
    exact: HashMap<String, usize>,
    folded: HashMap<String, usize>,
}

impl Keys {
    /// Keys for columns by these names; a name of None is matched by no key.
    pub fn new<'n>(names: impl Iterator<Item = Option<&'n str>>) -> Self {
        let mut exact = HashMap::new();
        let mut folded = HashMap::new();
        for (field, name) in names.enumerate() {
            let Some(name) = name else { continue };
            exact.entry(name.to_owned()).or_insert(field);
            folded.entry(name.to_lowercase()).or_insert(field);
        }
        let start = Entry::new(Vec::new(), None);
        Self { entries: vec![start], seen: HashMap::new(), exact, folded }
    }

    /// Reads a key and its colon. Gives the column, and the entry that `previous` is for the next key (0 at the start).
    #[inline]
    pub fn read(&mut self, cursor: &mut Cursor<'_>, previous: usize) -> Parse<(usize, Option<Match>)> {
        let guess = self.entries.get(previous).map_or(0, |entry| entry.next);
        if let Some(entry) = self.entries.get(guess)
            && guess != 0
            && entry.starts(cursor.text.get(cursor.at..).unwrap_or_default())
        {
            cursor.at += entry.quoted.len();
            cursor.blank();
            return Ok((guess, entry.found));
        }
        self.look_up(cursor, previous)
    }

    fn look_up(&mut self, cursor: &mut Cursor<'_>, previous: usize) -> Parse<(usize, Option<Match>)> {
        let key = cursor.key()?;
        let known = self.seen.get(key.raw).copied();
        let (entry, found) = match known {
            Some(known) => (known, self.entries.get(known).and_then(|entry| entry.found)),
            None => self.learn(key),
        };
        if let Some(before) = self.entries.get_mut(previous)
            && entry != 0
        {
            before.next = entry;
        }
        Ok((entry, found))
    }

    fn learn(&mut self, key: Quoted<'_>) -> (usize, Option<Match>) {
        let found = self.find(key);
        if self.entries.len() > MOST_KEYS || key.raw.len() > LONGEST_KEY {
            return (0, found);
        }
        let mut quoted = Vec::with_capacity(key.raw.len() + 3);
        quoted.push(b'"');
        quoted.extend_from_slice(key.raw);
        quoted.extend_from_slice(b"\":");
        self.entries.push(Entry::new(quoted, found));
        self.seen.insert(key.raw.to_vec(), self.entries.len() - 1);
        (self.entries.len() - 1, found)
    }

    fn find(&self, key: Quoted<'_>) -> Option<Match> {
        let mut plain = Vec::with_capacity(key.raw.len());
        unescape(key.raw, &mut plain);
        let name = String::from_utf8_lossy(&plain);
        if let Some(field) = self.exact.get(name.as_ref()) {
            return Some(Match { field: *field, exact: true });
        }
        self.folded.get(&name.to_lowercase()).map(|field| Match { field: *field, exact: false })
    }
}
