//! Paths in the settings of a run, as its files hold them: absolute, so that a run can be used from any folder.
use crate::Error;
use crate::data::class_map_path;
use crate::settings::Settings;
use crate::weights::WeightsSource;
use std::path::{Path, PathBuf, absolute};

/// Settings whose paths are absolute. A name of published weights is no path.
pub fn with_absolute_paths(settings: &Settings) -> Settings {
    let root = settings.data_dir.clone().unwrap_or_default();
    let class_map = settings.class_map.as_ref().map(|path| in_full(&class_map_path(path, &root)));
    Settings {
        data_dir: settings.data_dir.as_deref().map(in_full),
        class_map,
        initial_checkpoint: settings.initial_checkpoint.as_deref().map(in_full),
        pretrained_path: settings.pretrained_path.as_deref().map(|text| match text.parse() {
            Ok(WeightsSource::Path(path)) if path.exists() => in_full(&path).display().to_string(),
            _ => text.to_string(),
        }),
        ..settings.clone()
    }
}

fn in_full(path: &Path) -> PathBuf {
    // A path of another kind, such as an empty one, stays for its own error.
    absolute(path).unwrap_or_else(|_| path.into())
}

/// Error about a dataset that a run's settings name and that does not exist; `None` if it exists. `file` holds the settings; `remedy` is the
/// option or argument with which another path is passed.
pub fn missing_dataset(settings: &Settings, file: &Path, remedy: &str) -> Option<Error> {
    let path = settings.data_dir.as_deref().filter(|path| !path.exists())?;
    let start = if path.is_relative() { ", relative to the folder in which it was started" } else { "" };
    Some(
        Error::data("the dataset of the run is not found")
            .at_path(path)
            .because(format!("it is the run's data_dir{start}, from {}", file.display()))
            .remedy(format!("pass another path: {remedy}; a dataset is compared by its content")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute_and_names_stay() {
        let here = std::env::current_dir().expect("a folder");
        let settings = Settings {
            data_dir: Some("photos".into()),
            class_map: Some("names.txt".into()),
            initial_checkpoint: Some("/a/b.safetensors".into()),
            pretrained_path: Some("hf-hub:timm/resnet18.a1_in1k".into()),
            ..Settings::default()
        };
        let stored = with_absolute_paths(&settings);
        assert_eq!(stored.data_dir, Some(here.join("photos")));
        assert_eq!(stored.class_map, Some(here.join("names.txt")));
        assert_eq!(stored.initial_checkpoint, settings.initial_checkpoint);
        assert_eq!(stored.pretrained_path, settings.pretrained_path);
        assert_eq!(with_absolute_paths(&stored), stored);
        assert_eq!(with_absolute_paths(&Settings::default()), Settings::default());
    }

    #[test]
    fn missing_dataset_is_named_with_the_file_that_names_it() {
        let settings = |path: &str| Settings { data_dir: Some(path.into()), ..Settings::default() };
        let file = Path::new("run/checkpoints/last.safetensors");
        let error =
            missing_dataset(&settings("/nowhere/a"), file, "--data-dir DIR").expect("missing").to_string();
        assert!(
            error.contains("/nowhere/a") && error.contains("run/checkpoints/last.safetensors"),
            "{error}"
        );
        assert!(error.contains("--data-dir DIR") && !error.contains("relative"), "{error}");
        let error = missing_dataset(&settings("nowhere"), file, "DIR").expect("missing").to_string();
        assert!(error.contains("relative to the folder in which it was started"), "{error}");
        assert!(missing_dataset(&settings("/"), file, "DIR").is_none());
    }
}
