//! IDX files, the format of MNIST: a magic number, big-endian dimensions, bytes; gzipped or not.
use super::LabelledImages;
use crate::{Error, Result};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Reads `<split>-images` and `<split>-labels` of a folder; `split` is "train" or "t10k". Names end in `-idx3-ubyte` or `.idx3-ubyte`
/// (labels: `idx1`), optionally followed by `.gz`.
pub fn read_split(folder: &Path, split: &str) -> Result<LabelledImages> {
    let images = find(folder, &format!("{split}-images"), "idx3")?;
    let labels = find(folder, &format!("{split}-labels"), "idx1")?;
    read_pair(open(&images)?, &images, open(&labels)?, &labels)
}

/// Path of the labels of a split, for error messages.
pub fn labels_path(folder: &Path, split: &str) -> PathBuf {
    find(folder, &format!("{split}-labels"), "idx1").unwrap_or_else(|_| folder.to_path_buf())
}

/// Reads labelled images from two streams, gzipped or not; the paths are for error messages.
pub fn read_pair(
    images: impl Read,
    images_path: &Path,
    labels: impl Read,
    labels_path: &Path,
) -> Result<LabelledImages> {
    let (extents, pixels) = read(images, images_path, "images", &[3, 4])?;
    let (_, labels) = read(labels, labels_path, "labels", &[1])?;
    let images =
        LabelledImages { size: [extents[1], extents[2], *extents.get(3).unwrap_or(&1)], pixels, labels };
    if extents[0] != images.len() {
        return Err(Error::data(format!("{} images but {} labels", extents[0], images.len()))
            .at(format!("{} and {}", images_path.display(), labels_path.display()))
            .remedy("use two files of the same split"));
    }
    if images.is_empty() || images.image_len() == 0 {
        return Err(Error::data("the dataset is empty").at_path(images_path));
    }
    Ok(images)
}

fn find(folder: &Path, stem: &str, kind: &str) -> Result<PathBuf> {
    let names = ["-", "."].map(|dot| format!("{stem}{dot}{kind}-ubyte"));
    let candidates = names.iter().flat_map(|name| [name.clone(), format!("{name}.gz")]);
    candidates.map(|name| folder.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        let why = if folder.is_dir() {
            format!("neither {0} nor {0}.gz is in this folder", names[0])
        } else {
            "no such folder".into()
        };
        Error::data(format!("{} not found", if kind == "idx3" { "images" } else { "labels" }))
            .at_path(folder)
            .because(why)
            .remedy("give the folder of the files with --data-dir; `fornax datasets` lists the files")
    })
}

fn open(path: &Path) -> Result<BufReader<File>> {
    let file =
        File::open(path).map_err(|e| Error::data("the file cannot be opened").at_path(path).because(e))?;
    Ok(BufReader::new(file))
}

/// Reads the dimensions and bytes of a stream; `axes` lists the accepted numbers of dimensions.
fn read(stream: impl Read, path: &Path, content: &str, axes: &[usize]) -> Result<(Vec<usize>, Vec<u8>)> {
    let fail = |why: String| {
        Error::data(format!("the {content} cannot be read"))
            .at_path(path)
            .because(why)
            .remedy("download the file again and compare its size with the source's")
    };
    let mut stream = decompressed(stream).map_err(|e| fail(e.to_string()))?;
    let mut word = || -> Result<u32> {
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).map_err(|e| fail(format!("its header is truncated: {e}")))?;
        Ok(u32::from_be_bytes(bytes))
    };
    let magic = word()?;
    let rank = (magic & 0xff) as usize;
    if magic >> 8 != 0x08 || !axes.contains(&rank) {
        let expected = 0x0800 + axes[0];
        return Err(fail(format!(
            "its magic number is {magic:#010x}; IDX {content} start with {expected:#010x}"
        )));
    }
    let extents = (0..rank).map(|_| Ok(word()? as usize)).collect::<Result<Vec<_>>>()?;
    let expected = extents
        .iter()
        .try_fold(1usize, |n, extent| n.checked_mul(*extent))
        .ok_or_else(|| fail(format!("its header has impossible dimensions {extents:?}")))?;
    let mut bytes = vec![];
    // One byte more than announced shows whether the file is too long.
    stream.take(expected as u64 + 1).read_to_end(&mut bytes).map_err(|e| fail(e.to_string()))?;
    if bytes.len() < expected {
        return Err(fail(format!("it is truncated: {} of {expected} bytes after the header", bytes.len())));
    }
    if bytes.len() > expected {
        return Err(fail(format!("it is too long: more than {expected} bytes after the header {extents:?}")));
    }
    Ok((extents, bytes))
}

/// The stream, decompressed if it is gzip.
fn decompressed<'a>(mut stream: impl Read + 'a) -> std::io::Result<Box<dyn Read + 'a>> {
    let mut start = vec![];
    stream.by_ref().take(2).read_to_end(&mut start)?;
    let gzip = start == [0x1f, 0x8b];
    let stream = std::io::Cursor::new(start).chain(stream);
    Ok(if gzip { Box::new(flate2::read::MultiGzDecoder::new(stream)) } else { Box::new(stream) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn images(extents: [u32; 3], bytes: &[u8]) -> Vec<u8> {
        let header = [0x803, extents[0], extents[1], extents[2]];
        header.iter().flat_map(|w| w.to_be_bytes()).chain(bytes.iter().copied()).collect()
    }

    fn labels(labels: &[u8]) -> Vec<u8> {
        [0x801, labels.len() as u32]
            .iter()
            .flat_map(|w| w.to_be_bytes())
            .chain(labels.iter().copied())
            .collect()
    }

    fn pair_of(images: &[u8], labels: &[u8]) -> Result<LabelledImages> {
        read_pair(images, Path::new("images"), labels, Path::new("labels"))
    }

    #[test]
    fn plain_and_gzipped_files_read_alike() {
        let plain = images([2, 1, 2], &[1, 2, 3, 4]);
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
        encoder.write_all(&plain).expect("memory");
        let gzipped = encoder.finish().expect("memory");
        let read = pair_of(&plain, &labels(&[5, 6])).expect("reads");
        assert_eq!((read.size, read.image(1), &read.labels[..]), ([1, 2, 1], &[3, 4][..], &[5, 6][..]));
        assert_eq!(pair_of(&gzipped, &labels(&[5, 6])).expect("reads"), read);
    }

    #[test]
    fn damaged_files_are_rejected_with_a_specific_message() {
        let good = images([2, 1, 2], &[1, 2, 3, 4]);
        let two = labels(&[0, 1]);
        let cases: [(&[u8], &[u8], &str); 8] = [
            (&good[..9], &two, "header is truncated"),
            (&[], &two, "header is truncated"),
            (&good[..18], &two, "truncated: 2 of 4"),
            (&[&good[..], &[9]].concat(), &two, "too long"),
            (&two, &two, "magic number is 0x00000801; IDX images start with 0x00000803"),
            (&good, &labels(&[1]), "2 images but 1 labels"),
            (&images([u32::MAX; 3], &[]), &two, "impossible dimensions"),
            (&images([0, 1, 1], &[]), &labels(&[]), "empty"),
        ];
        for (images, labels, expected) in cases {
            let error = pair_of(images, labels).expect_err(expected);
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.kind(), crate::error::ErrorKind::Data);
        }
    }

    #[test]
    fn truncated_and_corrupted_files_do_not_panic() {
        let good = images([2, 1, 2], &[1, 2, 3, 4]);
        let two = labels(&[0, 1]);
        for i in 0..good.len() {
            assert!(pair_of(&good[..i], &two).is_err());
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[i] ^= 1 << bit;
                // Changed pixels are valid; a changed header is an error.
                assert_eq!(pair_of(&bad, &two).is_err(), i < 16, "byte {i} bit {bit}");
            }
        }
    }
}
