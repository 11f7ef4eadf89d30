//! Java's trust and key stores, and PEM text: made into what librdkafka can read, or into a hint how to convert them.
//!
//! Uses `error` and the draft. librdkafka reads PEM, and PKCS#12 for a key store alone.

use std::io::Read;
use std::path::Path;

use super::{Draft, Given};
use crate::error::{Error, Result};

/// What a store is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Pem,
    Pkcs12,
    Jks,
}

/// `ssl.truststore.*` to `ssl.ca.location`.
pub(super) fn trust_store(draft: &mut Draft<'_>) -> Result<()> {
    let said = draft.take("ssl.truststore.type");
    draft.take("ssl.truststore.password");
    let Some(location) = draft.take("ssl.truststore.location") else { return Ok(()) };
    if draft.is_replaced(&location, &["ssl.ca.location", "ssl.ca.pem"])? {
        return Ok(());
    }
    let path = draft.file(&location)?;
    let file = shell_word(Path::new(&location.value));
    let pem = shell_word(&Path::new(&location.value).with_extension("pem"));
    let command = match format(Path::new(&path), &location, said.as_ref())? {
        Format::Pem => {
            draft.set("ssl.ca.location", path);
            return Ok(());
        }
        Format::Jks => format!("keytool -list -rfc -keystore {file} > {pem}"),
        Format::Pkcs12 => format!("openssl pkcs12 -in {file} -nokeys -out {pem}"),
    };
    Err(location
        .wrong(format!("trust store `{}` is not in PEM, and the Kafka client reads no other", location.value))
        .hint(format!("convert it: {command}; then say `kafka.ssl.ca.location` = '{pem}'")))
}

/// `ssl.keystore.*` to `ssl.certificate.location` and `ssl.key.location`; PKCS#12 stays as it is.
pub(super) fn key_store(draft: &mut Draft<'_>) -> Result<()> {
    let said = draft.take("ssl.keystore.type");
    let Some(location) = draft.take("ssl.keystore.location") else { return Ok(()) };
    if draft.is_replaced(&location, &["ssl.certificate.location", "ssl.certificate.pem"])? {
        draft.take("ssl.keystore.password");
        return Ok(());
    }
    let path = draft.file(&location)?;
    match format(Path::new(&path), &location, said.as_ref())? {
        Format::Pem => {
            draft.take("ssl.keystore.password");
            draft.set("ssl.certificate.location", path.clone());
            draft.set("ssl.key.location", path);
            Ok(())
        }
        Format::Pkcs12 => {
            draft.set("ssl.keystore.location", path);
            Ok(())
        }
        Format::Jks => {
            let file = shell_word(Path::new(&location.value));
            let p12 = shell_word(&Path::new(&location.value).with_extension("p12"));
            let pem = shell_word(&Path::new(&location.value).with_extension("pem"));
            Err(location
                .wrong(format!("key store `{}` is in Java's own format, which the Kafka client cannot read", location.value))
                .hint(format!(
                    "convert it: keytool -importkeystore -srckeystore {file} -destkeystore {p12} -deststoretype PKCS12 && \
                     openssl pkcs12 -in {p12} -out {pem}; then say `kafka.ssl.keystore.location` = '{pem}', with the pass \
                     phrase in `kafka.ssl.key.password`"
                )))
        }
    }
}

/// The format of a store: by its first bytes, which know better than `ssl.….type`.
fn format(path: &Path, location: &Given, said: Option<&Given>) -> Result<Format> {
    let mut head = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(65_536).read_to_end(&mut head));
    read.map_err(|error| location.unreadable(path, error))?;
    if head.windows(10).any(|window| window == b"-----BEGIN") {
        return Ok(Format::Pem);
    }
    match (head.get(..4), said.map(|said| said.value.trim().to_ascii_uppercase()).as_deref()) {
        (Some([0xfe, 0xed, 0xfe, 0xed] | [0xce, 0xce, 0xce, 0xce]), _) => Ok(Format::Jks),
        (Some([0x30, 0x80..=0x84, ..]), _) | (_, Some("PKCS12")) => Ok(Format::Pkcs12),
        (_, Some("PEM")) => Err(location
            .wrong(format!("`{}` is said to be PEM, and no `-----BEGIN` is in it", location.value))
            .hint("give a file of certificates in PEM")),
        (_, None | Some("JKS" | "JCEKS")) => Ok(Format::Jks),
        (_, Some(other)) => Err(said
            .unwrap_or(location)
            .wrong(format!("`{other}` is not a type of store that pinsql knows"))
            .hint("the types are PEM, PKCS12 and JKS")),
    }
}

/// PEM text as OpenSSL wants it: Java takes it in one line, with blanks or `\n` where its lines ended.
pub(super) fn pem(given: &Given) -> Result<String> {
    let text = given.value.replace("\\n", "\n");
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some((_, from)) = rest.split_once("-----BEGIN ") {
        let block = from.split_once("-----").and_then(|(label, body)| {
            let (body, behind) = body.split_once(&format!("-----END {label}-----"))?;
            Some((label, body, behind))
        });
        let (label, body, behind) = block.ok_or_else(|| not_pem(given))?;
        out.push_str(&format!("-----BEGIN {label}-----\n"));
        // A colon is a header of an old encrypted key, whose lines mean something.
        if body.contains(':') {
            out.push_str(body.trim());
            out.push('\n');
        } else {
            let letters: Vec<char> = body.chars().filter(|c| !c.is_whitespace()).collect();
            letters.chunks(64).for_each(|line| {
                out.extend(line);
                out.push('\n');
            });
        }
        out.push_str(&format!("-----END {label}-----\n"));
        rest = behind;
    }
    if out.is_empty() { Err(not_pem(given)) } else { Ok(out) }
}

fn not_pem(given: &Given) -> Error {
    given
        .wrong(format!("`{}` is not PEM: it needs `-----BEGIN …-----` and `-----END …-----`", given.name))
        .hint("give the text of the file, or a `….location` with the file's path")
}

/// A path as a word of a shell.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
