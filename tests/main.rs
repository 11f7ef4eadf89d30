//! All integration tests, in one binary: a second one would cost a link of 300 MB.
//!
//! `support` starts real services and holds the stores that fail; the rest is a module a subject. What a test needs and
//! cannot find is a failure that says what to install; PINSQL_TEST_WITHOUT leaves parts out by name.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout, reason = "tests are not the product")]

mod support;

mod architecture;
mod crash;
mod decode;
mod engine;
mod faces;
mod failures;
mod iam;
mod kafka;
mod kinesis;
mod kit;
mod readers;
mod security;
mod settings;
mod shipped;
mod statements;
mod stream;
