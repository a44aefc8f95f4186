//! Model of a prediction: architecture, options, weights and input transform.
use super::PredictArgs;
use crate::augment::TestTimeAugmentation;
use crate::config::{ModelConfig, timm_name, unknown_model};
use crate::data::decode::DecodeOptions;
use crate::data::eval_transform::EvalTransform;
use crate::error::ErrorKind;
use crate::hub::Hub;
use crate::weights::{LoadOptions, WeightsFile, WeightsIdentity, WeightsSource, imagenet, load_file};
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
    /// The same with its views.
    pub views: TestTimeAugmentation,
    /// Decoding of image files, as in the checkpoint's run.
    pub decode: DecodeOptions,
}

/// Builds the model of the arguments and loads its weights.
pub fn load(args: &PredictArgs) -> Result<Predictor> {
    let find = |name: &str| find_model(timm_name(name)).map_err(|_| unknown_model(name).at("--model"));
    let named = args.model.as_deref().map(find).transpose()?;
    let source = source(args, named)?;
    let file = WeightsFile::open(&source.resolve(&Hub::from_environment())?)?;
    let identity = file.identity()?;
    let info = match (named, identity.as_ref().and_then(WeightsIdentity::model)) {
        (Some(info), _) => info,
        (None, Some(name)) => find(name)?,
        (None, None) => {
            return Err(Error::usage("--model is needed")
                .because("the weights file does not name its model")
                .remedy("pass the model's name with --model; `fornax models` lists them"));
        }
    };
    let identity = identity.unwrap_or_default();
    let options = options(args, info, &identity, &file)?;
    let img_size = options.img_size.or(args.img_size);
    let size = img_size.or(identity.size()).unwrap_or(info.pretrained_cfg.input_size);
    let model = info.build(&options).map_err(|e| Error::usage(format!("{}: {e}", info.name)))?;
    let load = LoadOptions {
        // Predictions of an untrained classifier are worthless, so it may only be absent.
        classifier: if options.num_classes == 0 { info.pretrained_cfg.classifier } else { "" },
        ema: args.use_ema,
        img_size: Some(size),
        model: info.name,
        ..LoadOptions::pretrained("", info.pretrained_cfg.first_conv)
    };
    let report = load_file(&*model, &file, &load)?;
    report.notes.iter().for_each(|note| message!("{note}"));
    if !args.use_ema && file.has_ema()? {
        message!("note: {source} also has EMA weights; --use-ema uses them");
    }
    let transform = transform(args, info, &identity, size, options.in_chans)?;
    if args.tensor.is_none() && !source.is_published() {
        guess_note(args, &identity, info.name, &transform).into_iter().for_each(|note| message!("{note}"));
    }
    let views = TestTimeAugmentation::new(transform.clone(), args.tta)
        .map_err(|why| Error::usage(why).at("--tta"))?;
    let of_weights = identity.settings.exif_orientation.unwrap_or(false);
    Ok(Predictor {
        name: info.name,
        classes: options.num_classes,
        names: names(args, &identity, &source, options.num_classes)?,
        decode: DecodeOptions {
            channels: transform.mean.len(),
            exif_orientation: args.exif_orientation.unwrap_or(of_weights),
            gray16: identity.settings.gray16.unwrap_or_default(),
        },
        transform,
        views,
        model,
    })
}

/// Note about the input of weights that do not say it.
fn guess_note(
    args: &PredictArgs,
    identity: &WeightsIdentity,
    model: &str,
    transform: &EvalTransform,
) -> Option<String> {
    let known = &identity.settings;
    let [h, w] = transform.size;
    let guesses = [
        (known.input_size.is_none() && args.img_size.is_none(), format!("input {h}x{w}")),
        (known.mean.is_none() && args.mean.is_none(), format!("mean {:?}", transform.mean)),
        (known.std.is_none() && args.std.is_none(), format!("std {:?}", transform.std)),
        (known.crop_pct.is_none() && args.crop_pct.is_none(), format!("crop {}", transform.crop_pct)),
    ];
    let guessed: Vec<String> =
        guesses.into_iter().filter(|(is_guess, _)| *is_guess).map(|(_, text)| text).collect();
    (!guessed.is_empty()).then(|| {
        format!(
            "note: the weights do not say what they were trained with; the defaults of {model} are used: {}",
            guessed.join(", ")
        )
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
    identity: &WeightsIdentity,
    file: &WeightsFile,
) -> Result<ModelOptions> {
    let weights = file.weights(args.use_ema)?;
    let extent = |name: String, axis: usize| weights.get(&name).and_then(|s| s.shape.get(axis).copied());
    let classes = extent(format!("{}.weight", info.pretrained_cfg.classifier), 0);
    let channels = extent(format!("{}.weight", info.pretrained_cfg.first_conv), 1);
    // The weights may say the model's options: pooling, batch norm.
    let trained = ModelConfig::new(&identity.settings, info.name)?;
    let mut options = ModelOptions {
        num_classes: args.num_classes.or(classes).unwrap_or(0),
        in_chans: args.in_chans.or(channels).unwrap_or(3),
        img_size: args.img_size.filter(|_| info.pretrained_cfg.fixed_input_size),
        ..trained.options
    };
    if info.pretrained_cfg.fixed_input_size && options.img_size.is_none() {
        options.img_size = identity.size();
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
    identity: &WeightsIdentity,
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
    let trained = &identity.settings;
    let crop_mode = args.crop_mode.or(trained.crop_mode);
    let filter = args.interpolation.or(trained.interpolation);
    Ok(EvalTransform {
        size,
        crop_pct: args.crop_pct.or(trained.crop_pct).unwrap_or(info.pretrained_cfg.crop_pct),
        crop_mode: crop_mode.unwrap_or_else(|| {
            ValueEnum::from_str(info.pretrained_cfg.crop_mode, true)
                .unwrap_or_else(|_| panic!("{}", known(info.pretrained_cfg.crop_mode)))
        }),
        filter: filter.unwrap_or_else(|| {
            ValueEnum::from_str(info.pretrained_cfg.interpolation, true)
                .unwrap_or_else(|_| panic!("{}", known(info.pretrained_cfg.interpolation)))
        }),
        mean: given("--mean", &args.mean, own(trained.mean.as_ref(), info.pretrained_cfg.mean))?,
        std: given("--std", &args.std, own(trained.std.as_ref(), info.pretrained_cfg.std))?,
    })
}

/// Class names: those of `--class-map`, else of the weights file, else of ImageNet-1k for published weights of 1,000 classes.
fn names(
    args: &PredictArgs,
    identity: &WeightsIdentity,
    source: &WeightsSource,
    classes: usize,
) -> Result<Vec<String>> {
    let is_printed = args.tensor.is_none() && classes > 0;
    let Some(path) = args.class_map.as_ref().filter(|_| is_printed) else {
        let names = match source.is_published() {
            true if identity.classes.is_empty() => imagenet::class_names().map(String::from).collect(),
            _ => identity.classes.clone(),
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
