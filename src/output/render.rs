//! Errors and notices as people read them: the message, the place with a caret, and what to do.
//!
//! Uses `error`. Pure: a text comes out, and somebody else writes it.

use std::error::Error as _;

use super::text::{shown_line, width};
use crate::error::{Error, Place};

/// A source line longer than this is shown only around its caret.
const LONGEST_LINE: usize = 160;

/// What stands before the caret when a line is cut.
const BEFORE_CARET: usize = 60;

const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const BLUE: &str = "\x1b[1;34m";
const BOLD: &str = "\x1b[1m";
const RESET: &str = "\x1b[0m";

/// An error, with its source line, and, where asked for, its causes. Ends with a line end.
pub fn error(error: &Error, colors: bool, causes: bool) -> String {
    let mut lines = vec![title("error", RED, error.message(), colors)];
    let margin = match error.place() {
        Some(place) => {
            lines.extend(snippet(place, colors));
            digits(place.line)
        }
        None => 1,
    };
    if let Some(hint) = error.hint_text() {
        lines.push(note(margin, "hint", hint, colors));
    }
    let mut cause = error.source().filter(|_| causes);
    while let Some(source) = cause {
        lines.push(note(margin, "cause", &source.to_string(), colors));
        cause = source.source();
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Something to know, with where it comes from. Ends with a line end.
pub fn notice(message: &str, place: Option<&Place>, colors: bool) -> String {
    let mut text = title("notice", YELLOW, message, colors);
    if let Some(place) = place {
        text.push('\n');
        text.push_str(&arrow(digits(place.line), place, colors));
    }
    text.push('\n');
    text
}

fn title(word: &str, color: &str, message: &str, colors: bool) -> String {
    let indent = " ".repeat(word.len() + 2);
    format!("{}{}", paint(&format!("{word}:"), color, colors), indented(&format!(" {message}"), &indent))
}

fn note(margin: usize, word: &str, text: &str, colors: bool) -> String {
    let indent = " ".repeat(margin + word.len() + 5);
    let sign = paint("=", BLUE, colors);
    format!("{:margin$} {sign} {}: {}", "", paint(word, BOLD, colors), indented(text, &indent))
}

/// The lines of a text, all but the first of them indented.
fn indented(text: &str, indent: &str) -> String {
    let lines: Vec<String> = text.trim_end().lines().map(shown_line).collect();
    lines.join(&format!("\n{indent}"))
}

fn arrow(margin: usize, place: &Place, colors: bool) -> String {
    format!("{:margin$}{} {}", "", paint("-->", BLUE, colors), shown_line(&place.to_string()))
}

/// The place, its line, and the caret below it. Without a line there is only the place.
fn snippet(place: &Place, colors: bool) -> Vec<String> {
    let margin = digits(place.line);
    let mut lines = vec![arrow(margin, place, colors)];
    if place.text.trim().is_empty() {
        return lines;
    }
    let (line, before, carets) = marked_line(place);
    let bar = paint("|", BLUE, colors);
    let number = paint(&place.line.to_string(), BLUE, colors);
    lines.push(format!("{:margin$} {bar}", ""));
    lines.push(format!("{number} {bar} {line}"));
    lines.push(format!("{:margin$} {bar} {}{}", "", " ".repeat(before), paint(&"^".repeat(carets), RED, colors)));
    lines
}

/// The line as shown, the columns before the caret, and the columns that it underlines.
fn marked_line(place: &Place) -> (String, usize, usize) {
    let characters: Vec<char> = place.text.trim_end().chars().collect();
    let start = usize::try_from(place.column.saturating_sub(1)).unwrap_or(usize::MAX).min(characters.len());
    let end = start.saturating_add(place.width.max(1)).min(characters.len());
    let (first, last) = window(characters.len(), start);
    let part = |from: usize, to: usize| -> String {
        let from = from.clamp(first, last);
        let text: String = characters.iter().take(to.clamp(from, last)).skip(from).collect();
        shown_line(&text)
    };
    let head = if first > 0 { "…" } else { "" };
    let tail = if last < characters.len() { "…" } else { "" };
    let line = format!("{head}{}{tail}", part(first, last));
    (line, width(head) + width(&part(first, start)), width(&part(start, end)).max(1))
}

/// Which characters of a long line are shown.
fn window(length: usize, start: usize) -> (usize, usize) {
    if length <= LONGEST_LINE {
        return (0, length);
    }
    let first = start.saturating_sub(BEFORE_CARET).min(length - LONGEST_LINE);
    (first, first + LONGEST_LINE)
}

fn digits(number: u64) -> usize {
    number.to_string().len()
}

fn paint(text: &str, color: &str, colors: bool) -> String {
    if colors { format!("{color}{text}{RESET}") } else { text.to_owned() }
}
