//! Training on a dataset of one's own: images are drawn when they are read, horizontal or vertical stripes.
//!
//! ```sh
//! cargo run --release --example custom_dataset
//! ```
use fornax::config::Config;
use fornax::data::{Dataset, DatasetSplits, Image, SampleImage};
use fornax::experiment::{Experiment, RunData};
use fornax::settings::Settings;
use std::sync::Arc;

/// Images of stripes whose width depends on the index.
struct Stripes {
    samples: usize,
    classes: Vec<String>,
    /// Distinguishes the splits.
    first: usize,
}

const SIZE: usize = 16;

impl Dataset for Stripes {
    fn len(&self) -> usize {
        self.samples
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn target(&self, index: usize) -> u32 {
        (index % 2) as u32
    }

    fn image(&self, index: usize) -> fornax::Result<SampleImage<'_>> {
        let number = self.first + index;
        let width = 1 + number / 2 % 4;
        let pixel = |i: usize| {
            let along = if index.is_multiple_of(2) { i / SIZE } else { i % SIZE };
            if ((along + number) / width).is_multiple_of(2) { 220 } else { 30 }
        };
        let pixels = (0..SIZE * SIZE).map(pixel).collect();
        Ok(SampleImage::Decoded(Image { size: [SIZE, SIZE, 1], pixels }))
    }

    fn location(&self, index: usize) -> String {
        format!("stripes {}", self.first + index)
    }

    fn crc32c(&self) -> u32 {
        (self.first * 1_000_003 + self.samples) as u32
    }
}

/// Trains for some epochs and returns the top-1 accuracy in percent.
pub fn train(epochs: u32) -> fornax::Result<f64> {
    let classes = vec!["horizontal".to_string(), "vertical".to_string()];
    let split = |first, samples| Arc::new(Stripes { samples, classes: classes.clone(), first });
    let splits = DatasetSplits {
        name: "stripes".into(),
        train: split(0, 512),
        validation: Some(split(512, 128)),
        classes: classes.clone(),
        statistics: None,
        image_size: Some([SIZE, SIZE, 1]),
        notes: vec![],
    };
    let settings = Settings {
        model: Some("resnet8".into()),
        epochs: Some(epochs),
        batch_size: Some(64),
        warmup_epochs: Some(0),
        lr: Some(0.05),
        // A flip would not change the class, but a rotation would.
        no_aug: Some(true),
        ..Settings::default()
    };
    let mut config = Config::resolve(&settings)?;
    let data = RunData::new(&mut config, splits)?;
    let mut experiment = Experiment::new(config);
    experiment.data = Some(data);
    Ok(experiment.run()?.evaluation.top1)
}

fn main() -> fornax::Result<()> {
    println!("top-1 {:.2}%", train(3)?);
    Ok(())
}
