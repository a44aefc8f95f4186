//! Names of splits and their synonyms.

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
        let group = SYNONYMS.iter().find(|group| group.contains(&own));
        let others = group.into_iter().flat_map(|group| group.iter().copied()).filter(|name| *name != own);
        [own].into_iter().chain(others).collect()
    }

    /// The first candidate that exists.
    pub fn find(&self, exists: impl Fn(&str) -> bool) -> Option<&str> {
        self.candidates().into_iter().find(|name| exists(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_name_precedes_synonyms() {
        let validation = SplitName::new("validation");
        assert_eq!(validation.find(|name| ["val", "eval"].contains(&name)), Some("val"));
        assert_eq!(validation.find(|name| ["val", "validation"].contains(&name)), Some("validation"));
        assert_eq!(SplitName::new("train").candidates(), ["train", "training"]);
        assert_eq!(SplitName::new("mine").candidates(), ["mine"]);
        assert_eq!(SplitName::new("test").find(|name| name == "val"), None);
    }
}
