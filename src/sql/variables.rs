//! `${NAME}` and `${NAME:-default}`: found in the text, replaced inside tokens.
//!
//! Uses `error` and the text. A value never becomes SQL: it ends up inside the one token that its reference stands in.
//! References between tokens are masked by a name of the same length before the text is tokenized, so that the default's
//! characters cannot be read as tokens and every position stays that of the file.

use std::ops::Range;

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Word};

use super::text::SqlText;
use crate::error::{Error, Result, nearest};

/// Where the values come from.
pub struct Variables<'a> {
    /// The value of a name, if it is set.
    pub lookup: &'a dyn Fn(&str) -> Option<String>,
    /// Names that are set, for "did you mean".
    pub known: &'a [String],
}

impl Variables<'static> {
    /// No variable is set; defaults still count.
    pub fn none() -> Self {
        Self { lookup: &|_| None, known: &[] }
    }
}

/// One `${…}`.
struct Reference {
    name: String,
    default: Option<String>,
    /// With `${` and `}`.
    range: Range<usize>,
}

/// The text with every reference that stands between tokens made a name of the same length, and where they are.
pub(super) fn mask(text: &SqlText) -> Result<(String, Vec<Range<usize>>)> {
    let mut masked = String::with_capacity(text.text.len());
    let mut ranges = Vec::new();
    let mut done = 0;
    for at in bare_references(&text.text) {
        let range = reference_at(text, at)?.range;
        masked.push_str(&text.text[done..at]);
        masked.extend(text.text[range.clone()].chars().map(|_| '_'));
        done = range.end;
        ranges.push(range);
    }
    masked.push_str(&text.text[done..]);
    Ok((masked, ranges))
}

/// Puts the values in. `masked` are the ranges that [`mask`] found.
pub(super) fn replace(
    text: &SqlText,
    tokens: &mut [TokenWithSpan],
    masked: &[Range<usize>],
    variables: &Variables<'_>,
) -> Result<()> {
    let mut behind: Option<(Location, bool)> = None;
    for token in tokens {
        let is_number = matches!(token.token, Token::Number(..));
        let is_bare = !masked.is_empty() && matches!(token.token, Token::Word(_));
        let is_quoted = text_of(&mut token.token).is_some_and(|value| value.contains("${"));
        if !is_bare && !is_quoted {
            behind = Some((token.span.end, is_number));
            continue;
        }
        let range = text.offset(token.span.start)..text.offset(token.span.end);
        let inside: Vec<_> = masked.iter().filter(|mask| range.contains(&mask.start)).cloned().collect();
        if !inside.is_empty() {
            let glued = behind == Some((token.span.start, true));
            token.token = bare_token(text, range, &inside, glued, variables)?;
        } else if let Some(value) = text_of(&mut token.token).filter(|_| is_quoted) {
            *value = expand(text, range, value, variables)?;
        }
        behind = Some((token.span.end, is_number));
    }
    Ok(())
}

/// The text inside quotes, where a token has any.
fn text_of(token: &mut Token) -> Option<&mut String> {
    match token {
        Token::SingleQuotedString(text) | Token::NationalStringLiteral(text) | Token::EscapedStringLiteral(text) => {
            Some(text)
        }
        Token::Word(Word { value, quote_style: Some(_), .. }) => Some(value),
        _ => None,
    }
}

/// The token for a name with references in it: a reference alone is a number, a name or a string; with letters around
/// it, it must come out as one name.
fn bare_token(
    text: &SqlText,
    word: Range<usize>,
    references: &[Range<usize>],
    glued: bool,
    variables: &Variables<'_>,
) -> Result<Token> {
    let mut value = String::new();
    let mut done = word.start;
    for range in references {
        value.push_str(&text.text[done..range.start]);
        value.push_str(&value_of(text, &reference_at(text, range.start)?, variables)?);
        done = range.end;
    }
    value.push_str(&text.text[done..word.end]);
    let alone = references.len() == 1 && references[0] == word;
    let is_name = is_plain_name(&value);
    if glued || (!alone && !is_name) {
        return Err(Error::sql(format!("`{}` does not come out as one name", text.hidden(word.clone())))
            .hint("put it in quotes, or put spaces around the variable")
            .at(text.place_of(word)));
    }
    Ok(match () {
        () if alone && is_number(&value) => Token::Number(value, false),
        () if alone && is_boolean(&value) => Token::make_word(&value, None),
        // Quoted, and folded by us, so that no value can be taken for a keyword.
        () if is_name => {
            Token::Word(Word { value: value.to_lowercase(), quote_style: Some('"'), keyword: Keyword::NoKeyword })
        }
        () => Token::SingleQuotedString(value),
    })
}

/// Replaces what stands inside quotes. `range` is the token in the file, `value` what the tokenizer made of it.
fn expand(text: &SqlText, range: Range<usize>, value: &str, variables: &Variables<'_>) -> Result<String> {
    let places: Vec<usize> = text.text[range.clone()].match_indices("${").map(|(at, _)| range.start + at).collect();
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    let mut seen = 0;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        let place = places.get(seen).copied().unwrap_or(range.start);
        seen += 1;
        rest = &from[2..];
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
        } else if !rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            // `${1}` is a group of a regular expression.
            out.push_str(before);
            out.push_str("${");
        } else {
            let reference = parse_reference(from).ok_or_else(|| malformed(text, place))?;
            let range = place..place + reference.range.end;
            rest = &from[reference.range.end..];
            out.push_str(before);
            out.push_str(&value_of(text, &Reference { range, ..reference }, variables)?);
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn value_of(text: &SqlText, reference: &Reference, variables: &Variables<'_>) -> Result<String> {
    if let Some(value) = (variables.lookup)(&reference.name).or_else(|| reference.default.clone()) {
        return Ok(value);
    }
    let near = nearest(&reference.name, variables.known.iter().map(String::as_str));
    let near = near.map(|name| format!("did you mean `{name}`? ")).unwrap_or_default();
    let name = &reference.name;
    Err(Error::config(format!("the variable `{name}` is not set"))
        .hint(format!("{near}set it by --var {name}=VALUE, in the environment, or under [vars] in pinsql.toml"))
        .at(text.place_of(reference.range.clone())))
}

fn reference_at(text: &SqlText, at: usize) -> Result<Reference> {
    let reference = parse_reference(&text.text[at..]).ok_or_else(|| malformed(text, at))?;
    Ok(Reference { range: at..at + reference.range.end, ..reference })
}

/// Reads the `${…}` that the text begins with. It ends in its own line.
fn parse_reference(text: &str) -> Option<Reference> {
    let inner = text.strip_prefix("${")?;
    let end = inner.find(['}', '\n']).filter(|end| inner[*end..].starts_with('}'))?;
    let (name, default) = match inner[..end].split_once(":-") {
        Some((name, default)) => (name, Some(default.to_owned())),
        None => (&inner[..end], None),
    };
    let is_name = name.split('.').all(is_plain_name);
    is_name.then(|| Reference { name: name.to_owned(), default, range: 0..end + 3 })
}

fn malformed(text: &SqlText, at: usize) -> Error {
    let hint = "a variable is written ${NAME} or ${NAME:-default}, in one line; in a string, $${ stands for ${ itself";
    Error::sql("this is not a variable").hint(hint).at(text.place_of(at..at + 2))
}

fn is_plain_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn is_boolean(text: &str) -> bool {
    text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false")
}

/// Digits with an optional sign, fraction and exponent; never `inf`, `nan` or hexadecimal.
fn is_number(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let is_shape = text.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-'));
    text.starts_with(|c: char| c.is_ascii_digit()) && is_shape && text.parse::<f64>().is_ok()
}

/// Where `${` stands outside of strings, quoted names and comments. Follows the tokenizer's rules for those.
fn bare_references(text: &str) -> Vec<usize> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        at = match (bytes[at], bytes.get(at + 1)) {
            (b'$', Some(b'{')) => {
                found.push(at);
                parse_reference(&text[at..]).map_or(at + 2, |reference| at + reference.range.end)
            }
            (b'$', _) => skip_dollars(text, at),
            (b'\'', _) => skip_quoted(bytes, at, is_escape_prefix(bytes, at)),
            (b'"' | b'`', _) => skip_quoted(bytes, at, false),
            (b'-', Some(b'-')) => text[at..].find('\n').map_or(bytes.len(), |end| at + end),
            (b'/', Some(b'*')) => skip_comment(bytes, at),
            _ => at + 1,
        };
    }
    found
}

/// `E'…'`: a backslash escapes.
fn is_escape_prefix(bytes: &[u8], quote: usize) -> bool {
    let before = |back: usize| quote.checked_sub(back).map(|at| bytes[at]);
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii();
    matches!(before(1), Some(b'e' | b'E')) && !before(2).is_some_and(is_word)
}

fn skip_quoted(bytes: &[u8], start: usize, escapes: bool) -> usize {
    let quote = bytes[start];
    let mut at = start + 1;
    while at < bytes.len() {
        if escapes && bytes[at] == b'\\' {
            at += 2;
        } else if bytes[at] != quote {
            at += 1;
        } else if bytes.get(at + 1) == Some(&quote) {
            at += 2;
        } else {
            return at + 1;
        }
    }
    bytes.len()
}

fn skip_comment(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

/// `$$ … $$` and `$tag$ … $tag$`.
fn skip_dollars(text: &str, start: usize) -> usize {
    let tag = text[start + 1..].find(|c: char| !c.is_alphanumeric() && c != '_').map(|end| start + 1 + end);
    let Some(end) = tag.filter(|end| text[*end..].starts_with('$')) else { return start + 1 };
    let delimiter = &text[start..=end];
    text[end + 1..].find(delimiter).map_or(text.len(), |close| end + 1 + close + delimiter.len())
}
