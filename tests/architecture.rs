//! The house keeps its floors: a room uses only lower ones, and one room knows each outside system.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::support::world::home;

const FLOORS: [&[&str]; 8] = [
    &["error", "clock", "memory"],
    &["epoch", "report"],
    &["decode", "options", "store", "delta"],
    &["source", "log"],
    &["sql"],
    &["project", "stream"],
    &["engine", "signals"],
    &["output", "repl", "cli"],
];

/// Rooms that may use a neighbour on their own floor.
const SIDEWAYS: [(&str, &str); 6] = [
    ("delta", "store"),
    ("delta", "options"),
    ("log", "source"),
    ("cli", "output"),
    ("cli", "repl"),
    ("repl", "output"),
];

/// Crates that only some rooms, or parts of rooms, may name.
const GUARDED: [(&str, &[&str]); 12] = [
    ("mimalloc", &["memory"]),
    ("libmimalloc_sys", &["memory"]),
    ("deltalake", &["delta"]),
    ("delta_kernel", &["delta"]),
    ("object_store", &["store", "source", "log", "delta", "engine"]),
    ("aws_config", &["store"]),
    ("aws_sdk_kinesis", &["source/kinesis/client"]),
    ("aws_msk_iam_sasl_signer", &["source/kafka/iam"]),
    ("rdkafka", &["source/kafka/client"]),
    ("clap", &["cli"]),
    ("rustyline", &["repl"]),
    ("indicatif", &["output"]),
];

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn room(path: &Path) -> String {
    let below = path.strip_prefix(home().join("src")).unwrap();
    let first = below.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The text without comments and strings' insides, roughly: what is left names modules.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// `crate::x`, and each of `crate::{x, y}`.
fn uses(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let names = rest.strip_prefix('{').map_or(rest, |group| group.split('}').next().unwrap_or_default());
        let single = !rest.starts_with('{');
        for name in names.split(',').take(if single { 1 } else { usize::MAX }) {
            let name: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.push(name);
        }
    }
    found
}

#[test]
fn a_room_uses_only_lower_floors() {
    let floor: BTreeMap<&str, usize> =
        FLOORS.iter().enumerate().flat_map(|(floor, rooms)| rooms.iter().map(move |room| (*room, floor))).collect();
    let mut wrong = Vec::new();
    for path in files(&home().join("src")) {
        let from = room(&path);
        if from == "lib" || from == "main" {
            continue;
        }
        let here = *floor.get(from.as_str()).unwrap_or_else(|| panic!("room `{from}` has no floor"));
        for to in uses(&code(&std::fs::read_to_string(&path).unwrap())) {
            let Some(there) = floor.get(to.as_str()) else { continue };
            let sideways = SIDEWAYS.contains(&(from.as_str(), to.as_str()));
            if to != from && !sideways && *there >= here {
                wrong.push(format!("{} uses `{to}`", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn one_room_knows_each_outside_system() {
    let mut wrong = Vec::new();
    for path in files(&home().join("src")) {
        let code = code(&std::fs::read_to_string(&path).unwrap());
        for (name, rooms) in GUARDED {
            let named = code.match_indices(name).any(|(at, _)| {
                let before = code[..at].chars().next_back().unwrap_or(' ');
                let after = &code[at + name.len()..];
                !(before.is_alphanumeric() || before == '_' || before == '"' || before == ':')
                    && after.starts_with("::")
            });
            let below = path.strip_prefix(home().join("src")).unwrap().to_string_lossy().into_owned();
            let is_in = |room: &&str| below.strip_prefix(*room).is_some_and(|rest| rest.starts_with(['/', '.']));
            if named && !rooms.iter().any(is_in) {
                wrong.push(format!("{} names `{name}`", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_file_says_what_it_is_for_and_functions_are_short() {
    let mut wrong = Vec::new();
    for path in files(&home().join("src")) {
        let text = std::fs::read_to_string(&path).unwrap();
        if !text.starts_with("//!") {
            wrong.push(format!("{} does not say what it is for", path.display()));
        }
        let mut open: Option<(usize, usize)> = None;
        for (number, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let words = line.trim_start().trim_start_matches("pub ").trim_start_matches("async ");
            let starts =
                ["fn ", "pub(super) fn ", "pub(super) async fn ", "pub(crate) fn ", "pub async fn ", "async fn "];
            if open.is_none() && starts.iter().any(|start| words.starts_with(start)) && !line.trim_end().ends_with(';')
            {
                open = Some((indent, number));
            }
            if let Some((at, start)) = open
                && line.trim_end() == format!("{}}}", " ".repeat(at))
            {
                if number - start > 70 {
                    wrong.push(format!("{}:{} has {} lines", path.display(), start + 1, number - start));
                }
                open = None;
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
