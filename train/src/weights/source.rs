//! Sources of weights: a file, a folder, or a repository of the hub.
use crate::error::ErrorKind;
use crate::hub::{self, Hub};
use crate::{Error, Result};
use fornax_nn::models::{self, ModelInfo};
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Default name of the weights file in a folder or a repository.
const WEIGHTS_FILE: &str = "model.safetensors";
/// Weights file of a repository without the former.
const PYTORCH_FILE: &str = "pytorch_model.bin";
/// Best checkpoint in a folder of timm's `train.py`.
const TIMM_BEST: &str = "model_best.pth.tar";
/// Checkpoints of a run folder, by preference.
const RUN_CHECKPOINTS: [&str; 2] = ["best.safetensors", "last.safetensors"];
const HUB: &str = "hf-hub:";

/// Source of weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WeightsSource {
    /// A file; a run folder, for its checkpoint `best`, else `last`; a folder of timm's `train.py`, for its best; or a folder with
    /// `model.safetensors` or one weights file of another name.
    Path(PathBuf),
    /// A repository: `hf-hub:ORGANISATION/NAME`, optionally with `@REVISION`; its `model.safetensors`, else its `pytorch_model.bin`.
    Hub(hub::Repository),
}

impl FromStr for WeightsSource {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<WeightsSource, String> {
        match text.strip_prefix(HUB) {
            Some(repository) => Ok(WeightsSource::Hub(repository.parse()?)),
            None if text.is_empty() => Err("must be a file, a folder, or hf-hub:ORGANISATION/NAME".into()),
            None => Ok(WeightsSource::Path(text.into())),
        }
    }
}

impl WeightsSource {
    /// The published pretrained weights of a model. Errors if there are none.
    pub fn published(info: &ModelInfo) -> Result<WeightsSource> {
        let id = info.hub_id().ok_or_else(|| {
            Error::usage(format!("there are no published weights of {}", info.name))
                .remedy("pass weights of your own, or choose another model")
        })?;
        format!("{HUB}{id}").parse().map_err(|why: String| Error::new(ErrorKind::Bug, why))
    }

    /// True for published weights of timm's models.
    pub fn is_published(&self) -> bool {
        match self {
            WeightsSource::Path(path) => {
                !path.exists() && published_for_name(path).is_some_and(|found| found.is_ok())
            }
            WeightsSource::Hub(repository) => repository.id.starts_with("timm/"),
        }
    }

    /// Path of a local weights file, if the source is a file or folder that exists.
    pub fn resolve_local(&self) -> Option<PathBuf> {
        match self {
            WeightsSource::Path(path) if path.is_dir() => weights_in_folder(path).ok(),
            WeightsSource::Path(path) if path.exists() => Some(path.clone()),
            _ => None,
        }
    }

    /// Path of the weights file; downloads it if it is on the hub and not in the cache.
    pub fn resolve(&self, hub: &Hub) -> Result<PathBuf> {
        match self {
            WeightsSource::Path(path) if path.is_dir() => weights_in_folder(path),
            WeightsSource::Path(path) if path.exists() => Ok(path.clone()),
            WeightsSource::Path(path) => match published_for_name(path) {
                Some(source) => source?.resolve(hub),
                None => Err(Error::checkpoint("the weights do not exist")
                    .at_path(path)
                    .because("no such file or folder")
                    .remedy("check the path, or pass hf-hub:ORGANISATION/NAME")),
            },
            WeightsSource::Hub(repository) => hub.first_file(repository, &[WEIGHTS_FILE, PYTORCH_FILE]),
        }
    }
}

impl std::fmt::Display for WeightsSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WeightsSource::Path(path) => path.display().fmt(f),
            WeightsSource::Hub(repository) => write!(f, "{HUB}{repository}"),
        }
    }
}

/// The published weights for a model name such as `resnet18`, or with a tag such as `resnet18.a2_in1k`.
fn published_for_name(name: &Path) -> Option<Result<WeightsSource>> {
    let name = name.to_str()?;
    let (model, tag) = name.split_once('.').map_or((name, None), |(model, tag)| (model, Some(tag)));
    let info = models::find_model(model).ok()?;
    Some(match tag {
        Some(_) => format!("{HUB}timm/{name}").parse().map_err(Error::usage),
        None => WeightsSource::published(info),
    })
}

fn weights_in_folder(folder: &Path) -> Result<PathBuf> {
    let of_run = RUN_CHECKPOINTS.map(|name| folder.join("checkpoints").join(name));
    if let Some(preferred) = of_run
        .into_iter()
        .chain([WEIGHTS_FILE, TIMM_BEST].map(|name| folder.join(name)))
        .find(|path| path.exists())
    {
        return Ok(preferred);
    }
    let fail = |why: String| {
        Error::checkpoint("the folder does not hold exactly one weights file")
            .at_path(folder)
            .because(why)
            .remedy("pass the path of the file itself")
    };
    let entries = fs::read_dir(folder).map_err(|e| fail(e.to_string()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> = paths.filter(|path| is_weights_file(path)).collect();
    files.sort();
    let is_safetensors = |path: &PathBuf| path.extension().is_some_and(|e| e == "safetensors");
    if files.iter().any(is_safetensors) {
        files.retain(is_safetensors);
    }
    match files.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(fail("it holds no safetensors or PyTorch file".into())),
        many => {
            let names: Vec<_> = many.iter().filter_map(|p| Some(p.file_name()?.to_string_lossy())).collect();
            Err(fail(format!("it holds {}: {}", many.len(), names.join(", "))))
        }
    }
}

/// True for the names of weights files: `.safetensors`, `.pth`, `.pt`, `.pth.tar`, and `.ckpt` of Lightning.
pub fn is_weights_file(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_lowercase();
    [".safetensors", ".pth", ".pt", ".pth.tar", ".ckpt"].iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_resolve_to_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let hub = Hub { cache: folder.path().join("hub"), offline: true, ..Hub::new(|_| None) };
        let resolve = |text: &str| text.parse::<WeightsSource>().expect("a source").resolve(&hub);
        let named = |name: &str| folder.path().join(name).display().to_string();
        let message = |text: &str| resolve(text).expect_err(text).to_string();

        assert!(message(&named("none")).contains("no such file or folder"));
        assert!(message(&named("")).contains("no safetensors or PyTorch file"));
        std::fs::write(named("c.pth.tar"), "").expect("writes");
        assert_eq!(resolve(&named("")).expect("one"), folder.path().join("c.pth.tar"));
        std::fs::write(named("b.safetensors"), "").expect("writes");
        assert_eq!(resolve(&named("")).expect("one"), folder.path().join("b.safetensors"));
        std::fs::write(named("a.safetensors"), "").expect("writes");
        assert!(message(&named("")).contains("it holds 2: a.safetensors, b.safetensors"));
        std::fs::write(named(WEIGHTS_FILE), "").expect("writes");
        assert_eq!(resolve(&named("")).expect("preferred"), folder.path().join(WEIGHTS_FILE));

        for name in ["last.safetensors", "best.safetensors"] {
            std::fs::create_dir_all(named("run/checkpoints")).expect("creates");
            std::fs::write(named(&format!("run/checkpoints/{name}")), "").expect("writes");
            let expected = folder.path().join("run/checkpoints").join(name);
            assert_eq!(resolve(&named("run")).expect("a checkpoint"), expected);
        }

        for (text, repository) in [
            ("hf-hub:me/mine@v1", "me/mine@v1"),
            ("resnet18", "timm/resnet18.a1_in1k"),
            ("resnet18.a2_in1k", "timm/resnet18.a2_in1k"),
        ] {
            assert!(
                message(text).contains(&format!("{WEIGHTS_FILE} of {repository} is not in the cache")),
                "{text}"
            );
        }
        assert!(message("resnet8").contains("no published weights"));
        let is_published = |text: &str| text.parse::<WeightsSource>().expect("a source").is_published();
        assert!(is_published("resnet18") && is_published("hf-hub:timm/resnet18.a1_in1k"));
        assert!(!is_published("resnet8") && !is_published("hf-hub:me/mine") && !is_published(&named("run")));
        assert!("hf-hub:mine".parse::<WeightsSource>().is_err() && "".parse::<WeightsSource>().is_err());
        assert_eq!(
            "hf-hub:me/mine".parse::<WeightsSource>().expect("a source").to_string(),
            "hf-hub:me/mine"
        );
    }
}
