//! pinsql: Kafka topics, Kinesis streams and S3 prefixes of JSON into clean Delta Lake tables, with nothing but SQL files
//! kept in git.
//!
//! # The idea
//!
//! A **source** has partitions; a partition has ordered positions. An **epoch** is one span per partition, and every epoch
//! is an ordinary, bounded DataFusion query, planned afresh. `run` is epochs until caught up, `stream` is one after another
//! until somebody asks for the end; so the same file gives the same table whether it is run once, a hundred times or
//! continuously, or killed in between.
//!
//! The **epoch log** is the commit point. An epoch writes its data files, which nobody sees; then it puts one entry into
//! `<table>/_pinsql/<query>/log/`, if absent; then Delta is rolled forward to what the entry names, with the epoch as the
//! version of a `txn` action. A table and its quarantine share the entry, so they move together. An error of a put means
//! *unknown*, never *failed*: what lies there afterwards decides.
//!
//! # One record's journey
//!
//! `source::files` lists the objects that its ledger has not seen, and gets them, hundreds at once. `source::kafka` assigns
//! partitions by hand at the offsets that the log has; a thread of its client takes messages in batches and puts them, with
//! their keys, headers and times, into a bounded feed, from which each epoch takes its share. `source::kinesis` reads shards,
//! parents before children, by a task each, into such a feed. All hand chunks of payloads to `source::records`. `decode` frames the text of files into records, and gives each record one verdict: a row, or a reject
//! with its reason and its bytes; in the raw form every message is a row as it came. The rows go through the
//! plan that `sql` made of the user's query; `stream` judges them by the table's constraints and writes them to files of
//! the table or of its quarantine; `log` commits, `delta` rolls forward. Then the source hears of it: the Kafka client writes
//! the group's offsets, which lag tools read and nobody here.
//!
//! # The floors
//!
//! A room uses only rooms on lower floors, and its own parts; a test keeps it so.
//!
//! | floor | rooms | what they say |
//! |---|---|---|
//! | 0 | [`error`], [`clock`], [`memory`] | what can go wrong, by what to do about it; the only reader of time; the allocator |
//! | 1 | [`epoch`], [`report`] | partitions, positions, spans; what a command tells |
//! | 2 | [`decode`], [`options`], [`store`], [`delta`] | bytes to rows and rejects; options, the leftover is the error; where things lie; the only room that knows deltalake |
//! | 3 | [`source`], [`log`] | the contract of sources; files, topics and tables as sources; the epoch log and its folding |
//! | 4 | [`sql`] | text to statements, names to sources and tables, queries to plans |
//! | 5 | [`project`], [`stream`] | `pinsql.toml` and its files; the epoch loop, to the end or for ever; small files into larger ones |
//! | 6 | [`engine`], [`signals`] | the commands: the public API; what ends them |
//! | 7 | [`output`], [`repl`], [`cli`] | faces; `output` is the only writer to the terminal |
//!
//! Inside `source::kafka` the `client` is the only place that knows rdkafka, and its file `native` the only one with unsafe
//! code beside [`memory`]. Its neighbours speak of names, numbers and bytes: `settings` turns options into properties, `iam` signs the tokens of
//! Amazon MSK, `positions` decides where to go on, `cursor` makes epochs of it all. `source::kinesis` is built alike: `client` knows
//! the SDK, `positions` the graph of shards, `hub` reads them for all targets of the process. `feed` and `pieces`, beside both,
//! hold records on their way.
//!
//! Two things differ from the founding design. There is no `Sink` trait: a table of Delta is the only sink, and a
//! trait with one implementor would only hide that. And `delta` stands below the sources, not beside them, because a
//! table of the lake is a source as well.

pub mod cli;
pub mod clock;
pub mod decode;
pub mod delta;
pub mod engine;
pub mod epoch;
pub mod error;
pub mod log;
pub mod memory;
pub mod options;
pub mod output;
pub mod project;
pub mod repl;
pub mod report;
pub mod signals;
pub mod source;
pub mod sql;
pub mod store;
pub mod stream;
