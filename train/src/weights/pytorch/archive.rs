//! Contents of a PyTorch file: the pickle, and the elements of its storages. Both formats of `torch.save` are read: a zip archive, and
//! before PyTorch 1.6 a sequence of pickles and storages.
use super::pickle;
use super::value::{Object, Pickle, Value, dtype};
use std::collections::HashMap;
use std::io::Cursor;
use zip::{CompressionMethod, ZipArchive};

/// First bytes of the format before PyTorch 1.6: a pickle of its magic number.
pub const LEGACY_MAGIC: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";

/// Member of the archive or storage of the file.
#[derive(Clone, Copy)]
pub struct Elements<'a> {
    /// Little-endian elements.
    pub bytes: &'a [u8],
    /// CRC-32 of the bytes, if the file has it.
    pub crc32: Option<u32>,
}

/// Pickle and storages of a file.
pub struct Contents<'a> {
    pub pickle: Pickle<'a>,
    /// Elements by the key of their storage.
    pub storages: HashMap<String, Elements<'a>>,
}

/// Opens either format.
pub fn open(file: &[u8]) -> Result<Contents<'_>, String> {
    if file.starts_with(LEGACY_MAGIC) { legacy(file) } else { zipped(file) }
}

fn zipped(file: &[u8]) -> Result<Contents<'_>, String> {
    let fail = |e: zip::result::ZipError| format!("its zip archive cannot be read: {e}");
    let mut archive = ZipArchive::new(Cursor::new(file)).map_err(fail)?;
    let mut members = HashMap::new();
    for index in 0..archive.len() {
        let member = archive.by_index_raw(index).map_err(fail)?;
        let name = member.name().map_err(fail)?.into_owned();
        if member.encrypted() || member.compression() != CompressionMethod::Stored {
            return Err(format!(
                "{name} in its zip archive is compressed or encrypted, which torch.save never does"
            ));
        }
        let range = member.data_start().and_then(|start| {
            let start = usize::try_from(start).ok()?;
            Some(start..start.checked_add(usize::try_from(member.size()).ok()?)?)
        });
        let bytes = range.and_then(|range| file.get(range));
        let bytes = bytes.ok_or_else(|| format!("{name} in its zip archive is truncated"))?;
        members.insert(name, Elements { bytes, crc32: Some(member.crc32()) });
    }
    let prefix = members.keys().find_map(|name| name.strip_suffix("data.pkl").filter(|p| is_folder(p)));
    let prefix = prefix.ok_or("its zip archive has no data.pkl")?.to_string();
    if let Some(order) = members.get(&format!("{prefix}byteorder"))
        && order.bytes != b"little"
    {
        return Err("it was written on a big-endian machine".into());
    }
    let (pickle, _) = pickle::read(members[&format!("{prefix}data.pkl")].bytes)?;
    let of_storages = format!("{prefix}data/");
    let storages = members
        .into_iter()
        .filter_map(|(name, elements)| Some((name.strip_prefix(&of_storages)?.to_string(), elements)))
        .collect();
    Ok(Contents { pickle, storages })
}

/// True for the folder that `torch.save` puts its members into.
fn is_folder(prefix: &str) -> bool {
    prefix.is_empty() || prefix.ends_with('/')
}

/// Magic number, protocol version, system information, the pickle, the keys of the storages, and for each its length and elements.
fn legacy(file: &[u8]) -> Result<Contents<'_>, String> {
    let mut rest = file;
    let mut next = || -> Result<Pickle<'_>, String> {
        let (pickle, length) = pickle::read(rest)?;
        rest = &rest[length..];
        Ok(pickle)
    };
    let (_magic, version, system) = (next()?, next()?, next()?);
    if version.root != Value::Int(1001) {
        return Err("it has an unknown version of the format before PyTorch 1.6".into());
    }
    if system.entry(system.root, "little_endian") == Some(Value::Bool(false)) {
        return Err("it was written on a big-endian machine".into());
    }
    let (pickle, keys) = (next()?, next()?);
    let mut sizes = HashMap::new();
    for object in &pickle.objects {
        if let Object::Storage(storage) = object {
            sizes.insert(
                storage.key,
                dtype(storage.class.name).map(|dtype| dtype.size()).ok_or(storage.class),
            );
        }
    }
    let Some(Object::List(keys)) = keys.object(keys.root) else {
        return Err("it does not list its storages".into());
    };
    let mut storages = HashMap::new();
    for key in keys {
        let Value::Text(key) = key else { return Err("the key of a storage is not text".into()) };
        let size = match sizes.get(key) {
            Some(Ok(size)) => *size,
            Some(Err(class)) => return Err(format!("it has elements of {class}, which are not supported")),
            None => return Err(format!("storage {key} belongs to no tensor")),
        };
        let truncated = || format!("storage {key} is truncated");
        let (length, after) = rest.split_first_chunk::<8>().ok_or_else(truncated)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok().and_then(|n| n.checked_mul(size));
        let (bytes, after) = length.and_then(|n| after.split_at_checked(n)).ok_or_else(truncated)?;
        rest = after;
        storages.insert(key.to_string(), Elements { bytes, crc32: None });
    }
    Ok(Contents { pickle, storages })
}
