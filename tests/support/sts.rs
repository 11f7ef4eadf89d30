//! A stand-in of the service that hands out roles of AWS.
//!
//! Uses nothing of the project.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Hands out one role, or is away; keeps what it was asked.
pub struct Sts {
    /// For `AWS_ENDPOINT_URL_STS`.
    pub endpoint: String,
    is_away: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Sts {
    /// The role's keys have the id `OFROLE` and this session token; `end` says when they end, in the words of the service.
    pub fn start(session: &'static str, end: impl Fn() -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (is_away, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let sts = Self { endpoint, is_away: Arc::clone(&is_away), asked: Arc::clone(&asked) };
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                asked.lock().unwrap().push(question(&mut stream));
                let (status, body) = match is_away.load(Ordering::SeqCst) {
                    true => ("500 Internal Server Error", String::new()),
                    false => ("200 OK", role(session, &end())),
                };
                let head = "content-type: text/xml\r\nconnection: close\r\ncontent-length";
                // Whoever asked may have gone.
                let _ = write!(stream, "HTTP/1.1 {status}\r\n{head}: {}\r\n\r\n{body}", body.len());
            }
        });
        sts
    }

    /// From now on it answers with a fault of its own, or no longer does.
    pub fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
    }

    /// The requests so far, each as it came.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn question(stream: &mut TcpStream) -> String {
    let (mut question, mut piece) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&question).contains("Action=AssumeRole") {
        let Ok(read @ 1..) = stream.read(&mut piece) else { break };
        question.extend_from_slice(&piece[..read]);
    }
    String::from_utf8_lossy(&question).into_owned()
}

fn role(session: &str, end: &str) -> String {
    format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
         <AccessKeyId>OFROLE</AccessKeyId><SecretAccessKey>y</SecretAccessKey><SessionToken>{session}</SessionToken>\
         <Expiration>{end}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
    )
}
