//! Names of splits and their synonyms.
use std::path::{Path, PathBuf};

/// Name of a split: its exact name, then the usual names of the same split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitName {
    name: String,
}

const SYNONYMS: [&[&str]; 3] = [
    &["train", "training"],
    &["validation", "val", "eval", "evaluation", "valid"],
    &["test", "testing", "t10k"],
];

impl SplitName {
    /// The split with this name.
    pub fn new(name: &str) -> SplitName {
        SplitName { name: name.into() }
    }

    /// The name as given.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// Candidates: the exact name first, then its synonyms.
    pub fn candidates(&self) -> Vec<&str> {
        let own = self.name.as_str();
        let group = SYNONYMS.iter().find(|group| group.iter().any(|name| name.eq_ignore_ascii_case(own)));
        let others = group.into_iter().flat_map(|group| group.iter().copied()).filter(|name| *name != own);
        [own].into_iter().chain(others).collect()
    }

    /// Result of `lookup` for the first candidate that has one: spelled exactly, else in any case.
    pub fn find<T>(&self, lookup: impl Fn(&str, Spelling) -> Option<T>) -> Option<T> {
        let all = |spelling| self.candidates().into_iter().find_map(|name| lookup(name, spelling));
        all(Spelling::Exact).or_else(|| all(Spelling::AnyCase))
    }

    /// Subfolder of the split.
    pub fn subfolder(&self, root: &Path) -> Option<PathBuf> {
        let entries = std::fs::read_dir(root).ok()?.flatten().map(|entry| entry.file_name());
        let names: Vec<String> = entries.filter_map(|name| name.into_string().ok()).collect();
        let found = |name: &str, spelling: Spelling| {
            let mut paths =
                names.iter().filter(|entry| spelling.same(entry, name)).map(|entry| root.join(entry));
            paths.find(|path| path.is_dir())
        };
        self.find(found)
    }
}

/// Comparison of a split's name with an existing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// Upper and lower case differ.
    Exact,
    /// Upper and lower case are equal.
    AnyCase,
}

impl Spelling {
    /// True if both are the same name.
    pub fn same(self, a: &str, b: &str) -> bool {
        match self {
            Spelling::Exact => a == b,
            Spelling::AnyCase => a.eq_ignore_ascii_case(b),
        }
    }

    /// The text after the name, if it begins with the name.
    pub fn strip_prefix<'a>(self, text: &'a str, name: &str) -> Option<&'a str> {
        let (head, rest) = text.split_at_checked(name.len())?;
        self.same(head, name).then_some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_name_precedes_synonyms() {
        let validation = SplitName::new("validation");
        let find = |split: &SplitName, all: &[&'static str]| {
            split.find(|name, spelling| all.iter().copied().find(|entry| spelling.same(entry, name)))
        };
        assert_eq!(find(&validation, &["eval", "val"]), Some("val"));
        assert_eq!(find(&validation, &["val", "validation"]), Some("validation"));
        assert_eq!(
            find(&validation, &["VAL", "Eval", "valid"]),
            Some("valid"),
            "the exact spelling comes first"
        );
        assert_eq!(find(&validation, &["TEST", "Val"]), Some("Val"));
        assert_eq!(SplitName::new("Train").candidates(), ["Train", "train", "training"]);
        assert_eq!(SplitName::new("train").candidates(), ["train", "training"]);
        assert_eq!(SplitName::new("mine").candidates(), ["mine"]);
        assert_eq!(find(&SplitName::new("test"), &["val"]), None);
    }
}
