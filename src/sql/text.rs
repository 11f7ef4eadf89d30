//! The SQL text of one file: where things stand in it, and how it is quoted without showing a secret.
//!
//! Uses `error`, `options` and the search for secrets. Columns count characters, as an editor does; the tokenizer counts the same way.

use std::fmt;
use std::ops::Range;

use datafusion::sql::sqlparser::tokenizer::{Location, Whitespace};

use super::secrets;
use crate::error::Place;
use crate::options::is_harmless;

/// One SQL file, or the text of a command line.
#[derive(Clone, PartialEq, Eq)]
pub struct SqlText {
    /// The file as the user named it, or `-c`.
    pub name: String,
    /// The text, without a byte-order mark.
    pub text: String,
    /// Where each line begins, in bytes.
    lines: Vec<usize>,
    /// Then a character is a byte, and nothing need be counted.
    is_ascii: bool,
    /// What stands between the quotes of values that are secret, in bytes.
    secrets: Vec<Range<usize>>,
}

impl SqlText {
    /// Takes the text of a file in.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text: String = text.into();
        let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let is_ascii = text.is_ascii();
        let mut this = Self { name: name.into(), text, lines, is_ascii, secrets: Vec::new() };
        this.secrets = secrets::find(&this);
        this
    }

    /// The place from `start` up to, and without, `end`. What goes over several lines is underlined in its first.
    pub fn place(&self, start: Location, end: Location) -> Place {
        let start = if start.line == 0 { self.end() } else { start };
        let line = self.line(start.line);
        let text = self.masked(line, |secret| "*".repeat(secret.chars().count()));
        let rest = (text.chars().count() as u64 + 1).saturating_sub(start.column);
        let width = if end.line == start.line { end.column.saturating_sub(start.column) } else { rest };
        Place {
            file: self.name.clone(),
            line: start.line,
            column: start.column,
            text,
            width: usize::try_from(width).unwrap_or(1).max(1),
        }
    }

    /// The place of a range of bytes.
    pub fn place_of(&self, range: Range<usize>) -> Place {
        self.place(self.location(range.start), self.location(range.end))
    }

    /// The text from `start` up to `end`, as it was written.
    pub fn slice(&self, start: Location, end: Location) -> &str {
        self.text.get(self.offset(start)..self.offset(end)).unwrap_or_default()
    }

    /// As [`Self::slice`], with stars where a secret stands.
    pub fn quote(&self, start: Location, end: Location) -> String {
        self.hidden(self.offset(start)..self.offset(end))
    }

    /// The bytes of a range as text, with three stars where a secret stands, however long it is.
    pub fn hidden(&self, range: Range<usize>) -> String {
        self.masked(range, |_| "***".to_owned())
    }

    /// Whether anything in it must not be shown.
    pub fn has_secrets(&self) -> bool {
        !self.secrets.is_empty()
    }

    fn masked(&self, range: Range<usize>, mask: impl Fn(&str) -> String) -> String {
        let mut shown = String::new();
        let mut done = range.start;
        for secret in self.secrets.iter().filter(|secret| secret.start < range.end && secret.end > range.start) {
            let (start, end) = (secret.start.max(done), secret.end.min(range.end).max(done));
            shown.push_str(self.text.get(done..start).unwrap_or_default());
            shown.push_str(&self.text.get(start..end).map(&mask).unwrap_or_default());
            done = end;
        }
        shown.push_str(self.text.get(done..range.end).unwrap_or_default());
        shown
    }

    /// Where a location is, in bytes from the start of the text. Behind the end is the end.
    pub fn offset(&self, location: Location) -> usize {
        let Some(line) = location.line.checked_sub(1).and_then(|line| self.lines.get(line as usize)) else {
            return self.text.len();
        };
        let skip = location.column.saturating_sub(1) as usize;
        if self.is_ascii {
            return (line + skip).min(self.text.len());
        }
        self.text[*line..].char_indices().nth(skip).map_or(self.text.len(), |(at, _)| line + at)
    }

    /// The line and column of a byte.
    pub fn location(&self, offset: usize) -> Location {
        let line = self.lines.partition_point(|start| *start <= offset).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or(0);
        let column = self.text.get(start..offset).map_or(0, |text| text.chars().count());
        Location { line: line as u64, column: column as u64 + 1 }
    }

    /// Behind the last character.
    pub fn end(&self) -> Location {
        self.location(self.text.len())
    }

    /// The bytes of a line, counted from 1, without its line end.
    fn line(&self, line: u64) -> Range<usize> {
        let at = |line: u64| usize::try_from(line).ok().and_then(|line| self.lines.get(line)).copied();
        let start = at(line.saturating_sub(1)).unwrap_or(self.text.len());
        let end = at(line).map_or(self.text.len(), |next| next - 1);
        let end = if self.text[start..end].ends_with('\r') { end - 1 } else { end };
        start..end
    }
}

impl fmt::Debug for SqlText {
    /// Without the text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlText").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The text of a comment token, without its marks.
pub(super) fn comment_text(space: &Whitespace) -> Option<String> {
    let lines = match space {
        Whitespace::SingleLineComment { comment, .. } => return Some(comment.trim().to_owned()),
        Whitespace::MultiLineComment(comment) => comment.trim(),
        _ => return None,
    };
    Some(lines.lines().map(|line| line.trim().trim_start_matches('*').trim()).collect::<Vec<_>>().join("\n"))
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub place: Place,
}

/// A name and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Folded to lower case unless it was quoted.
    pub value: String,
    /// Where it was written.
    pub place: Place,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.value)
    }
}

/// An option or a property: a key with its value as text.
#[derive(Clone, PartialEq, Eq)]
pub struct OptionPair {
    /// As it was written; keys are compared without case.
    pub key: Spanned<String>,
    /// The text of a string, number or boolean.
    pub value: Spanned<String>,
}

impl fmt::Debug for OptionPair {
    /// Without a value that may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = if is_harmless(&self.key.value) { &self.value.value } else { "***" };
        write!(f, "{:?} = {value:?}", self.key.value)
    }
}
