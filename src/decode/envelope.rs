//! Records that are wrapped in something else: the objects that REST proxies, sinks and careless producers send.
//!
//! Uses the parser only. The grammar of the whole payload is checked first; then the rows in it are found. Either all
//! of them are found or the payload is refused, with what was missing.

use std::borrow::Cow;
use std::ops::Range;

use super::parse::{Cursor, Fault, Parse, describe, unescape};
use super::start;

/// How many envelopes may lie in each other. Each costs a look at all that it holds.
const MOST_WRAPPERS: usize = 16;

/// What the rows are wrapped in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Envelope {
    /// Nothing: the payload is the row.
    #[default]
    None,
    /// `{"value":{…}}`, `[{"value":{…}}]`, `{"records":[{"value":{…}}]}`, or a string that holds JSON; what looks otherwise
    /// is the row itself.
    Auto,
    /// The object at this path, or the objects in the array there.
    Path(Vec<String>),
}

/// The rows of a payload.
pub(super) struct Unwrapped<'a> {
    /// The payload, or what the string in it held.
    pub text: Cow<'a, [u8]>,
    /// Where the rows stand in the text, ascending; each is an object.
    pub rows: Vec<Range<usize>>,
}

impl Envelope {
    /// A cheap look whether a payload must be unwrapped.
    #[inline]
    pub(super) fn may_wrap(&self, payload: &[u8]) -> bool {
        match self {
            Self::None => false,
            Self::Path(_) => true,
            Self::Auto => looks_wrapped(payload),
        }
    }
}

fn looks_wrapped(payload: &[u8]) -> bool {
    let mut cursor = Cursor::new(payload);
    if start(&mut cursor).is_err() {
        return false;
    }
    match cursor.peek() {
        Some(b'[' | b'"') => true,
        Some(b'{') => {
            cursor.at += 1;
            cursor.blank();
            let rest = payload.get(cursor.at..).unwrap_or_default();
            rest.starts_with(b"\"value\"") || rest.starts_with(b"\"records\"")
        }
        _ => false,
    }
}

/// Finds the rows of a payload, which is valid UTF-8.
pub(super) fn unwrap<'a>(payload: &'a [u8], envelope: &Envelope) -> Parse<Unwrapped<'a>> {
    let mut text = Cow::Borrowed(payload);
    loop {
        let at = check(&text)?;
        let mut rows = Vec::new();
        match envelope {
            Envelope::Path(path) => by_path(&text, at, path, &mut rows)?,
            _ if text.get(at) == Some(&b'"') => {
                text = Cow::Owned(decode_string(&text, at)?);
                continue;
            }
            _ => by_shape(&text, at, 0, &mut rows)?,
        }
        return Ok(Unwrapped { text, rows });
    }
}

/// Checks the grammar of a whole text and gives the place of its value.
fn check(text: &[u8]) -> Parse<usize> {
    let mut cursor = Cursor::new(text);
    start(&mut cursor)?;
    let at = cursor.at;
    cursor.skip(0)?;
    cursor.end()?;
    Ok(at)
}

/// The text in a string, which must be JSON again.
fn decode_string(text: &[u8], at: usize) -> Parse<Vec<u8>> {
    let mut cursor = Cursor::new(text);
    cursor.at = at;
    let quoted = cursor.string()?;
    let mut inside = Vec::with_capacity(quoted.raw.len());
    unescape(quoted.raw, &mut inside);
    match check(&inside) {
        Ok(_) => Ok(inside),
        Err(fault) => Err(Fault::syntax(format!("a string whose text is not JSON: {}", fault.reason()))),
    }
}

/// Unwraps what has the shape of an envelope.
fn by_shape(text: &[u8], at: usize, wrappers: usize, rows: &mut Vec<Range<usize>>) -> Parse<()> {
    if wrappers > MOST_WRAPPERS {
        return Err(Fault::syntax(format!("more than {MOST_WRAPPERS} envelopes in each other")));
    }
    let elements = match text.get(at) {
        Some(b'{') => {
            if let Some(inside) = sole_member(text, at, b"value", b'{')? {
                return by_shape(text, inside, wrappers + 1, rows);
            }
            match sole_member(text, at, b"records", b'[')? {
                Some(list) => wrapped_elements(text, list)?,
                None => None,
            }
        }
        Some(b'[') => Some(wrapped_elements(text, at)?.ok_or_else(|| not_wrapped(text, at))?),
        _ => return Err(not_an_object(text, at)),
    };
    let Some(elements) = elements else {
        rows.push(value_range(text, at)?);
        return Ok(());
    };
    if elements.is_empty() {
        return Err(Fault::syntax("an envelope without records"));
    }
    elements.into_iter().try_for_each(|element| by_shape(text, element, wrappers + 1, rows))
}

/// The objects inside the elements of an array, if every element is `{"value":{…}}`.
fn wrapped_elements(text: &[u8], at: usize) -> Parse<Option<Vec<usize>>> {
    elements(text, at)?.into_iter().map(|element| sole_member(text, element, b"value", b'{')).collect()
}

/// The value of the only member of an object, if it has this key and begins with this byte.
fn sole_member(text: &[u8], at: usize, key: &[u8], opening: u8) -> Parse<Option<usize>> {
    let mut cursor = Cursor::new(text);
    cursor.at = at + 1;
    cursor.blank();
    if text.get(at) != Some(&b'{') || cursor.peek() != Some(b'"') || cursor.key()?.raw != key {
        return Ok(None);
    }
    let value = cursor.at;
    if cursor.peek() != Some(opening) {
        return Ok(None);
    }
    cursor.skip(0)?;
    cursor.blank();
    Ok((cursor.peek() == Some(b'}')).then_some(value))
}

/// Takes the object, or the objects of the array, at a path.
fn by_path(text: &[u8], at: usize, path: &[String], rows: &mut Vec<Range<usize>>) -> Parse<()> {
    let mut at = at;
    for (depth, name) in path.iter().enumerate() {
        let here = path.get(..=depth).unwrap_or_default().join(".");
        at = member(text, at, name)?.ok_or_else(|| Fault::syntax(format!("nothing at `{here}`")))?;
    }
    let path = path.join(".");
    let found = match text.get(at) {
        Some(b'[') => elements(text, at)?,
        _ => vec![at],
    };
    if found.is_empty() {
        return Err(Fault::syntax(format!("no records at `{path}`")));
    }
    for at in found {
        if text.get(at) != Some(&b'{') {
            return Err(Fault::syntax(format!("at `{path}`: {}", not_an_object(text, at).reason())));
        }
        rows.push(value_range(text, at)?);
    }
    Ok(())
}

/// The last value of a key in an object; a key that is exactly the name goes before one in another case.
fn member(text: &[u8], at: usize, name: &str) -> Parse<Option<usize>> {
    if text.get(at) != Some(&b'{') {
        return Ok(None);
    }
    let mut cursor = Cursor::new(text);
    cursor.at = at + 1;
    cursor.blank();
    let (mut exact, mut folded) = (None, None);
    while cursor.peek() == Some(b'"') {
        let mut key = Vec::new();
        unescape(cursor.key()?.raw, &mut key);
        if key == name.as_bytes() {
            exact = Some(cursor.at);
        } else if String::from_utf8_lossy(&key).to_lowercase() == name.to_lowercase() {
            folded = Some(cursor.at);
        }
        next(&mut cursor)?;
    }
    Ok(exact.or(folded))
}

/// Where the elements of an array stand.
fn elements(text: &[u8], at: usize) -> Parse<Vec<usize>> {
    let mut cursor = Cursor::new(text);
    cursor.at = at + 1;
    cursor.blank();
    let mut found = Vec::new();
    while cursor.peek().is_some_and(|byte| byte != b']') {
        found.push(cursor.at);
        next(&mut cursor)?;
    }
    Ok(found)
}

/// Steps over a value and over the comma behind it, to the next key, element or closing bracket.
fn next(cursor: &mut Cursor<'_>) -> Parse<()> {
    cursor.skip(0)?;
    cursor.blank();
    if cursor.peek() == Some(b',') {
        cursor.at += 1;
        cursor.blank();
    }
    Ok(())
}

fn value_range(text: &[u8], at: usize) -> Parse<Range<usize>> {
    let mut cursor = Cursor::new(text);
    cursor.at = at;
    cursor.skip(0)?;
    Ok(at..cursor.at)
}

fn not_an_object(text: &[u8], at: usize) -> Box<Fault> {
    let value = value_range(text, at).map(|range| text.get(range).unwrap_or_default());
    Fault::syntax(format!("expected an object, found {}", describe(value.unwrap_or_default())))
}

/// An array whose elements are no envelopes: names the first that is not.
fn not_wrapped(text: &[u8], at: usize) -> Box<Fault> {
    let elements = elements(text, at).unwrap_or_default();
    let bare =
        elements.into_iter().position(|element| !matches!(sole_member(text, element, b"value", b'{'), Ok(Some(_))));
    Fault::syntax(format!("element {} of the array is not `{{\"value\":{{…}}}}`", bare.unwrap_or_default()))
}
