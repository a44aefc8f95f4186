//! Runs on a dataset in memory that take a fraction of a second.
use fornax::config::Config;
use fornax::data::{ChannelStats, DatasetSplits, InMemoryDataset};
use fornax::experiment::{Experiment, RunData};
use fornax::report::Destination;
use fornax::settings::Settings;
use std::path::Path;
use std::sync::Arc;

/// Settings of a run of three epochs of four updates of eight images.
pub fn tiny_settings() -> Settings {
    Settings {
        epochs: Some(3),
        batch_size: Some(8),
        warmup_epochs: Some(0),
        workers: Some(0),
        lr: Some(0.05),
        opt: Some("momentum".parse().expect("an optimizer")),
        ..Settings::default()
    }
}

/// 32 training and 16 validation images of 8x8 pixels in 4 classes, which a model can tell apart.
pub fn tiny_splits() -> DatasetSplits {
    let classes: Vec<String> = ["a", "b", "c", "d"].map(String::from).into();
    let split = |images: u32| {
        let pixel = |i: u32| {
            let (image, at) = (i / 64, i % 64);
            let on = at / 16 == image % 4;
            (if on { 200 } else { 20 } + (i * 7919 % 41)) as u8
        };
        let pixels = (0..images * 64).map(pixel).collect();
        let targets = (0..images).map(|i| i % 4).collect();
        InMemoryDataset::uniform(pixels, [8, 8, 1], targets, classes.clone().into(), "tiny").expect("valid")
    };
    DatasetSplits {
        name: "tiny".into(),
        train: Arc::new(split(32)),
        validation: Some(Arc::new(split(16))),
        classes: classes.clone(),
        statistics: Some(ChannelStats { white: 255, mean: vec![0.3], std: vec![0.3] }),
        image_size: Some([8, 8, 1]),
        notes: vec![],
    }
}

/// A run with these settings on the tiny dataset, without files.
#[allow(dead_code)]
pub fn tiny_run(settings: &Settings) -> Experiment {
    let mut config = Config::resolve(settings).expect("valid settings");
    let data = RunData::new(&mut config, tiny_splits()).expect("a valid dataset");
    let mut experiment = Experiment::new(config);
    experiment.data = Some(data);
    experiment
}

/// A run whose files are in a folder.
#[allow(dead_code)]
pub fn tiny_run_in(folder: &Path, settings: &Settings) -> Experiment {
    let mut experiment = tiny_run(settings);
    experiment.output = Some(Destination::New(folder.into()));
    experiment
}
