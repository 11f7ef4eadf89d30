//! The command line: what was asked for, by which flags, and the exit status that tells how it went.
//!
//! Floor 7: uses `engine`, `project`, `output`, `repl`, `signals`, `report`, `clock`, `error`.

use std::ffi::OsString;
use std::future::Future;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::clock::Stopwatch;
use crate::engine::{Engine, FullRefresh, RunOptions, Stop, StreamOptions};
use crate::error::{Error, Result};
use crate::options::parse_duration;
use crate::output::{LogWriter, Look, Output};
use crate::project::{Invocation, read_script};
use crate::repl;
use crate::report::{Status, Summary};
use crate::signals::{Interruption, Signals};
use crate::source::SlotOf;

/// How long a stream may take to end its epochs when it is asked to stop.
const GRACE: Duration = Duration::from_millis(4700);
/// The same for a step that does not even let itself be left.
const LAST_GRACE: Duration = Duration::from_millis(4900);
/// How long any other command may take to leave once it was told so twice.
const AT_ONCE: Duration = Duration::from_millis(500);
/// How `--skip-exit-code` is said without a number.
const SKIPPED: &str = "99";

/// JSON from Kafka topics, Kinesis streams and S3 prefixes into Delta Lake tables, with SQL files
#[derive(Debug, Parser)]
#[command(name = "pinsql", version, propagate_version = true, disable_help_subcommand = true)]
#[command(after_help = "Without a command, -c and -f: the SQL shell, or the statements of standard input.")]
struct Arguments {
    /// Run these statements, print their results, and leave; repeatable, in order with -f
    #[arg(short = 'c', value_name = "SQL", allow_hyphen_values = true)]
    sql: Vec<String>,
    /// Run the statements of a file (- is standard input); repeatable, in order with -c
    #[arg(short = 'f', value_name = "FILE")]
    file: Vec<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
    // Flags below a flattened group would stand under its heading.
    #[command(flatten)]
    globals: Globals,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Catch up once: read every source to where it ended at the start
    Run(RunArguments),
    /// Keep going: follow every source until SIGINT or SIGTERM
    Stream(StreamArguments),
    /// Parse, resolve and type everything; read nothing, write nothing
    Check(Paths),
    /// Show what a run would do
    Plan(Paths),
    /// Show how far every target is, from the lake alone
    Status(Paths),
}

/// The flags that stand on either side of the command. They are declared on both, and merged: clap's own global flags
/// forget the first half of a repeatable one.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
struct Globals {
    /// Count from this folder instead of the current one
    #[arg(short = 'C', long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Take the settings of this profile of pinsql.toml
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Where tables live: a folder, or `s3://bucket/prefix`
    #[arg(long, value_name = "URL")]
    lake: Option<String>,
    /// Set a variable of the SQL; repeatable
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = assignment)]
    vars: Vec<(String, String)>,
    /// How much to log to standard error (default: warn)
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
    /// How log lines look (default: text)
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Lines of JSON on standard output; the last one is the summary
    #[arg(long)]
    json: bool,
    /// Only errors on standard error
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
struct Paths {
    /// .sql files, or folders of them (default: the project of the current folder)
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    globals: Globals,
}

/// What `run` and `stream` have in common.
#[derive(Debug, Args)]
struct Targets {
    /// Only these tables
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = table_name)]
    select: Vec<String>,
    /// Empty the selected tables, or these, and build them from the start of their sources
    #[arg(long, value_name = "NAME,…", num_args = 0..=1, require_equals = true)]
    #[arg(value_delimiter = ',', value_parser = table_name)]
    full_refresh: Option<Vec<String>>,
    /// At most this many records per source and epoch
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_records: Option<u64>,
    #[command(flatten)]
    paths: Paths,
}

#[derive(Debug, Args)]
struct RunArguments {
    /// Exit with this status where there was nothing new to do
    #[arg(long, value_name = "STATUS", num_args = 0..=1, require_equals = true, default_missing_value = SKIPPED)]
    skip_exit_code: Option<u8>,
    #[command(flatten)]
    targets: Targets,
}

#[derive(Debug, Args)]
struct StreamArguments {
    /// From the beginning of one epoch to the next: 250ms, 1s, 5min (default: pinsql.trigger, or 1s)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    trigger: Option<Duration>,
    /// End by itself after this time
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    time: Option<Duration>,
    /// Read only the partitions of this one of N instances, counted from 0
    #[arg(long, value_name = "I/N", value_parser = slot)]
    slot: Option<SlotOf>,
    #[command(flatten)]
    targets: Targets,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "expected a time such as 250ms, 1s or 5min".into())
}

fn slot(text: &str) -> Result<SlotOf, String> {
    let parsed = text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
    match parsed {
        Some((index, count)) if index < count => Ok(SlotOf { index, count }),
        _ => Err("expected I/N with I from 0 to N-1, such as 0/2 and 1/2".into()),
    }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".into()),
    }
}

/// Names fold to lower case as in SQL, unless they are quoted as in SQL.
fn table_name(text: &str) -> Result<String, String> {
    let text = text.trim();
    let quoted = ['`', '"'].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote));
    match quoted {
        Some(name) if !name.is_empty() => Ok(name.to_owned()),
        None if !text.is_empty() => Ok(text.to_lowercase()),
        _ => Err("expected the name of a table".into()),
    }
}

impl Globals {
    /// Those after the command go before those in front of it; variables add up.
    fn merged(self, after: Self) -> Self {
        Self {
            directory: after.directory.or(self.directory),
            profile: after.profile.or(self.profile),
            lake: after.lake.or(self.lake),
            vars: self.vars.into_iter().chain(after.vars).collect(),
            log_level: after.log_level.or(self.log_level),
            log_format: after.log_format.or(self.log_format),
            json: self.json || after.json,
            quiet: self.quiet || after.quiet,
        }
    }
}

/// SQL text from the command line, with the name that errors call it by.
enum Script {
    Text(String),
    File(PathBuf),
}

/// What is to be done.
enum Action {
    Run(RunOptions, Option<u8>),
    Stream(StreamOptions),
    Check,
    Plan,
    Status,
    Scripts(Vec<Script>),
    Shell,
}

impl Action {
    fn name(&self) -> &'static str {
        match self {
            Self::Run(..) => "run",
            Self::Stream(_) => "stream",
            Self::Check => "check",
            Self::Plan => "plan",
            Self::Status => "status",
            Self::Scripts(_) | Self::Shell => "sql",
        }
    }
}

/// The command line, understood.
struct Request {
    action: Action,
    paths: Vec<PathBuf>,
    globals: Globals,
}

impl Request {
    fn parse(arguments: &[OsString]) -> Result<Self, clap::Error> {
        let matches = Arguments::command().try_get_matches_from(arguments)?;
        let parsed = Arguments::from_arg_matches(&matches)?;
        let Some(command) = parsed.command else {
            let places = |id: &str| matches.indices_of(id).into_iter().flatten().collect::<Vec<usize>>();
            let texts = places("sql").into_iter().zip(parsed.sql.into_iter().map(Script::Text));
            let files = places("file").into_iter().zip(parsed.file.into_iter().map(Script::File));
            let mut scripts: Vec<(usize, Script)> = texts.chain(files).collect();
            scripts.sort_by_key(|(place, _)| *place);
            let scripts: Vec<Script> = scripts.into_iter().map(|(_, script)| script).collect();
            let action = match (scripts.is_empty(), std::io::stdin().is_terminal()) {
                (false, _) => Action::Scripts(scripts),
                (true, true) => Action::Shell,
                (true, false) => Action::Scripts(vec![Script::File("-".into())]),
            };
            return Ok(Self { action, paths: Vec::new(), globals: parsed.globals });
        };
        if !parsed.sql.is_empty() || !parsed.file.is_empty() {
            let message = "-c and -f cannot be used with a command";
            return Err(Arguments::command().error(ErrorKind::ArgumentConflict, message));
        }
        let (action, Paths { paths, globals }) = match command {
            Command::Run(run) => (Action::Run(run_options(&run.targets), run.skip_exit_code), run.targets.paths),
            Command::Stream(stream) => {
                let StreamArguments { trigger, time, slot, targets } = stream;
                (Action::Stream(StreamOptions { run: run_options(&targets), trigger, slot, time }), targets.paths)
            }
            Command::Check(paths) => (Action::Check, paths),
            Command::Plan(paths) => (Action::Plan, paths),
            Command::Status(paths) => (Action::Status, paths),
        };
        Ok(Self { action, paths, globals: parsed.globals.merged(globals) })
    }
}

fn run_options(run: &Targets) -> RunOptions {
    let full_refresh = match run.full_refresh.as_deref() {
        None => FullRefresh::None,
        Some([]) => FullRefresh::All,
        Some(tables) => FullRefresh::Tables(tables.to_vec()),
    };
    RunOptions { select: run.select.clone(), full_refresh, max_records: run.max_records }
}

/// Runs a command line, program name first, and gives the exit status.
pub async fn main(arguments: Vec<OsString>) -> u8 {
    let request = match Request::parse(&arguments) {
        Ok(request) => request,
        Err(error) => return show_usage(&error, &arguments),
    };
    let globals = &request.globals;
    let level = globals.log_level.unwrap_or(if globals.quiet { LogLevel::Error } else { LogLevel::Warn });
    let json_log = globals.log_format == Some(LogFormat::Json);
    let look = Look { json_log, ..Look::of_terminal(globals.json, globals.quiet, level >= LogLevel::Debug) };
    let output = Arc::new(Output::standard(look));
    start_log(level, globals.log_format.unwrap_or(LogFormat::Text), &output);
    let status = match &request.action {
        Action::Shell => shell(&request, &output).await,
        Action::Status => status(&request, &output).await,
        _ => command(&request, &output).await,
    };
    match output.finish() {
        Err(error) if status == 0 => {
            output.error(&error);
            error.kind().exit_status()
        }
        _ => status,
    }
}

/// Says that there is no runtime to work with, and gives the exit status.
pub fn refuse_to_start(error: &std::io::Error) -> u8 {
    let error = Error::world(format!("the threads of pinsql cannot be started: {error}"))
        .hint("look at the limits of this user and machine (`ulimit -a`)");
    Output::standard(Look::of_terminal(false, false, false)).error(&error);
    error.kind().exit_status()
}

/// Help and version go to standard output, what is wrong goes to standard error, and with `--json` the summary says it
/// too.
fn show_usage(error: &clap::Error, arguments: &[OsString]) -> u8 {
    let is_json = error.use_stderr() && arguments.iter().any(|argument| argument == "--json");
    let look = Look::of_terminal(is_json, false, false);
    let output = Output::standard(look);
    match error.kind() {
        ErrorKind::DisplayVersion => output.text(concat!("pinsql ", env!("CARGO_PKG_VERSION"), "\n")),
        _ if !error.use_stderr() => output.text(&error.render().to_string()),
        _ if look.colors => output.message(&error.render().ansi().to_string()),
        _ => output.message(&error.render().to_string()),
    }
    if is_json {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default();
        let error = Error::config(message.strip_prefix("error: ").unwrap_or(message)).hint("see `pinsql --help`");
        let command = ["run", "stream", "check", "plan", "status"]
            .into_iter()
            .find(|name| arguments.iter().any(|word| word == *name));
        output.json_summary(&failed(command.unwrap_or("sql"), Stopwatch::start(), error));
    }
    u8::try_from(error.exit_code()).unwrap_or(2)
}

/// Logs of pinsql at the level, those of its libraries a step or two above: they are many.
fn start_log(level: LogLevel, format: LogFormat, output: &Arc<Output>) {
    let filter = EnvFilter::new(match level {
        LogLevel::Error => "error",
        // delta-rs warns of every binary column that it keeps no statistics of.
        LogLevel::Warn => "warn,deltalake_core::writer::stats=error",
        LogLevel::Info => "warn,deltalake_core::writer::stats=error,pinsql=info",
        LogLevel::Debug => "info,pinsql=debug",
        // sqlparser logs the tokens that it reads, secrets among them.
        LogLevel::Trace => "debug,sqlparser=info,pinsql=trace",
    });
    let writer = LogWriter::new(Arc::clone(output));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(output.look().colors).with_writer(writer);
    let started = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    if let Err(error) = started {
        output.error(&Error::internal(format!("logs cannot be written: {error}")));
    }
}

async fn shell(request: &Request, output: &Arc<Output>) -> u8 {
    let opened = Engine::open(&invocation(&request.globals), &request.paths, Arc::clone(output) as _).await;
    let result = match opened {
        Ok(engine) => repl::run(engine, output, request.globals.directory.as_deref()).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            output.error(&error);
            error.kind().exit_status()
        }
    }
}

async fn status(request: &Request, output: &Arc<Output>) -> u8 {
    let opened = Engine::open(&invocation(&request.globals), &request.paths, Arc::clone(output) as _).await;
    let found = match opened {
        Ok(mut engine) => engine.status().await,
        Err(error) => {
            let status = error.kind().exit_status();
            output.summary(&failed("status", Stopwatch::start(), error));
            return status;
        }
    };
    output.status(&found);
    found.error.map_or(0, |error| error.kind().exit_status())
}

fn invocation(globals: &Globals) -> Invocation {
    Invocation {
        directory: globals.directory.clone(),
        profile: globals.profile.clone(),
        lake: globals.lake.clone(),
        vars: globals.vars.clone(),
    }
}

/// Everything but the shell: does it, says what came of it, and gives the exit status.
async fn command(request: &Request, output: &Arc<Output>) -> u8 {
    let watch = Stopwatch::start();
    let name = request.action.name();
    let is_over = Arc::new(AtomicBool::new(false));
    force_the_end(request, Arc::clone(output), Arc::clone(&is_over), watch);
    let (summary, interruption) = match carry_out(request, output, watch).await {
        Ok(Ending { summary: Some(summary), interruption }) => (summary, interruption),
        Ok(Ending { summary: None, interruption }) => (stopped(name, watch), interruption),
        Err(error) => (failed(name, watch, error), None),
    };
    if is_over.swap(true, Ordering::AcqRel) {
        // The process is ended at this moment, and the summary is written.
        std::future::pending::<()>().await;
    }
    output.summary(&summary);
    let skip = match request.action {
        Action::Run(_, skip) => skip,
        _ => None,
    };
    // A stream is stopped by a signal as a matter of course.
    let interruption = interruption.filter(|_| !matches!(request.action, Action::Stream(_)));
    exit_status(&summary, interruption, skip)
}

/// Ends the process where a step neither ends nor lets anything else happen, after the user has asked for the end: a join that
/// explodes computes without ever looking up. A thread of its own hears the signals, as all others may be computing. It is
/// what a crash would be, and costs as little.
fn force_the_end(request: &Request, output: Arc<Output>, is_over: Arc<AtomicBool>, watch: Stopwatch) {
    let name = request.action.name();
    let is_stream = matches!(request.action, Action::Stream(_));
    let force = async move {
        let Ok(mut signals) = Signals::listen() else { return };
        let first = signals.next().await;
        if is_stream {
            tokio::time::sleep(LAST_GRACE).await;
        } else {
            signals.next().await;
            tokio::time::sleep(AT_ONCE).await;
        }
        if !is_over.swap(true, Ordering::AcqRel) {
            let status = match (is_stream, output.has_failed()) {
                (false, _) => first.exit_status(),
                (true, has_failed) => u8::from(has_failed),
            };
            output.summary(&stopped(name, watch));
            std::process::exit(status.into());
        }
    };
    let thread = std::thread::Builder::new().name("end".to_owned()).spawn(move || {
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            runtime.block_on(force);
        }
    });
    if let Err(error) = thread {
        tracing::debug!(%error, "nothing ends a step that never ends");
    }
}

/// How a command ended: without a summary where it was abandoned.
struct Ending {
    summary: Option<Summary>,
    interruption: Option<Interruption>,
}

async fn carry_out(request: &Request, output: &Arc<Output>, watch: Stopwatch) -> Result<Ending> {
    let mut signals = Signals::listen()?;
    let texts = match &request.action {
        Action::Scripts(scripts) => read_scripts(scripts, request.globals.directory.as_deref())?,
        _ => Vec::new(),
    };
    let invocation = invocation(&request.globals);
    let opening = Engine::open(&invocation, &request.paths, Arc::clone(output) as _);
    let mut engine = match guard(&mut signals, None, output, opening).await {
        (Some(engine), _) => engine?,
        (None, interruption) => return Ok(Ending { summary: None, interruption }),
    };
    let stop = engine.stop();
    let (summary, interruption) = match &request.action {
        Action::Run(options, _) => guard(&mut signals, Some(&stop), output, engine.run(options)).await,
        Action::Stream(options) => {
            let (work, leaving) = (engine.stream(options), leave_after(&stop, GRACE));
            let glances = glance(output);
            let guarded = guard(&mut signals, Some(&stop), output, work);
            // An epoch that does not end in time is left: it was not committed, and the next start does it again.
            tokio::select! {
                ended = guarded => ended,
                () = leaving => (None, Some(Interruption::Terminate)),
                () = glances => (None, None),
            }
        }
        Action::Check => guard(&mut signals, Some(&stop), output, engine.check()).await,
        Action::Plan => guard(&mut signals, Some(&stop), output, engine.plan()).await,
        Action::Scripts(_) | Action::Shell | Action::Status => {
            let work = execute(&mut engine, &texts, watch);
            let guarded = guard(&mut signals, Some(&stop), output, work);
            // Nobody reads the rest of a result: the statements end here, as those of psql do in front of `head`.
            tokio::select! {
                ended = guarded => ended,
                () = output.closed() => (Some(done("sql", watch)), None),
            }
        }
    };
    Ok(Ending { summary, interruption })
}

/// Shows how a stream is getting on, for ever.
async fn glance(output: &Output) {
    let every = if output.look().progress { Duration::from_secs(1) } else { Duration::from_secs(60) };
    loop {
        tokio::time::sleep(every).await;
        output.glance();
    }
}

/// Comes back some time after the end was asked for.
async fn leave_after(stop: &Stop, grace: Duration) {
    stop.stopped().await;
    tokio::time::sleep(grace).await;
}

/// Runs texts in their order, until one fails or the end is asked for.
async fn execute(engine: &mut Engine, texts: &[(String, String)], watch: Stopwatch) -> Summary {
    let stop = engine.stop();
    let mut error = None;
    for (name, text) in texts {
        if error.is_none() && !stop.is_stopped() {
            error = engine.execute(name, text).await.err().map(Arc::new);
        }
    }
    let status = match &error {
        Some(_) => Status::Failed,
        None if stop.is_stopped() => Status::Stopped,
        None => Status::Ok,
    };
    Summary { command: "sql", status, elapsed_ms: watch.elapsed_ms(), tables: engine.tables(), error }
}

fn done(command: &'static str, watch: Stopwatch) -> Summary {
    Summary { command, status: Status::Ok, elapsed_ms: watch.elapsed_ms(), tables: Vec::new(), error: None }
}

fn stopped(command: &'static str, watch: Stopwatch) -> Summary {
    Summary { status: Status::Stopped, ..done(command, watch) }
}

fn failed(command: &'static str, watch: Stopwatch, error: Error) -> Summary {
    Summary { status: Status::Failed, error: Some(Arc::new(error)), ..done(command, watch) }
}

/// The names and the texts; all are read before any runs.
fn read_scripts(scripts: &[Script], directory: Option<&Path>) -> Result<Vec<(String, String)>> {
    let read = |script: &Script| match script {
        Script::Text(text) => Ok(("-c".to_owned(), text.clone())),
        Script::File(path) => read_script(path, directory).map(|text| (path.display().to_string(), text)),
    };
    scripts.iter().map(read).collect()
}

/// The exit status that a summary stands for.
pub fn exit_status(summary: &Summary, interruption: Option<Interruption>, skip: Option<u8>) -> u8 {
    match (summary.status, interruption) {
        (Status::Ok, _) => skip.filter(|_| summary.nothing_new()).unwrap_or(0),
        (Status::Stopped | Status::Failed, Some(interruption)) => interruption.exit_status(),
        (Status::Stopped, None) => 0,
        (Status::Failed, None) => {
            let of_tables = summary.tables.iter().filter_map(|table| table.error.as_ref());
            let all = summary.error.iter().chain(of_tables);
            all.map(|error| error.kind().exit_status()).next().unwrap_or(1)
        }
    }
}

/// Does the work. The first signal asks it to end between two steps, the second leaves it where it is, which a crash
/// could do as well; without a `stop` the first one leaves.
async fn guard<T>(
    signals: &mut Signals,
    stop: Option<&Stop>,
    output: &Output,
    work: impl Future<Output = T>,
) -> (Option<T>, Option<Interruption>) {
    let mut work = pin!(work);
    let mut first = None;
    loop {
        tokio::select! {
            biased;
            done = &mut work => return (Some(done), first),
            signal = signals.next() => {
                let (Some(stop), None) = (stop, first) else { return (None, Some(first.unwrap_or(signal))) };
                first = Some(signal);
                stop.stop();
                output.line("stopping after the current step; once more to leave at once");
            }
        }
    }
}
