//! Byte strings as base64, the empty one as `null`, as Consul writes them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serializer};

pub(crate) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    if bytes.is_empty() { to.serialize_none() } else { to.serialize_str(&STANDARD.encode(bytes)) }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else {
        return Ok(Vec::new());
    };
    STANDARD.decode(text.as_bytes()).map_err(serde::de::Error::custom)
}
