//! Reader for safetensors files: eight bytes with the header's length, the header as JSON, then the elements. Every offset, shape and dtype
//! of the header is validated against the others and against the length of the file.
use super::StoredDType;
use crate::{Error, Result};
use fornax_engine::{DType, MAX_RANK, Tensor};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;

/// Maximum length of the header, as in other readers.
const MAX_HEADER: usize = 100_000_000;

/// Metadata and length of a safetensors file, from its header alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SafetensorsHeader {
    /// Metadata of the file.
    pub metadata: HashMap<String, String>,
    /// Length in bytes of the file, header included.
    pub file_length: u64,
}

impl SafetensorsHeader {
    /// Length in bytes of the header, of a file that begins with these bytes, the length itself included; `None` if it is longer than allowed.
    pub fn length(start: [u8; 8]) -> Option<usize> {
        let length = usize::try_from(u64::from_le_bytes(start)).ok().filter(|n| *n <= MAX_HEADER);
        length.map(|length| 8 + length)
    }

    /// Parses a header of the length that [`SafetensorsHeader::length`] returns.
    pub fn parse(start: &[u8]) -> Result<SafetensorsHeader> {
        let header: Header = serde_json::from_slice(start.get(8..).unwrap_or_default())
            .map_err(|e| fail(format!("the header is invalid: {e}")))?;
        let mut end = 0;
        for (name, entry) in header.tensors {
            end = end.max(entry.checked(&name)?.1.end);
        }
        let file_length = (start.len() as u64).saturating_add(end as u64);
        Ok(SafetensorsHeader { metadata: header.metadata, file_length })
    }
}

/// Safetensors file in memory or memory-mapped. Tensors are created on request.
pub struct SafetensorsFile<'a> {
    elements: &'a [u8],
    tensors: BTreeMap<String, TensorInfo>,
    /// Bytes of each tensor, by name.
    extents: HashMap<String, Range<usize>>,
    metadata: HashMap<String, String>,
}

/// Dtype and shape of a tensor in a weights file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Dtype of the tensor after reading.
    pub dtype: DType,
    /// Dtype of the stored elements.
    pub stored: StoredDType,
    /// Shape, outermost axis first.
    pub shape: Vec<usize>,
}

impl<'a> SafetensorsFile<'a> {
    /// Parses and validates the header, without creating tensors.
    pub fn parse(file: &'a [u8]) -> Result<SafetensorsFile<'a>> {
        let (length, rest) = file.split_first_chunk::<8>().ok_or_else(|| {
            fail(format!("the file has {} bytes; the header length alone takes 8", file.len()))
        })?;
        let length = u64::from_le_bytes(*length);
        let header = usize::try_from(length).ok().filter(|n| *n <= MAX_HEADER);
        let (header, elements) = header.and_then(|n| rest.split_at_checked(n)).ok_or_else(|| {
            fail(format!(
                "the header length is {length} bytes, but {} bytes follow, and at most {MAX_HEADER} are allowed",
                rest.len()
            ))
        })?;
        let header: Header =
            serde_json::from_slice(header).map_err(|e| fail(format!("the header is invalid: {e}")))?;
        let (mut tensors, mut extents) = (BTreeMap::new(), HashMap::new());
        for (name, entry) in header.tensors {
            let (stored, bytes) = entry.checked(&name)?;
            tensors.insert(name.clone(), stored);
            extents.insert(name, bytes);
        }
        let mut sorted: Vec<(&String, &Range<usize>)> = extents.iter().collect();
        sorted.sort_by_key(|(name, bytes)| (bytes.start, bytes.end, *name));
        let mut end = 0;
        for (name, bytes) in sorted {
            if bytes.start != end {
                let what = if bytes.start < end { "overlap" } else { "leave a gap after" };
                return Err(fail(format!(
                    "the elements of {name} {what} the previous tensor: they start at byte {} instead of {end}",
                    bytes.start
                )));
            }
            end = bytes.end;
        }
        if end != elements.len() {
            let what = if end > elements.len() {
                "the file is truncated"
            } else {
                "extra bytes follow the last tensor"
            };
            return Err(fail(format!(
                "{what}: the tensors take {end} bytes, the file has {}",
                elements.len()
            )));
        }
        Ok(SafetensorsFile { elements, tensors, extents, metadata: header.metadata })
    }

    /// Metadata strings of the file.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// Metadata of all tensors, by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// Raw little-endian bytes of a tensor.
    pub fn bytes(&self, name: &str) -> Result<&'a [u8]> {
        let extent = self.extents.get(name).ok_or_else(|| fail(format!("no tensor {name:?}")))?;
        Ok(&self.elements[extent.clone()])
    }

    /// Copies a tensor from the file.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let bytes = self.bytes(name)?;
        let TensorInfo { stored, shape, .. } = &self.tensors[name];
        stored.decode(shape, bytes)
    }
}

fn fail(why: String) -> Error {
    Error::Safetensors(why)
}

struct Header {
    tensors: Vec<(String, HeaderEntry)>,
    metadata: HashMap<String, String>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl HeaderEntry {
    /// The tensor's dtype and shape, and the range of its bytes.
    fn checked(self, name: &str) -> Result<(TensorInfo, Range<usize>)> {
        let spelled = |dtype: &StoredDType| dtype.to_string().to_uppercase();
        let dtype =
            StoredDType::ALL.into_iter().find(|dtype| spelled(dtype) == self.dtype).ok_or_else(|| {
                let known: Vec<String> = StoredDType::ALL.iter().map(spelled).collect();
                fail(format!(
                    "{name} has unsupported dtype {:?}; supported: {}",
                    self.dtype,
                    known.join(", ")
                ))
            })?;
        if self.shape.len() > MAX_RANK {
            return Err(fail(format!(
                "{name} has {} axes; at most {MAX_RANK} are supported",
                self.shape.len()
            )));
        }
        let size = self.shape.iter().try_fold(dtype.size() as u64, |size, n| size.checked_mul(*n));
        let [start, end] = self.data_offsets;
        match (size, end.checked_sub(start)) {
            (Some(size), Some(length)) if size == length => {}
            (size, _) => {
                let size = size.map_or("2^64 or more".into(), |s| s.to_string());
                return Err(fail(format!(
                    "{name} {dtype}{:?} takes {size} bytes, but its offsets are {start} and {end}",
                    self.shape
                )));
            }
        }
        let narrow =
            |n: u64| usize::try_from(n).map_err(|_| fail(format!("{name} exceeds the address space")));
        let shape = self.shape.iter().map(|n| narrow(*n)).collect::<Result<_>>()?;
        Ok((TensorInfo { dtype: dtype.loaded(), stored: dtype, shape }, narrow(start)?..narrow(end)?))
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Header, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Deserialises the header entry by entry, because a map type would silently drop duplicate names.
struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
        let (mut tensors, mut metadata, mut names) = (vec![], None, std::collections::HashSet::new());
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(de::Error::custom(format!("duplicate name {name:?}")));
            }
            match name.as_str() {
                "__metadata__" => metadata = map.next_value()?,
                _ => tensors.push((name, map.next_value()?)),
            }
        }
        Ok(Header { tensors, metadata: metadata.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, elements: usize) -> Vec<u8> {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.resize(file.len() + elements, 7);
        file
    }

    #[test]
    fn header_alone_has_the_metadata_and_the_length_of_the_file() {
        let text = r#"{"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let start = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        let length = SafetensorsHeader::length(*start.first_chunk().expect("8 bytes"));
        assert_eq!(length, Some(start.len()));
        let header = SafetensorsHeader::parse(&start).expect("valid");
        assert_eq!(header.file_length, start.len() as u64 + 8);
        assert_eq!(header.metadata["a"], "b");
        assert_eq!(SafetensorsHeader::length((MAX_HEADER as u64 + 1).to_le_bytes()), None);
        assert_eq!(SafetensorsHeader::length([0xff; 8]), None);
        assert!(SafetensorsHeader::parse(&[]).is_err());
    }

    #[test]
    fn valid_file_is_read() {
        let header = r#"{"__metadata__":{"format":"pt"},
            "b":{"dtype":"U8","shape":[2,0,3],"data_offsets":[8,8]},
            "a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
            "c":{"dtype":"BOOL","shape":[],"data_offsets":[8,9]}}   "#;
        let bytes = file(header, 9);
        let file = SafetensorsFile::parse(&bytes).expect("whole");
        assert_eq!(file.metadata()["format"], "pt");
        assert_eq!(file.tensors().keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(file.tensor("b").expect("empty").dims(), [2, 0, 3]);
        assert_eq!(file.tensor("c").expect("a flag").to_vec::<u8>().expect("u8"), [7]);
        assert_eq!(file.bytes("a").expect("bytes"), [7; 8]);
        assert!(file.tensor("d").is_err());
    }

    #[test]
    fn inconsistent_header_is_rejected() {
        let one = |dtype: &str, shape: &str, start: u64, end: u64| {
            format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}}}"#)
        };
        let two = |a: [u64; 2], b: [u64; 2]| {
            let entry = |name: &str, o: [u64; 2]| {
                let n = o[1].saturating_sub(o[0]);
                format!(r#""{name}":{{"dtype":"U8","shape":[{n}],"data_offsets":[{},{}]}}"#, o[0], o[1])
            };
            format!("{{{},{}}}", entry("a", a), entry("b", b))
        };
        // Extents that sum to 2^64: the end would wrap to 0.
        let around: Vec<String> = (0..8u64)
            .map(|i| {
                let (start, end) = (i << 61, (i << 61).saturating_add(1 << 61));
                format!(r#""{i}":{{"dtype":"U8","shape":[{}],"data_offsets":[{start},{end}]}}"#, end - start)
            })
            .collect();
        let a = one("F32", "[2]", 0, 8);
        let cases = [
            (file(&a, 7), "truncated"),
            (file(&a, 9), "bytes follow"),
            (file(&one("F32", "[3]", 0, 8), 8), "takes 12 bytes"),
            (file(&one("F32", "[2]", 8, 0), 8), "takes 8 bytes"),
            (file(&one("F32", "[2]", 4, 12), 12), "leave a gap"),
            (file(&two([0, 6], [4, 8]), 8), "overlap"),
            (file(&two([0, 4], [4, 2]), 8), "takes 0 bytes"),
            (file(&two([0, 4], [0, 4]), 4), "overlap"),
            (file(&one("F32", "[4294967296,4294967296,4294967296]", 0, 8), 8), "2^64 or more"),
            (file(&one("U8", "[18446744073709551615]", 0, u64::MAX), 8), "truncated"),
            (file(&format!("{{{}}}", around.join(",")), 0), "truncated"),
            (file(&one("F32", "[1,1,1,1,1,1,2]", 0, 8), 8), "7 axes"),
            (file(&one("F32", "[-2]", 0, 8), 8), "header is invalid"),
            (file(&one("F32", "[2.0]", 0, 8), 8), "header is invalid"),
            (file(&one("C64", "[1]", 0, 8), 8), "C64"),
            (file(&one("F8_E4M3", "[8]", 0, 8), 8), "F8_E4M3"),
            (file(&format!("{}, {}}}", &a[..a.len() - 1], &a[1..a.len() - 1]), 8), "duplicate name \"a\""),
            (file(r#"{"__metadata__":{},"__metadata__":{}}"#, 0), "duplicate name \"__metadata__\""),
            (file(r#"{"__metadata__":{"a":1}}"#, 0), "header is invalid"),
            (file(r#"{"a":{"dtype":"F32","shape":[2]}}"#, 8), "data_offsets"),
            (file("[]", 0), "header is invalid"),
            (file("", 0), "header is invalid"),
            (file(&"[".repeat(100_000), 0), "header is invalid"),
            (file("{\"\u{0}\":1}", 0), "header is invalid"),
            (vec![], "0 bytes"),
            (vec![1; 7], "7 bytes"),
            (u64::MAX.to_le_bytes().to_vec(), "18446744073709551615"),
            ((MAX_HEADER as u64 + 1).to_le_bytes().to_vec(), "at most"),
            (b"PK\x03\x04 a pickle in a zip file".to_vec(), "header length"),
        ];
        for (bytes, part) in cases {
            let Err(error) = SafetensorsFile::parse(&bytes) else { panic!("{part}: accepted") };
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn corrupted_file_never_panics() {
        let good = file(
            r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"I64","shape":[1],"data_offsets":[24,32]}}"#,
            32,
        );
        let mut state = 1u64;
        let mut random = |n: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % n
        };
        let mut accepted = 0;
        for _ in 0..20_000 {
            let mut bad = good.clone();
            for _ in 0..=random(3) {
                let at = random(bad.len());
                match random(4) {
                    0 => bad[at] ^= 1 << random(8),
                    1 => bad[at] = b"0123456789,:[]{}\"-eF"[random(20)],
                    2 => bad.truncate(at + 1),
                    _ => bad.insert(at, b"90]}"[random(4)]),
                }
            }
            if let Ok(file) = SafetensorsFile::parse(&bad) {
                accepted += 1;
                for (name, stored) in file.tensors() {
                    let tensor = file.tensor(name).expect("tensors of an accepted file are readable");
                    assert_eq!(tensor.dims(), stored.shape);
                }
            }
        }
        // Changed names and elements give other valid files.
        assert!(accepted < 10_000, "{accepted}");
    }
}
