//! Export of a dataset to an image folder, to tar archives or to IDX files. Every form holds the samples in the same order.
use super::dataset::{Dataset, SampleImage};
use super::idx;
use super::image::Image;
use super::natural;
use super::open::DatasetSplits;
use crate::{Error, Result};
use clap::ValueEnum;
use png::Compression;
use std::cmp::Ordering;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Format of an export.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// PNG files: SPLIT/CLASS/NUMBER.png
    Folder,
    /// Tar archives of the same PNG files: SPLIT.tar
    Tar,
    /// IDX files; all images must have one size
    Idx,
}

/// Exports both splits to a new folder, which appears only when it is complete. Images of files are decoded to `channels` channels. Pixel
/// values have the range of image files, 0 to 255.
pub fn export(data: &DatasetSplits, format: ExportFormat, channels: usize, folder: &Path) -> Result<()> {
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) || folder.is_file() {
        return Err(Error::usage("the output exists already")
            .at_path(folder)
            .because("an export never changes existing files")
            .remedy("choose a new folder with --output"));
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let disk = |e: std::io::Error| cannot_write(folder, &e);
    fs::create_dir_all(&temporary).map_err(disk)?;
    let white = data.statistics.as_ref().map_or(255, |statistics| statistics.white);
    let splits = [("train", Some(&data.train)), ("validation", data.validation.as_ref())];
    let mut splits = splits.into_iter().filter_map(|(name, split)| Some((name, &**split?)));
    let written = splits
        .try_for_each(|(name, split)| {
            write_split(&Source { dataset: split, channels, white }, name, format, &temporary)
        })
        .and_then(|()| fs::rename(&temporary, folder).map_err(disk));
    if written.is_err() {
        // Best effort: the first error is the one to report.
        fs::remove_dir_all(&temporary).ok();
    }
    written
}

/// Split of a dataset whose images are exported.
struct Source<'a> {
    dataset: &'a dyn Dataset,
    channels: usize,
    /// Largest pixel value.
    white: u8,
}

impl Source<'_> {
    /// Image of a sample, with pixel values of 0 to 255.
    fn image(&self, index: usize) -> Result<Image> {
        let mut image = image(self.dataset, index, self.channels)?;
        if self.white != u8::MAX {
            let white = u32::from(self.white);
            let scaled = |pixel: u8| ((u32::from(pixel) * 255 + white / 2) / white).min(255) as u8;
            image.pixels.iter_mut().for_each(|pixel| *pixel = scaled(*pixel));
        }
        Ok(image)
    }
}

fn write_split(source: &Source, split: &str, format: ExportFormat, folder: &Path) -> Result<()> {
    if format == ExportFormat::Idx {
        return write_idx(source, if split == "train" { "train" } else { "t10k" }, folder);
    }
    let dataset = source.dataset;
    let names = folder_names(dataset.classes());
    if let Some(class) =
        (0..names.len()).find(|class| (0..dataset.len()).all(|i| dataset.target(i) as usize != *class))
    {
        // Classes are numbered by the folders that exist: the training split must have them all.
        if split == "train" {
            return Err(Error::data(format!(
                "the class {:?} has no training images",
                dataset.classes()[class]
            ))
            .because("without its folder the other classes would get other numbers")
            .remedy("export as IDX, or omit the class with --class-map"));
        }
    }
    let digits = dataset.len().to_string().len();
    let members = (0..dataset.len()).map(|index| {
        let png = png_bytes(&source.image(index)?);
        Ok((format!("{}/{index:0digits$}.png", names[dataset.target(index) as usize]), png))
    });
    match format {
        ExportFormat::Tar => write_tar(members, &folder.join(format!("{split}.tar"))),
        _ => {
            let folder = folder.join(split);
            for name in &names {
                fs::create_dir_all(folder.join(name)).map_err(|e| cannot_write(&folder, &e))?;
            }
            for member in members {
                let (name, png) = member?;
                let path = folder.join(name);
                fs::write(&path, png).map_err(|e| cannot_write(&path, &e))?;
            }
            // A split without images of a class has no folder for it.
            names.iter().for_each(|name| drop(fs::remove_dir(folder.join(name))));
            Ok(())
        }
    }
}

fn write_tar(members: impl Iterator<Item = Result<(String, Vec<u8>)>>, path: &Path) -> Result<()> {
    let disk = |e: std::io::Error| cannot_write(path, &e);
    let mut archive = tar::Builder::new(BufWriter::new(File::create(path).map_err(disk)?));
    for member in members {
        let (name, png) = member?;
        let mut header = tar::Header::new_gnu();
        header.set_size(png.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, &png[..]).map_err(disk)?;
    }
    archive.into_inner().and_then(|mut file| file.flush()).map_err(disk)
}

fn write_idx(source: &Source, split: &str, folder: &Path) -> Result<()> {
    let dataset = source.dataset;
    let [h, w, c] = source.image(0)?.size;
    let extents: &[usize] = if c == 1 { &[dataset.len(), h, w] } else { &[dataset.len(), h, w, c] };
    let path = folder.join(format!("{split}-images-idx{}-ubyte", extents.len()));
    let disk = |e: std::io::Error| cannot_write(&path, &e);
    let mut file = BufWriter::new(File::create(&path).map_err(disk)?);
    file.write_all(&idx::byte_header(extents)).map_err(disk)?;
    for index in 0..dataset.len() {
        let image = source.image(index)?;
        if image.size != [h, w, c] {
            return Err(Error::data("the images differ in size")
                .at(dataset.location(index))
                .because(format!(
                    "it has {:?}, the first image {:?}; IDX files hold one size",
                    image.size,
                    [h, w, c]
                ))
                .remedy("export to a folder or tar"));
        }
        file.write_all(&image.pixels).map_err(disk)?;
    }
    file.flush().map_err(disk)?;
    let targets: Vec<u32> = (0..dataset.len()).map(|index| dataset.target(index)).collect();
    let path = folder.join(format!("{split}-labels-idx1-ubyte"));
    fs::write(&path, idx::label_file(&targets, dataset.classes().len())).map_err(|e| cannot_write(&path, &e))
}

/// Decoded image of a sample; an image file is converted to `channels` channels.
pub fn image(dataset: &dyn Dataset, index: usize, channels: usize) -> Result<Image> {
    match dataset.image(index)? {
        SampleImage::Decoded(image) => Ok(image),
        SampleImage::Encoded(bytes) => Image::decode(&bytes, channels).map_err(|why| {
            Error::data("the image cannot be read")
                .at(dataset.location(index))
                .because(why)
                .remedy("replace the file, or omit it")
        }),
    }
}

/// Names of the folders of classes, whose natural order is that of the classes: the class names, or else number and name.
fn folder_names(classes: &[String]) -> Vec<String> {
    let plain = |name: &String| -> String {
        let part = |c: char| if c.is_control() || "/\\:*?\"<>|".contains(c) { '-' } else { c };
        name.chars().map(part).collect::<String>().trim_start_matches('.').trim().to_string()
    };
    let names: Vec<String> = classes.iter().map(plain).collect();
    let ordered = names.windows(2).all(|pair| natural::compare(&pair[0], &pair[1]) == Ordering::Less);
    match ordered && names.iter().all(|name| !name.is_empty()) {
        true => names,
        false => names.iter().enumerate().map(|(i, name)| format!("{i} {name}").trim().to_string()).collect(),
    }
}

/// A grey or RGB image as PNG.
pub fn png_bytes(image: &Image) -> Vec<u8> {
    encode_png(image, Compression::Balanced)
}

/// [`png_bytes`] in a fraction of the time, for images that a run writes again and again.
pub(crate) fn fast_png_bytes(image: &Image) -> Vec<u8> {
    encode_png(image, Compression::Fast)
}

fn encode_png(image: &Image, compression: Compression) -> Vec<u8> {
    let [h, w, c] = image.size;
    let mut bytes = vec![];
    let mut encoder = png::Encoder::new(&mut bytes, w as u32, h as u32);
    encoder.set_color(if c == 1 { png::ColorType::Grayscale } else { png::ColorType::Rgb });
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(compression);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&image.pixels));
    written.expect("memory accepts every valid image");
    bytes
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    Error::disk("the export cannot be written")
        .at_path(path)
        .because(error)
        .remedy("free some space, or choose another folder with --output")
}

/// True if `path` is `folder` or below it.
pub fn is_within(path: &Path, folder: &Path) -> bool {
    let absolute = |path: &Path| -> Option<PathBuf> {
        // The part that exists, without links; the rest as given.
        let path = std::path::absolute(path).ok()?;
        let existing = path.ancestors().find(|part| part.exists())?;
        Some(existing.canonicalize().ok()?.join(path.strip_prefix(existing).ok()?))
    };
    absolute(path).zip(absolute(folder)).is_some_and(|(path, folder)| path.starts_with(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_keep_the_order_of_the_classes() {
        let names =
            |classes: &[&str]| folder_names(&classes.iter().map(|c| c.to_string()).collect::<Vec<_>>());
        assert_eq!(names(&["0", "1", "10"]), ["0", "1", "10"]);
        assert_eq!(names(&["T-shirt/top", "Ankle boot"]), ["0 T-shirt-top", "1 Ankle boot"]);
        assert_eq!(names(&["a/b", "a-b"]), ["0 a-b", "1 a-b"], "equal names get different prefixes");
        assert_eq!(names(&["..", "x"]), ["0", "1 x"]);
    }

    #[test]
    fn folder_below_the_dataset_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(is_within(&folder.path().join("a/b"), folder.path()));
        assert!(!is_within(&folder.path().with_extension("other"), folder.path()));
    }
}
