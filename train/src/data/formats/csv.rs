//! CSV lists: a path and a label per line, and optionally a split.
use super::folder::{dropped_note, no_images};
use crate::data::decode::EXTENSIONS;
use crate::data::files::{FileDataset, files_with_extension};
use crate::data::labels::ClassOrder;
use crate::data::paths::{PathList, has_extension};
use crate::data::split_names::{Spelling, SplitName};
use crate::error::ErrorKind;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// Rows of a CSV list.
#[derive(Debug, Default)]
struct CsvList {
    paths: PathList,
    labels: PathList,
    /// Split of each row; empty without a third column.
    splits: PathList,
}

/// Names of the columns of a CSV list with a header; `None` for the usual names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CsvColumns {
    /// Column of the paths.
    pub input: Option<String>,
    /// Column of the labels.
    pub target: Option<String>,
}

/// Opens the rows of a CSV list that belong to a split; without a split column all rows do. Paths are relative to the list's folder.
/// Returns `None` if the list has a split column without this split, and notes about rows that are ignored.
pub fn open(
    path: &Path,
    split: Option<&SplitName>,
    order: &ClassOrder,
    columns: &CsvColumns,
) -> Result<Option<(FileDataset, Vec<String>)>> {
    let list = read(path, columns)?;
    if list.paths.is_empty() {
        return Err(no_images(path, "the list has no rows"));
    }
    let rows: Vec<usize> = match split {
        Some(split) if !list.splits.is_empty() => {
            let found =
                split.find(|name, spelling| list.splits.iter().find(|split| spelling.same(split, name)));
            let Some(name) = found else { return Ok(None) };
            let belongs = |row: &usize| list.splits.get(*row).eq_ignore_ascii_case(name);
            (0..list.paths.len()).filter(belongs).collect()
        }
        // All rows would mix the splits.
        None if !list.splits.is_empty() => return Err(no_training_split(path, &list)),
        _ => (0..list.paths.len()).collect(),
    };
    let labels = order.label(rows.iter().map(|row| list.labels.get(*row)), path)?;
    let (kept, targets) = labels.kept();
    let kept: Vec<usize> = kept.into_iter().map(|i| rows[i]).collect();
    let notes = dropped_note(rows.len() - kept.len()).into_iter().collect();
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok(Some((FileDataset::new(folder, list.paths.select(&kept), targets, labels.classes), notes)))
}

/// The error of a list with a split column, but without the training split.
fn no_training_split(path: &Path, list: &CsvList) -> Error {
    let mut found: Vec<&str> = list.splits.iter().collect();
    found.sort_unstable();
    found.dedup();
    let shown: Vec<String> = found.iter().take(10).map(|split| format!("{split:?}")).collect();
    let more = if found.len() > 10 { ", ..." } else { "" };
    Error::data("the list has no training split")
        .at_path(path)
        .because(format!("its column of splits has the values {}{more}", shown.join(", ")))
        .remedy("name the training split with --train-split, or remove the column")
}

/// The list of a split: the root itself, `<split>.csv` in it, or its only CSV file; `None` if the split has no list.
pub fn csv_of_split(root: &Path, split: Option<&SplitName>, columns: &CsvColumns) -> Result<Option<PathBuf>> {
    if !root.is_dir() {
        // One list without a split column is the training split.
        let whole = split.is_none_or(|split| split.candidates().contains(&"train"));
        return Ok((whole || has_splits(root, columns)?).then(|| root.to_path_buf()));
    }
    let lists = csv_files(root)?;
    let named = |name: &str, spelling: Spelling| {
        let stem = |path: &PathBuf| path.file_stem().and_then(|stem| stem.to_str()).map(String::from);
        lists.iter().find(|path| stem(path).is_some_and(|stem| spelling.same(&stem, name))).cloned()
    };
    if let Some(list) = split.and_then(|split| split.find(named)) {
        return Ok(Some(list));
    }
    match (&lists[..], split) {
        ([only], _) => csv_of_split(only, split, columns),
        (_, Some(_)) => Ok(None),
        ([], None) => Err(no_images(root, "no file in it ends in .csv")),
        (_, None) => Err(Error::data("the folder has several CSV lists")
            .at_path(root)
            .because("none of them is named train.csv")
            .remedy("pass the list itself with --data-dir, or name the lists train.csv and val.csv")),
    }
}

/// True if there is a list of a split, or its name is in the column of splits.
pub fn has_split(root: &Path, split: &SplitName, columns: &CsvColumns) -> Result<bool> {
    let Some(path) = csv_of_split(root, Some(split), columns)? else { return Ok(false) };
    let list = read(&path, columns)?;
    let named = |name: &str, spelling: Spelling| list.splits.iter().find(|split| spelling.same(split, name));
    Ok(list.splits.is_empty() || split.find(named).is_some())
}

/// CSV files directly in a folder.
pub fn csv_files(folder: &Path) -> Result<Vec<PathBuf>> {
    files_with_extension(folder, "csv")
}

/// True if a CSV list assigns its rows to splits.
fn has_splits(path: &Path, columns: &CsvColumns) -> Result<bool> {
    Ok(!read(path, columns)?.splits.is_empty())
}

fn read(path: &Path, columns: &CsvColumns) -> Result<CsvList> {
    let what = "the list cannot be read";
    let bytes = std::fs::read(path).map_err(|e| Error::unreadable(ErrorKind::Data, what, path, &e))?;
    let fail = |line: usize, why: String| {
        Error::data(what)
            .at(format!("{}, line {line}", path.display()))
            .because(why)
            .remedy(
                "pass lines of the form path,label or path,label,split, or name the columns of a header with --input-key and \
                 --target-key",
            )
    };
    let text = String::from_utf8(bytes).map_err(|e| {
        let line = e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
        fail(line + 1, "it is not UTF-8".into())
    })?;
    parse(text.trim_start_matches('\u{feff}'), columns).map_err(|(line, why)| fail(line, why))
}

/// Parses a list; an error has the number of the line and the reason.
fn parse(text: &str, names: &CsvColumns) -> std::result::Result<CsvList, (usize, String)> {
    let mut list = CsvList::default();
    let mut columns = [0, 1, 2];
    let mut width = None;
    // Line and fields of the first row without an image's extension, which may be a header.
    let mut first_row = None;
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let fields = fields(line).map_err(|why| (number + 1, why))?;
        let expected = match width {
            Some(expected) => expected,
            None => {
                width = Some(fields.len());
                if let Some(header) = header(&fields, names).map_err(|why| (number + 1, why))? {
                    columns = header;
                    continue;
                }
                let is_image = |field: &String| has_extension(field.trim(), &EXTENSIONS);
                if !fields.iter().any(is_image) {
                    first_row = Some((number + 1, fields.join(", ")));
                }
                fields.len()
            }
        };
        if fields.len() != expected || expected < 2 {
            let why = format!("it has {} fields; {} are expected", fields.len(), expected.max(2));
            return Err((number + 1, why));
        }
        let field = |column: usize| fields.get(column).map(|field| field.trim());
        let (path, label) = (field(columns[0]).unwrap_or(""), field(columns[1]).unwrap_or(""));
        if path.is_empty() || label.is_empty() {
            return Err((number + 1, "the path or the label is empty".into()));
        }
        if field(columns[2]) == Some("") {
            return Err((number + 1, "the split is empty".into()));
        }
        list.paths.push(path);
        list.labels.push(label);
        if let Some(split) = field(columns[2]) {
            list.splits.push(split);
        }
    }
    match first_row {
        // Other rows are images by their names.
        Some((line, columns)) if list.paths.iter().any(|path| has_extension(path, &EXTENSIONS)) => {
            Err((line, format!("it seems to be a header, but its columns have unknown names: {columns}")))
        }
        _ => Ok(list),
    }
}

/// Columns of path, label and split, if the first line names them. Errors if a requested column is missing.
fn header(fields: &[String], names: &CsvColumns) -> std::result::Result<Option<[usize; 3]>, String> {
    let column = |requested: &Option<String>, usual: &[&str]| match requested {
        Some(name) => match fields.iter().position(|field| field.trim() == name) {
            Some(column) => Ok(Some(column)),
            None => Err(format!("there is no column {name:?}; the columns are {}", fields.join(", "))),
        },
        None => Ok(fields.iter().position(|field| usual.contains(&field.trim().to_lowercase().as_str()))),
    };
    let path = column(&names.input, &["path", "file", "filename", "file_name", "image", "image_path"])?;
    let label = column(&names.target, &["label", "class", "class_name", "target"])?;
    let split = column(&None, &["split", "subset"])?.unwrap_or(usize::MAX);
    let missing = if path.is_none() { "paths" } else { "labels" };
    if (names.input.is_some() || names.target.is_some()) && (path.is_none() || label.is_none()) {
        return Err(format!("there is no column of {missing}; the columns are {}", fields.join(", ")));
    }
    Ok(path.zip(label).map(|(path, label)| [path, label, split]))
}

/// Fields of a line, separated by commas; a field in double quotes may contain commas and doubled quotes.
fn fields(line: &str) -> std::result::Result<Vec<String>, String> {
    let mut fields = vec![];
    let mut rest = line;
    loop {
        let mut field = String::new();
        if let Some(mut quoted) = rest.strip_prefix('"') {
            loop {
                let end = quoted.find('"').ok_or("a quotation mark is not closed")?;
                field += &quoted[..end];
                quoted = &quoted[end + 1..];
                match quoted.strip_prefix('"') {
                    Some(after) => {
                        field.push('"');
                        quoted = after;
                    }
                    None => break,
                }
            }
            rest = quoted;
            if !rest.is_empty() && !rest.starts_with(',') {
                return Err("there is text after a closing quotation mark".into());
            }
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            field += &rest[..end];
            rest = &rest[end..];
        }
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None => return Ok(fields),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dataset;

    fn rows(text: &str) -> std::result::Result<Vec<[String; 2]>, (usize, String)> {
        let list = parse(text, &CsvColumns::default())?;
        Ok(list.paths.iter().zip(list.labels.iter()).map(|(p, l)| [p.to_string(), l.to_string()]).collect())
    }

    #[test]
    fn rows_are_read_with_and_without_header() {
        let expected = vec![["a.png".to_string(), "cat".into()], ["b, c.png".into(), "the \"dog\"".into()]];
        let body = "a.png,cat\r\n\n\"b, c.png\",\"the \"\"dog\"\"\"\n";
        assert_eq!(rows(body).expect("reads"), expected);
        assert_eq!(rows(&format!("path,label\n{body}")).expect("reads"), expected);
        assert_eq!(rows("Label,id,File\ncat,1,a.png\n").expect("reads"), expected[..1]);
        let list = parse("image,class,split\na,b,train\nc,d,val\n", &CsvColumns::default()).expect("reads");
        assert_eq!(list.splits.iter().collect::<Vec<_>>(), ["train", "val"]);
        assert_eq!(parse("a,b,train\n", &CsvColumns::default()).expect("reads").splits.len(), 1);
    }

    #[test]
    fn columns_are_found_by_their_names() {
        let columns = CsvColumns { input: Some("photo".into()), target: Some("species".into()) };
        let list = parse("id,species,photo\n1,cat,a.png\n", &columns).expect("reads");
        assert_eq!((list.paths.get(0), list.labels.get(0)), ("a.png", "cat"));
        let (line, why) = parse("path,label\na.png,cat\n", &columns).expect_err("no such column");
        assert!(line == 1 && why.contains("\"photo\"; the columns are path, label"), "{why}");
    }

    #[test]
    fn header_with_unknown_names_is_rejected() {
        let (line, why) = rows("\nid,breed\na.png,cat\n").expect_err("a header");
        assert!(line == 2 && why.contains("a header") && why.contains("id, breed"), "{why}");
        assert_eq!(rows("id,breed\nb,cat\n").expect("files without extensions").len(), 2);
        let given = CsvColumns { input: Some("id".into()), target: None };
        let (_, why) = parse("id,breed\na.png,cat\n", &given).expect_err("no labels");
        assert!(why.contains("no column of labels; the columns are id, breed"), "{why}");
        let given = CsvColumns { target: Some("breed".into()), ..given };
        assert_eq!(parse("id,breed\na.png,cat\n", &given).expect("reads").labels.get(0), "cat");
    }

    #[test]
    fn split_column_is_matched_in_any_case_and_never_ignored() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("list.csv");
        let open = |text: &str, split: Option<&str>| {
            std::fs::write(&path, text).expect("writes");
            let split = split.map(SplitName::new);
            let opened = super::open(&path, split.as_ref(), &ClassOrder::Found, &CsvColumns::default());
            opened.map(|opened| opened.map(|(dataset, _)| dataset.len())).map_err(|e| e.to_string())
        };
        let text = "path,label,split\na.png,cat,Train\nb.png,dog,TRAIN\nc.png,cat,Test\n";
        assert_eq!(open(text, Some("train")), Ok(Some(2)));
        assert_eq!(open(text, Some("validation")), Ok(None));
        let why = open("path,label,split\na.png,cat,fit\nb.png,cat,hold\n", None).expect_err("no split");
        assert!(why.contains("\"fit\", \"hold\"") && why.contains("--train-split"), "{why}");
        let why = open("path,label,split\na.png,cat,train\nb.png,dog,\n", None).expect_err("no split");
        assert!(why.contains("line 3") && why.contains("the split is empty"), "{why}");
    }

    #[test]
    fn invalid_rows_are_rejected_with_their_line() {
        for (text, line, expected) in [
            ("a,b\nc\n", 2, "1 fields; 2 are expected"),
            ("a\n", 1, "1 fields"),
            ("a,b\n,c\n", 2, "empty"),
            ("\"a,b\n", 1, "not closed"),
            ("\"a\"x,b\n", 1, "after a closing"),
        ] {
            let (at, why) = rows(text).expect_err(expected);
            assert!(at == line && why.contains(expected), "{at} {why}");
        }
    }
}
