//! What can go wrong, sorted by what the user should do about it.
//!
//! Floor 0: uses nothing of the project. Every error is one [`Error`]: a kind, one sentence, a hint, and, where SQL text
//! is to blame, the [`Place`] in its file. The kinds are few on purpose: a caller decides by them, a person reads the
//! message.

use std::fmt;

/// The project's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the user should do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Mend the SQL text.
    Sql,
    /// Mend the command line, `pinsql.toml`, an option or a variable.
    Config,
    /// Something outside is missing or refuses: a folder, a bucket, a login, a full disk.
    World,
    /// A record or a row breaks a rule that forbids going on.
    Data,
    /// Another instance, or another writer, owns what this one wanted to write.
    Conflict,
    /// A fault of pinsql itself.
    Internal,
}

impl ErrorKind {
    /// The word that `--json` shows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sql => "sql",
            Self::Config => "config",
            Self::World => "world",
            Self::Data => "data",
            Self::Conflict => "conflict",
            Self::Internal => "internal",
        }
    }

    /// The exit status: 2 when the text is wrong and nothing ran, 1 when the world is.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Sql | Self::Config => 2,
            Self::World | Self::Data | Self::Conflict | Self::Internal => 1,
        }
    }
}

/// A place in a SQL or configuration file, with the line it is in, so that it can be shown with a caret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file as the user named it, or a word such as `-c` where the text came from the command line.
    pub file: String,
    /// Counted from 1.
    pub line: u64,
    /// Counted from 1, in characters.
    pub column: u64,
    /// The whole line of the source text, without its line end.
    pub text: String,
    /// How many characters the caret underlines, at least 1.
    pub width: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One clear error: where, why, and what to do.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    place: Option<Place>,
    passes: bool,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of a kind. The message is lower case, without a full stop, with names in back-ticks.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), hint: None, place: None, passes: false, source: None }))
    }

    /// The SQL text is wrong.
    pub fn sql(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Sql, message)
    }

    /// A flag, an option, a variable or `pinsql.toml` is wrong.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    /// Something outside is missing or refuses.
    pub fn world(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::World, message)
    }

    /// The data breaks a rule.
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Data, message)
    }

    /// Somebody else owns it.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// pinsql is at fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Says what to do. A hint that is there already stays: the one nearest to the cause knows best.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Says where in the text. A place that is there already stays.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.0.place.get_or_insert(place);
        self
    }

    /// Puts what was being done in front of the message: `{context}: {message}`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// Says that the same may go well in a moment: a broker that is away, a store that is busy.
    #[must_use]
    pub fn passing(mut self) -> Self {
        self.0.passes = true;
        self
    }

    /// Whether the same may go well in a moment.
    pub fn is_passing(&self) -> bool {
        self.0.passes
    }

    /// Keeps the cause for the log.
    #[must_use]
    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Box::new(source));
        self
    }

    /// The same error once more, without its cause: for each of several who wait for one thing.
    #[must_use]
    pub fn again(&self) -> Self {
        let Inner { kind, message, hint, place, passes, source: _ } = self.0.as_ref();
        let (kind, passes) = (*kind, *passes);
        Self(Box::new(Inner {
            kind,
            message: message.clone(),
            hint: hint.clone(),
            place: place.clone(),
            passes,
            source: None,
        }))
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do, where known.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Where in the text, where known.
    pub fn place(&self) -> Option<&Place> {
        self.0.place.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("hint", &self.0.hint)
            .field("place", &self.0.place)
            .field("source", &self.0.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// Arrow's names of types in somebody else's words, as SQL says them: `Int64` is `BIGINT`.
pub fn in_sql_types(words: &str) -> String {
    const TYPES: [(&str, &str); 16] = [
        ("Int8", "TINYINT"),
        ("Int16", "SMALLINT"),
        ("Int32", "INT"),
        ("Int64", "BIGINT"),
        ("Float32", "FLOAT"),
        ("Float64", "DOUBLE"),
        ("Utf8", "STRING"),
        ("Utf8View", "STRING"),
        ("LargeUtf8", "STRING"),
        ("Boolean", "BOOLEAN"),
        ("Binary", "BINARY"),
        ("BinaryView", "BINARY"),
        ("Date32", "DATE"),
        ("List", "ARRAY"),
        ("Interval(MonthDayNano)", "INTERVAL"),
        ("Interval(DayTime)", "INTERVAL"),
    ];
    let mut out = String::with_capacity(words.len());
    let mut rest = words;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphanumeric()) {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let interval = rest.starts_with("Interval(").then(|| rest.find(')')).flatten();
        let end = interval.map_or(end, |close| close + 1);
        let word = &rest[..end];
        out.push_str(TYPES.iter().find(|(name, _)| *name == word).map_or(word, |(_, sql)| sql));
        rest = &rest[end..];
    }
    out + rest
}

/// The nearest of the known names to one that is not known, for "did you mean". None where nothing is near.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&word, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= (name.chars().count().max(word.chars().count()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
