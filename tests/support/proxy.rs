//! A reverse proxy for HTTP/1.1 that loses, spoils or delays answers as it is told, in front of a service of the tests.
//!
//! Uses nothing of the project and nothing but the standard library: one thread per connection of a client, and one
//! connection to the service per request. Bodies stream through as they come, in both framings (`Content-Length` and
//! chunks). Where a [`Fault`] needs the whole answer, the request has taken effect before the client learns of it.
#![allow(clippy::expect_used, reason = "the kit fails a test by panicking")]

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The longest head of a message; S3's requests stay below 8 KB.
const HEAD_LIMIT: usize = 64 * 1024;

/// What happens to a request that a rule names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is forwarded and takes effect; the client's connection closes without an answer.
    DropAfter,
    /// It is forwarded and takes effect; the client gets this status instead of the answer.
    AnswerAfter(u16),
    /// It is not forwarded; the client gets this status.
    AnswerInstead(u16),
    /// It is not forwarded; the client's connection closes without an answer.
    DropInstead,
    /// It is forwarded; the client gets the head of the answer and half of its body, then the connection closes.
    Cut,
    /// It is forwarded and takes effect; the answer waits this long.
    Late(Duration),
}

/// Which requests meet a fault: the `from`-th that matches, counted from 1, and `times - 1` more.
#[derive(Debug, Clone)]
struct Rule {
    method: String,
    path: String,
    from: u64,
    times: u64,
    seen: u64,
    fault: Fault,
}

impl Rule {
    /// Counts a request that matches, and says whether it is one of those to spoil.
    fn meets(&mut self, method: &str, target: &str) -> bool {
        if (self.method != "*" && self.method != method) || !target.contains(&self.path) {
            return false;
        }
        self.seen += 1;
        self.seen >= self.from && self.seen - self.from < self.times
    }
}

/// A request that came through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Such as `PUT`.
    pub method: String,
    /// The path and the query as sent, percent-encoded.
    pub target: String,
    /// What was done to it.
    pub fault: Option<Fault>,
}

#[derive(Debug)]
struct State {
    upstream: String,
    delay: AtomicU64,
    stopping: AtomicBool,
    rules: Mutex<Vec<Rule>>,
    requests: Mutex<Vec<Request>>,
}

/// A running proxy; it stops when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

impl Proxy {
    /// Starts one on a free port of 127.0.0.1, in front of an endpoint such as `http://127.0.0.1:40123`.
    pub fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("the port");
        let state = Arc::new(State {
            upstream: upstream.trim_start_matches("http://").trim_end_matches('/').to_owned(),
            delay: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            rules: Mutex::default(),
            requests: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || accept(&listener, &shared));
        Self { address, state }
    }

    /// Where clients find it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Delays every answer from now on.
    pub fn delay(&self, by: Duration) {
        self.state.delay.store(u64::try_from(by.as_micros()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Spoils the `nth` request from now on, counted from 1, of this method (`*` for any) whose path or query holds
    /// `path`. The first rule that applies counts.
    pub fn on(&self, method: &str, path: &str, nth: u64, fault: Fault) {
        self.on_each(method, path, nth, 1, fault);
    }

    /// Spoils `times` such requests, beginning with the `from`-th.
    pub fn on_each(&self, method: &str, path: &str, from: u64, times: u64, fault: Fault) {
        let rule = Rule { method: method.to_owned(), path: path.to_owned(), from, times, seen: 0, fault };
        lock(&self.state.rules).push(rule);
    }

    /// Forgets all rules, and the delay.
    pub fn clear(&self) {
        lock(&self.state.rules).clear();
        self.delay(Duration::ZERO);
    }

    /// The requests so far, in the order in which their heads came.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.state.requests).clone()
    }

    /// How many requests came of each method.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for request in lock(&self.state.requests).iter() {
            *counts.entry(request.method.clone()).or_default() += 1;
        }
        counts
    }

    /// How many requests were spoiled.
    pub fn spoiled(&self) -> usize {
        lock(&self.state.requests).iter().filter(|request| request.fault.is_some()).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections; if it cannot be reached, it has ended.
        let _ = TcpStream::connect(self.address);
    }
}

/// A lock that a failed test does not take away from the others.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves connections until the proxy is dropped.
fn accept(listener: &TcpListener, state: &Arc<State>) {
    for stream in listener.incoming() {
        if state.stopping.load(Ordering::SeqCst) {
            return;
        }
        let (Ok(stream), state) = (stream, Arc::clone(state)) else { continue };
        std::thread::spawn(move || {
            // A client that goes away, or a service that is gone, ends this connection and nothing else.
            let _ = serve(&stream, &state);
            let _ = stream.shutdown(Shutdown::Both);
        });
    }
}

/// Serves the requests of one connection, one after another.
fn serve(stream: &TcpStream, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut client = BufReader::new(stream);
    while let Some(head) = Head::read(&mut client)? {
        if state.stopping.load(Ordering::SeqCst) || !exchange(&mut client, &head, state)? || head.asks_to_close() {
            break;
        }
    }
    Ok(())
}

/// One request and its answer. False when the connection is to be closed.
fn exchange(client: &mut BufReader<&TcpStream>, head: &Head, state: &State) -> io::Result<bool> {
    let (method, target) = head.request_line();
    let fault = lock(&state.rules).iter_mut().fold(None, |found, rule| {
        let meets = rule.meets(method, target);
        found.or_else(|| meets.then_some(rule.fault))
    });
    lock(&state.requests).push(Request { method: method.to_owned(), target: target.to_owned(), fault });
    if head.value("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
        client.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if let Some(Fault::AnswerInstead(_) | Fault::DropInstead) = fault {
        copy_body(client, &mut io::sink(), head.request_framing()?)?;
        std::thread::sleep(state.delay());
        return answer_instead(client.get_mut(), method, fault);
    }
    let mut upstream = BufReader::new(forward(client, head, state)?);
    let answer = Head::read_final(&mut upstream)?;
    let framing = answer.answer_framing(method)?;
    std::thread::sleep(state.delay());
    deliver(client.get_mut(), method, (&answer, framing, &mut upstream), fault)
}

impl State {
    fn delay(&self) -> Duration {
        Duration::from_micros(self.delay.load(Ordering::SeqCst))
    }
}

/// Sends a request to the service, and gives the connection on which its answer comes.
fn forward(client: &mut impl BufRead, head: &Head, state: &State) -> io::Result<TcpStream> {
    let mut upstream = TcpStream::connect(&state.upstream)?;
    upstream.set_nodelay(true)?;
    upstream.write_all(&head.without(&["connection", "keep-alive", "expect"], "Connection: close\r\n"))?;
    copy_body(client, &mut upstream, head.request_framing()?)?;
    upstream.flush()?;
    Ok(upstream)
}

/// Gives the client the service's answer, or what the fault makes of it. False when the connection is to be closed.
fn deliver(
    client: &mut &TcpStream,
    method: &str,
    (answer, framing, upstream): (&Head, Framing, &mut BufReader<TcpStream>),
    fault: Option<Fault>,
) -> io::Result<bool> {
    match fault {
        None => send(client, answer, framing, upstream),
        Some(Fault::Late(wait)) => {
            std::thread::sleep(wait);
            send(client, answer, framing, upstream)
        }
        Some(Fault::Cut) => {
            let mut whole = Vec::new();
            send(&mut whole, answer, framing, upstream)?;
            let body = whole.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
            client.write_all(&whole[..body + (whole.len() - body) / 2])?;
            Ok(false)
        }
        Some(_) => {
            // Read to the end, so that the service is done before the client hears of a failure.
            copy_body(upstream, &mut io::sink(), framing)?;
            answer_instead(client, method, fault)
        }
    }
}

/// Passes an answer on. One without a length becomes chunked, so that the client's connection can stay open.
pub(super) fn send(
    client: &mut impl Write,
    answer: &Head,
    framing: Framing,
    upstream: &mut impl BufRead,
) -> io::Result<bool> {
    let more = if matches!(framing, Framing::Close) { "Transfer-Encoding: chunked\r\n" } else { "" };
    client.write_all(&answer.without(&["connection", "keep-alive"], more))?;
    if matches!(framing, Framing::Close) {
        copy_as_chunks(upstream, client)?;
    } else {
        copy_body(upstream, client, framing)?;
    }
    client.flush()?;
    Ok(true)
}

/// Answers with the fault's own status, or closes the connection.
fn answer_instead(client: &mut &TcpStream, method: &str, fault: Option<Fault>) -> io::Result<bool> {
    let Some(Fault::AnswerAfter(status) | Fault::AnswerInstead(status)) = fault else {
        return Ok(false);
    };
    let code = s3_code(status);
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>made by the test</Message></Error>");
    let shown = if method == "HEAD" { "" } else { &body };
    write!(
        client,
        "HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n{shown}",
        body.len()
    )?;
    client.flush()?;
    Ok(true)
}

/// The name that S3 gives a status.
fn s3_code(status: u16) -> &'static str {
    match status {
        400 => "ExpiredToken",
        403 => "AccessDenied",
        404 => "NoSuchKey",
        409 => "ConditionalRequestConflict",
        412 => "PreconditionFailed",
        500 => "InternalError",
        503 => "SlowDown",
        _ => "Fault",
    }
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy)]
pub(super) enum Framing {
    Length(u64),
    Chunks,
    Close,
}

/// The first line and the headers of a message.
#[derive(Debug)]
pub(super) struct Head {
    first: String,
    headers: Vec<(String, String)>,
}

impl Head {
    /// Reads one; None when the connection ends where a message could begin.
    pub(super) fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let Some(first) = line(from)? else { return Ok(None) };
        let (mut headers, mut size) = (Vec::new(), first.len());
        loop {
            let text = line(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            size += text.len();
            if text.is_empty() {
                return Ok(Some(Self { first, headers }));
            }
            let (name, value) = text.split_once(':').ok_or_else(|| invalid("a header without a colon"))?;
            if size > HEAD_LIMIT {
                return Err(invalid("a head that is too long"));
            }
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// Reads the answer that counts, past any 1xx.
    pub(super) fn read_final(from: &mut impl BufRead) -> io::Result<Self> {
        loop {
            let head = Self::read(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if !(100..200).contains(&head.status()?) {
                return Ok(head);
            }
        }
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The method and the target of a request.
    fn request_line(&self) -> (&str, &str) {
        let mut words = self.first.split(' ');
        (words.next().unwrap_or_default(), words.next().unwrap_or_default())
    }

    fn status(&self) -> io::Result<u16> {
        let word = self.first.split(' ').nth(1).and_then(|word| word.parse().ok());
        word.ok_or_else(|| invalid("an answer without a status"))
    }

    pub(super) fn asks_to_close(&self) -> bool {
        self.value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    fn framing(&self) -> io::Result<Option<Framing>> {
        if self.value("transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().contains("chunked")) {
            return Ok(Some(Framing::Chunks));
        }
        let length = self.value("content-length").map(str::parse);
        let length = length.transpose().map_err(|_| invalid("a Content-Length that is no number"))?;
        Ok(length.map(Framing::Length))
    }

    /// A request without a length has no body.
    pub(super) fn request_framing(&self) -> io::Result<Framing> {
        Ok(self.framing()?.unwrap_or(Framing::Length(0)))
    }

    /// An answer without a length goes on until the connection closes, unless it can have no body.
    pub(super) fn answer_framing(&self, method: &str) -> io::Result<Framing> {
        if method == "HEAD" || matches!(self.status()?, 204 | 304) {
            return Ok(Framing::Length(0));
        }
        Ok(self.framing()?.unwrap_or(Framing::Close))
    }

    /// The text of this head, as HTTP/1.1, without some headers and with more.
    pub(super) fn without(&self, left_out: &[&str], more: &str) -> Vec<u8> {
        let first = match self.first.strip_prefix("HTTP/1.0") {
            Some(rest) => format!("HTTP/1.1{rest}"),
            None => self.first.clone(),
        };
        let mut text = first + "\r\n";
        for (name, value) in &self.headers {
            if !left_out.iter().any(|other| name.eq_ignore_ascii_case(other)) {
                text.extend([name, ": ", value, "\r\n"]);
            }
        }
        (text + more + "\r\n").into_bytes()
    }
}

pub(super) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A line without its end; None at the end of the connection.
pub(super) fn line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    from.take(HEAD_LIMIT as u64).read_until(b'\n', &mut bytes)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    // Header values may be Latin-1; keys come percent-encoded.
    Ok(Some(String::from_utf8(bytes).map_err(|_| invalid("a head that is not UTF-8"))?))
}

/// Copies a body with its framing as it is.
pub(super) fn copy_body(from: &mut impl BufRead, to: &mut impl Write, framing: Framing) -> io::Result<()> {
    match framing {
        Framing::Length(length) => copy_exactly(from, to, length),
        Framing::Chunks => copy_chunks(from, to),
        Framing::Close => io::copy(from, to).map(drop),
    }
}

fn copy_exactly(from: &mut impl BufRead, to: &mut impl Write, length: u64) -> io::Result<()> {
    let copied = io::copy(&mut from.take(length), to)?;
    if copied == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Copies chunks up to the last, and the trailer behind it.
fn copy_chunks(from: &mut impl BufRead, to: &mut impl Write) -> io::Result<()> {
    loop {
        let size = line(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        write!(to, "{size}\r\n")?;
        let digits = size.split(';').next().unwrap_or_default().trim();
        let length = u64::from_str_radix(digits, 16).map_err(|_| invalid("a chunk without a size"))?;
        if length == 0 {
            break;
        }
        copy_exactly(from, to, length + 2)?;
    }
    loop {
        let trailer = line(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        write!(to, "{trailer}\r\n")?;
        if trailer.is_empty() {
            return Ok(());
        }
    }
}

/// Copies a body that ends with its connection, as chunks.
fn copy_as_chunks(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer)?;
        write!(to, "{read:x}\r\n")?;
        to.write_all(&buffer[..read])?;
        to.write_all(b"\r\n")?;
        if read == 0 {
            return Ok(());
        }
    }
}
