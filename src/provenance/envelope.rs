//! A signed statement: a DSSE envelope (version 1), which the tools of in-toto and Sigstore verify.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::remote::SigningKey;

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// The envelope of a statement that is signed with a key. The statement stands in it byte for byte as it was signed.
pub fn envelope(statement: &Value, key: &SigningKey) -> Value {
    let payload = statement.to_string();
    let signature = key.sign_bytes(&encoding(payload.as_bytes()));
    json!({
        "payloadType": PAYLOAD_TYPE,
        "payload": STANDARD.encode(&payload),
        "signatures": [{"keyid": key.public(), "sig": STANDARD.encode(signature)}],
    })
}

/// What is signed, by DSSE's rule: type and payload, each with its length, so that neither can be taken for a part of the other.
fn encoding(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [head.as_bytes(), payload].concat()
}
