//! Image folders: the name of the folder that contains an image is its class.
use crate::data::decode::EXTENSIONS;
use crate::data::files::FileDataset;
use crate::data::labels::ClassOrder;
use crate::data::listing::{self, FolderListing};
use crate::data::paths::parent_name;
use crate::data::{notes, problems};
use crate::message::count;
use crate::{Error, Result};
use std::path::Path;

/// Opens an image folder: its images sorted by class and then in natural order of their paths, with the innermost folder as class; `extensions` may restrict
/// the images. Returns the dataset and notes about images that are ignored.
pub fn open(
    folder: &Path,
    order: &ClassOrder,
    extensions: Option<&[&str]>,
) -> Result<(FileDataset, Vec<String>)> {
    let extensions = extensions.unwrap_or(&EXTENSIONS);
    let mut problems = vec![];
    let listing = listing::list_with(folder, extensions, |_, problem| {
        problems.push(problem);
        Ok(())
    })?;
    if matches!(order, ClassOrder::Found) {
        problems.extend(empty_classes(folder, &listing));
    }
    if !problems.is_empty() {
        return Err(problems::report(problems, folder));
    }
    if listing.files.is_empty() {
        let seen = listing.ignored.note().map_or(String::new(), |note| format!("; {note}"));
        let why = format!("no file in it or its subfolders ends in .{}{seen}", extensions.join(", ."));
        return Err(no_images(folder, why));
    }
    let outside = listing.files.iter().filter(|path| parent_name(path).is_empty()).count();
    if outside == listing.files.len() {
        return Err(Error::data("the images are not in folders of classes")
            .at_path(folder)
            .because("the folder that contains an image is its class")
            .remedy("make a folder for each class, or list the images and their labels in a CSV file"));
    }
    let inside: Vec<usize> =
        (0..listing.files.len()).filter(|i| !parent_name(listing.files.get(*i)).is_empty()).collect();
    let files = if outside > 0 { listing.files.select(&inside) } else { listing.files };
    let labels = order.label(files.iter().map(parent_name), folder)?;
    let (kept, targets) = labels.kept_by_class();
    let mut notes: Vec<String> = listing.ignored.note().into_iter().collect();
    notes.extend(notes::hidden_note(&listing.hidden));
    notes.extend(notes::merged_note(&files));
    notes.extend(notes::mixed_note(&listing.mixed_folders));
    if outside > 0 {
        let be = if outside == 1 { "is" } else { "are" };
        notes.push(format!(
            "{} outside of the folders of classes {be} ignored",
            count(outside as u64, "image")
        ));
    }
    let dropped = files.len() - kept.len();
    let is_unchanged = kept.iter().copied().eq(0..files.len());
    let files = if is_unchanged { files } else { files.select(&kept) };
    notes.extend(dropped_note(dropped));
    Ok((FileDataset::new(folder, files, targets, labels.classes), notes))
}

/// An error for each innermost folder without images.
fn empty_classes(folder: &Path, listing: &FolderListing) -> Vec<Error> {
    let class = |path: &String, why: String| {
        Error::data("a class has no images")
            .at_path(&folder.join(path))
            .because(why)
            .remedy("add images to the folder, or remove it")
    };
    let empty =
        listing.empty_folders.iter().map(|path| class(path, "every innermost folder is a class".into()));
    let others = listing.folders_without_match.iter().map(|(path, seen)| {
        class(
            path,
            format!(
                "every innermost folder is a class; of this one's files none is read: {}",
                seen.describe()
            ),
        )
    });
    empty.chain(others).collect()
}

/// Note about images whose classes are not in the class map, if there are any.
pub fn dropped_note(dropped: usize) -> Option<String> {
    let (be, images) = if dropped == 1 { ("is", "its class is") } else { ("are", "their classes are") };
    (dropped > 0)
        .then(|| format!("{} {be} ignored: {images} not in the class map", count(dropped as u64, "image")))
}

/// The error of a dataset without images.
pub fn no_images(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::data("the dataset has no images")
        .at_path(path)
        .because(why)
        .remedy("check the path; `fornax datasets --help` names the formats")
}
