//! The training state in the metadata of a checkpoint's file.
use serde_json::Value;
use std::collections::BTreeMap;

/// The training state in a file's metadata.
pub fn state(file: &[u8]) -> Value {
    let (header, _) = header(file);
    serde_json::from_str(header["__metadata__"]["fornax.state"].as_str().expect("a text")).expect("JSON")
}

/// The header of a safetensors file, and the tensors behind it.
fn header(file: &[u8]) -> (Value, &[u8]) {
    let length = u64::from_le_bytes(file[..8].try_into().expect("8 bytes")) as usize;
    (serde_json::from_slice(&file[8..8 + length]).expect("JSON"), &file[8 + length..])
}

/// The file with another training state, whose checksum is right.
pub fn with_state(file: &[u8], state: &str) -> Vec<u8> {
    let (mut header, tensors) = header(file);
    let metadata = &mut header["__metadata__"];
    let sums = metadata["fornax.crc32c"].as_str().expect("a text");
    let mut sums: BTreeMap<String, u32> = serde_json::from_str(sums).expect("JSON");
    sums.insert("fornax.state".into(), crc32c::crc32c(state.as_bytes()));
    metadata["fornax.crc32c"] = serde_json::to_string(&sums).expect("JSON").into();
    metadata["fornax.state"] = state.into();
    let mut text = header.to_string();
    text += &" ".repeat(text.len().next_multiple_of(8) - text.len());
    [&(text.len() as u64).to_le_bytes(), text.as_bytes(), tensors].concat()
}
