//! What etcd's JSON gateway is asked, and its answers: bytes in base64, 64-bit numbers as text.
//!
//! # Source
//! etcd's `api/etcdserverpb/rpc.proto` and its documentation of the gRPC gateway.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use serde_json::{Value, json};

pub(super) fn bytes(value: &[u8]) -> Value {
    Value::String(STANDARD.encode(value))
}

/// Every key from this one on that begins with it.
pub(super) fn prefix_range(prefix: &str) -> Value {
    let mut end = prefix.as_bytes().to_vec();
    // No prefix here ends in 0xff: keys are UTF-8.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    json!({ "key": bytes(prefix.as_bytes()), "range_end": bytes(&end) })
}

/// A transaction: if the number of the key is this one, then the first, else the key as it is.
pub(super) fn if_then(key: &str, target: &str, number: u64, then: Value) -> Value {
    let field = match target {
        "CREATE" => "create_revision",
        _ => "mod_revision",
    };
    let compare = json!({
        "key": bytes(key.as_bytes()), "target": target, "result": "EQUAL", field: number.to_string(),
    });
    let range = json!({ "request_range": { "key": bytes(key.as_bytes()) } });
    json!({ "compare": [compare], "success": [then], "failure": [range] })
}

fn number<'de, D: Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
    match Value::deserialize(input)? {
        Value::String(text) => text.parse().map_err(D::Error::custom),
        Value::Number(number) => number.as_u64().ok_or_else(|| D::Error::custom("not a whole number")),
        _ => Err(D::Error::custom("not a number")),
    }
}

fn signed<'de, D: Deserializer<'de>>(input: D) -> Result<i64, D::Error> {
    match Value::deserialize(input)? {
        Value::String(text) => text.parse().map_err(D::Error::custom),
        Value::Number(number) => number.as_i64().ok_or_else(|| D::Error::custom("not a whole number")),
        _ => Err(D::Error::custom("not a number")),
    }
}

fn decoded<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<u8>, D::Error> {
    STANDARD.decode(String::deserialize(input)?).map_err(D::Error::custom)
}

/// Head of every answer. Fields that are zero or empty are left out by etcd.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Header {
    #[serde(deserialize_with = "number")]
    pub(super) revision: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct KeyValue {
    #[serde(deserialize_with = "decoded")]
    pub(super) key: Vec<u8>,
    #[serde(deserialize_with = "decoded")]
    pub(super) value: Vec<u8>,
    #[serde(deserialize_with = "number")]
    pub(super) create_revision: u64,
    #[serde(deserialize_with = "number")]
    pub(super) mod_revision: u64,
    #[serde(deserialize_with = "signed")]
    pub(super) lease: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Range {
    pub(super) header: Header,
    pub(super) kvs: Vec<KeyValue>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Transaction {
    pub(super) header: Header,
    pub(super) succeeded: bool,
    responses: Vec<Response>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Response {
    response_range: Range,
}

impl Transaction {
    /// The key as it is, when the comparison failed.
    pub(super) fn found(&self) -> Option<&KeyValue> {
        self.responses.first().and_then(|response| response.response_range.kvs.first())
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Granted {
    #[serde(rename = "ID", deserialize_with = "signed")]
    pub(super) id: i64,
    #[serde(rename = "TTL", deserialize_with = "signed")]
    pub(super) ttl: i64,
    pub(super) error: String,
}

/// What streams wrap their messages in.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wrapped<T: Default> {
    pub(super) result: T,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Watched {
    pub(super) canceled: bool,
    #[serde(deserialize_with = "number")]
    pub(super) compact_revision: u64,
    pub(super) events: Vec<Event>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Event {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) kv: KeyValue,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_are_left_out_are_zero() {
        let text = r#"{"header":{"revision":"7"},"kvs":[{"key":"YQ==","mod_revision":"5"}],"count":"1"}"#;
        let range: Range = serde_json::from_str(text).unwrap();
        assert_eq!((range.header.revision, range.kvs[0].mod_revision, range.kvs[0].lease), (7, 5, 0));
        assert_eq!((range.kvs[0].key.as_slice(), range.kvs[0].value.as_slice()), (b"a".as_slice(), b"".as_slice()));
        assert!(serde_json::from_str::<Range>(r#"{"kvs":[{"mod_revision":"x"}]}"#).is_err());
    }

    #[test]
    fn a_prefix_ends_before_its_successor() {
        let range = prefix_range("a/");
        assert_eq!(range, json!({ "key": bytes(b"a/"), "range_end": bytes(b"a0") }));
    }
}
