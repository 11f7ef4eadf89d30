//! Tokens for Amazon MSK: field for field, with the signature, what AWS's own signer for Python makes of the same keys at
//! the same second; and which keys are taken from where.
//!
//! Keys come from the environment, so each token is made by this binary run again, with an environment of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::{SubsecRound, Utc};
use pinsql::error::Place;
use pinsql::options::{OptionPair, Options};
use pinsql::source::kafka::iam::Signer;
use pinsql::source::kafka::settings::Settings;
use serde_json::{Value, json};
use url::Url;

use crate::support::services::{left_out, run_python};
use crate::support::sts::Sts;

const BROKER: &str = "b-1.x.abc.c2.kafka.eu-west-1.amazonaws.com:9098";
const MODULE: &str = "software.amazon.msk.auth.iam.IAMLoginModule required";
const ID: &str = "AKIAIOSFODNN7EXAMPLE";
const KEY: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const SESSION: &str = "IQoJb3JpZ2luX2VjEJr//////////wEaCXVzLWVhc3QtMSJ+/==";

/// AWS's signer with its clock stopped: arguments are the region, the keys, and the time as in `X-Amz-Date`.
const PYTHON: &str = "
import datetime, json, sys
import botocore.auth
from botocore.credentials import CredentialProvider, Credentials
from aws_msk_iam_sasl_signer import MSKAuthTokenProvider as msk
region, key, secret, session, at = sys.argv[1:]
botocore.auth.get_current_datetime = lambda *_, **__: datetime.datetime.strptime(at, '%Y%m%dT%H%M%SZ')
class Fixed(CredentialProvider):
    def load(self):
        return Credentials(key, secret, session or None)
token, expires = msk.generate_auth_token_from_credentials_provider(region, Fixed())
print(json.dumps({'text': token, 'expires': expires}))
";

/// Not a test: makes a token for the test that runs this binary again.
#[tokio::test]
#[ignore = "run by the other tests"]
async fn child() {
    let place = Place { file: String::new(), line: 1, column: 1, text: String::new(), width: 1 };
    let variables = [("kafka.sasl.jaas.config", "TEST_JAAS"), ("kafka.aws.region", "TEST_REGION")];
    let said = |(key, name): &(&str, &str)| std::env::var(name).ok().map(|value| ((*key).to_owned(), value));
    let pair = |(key, value)| OptionPair { key, value, key_place: place.clone(), value_place: place.clone() };
    let mut options = Options::new(variables.iter().filter_map(said).map(pair).collect()).unwrap();
    let broker = std::env::var("TEST_BROKER").unwrap();
    let settings = Settings::take(&mut options, Some(&broker), Path::new("/")).unwrap();
    let answer = match Signer::new(settings.iam().unwrap()) {
        Ok(signer) => signer.token().await,
        Err(error) => Err(error),
    };
    let answer = match answer {
        Ok(token) => {
            assert!(!format!("{token:?}").contains(&token.text));
            json!({"text": token.text, "expires": token.expires_at_ms})
        }
        Err(error) => json!({"error": error.message(), "hint": error.hint_text(), "passes": error.is_passing()}),
    };
    println!("\nANSWER {answer}");
}

/// What a new process answers: with options of the login module, and variables.
fn ask(module: &str, variables: &[(&str, &str)]) -> Value {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "iam::child", "--nocapture"]).env_clear();
    command.envs([("HOME", "/nowhere"), ("AWS_EC2_METADATA_DISABLED", "true"), ("TEST_BROKER", BROKER)]);
    command.env("TEST_JAAS", format!("{MODULE} {module};")).envs(variables.iter().copied());
    let done = command.output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let answer = text.lines().find_map(|line| line.strip_prefix("ANSWER "));
    let answer = answer.unwrap_or_else(|| panic!("{text}\n{}", String::from_utf8_lossy(&done.stderr)));
    serde_json::from_str(answer).unwrap()
}

/// The fields of the URL that a token is, and what stands before them.
fn fields(answer: &Value) -> (String, BTreeMap<String, String>) {
    let text = answer["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
    let url = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap();
    let url = Url::parse(&url).unwrap();
    let fields = url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    (url[..url::Position::AfterPath].to_owned(), fields)
}

#[test]
fn a_token_is_what_awss_own_signer_makes() {
    if left_out("python") {
        return;
    }
    for (session, region) in [("", "eu-west-1"), (SESSION, "eu-west-1"), (SESSION, "us-gov-west-1")] {
        let mut variables =
            vec![("AWS_ACCESS_KEY_ID", ID), ("AWS_SECRET_ACCESS_KEY", KEY), ("AWS_REGION", "af-south-1")];
        variables.extend(Some(("AWS_SESSION_TOKEN", session)).filter(|_| !session.is_empty()));
        variables.extend(Some(("TEST_REGION", region)).filter(|_| region != "eu-west-1"));
        let ours = ask("", &variables);
        let (base, mut ours_by_field) = fields(&ours);
        let at = ours_by_field["X-Amz-Date"].clone();
        let theirs = run_python(PYTHON, &[region, ID, KEY, session, &at]).remove(0);
        let (their_base, mut their_fields) = fields(&theirs);
        // The name of the library is the one thing that has to differ, and it is not signed.
        let agents = [&mut ours_by_field, &mut their_fields].map(|fields| fields.remove("User-Agent"));
        assert!(
            agents.iter().all(|agent| agent.as_ref().is_some_and(|agent| agent.starts_with("aws-msk-iam-sasl-signer")))
        );
        assert_eq!((base, &ours_by_field), (their_base, &their_fields));
        assert_eq!(ours["expires"], theirs["expires"]);
        assert!(ours_by_field["X-Amz-Signature"].len() == 64 && ours_by_field["X-Amz-Expires"] == "900");
        assert!(ours_by_field["X-Amz-Credential"].ends_with(&format!("/{region}/kafka-cluster/aws4_request")));
        assert_eq!(ours_by_field.get("X-Amz-Security-Token").map_or("", String::as_str), session);
    }
}

#[test]
fn keys_come_from_where_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let config = write("config", "[profile dev]\nregion = ap-east-1\n");
    let keys = write("keys", "[dev]\naws_access_key_id = OFDEV\naws_secret_access_key = x\n");
    let files = [("AWS_CONFIG_FILE", config.as_str()), ("AWS_SHARED_CREDENTIALS_FILE", keys.as_str())];
    let environment = [("AWS_ACCESS_KEY_ID", ID), ("AWS_SECRET_ACCESS_KEY", KEY)];
    let both = [files, environment].concat();
    let owner = |answer: &Value| {
        let credential = fields(answer).1["X-Amz-Credential"].clone();
        let parts: Vec<&str> = credential.split('/').collect();
        format!("{} {}", parts[0], parts[2])
    };
    assert_eq!(owner(&ask("", &both)), format!("{ID} eu-west-1"));
    assert_eq!(owner(&ask("awsProfileName=dev", &both)), "OFDEV eu-west-1");
    let unnamed = [("TEST_BROKER", "proxy:9098")];
    assert_eq!(owner(&ask("awsProfileName=dev", &[&both[..], &unnamed].concat())), "OFDEV ap-east-1");
    let answer = ask("", &[&environment[..], &unnamed].concat());
    assert_eq!(answer["error"], "the region of the Kafka cluster is not known");
    let answer = ask("", &[]);
    assert!(
        answer["error"].as_str().unwrap().starts_with("there are no AWS credentials for the Kafka cluster"),
        "{answer}"
    );
    assert!(answer["hint"].as_str().unwrap().contains("AWS_PROFILE"), "{answer}");
    assert_eq!(answer["passes"], false);
    let answer = ask("awsProfileName=other", &both);
    assert!(answer["error"].as_str().unwrap().contains("other"), "{answer}");
    let answer = ask("awsRoleExternalId=x", &both);
    assert!(answer["hint"].as_str().unwrap().contains("awsRoleArn"), "{answer}");
}

#[test]
fn a_role_is_assumed_and_its_end_is_kept() {
    let role = "awsRoleArn=\"arn:aws:iam::1:role/r\" awsRoleSessionName=me awsRoleExternalId=x awsStsRegion=us-west-2";
    let end = Utc::now().trunc_subsecs(0) + chrono::Duration::seconds(300);
    let sts = Sts::start(SESSION, move || end.to_rfc3339_opts(chrono::SecondsFormat::Secs, true));
    let environment = [("AWS_ACCESS_KEY_ID", ID), ("AWS_SECRET_ACCESS_KEY", KEY)];
    let answer = ask(role, &[&environment[..], &[("AWS_ENDPOINT_URL_STS", sts.endpoint.as_str())]].concat());
    let (_, fields) = fields(&answer);
    assert!(fields["X-Amz-Credential"].starts_with("OFROLE/") && fields["X-Amz-Security-Token"] == SESSION, "{answer}");
    assert_eq!(answer["expires"].as_i64(), Some(end.timestamp_millis()));
    let asked = sts.asked().concat();
    for part in ["RoleSessionName=me", "ExternalId=x", "role%2Fr", "/us-west-2/sts/aws4_request", ID] {
        assert!(asked.contains(part), "{part}: {asked}");
    }
    let sts = Sts::start(SESSION, || "2020-01-01T00:00:00Z".to_owned());
    let role = "awsRoleArn=\"arn:aws:iam::1:role/r\"";
    let answer = ask(role, &[&environment[..], &[("AWS_ENDPOINT_URL_STS", sts.endpoint.as_str())]].concat());
    assert!(answer["error"].as_str().unwrap_or_default().contains("ended at 2020-01-01"), "{answer}");
    assert!(sts.asked().concat().contains("RoleSessionName=MSKSASLDefaultSession"));
    // A service that is away may come back.
    let answer = ask(role, &[&environment[..], &[("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9")]].concat());
    assert!(answer["error"].as_str().unwrap_or_default().starts_with("there are no AWS credentials"), "{answer}");
    assert_eq!(answer["passes"], true, "{answer}");
}
