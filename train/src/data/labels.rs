//! Class names and class indices of samples.
use super::natural;
use crate::error::ErrorKind;
use crate::message::count;
use crate::text::first_names;
use crate::{Error, Result};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// Origin of the class indices of a split.
#[derive(Clone, Debug)]
pub enum ClassOrder {
    /// The class names that occur, in natural order.
    Found,
    /// The lines of a class map: samples of other classes are ignored.
    Map(Arc<[String]>),
    /// The classes of the training split: another class is an error.
    Training(Arc<[String]>),
}

/// Class indices of samples.
#[derive(Debug)]
pub struct Labels {
    /// Class names, in the order of the indices.
    pub classes: Arc<[String]>,
    /// Class index of each sample; `None` if its class is not in the class map.
    pub targets: Vec<Option<u32>>,
}

impl ClassOrder {
    /// Class indices of samples with these class names; `location` is the dataset's, for errors.
    pub fn label<'a>(&self, names: impl Iterator<Item = &'a str>, location: &Path) -> Result<Labels> {
        let mut found: Vec<&str> = vec![];
        let mut index: HashMap<&str, u32> = HashMap::new();
        let ids: Vec<u32> = names
            .map(|name| {
                *index.entry(name).or_insert_with(|| {
                    found.push(name);
                    found.len() as u32 - 1
                })
            })
            .collect();
        let classes: Arc<[String]> = match self {
            ClassOrder::Found => {
                let mut sorted: Vec<String> = found.iter().map(|name| name.to_string()).collect();
                sorted.sort_by(|a, b| natural::compare(a, b));
                sorted.into()
            }
            ClassOrder::Map(classes) | ClassOrder::Training(classes) => classes.clone(),
        };
        let positions: HashMap<&str, u32> =
            classes.iter().enumerate().map(|(i, name)| (name.as_str(), i as u32)).collect();
        let target: Vec<Option<u32>> = found.iter().map(|name| positions.get(name).copied()).collect();
        let unknown = found.iter().zip(&target).filter(|pair| pair.1.is_none()).map(|pair| *pair.0);
        let unknown: Vec<&str> = unknown.collect();
        match self {
            ClassOrder::Map(_) if !found.is_empty() && target.iter().all(Option::is_none) => {
                return Err(Error::data("the class map does not belong to the dataset")
                    .at_path(location)
                    .because(format!(
                        "none of its {} is in the class map; the first is {:?}, the map begins with {:?}",
                        count(found.len() as u64, "class"),
                        found[0],
                        classes.first().map_or("", String::as_str)
                    ))
                    .remedy("pass the class map of this dataset with --class-map: one class name per line"));
            }
            ClassOrder::Training(_) if !unknown.is_empty() => {
                let names: Vec<String> = unknown.iter().map(|name| format!("{name:?}")).collect();
                let classes = if names.len() == 1 { "class" } else { "classes" };
                return Err(Error::data(format!(
                    "the training split has no {classes} {}",
                    first_names(names)
                ))
                .at_path(location)
                .because("every class of the validation split must be in the training split")
                .remedy("rename or move the folder, or omit the class with --class-map"));
            }
            _ => {}
        }
        Ok(Labels { classes, targets: ids.iter().map(|id| target[*id as usize]).collect() })
    }
}

impl Labels {
    /// Indices of the labelled samples, and their class indices.
    pub fn kept(&self) -> (Vec<usize>, Vec<u32>) {
        self.targets.iter().enumerate().filter_map(|(i, target)| Some((i, (*target)?))).unzip()
    }

    /// Like [`Labels::kept`], sorted by class; samples of a class keep their order. Exports have this order too, so that a dataset trains to
    /// the same weights in every format.
    pub fn kept_by_class(&self) -> (Vec<usize>, Vec<u32>) {
        let (kept, targets) = self.kept();
        let mut samples: Vec<(u32, usize)> = targets.into_iter().zip(kept).collect();
        samples.sort_by_key(|(target, _)| *target);
        samples.into_iter().map(|(target, index)| (index, target)).unzip()
    }
}

/// Reads a class map: a text file with one class name per line, in the order of the class indices.
pub fn read_class_map(path: &Path) -> Result<Arc<[String]>> {
    let what = "the class map cannot be read";
    let fail = |why: String| {
        Error::data(what).at_path(path).because(why).remedy("pass a text file with one class name per line")
    };
    let bytes = std::fs::read(path).map_err(|e| Error::unreadable(ErrorKind::Data, what, path, &e))?;
    let text = String::from_utf8(bytes).map_err(|_| fail("it is not UTF-8".into()))?;
    let text = text.trim_start_matches('\u{feff}');
    let names: Vec<String> = text.trim_end().lines().map(|line| line.trim().to_string()).collect();
    let mut lines = HashMap::new();
    for (line, name) in names.iter().enumerate() {
        if name.is_empty() {
            return Err(fail(format!("line {} is empty", line + 1)));
        }
        if let Some(first) = lines.insert(name, line) {
            return Err(fail(format!("{name:?} is in lines {} and {}", first + 1, line + 1)));
        }
    }
    match names.is_empty() {
        true => Err(fail("it is empty".into())),
        false => Ok(names.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(order: &ClassOrder, names: &[&str]) -> Result<Labels> {
        order.label(names.iter().copied(), Path::new("set"))
    }

    #[test]
    fn found_classes_are_in_natural_order() {
        let labels = label(&ClassOrder::Found, &["b10", "a", "b9", "b10"]).expect("labels");
        assert_eq!(*labels.classes, ["a", "b9", "b10"].map(String::from));
        assert_eq!(labels.kept(), (vec![0, 1, 2, 3], vec![2, 0, 1, 2]));
        assert_eq!(labels.kept_by_class(), (vec![1, 2, 0, 3], vec![0, 1, 2, 2]));
    }

    #[test]
    fn classes_absent_from_the_map_are_ignored() {
        let map = ClassOrder::Map(["z", "a"].map(String::from).into());
        let labels = label(&map, &["a", "b", "a"]).expect("labels");
        assert_eq!(labels.kept(), (vec![0, 2], vec![1, 1]));
        let error = label(&map, &["b"]).expect_err("no class in common").to_string();
        assert!(error.contains("none of its 1 class ") && error.contains("--class-map"), "{error}");
    }

    #[test]
    fn class_that_is_not_trained_is_rejected() {
        let training = ClassOrder::Training(["a", "b"].map(String::from).into());
        assert_eq!(label(&training, &["b"]).expect("labels").kept().1, [1]);
        let error = label(&training, &["b", "c"]).expect_err("c is new").to_string();
        assert!(error.contains("no class \"c\""), "{error}");
        let error = label(&training, &["d", "b", "c"]).expect_err("two are new").to_string();
        assert!(error.contains("no classes \"d\", \"c\""), "{error}");
    }

    #[test]
    fn class_map_lines_are_checked() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("map.txt");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("writes");
            read_class_map(&path).map_err(|e| e.to_string())
        };
        assert_eq!(*read(b"cat\r\n dog \n\n").expect("reads"), ["cat", "dog"].map(String::from));
        assert_eq!(*read("\u{feff}cat\ndog\n".as_bytes()).expect("reads"), ["cat", "dog"].map(String::from));
        for (bytes, expected) in [
            (&b"a\n\nb"[..], "line 2 is empty"),
            (b"a\nb\na\n", "\"a\" is in lines 1 and 3"),
            (b"", "it is empty"),
            (b"\xff\xfe", "not UTF-8"),
        ] {
            assert!(read(bytes).expect_err(expected).contains(expected));
        }
    }
}
