//! Text on a terminal: how wide it is, and what in it must not reach the terminal.
//!
//! Uses nothing of the project.

use unicode_width::UnicodeWidthChar;

/// Columns that a tab is shown as: a caret below must know.
const TAB: &str = "    ";

/// How many columns a text takes.
pub(super) fn width(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().map(char_width).sum() }
}

/// How many columns a character takes.
fn char_width(c: char) -> usize {
    if c.is_ascii() { 1 } else { c.width().unwrap_or(0) }
}

/// A line as it can be shown: tabs are spaces, and no control character moves the cursor or changes the colour.
pub(super) fn shown_line(text: &str) -> String {
    if !text.contains(is_hazard) {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\t' => shown.push_str(TAB),
            c if is_hazard(c) => shown.push('\u{fffd}'),
            c => shown.push(c),
        }
    }
    shown
}

/// A value as it can be shown: its lines stay lines; control characters are escaped as psql does.
pub(super) fn shown_value(text: String) -> String {
    if !text.contains(is_hazard) {
        return text;
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => shown.push('\n'),
            '\t' => shown.push_str(TAB),
            '\r' => shown.push_str("\\r"),
            c if is_hazard(c) && c.is_ascii() => shown.extend(format!("\\x{:02X}", u32::from(c)).chars()),
            c if is_hazard(c) => shown.extend(format!("\\u{:04X}", u32::from(c)).chars()),
            c => shown.push(c),
        }
    }
    shown
}

/// Control characters, and those that turn the direction of writing.
fn is_hazard(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

/// A number with commas: `1,234,567`.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 row`, `2 rows`, `1,234 rows`.
pub(super) fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", thousands(number), if number == 1 { "" } else { "s" })
}

/// A time as people say it.
pub(super) fn duration(milliseconds: u64) -> String {
    match milliseconds {
        0..1_000 => format!("{milliseconds} ms"),
        1_000..60_000 => format!("{}.{} s", milliseconds / 1_000, milliseconds % 1_000 / 100),
        _ => {
            let seconds = milliseconds / 1_000;
            format!("{} min {} s", thousands(seconds / 60), seconds % 60)
        }
    }
}
