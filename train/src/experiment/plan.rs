//! Plan of a run, shown before it starts.
use super::RunData;
use super::disk_space::DiskEstimate;
use crate::config::Config;
use crate::data::SampleImage;
use crate::loader::sampler::Sampler;
use crate::message::count;
use crate::report::{bytes, thousands};
use crate::settings::DefaultSet;
use fornax_engine::Device;
use fornax_nn::{Module, named_parameters};
use serde::Serialize;
use std::fmt;

/// Plan of a run: its data, model and extent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunPlan {
    /// Name or path of the dataset.
    pub dataset: String,
    /// Notes about the dataset.
    pub notes: Vec<String>,
    /// Number of training images.
    pub training_images: usize,
    /// Number of validation images.
    pub validation_images: usize,
    /// Number of classes.
    pub classes: usize,
    /// Height, width and channels of the network's input.
    pub input: [usize; 3],
    /// Name of the model.
    pub model: String,
    /// Number of parameters.
    pub parameters: usize,
    /// Bytes of the parameters with the optimizer's state.
    pub state_bytes: u64,
    /// Source of the initial weights, with a report of their loading.
    pub weights: Option<String>,
    /// Total epochs.
    pub epochs: u32,
    /// Updates per epoch.
    pub updates_per_epoch: usize,
    /// Images of an update, over all ranks.
    pub images_per_update: usize,
    /// Number of ranks.
    pub ranks: usize,
    /// Device of each rank.
    pub device: String,
    /// Half-precision dtype and level of mixed precision.
    pub precision: Option<String>,
    /// Set of default values: Fornax's or timm's.
    pub defaults: DefaultSet,
    /// Space of the checkpoints; `None` if the run writes no files.
    pub disk: Option<DiskEstimate>,
    /// Output folder, if there is one.
    pub output: Option<String>,
}

impl RunPlan {
    /// The plan of a run with these parts, without an output folder.
    pub(super) fn new(
        config: &Config,
        data: &RunData,
        model: &dyn Module,
        device: Device,
        weights: Option<&str>,
    ) -> RunPlan {
        let RunData { splits, input, .. } = data;
        let ([h, w], c) = (input.size, input.channels);
        let parameters: usize = named_parameters(model).iter().map(|(_, tensor)| tensor.numel()).sum();
        let order = Sampler {
            len: splits.train.len(),
            batch_size: config.global_batch_size(),
            training: true,
            seed: config.seed,
            world: config.world_size,
            epoch_repeats: config.data.epoch_repeats,
            repeats: config.data.aug_repeats,
            fixed_batches: config.batches_per_epoch,
        };
        let grey = matches!(splits.train.image(0), Ok(SampleImage::Decoded(image)) if image.size[2] == 1);
        let passes = config.batches_per_epoch.and_then(|batches| repeated_passes(&order, batches));
        let notes = (grey && c == 3).then(|| "grey images are converted to RGB".to_string());
        RunPlan {
            dataset: splits.name.clone(),
            notes: splits.notes.iter().cloned().chain(notes).chain(passes).collect(),
            training_images: splits.train.len(),
            validation_images: splits.validation.as_ref().map_or(0, |split| split.len()),
            classes: splits.classes.len(),
            input: [h, w, c],
            model: config.model.name.clone(),
            parameters,
            state_bytes: 4 * parameters as u64 * (1 + config.state_tensors_per_parameter()),
            weights: weights.map(String::from),
            epochs: config.schedule.total_epochs(),
            updates_per_epoch: order.batches().div_ceil(config.grad_accum_steps),
            images_per_update: config.global_batch_size() * config.grad_accum_steps,
            ranks: config.world_size,
            device: device.to_string(),
            precision: config
                .precision
                .half_dtype()
                .map(|half| format!("{half} at level {:?}", config.precision.level())),
            defaults: config.settings.defaults.unwrap_or_default(),
            disk: None,
            output: None,
        }
    }
}

/// Note about an epoch of more batches than the training images have.
fn repeated_passes(order: &Sampler, batches: usize) -> Option<String> {
    let of_data = Sampler { fixed_batches: None, ..*order }.batches();
    (batches > of_data).then(|| {
        let once = count(of_data as u64, "batch");
        format!(
            "--train-batches-per-epoch: the training images have {once}, so an epoch passes over them again"
        )
    })
}

impl fmt::Display for RunPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [h, w, c] = self.input;
        writeln!(
            f,
            "dataset   {}: {}, {}, {}",
            self.dataset,
            count(self.training_images as u64, "training image"),
            count(self.validation_images as u64, "validation image"),
            count(self.classes as u64, "class"),
        )?;
        self.notes.iter().try_for_each(|note| writeln!(f, "          {note}"))?;
        let parameters = thousands(self.parameters as u64);
        writeln!(f, "input     {h}x{w}x{c}")?;
        writeln!(
            f,
            "model     {}: {parameters} parameters, {} with optimizer state",
            self.model,
            bytes(self.state_bytes)
        )?;
        if let Some(weights) = &self.weights {
            writeln!(f, "weights   {}", weights.replace('\n', "\n          "))?;
        }
        let ranks = if self.ranks > 1 { format!("{} ranks of ", self.ranks) } else { String::new() };
        let precision =
            self.precision.as_ref().map_or(String::new(), |precision| format!(", in {precision}"));
        write!(
            f,
            "training  {} of {}, {} each, on {ranks}{}{precision}",
            count(self.epochs.into(), "epoch"),
            count(self.updates_per_epoch as u64, "update"),
            count(self.images_per_update as u64, "image"),
            self.device,
        )?;
        let defaults = match self.defaults {
            DefaultSet::Fornax => "fornax",
            DefaultSet::Timm => "timm",
        };
        write!(f, "\ndefaults  {defaults}")?;
        if let Some(disk) = &self.disk {
            write!(f, "\ndisk      {disk}")?;
        }
        self.output.as_ref().map_or(Ok(()), |output| write!(f, "\noutput    {output}"))
    }
}
