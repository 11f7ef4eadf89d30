//! Java's `sasl.jaas.config`: the login module and its options.
//!
//! Uses nothing of the project: what is wrong is said in words that never quote the text, for it holds a password.

/// `Module required key="value" …;`
pub(super) struct Login {
    /// The last part of the class's name: vendors ship the same module under other packages.
    pub module: String,
    /// The options, in their order.
    pub options: Vec<(String, String)>,
}

impl Login {
    /// The value of an option.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// One piece of the text.
#[derive(Debug, PartialEq)]
enum Piece {
    Text(String),
    Equals,
    End,
}

/// Reads one entry. The error says what is wrong, without the text.
pub(super) fn parse(text: &str) -> Result<Login, &'static str> {
    let mut pieces = pieces(text)?.into_iter();
    let Some(Piece::Text(class)) = pieces.next() else { return Err("it does not begin with the name of a module") };
    let module = class.rsplit('.').next().unwrap_or_default().to_owned();
    match pieces.next() {
        Some(Piece::Text(flag))
            if ["required", "requisite", "sufficient", "optional"].contains(&flag.to_lowercase().as_str()) => {}
        _ => return Err("there is no `required` behind the name of the module"),
    }
    let mut options = Vec::new();
    loop {
        match pieces.next() {
            Some(Piece::Text(key)) => {
                if pieces.next() != Some(Piece::Equals) {
                    return Err("an option has no `=`; values with blanks in them need quotes");
                }
                let Some(Piece::Text(value)) = pieces.next() else { return Err("an option has no value") };
                options.push((key, value));
            }
            Some(Piece::Equals) => return Err("there is an `=` without an option's name"),
            Some(Piece::End) => break,
            None => return Err("there is no `;` at the end"),
        }
    }
    if pieces.next().is_some() {
        return Err("something follows the `;`: a client has one login module");
    }
    Ok(Login { module, options })
}

fn pieces(text: &str) -> Result<Vec<Piece>, &'static str> {
    let mut pieces = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            '=' => pieces.push(Piece::Equals),
            ';' => pieces.push(Piece::End),
            quote @ ('"' | '\'') => pieces.push(Piece::Text(quoted(&mut chars, quote)?)),
            first => {
                // Java wants quotes around anything but letters; a key made of base64 is meant all the same.
                let is_value = pieces.last() == Some(&Piece::Equals);
                let mut word = String::from(first);
                while let Some(c) = chars.next_if(|c| !c.is_whitespace() && *c != ';' && (*c != '=' || is_value)) {
                    word.push(c);
                }
                pieces.push(Piece::Text(word));
            }
        }
    }
    Ok(pieces)
}

/// What stands up to the closing quote, with Java's escapes.
fn quoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, quote: char) -> Result<String, &'static str> {
    let mut value = String::new();
    loop {
        match chars.next().ok_or("a quote is never closed")? {
            '\\' => match chars.next().ok_or("a quote is never closed")? {
                'n' => value.push('\n'),
                't' => value.push('\t'),
                'r' => value.push('\r'),
                digit @ '0'..='7' => value.push(octal(chars, digit)),
                other => value.push(other),
            },
            c if c == quote => return Ok(value),
            c => value.push(c),
        }
    }
}

/// Up to three octal digits; three only if the first is at most 3.
fn octal(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, first: char) -> char {
    let mut code = first.to_digit(8).unwrap_or_default();
    let most = if code <= 3 { 2 } else { 1 };
    for _ in 0..most {
        let Some(digit) = chars.next_if(|c| c.is_digit(8)).and_then(|c| c.to_digit(8)) else { break };
        code = code * 8 + digit;
    }
    char::from_u32(code).unwrap_or_default()
}
