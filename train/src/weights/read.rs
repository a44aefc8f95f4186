//! Reading of weights files: regular files only, and no more bytes than their headers declare.
use super::ForeignFormat;
use crate::report::{self, total_memory};
use crate::run_files::regular;
use fornax_nn::state_dict::SafetensorsHeader;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Most bytes that are read of a file of an unknown format, for its error.
const MAX_UNKNOWN: u64 = 64 << 20;

/// The bytes of a weights file. A safetensors file has the length that its header declares, or it is an error; a shorter one is read to its
/// end, as the parser names what is missing.
pub(crate) fn read_weights(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = regular::open(path)?;
    let length = file.metadata()?.len();
    let (mut bytes, is_safetensors) = start(&mut file)?;
    let limit = match is_safetensors {
        false if ForeignFormat::of(&bytes).is_some() => length,
        false => length.min(MAX_UNKNOWN),
        true => match SafetensorsHeader::parse(&bytes) {
            // An invalid header: the parser reports it.
            Err(_) => bytes.len() as u64,
            Ok(header) if length > header.file_length => {
                let declared = header.file_length;
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "extra bytes follow the last tensor: the header declares {declared} bytes, the file has {length}"
                    ),
                ));
            }
            Ok(header) => header.file_length,
        },
    };
    let left = limit.min(length).saturating_sub(bytes.len() as u64);
    let memory = total_memory();
    if left > memory && memory > 0 {
        let [size, memory] = [left, memory].map(report::bytes);
        return Err(io::Error::new(
            io::ErrorKind::OutOfMemory,
            format!("the file has {size}, and the machine has {memory} of memory"),
        ));
    }
    bytes.reserve_exact(left as usize);
    file.take(left).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The header of a safetensors file; `None` for a file of another format.
pub(crate) fn safetensors_header(path: &Path) -> io::Result<Option<SafetensorsHeader>> {
    let (bytes, is_safetensors) = start(&mut regular::open(path)?)?;
    if !is_safetensors {
        return Ok(None);
    }
    SafetensorsHeader::parse(&bytes)
        .map(Some)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))
}

/// The bytes of a file's header, and true if they begin with the length of one; otherwise the first bytes.
fn start(file: &mut File) -> io::Result<(Vec<u8>, bool)> {
    let mut bytes = vec![];
    file.by_ref().take(8).read_to_end(&mut bytes)?;
    match bytes.first_chunk().copied().and_then(SafetensorsHeader::length) {
        Some(length) => {
            file.by_ref().take(length as u64 - 8).read_to_end(&mut bytes)?;
            Ok((bytes, true))
        }
        None => Ok((bytes, false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[cfg(target_os = "linux")]
    #[test]
    fn file_that_is_larger_than_the_memory_is_rejected() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        let elements = 1u64 << 42;
        let text = format!(r#"{{"x":{{"dtype":"U8","shape":[{elements}],"data_offsets":[0,{elements}]}}}}"#);
        let start = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        let length = start.len() as u64 + elements;
        for start in [&start[..], b"PK\x03\x04 a zip archive"] {
            fs::write(&path, start).expect("writes");
            fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|file| file.set_len(length))
                .expect("grows");
            let text = read_weights(&path).expect_err("too large").to_string();
            assert!(text.contains("of memory"), "{text}");
        }
    }

    #[test]
    fn no_more_than_the_header_declares_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.safetensors");
        let text = r#"{"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
        let whole = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &[1, 2, 3, 4]].concat();
        fs::write(&path, &whole).expect("writes");
        assert_eq!(read_weights(&path).expect("reads"), whole);
        let header = safetensors_header(&path).expect("reads").expect("a header");
        assert_eq!(header.file_length, whole.len() as u64);
        fs::write(&path, &whole[..whole.len() - 1]).expect("writes");
        assert_eq!(read_weights(&path).expect("reads").len(), whole.len() - 1);
        // A sparse file of 1 TB, which takes no space.
        fs::write(&path, &whole).expect("writes");
        fs::OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(1 << 40)).expect("grows");
        let text = read_weights(&path).expect_err("too long").to_string();
        assert!(text.contains("extra bytes follow") && text.contains(&(1u64 << 40).to_string()), "{text}");
        fs::write(&path, vec![b'x'; 100]).expect("writes");
        assert_eq!(read_weights(&path).expect("reads").len(), 100);
        assert_eq!(safetensors_header(&path).expect("reads"), None);
        fs::write(&path, "").expect("writes");
        assert_eq!(read_weights(&path).expect("reads").len(), 0);
    }
}
