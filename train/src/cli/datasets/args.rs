//! Dataset flags.
use crate::data::{ClipSampling, DatasetOptions};
use crate::{Error, Result};
use std::path::PathBuf;

/// Arguments that choose a dataset.
#[derive(clap::Args)]
pub struct DatasetArgs {
    /// Folder, tar archive or CSV list; or the name of a dataset that needs no files
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Dataset or format; `fornax datasets list` lists them [default: found from the files]
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    /// Folder, tar archive or CSV list
    #[arg(long, value_name = "DIR", conflicts_with = "dir")]
    data_dir: Option<PathBuf>,
    /// Name of the training split [default: train]
    #[arg(long, value_name = "NAME")]
    train_split: Option<String>,
    /// Name of the validation split; '' for none [default: validation, if there is one]
    #[arg(long, value_name = "NAME")]
    val_split: Option<String>,
    /// File of class names, one per line, in the order of the class indices; other classes are ignored
    #[arg(long, value_name = "FILE")]
    class_map: Option<PathBuf>,
    /// Column of the paths in a CSV list, or extensions of the images in a folder, such as .png;.jpg
    #[arg(long, value_name = "NAME")]
    input_key: Option<String>,
    /// Column of the labels in a CSV list
    #[arg(long, value_name = "NAME")]
    target_key: Option<String>,
    /// Fraction of the training split that is held out for validation
    #[arg(long, value_name = "P")]
    val_fraction: Option<f64>,
    /// Channels that image files are decoded to: 1 (grey) or 3 (RGB) [default: 3]
    #[arg(long, value_name = "C")]
    in_chans: Option<usize>,
    /// Frames per clip, for videos as folders of frames: class/video/frame.jpg
    #[arg(long, value_name = "T")]
    clip_len: Option<usize>,
    /// Choice of the frames of a clip
    #[arg(long, value_name = "HOW", default_value = "sparse")]
    clip_sampling: ClipSampling,
}

impl DatasetArgs {
    /// Dataset options of the arguments.
    pub fn options(&self) -> Result<DatasetOptions> {
        let mut name = self.dataset.clone();
        let mut root = self.data_dir.clone().or_else(|| self.dir.clone());
        // `info digits`: a name in place of a folder.
        let named = self.dir.as_ref().filter(|dir| !dir.exists()).and_then(|dir| dir.to_str());
        if let Some(info) = named.and_then(crate::data::find).filter(|_| name.is_none()) {
            name = Some(info.name.into());
            root = None;
        }
        if root.is_none() && name.is_none() {
            return Err(Error::usage("no dataset is given").remedy(
                "pass its folder, or a name with --dataset; `fornax datasets list` lists the names",
            ));
        }
        Ok(DatasetOptions {
            name,
            root,
            train_split: self.train_split.clone(),
            val_split: self.val_split.clone(),
            class_map: self.class_map.clone(),
            input_key: self.input_key.clone(),
            target_key: self.target_key.clone(),
            val_fraction: self.val_fraction,
            channels: self.in_chans,
            clip_len: self.clip_len,
            clip_sampling: self.clip_sampling,
            ..DatasetOptions::default()
        })
    }

    /// Channels that image files are decoded to.
    pub fn channels(&self) -> usize {
        self.in_chans.unwrap_or(3)
    }
}
