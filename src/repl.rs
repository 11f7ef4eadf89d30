//! The SQL shell: lines to statements, backslash commands as in psql, history and completion.
//!
//! Floor 7: uses `engine`, `output`, `project`, `sql`, `signals`, `clock`, `error`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::history::{DefaultHistory, History};
use rustyline::{Behavior, CompletionType, Config, Context, Editor, Helper, Highlighter, Hinter, Validator};
use tokio::signal::unix::{Signal, SignalKind};

use crate::clock::Stopwatch;
use crate::engine::Engine;
use crate::error::{Error, Result, nearest};
use crate::output::Output;
use crate::project::read_script;
use crate::signals::listen;
use crate::sql::text::SqlText;

/// The prompt for a new statement, and for the next line of one.
const PROMPTS: [&str; 2] = ["pinsql=> ", "pinsql-> "];

/// Statements that the history keeps.
const HISTORY: usize = 10_000;

/// Words that statements are made of, for completion.
const KEYWORDS: [&str; 74] = [
    "ALL",
    "AND",
    "ARRAY",
    "AS",
    "ASC",
    "BETWEEN",
    "BIGINT",
    "BINARY",
    "BOOLEAN",
    "BY",
    "CASE",
    "CAST",
    "COMMENT",
    "CONSTRAINT",
    "COUNT",
    "CREATE",
    "DATE",
    "DELAY",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "DOUBLE",
    "DROP",
    "ELSE",
    "END",
    "EXISTS",
    "EXPECT",
    "EXPLAIN",
    "EXTERNAL",
    "FAIL",
    "FROM",
    "FULL",
    "GROUP",
    "HAVING",
    "INNER",
    "INSERT",
    "INT",
    "INTERVAL",
    "INTO",
    "IS",
    "JOIN",
    "LATERAL",
    "LEFT",
    "LIKE",
    "LIMIT",
    "LOCATION",
    "MATERIALIZED",
    "NOT",
    "NULL",
    "ON",
    "OPTIMIZE",
    "OPTIONS",
    "OR",
    "ORDER",
    "PARTITIONED",
    "QUARANTINE",
    "REFRESH",
    "REPLACE",
    "SELECT",
    "SHOW",
    "STORED",
    "STREAM",
    "STREAMING",
    "STRING",
    "TABLE",
    "TABLES",
    "TBLPROPERTIES",
    "TIMESTAMP",
    "UNION",
    "VACUUM",
    "VIEW",
    "VIOLATION",
    "WATERMARK",
    "WHERE",
];

/// The backslash commands, with what they do.
const COMMANDS: [(&str, &str); 8] = [
    ("\\d", "list tables, views and sources"),
    ("\\d NAME", "describe one of them"),
    ("\\dt", "list tables, views and sources"),
    ("\\i FILE", "run the statements of a file"),
    ("\\timing", "show how long each statement takes, or no longer"),
    ("\\x", "show each row as a block of lines, or no longer"),
    ("\\?", "show this"),
    ("\\q", "leave"),
];

/// Reads and runs statements until the user leaves. An error ends a statement, never the shell.
pub async fn run(engine: Engine, output: &Arc<Output>, directory: Option<&Path>) -> Result<()> {
    let mut shell = Shell {
        editor: editor()?,
        interrupt: listen(SignalKind::interrupt())?,
        output,
        directory,
        history: history_file(),
        engine,
        is_timed: false,
        is_expanded: false,
    };
    if let Some(file) = &shell.history {
        // The first session has no history yet.
        let _ = shell.editor.load_history(file);
    }
    output.line(concat!("pinsql ", env!("CARGO_PKG_VERSION"), "; \\? for help, \\q to leave"));
    shell.learn_names().await;
    shell.read_statements().await
}

fn editor() -> Result<Editor<Words, DefaultHistory>> {
    // Where results go to a file, the line editor goes on with the terminal itself.
    let behavior = if std::io::stdout().is_terminal() { Behavior::Stdio } else { Behavior::PreferTerm };
    let broken = |error: ReadlineError| Error::world(format!("the terminal cannot be read: {error}"));
    let builder = Config::builder().max_history_size(HISTORY).map_err(broken)?;
    let config = builder.completion_type(CompletionType::List).behavior(behavior).build();
    let mut editor = Editor::with_config(config).map_err(broken)?;
    editor.set_helper(Some(Words::default()));
    Ok(editor)
}

/// Where the history lies, by the convention of XDG. The folder is made; where that fails there is no history.
fn history_file() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))?;
    let own = state.join("pinsql");
    std::fs::create_dir_all(&own).ok()?;
    Some(own.join("history"))
}

/// Whether to go on reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    Leave,
}

/// What a line that begins with a backslash asks for.
#[derive(Debug, PartialEq, Eq)]
enum Backslash<'a> {
    Statement(String),
    Include(&'a str),
    Timing,
    Expanded,
    Help,
    Quit,
}

struct Shell<'a> {
    editor: Editor<Words, DefaultHistory>,
    interrupt: Signal,
    output: &'a Arc<Output>,
    directory: Option<&'a Path>,
    history: Option<PathBuf>,
    engine: Engine,
    is_timed: bool,
    is_expanded: bool,
}

impl Shell<'_> {
    async fn read_statements(&mut self) -> Result<()> {
        let mut statement = String::new();
        while !self.output.is_closed() {
            let prompt = PROMPTS[usize::from(!statement.is_empty())];
            // The editor waits for keys: the other tasks of this thread must not wait with it.
            let line = match tokio::task::block_in_place(|| self.editor.readline(prompt)) {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) => {
                    statement.clear();
                    continue;
                }
                Err(ReadlineError::Eof) => return Ok(()),
                Err(error) => return Err(Error::world(format!("the terminal cannot be read: {error}"))),
            };
            if self.take_line(&line, &mut statement).await == Next::Leave {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A line: a command, or some of a statement, which runs once it is whole.
    async fn take_line(&mut self, line: &str, statement: &mut String) -> Next {
        let trimmed = line.trim();
        if statement.is_empty() && trimmed.is_empty() {
            return Next::GoOn;
        }
        let is_word = |word: &str| statement.is_empty() && trimmed.trim_end_matches(';').eq_ignore_ascii_case(word);
        if is_word("quit") || is_word("exit") {
            return Next::Leave;
        }
        if trimmed.starts_with('\\') || is_word("help") {
            self.remember(trimmed);
            return self.command(if is_word("help") { "\\?" } else { trimmed }).await;
        }
        if !statement.is_empty() {
            statement.push('\n');
        }
        statement.push_str(line);
        if Engine::is_complete(statement) {
            let text = std::mem::take(statement);
            self.remember(&text);
            self.execute("-", &text).await;
        }
        Next::GoOn
    }

    async fn command(&mut self, line: &str) -> Next {
        match parse_backslash(line) {
            Ok(Backslash::Quit) => return Next::Leave,
            Ok(Backslash::Statement(text)) => self.execute("-", &text).await,
            Ok(Backslash::Include(file)) => match read_script(Path::new(file), self.directory) {
                Ok(text) => self.execute(file, &text).await,
                Err(error) => self.output.error(&error),
            },
            Ok(Backslash::Timing) => {
                self.is_timed = !self.is_timed;
                self.output.line(&format!("timing is {}", if self.is_timed { "on" } else { "off" }));
            }
            Ok(Backslash::Expanded) => {
                self.is_expanded = !self.is_expanded;
                self.output.expand(self.is_expanded);
                self.output.line(&format!("expanded display is {}", if self.is_expanded { "on" } else { "off" }));
            }
            Ok(Backslash::Help) => self.output.line(&help()),
            Err(error) => self.output.error(&error),
        }
        Next::GoOn
    }

    /// Runs a text. Ctrl-C leaves the statement where it is: what is committed stays, the rest never was.
    async fn execute(&mut self, name: &str, text: &str) {
        let watch = Stopwatch::start();
        // A signal from before must not end the statement that begins now.
        while self.has_interrupt() {}
        let result = tokio::select! {
            result = self.engine.execute(name, text) => Some(result),
            _ = self.interrupt.recv() => None,
        };
        self.output.tables(&self.engine.tables());
        match result {
            Some(Ok(())) => {}
            Some(Err(error)) => self.output.error(&error),
            None => self.output.line("the statement was cancelled"),
        }
        if self.is_timed {
            self.output.line(&format!("Time: {} ms", watch.elapsed_ms()));
        }
        if changes_names(text) {
            self.learn_names().await;
        }
    }

    fn has_interrupt(&mut self) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        matches!(self.interrupt.poll_recv(&mut context), std::task::Poll::Ready(Some(())))
    }

    async fn learn_names(&mut self) {
        let names = self.engine.names().await;
        if let Some(words) = self.editor.helper_mut() {
            words.names = names;
        }
    }

    /// Keeps a line for the next session, unless it has a secret: it would lie on the disk for everybody with this login.
    fn remember(&mut self, text: &str) {
        if SqlText::new("", text).has_secrets() {
            return;
        }
        let is_new = self.editor.add_history_entry(text.trim_end()).unwrap_or(false);
        if let Some(file) = self.history.as_ref().filter(|_| is_new && !self.editor.history().is_empty()) {
            // A full disk costs the history, not the session.
            let _ = self.editor.append_history(file);
        }
    }
}

/// Whether a text may declare, build or drop something. Names are asked from the lake, so not after each SELECT.
fn changes_names(text: &str) -> bool {
    let mut words = text.split(|c: char| !c.is_ascii_alphabetic()).map(str::to_ascii_uppercase);
    words.any(|word| matches!(word.as_str(), "CREATE" | "DROP" | "REFRESH" | "INSERT"))
}

fn parse_backslash(line: &str) -> Result<Backslash<'_>> {
    let line = line.trim().trim_end_matches(';').trim_end();
    let (command, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    match (command, argument.trim()) {
        ("\\d" | "\\dt", "") => Ok(Backslash::Statement("SHOW TABLES;".into())),
        ("\\d", name) => Ok(Backslash::Statement(format!("DESCRIBE {name};"))),
        ("\\i", "") => Err(Error::config("`\\i` needs a file").hint("write `\\i FILE`")),
        ("\\i", file) => Ok(Backslash::Include(file)),
        ("\\timing", "") => Ok(Backslash::Timing),
        ("\\x", "") => Ok(Backslash::Expanded),
        ("\\?" | "\\h" | "\\help", "") => Ok(Backslash::Help),
        ("\\q" | "\\quit", "") => Ok(Backslash::Quit),
        (command, argument) => Err(unknown_backslash(command, argument)),
    }
}

fn unknown_backslash(command: &str, argument: &str) -> Error {
    let mut known = COMMANDS.iter().filter_map(|(name, _)| name.split(' ').next());
    if known.clone().any(|name| name == command) {
        return Error::config(format!("`{command}` takes no `{argument}`")).hint("`\\?` lists the commands");
    }
    let error = Error::config(format!("there is no command `{command}`"));
    match nearest(command, known.by_ref()) {
        Some(near) => error.hint(format!("did you mean `{near}`? `\\?` lists the commands")),
        None => error.hint("`\\?` lists the commands"),
    }
}

fn help() -> String {
    let commands = COMMANDS.iter().map(|(name, meaning)| format!("  {name:<10}{meaning}"));
    let head = "A statement ends with `;`. Ctrl-C clears the line or cancels the statement.".to_owned();
    std::iter::once(head).chain(commands).collect::<Vec<_>>().join("\n")
}

/// What the line editor completes.
#[derive(Debug, Default, Helper, Hinter, Highlighter, Validator)]
struct Words {
    names: Vec<String>,
}

impl Completer for Words {
    type Candidate = String;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let before = line.get(..position).unwrap_or(line);
        let start = before
            .rfind(|c: char| !c.is_alphanumeric() && c != '_')
            .map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
        Ok((start, completions(&before[start..], &self.names)))
    }
}

/// Names first; keywords in the case that the word was begun in.
fn completions(word: &str, names: &[String]) -> Vec<String> {
    if word.is_empty() {
        return names.to_vec();
    }
    let begins = |candidate: &str| candidate.to_lowercase().starts_with(&word.to_lowercase());
    let is_lower = word.chars().all(|c| !c.is_uppercase());
    let cased = |keyword: &str| if is_lower { keyword.to_lowercase() } else { keyword.to_owned() };
    let names = names.iter().filter(|name| begins(name)).cloned();
    names.chain(KEYWORDS.iter().filter(|keyword| begins(keyword)).map(|keyword| cased(keyword))).collect()
}
