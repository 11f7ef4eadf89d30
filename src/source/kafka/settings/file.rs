//! Java's `client.properties`: its lines, as Java itself reads them.
//!
//! Uses `error`. Comments begin with `#` or `!`; a key ends at `=`, `:` or a blank; a backslash at the end goes on in the
//! next line; `\t`, `\n`, `\r`, `\f` and `\uXXXX` are escapes, and any other character behind a backslash is itself.

use std::path::Path;

use crate::error::{Error, Place, Result};

/// One `key=value`.
pub(super) struct Property {
    /// Without escapes.
    pub key: String,
    /// Without escapes.
    pub value: String,
    /// Where the key stands. The value is not quoted: it may be a password.
    pub place: Place,
}

/// Reads a file. Of a key that is there twice the last one counts, as in Java.
pub(super) fn read(path: &Path) -> Result<Vec<Property>> {
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| {
        Error::world(format!("`{shown}` cannot be read: {error}"))
            .hint("mend `kafka.config`; a relative path counts from the project's folder")
            .caused_by(error)
    })?;
    // Java reads Latin-1, people write UTF-8.
    let text = String::from_utf8(bytes)
        .unwrap_or_else(|error| error.as_bytes().iter().map(|byte| char::from(*byte)).collect());
    let mut properties: Vec<Property> = Vec::new();
    for (number, line) in logical_lines(text.trim_start_matches('\u{feff}')) {
        let (key, value) = split(&line);
        let place = |key: &str| Place {
            file: shown.to_string(),
            line: number,
            column: 1,
            text: if is_name(key) { format!("{key}=***") } else { "***".to_owned() },
            width: if is_name(key) { key.chars().count() } else { 1 },
        };
        let unescaped = |text: &str| {
            unescape(text).ok_or_else(|| {
                Error::config("a `\\u` is not followed by four hexadecimal digits")
                    .at(place(key))
                    .hint("write a backslash twice where one is meant")
            })
        };
        let property = Property { key: unescaped(key)?, value: unescaped(value)?, place: place(key) };
        properties.retain(|other| other.key != property.key);
        properties.push(property);
    }
    Ok(properties)
}

/// Whether a key reads like a property's name. A line of a key in PEM that lost its backslash does not, and is not shown.
pub(super) fn is_name(key: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    key.len() <= 80 && key.contains(['.', '_']) && key.chars().all(is_plain)
}

/// Lines put together where a backslash says so, with the number of the first, without comments and blank lines.
fn logical_lines(text: &str) -> Vec<(u64, String)> {
    let mut lines: Vec<(u64, String)> = Vec::new();
    let mut goes_on = false;
    for (number, line) in (1u64..).zip(text.split('\n')) {
        let line = line.trim_end_matches('\r').trim_start_matches([' ', '\t', '\u{c}', '\r']);
        if !goes_on && (line.is_empty() || line.starts_with(['#', '!'])) {
            continue;
        }
        let backslashes = line.len() - line.trim_end_matches('\\').len();
        let has_more = backslashes % 2 == 1;
        let content = &line[..line.len() - usize::from(has_more)];
        match lines.last_mut().filter(|_| goes_on) {
            Some((_, whole)) => whole.push_str(content),
            None => lines.push((number, content.to_owned())),
        }
        goes_on = has_more;
    }
    lines
}

/// The key and the value of a line, still with their escapes.
fn split(line: &str) -> (&str, &str) {
    const BLANKS: [char; 3] = [' ', '\t', '\u{c}'];
    let mut escaped = false;
    let end = line.find(|c: char| {
        let is_end = !escaped && (c == '=' || c == ':' || BLANKS.contains(&c));
        escaped = !escaped && c == '\\';
        is_end
    });
    let (key, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = rest.trim_start_matches(BLANKS);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (key, rest.trim_start_matches(BLANKS))
}

/// Replaces escapes; None where `\u` is malformed.
fn unescape(text: &str) -> Option<String> {
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let c = if c != '\\' {
            c
        } else {
            match chars.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\u{c}',
                Some('u') => {
                    let digits =
                        chars.as_str().get(..4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
                    units.push(u16::from_str_radix(digits, 16).ok()?);
                    chars = chars.as_str().get(4..)?.chars();
                    continue;
                }
                Some(other) => other,
                None => break,
            }
        };
        units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
    }
    // Characters beyond the first plane are two escapes.
    Some(String::from_utf16_lossy(&units))
}
