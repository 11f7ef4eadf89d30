//! Records of the Kinesis Producer Library: many user records in one record of the stream.
//!
//! Floor 3: pure. The form is public: four bytes `F3 89 9A C2`, a protocol buffer with a table of keys and the records, and
//! the MD5 of that buffer (amazon-kinesis-producer, aggregation-format.md).
//!
//! A user record whose hash is not one of the shard's was caught by a split or a merge on its way: the library finds that
//! out and sends it again, and AWS's own consumer leaves it out here. It is not left out in silence: who aggregates
//! without the library, and does not send again, finds it in the quarantine.

use md5::{Digest, Md5};
use prost::Message;

use super::positions::HashRange;

const MAGIC: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];
const DIGEST: usize = 16;

#[derive(Clone, PartialEq, Message)]
struct Aggregated {
    #[prost(string, repeated, tag = "1")]
    partition_keys: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    explicit_hash_keys: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    records: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(uint64, required, tag = "1")]
    partition_key: u64,
    #[prost(uint64, optional, tag = "2")]
    explicit_hash_key: Option<u64>,
    #[prost(bytes = "bytes", required, tag = "3")]
    data: bytes::Bytes,
}

/// What a producer put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRecord {
    /// Its partition key.
    pub key: String,
    /// Its bytes.
    pub data: bytes::Bytes,
    /// Whether its hash is one of another shard.
    pub foreign: bool,
}

/// The user records of a record; None where it is not an aggregate, as its checksum tells.
///
/// # Errors
/// In words, what is wrong with an aggregate whose checksum is right.
pub fn open(data: &[u8], range: HashRange) -> Option<Result<Vec<UserRecord>, String>> {
    let rest = data.strip_prefix(&MAGIC)?;
    let (body, digest) = rest.split_at_checked(rest.len().checked_sub(DIGEST)?)?;
    if Md5::digest(body).as_slice() != digest {
        return None;
    }
    let aggregated = match Aggregated::decode(bytes::Bytes::copy_from_slice(body)) {
        Ok(aggregated) => aggregated,
        Err(error) => {
            return Some(Err(format!("an aggregate of the producer library that cannot be taken apart: {error}")));
        }
    };
    let Aggregated { partition_keys, explicit_hash_keys, records } = aggregated;
    let user_record = |entry: Entry| {
        let key = at(&partition_keys, entry.partition_key)?;
        let hash = match entry.explicit_hash_key {
            Some(index) => at(&explicit_hash_keys, index)?.parse().ok()?,
            None => u128::from_be_bytes(Md5::digest(key.as_bytes()).into()),
        };
        let foreign = hash < range.first || hash > range.last;
        Some(UserRecord { key: key.clone(), data: entry.data, foreign })
    };
    let opened: Option<Vec<UserRecord>> = records.into_iter().map(user_record).collect();
    Some(opened.ok_or_else(|| "an aggregate of the producer library that names a key it does not hold".to_owned()))
}

fn at(keys: &[String], index: u64) -> Option<&String> {
    keys.get(usize::try_from(index).ok()?)
}
