//! IDX files, the format of MNIST: a magic number, big-endian dimensions, values; gzipped or not.
use crate::data::dataset::Dataset;
use crate::data::in_memory::{InMemoryDataset, check_targets};
use crate::data::mapped::{MappedDataset, MappedPixels, PixelLayout};
use crate::data::split_names::SplitName;
use crate::error::ErrorKind;
use crate::{Error, Result};
use flate2::bufread::GzDecoder;
use fornax_engine::MappedFile;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Dataset of IDX files and the size of its images.
pub type IdxDataset = (Arc<dyn Dataset>, [usize; 3]);

/// Paths of images and labels of a split in a folder, if the images are there. Names end in `-idx3-ubyte` or `.idx3-ubyte` (labels:
/// `idx1`; images with a channel axis: `idx4`), optionally followed by `.gz`.
pub fn find_split(folder: &Path, split: &SplitName) -> Option<[PathBuf; 2]> {
    // The validation split of MNIST and its successors is called t10k.
    let names = split.candidates().into_iter().chain((split.as_str() == "validation").then_some("t10k"));
    names.into_iter().find_map(|name| {
        let images = find(folder, &format!("{name}-images"), &["idx3", "idx4"])?;
        let labels = find(folder, &format!("{name}-labels"), &["idx1"]);
        Some([images, labels.unwrap_or_else(|| folder.join(format!("{name}-labels-idx1-ubyte")))])
    })
}

/// The error of a folder without the files of a split.
pub fn not_found(folder: &Path, split: &SplitName) -> Error {
    let why = match folder.is_dir() {
        true => format!(
            "neither {0}-images-idx3-ubyte nor {0}-images-idx3-ubyte.gz is in this folder",
            split.as_str()
        ),
        false => "no such folder".into(),
    };
    Error::data("images not found")
        .at_path(folder)
        .because(why)
        .remedy("pass the folder of the files with --data-dir; `fornax datasets` lists the datasets")
}

/// Opens images and labels. Plain files are memory-mapped, gzipped ones are read into memory. `names` are the class names; if empty,
/// the classes are the numbers up to the largest label.
pub fn open([images, labels]: &[PathBuf; 2], names: &[&str]) -> Result<IdxDataset> {
    let targets = read_labels(open_file(labels)?, labels)?;
    let classes: Arc<[String]> = match names {
        [] => (0..=targets.iter().max().copied().unwrap_or(0)).map(|class| class.to_string()).collect(),
        names => names.iter().map(|name| name.to_string()).collect(),
    };
    check_targets(&targets, classes.len(), &labels.display().to_string())?;
    let what = "the images cannot be read";
    let map = MappedFile::open(images).map_err(|e| Error::unreadable(ErrorKind::Data, what, images, &e))?;
    if map.starts_with(&GZIP) {
        let (extents, pixels) = read(&map[..], images, "images", &[3, 4])?;
        let size = image_size(&extents, targets.len(), images, labels)?;
        let dataset =
            InMemoryDataset::uniform(pixels, size, targets, classes, &images.display().to_string())?;
        return Ok((Arc::new(dataset), size));
    }
    let (extents, bytes) = header(&mut &map[..], images, "images", &[3, 4])?;
    let offset = 4 * (1 + extents.len());
    check_length(map.len() - offset, bytes, &extents, images, "images")?;
    let size = image_size(&extents, targets.len(), images, labels)?;
    let layout = PixelLayout { size, offset, stride: size.iter().product(), planar: false };
    let file = MappedPixels { path: images.clone(), map, count: targets.len() };
    Ok((Arc::new(MappedDataset::new(vec![file], layout, targets, classes)?), size))
}

/// Reads labelled images from two streams, gzipped or not, into memory; the paths are for error messages.
pub fn read_pair(
    images: impl Read,
    images_path: &Path,
    labels: impl Read,
    labels_path: &Path,
    classes: Arc<[String]>,
) -> Result<InMemoryDataset> {
    let (extents, pixels) = read(images, images_path, "images", &[3, 4])?;
    let targets = read_labels(labels, labels_path)?;
    let size = image_size(&extents, targets.len(), images_path, labels_path)?;
    InMemoryDataset::uniform(pixels, size, targets, classes, &images_path.display().to_string())
}

/// Height, width and channels, checked against the number of labels.
fn image_size(
    extents: &[usize],
    labels: usize,
    images_path: &Path,
    labels_path: &Path,
) -> Result<[usize; 3]> {
    if extents[0] != labels {
        return Err(Error::data(format!("{} images but {labels} labels", extents[0]))
            .at(format!("{} and {}", images_path.display(), labels_path.display()))
            .remedy("use two files of the same split"));
    }
    let size = [extents[1], extents[2], *extents.get(3).unwrap_or(&1)];
    if extents.contains(&0) {
        return Err(Error::data("the dataset is empty").at_path(images_path));
    }
    match size[2] {
        1 | 3 => Ok(size),
        channels => Err(Error::data(format!("the images have {channels} channels"))
            .at_path(images_path)
            .because("images with 1 or 3 channels are read")
            .remedy("convert the images to grey or RGB")),
    }
}

fn find(folder: &Path, stem: &str, kinds: &[&str]) -> Option<PathBuf> {
    let names = kinds.iter().flat_map(|kind| ["-", "."].map(|dot| format!("{stem}{dot}{kind}-ubyte")));
    let candidates = names.flat_map(|name| [format!("{name}.gz"), name].into_iter().rev());
    candidates.map(|name| folder.join(name)).find(|path| path.is_file())
}

fn open_file(path: &Path) -> Result<BufReader<File>> {
    let what = "the labels cannot be read";
    Ok(BufReader::new(File::open(path).map_err(|e| Error::unreadable(ErrorKind::Data, what, path, &e))?))
}

fn failure(path: &Path, content: &str, why: String) -> Error {
    Error::data(format!("the {content} cannot be read"))
        .at_path(path)
        .because(why)
        .remedy("download the file again and compare its size with the source's")
}

/// Type of values in the third byte of the magic number.
const UNSIGNED_BYTE: u32 = 0x08;
const INT: u32 = 0x0c;

/// Reads labels: unsigned bytes, or 32-bit integers for more than 256 classes.
fn read_labels(stream: impl Read, path: &Path) -> Result<Vec<u32>> {
    let mut stream = decompressed(stream).map_err(|e| failure(path, "labels", e.to_string()))?;
    let mut start = vec![];
    stream.by_ref().take(4).read_to_end(&mut start).map_err(|e| failure(path, "labels", e.to_string()))?;
    let wide = start.get(2).is_some_and(|kind| u32::from(*kind) == INT);
    let (content, kind) = if wide { ("labels", INT) } else { ("labels", UNSIGNED_BYTE) };
    let (_, bytes) = read_values(std::io::Cursor::new(start).chain(stream), path, content, &[1], kind)?;
    if !wide {
        return Ok(bytes.into_iter().map(u32::from).collect());
    }
    let label = |word: &[u8]| u32::from_be_bytes([word[0], word[1], word[2], word[3]]);
    let labels: Vec<u32> = bytes.chunks_exact(4).map(label).collect();
    match labels.iter().position(|label| *label > i32::MAX as u32) {
        None => Ok(labels),
        Some(i) => Err(failure(path, "labels", format!("label {i} is negative"))),
    }
}

/// Reads the dimensions and bytes of a stream; `axes` lists the accepted numbers of dimensions.
fn read(stream: impl Read, path: &Path, content: &str, axes: &[usize]) -> Result<(Vec<usize>, Vec<u8>)> {
    let stream = decompressed(stream).map_err(|e| failure(path, content, e.to_string()))?;
    read_values(stream, path, content, axes, UNSIGNED_BYTE)
}

fn read_values(
    mut stream: impl Read,
    path: &Path,
    content: &str,
    axes: &[usize],
    kind: u32,
) -> Result<(Vec<usize>, Vec<u8>)> {
    let (extents, expected) = header_of(&mut stream, path, content, axes, kind)?;
    let mut bytes = vec![];
    // One byte more than expected shows whether the file is too long.
    stream
        .take(expected as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| failure(path, content, e.to_string()))?;
    check_length(bytes.len(), expected, &extents, path, content)?;
    Ok((extents, bytes))
}

fn check_length(bytes: usize, expected: usize, extents: &[usize], path: &Path, content: &str) -> Result<()> {
    if bytes < expected {
        let why = format!("it is truncated: {bytes} of {expected} bytes after the header");
        return Err(failure(path, content, why));
    }
    if bytes > expected {
        let why = format!("it is too long: more than {expected} bytes after the header {extents:?}");
        return Err(failure(path, content, why));
    }
    Ok(())
}

/// Reads the header of unsigned bytes: dimensions, and the number of bytes after it.
fn header(stream: &mut impl Read, path: &Path, content: &str, axes: &[usize]) -> Result<(Vec<usize>, usize)> {
    header_of(stream, path, content, axes, UNSIGNED_BYTE)
}

fn header_of(
    stream: &mut impl Read,
    path: &Path,
    content: &str,
    axes: &[usize],
    kind: u32,
) -> Result<(Vec<usize>, usize)> {
    let fail = |why: String| failure(path, content, why);
    let mut word = || -> Result<u32> {
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).map_err(|e| fail(format!("its header is truncated: {e}")))?;
        Ok(u32::from_be_bytes(bytes))
    };
    let magic = word()?;
    let rank = (magic & 0xff) as usize;
    if magic >> 8 != kind || !axes.contains(&rank) {
        let expected = (kind << 8) + axes[0] as u32;
        return Err(fail(format!(
            "its magic number is {magic:#010x}; IDX {content} start with {expected:#010x}"
        )));
    }
    let extents = (0..rank).map(|_| Ok(word()? as usize)).collect::<Result<Vec<_>>>()?;
    let width = if kind == INT { 4 } else { 1usize };
    let bytes = extents.iter().try_fold(width, |n, extent| n.checked_mul(*extent));
    let bytes = bytes.ok_or_else(|| fail(format!("its header has impossible dimensions {extents:?}")))?;
    Ok((extents, bytes))
}

const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The members of a gzip file, one after the other. As in gzip(1), bytes after the last one that are no member are ignored.
struct GzipMembers<R: Read>(Option<GzDecoder<BufReader<R>>>);

impl<R: Read> GzipMembers<R> {
    fn new(stream: R) -> GzipMembers<R> {
        GzipMembers(Some(GzDecoder::new(BufReader::new(stream))))
    }
}

impl<R: Read> Read for GzipMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while let Some(member) = &mut self.0 {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let mut rest = self.0.take().expect("a member").into_inner();
            if matches!(rest.fill_buf()?, [0x1f] | [0x1f, 0x8b, ..]) {
                self.0 = Some(GzDecoder::new(rest));
            }
        }
        Ok(0)
    }
}

/// The stream, decompressed if it is gzip.
fn decompressed<'a>(mut stream: impl Read + 'a) -> std::io::Result<Box<dyn Read + 'a>> {
    let mut start = vec![];
    stream.by_ref().take(2).read_to_end(&mut start)?;
    let gzip = start == GZIP;
    let stream = std::io::Cursor::new(start).chain(stream);
    Ok(if gzip { Box::new(GzipMembers::new(stream)) } else { Box::new(stream) })
}

/// Header and values of an IDX file: unsigned bytes with the given dimensions.
pub fn byte_header(extents: &[usize]) -> Vec<u8> {
    header_words((UNSIGNED_BYTE << 8) + extents.len() as u32, extents)
}

/// An IDX file of labels: unsigned bytes up to 256 classes, else 32-bit integers.
pub fn label_file(targets: &[u32], classes: usize) -> Vec<u8> {
    match classes <= 256 {
        true => {
            let mut file = byte_header(&[targets.len()]);
            file.extend(targets.iter().map(|target| *target as u8));
            file
        }
        false => {
            let mut file = header_words((INT << 8) + 1, &[targets.len()]);
            file.extend(targets.iter().flat_map(|target| target.to_be_bytes()));
            file
        }
    }
}

fn header_words(magic: u32, extents: &[usize]) -> Vec<u8> {
    let words = [magic].into_iter().chain(extents.iter().map(|extent| *extent as u32));
    words.flat_map(u32::to_be_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::SampleImage;
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

    /// Reads files into memory, and opens them from a folder: both must agree.
    fn pair_of(images: &[u8], labels: &[u8]) -> Result<InMemoryDataset> {
        let classes: Arc<[String]> = (0..10).map(|class| class.to_string()).collect();
        let read = read_pair(images, Path::new("images"), labels, Path::new("labels"), classes);
        let folder = tempfile::tempdir().expect("a folder");
        let paths = ["images", "labels"].map(|name| folder.path().join(name));
        std::fs::write(&paths[0], images).expect("writes");
        std::fs::write(&paths[1], labels).expect("writes");
        let opened = open(&paths, &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
        match (&read, &opened) {
            (Ok(read), Ok((opened, size))) => {
                assert_eq!((read.image_size(), contents(read)), (Some(*size), contents(&**opened)));
            }
            (Err(read), Err(opened)) => assert_eq!(read.kind(), opened.kind()),
            _ => panic!("one of the readers accepts the files: {:?} {:?}", read.is_ok(), opened.is_ok()),
        }
        read
    }

    fn contents(dataset: &dyn Dataset) -> Vec<(SampleImage<'_>, u32)> {
        (0..dataset.len()).map(|i| (dataset.image(i).expect("reads"), dataset.target(i))).collect()
    }

    #[test]
    fn plain_and_gzipped_files_read_alike() {
        let plain = images([2, 1, 2], &[1, 2, 3, 4]);
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
        encoder.write_all(&plain).expect("memory");
        let gzipped = encoder.finish().expect("memory");
        let read = pair_of(&plain, &labels(&[5, 6])).expect("reads");
        let image = |pixels: &[u8]| {
            SampleImage::Decoded(crate::data::Image { size: [1, 2, 1], pixels: pixels.to_vec() })
        };
        assert_eq!(contents(&read), [(image(&[1, 2]), 5), (image(&[3, 4]), 6)]);
        for tail in [&b"junk after the end"[..], &[0; 600], b"\x1f"] {
            let longer = [&gzipped, tail].concat();
            let read_again = pair_of(&longer, &labels(&[5, 6]));
            match tail {
                // The beginning of another member.
                b"\x1f" => assert!(read_again.is_err()),
                _ => assert_eq!(contents(&read_again.expect("reads")), contents(&read)),
            }
        }
        let mut damaged = gzipped.clone();
        let checksum = damaged.len() - 8;
        damaged[checksum] ^= 1;
        assert!(pair_of(&damaged, &labels(&[5, 6])).is_err(), "the checksum is verified");
        assert_eq!(contents(&pair_of(&gzipped, &labels(&[5, 6])).expect("reads")), contents(&read));
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

    #[test]
    fn labels_of_many_classes_are_32_bit_integers() {
        let targets = [0, 70_000, 3];
        let file = label_file(&targets, 70_001);
        assert_eq!(file[..4], [0, 0, 0x0c, 1]);
        assert_eq!(read_labels(&file[..], Path::new("labels")).expect("reads"), targets);
        assert_eq!(read_labels(&label_file(&[1, 2], 3)[..], Path::new("labels")).expect("reads"), [1, 2]);
        let mut negative = file.clone();
        negative[8] = 0x80;
        assert!(
            read_labels(&negative[..], Path::new("labels"))
                .expect_err("negative")
                .to_string()
                .contains("negative")
        );
        assert!(read_labels(&file[..file.len() - 1], Path::new("labels")).is_err());
    }
}
