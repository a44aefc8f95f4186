//! Model of a prediction: architecture, options, weights and input transform.
use super::PredictArgs;
use crate::checkpoint::CheckpointHeader;
use crate::config::{ModelConfig, timm_name, unknown_model};
use crate::data::eval_transform::EvalTransform;
use crate::error::ErrorKind;
use crate::hub::Hub;
use crate::weights::{LoadOptions, WeightsFile, WeightsSource, imagenet, load_file};
use crate::{Error, Result};
use clap::ValueEnum;
use fornax_nn::ModelOptions;
use fornax_nn::models::{Model, ModelInfo, find_model};

/// Model with weights and input transform.
pub struct Predictor {
    /// Model name.
    pub name: &'static str,
    /// The model, on the CPU.
    pub model: Box<dyn Model>,
    /// Number of classes; 0 without a classifier.
    pub classes: usize,
    /// Class names; empty if unknown.
    pub names: Vec<String>,
    /// Evaluation transform of the images.
    pub transform: EvalTransform,
}

/// Builds the model of the arguments and loads its weights.
pub fn load(args: &PredictArgs) -> Result<Predictor> {
    let find = |name: &str| find_model(timm_name(name)).map_err(|_| unknown_model(name).at("--model"));
    let named = args.model.as_deref().map(find).transpose()?;
    let source = source(args, named)?;
    let file = WeightsFile::open(&source.resolve(&Hub::from_environment())?)?;
    let header = file.checkpoint_header()?;
    let info = match (named, &header) {
        (Some(info), _) => info,
        (None, Some(header)) => find(header.settings.model.as_deref().unwrap_or_default())?,
        (None, None) => {
            return Err(Error::usage("--model is needed")
                .because("the weights file does not name its model")
                .remedy("pass the model's name with --model; `fornax models` lists them"));
        }
    };
    let options = options(args, info, header.as_ref(), &file)?;
    let img_size = options.img_size.or(args.img_size);
    let img_size = img_size.or_else(|| header.as_ref()?.image_size.map(|[h, w, _]| [h, w]));
    let size = img_size.unwrap_or(info.pretrained_cfg.input_size);
    let model = info.build(&options).map_err(|e| Error::usage(format!("{}: {e}", info.name)))?;
    let load = LoadOptions {
        // Predictions of an untrained classifier are worthless, so it may only be absent.
        classifier: if options.num_classes == 0 { info.pretrained_cfg.classifier } else { "" },
        ema: args.use_ema,
        img_size: Some(size),
        ..LoadOptions::pretrained("", info.pretrained_cfg.first_conv)
    };
    let report = load_file(&*model, &file, &load)?;
    report.notes.iter().for_each(|note| message!("{note}"));
    Ok(Predictor {
        name: info.name,
        classes: options.num_classes,
        names: names(args, header.as_ref(), &source, options.num_classes)?,
        transform: transform(args, info, header.as_ref(), size, options.in_chans)?,
        model,
    })
}

fn source(args: &PredictArgs, named: Option<&ModelInfo>) -> Result<WeightsSource> {
    match (&args.weights, named) {
        (Some(source), _) => Ok(source.clone()),
        (None, Some(info)) => WeightsSource::published(info),
        (None, None) => Err(Error::usage("neither --weights nor --model is given")
            .remedy("pass a checkpoint with --weights, or a model with --model for its published weights")),
    }
}

/// Model options: those of the arguments, else those of the weights.
fn options(
    args: &PredictArgs,
    info: &ModelInfo,
    header: Option<&CheckpointHeader>,
    file: &WeightsFile,
) -> Result<ModelOptions> {
    let weights = file.weights(args.use_ema)?;
    let extent = |name: String, axis: usize| weights.get(&name).and_then(|s| s.shape.get(axis).copied());
    let classes = extent(format!("{}.weight", info.pretrained_cfg.classifier), 0);
    let channels = extent(format!("{}.weight", info.pretrained_cfg.first_conv), 1);
    // A checkpoint holds the model's options: pooling, batch norm.
    let trained = header.map(|header| ModelConfig::new(&header.settings, info.name)).transpose()?;
    let mut options = ModelOptions {
        num_classes: args.num_classes.or(classes).unwrap_or(0),
        in_chans: args.in_chans.or(channels).unwrap_or(3),
        img_size: args.img_size.filter(|_| info.pretrained_cfg.fixed_input_size),
        ..trained.map_or_else(ModelOptions::default, |model| model.options)
    };
    if info.pretrained_cfg.fixed_input_size && options.img_size.is_none() {
        options.img_size = header.and_then(|header| header.image_size).map(|[h, w, _]| [h, w]);
    }
    for option in &args.model_kwargs {
        let (key, value) = option
            .split_once('=')
            .ok_or_else(|| Error::usage(format!("{option:?} is not KEY=VALUE")).at("--model-kwargs"))?;
        options.set(key, value).map_err(|e| Error::usage(e.to_string()).at("--model-kwargs"))?;
    }
    Ok(options)
}

fn transform(
    args: &PredictArgs,
    info: &ModelInfo,
    header: Option<&CheckpointHeader>,
    size: [usize; 2],
    channels: usize,
) -> Result<EvalTransform> {
    if args.tensor.is_none() && channels != 1 && channels != 3 {
        return Err(Error::usage(format!("images have 1 or 3 channels, not {channels}"))
            .at("--in-chans")
            .remedy("pass the input with --tensor"));
    }
    let own = |of_run: Option<&Vec<f32>>, of_model: [f64; 3]| match of_run {
        Some(values) if values.len() == channels => values.clone(),
        // Grey: the mean over the three channels.
        _ if channels == 1 => vec![(of_model.iter().sum::<f64>() / 3.0) as f32],
        _ => of_model.map(|v| v as f32).to_vec(),
    };
    let given = |flag: &str, values: &Option<Vec<f32>>, own: Vec<f32>| match values.as_deref() {
        None => Ok(own),
        Some([one]) => Ok(vec![*one; channels]),
        Some(values) if values.len() == channels => Ok(values.to_vec()),
        Some(values) => {
            Err(Error::usage(format!("{} numbers for {channels} channels", values.len())).at(flag))
        }
    };
    let known = |text: &str| format!("{text:?} in the table of models is known");
    let statistics = header.map(|header| &header.statistics);
    // Older checkpoints are of runs that neither resized nor cropped.
    let own_crop =
        if header.is_some_and(|h| h.image_size.is_some()) { 1.0 } else { info.pretrained_cfg.crop_pct };
    let trained = header.map(|header| &header.settings);
    let crop_mode = args.crop_mode.or_else(|| trained?.crop_mode);
    let filter = args.interpolation.or_else(|| trained?.interpolation);
    Ok(EvalTransform {
        size,
        crop_pct: args.crop_pct.or_else(|| trained?.crop_pct).unwrap_or(own_crop),
        crop_mode: crop_mode.unwrap_or_else(|| {
            ValueEnum::from_str(info.pretrained_cfg.crop_mode, true)
                .unwrap_or_else(|_| panic!("{}", known(info.pretrained_cfg.crop_mode)))
        }),
        filter: filter.unwrap_or_else(|| {
            ValueEnum::from_str(info.pretrained_cfg.interpolation, true)
                .unwrap_or_else(|_| panic!("{}", known(info.pretrained_cfg.interpolation)))
        }),
        mean: given("--mean", &args.mean, own(statistics.map(|s| &s.mean), info.pretrained_cfg.mean))?,
        std: given("--std", &args.std, own(statistics.map(|s| &s.std), info.pretrained_cfg.std))?,
    })
}

/// Class names: those of `--class-map`, else of the checkpoint, else of ImageNet-1k for published weights of 1,000 classes.
fn names(
    args: &PredictArgs,
    header: Option<&CheckpointHeader>,
    source: &WeightsSource,
    classes: usize,
) -> Result<Vec<String>> {
    let Some(path) = &args.class_map else {
        let names = match header {
            Some(header) => header.classes.clone(),
            None if source.is_published() => imagenet::class_names().map(String::from).collect(),
            None => vec![],
        };
        return Ok(if names.len() == classes { names } else { vec![] });
    };
    let fail = |why: String| Error::usage("the class map cannot be used").at_path(path).because(why);
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::unreadable(ErrorKind::Usage, "the class map cannot be read", path, &e))?;
    let text = text.trim_start_matches('\u{feff}');
    let names: Vec<String> = text.lines().map(|line| line.trim().to_string()).collect();
    match names.len() == classes {
        true => Ok(names),
        false => Err(fail(format!("it has {} lines, but the model has {classes} classes", names.len()))),
    }
}
