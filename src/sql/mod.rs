//! SQL: from text to plans.
//!
//! Floor 4: uses `source`, `delta`, `options`, `store`, `clock`, `error`. A file's text becomes tokens ([`tokens`]), with its variables replaced
//! ([`variables`]); tokens become statements ([`parser`], [`statement`]), a query's tables and streams are found
//! ([`query`]); names become sources and tables ([`catalog`]); a query becomes a plan ([`session`]), which may have to be
//! maintainable ([`maintain`]) and may carry its records along ([`lineage`]).

pub mod catalog;
mod create;
mod dialect;
mod faults;
pub mod lineage;
pub mod maintain;
pub mod parser;
pub mod query;
mod refusals;
mod relations;
mod secrets;
pub mod session;
mod stars;
pub mod statement;
mod streams;
pub mod text;
pub mod tokens;
pub mod types;
pub mod variables;

pub use self::faults::{explain, explain_at};
pub use self::stars::hide_column;
