//! Options of a Kafka connection to settings of the client: librdkafka's names, Java's names, `client.properties`, login
//! modules, stores, AWS IAM; what is refused and why; and that no secret shows.

use std::path::Path;

use pinsql::error::{Error, ErrorKind, Place, Result};
use pinsql::options::{OptionPair, Options, is_harmless};
use pinsql::source::kafka::properties::{CONSUMER, PRODUCER};
use pinsql::source::kafka::settings::Settings;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;
use tempfile::TempDir;

const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
const PLAIN: &str = "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"u\" password=\"p\";";

fn options(pairs: &[(&str, &str)]) -> Options {
    let place = |text: &str| Place { file: "t.sql".into(), line: 1, column: 1, text: text.into(), width: 1 };
    let pair = |(key, value): &(&str, &str)| OptionPair {
        key: (*key).to_owned(),
        value: (*value).to_owned(),
        key_place: place("key"),
        value_place: place("value"),
    };
    Options::new(pairs.iter().map(pair).collect()).unwrap()
}

fn take_in(base: &Path, pairs: &[(&str, &str)], location: Option<&str>) -> Result<Settings> {
    let mut options = options(pairs);
    let settings = Settings::take(&mut options, location, base)?;
    options.finish("source `t`")?;
    Ok(settings)
}

fn take(pairs: &[(&str, &str)]) -> Result<Settings> {
    take_in(Path::new("/nowhere"), pairs, Some("h:9092"))
}

/// `name=value` of all settings but the servers.
fn shown(settings: &Settings) -> Vec<String> {
    let is_other = |(name, _): &(&String, &String)| *name != "bootstrap.servers";
    settings.client().iter().filter(is_other).map(|(name, value)| format!("{name}={value}")).collect()
}

fn fault(result: Result<Settings>) -> Error {
    result.map_or_else(|error| error, |settings| panic!("this was taken: {settings:?}"))
}

/// A folder with a certificate, a PKCS#12 store, a store of Java's and this `client.properties`.
fn folder(properties: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("ca.pem", PEM.as_bytes());
    write("my store.p12", b"\x30\x82\x01\x02");
    write("it's.jks", b"\xfe\xed\xfe\xed\x00");
    write("odd", b"what is this");
    write("client.properties", properties.as_bytes());
    folder
}

/// What a `client.properties` gives.
fn from_file(properties: &str) -> Result<Settings> {
    take_in(folder(properties).path(), &[("kafka.config", "client.properties")], Some("h"))
}

#[test]
fn the_names_are_those_of_the_library() {
    for name in CONSUMER.iter().chain(&PRODUCER) {
        // Most will not have this value; what matters is what they say about the name.
        let set = rdkafka::ClientConfig::new().set(*name, "\u{1}").create_native_config();
        let is_unknown = matches!(set, Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)));
        assert!(!is_unknown, "{name}");
    }
    let set = rdkafka::ClientConfig::new().set("no.such.name", "1").create_native_config();
    assert!(matches!(set, Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..))));
    assert!(CONSUMER.is_sorted() && PRODUCER.is_sorted());
}

#[test]
fn servers_are_named_once() {
    let ok = |pairs: &[(&str, &str)], location| take_in(Path::new("/"), pairs, location).unwrap().bootstrap;
    assert_eq!(ok(&[("kafka.bootstrap.servers", " a:1, b ,")], None), "a:1,b");
    assert_eq!(ok(&[("bootstrapServers", "a:1")], None), "a:1");
    assert_eq!(ok(&[], Some("a:1,b:2")), "a:1,b:2");
    assert_eq!(ok(&[("BOOTSTRAPSERVERS", "b:9092,A")], Some("a:9092,b")), "b:9092,A");
    assert_eq!(ok(&[("kafka.metadata.broker.list", "SSL://[::1]:9,[::2]")], None), "SSL://[::1]:9,[::2]");
    let file = folder("bootstrap.servers=f:1\n");
    let config = ("kafka.config", "client.properties");
    assert_eq!(take_in(file.path(), &[config], None).unwrap().bootstrap, "f:1");
    assert_eq!(take_in(file.path(), &[config], Some("l:1")).unwrap().bootstrap, "l:1");
    assert_eq!(take_in(file.path(), &[config, ("kafka.bootstrap.servers", "o:1")], None).unwrap().bootstrap, "o:1");
    let settings = take(&[("kafka.group.id", "g")]).unwrap();
    assert_eq!((settings.group_id(), settings.client().contains_key("group.id")), (Some("g"), false));
    assert_eq!(settings.client()["bootstrap.servers"], "h:9092");
    for (pairs, location, message) in [
        (&[][..], None, "no server of the Kafka cluster is named"),
        (&[("kafka.bootstrap.servers", "a"), ("bootstrapServers", "b")], None, "names other servers than"),
        (&[("bootstrapServers", "b")], Some("a"), "names other servers than `LOCATION`"),
        (&[("bootstrapServers", "a:x")], None, "`a:x` is not a server of Kafka"),
        (&[("bootstrapServers", ":1")], None, "`:1` is not a server"),
        (&[("bootstrapServers", " , ")], None, "is empty"),
        (&[("kafka.metadata.broker.list", "a"), ("kafka.bootstrap.servers", "b")], None, "say different things"),
    ] {
        let error = fault(take_in(Path::new("/"), pairs, location));
        assert!(error.message().contains(message) && error.hint_text().is_some(), "{error:?}");
    }
}

#[test]
fn javas_properties_are_translated() {
    for (given, expected) in [
        (
            "fetch.max.wait.ms=7\nsend.buffer.bytes=-1\nrequest.timeout.ms=9",
            &["fetch.wait.max.ms=7", "socket.send.buffer.bytes=0", "socket.timeout.ms=9"][..],
        ),
        (
            "security.protocol=SSL\nssl.endpoint.identification.algorithm=",
            &["security.protocol=ssl", "ssl.ca.location=probe", "ssl.endpoint.identification.algorithm=none"],
        ),
        (
            "security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\nssl.ca.location=probe\nsasl.jaas.config=JAAS",
            &[
                "sasl.mechanism=PLAIN",
                "sasl.password=p",
                "sasl.username=u",
                "security.protocol=sasl_ssl",
                "ssl.ca.location=probe",
            ],
        ),
        (
            "security.protocol=SASL_PLAINTEXT\nsasl.jaas.config=JAAS",
            &["sasl.mechanism=PLAIN", "sasl.password=p", "sasl.username=u", "security.protocol=sasl_plaintext"],
        ),
        (
            r#"security.protocol=sasl_plaintext
            sasl.mechanism = scram-sha-256
            sasl.jaas.config: kafkashaded.org.apache.kafka.common.security.scram.ScramLoginModule required \
              username='a b' \
              password="q\\"; = \\\\ \\101" ;"#,
            &[
                "sasl.mechanism=SCRAM-SHA-256",
                r#"sasl.password=q"; = \ A"#,
                "sasl.username=a b",
                "security.protocol=sasl_plaintext",
            ],
        ),
        (
            "ssl.truststore.certificates=-----BEGIN CERTIFICATE----- AAAA BB -----END CERTIFICATE-----",
            &["ssl.ca.pem=-----BEGIN CERTIFICATE-----\nAAAABB\n-----END CERTIFICATE-----\n"],
        ),
        (
            "ssl.keystore.type=PEM\nssl.key.password = x \n\
          ssl.keystore.certificate.chain=-----BEGIN A-----\\n\\\nAA\\nB\\n-----END A----------BEGIN A-----C-----END A-----\n\
          ssl.keystore.key=-----BEGIN B-----\\nProc-Type: 4\\n\\nD\\n-----END B-----",
            &[
                "ssl.certificate.pem=-----BEGIN A-----\nAAB\n-----END A-----\n-----BEGIN A-----\nC\n-----END A-----\n",
                "ssl.key.password=x ",
                "ssl.key.pem=-----BEGIN B-----\nProc-Type: 4\n\nD\n-----END B-----\n",
            ],
        ),
        // Nothing, or what pinsql does anyway.
        (
            "enable.auto.commit=False\nisolation.level=read_committed\ngroup.protocol=classic\ndebug=broker\n",
            &["debug=broker"],
        ),
        (
            "client.dns.lookup=default\nkey.deserializer=x\nschema.registry.url=x\nbasic.auth.user.info=a:b\nacks=all\n\
          sasl.kerberos.service.name=kafka\nmax.poll.records=5",
            &[],
        ),
    ] {
        let settings = from_file(&given.replace("JAAS", PLAIN)).unwrap_or_else(|error| panic!("{given}\n{error:?}"));
        assert_eq!(shown(&settings), expected, "{given}");
    }
    let ignored = from_file("key.deserializer=x\nacks=all\naws.region=r").unwrap();
    let all = ignored.ignored().join("\n");
    assert!(["`key.deserializer` is", "`acks` is", "`aws.region` is"].iter().all(|what| all.contains(what)), "{all}");
}

#[test]
fn a_properties_file_is_read_as_java_does() {
    let text = "\u{feff}# a = b\n  ! c\n\n\tdebug\\u003db = 1\r\nclient.id : \\t\\u00e4\\ud83d\\ude00x\\\n   # y\\\\\nclient.rack z =\n\
                topic.blacklist=1\ntopic.blacklist=2\nlog_level\n";
    let error = fault(from_file(text));
    assert!(error.message().contains("this line is no `property=value`"), "{error:?}");
    assert_eq!(error.place().map(|place| (place.line, place.text.as_str())), Some((4, "***")));
    let settings = from_file(&text.replace("\tdebug\\u003db", "d\\ebug")).unwrap();
    let expected = ["client.id=ä😀x# y\\", "client.rack=z =", "debug=1", "log_level=", "topic.blacklist=2"];
    assert_eq!(shown(&settings), expected);
    // Latin-1, where the bytes are not UTF-8.
    let folder = folder("");
    std::fs::write(folder.path().join("client.properties"), b"client.id=\xe4\n").unwrap();
    let settings = take_in(folder.path(), &[("kafka.config", "client.properties")], Some("h")).unwrap();
    assert_eq!(shown(&settings), ["client.id=ä"]);
    // SQL goes before the file, whatever name each uses.
    let folder = self::folder(&format!(
        "security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\nsasl.jaas.config={PLAIN}\n\
                                 ssl.truststore.location=it's.jks\nfetch.max.wait.ms=1\n"
    ));
    let sql = [
        ("kafka.config", "client.properties"),
        ("kafka.fetch.wait.max.ms", "2"),
        ("kafka.sasl.password", "better"),
        ("kafka.ssl.ca.location", "ca.pem"),
    ];
    let settings = take_in(folder.path(), &sql, Some("h")).unwrap();
    let ca = format!("ssl.ca.location={}", folder.path().join("ca.pem").display());
    let expected = ["fetch.wait.max.ms=2", "sasl.mechanism=PLAIN", "sasl.password=better", "sasl.username=u"];
    assert_eq!(shown(&settings)[..4], expected);
    assert!(shown(&settings).contains(&ca));
    for (bad, kind, message) in [
        ("client.id=\\u12", ErrorKind::Config, "`\\u` is not followed"),
        ("clientid=x", ErrorKind::Config, "is no `property=value`"),
        ("client.idd=x", ErrorKind::Config, "no property `client.idd`"),
        ("MIIEvQIBADANBgkqhkiG9w0BAQ", ErrorKind::Config, "is no `property=value`"),
        ("auto.offset.reset=latest", ErrorKind::Config, "`auto.offset.reset` cannot be set"),
    ] {
        let error = fault(from_file(bad));
        assert!(error.kind() == kind && error.message().contains(message) && error.hint_text().is_some(), "{error:?}");
        assert!(error.place().is_some_and(|place| place.file.ends_with("client.properties") && place.line == 1));
        assert!(!format!("{error:?}").contains("MIIE"), "{error:?}");
    }
    let error = fault(take(&[("kafka.config", "no.properties")]));
    assert!(error.kind() == ErrorKind::World && error.message().contains("/nowhere/no.properties"), "{error:?}");
}

#[test]
fn stores_are_found_or_their_conversion_is() {
    let folder = folder("");
    let base = folder.path();
    let at = |name: &str| base.join(name).display().to_string();
    let (ca, p12) = (at("ca.pem"), at("my store.p12"));
    for (pairs, expected) in [
        (vec![("kafka.ssl.ca.location", "ca.pem")], vec![format!("ssl.ca.location={ca}")]),
        (vec![("kafka.ssl.ca.location", ca.as_str())], vec![format!("ssl.ca.location={ca}")]),
        (
            vec![("kafka.ssl.truststore.location", "ca.pem"), ("kafka.ssl.truststore.type", "PEM")],
            vec![format!("ssl.ca.location={ca}")],
        ),
        (
            vec![("kafka.ssl.keystore.location", "ca.pem"), ("kafka.ssl.key.password", "k")],
            vec![
                format!("ssl.certificate.location={ca}"),
                format!("ssl.key.location={ca}"),
                "ssl.key.password=k".into(),
            ],
        ),
        (
            vec![("kafka.ssl.keystore.location", "my store.p12"), ("kafka.ssl.keystore.password", "k")],
            vec![format!("ssl.keystore.location={p12}"), "ssl.keystore.password=k".into()],
        ),
    ] {
        let settings = take_in(base, &pairs, Some("h")).unwrap_or_else(|error| panic!("{pairs:?}\n{error:?}"));
        assert_eq!(shown(&settings), expected, "{pairs:?}");
    }
    for (pairs, hint) in [
        (
            vec![("kafka.ssl.truststore.location", "it's.jks")],
            "keytool -list -rfc -keystore 'it'\\''s.jks' > 'it'\\''s.pem'",
        ),
        (
            vec![("kafka.ssl.truststore.location", "my store.p12"), ("kafka.ssl.truststore.type", "JKS")],
            "openssl pkcs12 -in 'my store.p12' -nokeys -out 'my store.pem'",
        ),
        (
            vec![("kafka.ssl.keystore.location", "it's.jks")],
            "keytool -importkeystore -srckeystore 'it'\\''s.jks' -destkeystore 'it'\\''s.p12' -deststoretype PKCS12",
        ),
        (vec![("kafka.ssl.keystore.location", "odd"), ("kafka.ssl.keystore.type", "PEM")], "certificates in PEM"),
        (vec![("kafka.ssl.keystore.location", "odd"), ("kafka.ssl.keystore.type", "BCFKS")], "PEM, PKCS12 and JKS"),
        (vec![("kafka.ssl.key.pem", "abc")], "give the text of the file"),
        (vec![("kafka.ssl.ca.location", "no.pem")], "a relative one counts from"),
        (vec![("kafka.ssl.ca.location", "ca.pem"), ("kafka.ssl.truststore.location", "ca.pem")], "keep one"),
    ] {
        let error = fault(take_in(base, &pairs, Some("h")));
        assert!(error.hint_text().is_some_and(|text| text.contains(hint)), "{error:?}");
        assert!(error.place().is_some());
    }
    let missing = fault(take_in(base, &[("kafka.ssl.ca.location", "no.pem")], Some("h")));
    assert!(missing.kind() == ErrorKind::World && missing.message().contains("`kafka.ssl.ca.location` names `"));
}

#[test]
fn aws_iam_is_understood() {
    let iam = |pairs: &[(&str, &str)], servers: &str| take_in(Path::new("/"), pairs, Some(servers)).unwrap();
    let mechanism = ("kafka.sasl.mechanism", "AWS_MSK_IAM");
    for (servers, region) in [
        (
            "b-1.x.abc.c2.kafka.us-east-1.amazonaws.com:9098,b-2.x.abc.c2.kafka.us-east-1.amazonaws.com:9098",
            "us-east-1",
        ),
        ("boot-abc.c1.kafka-serverless.eu-west-3.amazonaws.com:9098", "eu-west-3"),
        ("b-1.x.abc.c2.kafka.cn-north-1.amazonaws.com.cn:9098", "cn-north-1"),
        ("proxy.internal:9098", ""),
        ("kafka.example.com:9098", ""),
    ] {
        let settings = iam(&[mechanism], servers);
        assert_eq!(settings.iam().unwrap().region.as_deref().unwrap_or_default(), region);
        let expected = ["sasl.mechanism=OAUTHBEARER", "security.protocol=sasl_ssl", "ssl.ca.location=probe"];
        assert_eq!(shown(&settings), expected);
    }
    let jaas = "software.amazon.msk.auth.iam.IAMLoginModule required awsProfileName=\"dev\" awsRoleArn=\"arn:aws:iam::1:role/r\" \
                awsRoleSessionName='s' awsRoleExternalId=hunter2 awsStsRegion=us-west-2 awsDebugCreds=true;";
    let given = [
        ("kafka.security.protocol", "SASL_PLAINTEXT"),
        ("kafka.sasl.jaas.config", jaas),
        ("kafka.aws.region", "eu-west-1"),
        ("kafka.sasl.client.callback.handler.class", "software.amazon.msk.auth.iam.IAMClientCallbackHandler"),
    ];
    let settings = iam(&given, "b-1.x.abc.c2.kafka.us-east-1.amazonaws.com:9098");
    let said = settings.iam().unwrap();
    assert_eq!((said.region.as_deref(), said.profile.as_deref()), (Some("eu-west-1"), Some("dev")));
    assert_eq!((said.role_arn.as_deref(), said.role_session.as_deref()), (Some("arn:aws:iam::1:role/r"), Some("s")));
    assert_eq!((said.role_external_id.as_deref(), said.sts_region.as_deref()), (Some("hunter2"), Some("us-west-2")));
    assert_eq!(shown(&settings), ["sasl.mechanism=OAUTHBEARER", "security.protocol=sasl_plaintext"]);
    assert_eq!(settings.ignored().len(), 2);
    assert!(!format!("{settings:?}").contains("hunter2"));
    let by_handler = iam(
        &[
            ("kafka.sasl.mechanism", "OAUTHBEARER"),
            ("kafka.sasl.jaas.config", "x.OAuthBearerLoginModule required;"),
            (
                "kafka.sasl.login.callback.handler.class",
                "software.amazon.msk.auth.iam.IAMOAuthBearerLoginCallbackHandler",
            ),
        ],
        "h",
    );
    assert!(by_handler.iam().is_some() && by_handler.ignored().is_empty());
    assert!(take(&[]).unwrap().iam().is_none());
}

#[test]
fn what_cannot_be_is_refused_with_a_hint() {
    let sasl = ("kafka.security.protocol", "SASL_SSL");
    let mechanism = |name: &'static str| ("kafka.sasl.mechanism", name);
    let jaas = |text: &'static str| ("kafka.sasl.jaas.config", text);
    for (pairs, message, hint) in [
        (vec![("kafka.sasl.pasword", "hunter2")], "no property `kafka.sasl.pasword`", "`kafka.sasl.password`"),
        (vec![("kafka.confg", "hunter2")], "no property", "did you mean `kafka.config`?"),
        (vec![("kafka.wholly.different", "hunter2")], "no property", "librdkafka"),
        (vec![("kafka.auto.offset.reset", "latest")], "cannot be set: positions", "startingOffsets"),
        (vec![("kafka.enable.auto.commit", "true")], "cannot be set: positions", "leave it out"),
        (vec![("kafka.isolation.level", "read_uncommitted")], "aborted", "leave it out"),
        (vec![("kafka.group.instance.id", "x")], "hands partitions out", "leave it out"),
        (vec![("kafka.partition.assignment.strategy", "x")], "hands partitions out", "leave it out"),
        (vec![("kafka.plugin.library.paths", "x.so")], "no foreign code", "leave it out"),
        (vec![("kafka.config.providers", "env")], "providers", "${NAME}"),
        (vec![("kafka.sasl.oauthbearer.method", "oidc")], "built without", "AWS_MSK_IAM"),
        (vec![("kafka.ssl.cipher.suites", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256")], "Java's names", "OpenSSL's"),
        (vec![("kafka.security.protocol", "SASL_SLS")], "not a protocol", "`SASL_SSL`"),
        (vec![sasl], "no mechanism is given", "kafka.sasl.mechanism"),
        (vec![mechanism("PLAIN"), jaas(PLAIN)], "the protocol has no login", "SASL_SSL"),
        (vec![jaas(PLAIN)], "the protocol has no login", "SASL_SSL"),
        (vec![sasl, mechanism("PLAIN")], "needs a user", "kafka.sasl.username"),
        (vec![sasl, mechanism("SCRAM-SHA-512"), ("kafka.sasl.username", "u")], "needs a password", "${NAME}"),
        (vec![sasl, mechanism("SCRAM-SHA-521")], "not a mechanism", "`SCRAM-SHA-512`"),
        (vec![sasl, mechanism("GSSAPI")], "without Kerberos", "SCRAM"),
        (vec![sasl, mechanism("OAUTHBEARER")], "no way to get tokens", "AWS_MSK_IAM"),
        (vec![sasl, mechanism("SCRAM-SHA-512"), jaas(PLAIN)], "not the login module of `SCRAM-SHA-512`", "mend"),
        (vec![sasl, jaas("x.ScramLoginModule required username=u password=hunter2;")], "is not said", "SCRAM-SHA-512"),
        (vec![jaas("com.sun.security.auth.module.Krb5LoginModule required;")], "without Kerberos", "SCRAM"),
        (vec![jaas("x.OtherLoginModule required;")], "`OtherLoginModule`", "PlainLoginModule"),
        (vec![jaas("PlainLoginModule required password=\"hunter2;")], "a quote is never closed", "write:"),
        (vec![jaas("PlainLoginModule required password=\"hunter2\"")], "no `;` at the end", "write:"),
        (vec![jaas("PlainLoginModule required password hunter2;")], "an option has no `=`", "write:"),
        (vec![jaas("PlainLoginModule password=\"hunter2\";")], "no `required`", "write:"),
        (vec![jaas("PlainLoginModule required password=\"hunter2\"; x")], "follows the `;`", "write:"),
        (
            vec![sasl, mechanism("PLAIN"), jaas(PLAIN), ("kafka.sasl.password", "hunter2")],
            "different things",
            "keep one",
        ),
        (vec![("kafka.security.protocol", "SSL"), mechanism("AWS_MSK_IAM")], "has no login", "SASL_SSL"),
        (vec![mechanism("AWS_MSK_IAM"), jaas(PLAIN)], "not the login module of `AWS_MSK_IAM`", "IAMLoginModule"),
        (vec![jaas("x.IAMLoginModule required awsProfile=x;")], "no option `awsProfile`", "awsProfileName"),
        (vec![jaas("x.IAMLoginModule required awsRoleSecretAccessKey=hunter2;")], "the AWS chain", "profile"),
    ] {
        let error = fault(take(&pairs));
        assert!(error.message().contains(message), "{pairs:?}\n{error:?}");
        assert!(error.hint_text().is_some_and(|text| text.contains(hint)), "{pairs:?}\n{error:?}");
        assert!(error.kind() == ErrorKind::Config && error.place().is_some(), "{pairs:?}\n{error:?}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}

#[test]
fn no_secret_is_shown() {
    // A canary in every property that there is: whatever shows is on the list, and nothing on the list is a secret.
    for name in CONSUMER {
        let secret =
            ["password", "pem", "passphrase", "secret", "username", "jaas"].iter().any(|word| name.contains(word));
        assert!(!(secret && is_harmless(&format!("kafka.{name}"))), "{name}");
    }
    for name in
        ["kafka.sasl.jaas.config", "kafka.ssl.keystore.key", "kafka.ssl.truststore.password", "kafka.x", "x", ""]
    {
        assert!(!is_harmless(name), "{name}");
    }
    assert!(
        is_harmless("Kafka.Bootstrap.Servers") && is_harmless("startingOffsets") && is_harmless("delta.appendOnly")
    );
    let pairs = [
        ("kafka.security.protocol", "SASL_SSL"),
        ("kafka.sasl.mechanism", "PLAIN"),
        ("kafka.sasl.username", "hunter1"),
        ("kafka.sasl.password", "hunter2"),
        ("kafka.ssl.key.password", "hunter3"),
        ("kafka.client.id", "seen"),
    ];
    let debug = format!("{:?} {:?}", take(&pairs).unwrap(), options(&pairs));
    assert!(debug.contains("seen") && debug.contains("***") && !debug.contains("hunter"), "{debug}");
}
