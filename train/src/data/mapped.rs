//! Datasets of raw pixels in memory-mapped files.
use super::dataset::{Dataset, SampleImage};
use super::image::Image;
use super::in_memory::check_targets;
use crate::{Error, Result};
use fornax_engine::MappedFile;
use std::path::PathBuf;
use std::sync::Arc;

/// Dataset of images of one size whose pixels stay in memory-mapped files: only the images that are accessed are read.
pub struct MappedDataset {
    files: Vec<MappedPixels>,
    layout: PixelLayout,
    targets: Vec<u32>,
    classes: Arc<[String]>,
}

/// Memory-mapped file of images at equal distances.
pub struct MappedPixels {
    /// Path, for messages.
    pub path: PathBuf,
    /// The file.
    pub map: MappedFile,
    /// Number of images.
    pub count: usize,
}

/// Position and order of the pixels of each image in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelLayout {
    /// Height, width and channels of each image.
    pub size: [usize; 3],
    /// Bytes before the pixels of the first image.
    pub offset: usize,
    /// Bytes from an image to the next.
    pub stride: usize,
    /// True if the channels are stored one after the other (`[c, h, w]`), false for `[h, w, c]`.
    pub planar: bool,
}

impl PixelLayout {
    /// Reads an image from the bytes of a file, converted to `[h, w, c]`.
    pub fn image(&self, file: &[u8], index: usize) -> Image {
        let [h, w, c] = self.size;
        let bytes = &file[self.offset + index * self.stride..][..h * w * c];
        let pixels = match self.planar && c > 1 {
            false => bytes.to_vec(),
            true => (0..h * w)
                .flat_map(|pixel| (0..c).map(move |channel| bytes[channel * h * w + pixel]))
                .collect(),
        };
        Image { size: self.size, pixels }
    }
}

impl MappedDataset {
    /// Creates a dataset of the images of all files, in order. Errors if a file is too short, the counts differ or a target is out of
    /// range.
    pub fn new(
        files: Vec<MappedPixels>,
        layout: PixelLayout,
        targets: Vec<u32>,
        classes: Arc<[String]>,
    ) -> Result<MappedDataset> {
        let location = files.first().map_or(String::new(), |file| file.path.display().to_string());
        let image = layout.size.iter().product::<usize>();
        for file in &files {
            let needed =
                file.count.checked_sub(1).map_or(0, |last| layout.offset + last * layout.stride + image);
            if file.map.len() < needed {
                return Err(Error::data("the images cannot be read")
                    .at_path(&file.path)
                    .because(format!("it is truncated: {} of {needed} bytes", file.map.len()))
                    .remedy("download the file again and compare its size with the source's"));
            }
        }
        let count: usize = files.iter().map(|file| file.count).sum();
        if count != targets.len() {
            return Err(Error::data(format!("{count} images but {} labels", targets.len())).at(location));
        }
        check_targets(&targets, classes.len(), &location)?;
        Ok(MappedDataset { files, layout, targets, classes })
    }

    /// Height, width and channels of all images.
    pub fn image_size(&self) -> [usize; 3] {
        self.layout.size
    }

    /// The file of a sample, and its index in that file.
    fn file(&self, mut index: usize) -> (&MappedPixels, usize) {
        for file in &self.files {
            if index < file.count {
                return (file, index);
            }
            index -= file.count;
        }
        panic!("sample index out of range")
    }
}

impl Dataset for MappedDataset {
    fn len(&self) -> usize {
        self.targets.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn target(&self, index: usize) -> u32 {
        self.targets[index]
    }

    fn image(&self, index: usize) -> Result<SampleImage<'_>> {
        let (file, index) = self.file(index);
        Ok(SampleImage::Decoded(self.layout.image(&file.map, index)))
    }

    fn location(&self, index: usize) -> String {
        let (file, index) = self.file(index);
        format!("{}, image {index}", file.path.display())
    }

    fn crc32c(&self) -> u32 {
        let sum = self.files.iter().fold(0, |sum, file| crc32c::crc32c_append(sum, &file.map));
        self.targets.iter().fold(sum, |sum, target| crc32c::crc32c_append(sum, &target.to_le_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_read_in_place_and_planes_are_interleaved() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.bin");
        std::fs::write(&path, [9, 1, 2, 3, 4, 9, 5, 6, 7, 8]).expect("writes");
        let open = |count, planar| {
            let map = MappedFile::open(&path).expect("maps");
            let layout = PixelLayout { size: [1, 2, 2], offset: 1, stride: 5, planar };
            let files = vec![MappedPixels { path: path.clone(), map, count }];
            MappedDataset::new(files, layout, vec![0; count], ["a".to_string()].into())
        };
        let pixels = |planar| match open(2, planar).expect("valid").image(1).expect("mapped") {
            SampleImage::Decoded(image) => image.pixels,
            SampleImage::Encoded(_) => vec![],
        };
        assert_eq!((pixels(false), pixels(true)), (vec![5, 6, 7, 8], vec![5, 7, 6, 8]));
        let error = open(3, false).map(drop).expect_err("too short").to_string();
        assert!(error.contains("truncated: 10 of 15"), "{error}");
    }
}
