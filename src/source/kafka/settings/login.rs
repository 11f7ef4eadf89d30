//! Who is asking: SASL mechanisms, users and passwords, and the tokens of AWS IAM.
//!
//! Uses `error`, `store`, the draft and Java's login modules.

use super::jaas::{self, Login};
use super::{Draft, Given, servers};
use crate::error::{Result, nearest};
use crate::store::identity::Identity;

/// What librdkafka's build in pinsql can do, and what pinsql adds.
const MECHANISMS: [&str; 5] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "AWS_MSK_IAM", "OAUTHBEARER"];
const PROTOCOLS: [&str; 4] = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];
const USE_OTHERS: &str = "the mechanisms are PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 and AWS_MSK_IAM";
/// Options of `IAMLoginModule` that mean something here.
const IAM_OPTIONS: [&str; 5] =
    ["awsProfileName", "awsRoleArn", "awsRoleSessionName", "awsRoleExternalId", "awsStsRegion"];
/// Options of `IAMLoginModule` that are of its own workings.
const IAM_IGNORED: [&str; 3] = ["awsDebugCreds", "awsMaxRetries", "awsMaxBackOffTimeMs"];

/// Reads all that says who asks, and sets the protocol, the mechanism, the user and the password.
pub(super) fn log_in(draft: &mut Draft<'_>, bootstrap: &str) -> Result<Option<Identity>> {
    let protocol = protocol(draft)?;
    let login = match draft.take("sasl.jaas.config") {
        Some(given) => Some((module(&given)?, given)),
        None => None,
    };
    let mechanism = draft.take("sasl.mechanism");
    let handler = draft.given.get("sasl.login.callback.handler.class");
    let by_handler = handler.is_some_and(|given| given.value.ends_with("IAMOAuthBearerLoginCallbackHandler"));
    let module = login.as_ref().map(|(login, _)| login.module.as_str());
    let said = mechanism.as_ref().map(|given| given.value.trim().to_ascii_uppercase());
    let is_iam = match said.as_deref() {
        Some("AWS_MSK_IAM") => true,
        Some("OAUTHBEARER") => by_handler || module == Some("IAMLoginModule"),
        Some(_) => false,
        None => module == Some("IAMLoginModule"),
    };
    if is_iam {
        return iam(draft, protocol, login, bootstrap).map(Some);
    }
    if let Some((login, given)) = &login {
        user(draft, login, given, said.as_deref())?;
    }
    // `PlainLoginModule` says its mechanism.
    let said = said.or_else(|| draft.client.remove("sasl.mechanism"));
    let by = mechanism.as_ref().or(login.as_ref().map(|(_, given)| given));
    match (said, by) {
        (Some(said), Some(by)) => check(draft, protocol.as_ref(), said, by)?,
        _ => {
            if let Some((_, given)) = protocol.filter(|(protocol, _)| protocol.starts_with("sasl")) {
                return Err(given
                    .wrong(format!("`{}` asks for a login, and no mechanism is given", given.name))
                    .hint("add `kafka.sasl.mechanism` = 'PLAIN', 'SCRAM-SHA-512' or 'AWS_MSK_IAM'"));
            }
        }
    }
    Ok(None)
}

/// `security.protocol` in librdkafka's letters.
fn protocol(draft: &mut Draft<'_>) -> Result<Option<(String, Given)>> {
    let Some(given) = draft.take("security.protocol") else { return Ok(None) };
    let protocol = given.value.trim().to_ascii_lowercase();
    if !PROTOCOLS.contains(&protocol.as_str()) {
        let error = given.wrong(format!("`{}` is not a protocol of Kafka", given.value));
        return Err(match nearest(&protocol, PROTOCOLS) {
            Some(near) => error.hint(format!("did you mean `{}`?", near.to_uppercase())),
            None => error.hint("the protocols are PLAINTEXT, SSL, SASL_PLAINTEXT and SASL_SSL"),
        });
    }
    draft.set("security.protocol", protocol.clone());
    Ok(Some((protocol, given)))
}

/// The login module; one that cannot be had here is refused.
fn module(given: &Given) -> Result<Login> {
    let login = jaas::parse(&given.value).map_err(|what| {
        given.wrong(format!("`{}` cannot be read: {what}", given.name)).hint(
            "write: org.apache.kafka.common.security.plain.PlainLoginModule required username=\"…\" password=\"…\";",
        )
    })?;
    match login.module.as_str() {
        "PlainLoginModule" | "ScramLoginModule" | "IAMLoginModule" | "OAuthBearerLoginModule" => Ok(login),
        "Krb5LoginModule" => Err(given.wrong("pinsql is built without Kerberos (`Krb5LoginModule`)").hint(USE_OTHERS)),
        other => Err(given
            .wrong(format!("`{other}` is not a login module that pinsql knows"))
            .hint("the modules are PlainLoginModule, ScramLoginModule and IAMLoginModule")),
    }
}

/// The user and the password of a plain or SCRAM login.
fn user(draft: &mut Draft<'_>, login: &Login, given: &Given, said: Option<&str>) -> Result<()> {
    let fits = match login.module.as_str() {
        "PlainLoginModule" => said.is_none_or(|said| said == "PLAIN"),
        "ScramLoginModule" => said.is_none_or(|said| said.starts_with("SCRAM-")),
        "OAuthBearerLoginModule" => return Ok(()),
        _ => false,
    };
    if !fits {
        return Err(given
            .wrong(format!("`{}` is not the login module of `{}`", login.module, said.unwrap_or_default()))
            .hint("mend `sasl.mechanism` or `sasl.jaas.config`"));
    }
    if said.is_none() && login.module == "ScramLoginModule" {
        return Err(given
            .wrong("the mechanism of the SCRAM login is not said")
            .hint("add `kafka.sasl.mechanism` = 'SCRAM-SHA-512', or 'SCRAM-SHA-256'"));
    }
    if said.is_none() {
        draft.set("sasl.mechanism", "PLAIN");
    }
    if login.option("tokenauth").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Err(given
            .wrong("the Kafka client cannot log in by a delegation token")
            .hint("use a user and a password"));
    }
    for (option, key) in [("username", "sasl.username"), ("password", "sasl.password")] {
        let Some(value) = login.option(option) else { continue };
        let value = Given { value: value.to_owned(), ..given.clone() };
        match draft.given.get(key) {
            Some(other) if other.in_sql == given.in_sql && other.value != value.value => {
                return Err(given.contradicts(other));
            }
            Some(other) if other.in_sql => {}
            _ => {
                draft.given.insert(key.to_owned(), value);
            }
        }
    }
    Ok(())
}

/// A mechanism and a protocol that fit, with all that they need. `by` is what says the mechanism.
fn check(draft: &mut Draft<'_>, protocol: Option<&(String, Given)>, said: String, by: &Given) -> Result<()> {
    let unsecure = draft.given.get("enable.sasl.oauthbearer.unsecure.jwt");
    let unsecure = unsecure.is_some_and(|given| given.value.eq_ignore_ascii_case("true"));
    match said.as_str() {
        "OAUTHBEARER" if !unsecure => {
            return Err(by
                .wrong("pinsql has no way to get tokens for `OAUTHBEARER` but AWS IAM")
                .hint("for Amazon MSK say AWS_MSK_IAM; else use SCRAM-SHA-512 or PLAIN"));
        }
        "GSSAPI" => return Err(by.wrong("pinsql is built without Kerberos (`GSSAPI`)").hint(USE_OTHERS)),
        other if !MECHANISMS.contains(&other) => {
            let error = by.wrong(format!("`{other}` is not a mechanism that pinsql knows"));
            return Err(match nearest(other, MECHANISMS) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint(USE_OTHERS),
            });
        }
        _ => {}
    }
    if protocol.is_none_or(|(protocol, _)| !protocol.starts_with("sasl")) {
        return Err(by
            .wrong(format!("mechanism `{said}` is given, but the protocol has no login"))
            .hint("add `kafka.security.protocol` = 'SASL_SSL'"));
    }
    for (key, what) in [("sasl.username", "user"), ("sasl.password", "password")] {
        if said != "OAUTHBEARER" && draft.given.get(key).is_none_or(|given| given.value.is_empty()) {
            return Err(by
                .wrong(format!("mechanism `{said}` needs a {what}, and none is given"))
                .hint(format!("add `kafka.{key}` = '${{NAME}}'")));
        }
    }
    draft.set("sasl.mechanism", said);
    Ok(())
}

/// AWS IAM: tokens are handed to librdkafka as for OAUTHBEARER.
fn iam(
    draft: &mut Draft<'_>,
    protocol: Option<(String, Given)>,
    login: Option<(Login, Given)>,
    bootstrap: &str,
) -> Result<Identity> {
    match protocol {
        None => draft.set("security.protocol", "sasl_ssl"),
        Some((protocol, given)) if !protocol.starts_with("sasl") => {
            return Err(given.wrong(format!("`{protocol}` has no login, and AWS_MSK_IAM is one")).hint("say SASL_SSL"));
        }
        Some(_) => {}
    }
    draft.set("sasl.mechanism", "OAUTHBEARER");
    draft.take("sasl.login.callback.handler.class");
    let mut iam = Identity::default();
    if let Some((login, given)) = login {
        if !["IAMLoginModule", "OAuthBearerLoginModule"].contains(&login.module.as_str()) {
            return Err(given
                .wrong(format!("`{}` is not the login module of `AWS_MSK_IAM`", login.module))
                .hint("write: software.amazon.msk.auth.iam.IAMLoginModule required;"));
        }
        read_iam_options(&mut iam, login, &given, &mut draft.ignored)?;
    }
    iam.region = match draft.take("aws.region") {
        Some(given) => Some(given.value),
        None => region(bootstrap)?,
    };
    Ok(iam)
}

fn read_iam_options(iam: &mut Identity, login: Login, given: &Given, ignored: &mut Vec<String>) -> Result<()> {
    for (key, value) in login.options {
        match key.as_str() {
            "awsProfileName" => iam.profile = Some(value),
            "awsRoleArn" => iam.role_arn = Some(value),
            "awsRoleSessionName" => iam.role_session = Some(value),
            "awsRoleExternalId" => iam.role_external_id = Some(value),
            "awsStsRegion" => iam.sts_region = Some(value),
            "awsRoleAccessKeyId" | "awsRoleSecretAccessKey" | "awsRoleSessionToken" => {
                return Err(given
                    .wrong(format!("`{key}` is not taken: keys come from the AWS chain"))
                    .hint("put the keys into a profile and say awsProfileName=\"…\""));
            }
            other if IAM_IGNORED.contains(&other) => {
                ignored
                    .push(format!("`{other}` of `{}` is ignored: it changes nothing in pinsql's client", given.name));
            }
            other => {
                let error = given.wrong(format!("`IAMLoginModule` has no option `{other}`"));
                return Err(match nearest(other, IAM_OPTIONS) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error.hint(format!("the options are {}", IAM_OPTIONS.join(", "))),
                });
            }
        }
    }
    Ok(())
}

/// The region that the servers' names say: `….kafka.<region>.amazonaws.com`, `….kafka-serverless.<region>.amazonaws.com`.
fn region(bootstrap: &str) -> Result<Option<String>> {
    Ok(servers(bootstrap)?.iter().find_map(|(host, _)| {
        let host = host.trim_end_matches(".cn").strip_suffix(".amazonaws.com")?;
        let (before, region) = host.rsplit_once('.')?;
        let service = before.rsplit_once('.')?.1;
        ["kafka", "kafka-serverless"].contains(&service).then(|| region.to_owned())
    }))
}
