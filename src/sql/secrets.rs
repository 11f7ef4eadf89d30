//! What must not be shown of a SQL text: the values of options that are not known to be harmless.
//!
//! Uses `options`, the dialect and the variables. In `OPTIONS (…)`, `TBLPROPERTIES (…)` and the arguments of source functions
//! a list says what may be shown, and everything else is hidden: also what does not read as an option, for there a quote
//! may be missing in front of a password. Elsewhere a value is hidden when the key before it speaks of a secret. A
//! reference to a variable, `${NAME}`, is no secret.

use std::ops::Range;

use datafusion::sql::sqlparser::keywords::{ALL_KEYWORDS, Keyword};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Whitespace, Word};

use super::dialect::PinsqlDialect;
use super::query::SourceFunction;
use super::text::SqlText;
use super::tokens::is_word;
use super::variables::mask;
use crate::options::is_harmless;

/// Parts of a key outside of options that tell that its value is nobody's business.
const SECRET_KEYS: [&str; 11] = [
    "password",
    "passphrase",
    "secret",
    "token",
    "jaas",
    "credential",
    "private",
    "accesskey",
    "access.key",
    ".pem",
    "keystore.key",
];

/// The family of options that holds most of them, hidden as in a list also where no list is seen.
const FAMILY: &str = "kafka.";

/// How the names of options that tell who asks begin.
const LOGINS: [&str; 2] = ["kafka.sasl", "kafka.ssl"];

/// Options that are secret, whose names may be shown where a name is not expected.
const SECRET_OPTIONS: [&str; 8] = [
    "kafka.sasl.jaas.config",
    "kafka.sasl.password",
    "kafka.sasl.username",
    "kafka.ssl.key.password",
    "kafka.ssl.key.pem",
    "kafka.ssl.keystore.key",
    "kafka.ssl.keystore.password",
    "kafka.ssl.truststore.password",
];

/// The secrets of a text, in bytes, in their order; of a string what stands between its quotes.
pub(super) fn find(text: &SqlText) -> Vec<Range<usize>> {
    let masked = mask(text).map_or_else(|_| text.text.clone(), |(masked, _)| masked);
    let mut tokens = Vec::new();
    let is_whole = Tokenizer::new(&PinsqlDialect, &masked).tokenize_with_location_into_buf(&mut tokens).is_ok();
    if !is_whole && speaks_of_options(&text.text) {
        return unknown_words(&text.text);
    }
    let mut search = Search { text, tokens: Vec::new(), comments: Vec::new(), found: Vec::new() };
    for token in tokens {
        match &token.token {
            Token::Whitespace(Whitespace::SingleLineComment { .. } | Whitespace::MultiLineComment(_)) => {
                search.comments.push(bytes(text, &token));
            }
            Token::Whitespace(_) => {}
            _ => search.tokens.push(token),
        }
    }
    search.whole_text();
    let Search { mut found, comments, .. } = search;
    // What was commented out may have been in use.
    found.extend(comments.into_iter().filter(|range| speaks_of_options(&text.text[range.clone()])));
    found.retain(|range| !range.is_empty());
    found.sort_by_key(|range| range.start);
    found
}

/// Whether options, or a secret, may stand in a text.
fn speaks_of_options(text: &str) -> bool {
    let text = text.to_lowercase();
    let words = ["options", "tblproperties", "read_", FAMILY];
    words.iter().chain(&SECRET_KEYS).any(|word| text.contains(word))
}

/// Where a quote is never closed, each may be on the wrong side of a secret: then only words of SQL and of options are
/// shown, and the signs between them.
fn unknown_words(text: &str) -> Vec<Range<usize>> {
    let is_sign = |c: char| c.is_whitespace() || "'\"`(),;=>.*".contains(c);
    let mut found = Vec::new();
    let mut start = 0;
    for (end, sign) in text.match_indices(is_sign).chain([(text.len(), "")]) {
        let word = &text[start..end];
        let is_known = ALL_KEYWORDS.iter().any(|keyword| keyword.eq_ignore_ascii_case(word))
            || SECRET_OPTIONS.iter().any(|name| name.split('.').any(|part| part == word))
            || SourceFunction::from_name(word).is_some()
            || is_harmless(word);
        if !word.is_empty() && !is_known {
            found.push(start..end);
        }
        start = end + sign.len();
    }
    found
}

struct Search<'a> {
    text: &'a SqlText,
    tokens: Vec<TokenWithSpan>,
    comments: Vec<Range<usize>>,
    found: Vec<Range<usize>>,
}

impl Search<'_> {
    fn whole_text(&mut self) {
        let mut at = 0;
        while let Some(token) = self.tokens.get(at) {
            let function = match &token.token {
                Token::Word(word) => SourceFunction::from_name(&word.value),
                _ => None,
            };
            let opens = self.tokens.get(at + 1).is_some_and(|next| next.token == Token::LParen);
            let is_list =
                function.is_some() || ["OPTIONS", "TBLPROPERTIES"].iter().any(|word| is_word(&token.token, word));
            if is_list && opens {
                let close = self.close(at + 2);
                let is_sound = self.list(at + 2..close, function);
                at = close;
                let is_closed = self.tokens.get(close).is_some_and(|token| token.token == Token::RParen);
                if !is_sound || !is_closed {
                    // The parenthesis, or the semicolon, may be one too many.
                    at = if is_closed { self.statement_end(close) } else { self.tokens.len() };
                    self.hide_unknown(close..at);
                }
            } else if self.is_login(at) {
                // An option where no option can be: nobody knows what stands behind it.
                let end = self.statement_end(at);
                self.hide_unknown(at..end);
                at = end;
            } else if string_of(token).is_some() && is_secret_key(&key_before(&self.tokens[..at])) {
                self.hide(at);
            }
            at += 1;
        }
    }

    /// Whether an option of a login, or its name's beginning, stands here.
    fn is_login(&self, at: usize) -> bool {
        let token = &self.tokens[at];
        let name = match &token.token {
            Token::Word(word) if word.quote_style.is_some() => word.value.clone(),
            Token::Word(_) => self.tokens[at..].iter().take(3).map(|token| token.token.to_string()).collect(),
            _ => string_of(token).unwrap_or_default().to_owned(),
        };
        let name = name.to_lowercase();
        LOGINS.iter().any(|login| name.contains(login)) && !is_harmless(&name)
    }

    /// The token that ends a list: its parenthesis, or the end of the statement.
    fn close(&self, start: usize) -> usize {
        let mut depth = 1;
        for (at, token) in self.tokens.iter().enumerate().skip(start) {
            match token.token {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                Token::SemiColon => depth = 0,
                _ => {}
            }
            if depth == 0 {
                return at;
            }
        }
        self.tokens.len()
    }

    fn statement_end(&self, start: usize) -> usize {
        let is_end = |at: &usize| self.tokens[*at].token == Token::SemiColon;
        (start..self.tokens.len()).find(is_end).unwrap_or(self.tokens.len())
    }

    /// Options, separated by commas, and the comments between them. Behind the first that does not read as one, only
    /// names that are known are shown. The answer: whether all of them do.
    fn list(&mut self, list: Range<usize>, function: Option<SourceFunction>) -> bool {
        let offset =
            |at: usize| self.tokens.get(at).map_or(self.text.text.len(), |token| bytes(self.text, token).start);
        let (from, to) = (offset(list.start), offset(list.end));
        let opened = self.tokens.get(list.start.wrapping_sub(1)).map_or(from, |token| bytes(self.text, token).end);
        self.found.extend(self.comments.iter().filter(|range| range.start >= opened && range.end <= to).cloned());
        let mut is_sound = true;
        let mut start = list.start;
        while start < list.end {
            let end = self.item_end(start, list.end);
            let is_path = start == list.start && function == Some(SourceFunction::ReadFiles);
            is_sound = self.item(start..end, is_path, is_sound);
            start = end + 1;
        }
        is_sound
    }

    /// The comma behind an item, or the end of the list.
    fn item_end(&self, start: usize, end: usize) -> usize {
        let mut depth = 0;
        for at in start..end {
            match self.tokens[at].token {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                Token::Comma if depth == 0 => return at,
                _ => {}
            }
        }
        end
    }

    /// One option. The answer: whether it, and all before it, read as options.
    fn item(&mut self, item: Range<usize>, may_be_path: bool, is_sound: bool) -> bool {
        let key_end = self.key_end(item.clone());
        if key_end == item.end && item.len() == 1 && string_of(&self.tokens[item.start]).is_some() {
            // A value without a key, or a key without a value.
            if !may_be_path {
                self.hide_unknown(item);
            }
            return is_sound && may_be_path;
        }
        let key = key_before(&self.tokens[item.start..key_end]);
        let has_sign = self.tokens.get(key_end).is_some_and(|token| matches!(token.token, Token::Eq | Token::RArrow));
        let value = key_end + usize::from(has_sign && key_end < item.end);
        let is_name = key.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if !is_sound || !is_name {
            self.hide_unknown(item.start..key_end);
        }
        let minus = usize::from(self.tokens.get(value).is_some_and(|token| token.token == Token::Minus));
        let is_option = key_end > item.start && value + minus + 1 == item.end && self.is_value(value + minus);
        let shown = if is_sound && is_harmless(&key) { value + minus + 1 } else { value };
        if is_option {
            (shown..item.end).for_each(|at| self.hide(at));
        } else {
            self.hide_unknown(shown..item.end);
        }
        is_sound && is_option
    }

    /// Behind the key: a string, or words with dots between them.
    fn key_end(&self, item: Range<usize>) -> usize {
        let mut at = item.start;
        if self.tokens.get(at).is_some_and(|token| at < item.end && string_of(token).is_some()) {
            return at + 1;
        }
        while at < item.end && matches!(self.tokens[at].token, Token::Word(_)) {
            at += 1;
            if at + 1 >= item.end || self.tokens[at].token != Token::Period {
                break;
            }
            at += 1;
        }
        at
    }

    /// Whether a token is all that a value may be.
    fn is_value(&self, at: usize) -> bool {
        let token = &self.tokens[at];
        let is_flag = is_word(&token.token, "TRUE") || is_word(&token.token, "FALSE");
        let is_literal = string_of(token).is_some() || is_flag || matches!(token.token, Token::Number(..));
        is_literal || self.text.text[bytes(self.text, token)].starts_with("${")
    }

    /// Hides all but names of options and words of SQL.
    fn hide_unknown(&mut self, tokens: Range<usize>) {
        for at in tokens {
            let is_of_sql = |word: &Word| word.quote_style.is_none() && word.keyword != Keyword::NoKeyword;
            if matches!(&self.tokens[at].token, Token::Word(word) if is_of_sql(word)) {
                continue;
            }
            let name = key_before(&self.tokens[at..=at]);
            if !is_harmless(&name) && !SECRET_OPTIONS.iter().any(|option| option.eq_ignore_ascii_case(&name)) {
                self.hide(at);
            }
        }
    }

    /// Hides a token, unless it is a sign or a variable.
    fn hide(&mut self, at: usize) {
        let token = &self.tokens[at];
        let signs =
            [Token::Comma, Token::Eq, Token::RArrow, Token::LParen, Token::RParen, Token::Period, Token::SemiColon];
        if signs.contains(&token.token) {
            return;
        }
        let range = bytes(self.text, token);
        let written = &self.text.text[range.clone()];
        let is_string = string_of(token).is_some();
        let open = if is_string { written.find('\'').map_or(0, |quote| quote + 1) } else { 0 };
        let range = range.start + open..range.end - usize::from(is_string);
        if !self.text.text.get(range.clone()).is_some_and(is_variable) {
            self.found.push(range);
        }
    }
}

fn bytes(text: &SqlText, token: &TokenWithSpan) -> Range<usize> {
    text.offset(token.span.start)..text.offset(token.span.end)
}

/// `${NAME}` and nothing else: with a default, that would show.
fn is_variable(text: &str) -> bool {
    let name = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    name.is_some_and(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

fn string_of(token: &TokenWithSpan) -> Option<&str> {
    match &token.token {
        Token::SingleQuotedString(text)
        | Token::EscapedStringLiteral(text)
        | Token::NationalStringLiteral(text)
        | Token::SingleQuotedRawStringLiteral(text) => Some(text),
        _ => None,
    }
}

/// The key that the last of these tokens ends, with or without an equals sign behind it.
fn key_before(tokens: &[TokenWithSpan]) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let mut tokens = tokens.iter().rev().peekable();
    tokens.next_if(|token| matches!(token.token, Token::Eq | Token::RArrow));
    for token in tokens {
        match &token.token {
            Token::Word(word) => parts.push(&word.value),
            Token::Period => parts.push("."),
            _ => {
                if parts.is_empty() {
                    parts.extend(string_of(token));
                }
                break;
            }
        }
    }
    parts.reverse();
    parts.concat()
}

fn is_secret_key(key: &str) -> bool {
    let key = key.to_lowercase();
    SECRET_KEYS.iter().any(|secret| key.contains(secret)) || (key.starts_with(FAMILY) && !is_harmless(&key))
}
