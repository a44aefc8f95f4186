//! Listing of the files of a folder.
use super::notes::ExtensionCounts;
use super::paths::{PathList, has_extension};
use crate::{Error, Result};
use std::path::Path;
use walkdir::{DirEntry, WalkDir};

/// Files of a folder and its subfolders.
#[derive(Debug, Default)]
pub struct FolderListing {
    /// Files with a requested extension, in natural order, relative to the folder.
    pub files: PathList,
    /// Other files.
    pub ignored: ExtensionCounts,
    /// Files and folders whose names begin with a dot. They are skipped, and what is in such a folder too.
    pub hidden: PathList,
    /// Subfolders that contain no files and no folders, relative to the folder.
    pub empty_folders: Vec<String>,
    /// Leaf folders with files, but none of a requested extension.
    pub folders_without_match: Vec<(String, ExtensionCounts)>,
    /// Subfolders with requested files and folders.
    pub mixed_folders: Vec<String>,
}

/// Lists the files of a folder and its subfolders that end in one of `extensions`. Links are followed, and hidden files and folders skipped.
/// Errors if a link leads back to a folder that contains it, a folder cannot be read, or a name is not UTF-8.
pub fn list(folder: &Path, extensions: &[&str]) -> Result<FolderListing> {
    list_with(folder, extensions, |_, error| Err(error))
}

/// Lists like [`list`], and calls `on_error` with the path of each entry that cannot be listed; the entry is omitted if that succeeds.
pub fn list_with(
    folder: &Path,
    extensions: &[&str],
    mut on_error: impl FnMut(&Path, Error) -> Result<()>,
) -> Result<FolderListing> {
    if !folder.is_dir() {
        let why = if folder.exists() { "it is not a folder" } else { "no such folder" };
        return Err(Error::data("the folder cannot be read")
            .at_path(folder)
            .because(why)
            .remedy("check the path"));
    }
    let mut listing = FolderListing::default();
    // Folders on the way to the current entry.
    let mut open: Vec<FolderContents> = vec![];
    let mut walk = WalkDir::new(folder).min_depth(1).follow_links(true).into_iter();
    while let Some(entry) = walk.next() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(e) => {
                let path = e.path().unwrap_or(folder);
                if path != folder && is_hidden(path) {
                    listing.hidden.push(&below(folder, path).to_string_lossy());
                    continue;
                }
                while open.len() >= e.depth().max(1) {
                    open.pop().into_iter().for_each(|folder| listing.close(folder));
                }
                // Neither empty nor without images: its contents are not known.
                if let Some(parent) = open.last_mut() {
                    parent.folders += 1;
                }
                on_error(path, unreadable(folder, &e))?;
                continue;
            }
        };
        while open.len() >= entry.depth() {
            open.pop().into_iter().for_each(|folder| listing.close(folder));
        }
        let is_folder = entry.file_type().is_dir();
        if is_hidden(entry.path()) {
            listing.hidden.push(&below(folder, entry.path()).to_string_lossy());
            if is_folder {
                walk.skip_current_dir();
            }
            continue;
        }
        if let Some(parent) = open.last_mut() {
            parent.entries += 1;
            parent.folders += usize::from(is_folder);
        }
        let name = entry.file_name().to_string_lossy();
        if !is_folder && !has_extension(&name, extensions) {
            match open.last_mut() {
                Some(parent) => parent.ignored.add(&name),
                None => listing.ignored.add(&name),
            }
            continue;
        }
        let path = match relative(folder, &entry) {
            Ok(path) => path,
            Err(error) => {
                on_error(entry.path(), error)?;
                // The files of a folder without a name are omitted one by one.
                String::new()
            }
        };
        if is_folder {
            open.push(FolderContents { path, ..FolderContents::default() });
        } else if !path.is_empty() {
            listing.files.push(&path);
            if let Some(parent) = open.last_mut() {
                parent.files += 1;
            }
        }
    }
    open.into_iter().rev().for_each(|folder| listing.close(folder));
    listing.files = listing.files.select(&listing.files.natural_order());
    listing.hidden = listing.hidden.select(&listing.hidden.natural_order());
    listing.empty_folders.sort();
    listing.folders_without_match.sort_by(|a, b| a.0.cmp(&b.0));
    listing.mixed_folders.sort();
    Ok(listing)
}

impl FolderListing {
    /// Records a folder after its last entry.
    fn close(&mut self, folder: FolderContents) {
        self.ignored.extend(&folder.ignored);
        match folder {
            FolderContents { entries: 0, folders: 0, .. } => self.empty_folders.push(folder.path),
            FolderContents { files: 0, folders: 0, .. } => {
                self.folders_without_match.push((folder.path, folder.ignored));
            }
            FolderContents { files: 1.., folders: 1.., .. } => self.mixed_folders.push(folder.path),
            _ => {}
        }
    }
}

/// Contents of a folder, counted while it is listed.
#[derive(Default)]
struct FolderContents {
    path: String,
    entries: usize,
    /// Files with a requested extension.
    files: usize,
    folders: usize,
    ignored: ExtensionCounts,
}

/// True if the name of a file or folder begins with a dot.
fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Path of an entry below the folder.
fn below<'a>(folder: &Path, path: &'a Path) -> &'a Path {
    path.strip_prefix(folder).unwrap_or(path)
}

/// Path of an entry below the folder, with `/` as separator.
fn relative(folder: &Path, entry: &DirEntry) -> Result<String> {
    match below(folder, entry.path()).to_str() {
        Some(path) if std::path::MAIN_SEPARATOR == '/' => Ok(path.to_string()),
        Some(path) => Ok(path.replace(std::path::MAIN_SEPARATOR, "/")),
        None => Err(Error::data("a name is not UTF-8")
            .at(format!("{:?}", entry.path()))
            .because("names of classes and images are text in checkpoints and reports")
            .remedy("rename the file or folder")),
    }
}

fn unreadable(folder: &Path, error: &walkdir::Error) -> Error {
    let at = error.path().unwrap_or(folder);
    match (error.loop_ancestor(), error.io_error()) {
        (Some(ancestor), _) => Error::data("a link leads in a circle")
            .at_path(at)
            .because(format!("it points to {}, which contains it", ancestor.display()))
            .remedy("remove the link"),
        (None, Some(io)) if at.is_symlink() => Error::data("a link leads nowhere")
            .at_path(at)
            .because(io)
            .remedy("remove the link, or restore the file that it points to"),
        (None, io) => Error::data("the folder cannot be read")
            .at_path(at)
            .because(io.map_or_else(|| error.to_string(), ToString::to_string))
            .remedy("check its permissions"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_of_subfolders_are_listed_in_natural_order() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["b2", "empty", "text/inner"] {
            fs::create_dir_all(folder.path().join(name)).expect("creates");
        }
        for name in ["b10.PNG", "b2/x.jpg", "b1.png", "note.txt", "text/inner/a.txt"] {
            fs::write(folder.path().join(name), "").expect("writes");
        }
        let found = list(folder.path(), &["png", "jpg"]).expect("lists");
        assert_eq!(found.files.iter().collect::<Vec<_>>(), ["b1.png", "b2/x.jpg", "b10.PNG"]);
        assert_eq!(found.empty_folders, ["empty"]);
        let without: Vec<_> =
            found.folders_without_match.iter().map(|(path, seen)| (path.as_str(), seen.describe())).collect();
        assert_eq!(without, [("text/inner", "1 .txt".to_string())]);
        assert_eq!(found.ignored.describe(), "2 .txt");
        assert!(list(&folder.path().join("none"), &["png"]).is_err());
        assert!(list(&folder.path().join("b1.png"), &["png"]).is_err());
    }

    #[test]
    fn hidden_files_and_folders_are_skipped() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in [".ipynb_checkpoints", "a/inner", "b/.git/c"] {
            fs::create_dir_all(folder.path().join(name)).expect("creates");
        }
        for name in
            [".ipynb_checkpoints/1.png", "a/._1.png", "a/1.png", "a/inner/2.png", "b/.git/c/3.png", "b/4.png"]
        {
            fs::write(folder.path().join(name), "").expect("writes");
        }
        let found = list(folder.path(), &["png"]).expect("lists");
        assert_eq!(found.files.iter().collect::<Vec<_>>(), ["a/1.png", "a/inner/2.png", "b/4.png"]);
        assert_eq!(found.hidden.iter().collect::<Vec<_>>(), [".ipynb_checkpoints", "a/._1.png", "b/.git"]);
        assert_eq!((found.mixed_folders, found.empty_folders.len()), (vec!["a".to_string()], 0));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_loops_are_rejected() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().expect("a folder");
        let other = tempfile::tempdir().expect("a folder");
        fs::write(other.path().join("x.png"), "").expect("writes");
        symlink(other.path(), folder.path().join("class")).expect("links");
        let found = list(folder.path(), &["png"]).expect("lists");
        assert_eq!(found.files.iter().collect::<Vec<_>>(), ["class/x.png"]);
        symlink(folder.path(), other.path().join("up")).expect("links");
        let error = list(folder.path(), &["png"]).map(drop).expect_err("a loop").to_string();
        assert!(error.contains("circle") && error.contains("up"), "{error}");
    }
}
