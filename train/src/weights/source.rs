//! Where weights come from, as a user names it.
use crate::error::Kind;
use crate::hub::{self, Hub};
use crate::{Error, Result};
use fornax_nn::models::{self, ModelInfo};
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The file that a folder or a repository of the hub holds weights in.
const FILE: &str = "model.safetensors";
const HUB: &str = "hf-hub:";

/// A file, a folder, or a repository of the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, or a folder with `model.safetensors` or one safetensors file of another name.
    Path(PathBuf),
    /// A repository: `hf-hub:ORGANISATION/NAME`, perhaps with `@REVISION`.
    Hub(hub::Repository),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Source, String> {
        match text.strip_prefix(HUB) {
            Some(repository) => Ok(Source::Hub(repository.parse()?)),
            None if text.is_empty() => Err("must name a file, a folder, or hf-hub:ORGANISATION/NAME".into()),
            None => Ok(Source::Path(text.into())),
        }
    }
}

impl Source {
    /// The weights that a model's authors published.
    pub fn published(info: &ModelInfo) -> Result<Source> {
        let id = info.hub_id().ok_or_else(|| {
            Error::usage(format!("there are no published weights of {}", info.name))
                .remedy("name weights of your own")
        })?;
        format!("{HUB}{id}").parse().map_err(|why: String| Error::new(Kind::Bug, why))
    }

    /// The file, fetched first if it is the hub's and not in the cache.
    pub fn resolve(&self, hub: &Hub) -> Result<PathBuf> {
        match self {
            Source::Path(path) if path.is_dir() => in_folder(path),
            Source::Path(path) if path.exists() => Ok(path.clone()),
            Source::Path(path) => match of_model(path) {
                Some(source) => source?.resolve(hub),
                None => Err(Error::checkpoint("there are no such weights")
                    .at_path(path)
                    .because("there is neither a file nor a folder of that name")
                    .remedy("name a safetensors file, a folder that holds one, or hf-hub:ORGANISATION/NAME")),
            },
            Source::Hub(repository) => hub.file(repository, FILE),
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Path(path) => path.display().fmt(f),
            Source::Hub(repository) => write!(f, "{HUB}{repository}"),
        }
    }
}

/// The published weights that a model's name stands for, as `resnet18`, or with one of their tags, as `resnet18.a2_in1k`.
fn of_model(name: &Path) -> Option<Result<Source>> {
    let name = name.to_str()?;
    let (model, tag) = name.split_once('.').map_or((name, None), |(model, tag)| (model, Some(tag)));
    let info = models::find_model(model).ok()?;
    Some(match tag {
        Some(_) => format!("{HUB}timm/{name}").parse().map_err(Error::usage),
        None => Source::published(info),
    })
}

fn in_folder(folder: &Path) -> Result<PathBuf> {
    let preferred = folder.join(FILE);
    if preferred.exists() {
        return Ok(preferred);
    }
    let fail = |why: String| {
        Error::checkpoint("the folder does not say which weights are meant")
            .at_path(folder)
            .because(why)
            .remedy("name the file itself")
    };
    let entries = fs::read_dir(folder).map_err(|e| fail(e.to_string()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|e| e == "safetensors")).collect();
    files.sort();
    match files.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(fail("it holds no safetensors file".into())),
        many => {
            let names: Vec<_> = many.iter().filter_map(|p| Some(p.file_name()?.to_string_lossy())).collect();
            Err(fail(format!("it holds {}: {}", many.len(), names.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_where_weights_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let hub = Hub { cache: folder.path().join("hub"), offline: true, ..Hub::new(|_| None) };
        let resolve = |text: &str| text.parse::<Source>().expect("a source").resolve(&hub);
        let named = |name: &str| folder.path().join(name).display().to_string();
        let message = |text: &str| resolve(text).expect_err(text).to_string();

        assert!(message(&named("none")).contains("neither a file nor a folder"));
        assert!(message(&named("")).contains("no safetensors file"));
        std::fs::write(named("b.safetensors"), "").expect("writes");
        assert_eq!(resolve(&named("")).expect("one"), folder.path().join("b.safetensors"));
        std::fs::write(named("a.safetensors"), "").expect("writes");
        assert!(message(&named("")).contains("it holds 2: a.safetensors, b.safetensors"));
        std::fs::write(named(FILE), "").expect("writes");
        assert_eq!(resolve(&named("")).expect("preferred"), folder.path().join(FILE));

        for (text, repository) in [
            ("hf-hub:me/mine@v1", "me/mine@v1"),
            ("resnet18", "timm/resnet18.a1_in1k"),
            ("resnet18.a2_in1k", "timm/resnet18.a2_in1k"),
        ] {
            assert!(message(text).contains(&format!("{FILE} of {repository} is not in the cache")), "{text}");
        }
        assert!(message("resnet8").contains("no published weights"));
        assert!("hf-hub:mine".parse::<Source>().is_err() && "".parse::<Source>().is_err());
        assert_eq!("hf-hub:me/mine".parse::<Source>().expect("a source").to_string(), "hf-hub:me/mine");
    }
}
