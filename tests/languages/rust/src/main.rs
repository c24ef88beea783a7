//! Reads requests and writes replies, a line of JSON each; see executor.py.
//!
//! All bytes go through the generated types. prost has no JSON, so prost-reflect turns their bytes
//! into it and back.

use std::io::{self, BufRead, Write};

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{json, Value};

static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.binpb"));

fn through<T: Message + Default>(wire: &[u8]) -> Result<Vec<u8>, String> {
    T::decode(wire)
        .map(|message| message.encode_to_vec())
        .map_err(|error| error.to_string())
}

/// Decodes bytes into the generated type of this name, and encodes that.
fn again(name: &str, wire: &[u8]) -> Result<Vec<u8>, String> {
    include!(concat!(env!("OUT_DIR"), "/messages.rs"))
}

fn answer(pool: &DescriptorPool, line: &str) -> Result<Value, String> {
    let request: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let name = request["message"].as_str().unwrap_or_default();
    let kind = pool
        .get_message_by_name(name)
        .ok_or(format!("no message {name}"))?;
    if let Some(text) = request["hex"].as_str() {
        let wire = again(name, &hex::decode(text).map_err(|error| error.to_string())?)?;
        let dynamic = DynamicMessage::decode(kind, &wire[..]).map_err(|error| error.to_string())?;
        let value = serde_json::to_value(&dynamic).map_err(|error| error.to_string())?;
        return Ok(json!({"json": value, "hex": hex::encode(wire)}));
    }
    let dynamic = DynamicMessage::deserialize(kind, &request["json"]);
    let wire = dynamic.map_err(|error| error.to_string())?.encode_to_vec();
    Ok(json!({"hex": hex::encode(again(name, &wire)?)}))
}

fn main() -> io::Result<()> {
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("descriptors");
    let mut output = io::BufWriter::new(io::stdout().lock());
    for line in io::stdin().lock().lines() {
        let reply = answer(&pool, &line?).unwrap_or_else(|error| json!({"error": error}));
        writeln!(output, "{reply}")?;
    }
    output.flush()
}
