//! Preparation of a run: threads, dataset, model, EMA, weights, and the printed plan.
use crate::config::Config;
use crate::data::{self, Dataset, Loader};
use crate::ema::Ema;
use crate::hub::Hub;
use crate::report::{bytes, thousands};
use crate::weights::{self, LoadOptions, WeightsSource};
use crate::{Error, Result};
use fornax_engine::{DType, Device, no_grad};
use fornax_nn::models::{self, Model};
use fornax_nn::{Context, Module, named_parameters};

/// Sets the number of CPU threads of the kernels.
pub fn set_threads(threads: Option<u16>) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.map_or(0, usize::from));
    pool.build_global()
        .map_err(|e| Error::usage("the thread pool cannot be started").at("--threads").because(e))
}

/// Reads the dataset and checks it against the batch size.
pub fn load(config: &Config) -> Result<Dataset> {
    let data = data::load(config.dataset, config.settings.data_dir.as_deref())?;
    if config.batch_size > data.train.len() {
        let (batch, images) = (thousands(config.batch_size as u64), thousands(data.train.len() as u64));
        return Err(Error::usage(format!("a batch of {batch} images is larger than the dataset"))
            .at("--batch-size")
            .because(format!("{} has {images} training images", config.dataset.name))
            .remedy(format!("choose at most {}", data.train.len())));
    }
    Ok(data)
}

/// Builds the model and checks it with a forward pass on one image of the dataset.
pub fn build(config: &Config, data: &Dataset) -> Result<Box<dyn Model>> {
    let model = create(config, data)?;
    let sample = Loader::validation(&data.validation, 1).batch(0, 0)?;
    let pixels = data.statistics.normalise(&sample.images, DType::F32)?;
    no_grad(|| model.forward(&pixels, &mut Context::eval())).map_err(|e| {
        let [h, w, c] = data.train.size;
        Error::usage(format!("{} does not accept images of {h}x{w}x{c}", config.model.name))
            .at("--model")
            .because(e)
    })?;
    if config.batch_size == 1 {
        // Batch norm rejects a single value per channel. A second model, as training mode changes the running statistics.
        let trial = create(config, data)?;
        no_grad(|| trial.forward(&pixels, &mut Context::train())).map_err(|e| {
            Error::usage(format!("{} cannot train on one image at a time", config.model.name))
                .at("--batch-size")
                .because(e)
                .remedy("choose at least 2")
        })?;
    }
    Ok(model)
}

fn create(config: &Config, data: &Dataset) -> Result<Box<dyn Model>> {
    config.model.create(data.classes.len(), data.train.size[2])
}

/// Creates the EMA of a model, if enabled.
pub fn create_ema(
    config: &Config,
    data: &Dataset,
    model: &dyn Module,
    device: Device,
) -> Result<Option<Ema>> {
    let Some(options) = config.ema else { return Ok(None) };
    if config.ema_on_cpu && device == Device::Cpu {
        return Err(Error::usage("--model-ema-force-cpu would have no effect")
            .because("the run computes on the CPU")
            .remedy("leave it out, or choose another --device"));
    }
    let ema_device = if config.ema_on_cpu { Device::Cpu } else { device };
    Ema::new(model, create(config, data)?, options, ema_device).map(Some)
}

/// Loads pretrained weights or the initial checkpoint, if given; returns their source and a report.
pub fn load_weights(config: &Config, model: &dyn Module) -> Result<Option<String>> {
    let settings = &config.settings;
    let info =
        models::find_model(&config.model.name).map_err(|e| Error::usage(e.to_string()).at("--model"))?;
    let pretrained = LoadOptions::pretrained(info.pretrained_cfg.classifier, info.pretrained_cfg.first_conv);
    let (source, options) =
        match (&settings.initial_checkpoint, &settings.pretrained_path, settings.pretrained) {
            (Some(path), ..) => (WeightsSource::Path(path.clone()), LoadOptions::exact()),
            (None, Some(text), _) => {
                (text.parse().map_err(|why: String| Error::usage(why).at("--pretrained-path"))?, pretrained)
            }
            (None, None, Some(true)) => (WeightsSource::published(info)?, pretrained),
            (None, None, _) => return Ok(None),
        };
    let path = source.resolve(&Hub::from_environment())?;
    let report = weights::load(model, &path, &options)?;
    Ok(Some(format!("{source}: {report}")))
}

/// The plan of a run in a few lines.
pub fn plan(
    config: &Config,
    data: &Dataset,
    model: &dyn Module,
    device: Device,
    weights: Option<&str>,
) -> String {
    let [h, w, c] = data.train.size;
    let parameters: usize = named_parameters(model).iter().map(|(_, tensor)| tensor.numel()).sum();
    let updates = (data.train.len() / config.batch_size).div_ceil(config.grad_accum_steps);
    let precision = match config.precision.half_dtype() {
        Some(half) => format!(", in {half} at level {:?}", config.precision.level()),
        None => String::new(),
    };
    let count = |n: usize| thousands(n as u64);
    let weights =
        weights.map_or(String::new(), |w| format!("weights   {}\n", w.replace('\n', "\n          ")));
    format!(
        "dataset   {}: {} training images, {} validation images, {h}x{w}x{c}, {} classes\n\
         model     {}: {} parameters, {} with optimizer state\n{weights}\
         training  {} epochs of {} updates, {} images each, on {device}{precision}",
        config.dataset.name,
        count(data.train.len()),
        count(data.validation.len()),
        data.classes.len(),
        config.model.name,
        count(parameters),
        bytes(4 * parameters as u64 * (1 + config.state_tensors_per_parameter())),
        config.schedule.total_epochs(),
        count(updates),
        count(config.batch_size * config.grad_accum_steps),
    )
}
