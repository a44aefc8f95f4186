//! Mosaics in `samples/`: augmented training images, and validation images with label and prediction.
mod batch;
mod grid;
mod tiles;

pub use batch::{batch_images, class_name, training_samples};
pub use grid::{CaptionNote, CaptionTone, CaptionedImage, full_size_grid, image_grid};
pub use tiles::{read_tiles, tiles_json};

use super::ConfusionCounts;
use super::files::{RateLimit, replace};
use crate::Result;
use crate::callbacks::{BatchBegin, Callback, EpochEnd, TrainEnd};
use crate::data::Image;
use crate::data::export::fast_png_bytes;
use crate::loader::{BatchPreparation, Loader};
use crate::trainer::Evaluation;
use rayon::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};

/// Callback that writes mosaics into a folder: `train.png`, the first images of the first update; `train-UPDATE.png` at an interval, if
/// there is one; `validation.png` and `confused-N.png`, images of the N-th most confused pair of classes in the best epoch, within a
/// twentieth of the time and at the end.
pub struct SampleWriter {
    folder: PathBuf,
    classes: Vec<String>,
    preparation: BatchPreparation,
    validation: Loader,
    save_interval: Option<u64>,
    /// Epoch and evaluation of the best epoch, whose images are not written yet.
    pending: Option<(u32, Evaluation)>,
    limit: RateLimit,
}

/// Images of a mosaic.
const IMAGES: usize = 64;
const COLUMNS: usize = 8;
/// Most confident mistakes that are shown.
const MISTAKES: usize = 24;
const MISTAKE_COLUMNS: usize = 6;
/// Images of a confused pair.
const PAIR_IMAGES: usize = 6;
/// Number of confused pairs with images.
pub const CONFUSED_PAIRS: usize = 12;

impl SampleWriter {
    /// Creates the callback. `save_interval` is the number of updates between mosaics of training batches.
    pub fn new(
        folder: &Path,
        classes: &[String],
        preparation: BatchPreparation,
        validation: Loader,
        save_interval: Option<u64>,
    ) -> SampleWriter {
        SampleWriter {
            folder: folder.into(),
            classes: classes.into(),
            preparation,
            validation,
            save_interval,
            pending: None,
            limit: RateLimit::default(),
        }
    }

    /// Writes a mosaic, and its tiles with their captions for the page.
    fn write(&self, name: &str, images: &[CaptionedImage], columns: usize) -> Result<()> {
        let grid = image_grid(images, columns, &self.classes);
        let path = self.folder.join(name);
        replace(&path, &fast_png_bytes(&grid.mosaic))?;
        replace(&path.with_extension("json"), tiles_json(&grid, images).as_bytes())
    }

    fn write_mosaic(&self, mosaic: &Mosaic, evaluation: &Evaluation) -> Result<()> {
        if mosaic.indices.is_empty() {
            self.remove(&mosaic.name);
            return Ok(());
        }
        let images = self.predicted(&mosaic.indices, evaluation, mosaic.with_confidence)?;
        self.write(&mosaic.name, &images, mosaic.columns)
    }

    /// Removes a mosaic of an earlier epoch, if there is one.
    fn remove(&self, name: &str) {
        let mosaic = self.folder.join(name);
        fs::remove_file(&mosaic).and_then(|()| fs::remove_file(mosaic.with_extension("json"))).ok();
    }

    /// Writes the images of the best epoch, unless they are written.
    fn write_pending(&mut self) -> Result<()> {
        let Some((epoch, evaluation)) = self.pending.take() else { return Ok(()) };
        let Evaluation { top1, targets, predictions, .. } = &evaluation;
        let counts = ConfusionCounts::new(epoch, *top1, &self.classes, targets, predictions);
        let mut limit = self.limit;
        let written = limit.measure(|| {
            let mosaics = mosaics(&counts, &evaluation);
            mosaics.par_iter().try_for_each(|mosaic| self.write_mosaic(mosaic, &evaluation))
        });
        self.limit = limit;
        written
    }

    /// Images with label and prediction, with its probability if `with_confidence`.
    fn predicted(
        &self,
        indices: &[usize],
        evaluation: &Evaluation,
        with_confidence: bool,
    ) -> Result<Vec<CaptionedImage>> {
        let white = u32::from(self.preparation.statistics.white);
        let load = |index: &usize| {
            let Some(image) = self.validation.image(evaluation.dataset_index(*index))? else {
                return Ok(None);
            };
            let bright = |value: &u8| (u32::from(*value) * 255 / white).min(255) as u8;
            let image = Image { size: image.size, pixels: image.pixels.iter().map(bright).collect() };
            let (target, predicted) = (evaluation.targets[*index], evaluation.predictions[*index]);
            let tone = if target == predicted { CaptionTone::Correct } else { CaptionTone::Wrong };
            let name = class_name(&self.classes, predicted as usize);
            let text = match with_confidence {
                true => format!("{:.0}% {name}", 100.0 * evaluation.confidences[*index]),
                false => name,
            };
            let note = CaptionNote { text, tone };
            let label = class_name(&self.classes, target as usize);
            Ok(Some(CaptionedImage { image, label, note: Some(note) }))
        };
        indices.par_iter().map(load).filter_map(Result::transpose).collect()
    }
}

/// Validation images of a mosaic.
struct Mosaic {
    name: String,
    /// Positions in the evaluation.
    indices: Vec<usize>,
    columns: usize,
    with_confidence: bool,
}

/// Mosaics of an evaluation; one without images is not written, and removed if an earlier epoch had it.
fn mosaics(counts: &ConfusionCounts, evaluation: &Evaluation) -> Vec<Mosaic> {
    let mut mosaics = vec![evenly_spaced(evaluation), mistakes(evaluation)];
    let pairs = counts.confused_pairs(CONFUSED_PAIRS);
    mosaics.extend((0..CONFUSED_PAIRS).map(|i| {
        let indices = pairs.get(i).map_or(vec![], |pair| {
            let predictions = evaluation.targets.iter().zip(&evaluation.predictions);
            let of_pair = predictions.enumerate().filter(|(_, it)| *it == (&pair.target, &pair.predicted));
            of_pair.map(|(index, _)| index).take(PAIR_IMAGES).collect()
        });
        Mosaic { name: confused_name(i), indices, columns: PAIR_IMAGES, with_confidence: false }
    }));
    mosaics
}

/// Validation images, evenly spaced over the dataset.
fn evenly_spaced(evaluation: &Evaluation) -> Mosaic {
    let len = evaluation.predictions.len();
    let count = IMAGES.min(len);
    let indices = (0..count).map(|i| i * len / count).collect();
    Mosaic { name: "validation.png".into(), indices, columns: COLUMNS, with_confidence: false }
}

/// The images with wrong predictions of the highest probabilities.
fn mistakes(evaluation: &Evaluation) -> Mosaic {
    let Evaluation { targets, predictions, confidences, .. } = evaluation;
    let mut indices: Vec<usize> = (0..targets.len()).filter(|i| targets[*i] != predictions[*i]).collect();
    indices.sort_by(|a, b| confidences[*b].total_cmp(&confidences[*a]));
    indices.truncate(MISTAKES);
    Mosaic { name: "mistakes.png".into(), indices, columns: MISTAKE_COLUMNS, with_confidence: true }
}

/// File of the images of a confused pair, counted from 0.
pub fn confused_name(pair: usize) -> String {
    format!("confused-{}.png", pair + 1)
}

impl Callback for SampleWriter {
    fn on_batch_begin(&mut self, event: &BatchBegin) -> Result<()> {
        let is_first = event.update == 1;
        let is_saved = self.save_interval.is_some_and(|interval| event.update.is_multiple_of(interval));
        if !is_first && !is_saved {
            return Ok(());
        }
        let samples = training_samples(&event.batches[0], &self.preparation, &self.classes, IMAGES)?;
        if is_first {
            self.write("train.png", &samples, COLUMNS)?;
        }
        if is_saved {
            self.write(&format!("train-{:06}.png", event.update), &samples, COLUMNS)?;
        }
        Ok(())
    }

    fn on_epoch_end(&mut self, event: &EpochEnd) -> Result<()> {
        if let Some(evaluation) = event.evaluation.filter(|_| event.best) {
            self.pending = Some((event.epoch, evaluation.clone()));
        }
        if self.limit.is_due() { self.write_pending() } else { Ok(()) }
    }

    fn on_train_end(&mut self, event: &TrainEnd) -> Result<()> {
        if event.is_in_haste() { Ok(()) } else { self.write_pending() }
    }
}
