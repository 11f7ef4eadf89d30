//! Bytes to records to Arrow: framing, decoding, inference.
//!
//! Uses `pinsql::decode`, and a stopwatch.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy knows the functions with #[test] as tests, not what they call"
)]

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Fields, Float64Type, Int64Type, Schema, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use pinsql::clock::Stopwatch;
use pinsql::decode::{Block, Decoded, Decoder, Envelope, Framer, Mode, infer};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

fn list(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, true)))
}

fn map(value: DataType) -> DataType {
    let pair = vec![Field::new("key", DataType::Utf8, false), Field::new("value", value, true)];
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(pair.into()), false)), false)
}

fn record(fields: &[(&str, DataType)]) -> DataType {
    DataType::Struct(fields.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect::<Fields>())
}

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn one(kind: DataType) -> Schema {
    Schema::new(vec![Field::new("c", kind, true)])
}

fn slots(payloads: &[Option<&[u8]>]) -> BinaryViewArray {
    payloads.iter().copied().collect()
}

fn decode(schema: &Schema, mode: Mode, envelope: Envelope, payloads: &[&[u8]]) -> Decoded {
    let payloads: Vec<Option<&[u8]>> = payloads.iter().map(|payload| Some(*payload)).collect();
    Decoder::new(schema, None, mode, envelope).unwrap().decode(&slots(&payloads)).unwrap()
}

/// A value as text; `NULL` stands for itself.
fn shown(array: &ArrayRef, row: usize) -> String {
    let options = FormatOptions::default().with_null("NULL");
    ArrayFormatter::try_new(array, &options).unwrap().value(row).to_string()
}

fn rows(batch: &RecordBatch) -> Vec<Vec<String>> {
    (0..batch.num_rows()).map(|row| batch.columns().iter().map(|column| shown(column, row)).collect()).collect()
}

/// The only value of `{"c": value}`, or the reason against it.
fn value(kind: &DataType, json: &str) -> Result<String, String> {
    let text = format!("{{\"c\":{json}}}");
    let found = decode(&one(kind.clone()), Mode::Quarantine, Envelope::None, &[text.as_bytes()]);
    match found.rejects.first() {
        Some(reject) => Err(reject.reason.clone()),
        None => Ok(shown(found.batch.column(0), 0)),
    }
}

fn reason(payload: &[u8]) -> String {
    let found = decode(&one(DataType::Int64), Mode::Quarantine, Envelope::None, &[payload]);
    assert_eq!(found.batch.num_rows() + found.rejects.len(), 1);
    found.rejects.first().map(|reject| reject.reason.clone()).unwrap_or_default()
}

#[test]
fn values_that_fit() {
    let decimal = DataType::Decimal128(5, 2);
    let cases: Vec<(DataType, &str, &str)> = vec![
        (DataType::Int64, "-9223372036854775808", "-9223372036854775808"),
        (DataType::Int64, "9223372036854775807", "9223372036854775807"),
        (DataType::Int64, "null", "NULL"),
        (DataType::Int64, "-0", "0"),
        (DataType::Int8, "-128", "-128"),
        (DataType::Int16, "32767", "32767"),
        (DataType::Int32, "-2147483648", "-2147483648"),
        (DataType::Float64, "1", "1.0"),
        (DataType::Float64, "-1.5e2", "-150.0"),
        (DataType::Float32, "0.1", "0.1"),
        (DataType::Boolean, "true", "true"),
        (DataType::Boolean, "false", "false"),
        (decimal.clone(), "1.20", "1.20"),
        (decimal.clone(), "1.2000", "1.20"),
        (decimal.clone(), "-999.99", "-999.99"),
        (decimal.clone(), "12e1", "120.00"),
        (decimal.clone(), "0e99999999", "0.00"),
        (decimal, "0.05", "0.05"),
        (DataType::Utf8, r#""""#, ""),
        (DataType::Utf8, r#""a\"\\\/\b\f\n\r\té\ud83d\ude00\u0000""#, "a\"\\/\u{8}\u{c}\n\r\té😀\0"),
        (DataType::Utf8, "1.0", "1.0"),
        (DataType::Utf8, "1E400", "1E400"),
        (DataType::Utf8, "true", "true"),
        (DataType::Utf8, r#"{ "a" : [1 , "x \" y"] , "b":{} }"#, r#"{"a":[1,"x \" y"],"b":{}}"#),
        (DataType::Binary, r#""AP9h""#, "00ff61"),
        (DataType::Binary, r#""YQ""#, "61"),
        (DataType::Date32, r#""2024-02-29""#, "2024-02-29"),
        (list(DataType::Int64), "[ 1, null , 3 ]", "[1, NULL, 3]"),
        (list(DataType::Int64), "[]", "[]"),
        (list(list(DataType::Utf8)), r#"[["a"],[],null]"#, "[[a], [], NULL]"),
        (map(DataType::Int64), r#"{"a":1,"b":2,"\u0061":3,"n":null}"#, "{a: 3, b: 2, n: NULL}"),
        (map(list(DataType::Boolean)), "{}", "{}"),
        (record(&[("x", DataType::Int64), ("y", DataType::Utf8)]), r#"{"Y":"b","q":[{}]}"#, "{x: NULL, y: b}"),
        (list(record(&[("x", DataType::Int64)])), r#"[{"x":1},{},null]"#, "[{x: 1}, {x: NULL}, NULL]"),
    ];
    for (kind, json, expected) in cases {
        assert_eq!(value(&kind, json).as_deref(), Ok(expected), "{kind} from {json}");
    }
}

#[test]
fn values_that_do_not_fit() {
    let decimal = DataType::Decimal128(5, 2);
    let nested = record(&[("a", list(record(&[("b", DataType::Int32)])))]);
    let cases: Vec<(DataType, &str, &str)> = vec![
        (DataType::Int64, r#""abc""#, r#"`c`: expected BIGINT, found the string "abc""#),
        (DataType::Int64, "1.0", "`c`: expected BIGINT, found the number 1.0"),
        (DataType::Int64, "1e2", "`c`: expected BIGINT, found the number 1e2"),
        (DataType::Int64, "9223372036854775808", "`c`: the number 9223372036854775808 does not fit BIGINT"),
        (DataType::Int64, "-9223372036854775809", "`c`: the number -9223372036854775809 does not fit BIGINT"),
        (DataType::Int64, "18446744073709551617", "`c`: the number 18446744073709551617 does not fit BIGINT"),
        (DataType::Int8, "128", "`c`: the number 128 does not fit TINYINT"),
        (DataType::Int16, "-32769", "`c`: the number -32769 does not fit SMALLINT"),
        (DataType::Int32, "2147483648", "`c`: the number 2147483648 does not fit INT"),
        (DataType::Int32, "true", "`c`: expected INT, found true"),
        (DataType::Float64, "1e999", "`c`: the number 1e999 does not fit DOUBLE"),
        (DataType::Float64, r#""1.5""#, r#"`c`: expected DOUBLE, found the string "1.5""#),
        (DataType::Float32, "1e39", "`c`: the number 1e39 does not fit FLOAT"),
        (DataType::Boolean, "1", "`c`: expected BOOLEAN, found the number 1"),
        (DataType::Boolean, r#""true""#, r#"`c`: expected BOOLEAN, found the string "true""#),
        (decimal.clone(), "1.234", "`c`: the number 1.234 does not fit DECIMAL(5,2)"),
        (decimal.clone(), "1000", "`c`: the number 1000 does not fit DECIMAL(5,2)"),
        (decimal.clone(), "1e99999999999999999999", "`c`: the number 1e99999999999999999999 does not fit DECIMAL(5,2)"),
        (decimal, r#""1.2""#, r#"`c`: expected DECIMAL(5,2), found the string "1.2""#),
        (DataType::Binary, r#""a*b""#, r#"`c`: expected BINARY, found the string "a*b""#),
        (DataType::Date32, r#""2023-02-29""#, r#"`c`: expected DATE, found the string "2023-02-29""#),
        (DataType::Date32, r#""2023-02-01 00:00""#, r#"`c`: expected DATE, found the string "2023-02-01 00:00""#),
        (DataType::Date32, "5", "`c`: expected DATE, found the number 5"),
        (list(DataType::Int64), "[1,\"x\"]", "`c[1]`: expected BIGINT, found the string \"x\""),
        (list(DataType::Int64), "{}", "`c`: expected ARRAY, found an object"),
        (map(DataType::Int64), r#"{"k":{"x":1}}"#, "`c.k`: expected BIGINT, found an object"),
        (nested.clone(), r#"{"a":[{"b":1},{"b":[]}]}"#, "`c.a[1].b`: expected INT, found an array"),
        (nested, "[]", "`c`: expected STRUCT, found an array"),
    ];
    for (kind, json, expected) in cases {
        assert_eq!(value(&kind, json).err().as_deref(), Some(expected), "{kind} from {json}");
    }
}

#[test]
fn timestamps() {
    let good = [
        (r#""2024-01-02""#, 1_704_153_600_000_000),
        (r#""2024-01-02 03:04""#, 1_704_164_640_000_000),
        (r#""2024-01-02T03:04:05""#, 1_704_164_645_000_000),
        (r#""2024-01-02 03:04:05.1""#, 1_704_164_645_100_000),
        (r#""2024-01-02T03:04:05.123456789Z""#, 1_704_164_645_123_456),
        (r#""2024-01-02T03:04:05+0130""#, 1_704_159_245_000_000),
        (r#""2024-01-02T03:04:05-02:00:30""#, 1_704_171_875_000_000),
        (r#""2024-01-02T03:04:05+01""#, 1_704_161_045_000_000),
        (r#""1969-12-31T23:59:59.5""#, -500_000),
        ("-1", -1_000_000),
        ("1704164645", 1_704_164_645_000_000),
    ];
    for (json, expected) in good {
        let text = format!("{{\"c\":{json}}}");
        let found = decode(&one(timestamp()), Mode::Quarantine, Envelope::None, &[text.as_bytes()]);
        let column = found.batch.column(0).as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
        assert_eq!(column.iter().collect::<Vec<_>>(), vec![Some(expected)], "{json}");
    }
    for json in [
        r#""2024-13-01""#,
        r#""2024-01-02 3:04""#,
        r#""2024-01-02 24:00""#,
        r#""2024-01-02 03:04:60""#,
        r#""2024-01-02T""#,
        r#""2024-01-02 03:04:05.""#,
        r#""2024-01-02 03:04:05+19:00""#,
        r#""2024-01-02 03:04:05 Z""#,
        r#""x""#,
        r#""""#,
        "1.5",
        "9223372036854775807",
        "true",
        "{}",
    ] {
        assert!(value(&timestamp(), json).is_err(), "{json}");
    }
}

#[test]
fn payloads_that_are_no_record() {
    let cases: Vec<(&[u8], &str)> = vec![
        (b"", "empty payload"),
        (b" \n\t", "blank payload"),
        (b"\xEF\xBB\xBF", "blank payload"),
        (b"5", "expected an object, found the number 5"),
        (b"\"x\"", "expected an object, found the string \"x\""),
        (b"null", "expected an object, found null"),
        (b"[{\"c\":1}]", "expected an object, found an array"),
        (b"{\"c\":1} x", "text after the value at byte 8"),
        (b"{\"c\":1}{\"c\":2}", "text after the value at byte 7"),
        (b"{\"c\":1", "value ends too early"),
        (b"{\"c\":tru", "value ends too early"),
        (b"{\"x\":\"ab", "value ends too early"),
        (b"{\"x\":\"\\u12", "value ends too early"),
        (b"{\"c\":1,}", "trailing comma before byte 7"),
        (b"{\"x\":[1,]}", "trailing comma before byte 8"),
        (b"{\"c\":/* */1}", "comment at byte 5"),
        (b"{\"c\":NaN}", "`NaN` is not JSON, at byte 5"),
        (b"{\"x\":Infinity}", "`Infinity` is not JSON, at byte 5"),
        (b"{\"c\":01}", "number with a leading zero at byte 5"),
        (b"{\"x\":-01}", "number with a leading zero at byte 5"),
        (b"{\"x\":1.}", "unexpected '}' at byte 7"),
        (b"{\"x\":.5}", "unexpected '.' at byte 5"),
        (b"{\"x\":+5}", "unexpected '+' at byte 5"),
        (b"{x:1}", "unexpected 'x' at byte 1"),
        (b"{'x':1}", "unexpected '\\'' at byte 1"),
        (b"{\"x\" 1}", "unexpected '1' at byte 5"),
        (b"{\"x\":1 \"y\":2}", "unexpected '\"' at byte 7"),
        (b"{,}", "unexpected ',' at byte 1"),
        (b"{\"x\":\"a\nb\"}", "control character in a string at byte 7"),
        (b"{\"x\":\"\\x\"}", "invalid escape at byte 6"),
        (b"{\"x\":\"\\u12g4\"}", "invalid escape at byte 6"),
        (b"{\"x\":\"\\ud800\"}", "lone surrogate at byte 6"),
        (b"{\"x\":\"\\ud800\\u0041\"}", "lone surrogate at byte 6"),
        (b"{\"x\":\"\\udc00\"}", "lone surrogate at byte 6"),
        (b"{\"x\":\"\xff\"}", "invalid UTF-8 at byte 6"),
        (b"{\"x\":[}", "unexpected '}' at byte 6"),
        (b"{\"x\":{\"y\":1]}", "unexpected ']' at byte 11"),
    ];
    for (payload, expected) in cases {
        assert_eq!(reason(payload), expected, "{}", String::from_utf8_lossy(payload));
    }
}

#[test]
fn keys() {
    let cases = [
        (r#"{}"#, "NULL"),
        ("\u{feff} {\"c\" : 1 }\n", "1"),
        (r#"{"C":1}"#, "1"),
        (r#"{"c":1,"C":2}"#, "1"),
        (r#"{"C":2,"c":1}"#, "1"),
        (r#"{"c":1,"c":2}"#, "2"),
        (r#"{"c":"x","c":2}"#, "2"),
        (r#"{"C":"x","c":2}"#, "2"),
        (r#"{"c":2,"C":"x"}"#, "2"),
        (r#"{"\u0063":7}"#, "7"),
        (r#"{"z":{"c":[1,2,{"y":null}]},"c":3}"#, "3"),
        (r#"{"c":3,"c":null}"#, "NULL"),
    ];
    for (text, expected) in cases {
        let found = decode(&one(DataType::Int64), Mode::Quarantine, Envelope::None, &[text.as_bytes()]);
        assert_eq!(rows(&found.batch), vec![vec![expected.to_owned()]], "{text}: {:?}", found.rejects);
    }
    assert_eq!(reason(br#"{"c":1,"c":"x"}"#), "`c`: expected BIGINT, found the string \"x\"");
}

#[test]
fn modes() {
    let schema = Schema::new(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("s", record(&[("x", DataType::Int64), ("y", DataType::Utf8)]), true),
    ]);
    let bad = br#"{"a":1,"s":{"x":"no","y":"b"}}"#;
    let payloads = [Some(&br#"{"a":5}"#[..]), Some(bad), None, Some(b"rubbish\xff"), Some(br#"{"a":6,"s":null}"#)];
    for mode in [Mode::Quarantine, Mode::FailFast] {
        let found = Decoder::new(&schema, None, mode, Envelope::None).unwrap().decode(&slots(&payloads)).unwrap();
        assert_eq!(found.rows, vec![0, 4]);
        let rejects: Vec<_> = found.rejects.iter().map(|reject| (reject.payload, reject.reason.as_str())).collect();
        assert_eq!(
            rejects,
            [
                (1, "`s.x`: expected BIGINT, found the string \"no\""),
                (2, "no payload (a tombstone)"),
                (3, "invalid UTF-8 at byte 7")
            ]
        );
    }
    let mut decoder = Decoder::new(&schema, None, Mode::DropMalformed, Envelope::None).unwrap();
    let found = decoder.decode(&slots(&payloads)).unwrap();
    assert_eq!((found.rows, found.rejects.len(), found.dropped), (vec![0, 4], 0, 3));
    let mut decoder = Decoder::new(&schema, None, Mode::Permissive, Envelope::None).unwrap();
    let found = decoder.decode(&slots(&payloads)).unwrap();
    assert_eq!((found.rows, found.rejects.len(), found.rejects[0].payload), (vec![0, 1, 3, 4], 1, 2));
    let expected = [
        ["5", "NULL", "NULL"],
        ["1", "{x: NULL, y: b}", std::str::from_utf8(bad).unwrap()],
        ["NULL", "NULL", "rubbish\u{fffd}"],
        ["6", "NULL", "NULL"],
    ];
    assert_eq!(rows(&found.batch), expected);
    assert_eq!(found.batch.schema().field(2).name(), "_rescued_data");
}

#[test]
fn a_declared_column_for_what_did_not_fit() {
    let schema =
        Schema::new(vec![Field::new("_rescued_data", DataType::Utf8, true), Field::new("c", DataType::Int64, true)]);
    let payloads: [&[u8]; 2] = [br#"{"c":[],"_rescued_data":"x"}"#, br#"{"c":1,"_rescued_data":"x"}"#];
    let found = decode(&schema, Mode::Permissive, Envelope::None, &payloads);
    assert_eq!(rows(&found.batch), [[std::str::from_utf8(payloads[0]).unwrap(), "NULL"], ["NULL", "1"]]);
    let found = decode(&schema, Mode::Quarantine, Envelope::None, &[payloads[1]]);
    assert_eq!(rows(&found.batch), [["x", "1"]]);
}

#[test]
fn envelopes() {
    let auto = |text: &str| {
        let found = decode(&one(DataType::Int64), Mode::Quarantine, Envelope::Auto, &[text.as_bytes()]);
        assert!(found.rejects.is_empty() || found.rows.is_empty(), "all or nothing");
        rows(&found.batch).concat().join(",")
    };
    for (text, expected) in [
        (r#"{"c":1}"#, "1"),
        (r#"{"value":{"c":1}}"#, "1"),
        (r#"{"value":{"c":1},"c":2}"#, "2"),
        (r#"{"value":5}"#, "NULL"),
        (r#" [ {"value" : {"c":1}}, {"value":{"c":2}} ] "#, "1,2"),
        (r#"{"records":[{"value":{"c":1}},{"value":{"c":2}}]}"#, "1,2"),
        (r#"{"records":[{"value":{"c":1}},{"c":2}]}"#, "NULL"),
        (r#"{"value":{"value":{"c":1}}}"#, "1"),
        (r#"[{"value":{"records":[{"value":{"c":1}}]}}]"#, "1"),
        (r#""{\"c\":1}""#, "1"),
        (r#""[{\"value\":{\"c\":1}}]""#, "1"),
        (r#""\"{\\\"c\\\":1}\"""#, "1"),
        (r#"[{"value":{"c":1}},{"value":{"c":"x"}}]"#, ""),
        (r#"[{"value":{"c":1}},{"c":2}]"#, ""),
        (r#"[]"#, ""),
        (r#""plain""#, ""),
        (r#""5""#, ""),
        (r#"{"value":{"c":1}} x"#, ""),
    ] {
        assert_eq!(auto(text), expected, "{text}");
    }
    let path = |text: &str| {
        let envelope = Envelope::Path(vec!["a".into(), "b".into()]);
        let found = decode(&one(DataType::Int64), Mode::Quarantine, envelope, &[text.as_bytes()]);
        let reason = found.rejects.first().map(|reject| reject.reason.clone());
        reason.unwrap_or_else(|| rows(&found.batch).concat().join(","))
    };
    for (text, expected) in [
        (r#"{"x":1,"a":{"b":{"c":1}}}"#, "1"),
        (r#"{"a":{"b":[{"c":1},{"c":2}]}}"#, "1,2"),
        (r#"{"A":{"b":{"c":1}}}"#, "1"),
        (r#"{"a":{"b":{"c":1},"b":{"c":2}}}"#, "2"),
        (r#"{"a":{}}"#, "nothing at `a.b`"),
        (r#"{"a":5}"#, "nothing at `a.b`"),
        (r#"{"a":{"b":[]}}"#, "no records at `a.b`"),
        (r#"{"a":{"b":[{"c":1},7]}}"#, "at `a.b`: expected an object, found the number 7"),
        (r#"{"a":{"b":{"c":1}}"#, "value ends too early"),
    ] {
        assert_eq!(path(text), expected, "{text}");
    }
}

#[test]
fn projection_changes_no_verdict() {
    let mut random = seeded("projection");
    let schema = wide();
    for _ in 0..300 {
        let payloads: Vec<Vec<u8>> = (0..20).map(|_| mutated(&mut random)).collect();
        let payloads: Vec<Option<&[u8]>> = payloads.iter().map(|payload| Some(payload.as_slice())).collect();
        let payloads = slots(&payloads);
        for mode in [Mode::Quarantine, Mode::Permissive] {
            let whole = Decoder::new(&schema, None, mode, Envelope::None).unwrap().decode(&payloads).unwrap();
            for wanted in [vec![], vec![2], vec![5, 0], vec![6, 4, 1]] {
                let mut decoder = Decoder::new(&schema, Some(&wanted), mode, Envelope::None).unwrap();
                let part = decoder.decode(&payloads).unwrap();
                assert_eq!((&part.rows, &part.rejects), (&whole.rows, &whole.rejects));
                assert_eq!(part.batch.schema(), decoder.schema());
                assert_eq!(part.batch.num_rows(), part.rows.len());
                for (at, column) in wanted.iter().enumerate() {
                    assert_eq!(part.batch.column(at), whole.batch.column(*column));
                }
            }
        }
    }
}

#[test]
fn a_bad_record_leaves_no_trace() {
    let mut random = seeded("rollback");
    let schema = wide();
    for _ in 0..300 {
        let payloads: Vec<Vec<u8>> = (0..30).map(|_| mutated(&mut random)).collect();
        let all: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        let found = decode(&schema, Mode::Quarantine, Envelope::None, &all);
        let good: Vec<&[u8]> = found.rows.iter().map(|row| all[*row as usize]).collect();
        let alone = decode(&schema, Mode::Quarantine, Envelope::None, &good);
        assert_eq!(alone.batch, found.batch);
        assert_eq!(found.rows.len() + found.rejects.len(), all.len());
        let mut decoder = Decoder::new(&schema, None, Mode::Permissive, Envelope::None).unwrap();
        let slots: Vec<Option<&[u8]>> = all.iter().map(|payload| Some(*payload)).collect();
        let rescued = decoder.decode(&slots.into_iter().collect()).unwrap();
        assert_eq!(rescued.rows.len(), all.len());
        let misfits: Vec<u32> = (0..all.len() as u32)
            .filter(|row| rescued.batch.columns().last().unwrap().is_valid(*row as usize))
            .collect();
        assert_eq!(misfits, found.rejects.iter().map(|reject| reject.payload).collect::<Vec<_>>());
    }
}

fn seeded(name: &str) -> StdRng {
    let seed = rand::random();
    println!("{name}: seed {seed}");
    StdRng::seed_from_u64(seed)
}

fn wide() -> Schema {
    let inner = record(&[("x", DataType::Int64), ("y", DataType::Utf8)]);
    Schema::new(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Utf8, true),
        Field::new("d", DataType::Float64, true),
        Field::new("e", DataType::Boolean, true),
        Field::new("f", list(DataType::Int64), true),
        Field::new("g", inner.clone(), true),
        Field::new("h", list(inner), true),
    ])
}

fn random_text(random: &mut StdRng) -> String {
    let letters = ['a', 'Z', '"', '\\', '\n', 'é', '😀', ' ', '/', '\u{1}', '{', ','];
    (0..random.random_range(0..12)).map(|_| letters[random.random_range(0..letters.len())]).collect()
}

fn random_value(random: &mut StdRng, key: &str) -> Value {
    if random.random_bool(0.1) {
        return Value::Null;
    }
    let inner = |random: &mut StdRng| serde_json::json!({"x": random.random::<i64>(), "y": random_text(random)});
    match if random.random_bool(0.04) { "any" } else { key } {
        "a" => random.random::<i64>().into(),
        "b" => random_text(random).into(),
        "d" => random.random_range(-1e6..1e6).into(),
        "e" => random.random::<bool>().into(),
        "f" => (0..random.random_range(0..4)).map(|_| random.random_range(-9..99)).collect::<Vec<i64>>().into(),
        "g" => inner(random),
        "h" => (0..random.random_range(0..3)).map(|_| inner(random)).collect::<Vec<_>>().into(),
        _ => [Value::from(1.5), "x".into(), vec![1].into(), serde_json::json!({"x": {"x": []}})]
            [random.random_range(0..4)]
        .clone(),
    }
}

/// A record, often damaged.
fn mutated(random: &mut StdRng) -> Vec<u8> {
    let mut members = Vec::new();
    for key in ["a", "b", "d", "e", "f", "g", "h", "unknown"] {
        if random.random_bool(0.85) {
            members.push(format!("{:?}:{}", key, random_value(random, key)));
        }
    }
    if !members.is_empty() && random.random_bool(0.2) {
        members.swap_remove(random.random_range(0..members.len()));
    }
    let comma = [",", ", ", "\n , "][random.random_range(0..3)];
    let mut text = format!("{{{}}}", members.join(comma)).into_bytes();
    if random.random_bool(0.4) {
        for _ in 0..random.random_range(1..3) {
            let at = random.random_range(0..text.len());
            let bytes = b"{}[]\",:0123456789.eE+-tfn\\u \nxAB\x80\xff";
            text[at] = bytes[random.random_range(0..bytes.len())];
        }
    }
    if random.random_bool(0.1) {
        text.truncate(random.random_range(0..=text.len()));
    }
    text
}

fn member<'v>(value: &'v Value, name: &str) -> &'v Value {
    let exact = value.get(name);
    exact.or_else(|| value.get(name.to_uppercase())).unwrap_or(&Value::Null)
}

/// What serde_json's tree says of a value: does it fit the column at this row?
fn fits(kind: &DataType, value: &Value) -> bool {
    value.is_null()
        || match kind {
            DataType::Int64 => value.is_i64(),
            DataType::Float64 => value.is_number(),
            DataType::Boolean => value.is_boolean(),
            DataType::Utf8 => true,
            DataType::List(item) => {
                value.as_array().is_some_and(|all| all.iter().all(|one| fits(item.data_type(), one)))
            }
            DataType::Struct(fields) => {
                value.is_object() && fields.iter().all(|field| fits(field.data_type(), member(value, field.name())))
            }
            _ => false,
        }
}

/// serde_json's floats can be off by the last bit.
fn near(found: f64, value: &Value) -> bool {
    value.as_f64().is_some_and(|value| (found - value).abs() <= value.abs() * 1e-15)
}

fn agrees(array: &ArrayRef, row: usize, value: &Value) -> bool {
    if array.is_null(row) || value.is_null() {
        return array.is_null(row) && value.is_null();
    }
    match array.data_type() {
        DataType::Int64 => Some(array.as_primitive::<Int64Type>().value(row)) == value.as_i64(),
        DataType::Float64 => near(array.as_primitive::<Float64Type>().value(row), value),
        DataType::Boolean => Some(array.as_boolean().value(row)) == value.as_bool(),
        DataType::Utf8 => match value {
            Value::String(text) => array.as_string::<i32>().value(row) == text,
            Value::Number(_) => near(array.as_string::<i32>().value(row).parse().unwrap(), value),
            _ => serde_json::from_str::<Value>(array.as_string::<i32>().value(row)).is_ok_and(|found| &found == value),
        },
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            let values = value.as_array().unwrap();
            items.len() == values.len() && values.iter().enumerate().all(|(at, value)| agrees(&items, at, value))
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            columns.iter().zip(fields).all(|(column, field)| agrees(column, row, member(value, field.name())))
        }
        _ => false,
    }
}

#[test]
fn agrees_with_serde_json() {
    let mut random = seeded("differential");
    let schema = wide();
    let mut decoder = Decoder::new(&schema, None, Mode::Quarantine, Envelope::None).unwrap();
    let mut good = 0;
    for _ in 0..30_000 {
        let text = mutated(&mut random);
        let shown = String::from_utf8_lossy(&text).into_owned();
        let tree = serde_json::from_slice::<Value>(&text);
        // serde_json reads -0 as a float and refuses numbers beyond f64 wherever they stand.
        if shown.contains("-0") || tree.as_ref().is_err_and(|error| error.to_string().contains("out of range")) {
            continue;
        }
        let found = decoder.decode(&slots(&[Some(&text)])).unwrap();
        let kind = DataType::Struct(schema.fields().clone());
        let expected = tree.as_ref().is_ok_and(|tree| tree.is_object() && fits(&kind, tree));
        assert_eq!(found.rejects.is_empty(), expected, "{shown}\n{:?}\n{tree:?}", found.rejects);
        if expected {
            good += 1;
            let tree = tree.unwrap();
            for (column, field) in found.batch.columns().iter().zip(schema.fields()) {
                assert!(agrees(column, 0, member(&tree, field.name())), "`{}` of {shown}", field.name());
            }
        }
    }
    assert!(good > 5_000, "only {good} good records: the test tests nothing");
}

#[test]
fn nesting() {
    for (levels, opening, closing) in [(10_000, "[", "]"), (1_000_000, "[", "]"), (1_000_000, "{\"a\":", "}")] {
        let deep = format!("{{\"c\":1,\"x\":{}1{}}}", opening.repeat(levels), closing.repeat(levels));
        assert_eq!(reason(deep.as_bytes()), "nesting deeper than 256");
        let deep = format!("{{\"c\":{}1{}}}", opening.repeat(levels), closing.repeat(levels));
        for envelope in [Envelope::Auto, Envelope::Path(vec!["c".into()])] {
            let kind = one(DataType::Utf8);
            assert_eq!(decode(&kind, Mode::Quarantine, envelope.clone(), &[deep.as_bytes()]).rejects.len(), 1);
            assert!(infer([deep.as_bytes()].into_iter(), &envelope).is_none());
        }
        for multi in [None, Some(true), Some(false)] {
            let text = format!("{deep}\n{{\"c\":2}}\n");
            assert_eq!(framed(text.as_bytes(), multi, usize::MAX, &[]).len(), 2);
        }
    }
    let levels = |count: usize| format!("{{\"x\":{}1{}}}", "[".repeat(count), "]".repeat(count));
    assert_eq!(reason(levels(255).as_bytes()), "");
    assert_eq!(reason(levels(256).as_bytes()), "nesting deeper than 256");
}

#[test]
fn types_that_cannot_be_read() {
    let error =
        Decoder::new(&one(DataType::Duration(TimeUnit::Second)), None, Mode::Quarantine, Envelope::None).err().unwrap();
    assert!(error.message().starts_with("`c`: "), "{error}");
    assert!(error.hint_text().is_some());
    let keys = DataType::Map(
        Arc::new(Field::new("entries", record(&[("key", DataType::Int64), ("value", DataType::Utf8)]), false)),
        false,
    );
    assert!(Decoder::new(&one(keys), None, Mode::Quarantine, Envelope::None).is_err());
}

type Record = (Vec<u8>, Option<u64>);

fn cut_out(blocks: Vec<Block>) -> Vec<Record> {
    let mut records = Vec::new();
    for block in blocks {
        for frame in &block.records {
            let (start, len) = (frame.offset as usize, frame.len as usize);
            records.push((block.bytes[start..start + len].to_vec(), frame.too_long));
        }
    }
    records
}

/// Frames an object that comes in chunks which end at `cuts`.
fn framed(text: &[u8], multi_line: Option<bool>, most: usize, cuts: &[usize]) -> Vec<Record> {
    let mut framer = Framer::new(multi_line, most);
    let mut records = Vec::new();
    let mut start = 0;
    for end in cuts.iter().copied().chain([text.len()]) {
        records.extend(cut_out(framer.push(Bytes::copy_from_slice(&text[start..end]))));
        start = end;
    }
    records.extend(cut_out(framer.finish()));
    records
}

fn texts(text: &str, multi_line: Option<bool>) -> Vec<String> {
    let records = framed(text.as_bytes(), multi_line, usize::MAX, &[]);
    records.into_iter().map(|(record, _)| String::from_utf8(record).unwrap()).collect()
}

const OBJECTS: &[(&str, &[&str])] = &[
    ("", &[]),
    (" \n\r\n\t", &[]),
    ("\u{feff}", &[]),
    ("{\"a\":1}", &["{\"a\":1}"]),
    ("\u{feff}{\"a\":1}\n", &["{\"a\":1}"]),
    ("{\"a\":1}\r\n\r\n  \n{\"a\":2}\r\n{\"a\":3}", &["{\"a\":1}", "{\"a\":2}", "{\"a\":3}"]),
    ("{\n  \"a\": 1\n}", &["{\n  \"a\": 1\n}"]),
    ("{\n  \"a\": 1\n}\n{\n  \"a\": 2\n}\n", &["{\n  \"a\": 1\n}", "{\n  \"a\": 2\n}"]),
    ("{\"a\": 1,\n \"b\": 2} {\"a\": 3}", &["{\"a\": 1,\n \"b\": 2}", "{\"a\": 3}"]),
    ("[{\"a\":1},{\"a\":2}]", &["{\"a\":1}", "{\"a\":2}"]),
    ("[{\"a\":1},{\"a\":2}]\n\n", &["{\"a\":1}", "{\"a\":2}"]),
    ("[\n {\"a\":1},\n [2] , 3\n]\n", &["{\"a\":1}", "[2]", "3"]),
    ("[\n{\"a\":1},\n{\"a\":2}\n]", &["{\"a\":1}", "{\"a\":2}"]),
    ("[{\"a\":1},\n{\"a\":2},\n{\"a\":3}]", &["{\"a\":1}", "{\"a\":2}", "{\"a\":3}"]),
    ("[]", &[]),
    ("[{\"a\":1}]\n[{\"a\":2}]\n", &["[{\"a\":1}]", "[{\"a\":2}]"]),
    ("[1]\n{\"a\":2}\n", &["[1]", "{\"a\":2}"]),
    ("5\n\"x\"\nnull", &["5", "\"x\"", "null"]),
    // A bad line costs itself only.
    ("{\"a\":1}\n{\"a\":\n{\"a\":3}\n", &["{\"a\":1}", "{\"a\":", "{\"a\":3}"]),
    ("{\"a\":1,\n{\"a\":2}\n{\"a\":3}\n", &["{\"a\":1,", "{\"a\":2}", "{\"a\":3}"]),
    ("{\"a\":\n{\"a\":2}\n{\"a\":3}\n", &["{\"a\":", "{\"a\":2}", "{\"a\":3}"]),
    ("{\"a\":[1\n{\"a\":2}\n{\"a\":3}\n", &["{\"a\":[1", "{\"a\":2}", "{\"a\":3}"]),
    ("[1,2\n[3,4]\n[5,6]\n", &["[1,2", "[3,4]", "[5,6]"]),
    ("{\"a\":\"x\n{\"a\":2}\n", &["{\"a\":\"x", "{\"a\":2}"]),
    ("{a=1}\n{\"a\":2}\n", &["{a=1}", "{\"a\":2}"]),
    ("{\"a\":1} x\n{\"a\":2}\n", &["{\"a\":1} x", "{\"a\":2}"]),
    ("{\"a\":1\n{\"a\":2}\n{\"a\":3}\n", &["{\"a\":1", "{\"a\":2}", "{\"a\":3}"]),
    ("hello world\n{\"a\":2}\n", &["hello world", "{\"a\":2}"]),
    // What is cut off is one bad record.
    ("{\n  \"a\": 1,\n  \"b\": [\n    1,\n", &["{\n  \"a\": 1,\n  \"b\": [\n    1,"]),
    ("{\n  \"a\": 1,\n{\n  \"a\": 2\n}\n", &["{\n  \"a\": 1,", "{\n  \"a\": 2\n}"]),
    ("{\n  \"a\": \"x\n  \"b\": 2\n}\n{\n  \"a\": 2\n}\n", &["{\n  \"a\": \"x\n  \"b\": 2\n}", "{\n  \"a\": 2\n}"]),
    ("[\n  {\"a\":1},\n  {\"a\":2", &["{\"a\":1}", "{\"a\":2"]),
    // A bad element too.
    ("[{\"a\":1},{\"a\" 2},{\"a\":3}]", &["{\"a\":1}", "{\"a\" 2}", "{\"a\":3}"]),
    ("[{\"a\":1},{\"a\":[2},{\"a\":3}]", &["{\"a\":1}", "{\"a\":[2}", "{\"a\":3}"]),
    ("[\n{\"a\":1},\n{\"a\":\n{\"a\" 3},\n{\"a\":4}\n]", &["{\"a\":1}", "{\"a\":\n{\"a\" 3},", "{\"a\":4}"]),
    ("[\n 1,\n {\"a\":2} 3,\n 4,\n]\n", &["1", "{\"a\":2} 3", "4"]),
    ("[{\"a\":1},{\"a\":2]", &["{\"a\":1}", "{\"a\":2"]),
];

#[test]
fn framing() {
    for (text, expected) in OBJECTS {
        assert_eq!(&texts(text, None), expected, "{text:?}");
    }
    assert_eq!(texts("[1,\n2]\n", Some(false)), ["[1,", "2]"]);
    assert_eq!(texts("{\"a\":1}{\"a\":2} 7\n[3,4]", Some(true)), ["{\"a\":1}", "{\"a\":2}", "7", "3", "4"]);
    assert_eq!(texts("{\"a\":1,\n{\"a\":2}\n", Some(true)), ["{\"a\":1,", "{\"a\":2}"]);
}

#[test]
fn frames_do_not_depend_on_chunks() {
    let mut random = seeded("chunks");
    let mut objects: Vec<Vec<u8>> = OBJECTS.iter().map(|(text, _)| text.as_bytes().to_vec()).collect();
    for _ in 0..400 {
        let parts: Vec<Vec<u8>> = (0..random.random_range(1..6)).map(|_| mutated(&mut random)).collect();
        let between: &[u8] = [&b"\n"[..], b"\r\n", b",", b" \n\n", b""][random.random_range(0..5)];
        let mut object = parts.join(between);
        if random.random_bool(0.4) {
            object = [b"[", object.as_slice(), b"]\n"].concat();
        }
        objects.push(object);
    }
    for object in &objects {
        for multi_line in [None, Some(false), Some(true)] {
            for most in [usize::MAX, 40, 5] {
                let whole = framed(object, multi_line, most, &[]);
                let all: Vec<usize> = (0..object.len()).collect();
                assert_eq!(framed(object, multi_line, most, &all), whole, "{:?}", String::from_utf8_lossy(object));
                for _ in 0..4 {
                    let mut cuts: Vec<usize> = (0..4).map(|_| random.random_range(0..=object.len())).collect();
                    cuts.sort_unstable();
                    let split = framed(object, multi_line, most, &cuts);
                    assert_eq!(split, whole, "{:?} cut at {cuts:?}", String::from_utf8_lossy(object));
                }
            }
        }
    }
}

#[test]
fn every_line_of_an_ndjson_object_is_a_record() {
    let mut random = seeded("lines");
    for _ in 0..500 {
        let mut lines = vec!["{\"a\":1}".to_owned()];
        for _ in 0..5 {
            let line = String::from_utf8_lossy(&mutated(&mut random)).replace(['\n', '\r'], " ");
            lines.extend((!line.trim().is_empty()).then(|| line.trim().to_owned()));
        }
        assert_eq!(texts(&lines.join("\n"), None), lines);
    }
}

#[test]
fn a_line_of_300_megabytes() {
    let filler = Bytes::from(vec![b'x'; 1 << 20]);
    let text = "{\"a\":\"";
    let cases =
        [(text, None, 300), (text, Some(true), 40), ("[1,\"", None, 40), ("[[[[", None, 40), ("garbage ", None, 40)];
    for (opening, multi_line, megabytes) in cases {
        let mut framer = Framer::new(multi_line, 4 << 20);
        let mut records = cut_out(framer.push(Bytes::copy_from_slice(opening.as_bytes())));
        for _ in 0..megabytes {
            records.extend(cut_out(framer.push(filler.clone())));
        }
        records.extend(cut_out(framer.push(Bytes::from_static(b"\"}\n{\"a\":2}\n"))));
        records.extend(cut_out(framer.finish()));
        let (kept, full) = records.iter().find(|(_, too_long)| too_long.is_some()).unwrap();
        assert_eq!(kept.len(), 64 * 1024);
        assert!(full.unwrap() >= megabytes << 20, "{opening}");
        assert_eq!(records.last().unwrap().0, b"{\"a\":2}", "{opening} {multi_line:?}");
    }
}

/// A double is the nearest one, however many digits it comes with.
#[test]
fn floats_are_exact() {
    let mut random = seeded("floats");
    for _ in 0..2_000 {
        let number = f64::from_bits(random.random());
        if number.is_finite() {
            let text = format!("{{\"c\":{number:e}}}");
            let found = decode(&one(DataType::Float64), Mode::Quarantine, Envelope::None, &[text.as_bytes()]);
            let column = found.batch.column(0).as_primitive::<Float64Type>();
            assert_eq!(column.value(0).to_bits(), number.to_bits(), "{text}");
        }
    }
}

#[test]
fn records_of_whole_chunks_are_not_copied() {
    let chunk = Bytes::from_static(b"{\"a\":1}\n{\"a\":2}\n{\"a\"");
    let mut framer = Framer::new(None, 1 << 20);
    let blocks = framer.push(chunk.clone());
    assert_eq!(blocks.len(), 1);
    assert_eq!((blocks[0].bytes.as_ptr(), blocks[0].records.len()), (chunk.as_ptr(), 2));
    let rest = framer.push(Bytes::from_static(b":3}\n{\"a\":4}\n"));
    assert_eq!(cut_out(rest).into_iter().map(|(record, _)| record).collect::<Vec<_>>(), [b"{\"a\":3}", b"{\"a\":4}"]);
}

#[test]
fn inference() {
    let schema =
        |records: &[&str], envelope: &Envelope| infer(records.iter().map(|record| record.as_bytes()), envelope);
    let records = [
        r#"{"Ind":1,"f":1,"t":"2024-01-01","n":null,"l":[1,null],"s":{"x":true},"m":1,"e":[],"o":{}}"#,
        "rubbish",
        r#"{"f":1.5,"ind":2,"l":[2.5],"s":{"Y":"a","x":null},"m":"x","late":99999999999999999999,"big":18446744073709551615}"#,
    ];
    let found = schema(&records, &Envelope::None).unwrap();
    let expected = Schema::new(vec![
        Field::new("ind", DataType::Int64, true),
        Field::new("f", DataType::Float64, true),
        Field::new("t", DataType::Utf8, true),
        Field::new("n", DataType::Utf8, true),
        Field::new("l", list(DataType::Float64), true),
        Field::new("s", record(&[("x", DataType::Boolean), ("y", DataType::Utf8)]), true),
        Field::new("m", DataType::Utf8, true),
        Field::new("e", list(DataType::Utf8), true),
        Field::new("o", DataType::Utf8, true),
        Field::new("late", DataType::Float64, true),
        Field::new("big", DataType::Float64, true),
    ]);
    assert_eq!(found, expected);
    assert_eq!(schema(&["x", "5", "[1]", "{\"a\":1} x", ""], &Envelope::None), None);
    assert_eq!(schema(&["{}"], &Envelope::None), Some(Schema::empty()));
    let ints = Schema::new(vec![Field::new("c", DataType::Int64, true)]);
    assert_eq!(schema(&[r#"[{"value":{"c":1}}]"#, r#""{\"c\":2}""#], &Envelope::Auto), Some(ints.clone()));
    assert_eq!(schema(&[r#"{"a":[{"c":1},{"c":2}]}"#], &Envelope::Path(vec!["a".into()])), Some(ints));
}

#[test]
fn real_rows() {
    let folder = std::env::var_os("PINSQL_TEST_DATA").map(std::path::PathBuf::from);
    let folder =
        folder.unwrap_or_else(|| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/pinterest"));
    if !folder.is_dir() {
        println!("no folder of real rows: not tested");
        return;
    }
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        let text = std::fs::read(&path).unwrap();
        let records: Vec<Vec<u8>> =
            framed(&text, None, usize::MAX, &[]).into_iter().map(|(record, _)| record).collect();
        assert_eq!(
            records.len(),
            text.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).count()
        );
        let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
        let schema = infer(records.iter().copied(), &Envelope::None).unwrap();
        let found = decode(&schema, Mode::Quarantine, Envelope::None, &records);
        assert_eq!((found.batch.num_rows(), found.rejects), (records.len(), vec![]), "{}", path.display());
        for (row, record) in records.iter().enumerate() {
            let tree: Value = serde_json::from_slice(record).unwrap();
            for (column, field) in found.batch.columns().iter().zip(schema.fields()) {
                assert!(
                    agrees(column, row, member(&tree, field.name())) || tree.get(field.name()).is_none(),
                    "row {row}"
                );
            }
        }
    }
}

/// Time must grow with the bytes, not with their square, whatever the chunks.
#[test]
fn framing_is_linear() {
    let mut framer = Framer::new(None, 64 << 20);
    let stopwatch = Stopwatch::start();
    for _ in 0..500_000 {
        framer.push(Bytes::from_static(b"["));
    }
    framer.finish();
    let elapsed = stopwatch.elapsed_ms();
    assert!(elapsed < 20_000, "{elapsed} ms");
}
