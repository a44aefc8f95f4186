//! The printed plan of a run.
use super::RunData;
use crate::config::Config;
use crate::data::SampleImage;
use crate::loader::sampler::Sampler;
use crate::report::{bytes, thousands};
use crate::settings::DefaultSet;
use fornax_engine::Device;
use fornax_nn::{Module, named_parameters};

/// The plan of a run in a few lines.
pub fn plan(
    config: &Config,
    data: &RunData,
    model: &dyn Module,
    device: Device,
    weights: Option<&str>,
) -> String {
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
    };
    let batches = order.batches();
    let too_many = config.batches_per_epoch.filter(|limit| *limit > batches).map(|limit| {
        format!("--train-batches-per-epoch {limit} has no effect: an epoch has {batches} batches")
    });
    let batches = config.batches_per_epoch.map_or(batches, |limit| limit.min(batches));
    let updates = batches.div_ceil(config.grad_accum_steps);
    let precision = match config.precision.half_dtype() {
        Some(half) => format!(", in {half} at level {:?}", config.precision.level()),
        None => String::new(),
    };
    let count = |n: usize| thousands(n as u64);
    let ranks =
        if config.world_size > 1 { format!("{} ranks of ", config.world_size) } else { String::new() };
    let grey =
        matches!(splits.train.image(0), Ok(SampleImage::Decoded(image)) if image.size[2] == 1) && c == 3;
    let notes = grey.then(|| "grey images are converted to RGB".to_string());
    let notes: String = splits
        .notes
        .iter()
        .chain(&notes)
        .chain(&too_many)
        .map(|note| format!("          {note}\n"))
        .collect();
    let weights =
        weights.map_or(String::new(), |w| format!("weights   {}\n", w.replace('\n', "\n          ")));
    format!(
        "dataset   {}: {} training images, {} validation images, {} classes\n{notes}\
         input     {h}x{w}x{c}\n\
         model     {}: {} parameters, {} with optimizer state\n{weights}\
         training  {} epochs of {} updates, {} images each, on {ranks}{device}{precision}\n\
         defaults  {}",
        splits.name,
        count(splits.train.len()),
        count(splits.validation.as_ref().map_or(0, |split| split.len())),
        splits.classes.len(),
        config.model.name,
        count(parameters),
        bytes(4 * parameters as u64 * (1 + config.state_tensors_per_parameter())),
        config.schedule.total_epochs(),
        count(updates),
        count(config.global_batch_size() * config.grad_accum_steps),
        match config.settings.defaults.unwrap_or_default() {
            DefaultSet::Fornax => "fornax",
            DefaultSet::Timm => "timm",
        },
    )
}
