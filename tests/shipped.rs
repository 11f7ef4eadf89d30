//! The project that is shipped, through the real program: the committed samples, answers that were not made by pinsql, and
//! real posts as one-record objects, in a folder and on S3.
//!
//! The real posts are not part of the clone. They lie where PINSQL_TEST_DATA says, or beside the clone; where they are not,
//! their tests say so in one line and do nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::services::{Moto, http, left_out, python, read, run_python};
use crate::support::world::{binary, home};

const SOURCES: [&str; 3] = ["PIN", "GEO", "USER_DATA"];

/// What must be built from the committed samples: (read, written, quarantined) of the cleaned tables.
const CLEAN: [(&str, [u64; 3]); 3] =
    [("clean_pin", [466, 460, 6]), ("clean_geo", [465, 460, 5]), ("clean_user", [465, 460, 5])];

/// The rows of the insights.
const INSIGHTS: [(&str, u64); 10] = [
    ("category_count_by_year", 64),
    ("popular_category_by_year", 7),
    ("popular_category_by_country", 46),
    ("most_followed_user_by_country", 23),
    ("most_followed_country", 1),
    ("popular_category_by_age_group", 7),
    ("median_followers_by_age_group", 4),
    ("median_followers_by_join_year", 3),
    ("median_followers_by_age_group_and_join_year", 11),
    ("users_joined_by_year", 3),
];

/// The program in the shipped project, with nothing of the environment that the project asks for.
fn program(lake: &str) -> Command {
    let mut command = Command::new(binary());
    for name in SOURCES.iter().chain(&["PINSQL_LAKE", "PINSQL_PROFILE"]) {
        command.env_remove(name);
    }
    command.arg("--directory").arg(home()).args(["--lake", lake, "--json"]).stdin(Stdio::null());
    command
}

/// Runs the program to its end, which must be a good one: the lines of its output.
fn lines(command: &mut Command) -> Vec<Value> {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}: {}", done.status, String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The summary, which is the last line, and its tables by name. Every line has the keys that are promised, and no other.
fn summary(command: &mut Command) -> BTreeMap<String, Value> {
    let mut lines = lines(command);
    let summary = lines.pop().expect("a summary");
    assert_eq!(keys(&summary), ["command", "elapsed_ms", "error", "status", "tables"]);
    assert_eq!(
        (&summary["command"], &summary["status"], &summary["error"]),
        (&json!("run"), &json!("ok"), &Value::Null)
    );
    for line in &lines {
        let event = ["elapsed_ms", "epoch", "event", "lag", "quarantined", "read", "table", "version", "written"];
        assert_eq!(keys(line), event, "{line}");
    }
    let named = |table: &Value| {
        let counts =
            ["dropped", "epochs", "late", "location", "lost", "quarantined", "read", "table", "version", "written"];
        assert_eq!(keys(table), counts, "{table}");
        (table["table"].as_str().unwrap().to_owned(), table.clone())
    };
    summary["tables"].as_array().unwrap().iter().map(named).collect()
}

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect::<BTreeSet<_>>().into_iter().collect()
}

/// read, written, quarantined.
fn counts(table: &Value) -> [u64; 3] {
    assert_eq!((&table["dropped"], &table["late"], &table["lost"]), (&json!(0), &json!(0), &json!(0)), "{table}");
    ["read", "written", "quarantined"].map(|name| table[name].as_u64().unwrap())
}

fn versions(tables: &BTreeMap<String, Value>) -> Vec<(&String, &Value)> {
    tables.iter().map(|(name, table)| (name, &table["version"])).collect()
}

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(
                files(&path).into_iter().map(|(name, text)| (Path::new(path.file_name().unwrap()).join(name), text)),
            );
        } else {
            found.insert(path.file_name().unwrap().into(), std::fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn the_samples_give_what_they_should_once() {
    let folder = TempDir::new().unwrap();
    let lake = folder.path().join("lake");
    let run = || summary(program(&lake.to_string_lossy()).args(["run", "sql"]));
    let first = run();
    assert_eq!(first.len(), CLEAN.len() + INSIGHTS.len());
    for (name, expected) in CLEAN {
        assert_eq!((name, counts(&first[name])), (name, expected));
        assert_eq!(first[name]["location"], format!("file://{}/{name}", lake.display()));
    }
    for (name, rows) in INSIGHTS {
        assert_eq!((name, first[name]["written"].as_u64()), (name, Some(rows)));
    }
    let before = files(&lake);
    let second = run();
    assert_eq!(versions(&second), versions(&first));
    for (name, table) in &second {
        assert_eq!((counts(table), table["epochs"].as_u64()), ([0; 3], Some(0)), "{name}");
    }
    assert!(files(&lake) == before, "a run without anything new changed the lake");
    if !left_out("python") {
        check_tables(&lake);
    }
}

/// The tables that came of the samples, as another reader sees them: as many rows as the summary said.
fn check_tables(lake: &Path) {
    let quarantines = CLEAN.map(|(name, [_, _, rows])| (format!("{name}_quarantine"), rows));
    let cleaned = CLEAN.map(|(name, [_, rows, _])| (name.to_owned(), rows));
    let insights = INSIGHTS.map(|(name, rows)| (name.to_owned(), rows));
    for (name, rows) in quarantines.into_iter().chain(cleaned).chain(insights) {
        let table = lake.join(&name).to_string_lossy().into_owned();
        assert_eq!(read("deltalake_reader.py", &table, &[]).len() as u64, rows, "{name}");
    }
}

#[test]
fn the_generator_reproduces_the_samples() {
    let folder = TempDir::new().unwrap();
    let program = folder.path().join("sample_data");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let built = Command::new(rustc)
        .args(["--edition", "2024", "-o"])
        .arg(&program)
        .arg(home().join("examples/sample_data.rs"))
        .status();
    assert!(built.unwrap().success());
    let data = folder.path().join("data");
    assert!(Command::new(&program).arg(&data).status().unwrap().success());
    let (made, committed) = (files(&data), files(&home().join("examples/data")));
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&made), names(&committed));
    for (name, text) in &made {
        assert!(*text == committed[name], "{} differs from what the generator writes", name.display());
    }
    assert!(made.len() > 70, "{}", made.len());
}

/// Where the real posts are, if they are.
fn data() -> Option<PathBuf> {
    let beside = || home().join("../shared/data/pinterest");
    let data = std::env::var_os("PINSQL_TEST_DATA").map_or_else(beside, PathBuf::from);
    if data.join("pin.jsonl").exists() {
        return Some(data);
    }
    // Nobody reads this where standard error is closed.
    let _ = writeln!(std::io::stderr(), "left out: the real posts are not at `{}` (PINSQL_TEST_DATA)", data.display());
    None
}

fn golden(arguments: &[&std::ffi::OsStr]) {
    let done = Command::new(python()).arg("-B").arg(home().join("tests/golden.py")).args(arguments).output().unwrap();
    let words = [done.stdout, done.stderr].concat();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&words));
}

fn check_golden(set: &str) {
    let Some(data) = data().filter(|_| !left_out("python")) else { return };
    let folder = TempDir::new().unwrap();
    let (input, lake) = (folder.path().join("in"), folder.path().join("lake"));
    golden(&["--inputs".as_ref(), data.as_os_str(), set.as_ref(), input.as_os_str()]);
    let mut command = program(&lake.to_string_lossy());
    for (name, topic) in SOURCES.iter().zip(["pin", "geo", "user"]) {
        command.args(["--var", &format!("{name}={}", input.join(topic).display())]);
    }
    let tables = summary(command.args(["run", "sql"]));
    assert!(tables["clean_pin"]["written"].as_u64().unwrap() > 200, "{tables:?}");
    golden(&[lake.as_os_str(), data.as_os_str(), set.as_ref()]);
}

#[test]
fn the_insights_of_the_derived_set_are_right() {
    check_golden("derived");
}

#[test]
fn the_insights_of_a_students_notebook_are_right() {
    check_golden("AdamBreeze1");
}

/// The cleaning as a person would do it, from the rules: a cleaned row for each line of the file, in order. The second
/// argument says how many lines are taken.
const CLEANING: &str = r#"
import json, sys
PLACEHOLDERS = {
    "title": ["No Title Data Available"],
    "description": ["No description available", "No description available Story format"],
    "poster_name": ["User Info Error"], "image_src": ["Image src error."],
    "tag_list": ["N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e"],
}
COLUMNS = ["unique_id", "title", "description", "follower_count", "poster_name", "tag_list", "is_image_or_video",
           "image_src", "save_location", "category"]
def number(text):
    if text is None or text.strip() in ("", "User Info Error"):
        return None
    for letter, factor in (("k", 1000), ("M", 1000000)):
        if text.endswith(letter):
            return int(text[:-1]) * factor
    return int(text)
def cleaned(name, text):
    if name == "follower_count":
        return number(text)
    if text is None or not text.strip(" \t\r\n") or text in PLACEHOLDERS.get(name, []):
        return None
    return text.replace("Local save in ", "") or None if name == "save_location" else text
lines = open(sys.argv[1], encoding="utf-8").read().splitlines()[:int(sys.argv[2])]
for pin in sorted(map(json.loads, lines), key=lambda pin: pin["index"]):
    row = {"ind": pin["index"], **{name: cleaned(name, pin.get(name)) for name in COLUMNS}}
    print(json.dumps(row, ensure_ascii=False))
"#;

fn cleaned(data: &Path, records: usize) -> Vec<Value> {
    run_python(CLEANING, &[&data.join("pin.jsonl").to_string_lossy(), &records.to_string()])
}

/// The posts as the sink's objects: their names below the prefix, and their text.
fn objects(data: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(data.join("pin.jsonl")).unwrap();
    let object = |(offset, line): (usize, &str)| (format!("partition=0/pin+0+{offset:010}.json"), line.to_owned());
    text.split('\n').filter(|line| !line.is_empty()).enumerate().map(object).collect()
}

/// A prefix of one-record objects that grows: a folder or a bucket.
struct Growing<'a> {
    lake: String,
    prefix: String,
    environment: Vec<(&'static str, String)>,
    reader: Vec<&'a str>,
    put: &'a dyn Fn(&str, &str),
}

impl Growing<'_> {
    /// `run sql/clean_pin.sql` alone.
    fn run(&self) -> Value {
        let mut command = program(&self.lake);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(["run", "sql/clean_pin.sql", "--var", &format!("PIN={}", self.prefix)]);
        let mut tables = summary(&mut command);
        assert_eq!(tables.len(), 1, "{tables:?}");
        tables.remove("clean_pin").unwrap()
    }

    fn check(&self, expected: &[Value]) {
        let rows = read(
            "deltalake_reader.py",
            &format!("{}/clean_pin", self.lake),
            &[&["--order", "ind"], &self.reader[..]].concat(),
        );
        assert_eq!(rows.len(), expected.len());
        for (row, expected) in rows.iter().zip(expected) {
            assert_eq!(row.to_string(), expected.to_string());
        }
    }

    /// Everything but the last ten, again, the last ten, one of them again.
    fn check_all(&self, data: &Path, records: usize) {
        let objects = &objects(data)[..records];
        let (first, last) = objects.split_at(records - 10);
        first.iter().for_each(|(name, text)| (self.put)(name, text));
        let report = self.run();
        assert_eq!(counts(&report), [first.len() as u64, first.len() as u64, 0]);
        let report = self.run();
        assert_eq!((counts(&report), &report["version"]), ([0; 3], &json!(1)), "{report}");
        last.iter().for_each(|(name, text)| (self.put)(name, text));
        let report = self.run();
        assert_eq!((counts(&report), &report["version"]), ([10, 10, 0], &json!(2)), "{report}");
        [&first[0], &last[9]].into_iter().for_each(|(name, text)| (self.put)(name, text));
        let report = self.run();
        assert_eq!((counts(&report), &report["version"]), ([0; 3], &json!(2)), "{report}");
        self.check(&cleaned(data, records));
    }
}

#[test]
fn posts_in_a_folder_are_cleaned_once() {
    let Some(data) = data().filter(|_| !left_out("python")) else { return };
    let folder = TempDir::new().unwrap();
    let prefix = folder.path().join("topics/pin");
    std::fs::create_dir_all(prefix.join("partition=0")).unwrap();
    let growing = Growing {
        lake: folder.path().join("lake").to_string_lossy().into_owned(),
        prefix: format!("{}/", prefix.display()),
        environment: Vec::new(),
        reader: Vec::new(),
        put: &|name, text| std::fs::write(prefix.join(name), text).unwrap(),
    };
    let records = objects(&data).len();
    assert_eq!(records, 3996);
    growing.check_all(&data, records);
}

#[test]
fn posts_on_s3_are_cleaned_once() {
    let Some(data) = data().filter(|_| !left_out("python") && !left_out("s3")) else { return };
    let moto = Moto::start();
    let bucket = moto.bucket("shipped");
    let growing = Growing {
        lake: format!("{bucket}/lake"),
        prefix: format!("{bucket}/topics/pin/"),
        environment: moto.environment(),
        reader: vec!["--s3", &moto.endpoint],
        put: &|name, text| {
            let answer = http(&moto.endpoint, "PUT", &format!("/shipped/topics/pin/{name}"), text.as_bytes()).unwrap();
            assert_eq!(answer.0, 200, "{name}");
        },
    };
    growing.check_all(&data, 300);
}
