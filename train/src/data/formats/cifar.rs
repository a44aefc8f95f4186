//! CIFAR-10 and CIFAR-100 in their binary form: label bytes and 32x32 pixels in three planes per image.
use crate::data::dataset::Dataset;
use crate::data::in_memory::InMemoryDataset;
use crate::data::mapped::{MappedDataset, MappedPixels, PixelLayout};
use crate::data::split_names::SplitName;
use crate::error::ErrorKind;
use crate::{Error, Result};
use fornax_engine::MappedFile;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Height, width and channels of the images.
pub const SIZE: [usize; 3] = [32, 32, 3];
const PIXELS: usize = 32 * 32 * 3;

/// Variant of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CifarFormat {
    /// 10 classes: one label byte per image.
    Cifar10,
    /// 100 classes: a coarse and a fine label byte per image.
    Cifar100,
}

impl CifarFormat {
    fn label_bytes(self) -> usize {
        match self {
            CifarFormat::Cifar10 => 1,
            CifarFormat::Cifar100 => 2,
        }
    }

    fn classes(self) -> usize {
        match self {
            CifarFormat::Cifar10 => 10,
            CifarFormat::Cifar100 => 100,
        }
    }

    /// Name of the published archive, and of the folder in it.
    fn archive(self) -> [&'static str; 2] {
        match self {
            CifarFormat::Cifar10 => ["cifar-10-binary.tar.gz", "cifar-10-batches-bin"],
            CifarFormat::Cifar100 => ["cifar-100-binary.tar.gz", "cifar-100-binary"],
        }
    }

    fn names_file(self) -> &'static str {
        match self {
            CifarFormat::Cifar10 => "batches.meta.txt",
            CifarFormat::Cifar100 => "fine_label_names.txt",
        }
    }

    /// Files of a split.
    fn files(self, split: &SplitName) -> Option<Vec<String>> {
        let named = |name: &str| split.candidates().contains(&name);
        match self {
            CifarFormat::Cifar10 if named("train") => {
                Some((1..=5).map(|i| format!("data_batch_{i}.bin")).collect())
            }
            CifarFormat::Cifar10 if named("test") || named("validation") => {
                Some(vec!["test_batch.bin".into()])
            }
            CifarFormat::Cifar100 if named("train") => Some(vec!["train.bin".into()]),
            CifarFormat::Cifar100 if named("test") || named("validation") => Some(vec!["test.bin".into()]),
            _ => None,
        }
    }

    /// The format of the files in a folder, or of the published archive.
    pub fn detect(root: &Path) -> Option<CifarFormat> {
        // The images of CIFAR-100 have usual names: the class names show that it is this format.
        let has_names = |found: PathBuf, format: CifarFormat| {
            found.is_file() || found.join(format.names_file()).is_file()
        };
        let all = [CifarFormat::Cifar10, CifarFormat::Cifar100];
        all.into_iter().find(|format| format.find(root).is_some_and(|found| has_names(found, *format)))
    }

    /// Folder of the files, or the published archive.
    fn find(self, root: &Path) -> Option<PathBuf> {
        let [archive, folder] = self.archive();
        let first = &self.files(&SplitName::new("train")).unwrap_or_default()[0];
        let is_archive = |path: &Path| path.is_file() && path.file_name().is_some_and(|name| name == archive);
        let candidates = [root.to_path_buf(), root.join(folder), root.join(archive)];
        let exists = |path: &PathBuf| path.join(first).is_file() || is_archive(path);
        candidates.into_iter().find(exists)
    }

    /// Opens a split of the files in a folder, memory-mapped, or of the published archive, in memory; `None` if the format has no such
    /// split. `names` are the class names, unless the files have them.
    pub fn open(self, root: &Path, split: &SplitName, names: &[&str]) -> Result<Option<Arc<dyn Dataset>>> {
        let Some(files) = self.files(split) else { return Ok(None) };
        let found = self.find(root).ok_or_else(|| {
            let why = match root.exists() {
                true => format!("neither {} nor {} is there", files[0], self.archive()[0]),
                false => "no such file or folder".into(),
            };
            Error::data("images not found").at_path(root).because(why).remedy(
                "pass the folder of the files with --data-dir; `fornax datasets download` fetches them",
            )
        })?;
        if found.is_file() {
            return self.open_archive(&found, &files, names).map(Some);
        }
        let classes = match std::fs::read_to_string(found.join(self.names_file())) {
            Ok(text) => self.class_names(&text, &found.join(self.names_file()))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                names.iter().map(|name| name.to_string()).collect()
            }
            Err(e) => {
                let (what, path) = ("the class names cannot be read", found.join(self.names_file()));
                return Err(Error::unreadable(ErrorKind::Data, what, &path, &e));
            }
        };
        let (mut mapped, mut targets) = (vec![], vec![]);
        for name in &files {
            let path = found.join(name);
            let what = "the images cannot be read";
            let map =
                MappedFile::open(&path).map_err(|e| Error::unreadable(ErrorKind::Data, what, &path, &e))?;
            targets.extend(self.labels(&map, &path)?);
            let count = map.len() / self.stride();
            mapped.push(MappedPixels { path, map, count });
        }
        let layout =
            PixelLayout { size: SIZE, offset: self.label_bytes(), stride: self.stride(), planar: true };
        Ok(Some(Arc::new(MappedDataset::new(mapped, layout, targets, classes)?)))
    }

    fn stride(self) -> usize {
        self.label_bytes() + PIXELS
    }

    /// Labels of a file: the last label byte of each image.
    fn labels(self, bytes: &[u8], path: &Path) -> Result<Vec<u32>> {
        if bytes.is_empty() || !bytes.len().is_multiple_of(self.stride()) {
            return Err(Error::data("the images cannot be read")
                .at_path(path)
                .because(format!(
                    "it has {} bytes, not a multiple of the {} of an image",
                    bytes.len(),
                    self.stride()
                ))
                .remedy("download the file again"));
        }
        let labels: Vec<u32> =
            bytes.chunks_exact(self.stride()).map(|image| u32::from(image[self.label_bytes() - 1])).collect();
        crate::data::in_memory::check_targets(&labels, self.classes(), &path.display().to_string())?;
        Ok(labels)
    }

    fn class_names(self, text: &str, path: &Path) -> Result<Arc<[String]>> {
        let names: Arc<[String]> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
        match names.len() == self.classes() {
            true => Ok(names),
            false => Err(Error::data("the class names cannot be read")
                .at_path(path)
                .because(format!("it has {} names; the format has {} classes", names.len(), self.classes()))
                .remedy("download the file again")),
        }
    }

    fn open_archive(self, path: &Path, files: &[String], names: &[&str]) -> Result<Arc<dyn Dataset>> {
        let fail = |why: String| {
            Error::data("the archive cannot be read")
                .at_path(path)
                .because(why)
                .remedy("download the archive again")
        };
        let file = std::fs::File::open(path).map_err(|e| fail(e.to_string()))?;
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::io::BufReader::new(file)));
        let mut contents: Vec<Option<Vec<u8>>> = vec![None; files.len()];
        let mut classes: Arc<[String]> = names.iter().map(|name| name.to_string()).collect();
        for entry in archive.entries().map_err(|e| fail(e.to_string()))? {
            let mut entry = entry.map_err(|e| fail(e.to_string()))?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let name = name.rsplit('/').next().unwrap_or_default();
            let wanted = files.iter().position(|file| file == name);
            if wanted.is_none() && name != self.names_file() {
                continue;
            }
            // 50,000 images are the largest file of the format.
            let limit = 50_000 * self.stride() as u64;
            let mut bytes = vec![];
            entry.by_ref().take(limit + 1).read_to_end(&mut bytes).map_err(|e| fail(e.to_string()))?;
            if bytes.len() as u64 > limit {
                return Err(fail(format!("{name} has more than 50,000 images")));
            }
            match wanted {
                Some(index) => contents[index] = Some(bytes),
                None => classes = self.class_names(&String::from_utf8_lossy(&bytes), path)?,
            }
        }
        let layout =
            PixelLayout { size: SIZE, offset: self.label_bytes(), stride: self.stride(), planar: true };
        let (mut pixels, mut targets) = (vec![], vec![]);
        for (name, bytes) in files.iter().zip(contents) {
            let bytes = bytes.ok_or_else(|| fail(format!("{name} is not in it")))?;
            targets.extend(self.labels(&bytes, &path.join(name))?);
            (0..bytes.len() / self.stride()).for_each(|i| pixels.extend(layout.image(&bytes, i).pixels));
        }
        let location = path.display().to_string();
        Ok(Arc::new(InMemoryDataset::uniform(pixels, SIZE, targets, classes, &location)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Image, SampleImage};
    use std::fs;

    /// Images of one colour, whose red value is the label.
    fn file(format: CifarFormat, labels: &[u8]) -> Vec<u8> {
        let mut bytes = vec![];
        for label in labels {
            bytes.extend(std::iter::repeat_n(*label, format.label_bytes()));
            bytes.extend([*label; 1024].into_iter().chain([100; 1024]).chain([200; 1024]));
        }
        bytes
    }

    fn write(format: CifarFormat, folder: &Path) {
        for (i, name) in format.files(&SplitName::new("train")).expect("files").iter().enumerate() {
            fs::write(folder.join(name), file(format, &[i as u8, 9])).expect("writes");
        }
        let test = &format.files(&SplitName::new("test")).expect("files")[0];
        fs::write(folder.join(test), file(format, &[3])).expect("writes");
        let names: String = (0..format.classes()).map(|i| format!("name {i}\n")).collect();
        fs::write(folder.join(format.names_file()), names).expect("writes");
    }

    #[test]
    fn files_and_archive_give_the_same_images() {
        for format in [CifarFormat::Cifar10, CifarFormat::Cifar100] {
            let folder = tempfile::tempdir().expect("a folder");
            let [archive, inner] = format.archive();
            fs::create_dir(folder.path().join(inner)).expect("creates");
            write(format, &folder.path().join(inner));
            assert_eq!(CifarFormat::detect(folder.path()), Some(format));
            let open =
                |root: &Path, split: &str| format.open(root, &SplitName::new(split), &[]).expect("reads");
            let train = open(folder.path(), "train").expect("found");
            let red = |dataset: &dyn Dataset, i| match dataset.image(i).expect("reads") {
                SampleImage::Decoded(Image { size, pixels }) => (size, pixels[..6].to_vec()),
                SampleImage::Encoded(_) => panic!("decoded"),
            };
            assert_eq!(red(&*train, 1), ([32, 32, 3], vec![9, 100, 200, 9, 100, 200]));
            assert_eq!((train.target(1), train.classes()[9].as_str()), (9, "name 9"));
            assert_eq!(open(folder.path(), "validation").expect("found").len(), 1);
            assert!(open(folder.path(), "other").is_none());

            let packed = folder.path().join("packed");
            fs::create_dir(&packed).expect("creates");
            let file = fs::File::create(packed.join(archive)).expect("creates");
            let encoder = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
            let mut builder = tar::Builder::new(encoder);
            builder.append_dir_all(inner, folder.path().join(inner)).expect("writes");
            builder.into_inner().expect("writes").finish().expect("writes");
            let of_archive = open(&packed, "train").expect("found");
            assert_eq!(of_archive.len(), train.len());
            for i in 0..train.len() {
                assert_eq!(of_archive.image(i).expect("reads"), train.image(i).expect("reads"));
                assert_eq!(of_archive.target(i), train.target(i));
            }
        }
    }

    #[test]
    fn files_without_class_names_open_with_those_of_the_registry() {
        let format = CifarFormat::Cifar10;
        let folder = tempfile::tempdir().expect("a folder");
        write(format, folder.path());
        fs::remove_file(folder.path().join(format.names_file())).expect("removes");
        assert_eq!(CifarFormat::detect(folder.path()), None);
        let names = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "nine"];
        let train = format.open(folder.path(), &SplitName::new("train"), &names).expect("opens");
        assert_eq!(train.expect("found").classes()[9], "nine");
    }

    #[test]
    fn damaged_files_are_rejected() {
        let format = CifarFormat::Cifar10;
        let folder = tempfile::tempdir().expect("a folder");
        let open = || {
            format
                .open(folder.path(), &SplitName::new("train"), &[])
                .map(drop)
                .expect_err("damaged")
                .to_string()
        };
        assert!(open().contains("data_batch_1.bin"));
        write(format, folder.path());
        fs::write(folder.path().join("data_batch_3.bin"), [0; 3000]).expect("writes");
        assert!(open().contains("not a multiple of the 3073"), "{}", open());
        fs::write(folder.path().join("data_batch_3.bin"), file(format, &[10])).expect("writes");
        assert!(open().contains("it is 10"), "{}", open());
        fs::write(folder.path().join("batches.meta.txt"), "a\nb\n").expect("writes");
        assert!(open().contains("2 names"), "{}", open());
    }
}
