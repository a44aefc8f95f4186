//! Natural sort order of names: runs of digits compare as numbers, case is ignored.
use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// Compares two names in natural order.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (lower_a, lower_b) = (a.to_lowercase(), b.to_lowercase());
    let (mut rest_a, mut rest_b) = (lower_a.as_str(), lower_b.as_str());
    while !rest_a.is_empty() && !rest_b.is_empty() {
        let ((run_a, after_a), (run_b, after_b)) = (run(rest_a), run(rest_b));
        let order = match (is_number(run_a), is_number(run_b)) {
            (true, true) => by_value(run_a, run_b),
            _ => run_a.cmp(run_b),
        };
        if order.is_ne() {
            return order;
        }
        (rest_a, rest_b) = (after_a, after_b);
    }
    // Names that differ only in case or leading zeros still have a total order.
    rest_a.cmp(rest_b).then_with(|| a.cmp(b))
}

/// Files with one of these extensions in a folder and its subfolders, in natural order.
pub fn files(folder: &Path, extensions: &[&str]) -> std::io::Result<Vec<PathBuf>> {
    let mut found = vec![];
    // Links to folders are not followed: they may lead back up.
    for entry in WalkDir::new(folder) {
        let path = entry?.into_path();
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        if extensions.contains(&extension.as_str()) && !path.is_dir() {
            found.push(path);
        }
    }
    found.sort_by(|a, b| compare(&a.to_string_lossy(), &b.to_string_lossy()));
    Ok(found)
}

/// Splits a text after its leading run of digits or of non-digits.
fn run(text: &str) -> (&str, &str) {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    text.split_at(text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len()))
}

fn is_number(run: &str) -> bool {
    run.starts_with(|c: char| c.is_ascii_digit())
}

fn by_value(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_digits_compare_as_numbers() {
        let mut names =
            ["b", "a10", "a9", "A1", "a01b", "a1a", "10", "9", "a", "99999999999999999999999", "a 2"];
        names.sort_by(|a, b| compare(a, b));
        assert_eq!(
            names,
            ["9", "10", "99999999999999999999999", "a", "A1", "a1a", "a01b", "a9", "a10", "a 2", "b"]
        );
    }

    #[test]
    fn files_are_found_in_subfolders() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("b2")).expect("creates");
        for name in ["b10.PNG", "b2/x.jpg", "b1.png", "note.txt"] {
            std::fs::write(folder.path().join(name), "").expect("writes");
        }
        let found = files(folder.path(), &["png", "jpg"]).expect("lists");
        let names: Vec<_> = found.iter().map(|p| p.strip_prefix(folder.path()).expect("below")).collect();
        assert_eq!(names, [Path::new("b1.png"), Path::new("b2/x.jpg"), Path::new("b10.PNG")]);
        assert!(files(&folder.path().join("none"), &["png"]).is_err());
    }
}
