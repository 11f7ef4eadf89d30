//! The real services of the tests: a Python with independent Delta readers, moto as S3, and Spark as the stand-in for
//! Databricks.
//!
//! Uses nothing of the project. Everything is installed by `install.sh` into a cache outside the clone when it is first
//! asked for, listens on 127.0.0.1 at a port that the system chose, and ends with the process of the tests, however that
//! ends: every service reads its standard input and leaves when that closes. Nothing is skipped in silence: what is
//! missing is a failure that says what to install, and only `PINSQL_TEST_WITHOUT=python,s3,spark,kafka` leaves parts out, with
//! one line for each.
#![allow(clippy::expect_used, clippy::panic, reason = "the kit fails a test by panicking")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::Value;

/// The keys and the region that the services of the tests take.
const KEYS: [(&str, &str); 6] = [
    ("AWS_ACCESS_KEY_ID", "test"),
    ("AWS_SECRET_ACCESS_KEY", "test"),
    ("AWS_REGION", "us-east-1"),
    ("AWS_DEFAULT_REGION", "us-east-1"),
    ("AWS_ALLOW_HTTP", "true"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

/// What moto takes for a signature: it looks at the form alone, and refuses to read an object without one.
pub const SIGNED: &str = "Authorization: AWS4-HMAC-SHA256 \
    Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0\r\n";

/// moto in a process that says its port and leaves when its standard input closes.
const MOTO: &str = "\
import os, sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.buffer.read()
os._exit(0)
";

/// Whether the person who runs the tests leaves a part out: `python`, `s3`, `spark` or `kafka`. Says so once, where no test
/// harness can swallow it.
pub fn left_out(part: &str) -> bool {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let without = std::env::var_os("PINSQL_TEST_WITHOUT").unwrap_or_default();
    let out = without.to_string_lossy().split(',').any(|name| name.trim() == part);
    if out && lock(&SAID).insert(part.to_owned()) {
        // A test passes even where standard error is closed.
        let _ = writeln!(std::io::stderr(), "left out: {part} (PINSQL_TEST_WITHOUT)");
    }
    out
}

/// A lock that a failed test does not take away from the others.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file of the folder `tests`.
fn test_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// Installs a part where it is not there yet, and says where it is.
fn install(part: &str) -> PathBuf {
    let script = test_file("support/install.sh");
    let done =
        Command::new("bash").arg(script).arg(part).stderr(Stdio::inherit()).output().expect("bash runs install.sh");
    assert!(done.status.success(), "`tests/support/install.sh {part}` failed ({}): it says why above", done.status);
    PathBuf::from(String::from_utf8(done.stdout).expect("a folder's name").trim())
}

/// The Python that has the readers' packages (`deltalake`, `pyarrow`, `duckdb`).
pub fn python() -> PathBuf {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| install("python").join("bin/python")).clone()
}

/// The rows of a Delta table as `tests/readers/<reader>` prints them, in the form that `deltalake_reader.py` describes.
/// The arguments follow the table's address, such as `&["--filter", "id > 1"]`.
pub fn read(reader: &str, table: &str, arguments: &[&str]) -> Vec<Value> {
    let mut command = Command::new(python());
    command.arg("-B").arg(test_file("readers").join(reader)).arg(table).args(arguments).envs(KEYS);
    lines_of(&mut command, reader)
}

/// Runs Python text with arguments, and gives its lines of JSON: for tables that somebody else writes. It does not end by
/// way of the interpreter's teardown: `leave` in `readers/deltalake_reader.py` says why.
pub fn run_python(text: &str, arguments: &[&str]) -> Vec<Value> {
    let whole = format!("{text}\nimport os, sys\nsys.stdout.flush()\nos._exit(0)\n");
    let mut command = Command::new(python());
    command.args(["-c", &whole]).args(arguments).envs(KEYS);
    lines_of(&mut command, "the Python text")
}

/// Runs a command to its end and reads each line of its output as JSON.
fn lines_of(command: &mut Command, name: &str) -> Vec<Value> {
    let done = command.output().unwrap_or_else(|error| panic!("`{name}` did not start: {error}"));
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "`{name}` failed ({}):\n{complaint}", done.status);
    let text = String::from_utf8(done.stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// What pinsql and the AWS tools need in their environment to use an endpoint: [`Moto::endpoint`], or a proxy before it.
pub fn aws_environment(endpoint: &str) -> Vec<(&'static str, String)> {
    let mut variables: Vec<_> = KEYS.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    variables.push(("AWS_ENDPOINT_URL", endpoint.to_owned()));
    variables.push(("AWS_ENDPOINT_URL_S3", endpoint.to_owned()));
    variables
}

/// A service in a process of its own, which leaves when its standard input closes.
struct Service {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Service {
    fn start(command: &mut Command, name: &str) -> Self {
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.unwrap_or_else(|error| panic!("`{name}` did not start: {error}"));
        let output = BufReader::new(child.stdout.take().expect("standard output is piped"));
        Self { input: child.stdin.take(), output, child }
    }

    /// The next line, or None when the service has ended.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.output.read_line(&mut line).expect("the service's output");
        (read > 0).then(|| line.trim_end().to_owned())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.input.take());
        // It may have ended by itself; either way it is waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An S3 (and Kinesis) that runs on this machine and forgets everything when it ends.
pub struct Moto {
    /// Where it listens, such as `http://127.0.0.1:40123`.
    pub endpoint: String,
    _service: Service,
}

impl Moto {
    /// The one that all tests of this process share: give each test a bucket of its own.
    pub fn start() -> &'static Self {
        static SHARED: OnceLock<Moto> = OnceLock::new();
        SHARED.get_or_init(Self::alone)
    }

    /// One more, which ends when it is dropped.
    pub fn alone() -> Self {
        let mut command = Command::new(install("moto").join("bin/python"));
        // It logs every request; a complaint of its own comes back as an answer.
        command.args(["-c", MOTO]).envs(KEYS).stderr(Stdio::null());
        let mut service = Service::start(&mut command, "moto");
        let port = service.line().expect("moto says its port, or its installation is broken: remove its folder");
        Self { endpoint: format!("http://127.0.0.1:{port}"), _service: service }
    }

    /// Makes a bucket, and gives its address `s3://<name>`.
    pub fn bucket(&self, name: &str) -> String {
        let (status, body) = http(&self.endpoint, "PUT", &format!("/{name}"), b"").expect("moto answers");
        assert_eq!(status, 200, "bucket `{name}`: {}", String::from_utf8_lossy(&body));
        format!("s3://{name}")
    }

    /// The environment for pinsql: see [`aws_environment`].
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        aws_environment(&self.endpoint)
    }
}

/// One plain HTTP request on a connection of its own: the status and the body. An error when no whole answer came.
pub fn http(endpoint: &str, method: &str, path: &str, body: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
    let host = endpoint.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(host)?;
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n{SIGNED}")?;
    stream.write_all(b"Connection: close\r\n\r\n")?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse_answer(method, &answer).ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
}

/// The status and the body of a whole answer with a Content-Length, as moto gives them.
fn parse_answer(method: &str, answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body = answer[end + 4..].to_vec();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let whole = method == "HEAD" || length.is_none_or(|length| body.len() == length);
    whole.then_some((status, body))
}

/// A session of Spark with Delta, shared by all tests of the process.
pub struct Spark {
    service: Mutex<Service>,
}

/// The session of Spark; starting it takes some seconds, once.
pub fn spark() -> &'static Spark {
    static SHARED: OnceLock<Spark> = OnceLock::new();
    SHARED.get_or_init(|| {
        let place = install("spark");
        let mut command = Command::new(place.join("bin/python"));
        command.arg("-B").arg(test_file("readers/spark.py")).env("PINSQL_TEST_JARS", place.join("delta-jars"));
        // Spark takes its Python from the path unless it is told.
        command.env("PYSPARK_PYTHON", place.join("bin/python")).env_remove("SPARK_HOME");
        Spark { service: Mutex::new(Service::start(&mut command, "Spark")) }
    })
}

impl Spark {
    /// Runs tasks, which `tests/readers/spark.py` describes, and gives an answer for each; a failed task fails the test.
    pub fn run(&self, tasks: &[Value]) -> Vec<Value> {
        let answers = self.answers(tasks);
        for answer in &answers {
            assert!(answer.get("error").is_none(), "Spark: {answer}");
        }
        answers
    }

    /// The rows of a table, sorted by a column.
    pub fn read(&self, table: &str, order: &str) -> Vec<Value> {
        rows(self.run(&[serde_json::json!({"kind": "read", "table": table, "order": order})]).remove(0))
    }

    /// Runs tasks; an answer may hold an `error`.
    pub fn answers(&self, tasks: &[Value]) -> Vec<Value> {
        let mut service = lock(&self.service);
        let job = Value::from(tasks.to_vec());
        let input = service.input.as_mut().expect("the input is open");
        writeln!(input, "{job}").and_then(|()| input.flush()).expect("Spark has ended: it says why above");
        let answers = tasks.iter().map(|_| service.line().expect("Spark has ended: it says why above"));
        answers.map(|line| serde_json::from_str(&line).expect("a line of JSON")).collect()
    }
}

/// The rows in an answer of Spark.
pub fn rows(mut answer: Value) -> Vec<Value> {
    match answer.get_mut("rows").map(Value::take) {
        Some(Value::Array(rows)) => rows,
        _ => panic!("Spark's answer has no rows: {answer}"),
    }
}
