//! Real stand-ins for Kinesis, what the tests do to them, and a proxy before them that throttles.
//!
//! Uses nothing of the project, and of the kit the reading of HTTP in `proxy`. `install.sh` fetches the servers when they
//! are first asked for. No stand-in does everything as AWS does: [`Server`] says which one is for what. Each keeps its
//! streams in memory, listens at a port of its own, and ends with the process of the tests, however that ends: a watchman
//! reads the pipe that this process holds, and when it closes he kills the server and removes its folder.
//!
//! Give each test streams of its own. Everything here blocks, and may be called from any thread, even one that runs async
//! code.
#![allow(clippy::expect_used, clippy::panic, reason = "the kit fails a test by panicking")]

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::{BehaviorVersion, Region};
use aws_sdk_kinesis::error::{DisplayErrorContext, SdkError};
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, ShardIteratorType, StreamStatus};
use md5::{Digest, Md5};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::proxy::{Framing, Head, copy_body, invalid, line, send};
use super::time::{PATIENCE, until};

/// The keys and the region that every server takes.
const KEYS: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", "test"),
    ("AWS_SECRET_ACCESS_KEY", "test"),
    ("AWS_REGION", "us-east-1"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

/// Becomes the server, after leaving a watchman behind. He ends with the process of the tests: killing the server and
/// removing its folder, unless he was told that there is nothing left to do.
const SERVER: &str = r#"
exec 3<&0 </dev/null
(
  trap '' INT TERM HUP
  read -r word <&3
  [ "$word" = leave ] && exit
  kill -9 $$
  rm -rf "$0" || { sleep 1; rm -rf "$0"; }
) &
exec 3<&-
exec "$@"
"#;

/// Starts ministack with shorter subscriptions. A subscription can be taken over after 5 seconds.
const MINISTACK: &str = "\
import sys, ministack.services.kinesis
ministack.services.kinesis.SUBSCRIPTION_SECONDS = 6
from ministack.app import main
sys.argv = ['ministack']
main()
";

/// How long kinesis-local stays in a state that AWS leaves after seconds.
const DURATIONS: [&str; 8] = [
    "CREATE_STREAM_DURATION",
    "DELETE_STREAM_DURATION",
    "SPLIT_SHARD_DURATION",
    "MERGE_SHARDS_DURATION",
    "UPDATE_SHARD_COUNT_DURATION",
    "UPDATE_STREAM_MODE_DURATION",
    "REGISTER_STREAM_CONSUMER_DURATION",
    "DEREGISTER_STREAM_CONSUMER_DURATION",
];

/// The most records in one PutRecords.
const CALL_RECORDS: usize = 500;
/// The most bytes in one PutRecords, keys included: below the 5 MB of AWS.
const CALL_BYTES: usize = 4_900_000;

/// What a KPL aggregate begins with.
const MAGIC: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// kinesis-local: right about splits, merges, parents, the end of a shard and MillisBehindLatest; slow, above all with
    /// megabytes. The last sequence number of a closed shard is always 9223372036854775807, below its first. A sequence
    /// number that no record has is a ResourceNotFoundException, not an InvalidArgumentException.
    Lineage,
    /// kinesalite: fast, and as strict as AWS. Its MillisBehindLatest is 0 but at the end of a shard, it knows streams by
    /// name alone, and **never answers** a GetShardIterator at a time after the last record. A stream made anew within a
    /// second takes the old sequence numbers.
    Load,
    /// kinesalite in a world where time runs 200 times faster: iterators expire in 1.5 s, and arrivals lie in the future.
    Expiring,
    /// ministack: subscriptions, which end after 6 seconds here, at AWS after five minutes. A split deletes the parent and its records, sequence numbers begin with zeros, and any
    /// of them is taken.
    FanOut,
}

/// A lock that a failed test does not take away from the others.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that nobody else has: not another test, and hardly another process.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Where the servers are, installed where they are not there yet.
fn place() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/install.sh");
        let mut command = Command::new("bash");
        let done = command.arg(script).arg("kinesis").stderr(Stdio::inherit()).output().expect("bash runs install.sh");
        assert!(
            done.status.success(),
            "`tests/support/install.sh kinesis` failed ({}): it says why above",
            done.status
        );
        PathBuf::from(String::from_utf8(done.stdout).expect("a folder's name").trim())
    })
}

/// Ports that are free now. They lie below those that the system gives to outgoing connections, of which one could
/// otherwise take a server's port before it does.
fn free_ports() -> [u16; 2] {
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU32::new((random() % 20_000) as u32));
    std::array::from_fn(|_| {
        let mut ports = (0..20_000).map(|_| 12_000 + (next.fetch_add(1, Ordering::Relaxed) % 20_000) as u16);
        // Two of the servers listen on every interface.
        ports.find(|port| TcpListener::bind(("0.0.0.0", *port)).is_ok()).expect("a free port")
    })
}

/// The program of a server with its arguments and its environment.
fn program(server: Server, port: u16, spare: u16, folder: &Path) -> (Vec<String>, Vec<(String, String)>) {
    let file = |name: &str| place().join(name).to_string_lossy().into_owned();
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let port_text = port.to_string();
    let kinesalite = format!(
        "node {} --port {port} --createStreamMs 50 --deleteStreamMs 50 --updateStreamMs 50 --shardLimit 1000",
        file("node_modules/kinesalite/cli.js")
    );
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    match server {
        Server::Lineage => {
            let mut environment: Vec<_> = DURATIONS.iter().map(|name| set(name, "50ms")).collect();
            environment.push(set("KINESIS_MOCK_CERT_PATH", &file("node_modules/kinesis-local/server.json")));
            environment.push(set("KINESIS_MOCK_PLAIN_PORT", &port_text));
            environment.push(set("KINESIS_MOCK_TLS_PORT", &spare.to_string()));
            environment.push(set("SHARD_LIMIT", "1000"));
            environment.push(set("LOG_LEVEL", "ERROR"));
            (vec!["node".to_owned(), file("node_modules/kinesis-local/main.js")], environment)
        }
        Server::Load => (words(&kinesalite), Vec::new()),
        Server::Expiring => {
            // For the server alone: bash and the watchman live in real time.
            let mut command = vec!["env".to_owned(), format!("LD_PRELOAD={}", file("libfaketime.so.1"))];
            command.push("FAKETIME=+0 x200".to_owned());
            command.extend(words(&kinesalite));
            (command, Vec::new())
        }
        Server::FanOut => {
            let mut environment = vec![set("BIND_HOST", "127.0.0.1"), set("GATEWAY_PORT", &port_text)];
            environment.extend([set("SERVICES", "kinesis"), set("LOG_LEVEL", "ERROR")]);
            environment.push(set("TMPDIR", &folder.to_string_lossy()));
            (vec![file("bin/python"), "-c".to_owned(), MINISTACK.to_owned()], environment)
        }
    }
}

/// Whether a server answers ListStreams.
fn answers(port: u16) -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        // They look at the form of a signature alone.
        let request = "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Amz-Target: Kinesis_20131202.ListStreams\r\n\
             X-Amz-Date: 20260101T000000Z\r\nAuthorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/kinesis\
             /aws4_request, SignedHeaders=host, Signature=0\r\nContent-Type: application/x-amz-json-1.1\r\n\
             Content-Length: 2\r\nConnection: close\r\n\r\n{}";
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200") && answer.contains("StreamNames"))
    };
    ask().unwrap_or(false)
}

/// The process of a server.
struct Process {
    child: Child,
    input: ChildStdin,
    port: u16,
    _folder: TempDir,
}

impl Process {
    /// Starts a server and waits until it answers; None when somebody was faster to take its port.
    fn start(server: Server) -> Option<Self> {
        let folder = TempDir::new().expect("a folder");
        let [port, spare] = free_ports();
        let log = folder.path().join("server.log");
        let output = File::create(&log).expect("the server's log");
        let (words, environment) = program(server, port, spare, folder.path());
        let mut command = Command::new("bash");
        command.args(["-c", SERVER]).arg(folder.path()).args(words).envs(environment).current_dir(folder.path());
        command.stdin(Stdio::piped()).stdout(output.try_clone().expect("one more handle")).stderr(output);
        let mut child = command.spawn().expect("bash starts");
        let input = child.stdin.take().expect("standard input is piped");
        let mut process = Self { child, input, port, _folder: folder };
        let mut ended = None;
        until("the server does not start", || {
            // In this order: a process that lives after the answer has given it.
            let ready = answers(port);
            ended = process.child.try_wait().expect("the server's state");
            ready || ended.is_some()
        });
        let Some(ended) = ended else { return Some(process) };
        let said = std::fs::read_to_string(&log).expect("the server's log");
        let taken = ["EADDRINUSE", "already in use"].iter().any(|words| said.contains(words));
        assert!(taken, "{server:?} has ended ({ended}):\n{said}");
        None
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = writeln!(self.input, "leave");
    }
}

/// Runs the SDK to an end, on a runtime of the kit and from a thread of its own: the caller's may belong to another one.
fn finish<T: Send>(work: impl Future<Output = T> + Send) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().expect("a runtime")
    });
    thread::scope(|scope| scope.spawn(|| runtime.block_on(work)).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

/// Fails the test with the SDK's whole complaint.
fn fine<T, E>(result: Result<T, SdkError<E>>, what: &str) -> T
where
    SdkError<E>: std::error::Error,
{
    result.unwrap_or_else(|error| panic!("{what}: {}", DisplayErrorContext(&error)))
}

/// What the environment of a program must hold to find Kinesis at an address.
fn environment(url: &str) -> Vec<(String, String)> {
    let address = ("AWS_ENDPOINT_URL_KINESIS", url);
    KEYS.into_iter().chain([address]).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Where a record went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    pub shard: String,
    pub sequence: String,
}

/// A record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    pub shard: String,
    pub sequence: String,
    pub key: String,
    pub bytes: Vec<u8>,
    /// In milliseconds since 1970; some servers know it to the second.
    pub arrival_ms: i64,
}

/// A shard as ListShards has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    pub id: String,
    /// None, the one that was split, or the two that were merged; they may be gone.
    pub parents: Vec<String>,
    /// The first and the last hash key.
    pub hash: (u128, u128),
    /// The first sequence number.
    pub start: String,
    /// The last one, of a closed shard.
    pub end: Option<String>,
}

impl Shard {
    fn new(shard: &aws_sdk_kinesis::types::Shard) -> Self {
        let hash = shard.hash_key_range().expect("a range of hash keys");
        let number = |text: &str| text.parse().expect("a hash key");
        let sequence = shard.sequence_number_range().expect("a range of sequence numbers");
        let parents = [shard.parent_shard_id(), shard.adjacent_parent_shard_id()];
        Self {
            id: shard.shard_id().to_owned(),
            parents: parents.into_iter().flatten().map(str::to_owned).collect(),
            hash: (number(hash.starting_hash_key()), number(hash.ending_hash_key())),
            start: sequence.starting_sequence_number().to_owned(),
            end: sequence.ending_sequence_number().map(str::to_owned),
        }
    }
}

/// A running server, which ends when it is dropped.
pub struct Kinesis {
    process: Process,
    client: Client,
}

impl Kinesis {
    /// Starts one more.
    pub fn start(server: Server) -> Self {
        let process = (0..5).find_map(|_| Process::start(server)).expect("a port that nobody takes");
        let config = aws_sdk_kinesis::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "the tests"))
            .endpoint_url(format!("http://127.0.0.1:{}", process.port));
        Self { client: Client::from_conf(config.build()), process }
    }

    /// The one that all tests of this process share.
    pub fn shared(server: Server) -> &'static Self {
        static SHARED: [OnceLock<Kinesis>; 4] = [const { OnceLock::new() }; 4];
        SHARED[server as usize].get_or_init(|| Self::start(server))
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.process.port)
    }

    /// What the environment of a program must hold to find it.
    pub fn env(&self) -> Vec<(String, String)> {
        environment(&self.url())
    }

    /// Makes a stream and waits until it is active.
    pub fn create_stream(&self, name: &str, shards: usize) {
        let shards = i32::try_from(shards).expect("a number of shards");
        finish(async {
            fine(self.client.create_stream().stream_name(name).shard_count(shards).send().await, "CreateStream");
        });
        self.active(name);
    }

    /// Deletes a stream and waits until it is gone.
    pub fn delete_stream(&self, name: &str) {
        finish(async {
            fine(self.client.delete_stream().stream_name(name).send().await, "DeleteStream");
        });
        until("the stream does not go away", || self.status(name).is_none());
    }

    /// The state of a stream; None when there is none.
    fn status(&self, name: &str) -> Option<StreamStatus> {
        let result = finish(self.client.describe_stream_summary().stream_name(name).send());
        let missing = |error: &SdkError<_, _>| {
            let error: Option<&aws_sdk_kinesis::operation::describe_stream_summary::DescribeStreamSummaryError> =
                error.as_service_error();
            error.is_some_and(|error| error.is_resource_not_found_exception())
        };
        if result.as_ref().is_err_and(missing) {
            return None;
        }
        let summary = fine(result, "DescribeStreamSummary").stream_description_summary;
        Some(summary.expect("a summary").stream_status)
    }

    fn active(&self, name: &str) {
        until("the stream does not become active", || self.status(name) == Some(StreamStatus::Active));
    }

    /// Writes records, each a partition key and bytes, with PutRecords; says in the same order where they went.
    pub fn put(&self, name: &str, records: &[(&str, &[u8])]) -> Vec<Put> {
        let mut done: Vec<Option<Put>> = vec![None; records.len()];
        let deadline = Instant::now() + PATIENCE;
        let mut open: Vec<usize> = (0..records.len()).collect();
        while !open.is_empty() {
            assert!(Instant::now() < deadline, "`{name}` does not take all records");
            for call in calls_of(&open, records) {
                self.put_call(name, call, records, &mut done);
            }
            // A record that was refused alone, as by a shard that is full, is tried again.
            open.retain(|index| done[*index].is_none());
            if !open.is_empty() {
                thread::sleep(Duration::from_millis(50));
            }
        }
        done.into_iter().flatten().collect()
    }

    /// One PutRecords.
    fn put_call(&self, name: &str, call: &[usize], records: &[(&str, &[u8])], done: &mut [Option<Put>]) {
        let entry = |index: &usize| {
            let (key, bytes) = records[*index];
            let entry = PutRecordsRequestEntry::builder().partition_key(key).data(Blob::new(bytes));
            entry.build().expect("a whole record")
        };
        let entries = call.iter().map(entry).collect();
        let put = self.client.put_records().stream_name(name).set_records(Some(entries));
        let answer = fine(finish(put.send()), "PutRecords");
        assert_eq!(answer.records().len(), call.len(), "an answer for each record");
        for (index, answer) in call.iter().zip(answer.records) {
            if let (None, Some(shard), Some(sequence)) = (answer.error_code, answer.shard_id, answer.sequence_number) {
                done[*index] = Some(Put { shard, sequence });
            }
        }
    }

    /// Writes a record to the shard that holds a hash key.
    pub fn put_at(&self, name: &str, key: &str, explicit_hash: &str, bytes: &[u8]) -> Put {
        let put = self.client.put_record().stream_name(name).partition_key(key).explicit_hash_key(explicit_hash);
        let answer = fine(finish(put.data(Blob::new(bytes)).send()), "PutRecord");
        Put { shard: answer.shard_id, sequence: answer.sequence_number }
    }

    /// All shards, in the order of their names.
    pub fn shards(&self, name: &str) -> Vec<Shard> {
        let (mut shards, mut next) = (Vec::new(), None);
        loop {
            let list = self.client.list_shards();
            // A token stands for the stream.
            let list = if next.is_some() { list.set_next_token(next) } else { list.stream_name(name) };
            let answer = fine(finish(list.send()), "ListShards");
            shards.extend(answer.shards().iter().map(Shard::new));
            next = answer.next_token;
            if next.is_none() {
                shards.sort_by(|a, b| a.id.cmp(&b.id));
                return shards;
            }
        }
    }

    /// The shards that take records.
    pub fn open_shards(&self, name: &str) -> Vec<Shard> {
        self.shards(name).into_iter().filter(|shard| shard.end.is_none()).collect()
    }

    /// Splits a shard at the middle of its hash keys, and waits until its two children are there.
    pub fn split(&self, name: &str, shard: &str) {
        let known = self.shards(name);
        let parent = known.iter().find(|known| known.id == shard).expect("a shard of the stream");
        let (first, last) = parent.hash;
        let middle = (first + (last - first) / 2 + 1).to_string();
        let split = self.client.split_shard().stream_name(name).shard_to_split(shard).new_starting_hash_key(middle);
        fine(finish(split.send()), "SplitShard");
        self.children(name, &known, 2);
    }

    /// Merges two shards that [`Self::neighbours`] names, and waits until their child is there.
    pub fn merge(&self, name: &str, shard: &str, adjacent: &str) {
        let known = self.shards(name);
        let merge = self.client.merge_shards().stream_name(name).shard_to_merge(shard);
        fine(finish(merge.adjacent_shard_to_merge(adjacent).send()), "MergeShards");
        self.children(name, &known, 1);
    }

    /// Waits until a stream is active and has this many shards more than it had.
    fn children(&self, name: &str, before: &[Shard], more: usize) {
        let known: BTreeSet<&str> = before.iter().map(|shard| shard.id.as_str()).collect();
        until("the new shards do not appear", || {
            let shards = self.shards(name);
            shards.iter().filter(|shard| !known.contains(shard.id.as_str())).count() == more
        });
        self.active(name);
    }

    /// The pairs of open shards that can be merged.
    pub fn neighbours(&self, name: &str) -> Vec<(String, String)> {
        let mut open = self.open_shards(name);
        open.sort_by_key(|shard| shard.hash);
        let pairs = open.windows(2).filter(|pair| pair[0].hash.1.checked_add(1) == Some(pair[1].hash.0));
        pairs.map(|pair| (pair[0].id.clone(), pair[1].id.clone())).collect()
    }

    /// Everything that is there: a shard after its parents, from its first record to its tip.
    pub fn drain(&self, name: &str) -> Vec<Got> {
        let mut shards = self.shards(name);
        let mut got = Vec::new();
        while !shards.is_empty() {
            let waiting: BTreeSet<String> = shards.iter().map(|shard| shard.id.clone()).collect();
            // A parent that is not listed is gone.
            let ready = |shard: &mut Shard| !shard.parents.iter().any(|parent| waiting.contains(parent));
            let now: Vec<Shard> = shards.extract_if(.., ready).collect();
            assert!(!now.is_empty(), "shards of `{name}` are each other's parents: {shards:?}");
            now.iter().for_each(|shard| self.drain_shard(name, shard, &mut got));
        }
        got
    }

    /// A closed shard ends with an answer that has no next iterator, an open one where nothing more comes.
    fn drain_shard(&self, name: &str, shard: &Shard, got: &mut Vec<Got>) {
        let first = self.client.get_shard_iterator().stream_name(name).shard_id(&shard.id);
        let first = first.shard_iterator_type(ShardIteratorType::TrimHorizon);
        let mut next = fine(finish(first.send()), "GetShardIterator").shard_iterator;
        let deadline = Instant::now() + PATIENCE;
        while let Some(iterator) = next {
            assert!(Instant::now() < deadline, "{} of `{name}` has no end", shard.id);
            let answer = fine(finish(self.client.get_records().shard_iterator(iterator).send()), "GetRecords");
            let nothing = answer.records().is_empty() && answer.millis_behind_latest() == Some(0);
            got.extend(answer.records.into_iter().map(|record| Got {
                shard: shard.id.clone(),
                sequence: record.sequence_number,
                key: record.partition_key.expect("a partition key"),
                bytes: record.data.into_inner(),
                arrival_ms: record.approximate_arrival_timestamp.expect("an arrival").to_millis().expect("a time"),
            }));
            next = answer.next_shard_iterator.filter(|_| shard.end.is_some() || !nothing);
        }
    }
}

/// Some records, divided into what one PutRecords takes.
fn calls_of<'a>(indexes: &'a [usize], records: &[(&str, &[u8])]) -> Vec<&'a [usize]> {
    let size = |index: usize| records[index].0.len() + records[index].1.len();
    let (mut calls, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (end, index) in indexes.iter().enumerate() {
        if end > start && (end - start == CALL_RECORDS || bytes + size(*index) > CALL_BYTES) {
            calls.push(&indexes[start..end]);
            (start, bytes) = (end, 0);
        }
        bytes += size(*index);
    }
    calls.push(&indexes[start..]);
    calls
}

/// A KPL aggregate of records, each a partition key, an explicit hash key and bytes: the magic bytes, an AggregatedRecord
/// of protobuf, and its MD5. Written by hand from the public description of the format, so that no decoder vouches for
/// its own encoder.
pub fn aggregate(records: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let (mut keys, mut hashes): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut inner = Vec::new();
    for (key, hash, bytes) in records {
        let mut record = Vec::new();
        number(&mut record, 1, place_of(&mut keys, key));
        if let Some(hash) = hash {
            number(&mut record, 2, place_of(&mut hashes, hash));
        }
        field(&mut record, 3, bytes);
        field(&mut inner, 3, &record);
    }
    let mut message = Vec::new();
    keys.iter().for_each(|key| field(&mut message, 1, key.as_bytes()));
    hashes.iter().for_each(|hash| field(&mut message, 2, hash.as_bytes()));
    message.extend(inner);
    let digest = Md5::digest(&message);
    [&MAGIC[..], &message, &digest[..]].concat()
}

/// The place of a text in its table, which gets it when it has not got it yet.
fn place_of<'a>(table: &mut Vec<&'a str>, text: &'a str) -> u64 {
    let found = table.iter().position(|known| *known == text);
    found.unwrap_or_else(|| {
        table.push(text);
        table.len() - 1
    }) as u64
}

/// A field of protobuf that is a number.
fn number(to: &mut Vec<u8>, tag: u8, value: u64) {
    to.push(tag << 3);
    varint(to, value);
}

/// A field of protobuf that is bytes.
fn field(to: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    to.push(tag << 3 | 2);
    varint(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

/// Seven bits a byte, the lowest first.
fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The server answers.
    Pass,
    /// 400, ProvisionedThroughputExceededException.
    Throttle,
    /// 500, InternalFailure.
    Fail,
    /// 400, ResourceNotFoundException.
    Missing,
    /// 400, ExpiredIteratorException.
    Expire,
    /// 200 without records, a second behind, with the same iterator as the next one: for GetRecords alone.
    Empty,
    /// The server answers; the client gets half of it, and the connection closes.
    Cut,
    /// The server answers in pages of two: for ListShards alone.
    Paged,
    /// The server answers, but says of the stream that it is being made: for DescribeStreamSummary alone.
    Creating,
}

/// A call that came.
#[derive(Debug, Clone)]
pub struct Call {
    /// Such as `GetRecords`.
    pub operation: String,
    /// The stream, where the call says it or its iterator is known.
    pub stream: Option<String>,
    /// The shard likewise.
    pub shard: Option<String>,
    /// How many calls of this operation on this shard came before.
    pub nth: usize,
    /// What was sent, but for records to put.
    pub request: Value,
    /// When all of it was there.
    pub arrival: Instant,
    /// What became of it; for the rule itself [`Verdict::Pass`].
    pub verdict: Verdict,
}

type Rule = dyn Fn(&Call) -> Verdict + Send + Sync;

/// The calls, and how many came of each operation, stream and shard.
#[derive(Default)]
struct Book {
    calls: Vec<Call>,
    counts: HashMap<(String, Option<String>, Option<String>), usize>,
}

struct Gate {
    upstream: String,
    stopping: AtomicBool,
    rule: Mutex<Arc<Rule>>,
    book: Mutex<Book>,
    /// The stream and the shard of each iterator that was given out.
    iterators: Mutex<HashMap<String, (String, String)>>,
}

/// A proxy before Kinesis that answers some calls itself; it stops when dropped.
pub struct Throttle {
    address: SocketAddr,
    gate: Arc<Gate>,
}

impl Throttle {
    /// Starts one in front of an address such as [`Kinesis::url`]. Until [`Self::set`] says something else, it throttles
    /// two of three GetRecords of each shard.
    pub fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("the port");
        let gate = Arc::new(Gate {
            upstream: upstream.trim_start_matches("http://").trim_end_matches('/').to_owned(),
            stopping: AtomicBool::new(false),
            rule: Mutex::new(Arc::new(two_of_three)),
            book: Mutex::default(),
            iterators: Mutex::default(),
        });
        let shared = Arc::clone(&gate);
        thread::spawn(move || accept(&listener, &shared));
        Self { address, gate }
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What the environment of a program must hold to find it.
    pub fn env(&self) -> Vec<(String, String)> {
        environment(&self.url())
    }

    /// Judges every call from now on by this rule. It runs on the connection's own thread, so a rule that sleeps makes a
    /// late answer.
    pub fn set(&self, rule: impl Fn(&Call) -> Verdict + Send + Sync + 'static) {
        *lock(&self.gate.rule) = Arc::new(rule);
    }

    /// The calls so far, in the order in which they came.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.gate.book).calls.clone()
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.gate.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections; if it cannot be reached, it has ended.
        let _ = TcpStream::connect(self.address);
    }
}

fn two_of_three(call: &Call) -> Verdict {
    if call.operation == "GetRecords" && call.nth % 3 < 2 { Verdict::Throttle } else { Verdict::Pass }
}

/// Serves connections until the proxy is dropped.
fn accept(listener: &TcpListener, gate: &Arc<Gate>) {
    for stream in listener.incoming() {
        if gate.stopping.load(Ordering::SeqCst) {
            return;
        }
        let (Ok(stream), gate) = (stream, Arc::clone(gate)) else { continue };
        thread::spawn(move || {
            // A client that goes away, or a server that is gone, ends this connection and nothing else.
            let _ = serve(&stream, &gate);
            let _ = stream.shutdown(Shutdown::Both);
        });
    }
}

/// Serves the calls of one connection, one after another.
fn serve(stream: &TcpStream, gate: &Gate) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut client = BufReader::new(stream);
    while let Some(head) = Head::read(&mut client)? {
        if gate.stopping.load(Ordering::SeqCst) || !gate.exchange(&mut client, &head)? || head.asks_to_close() {
            break;
        }
    }
    Ok(())
}

impl Gate {
    /// One call and its answer. False when the connection is to be closed.
    fn exchange(&self, client: &mut BufReader<&TcpStream>, head: &Head) -> io::Result<bool> {
        let body = whole(client, head.request_framing()?)?;
        let call = self.judge(head, &body);
        let to = client.get_mut();
        match call.verdict {
            Verdict::Pass | Verdict::Cut | Verdict::Creating => return self.forward(to, head, &body, &call),
            Verdict::Paged => return self.forward(to, head, &paged(&call.request), &call),
            Verdict::Throttle => {
                refuse(to, 400, "ProvisionedThroughputExceededException", &call.excess())?;
            }
            Verdict::Fail => refuse(to, 500, "InternalFailure", "made by the test")?,
            Verdict::Missing => refuse(to, 400, "ResourceNotFoundException", "made by the test")?,
            Verdict::Expire => refuse(to, 400, "ExpiredIteratorException", "Iterator expired: made by the test")?,
            Verdict::Empty => {
                let next = &call.request["ShardIterator"];
                let empty = json!({"Records": [], "NextShardIterator": next, "MillisBehindLatest": 1000});
                answer_with(to, 200, &empty)?;
            }
        }
        Ok(true)
    }

    /// Writes a call down and asks the rule about it.
    fn judge(&self, head: &Head, body: &[u8]) -> Call {
        let target = head.value("x-amz-target").unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let puts = operation.starts_with("Put");
        let request = if puts { Value::Null } else { serde_json::from_slice(body).unwrap_or_default() };
        let (stream, shard) = self.place_of(&request);
        let arrival = Instant::now();
        let mut call = Call { operation, stream, shard, nth: 0, request, arrival, verdict: Verdict::Pass };
        let place = {
            let mut book = lock(&self.book);
            let kind = (call.operation.clone(), call.stream.clone(), call.shard.clone());
            let count = book.counts.entry(kind).or_default();
            call.nth = *count;
            *count += 1;
            book.calls.push(call.clone());
            book.calls.len() - 1
        };
        // Not while the book is locked: the rule may look at the calls.
        let rule = Arc::clone(&lock(&self.rule));
        call.verdict = rule(&call);
        lock(&self.book).calls[place].verdict = call.verdict;
        call
    }

    /// The stream and the shard that a call is about.
    fn place_of(&self, request: &Value) -> (Option<String>, Option<String>) {
        if let Some(known) = request["ShardIterator"].as_str().and_then(|text| lock(&self.iterators).get(text).cloned())
        {
            return (Some(known.0), Some(known.1));
        }
        let named = request["StreamName"].as_str().or_else(|| request["StreamARN"].as_str()?.rsplit('/').next());
        (named.map(str::to_owned), request["ShardId"].as_str().map(str::to_owned))
    }

    /// Lets the server answer, and learns which iterators it gives.
    fn forward(&self, client: &mut &TcpStream, head: &Head, body: &[u8], call: &Call) -> io::Result<bool> {
        let mut server = TcpStream::connect(&self.upstream)?;
        server.set_nodelay(true)?;
        let framed = format!("Content-Length: {}\r\nConnection: close\r\n", body.len());
        server.write_all(&head.without(&HOPS, &framed))?;
        server.write_all(body)?;
        let mut server = BufReader::new(server);
        let answer = Head::read_final(&mut server)?;
        let framing = answer.answer_framing("POST")?;
        if call.operation == "SubscribeToShard" && call.verdict == Verdict::Pass {
            // Events come for minutes.
            return send(client, &answer, framing, &mut server);
        }
        let mut body = whole(&mut server, framing)?;
        if call.verdict == Verdict::Creating {
            body = creating(&body);
        }
        self.learn(call, &body);
        client.write_all(&answer.without(&HOPS, &format!("Content-Length: {}\r\n", body.len())))?;
        let cut = call.verdict == Verdict::Cut;
        client.write_all(if cut { &body[..body.len() / 2] } else { &body })?;
        client.flush()?;
        Ok(!cut)
    }

    /// Remembers whose iterator an answer holds.
    fn learn(&self, call: &Call, body: &[u8]) {
        let name = match call.operation.as_str() {
            "GetShardIterator" => "ShardIterator",
            "GetRecords" => "NextShardIterator",
            _ => return,
        };
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        if let (Some(iterator), Some(stream), Some(shard)) = (answer[name].as_str(), &call.stream, &call.shard) {
            lock(&self.iterators).insert(iterator.to_owned(), (stream.clone(), shard.clone()));
        }
    }
}

impl Call {
    /// What AWS says about a shard that is asked too often.
    fn excess(&self) -> String {
        let [shard, stream] = [&self.shard, &self.stream].map(|name| name.as_deref().unwrap_or("unknown"));
        format!("Rate exceeded for shard {shard} in stream {stream} under account 000000000000.")
    }
}

/// A ListShards whose answers hold two shards.
fn paged(request: &Value) -> Vec<u8> {
    let mut request = request.clone();
    request["MaxResults"] = json!(2);
    request.to_string().into_bytes()
}

/// A description of a stream that is being made.
fn creating(answer: &[u8]) -> Vec<u8> {
    let mut answer: Value = serde_json::from_slice(answer).expect("an answer in JSON");
    answer["StreamDescriptionSummary"]["StreamStatus"] = json!("CREATING");
    answer.to_string().into_bytes()
}

/// The headers that belong to one connection.
const HOPS: [&str; 5] = ["connection", "keep-alive", "expect", "content-length", "transfer-encoding"];

/// An answer of the proxy's own.
fn answer_with(client: &mut &TcpStream, status: u16, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    let kind = "Content-Type: application/x-amz-json-1.1\r\nx-amzn-RequestId: made-by-the-test";
    write!(client, "HTTP/1.1 {status} -\r\n{kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    client.flush()
}

/// A complaint in the form of AWS.
fn refuse(client: &mut &TcpStream, status: u16, kind: &str, message: &str) -> io::Result<()> {
    answer_with(client, status, &json!({"__type": kind, "message": message}))
}

/// A body without its framing.
fn whole(from: &mut impl BufRead, framing: Framing) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    let Framing::Chunks = framing else {
        copy_body(from, &mut body, framing)?;
        return Ok(body);
    };
    loop {
        let size = line(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let digits = size.split(';').next().unwrap_or_default().trim();
        let length = u64::from_str_radix(digits, 16).map_err(|_| invalid("a chunk without a size"))?;
        copy_body(from, &mut body, Framing::Length(length))?;
        // The end of the chunk's line; after the last chunk it ends the trailer, which nobody here writes.
        if !line(from)?.ok_or(io::ErrorKind::UnexpectedEof)?.is_empty() {
            return Err(invalid("a chunk without an end"));
        }
        if length == 0 {
            return Ok(body);
        }
    }
}
