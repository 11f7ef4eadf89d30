//! Secured brokers: every way in reads the same messages, every refusal is one clear error, and no secret shows.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures::future::join_all;
use pinsql::engine::RunOptions;
use serde_json::json;

use crate::support::kafka::{KEY_PASSWORD, Kafka, Message, PASSWORD, STORE_PASSWORD, USER};
use crate::support::services::left_out;
use crate::support::time::Awake;
use crate::support::world::{World, binary, table};

/// What is no password of anybody. Like the real ones it must never be seen.
const WRONG: &str = "canary-5e1f90";
const SECRETS: [&str; 4] = [PASSWORD, KEY_PASSWORD, STORE_PASSWORD, WRONG];
/// Long enough for the client's patience on a loaded machine, and too short for a second try.
const CLEAR_WITHIN: Duration = Duration::from_secs(25);

/// The secured broker with a topic of ten messages, and what lies around it.
struct Case {
    kafka: &'static Kafka,
    topic: String,
    /// An authority that signed nothing here, a key store of Java's, and key and certificate in one file.
    folder: tempfile::TempDir,
}

fn case(name: &str) -> Option<Case> {
    if left_out("kafka") {
        return None;
    }
    let (kafka, topic) = (Kafka::secured(), format!("{name}-{:08x}", rand::random::<u32>()));
    kafka.create_topic(&topic, 1, &[]);
    kafka.produce(&topic, (0..10).map(|id| Message::new(json!({ "id": id }).to_string())));
    let folder = tempfile::tempdir().unwrap();
    let mut bash = Command::new("bash");
    bash.args(["-euc", FILES, "files"]).arg(folder.path()).arg(kafka.ca().parent().unwrap()).arg(STORE_PASSWORD);
    let done = bash.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Some(Case { kafka, topic, folder })
}

const FILES: &str = r#"
cd "$1"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout other.key -out other.pem -subj /CN=other
keytool -importkeystore -srckeystore "$2/client.p12" -srcstorepass "$3" -destkeystore client.jks -deststorepass "$3" -deststoretype JKS
cat "$2/client-encrypted.key" "$2/client.pem" >store.pem
"#;

impl Case {
    /// A project whose source `k` is the topic. All options are in one line: a caret shows them with what it points at.
    fn project(&self, broker: &str, options: &str) -> World {
        let (world, topic, options) =
            (World::new(), &self.topic, options.split_whitespace().collect::<Vec<_>>().join(" "));
        world.write(
            "sql/t.sql",
            format!(
                "CREATE EXTERNAL TABLE k (id BIGINT) STORED AS KAFKA LOCATION 'kafka://{broker}/{topic}' OPTIONS ({options});\n\
                 CREATE STREAMING TABLE t AS SELECT id FROM STREAM k;"
            ),
        );
        world
    }

    fn own(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A certificate or a key as Java takes it in a `client.properties`: one line of many, each with a backslash.
    fn inline(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap().trim().replace('\n', "\\n\\\n")
    }
}

/// Where a listener is and what reads from it.
type Way = (&'static str, String, String);

/// The options of a login, with TLS and without.
fn login(mechanism: &str, password: &str) -> String {
    format!("'kafka.sasl.mechanism' '{mechanism}', 'kafka.sasl.username' '{USER}', 'kafka.sasl.password' '{password}'")
}

fn jaas(module: &str, password: &str) -> String {
    format!("org.apache.kafka.common.security.{module} required username=\"{USER}\" password=\"{password}\";")
}

fn ways(case: &Case) -> Vec<Way> {
    let kafka = case.kafka;
    let [ca, certificate, key, encrypted, store] = [
        kafka.ca(),
        kafka.client_certificate(),
        kafka.client_key(),
        kafka.client_key_encrypted(),
        kafka.client_store(),
    ];
    let [ca, certificate, key, encrypted, store] =
        [ca, certificate, key, encrypted, store].map(|path| path.display().to_string());
    let pem = case.own("store.pem").display().to_string();
    let [ssl, mtls, sasl, sasl_ssl] =
        [kafka.ssl_bootstrap(), kafka.mtls_bootstrap(), kafka.sasl_bootstrap(), kafka.sasl_ssl_bootstrap()];
    let tls = format!("'kafka.security.protocol' 'SSL', 'kafka.ssl.ca.location' '{ca}'");
    let plain = "'kafka.security.protocol' 'SASL_PLAINTEXT'";
    let both = format!("'kafka.security.protocol' 'SASL_SSL', 'kafka.ssl.ca.location' '{ca}'");
    let in_java = |module: &str, password: &str| format!("'kafka.sasl.jaas.config' '{}'", jaas(module, password));
    let certified = format!("'kafka.ssl.certificate.location' '{certificate}'");
    let mut ways = vec![
        ("TLS", ssl, tls.clone()),
        ("mTLS", mtls.clone(), format!("{tls}, {certified}, 'kafka.ssl.key.location' '{key}'")),
        (
            "mTLS, encrypted key",
            mtls.clone(),
            format!("{tls}, {certified}, 'kafka.ssl.key.location' '{encrypted}', 'kafka.ssl.key.password' '{KEY_PASSWORD}'"),
        ),
        (
            "mTLS, PKCS12",
            mtls.clone(),
            format!("{tls}, 'kafka.ssl.keystore.location' '{store}', 'kafka.ssl.keystore.password' '{STORE_PASSWORD}'"),
        ),
        (
            "mTLS, PEM store in Java's words",
            mtls,
            format!(
                "'kafka.security.protocol' 'SSL', 'kafka.ssl.truststore.type' 'PEM', 'kafka.ssl.truststore.location' '{ca}',
                 'kafka.ssl.keystore.type' 'PEM', 'kafka.ssl.keystore.location' '{pem}', 'kafka.ssl.key.password' '{KEY_PASSWORD}'"
            ),
        ),
        ("PLAIN in Java's words", sasl.clone(), format!("{plain}, {}", in_java("plain.PlainLoginModule", PASSWORD))),
        (
            "SCRAM in Java's words, over TLS",
            sasl_ssl.clone(),
            format!("{both}, 'kafka.sasl.mechanism' 'SCRAM-SHA-256', {}", in_java("scram.ScramLoginModule", PASSWORD)),
        ),
    ];
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        ways.push((mechanism, sasl.clone(), format!("{plain}, {}", login(mechanism, PASSWORD))));
        ways.push((mechanism, sasl_ssl.clone(), format!("{both}, {}", login(mechanism, PASSWORD))));
    }
    ways
}

async fn ids(world: &World) -> Vec<i64> {
    world.query("SELECT id FROM t ORDER BY id").await.iter().map(|row| row["id"].as_i64().unwrap()).collect()
}

/// That none of the secrets is in what was shown.
fn assert_clean(what: &str, shown: &str) {
    for secret in SECRETS {
        if let Some(at) = shown.find(secret) {
            let around: String = shown[..at].chars().rev().take(200).collect::<Vec<_>>().into_iter().rev().collect();
            panic!("{what} shows a secret behind: {around}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_in_reads_the_same() {
    let Some(case) = case("ways") else { return };
    for (name, broker, options) in ways(&case) {
        let world = case.project(&broker, &options);
        assert_eq!(table(&world.run().await, "t").read, 10, "{name}");
        assert_eq!(ids(&world).await, (0..10).collect::<Vec<_>>(), "{name}");
        assert_eq!(table(&world.run().await, "t").read, 0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_javas_client_is_a_way_in() {
    let Some(case) = case("files") else { return };
    let kafka = case.kafka;
    let ca = kafka.ca().display().to_string();
    let scram = jaas("scram.ScramLoginModule", PASSWORD).replace(" required", " \\\n  required");
    let of_login = format!(
        "# as it is given to Java\nsecurity.protocol=SASL_SSL\nsasl.mechanism = SCRAM-SHA-512\nsasl.jaas.config={scram}\n\
         ssl.truststore.type=PEM\nssl.truststore.location={ca}\nmax.poll.records=500\n"
    );
    let of_certificate = format!(
        "bootstrap.servers={}\nsecurity.protocol=SSL\nssl.truststore.type=PEM\nssl.truststore.certificates={}\n\
         ssl.keystore.type=PEM\nssl.keystore.certificate.chain={}\nssl.keystore.key={}\nssl.key.password={KEY_PASSWORD}\n",
        kafka.mtls_bootstrap(),
        Case::inline(&kafka.ca()),
        Case::inline(&kafka.client_certificate()),
        Case::inline(&kafka.client_key_encrypted()),
    );
    for (broker, text) in [(kafka.sasl_ssl_bootstrap(), of_login), (kafka.mtls_bootstrap(), of_certificate)] {
        let world = case.project(&broker, "'kafka.config' 'client.properties'");
        world.write("client.properties", &text);
        world.run().await;
        assert_eq!(ids(&world).await, (0..10).collect::<Vec<_>>(), "{text}");
    }
}

/// What is refused: a name, the broker, the options, the kind, and what message and hint must say.
type Refusal = (&'static str, String, String, &'static str, Vec<String>, &'static str);

fn refusals(case: &Case) -> Vec<Refusal> {
    let kafka = case.kafka;
    let path = |path: PathBuf| path.display().to_string();
    let (ca, other, certificate) = (path(kafka.ca()), path(case.own("other.pem")), path(kafka.client_certificate()));
    let (key, encrypted, store) =
        (path(kafka.client_key()), path(kafka.client_key_encrypted()), path(kafka.client_store()));
    let jks = path(case.own("client.jks"));
    let [ssl, mtls, sasl, sasl_ssl] =
        [kafka.ssl_bootstrap(), kafka.mtls_bootstrap(), kafka.sasl_bootstrap(), kafka.sasl_ssl_bootstrap()];
    let tls = format!("'kafka.security.protocol' 'SSL', 'kafka.ssl.ca.location' '{ca}'");
    let plain = "'kafka.security.protocol' 'SASL_PLAINTEXT'";
    let both = format!("'kafka.security.protocol' 'SASL_SSL', 'kafka.ssl.ca.location' '{ca}'");
    let certified = format!("'kafka.ssl.certificate.location' '{certificate}'");
    let said = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let world = |name, broker: &str, options: String, reason: &str, hint| {
        (name, broker.to_owned(), options, "world", said(&[broker, reason]), hint)
    };
    let config = |name, broker: &str, options: String, words: &[&str], hint| {
        (name, broker.to_owned(), options, "config", said(words), hint)
    };
    let mut refusals = vec![
        world(
            "another authority",
            &ssl,
            format!("'kafka.security.protocol' 'SSL', 'kafka.ssl.ca.location' '{other}'"),
            "certificate verify failed",
            "kafka.ssl.ca.location",
        ),
        world(
            "no authority",
            &ssl,
            "'kafka.security.protocol' 'SSL'".into(),
            "certificate verify failed",
            "kafka.ssl.ca.location",
        ),
        world(
            "another authority, with a login",
            &sasl_ssl,
            format!(
                "'kafka.security.protocol' 'SASL_SSL', 'kafka.ssl.ca.location' '{other}', {}",
                login("PLAIN", PASSWORD)
            ),
            "certificate verify failed",
            "kafka.ssl.ca.location",
        ),
        world("no certificate", &mtls, tls.clone(), "certificate", "kafka.ssl.certificate.location"),
        // Hung up on, the client may also have waited in vain: `timed out: disconnect`.
        world("plaintext to TLS", &ssl, String::new(), "isconnect", "kafka.security.protocol"),
        world("plaintext to SASL", &sasl, String::new(), "isconnect", "kafka.security.protocol"),
        world("TLS to plaintext", &kafka.bootstrap(), tls.clone(), "Disconnected", "kafka.security.protocol"),
        world(
            "SASL to plaintext",
            &kafka.bootstrap(),
            format!("{plain}, {}", login("PLAIN", PASSWORD)),
            "not valid in current SASL state",
            "kafka.security.protocol",
        ),
        (
            "a file that is not there",
            ssl.clone(),
            "'kafka.security.protocol' 'SSL', 'kafka.ssl.ca.location' 'certificates/ca.pem'".into(),
            "world",
            said(&["`kafka.ssl.ca.location`", "certificates/ca.pem", "No such file"]),
            "counts from",
        ),
        config(
            "a store of Java's",
            &mtls,
            format!("{tls}, 'kafka.ssl.keystore.location' '{jks}', 'kafka.ssl.keystore.password' '{STORE_PASSWORD}'"),
            &["key store", "client.jks", "Java's own format"],
            "keytool -importkeystore -srckeystore",
        ),
        config(
            "a trust store of Java's",
            &ssl,
            format!(
                "'kafka.security.protocol' 'SSL', 'kafka.ssl.truststore.location' '{jks}', 'kafka.ssl.truststore.password' '{WRONG}'"
            ),
            &["trust store", "client.jks", "not in PEM"],
            "keytool -list -rfc -keystore",
        ),
        config(
            "an unknown property",
            &sasl,
            format!("{plain}, {}, 'kafka.sasl.pasword' '{WRONG}'", login("PLAIN", PASSWORD)),
            &["no property `kafka.sasl.pasword`"],
            "did you mean `kafka.sasl.password`?",
        ),
        config(
            "an unknown option",
            &sasl,
            format!("'sasl.password' '{WRONG}', {plain}, {}", login("PLAIN", PASSWORD)),
            &["no option `sasl.password`"],
            "",
        ),
        config(
            "a value that the client refuses",
            &sasl,
            format!("{plain}, {}, 'kafka.socket.timeout.ms' 'soon'", login("PLAIN", WRONG)),
            &["kafka.socket.timeout.ms"],
            "",
        ),
        config(
            "a wrong password of the key",
            &mtls,
            format!("{tls}, {certified}, 'kafka.ssl.key.location' '{encrypted}', 'kafka.ssl.key.password' '{WRONG}'"),
            &["ssl.key.location"],
            "kafka.ssl.key.password",
        ),
        config(
            "no password of the key",
            &mtls,
            format!("{tls}, {certified}, 'kafka.ssl.key.location' '{encrypted}'"),
            &["ssl.key.location"],
            "kafka.ssl.key.password",
        ),
        config(
            "a wrong password of the store",
            &mtls,
            format!("{tls}, 'kafka.ssl.keystore.location' '{store}', 'kafka.ssl.keystore.password' '{WRONG}'"),
            &["ssl.keystore.location"],
            "kafka.ssl.keystore.password",
        ),
        config(
            "the key of another certificate",
            &mtls,
            format!("{tls}, 'kafka.ssl.certificate.location' '{other}', 'kafka.ssl.key.location' '{key}'"),
            &["key"],
            "",
        ),
        config(
            "a login module that is cut off",
            &sasl,
            format!(
                "{plain}, 'kafka.sasl.jaas.config' '{}'",
                jaas("plain.PlainLoginModule", WRONG).trim_end_matches(';')
            ),
            &["kafka.sasl.jaas.config", "`;`"],
            "write:",
        ),
    ];
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        for (broker, protocol) in [(&sasl, plain), (&sasl_ssl, both.as_str())] {
            let options = format!("{protocol}, {}", login(mechanism, WRONG));
            refusals.push(world(mechanism, broker, options, "uthentication failed", "password"));
        }
    }
    refusals
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_one_clear_error() {
    let Some(case) = case("refused") else { return };
    let refused = refusals(&case).into_iter().map(|(name, broker, options, kind, words, hint)| {
        let world = case.project(&broker, &options);
        async move {
            let start = Awake::start();
            let (mut engine, told) = world.open(&["sql"]).await.unwrap();
            let summary = engine.run(&RunOptions::default()).await;
            let took = start.elapsed();
            let mut wrong = Vec::new();
            let Some(error) = &summary.error else { return vec![format!("{name}: it is not refused")] };
            let shown = format!("{summary:?} {error:?} {error} {told:?}");
            println!("{name} ({took:.1?}): {}: {error}\n    hint: {:?}", error.kind().name(), error.hint_text());
            let mut check = |holds: bool, what: &str| {
                if !holds {
                    wrong.push(format!("{name}: {what}: {error:?}"));
                }
            };
            check(error.kind().name() == kind, "the kind");
            check(words.iter().all(|word| error.message().contains(word)), "the message");
            check(error.hint_text().is_some_and(|text| text.contains(hint)), "the hint");
            check(took < CLEAR_WITHIN, "the time");
            check(!error.message().contains('\n'), "the line");
            check(!world.path("lake/t").exists(), "the lake");
            check(SECRETS.iter().all(|secret| !shown.contains(secret)), "a secret");
            wrong
        }
    });
    let wrong = join_all(refused).await.concat();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a statement shows, whatever comes of it.
async fn said(world: &World, sql: &str) -> String {
    let (mut engine, told) = match world.open(&[]).await {
        Ok(opened) => opened,
        Err(error) => return format!("{error:?} {error}"),
    };
    match engine.execute("-c", sql).await {
        Ok(()) => format!("{told:?}"),
        Err(error) => format!("{error:?} {error} {told:?}"),
    }
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_shown_or_kept() {
    let Some(case) = case("secrets") else { return };
    case.kafka.produce(&case.topic, [Message::new("not json")]);
    let ways = ways(&case);
    let of = |name: &str| ways.iter().rfind(|way| way.0 == name).unwrap();
    for name in ["SCRAM-SHA-512", "PLAIN in Java's words", "mTLS, encrypted key", "mTLS, PKCS12"] {
        let (_, broker, options) = of(name);
        // The client tells all that it does.
        let world = case.project(broker, &format!("{options}, 'kafka.debug' 'all'"));
        let arguments: Vec<String> = [("bootstrapServers", broker.as_str()), ("subscribe", &case.topic)]
            .iter()
            .map(|(key, value)| format!("{key} => '{value}'"))
            .chain(options.split(", '").map(|pair| {
                let (key, value) = pair.trim_start_matches('\'').split_once("' ").unwrap();
                format!("`{key}` => {value}")
            }))
            .collect();
        let read = format!("read_kafka({})", arguments.join(", "));
        let declared = std::fs::read_to_string(world.path("sql/t.sql")).unwrap();
        let more = format!(
            "CREATE STREAMING TABLE r (CONSTRAINT json EXPECT (CAST(value AS STRING) LIKE '%id%') ON VIOLATION QUARANTINE ROW)
                 AS SELECT value FROM STREAM {read};
             CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM {read};"
        );
        assert!(SECRETS.iter().any(|secret| declared.contains(secret) && more.contains(secret)), "{name}");
        world.write("sql/t.sql", format!("{declared}\n{more}"));
        let ran = Command::new(binary())
            .current_dir(world.path(""))
            .args(["--log-level", "trace", "--json", "run", "sql"])
            .output()
            .unwrap();
        let (out, log) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert_eq!(ran.status.code(), Some(0), "{name}: {out}");
        assert!(log.contains("facility=") && log.contains(broker.as_str()), "{name}: the log says nothing: {log}");
        assert_clean(&format!("{name}: the output"), &out);
        assert_clean(&format!("{name}: the log"), &log);
        assert_eq!(ids(&world).await, (0..10).collect::<Vec<_>>(), "{name}");
        for sql in [
            "EXPLAIN SELECT * FROM k",
            &format!("EXPLAIN SELECT * FROM {read}"),
            "SHOW CREATE TABLE k",
            "SHOW CREATE TABLE t",
            "SHOW CREATE TABLE r",
            "SHOW CREATE TABLE m",
            "DESCRIBE k",
            "DESCRIBE r",
            "SHOW TABLES",
            "SELECT * FROM t_quarantine",
            "SELECT * FROM r_quarantine",
            "SELECT n FROM m",
            // And where the text itself is wrong.
            "SELECT nothing FROM k",
            &format!("SELECT nothing FROM {read}"),
            &format!("SELECT * FROM {read} WHERE"),
            &format!("SELECT * FROM {}", read.replace("subscribe", "subscirbe")),
            &format!("SELECT * FROM {}", read.replace("', ", "' ")),
        ] {
            let shown = said(&world, sql).await;
            assert!(shown.len() > 100, "{name}: {sql}: {shown}");
            assert_clean(&format!("{name}: {}", sql.split('(').next().unwrap()), &shown);
        }
        assert!(said(&world, "SHOW CREATE TABLE k").await.contains("***"), "{name}");
        let kept = files(&world.path("lake"));
        for part in
            ["t/_pinsql/", "t/_delta_log/", "t_quarantine/_delta_log/", "r_quarantine/_delta_log/", "m/_delta_log/"]
        {
            assert!(kept.iter().any(|path| path.display().to_string().contains(part)), "{name}: {part}: {kept:?}");
        }
        for path in kept {
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            assert_clean(&format!("{name}: {}", path.display()), &format!("{} {text}", path.display()));
        }
    }
    // A login that is refused is told in the log too.
    let broker = case.kafka.sasl_bootstrap();
    let options = format!(
        "'kafka.security.protocol' 'SASL_PLAINTEXT', {}, 'kafka.debug' 'security'",
        login("SCRAM-SHA-256", WRONG)
    );
    let world = case.project(&broker, &options);
    for arguments in [["run", "sql"], ["stream", "sql"], ["check", "sql"], ["plan", "sql"], ["-c", "SELECT * FROM k"]] {
        let ran = Command::new(binary())
            .current_dir(world.path(""))
            .args(["--log-level", "trace", "--json"])
            .args(arguments)
            .output()
            .unwrap();
        let all = [ran.stdout, ran.stderr].concat();
        assert_clean(&format!("{arguments:?}"), &String::from_utf8_lossy(&all));
        assert!(arguments[0] == "check" || arguments[0] == "plan" || ran.status.code() == Some(1), "{arguments:?}");
    }
    assert!(!world.path("lake/t").exists());
}
