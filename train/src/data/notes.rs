//! Notes about the files of a dataset that are ignored, skipped or merged, each of bounded length.
use super::paths::{PathList, parent, parent_name};
use crate::message::count;
use crate::report::thousands;
use crate::text::{escape_control, first_names};
use std::collections::BTreeMap;

/// Counts of ignored files by their extension.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtensionCounts(BTreeMap<String, usize>);

impl ExtensionCounts {
    /// Counts a file by its name.
    pub fn add(&mut self, path: &str) {
        let name = path.rsplit('/').next().unwrap_or(path);
        let extension = match name.rsplit_once('.') {
            Some((stem, extension)) if !stem.is_empty() && !extension.is_empty() => {
                format!(".{}", extension.to_lowercase())
            }
            _ => "without extension".into(),
        };
        *self.0.entry(extension).or_insert(0) += 1;
    }

    /// Adds other counts.
    pub fn extend(&mut self, other: &ExtensionCounts) {
        for (extension, count) in &other.0 {
            *self.0.entry(extension.clone()).or_insert(0) += count;
        }
    }

    /// The counts, the largest first: `16 .avif, 2 .txt`.
    pub fn describe(&self) -> String {
        let mut counts: Vec<(&String, &usize)> = self.0.iter().collect();
        counts.sort_by(|a, b| b.1.cmp(a.1));
        first_names(counts.iter().map(|(extension, count)| format!("{count} {extension}")))
    }

    /// Note about the files, if there are any.
    pub fn note(&self) -> Option<String> {
        let files = self.0.values().sum::<usize>() as u64;
        (files > 0).then(|| format!("{} ignored: {}", count(files, "file"), self.describe()))
    }
}

/// Note about hidden files and folders, if there are any.
pub fn hidden_note(hidden: &PathList) -> Option<String> {
    let noun = if hidden.len() == 1 { "hidden file or folder" } else { "hidden files and folders" };
    let number = thousands(hidden.len() as u64);
    (!hidden.is_empty()).then(|| format!("{number} {noun} skipped: {}", first_names(hidden.iter())))
}

/// Note about the classes of files in several folders, if there are any: the name of the folder is the class.
pub fn merged_note(files: &PathList) -> Option<String> {
    let mut folders: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for path in files.iter() {
        let of_class = folders.entry(parent_name(path)).or_default();
        if of_class.last() != Some(&parent(path)) && !of_class.contains(&parent(path)) {
            of_class.push(parent(path));
        }
    }
    let merged: Vec<String> = folders
        .iter()
        .filter(|(_, folders)| folders.len() > 1)
        .map(|(class, folders)| {
            format!("class {} is merged from {}", escape_control(class), conjunction(folders))
        })
        .collect();
    match merged.len() {
        0 => None,
        1..=3 => Some(merged.join("; ")),
        count => Some(format!("{}; and {} other classes are merged", merged[..3].join("; "), count - 3)),
    }
}

/// `a, b and c`, cut after the fourth name.
fn conjunction(names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| escape_control(name)).collect();
    match &names[..] {
        [first @ .., last] if first.len() < 4 => format!("{} and {last}", first.join(", ")),
        _ => format!("{} and {} other folders", names[..4].join(", "), names.len() - 4),
    }
}

/// Note about folders with images and subfolders, if there are any.
pub fn mixed_note(folders: &[String]) -> Option<String> {
    match folders {
        [] => None,
        [one] => Some(format!(
            "folder {} has images and subfolders: both are classes of their own",
            escape_control(one)
        )),
        many => Some(format!(
            "{} folders have images and subfolders, which are classes of their own: {}",
            many.len(),
            first_names(many)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(paths: &[&str]) -> PathList {
        let mut list = PathList::default();
        paths.iter().for_each(|path| list.push(path));
        list
    }

    #[test]
    fn ignored_files_are_counted_by_extension() {
        let mut counts = ExtensionCounts::default();
        for path in ["a/1.avif", "b.c/2.AVIF", "a/x.txt", "a/README", "a/b."] {
            counts.add(path);
        }
        assert_eq!(counts.note().expect("files"), "5 files ignored: 2 .avif, 2 without extension, 1 .txt");
        assert_eq!(ExtensionCounts::default().note(), None);
        (0..1000).for_each(|i| counts.add(&format!("x.{i}")));
        assert!(counts.note().expect("files").len() < 200);
    }

    #[test]
    fn merged_classes_name_their_folders() {
        let files = paths(&["cars/red/1.png", "cars/red/2.png", "shirts/red/1.png", "shirts/blue/1.png"]);
        assert_eq!(merged_note(&files).expect("merged"), "class red is merged from cars/red and shirts/red");
        assert_eq!(merged_note(&paths(&["a/1.png", "b/1.png"])), None);
        let many: Vec<String> = (0..1000).map(|i| format!("{}/{}/1.png", i % 10, i / 10)).collect();
        let note = merged_note(&paths(&many.iter().map(String::as_str).collect::<Vec<_>>())).expect("merged");
        assert!(note.ends_with("and 97 other classes are merged") && note.len() < 300, "{note}");
        assert!(note.contains("0/0, 1/0, 2/0, 3/0 and 6 other folders"), "{note}");
    }
}
