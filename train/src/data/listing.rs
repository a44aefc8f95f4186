//! Listing of the files of a folder.
use super::paths::{PathList, has_extension};
use crate::{Error, Result};
use std::path::Path;
use walkdir::{DirEntry, WalkDir};

/// Files of a folder and its subfolders.
pub struct FolderListing {
    /// Files with a requested extension, in natural order, relative to the folder.
    pub files: PathList,
    /// Subfolders that contain no files and no folders, relative to the folder.
    pub empty_folders: Vec<String>,
    /// Leaf folders with files, but none of a requested extension.
    pub folders_without_match: Vec<String>,
}

/// Lists the files of a folder and its subfolders that end in one of `extensions`. Links are followed. Errors if a link leads back to a
/// folder that contains it, a folder cannot be read, or a name is not UTF-8.
pub fn list(folder: &Path, extensions: &[&str]) -> Result<FolderListing> {
    list_with(folder, extensions, |_, error| Err(error))
}

/// Lists like [`list`], and calls `on_error` with the path of each entry that cannot be listed; the entry is left out if that succeeds.
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
    let mut files = PathList::default();
    // Folders on the way to the current entry: path, number of entries, matching files, and subfolders in it.
    let mut open: Vec<FolderCounts> = vec![];
    let (mut empty_folders, mut folders_without_match) = (vec![], vec![]);
    let mut close = |folder: FolderCounts| {
        if folder.entries == 0 {
            empty_folders.push(folder.path);
        } else if folder.matches == 0 && folder.folders == 0 {
            folders_without_match.push(folder.path);
        }
    };
    for entry in WalkDir::new(folder).min_depth(1).follow_links(true) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(e) => {
                on_error(e.path().unwrap_or(folder), unreadable(folder, &e))?;
                continue;
            }
        };
        while open.len() >= entry.depth() {
            open.pop().into_iter().for_each(&mut close);
        }
        let is_folder = entry.file_type().is_dir();
        if let Some(parent) = open.last_mut() {
            parent.entries += 1;
            parent.folders += usize::from(is_folder);
        }
        let is_file = has_extension(&entry.file_name().to_string_lossy(), extensions);
        if !is_folder && !is_file {
            continue;
        }
        let path = match relative(folder, &entry) {
            Ok(path) => path,
            Err(error) => {
                on_error(entry.path(), error)?;
                // The files of a folder without a name are left out one by one.
                String::new()
            }
        };
        if is_folder {
            open.push(FolderCounts { path, entries: 0, matches: 0, folders: 0 });
        } else if !path.is_empty() {
            files.push(&path);
            open.iter_mut().for_each(|parent| parent.matches += 1);
        }
    }
    open.into_iter().rev().for_each(close);
    let files = files.select(&files.natural_order());
    empty_folders.sort();
    folders_without_match.sort();
    Ok(FolderListing { files, empty_folders, folders_without_match })
}

/// Counts of a folder's contents while it is listed.
struct FolderCounts {
    path: String,
    entries: usize,
    matches: usize,
    folders: usize,
}

/// Path of an entry below the folder, with `/` as separator.
fn relative(folder: &Path, entry: &DirEntry) -> Result<String> {
    let path = entry.path().strip_prefix(folder).unwrap_or(entry.path());
    match path.to_str() {
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
        assert_eq!(
            (found.empty_folders, found.folders_without_match),
            (vec!["empty".into()], vec!["text/inner".into()])
        );
        assert!(list(&folder.path().join("none"), &["png"]).is_err());
        assert!(list(&folder.path().join("b1.png"), &["png"]).is_err());
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
