//! Compact lists of relative paths.
use super::natural;
use rayon::prelude::*;

/// List of relative paths with `/` as separator, stored in one text: a million paths take little more memory than their characters.
#[derive(Clone, Debug, Default)]
pub struct PathList {
    text: String,
    /// End of each path in `text`.
    ends: Vec<usize>,
}

impl PathList {
    /// Number of paths.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True if there are no paths.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Appends a path.
    pub fn push(&mut self, path: &str) {
        self.text.push_str(path);
        self.ends.push(self.text.len());
    }

    /// The path at `index`.
    pub fn get(&self, index: usize) -> &str {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.text[start..self.ends[index]]
    }

    /// All paths in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Indices of the paths in natural order.
    pub fn natural_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.par_sort_by(|a, b| natural::compare(self.get(*a), self.get(*b)));
        order
    }

    /// The paths at `indices`, in that order.
    pub fn select(&self, indices: &[usize]) -> PathList {
        let length = indices.iter().map(|index| self.get(*index).len()).sum();
        let mut chosen =
            PathList { text: String::with_capacity(length), ends: Vec::with_capacity(indices.len()) };
        indices.iter().for_each(|index| chosen.push(self.get(*index)));
        chosen
    }

    /// CRC32C of all paths; of absolute ones, without the folder that contains all of them.
    pub fn crc32c(&self) -> u32 {
        let prefix = self.common_folder();
        let text = self.iter().fold(0, |sum, path| crc32c::crc32c_append(sum, &path.as_bytes()[prefix..]));
        self.ends.iter().enumerate().fold(text, |sum, (index, end)| {
            crc32c::crc32c_append(sum, &((end - prefix * (index + 1)) as u64).to_le_bytes())
        })
    }

    /// Bytes of the folder, with its `/`, that contains all paths, if they are absolute, else 0.
    fn common_folder(&self) -> usize {
        if self.is_empty() || !self.iter().all(|path| path.starts_with('/')) {
            return 0;
        }
        let first = self.get(0).as_bytes();
        let common = |path: &str| first.iter().zip(path.as_bytes()).take_while(|(a, b)| a == b).count();
        let bytes = self.iter().map(common).min().unwrap_or_default();
        first[..bytes].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1)
    }
}

/// Name of the folder that contains a file; empty if the path has no folder.
pub fn parent_name(path: &str) -> &str {
    let folder = parent(path);
    folder.rsplit_once('/').map_or(folder, |(_, name)| name)
}

/// Path of the folder that contains a file; empty if the path has no folder.
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// True if the path ends in one of these extensions, in upper or lower case.
pub fn has_extension(path: &str, extensions: &[&str]) -> bool {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    let extension =
        name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()).map(|(_, extension)| extension);
    extension.is_some_and(|extension| extensions.iter().any(|known| known.eq_ignore_ascii_case(extension)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_stored_and_sorted_in_natural_order() {
        let mut paths = PathList::default();
        ["b/10.png", "b/9.png", "", "a/x"].iter().for_each(|path| paths.push(path));
        assert_eq!(paths.iter().collect::<Vec<_>>(), ["b/10.png", "b/9.png", "", "a/x"]);
        let sorted = paths.select(&paths.natural_order());
        assert_eq!(sorted.iter().collect::<Vec<_>>(), ["", "a/x", "b/9.png", "b/10.png"]);
        assert_ne!(sorted.crc32c(), paths.crc32c());
    }

    #[test]
    fn checksum_of_absolute_paths_omits_their_common_folder() {
        let list = |paths: &[&str]| {
            let mut list = PathList::default();
            paths.iter().for_each(|path| list.push(path));
            list.crc32c()
        };
        let relative = list(&["a/1.png", "a/10.png", "b/1.png"]);
        assert_eq!(list(&["/data/a/1.png", "/data/a/10.png", "/data/b/1.png"]), relative);
        assert_eq!(list(&["/s/job.7/a/1.png", "/s/job.7/a/10.png", "/s/job.7/b/1.png"]), relative);
        assert_ne!(list(&["/data/a/1.png", "/data/a/10.png", "/data/c/1.png"]), relative);
        assert_eq!(list(&["/data/1.png"]), list(&["1.png"]));
    }

    #[test]
    fn parents_and_extensions_are_found() {
        assert_eq!((parent_name("a/b/c.png"), parent("a/b/c.png"), parent_name("c.png")), ("b", "a/b", ""));
        assert!(has_extension("a/b.PnG", &["png"]) && !has_extension("a.png/b", &["png"]));
        assert!(!has_extension("a/.png", &["png"]) && !has_extension("png", &["png"]));
    }
}
