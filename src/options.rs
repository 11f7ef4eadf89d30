//! Options of sources and properties of tables: taken one by one; what is left over is the error.
//!
//! Floor 2: uses `error` only. A reader asks for each option that it knows; [`Options::finish`] then refuses the first
//! that nobody asked for and names the nearest that somebody did.

use crate::error::{Error, Place, Result, nearest};

/// One option as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionPair {
    /// The key, as written.
    pub key: String,
    /// The value's text: a string's content, a number's digits, `true` or `false`.
    pub value: String,
    /// Where the key stands.
    pub key_place: Place,
    /// Where the value stands.
    pub value_place: Place,
}

/// Options not yet taken. Keys are matched whatever their case.
#[derive(Debug, Clone)]
pub struct Options {
    pairs: Vec<OptionPair>,
    known: Vec<String>,
}

impl Options {
    /// All options of a statement. The same key twice is an error.
    pub fn new(pairs: Vec<OptionPair>) -> Result<Self> {
        for (index, pair) in pairs.iter().enumerate() {
            if pairs[..index].iter().any(|other| other.key.eq_ignore_ascii_case(&pair.key)) {
                return Err(Error::sql(format!("option `{}` is given twice", pair.key))
                    .at(pair.key_place.clone())
                    .hint("remove one of the two"));
            }
        }
        Ok(Self { pairs, known: Vec::new() })
    }

    /// Takes an option out, whatever the case of its key.
    pub fn take(&mut self, key: &str) -> Option<OptionPair> {
        self.known.push(key.to_owned());
        let index = self.pairs.iter().position(|pair| pair.key.eq_ignore_ascii_case(key))?;
        Some(self.pairs.remove(index))
    }

    /// Takes every option whose key begins with a prefix: a family that is too large to list.
    pub fn take_family(&mut self, prefix: &str) -> Vec<OptionPair> {
        self.known.push(format!("{prefix}*"));
        let begins = |pair: &mut OptionPair| pair.key.to_ascii_lowercase().starts_with(prefix);
        self.pairs.extract_if(.., begins).collect()
    }

    /// Takes an option that is true or false.
    pub fn take_bool(&mut self, key: &str) -> Result<Option<bool>> {
        self.take(key).map(|pair| parse_bool(&pair)).transpose()
    }

    /// Takes an option that is a whole number of at least 1.
    pub fn take_count(&mut self, key: &str) -> Result<Option<u64>> {
        let Some(pair) = self.take(key) else { return Ok(None) };
        match pair.value.parse::<u64>() {
            Ok(number) if number > 0 => Ok(Some(number)),
            _ => Err(wrong_value(&pair, "a whole number of at least 1")),
        }
    }

    /// Takes an option that is one of a few words; the answer is the word's index.
    pub fn take_word(&mut self, key: &str, words: &[&'static str]) -> Result<Option<usize>> {
        let Some(pair) = self.take(key) else { return Ok(None) };
        match words.iter().position(|word| word.eq_ignore_ascii_case(&pair.value)) {
            Some(index) => Ok(Some(index)),
            None => Err(wrong_value(&pair, &format!("one of {}", words.join(", ")))),
        }
    }

    /// Refuses what nobody took.
    pub fn finish(self, of: &str) -> Result<()> {
        let Some(pair) = self.pairs.into_iter().next() else { return Ok(()) };
        let error = Error::config(format!("{of} has no option `{}`", pair.key)).at(pair.key_place);
        Err(match nearest(&pair.key, self.known.iter().map(String::as_str)) {
            Some(name) => error.hint(format!("did you mean `{name}`?")),
            None => error.hint(format!("the options are {}", self.known.join(", "))),
        })
    }
}

/// An option has a value that it cannot have.
pub fn wrong_value(pair: &OptionPair, expected: &str) -> Error {
    Error::config(format!("option `{}` is `{}`, which is not {expected}", pair.key, pair.value))
        .at(pair.value_place.clone())
        .hint(format!("give {expected}"))
}

fn parse_bool(pair: &OptionPair) -> Result<bool> {
    match pair.value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(wrong_value(pair, "true or false")),
    }
}
