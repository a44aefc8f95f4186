//! The layers of the engine: which modules import which.
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Modules of the crate, and modules that they do not import.
const FORBIDDEN: [(&str, &[&str]); 7] = [
    ("cpu", &["op", "ops", "fuse", "tensor", "cuda"]),
    ("cuda", &["op", "ops", "fuse", "cpu"]),
    ("fuse", &["cpu", "cuda", "op", "ops"]),
    ("scalar", &["cpu", "cuda", "fuse", "op", "ops", "tensor"]),
    ("dtype", &["cpu", "cuda"]),
    ("error", &["cpu", "cuda"]),
    ("device", &["cpu", "cuda"]),
];

#[test]
fn modules_import_lower_layers_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let reexports = reexports(&fs::read_to_string(src.join("lib.rs")).expect("the crate's root"));
    let mut found = BTreeSet::new();
    for path in rust_files(&src) {
        let file = path.strip_prefix(&src).expect("inside").to_str().expect("UTF-8").replace('\\', "/");
        let module = file.split(['/', '.']).next().expect("a name");
        let Some((_, forbidden)) = FORBIDDEN.iter().find(|(name, _)| *name == module) else { continue };
        for name in crate_paths(&fs::read_to_string(&path).expect("a source")) {
            let target = reexports.get(&name).unwrap_or(&name);
            if forbidden.contains(&target.as_str()) {
                found.insert((file.clone(), target.clone()));
            }
        }
    }
    assert!(found.is_empty(), "these files import a module of a higher layer: {found:?}");
}

#[test]
fn crate_paths_are_found_in_imports_and_in_code() {
    let text = "use crate::cuda::{self, Gpu};\nuse crate::{Tensor, fuse::Value};\n// crate::cpu\nlet x = crate::ops::pack();\n\
                #[cfg(test)]\nmod tests { use crate::op::apply; }\n";
    let names: Vec<String> = ["Tensor", "cuda", "fuse", "ops"].map(String::from).into();
    assert_eq!(crate_paths(text).into_iter().collect::<Vec<_>>(), names);
    let reexports = reexports("pub use tensor::Tensor;\npub use ops::{BatchNorm, pack};\n");
    assert_eq!(reexports["Tensor"], "tensor");
    assert_eq!(reexports["pack"], "ops");
}

/// The module of each name that the crate's root re-exports.
fn reexports(root: &str) -> BTreeMap<String, String> {
    let mut modules = BTreeMap::new();
    for statement in root.split(';').filter_map(|part| part.trim().rsplit("pub use ").next()) {
        let Some((module, names)) = statement.split_once("::") else { continue };
        let names = names.rsplit("::").next().unwrap_or(names);
        for name in names.split([',', '{', '}']).map(str::trim).filter(|name| !name.is_empty()) {
            let name = name.rsplit(" as ").next().unwrap_or(name);
            modules.insert(name.to_string(), module.to_string());
        }
    }
    modules
}

/// First names after `crate::` in the code of a file, without comments and unit tests.
fn crate_paths(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or(text);
    let code: String = code.lines().map(|line| line.split("//").next().unwrap_or(line)).collect();
    let mut names = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let list = rest.strip_prefix('{').map_or(vec![rest], top_level_items);
        let name = |item: &str| -> String {
            item.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        };
        names.extend(list.into_iter().map(name).filter(|name| !name.is_empty()));
    }
    names
}

/// The items of a list in braces, whose opening brace is cut off.
fn top_level_items(list: &str) -> Vec<&str> {
    let (mut items, mut depth, mut start) = (vec![], 0, 0);
    for (i, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&list[start..i]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&list[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    items
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = vec![];
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files
}
