//! The model that a prediction is made with: which one, with which options, and what it wants to see.
use super::PredictArgs;
use crate::checkpoint::Header;
use crate::config::ModelConfig;
use crate::data::eval_transform::EvalTransform;
use crate::hub::Hub;
use crate::weights::{LoadOptions, Source, WeightsFile, load_file};
use crate::{Error, Result};
use clap::ValueEnum;
use fornax_nn::ModelOptions;
use fornax_nn::models::{Model, ModelInfo, find_model};

/// A model with its weights, and how pictures are shown to it.
pub struct Predictor {
    /// Its name.
    pub name: &'static str,
    /// The model, on the CPU.
    pub model: Box<dyn Model>,
    /// Its classes; 0 without a head.
    pub classes: usize,
    /// Their names, as far as they are known.
    pub names: Vec<String>,
    /// What is done to pictures.
    pub transform: EvalTransform,
}

/// Builds the model that the arguments ask for, and loads its weights.
pub fn load(args: &PredictArgs) -> Result<Predictor> {
    let find = |name: &str| find_model(name).map_err(|e| Error::usage(e.to_string()).at("--model"));
    let named = args.model.as_deref().map(find).transpose()?;
    let source = source(args, named)?;
    let file = WeightsFile::open(&source.resolve(&Hub::from_environment())?)?;
    let header = file.run()?;
    let info = match (named, &header) {
        (Some(info), _) => info,
        (None, Some(header)) => find(header.settings.model.as_deref().unwrap_or_default())?,
        (None, None) => {
            return Err(Error::usage("--model is needed")
                .because("these weights do not say which model they are of")
                .remedy("name it; `fornax models` lists them"));
        }
    };
    let options = options(args, info, header.as_ref(), &file)?;
    let img_size = options.img_size.or(args.img_size);
    let img_size = img_size.or_else(|| header.as_ref()?.image_size.map(|[h, w, _]| [h, w]));
    let size = img_size.unwrap_or(info.pretrained_cfg.input_size);
    let model = info.build(&options).map_err(|e| Error::usage(format!("{}: {e}", info.name)))?;
    let load = LoadOptions {
        // A prediction of a head that was never trained is worth nothing: only its absence is accepted.
        classifier: if options.num_classes == 0 { info.pretrained_cfg.classifier } else { "" },
        ema: args.use_ema,
        img_size: Some(size),
        ..LoadOptions::pretrained("", info.pretrained_cfg.first_conv)
    };
    let report = load_file(&*model, &file, &load)?;
    report.notes.iter().for_each(|note| eprintln!("{note}"));
    Ok(Predictor {
        name: info.name,
        classes: options.num_classes,
        names: names(args, header.as_ref(), options.num_classes)?,
        transform: transform(args, info, header.as_ref(), size, options.in_chans)?,
        model,
    })
}

fn source(args: &PredictArgs, named: Option<&ModelInfo>) -> Result<Source> {
    match (&args.weights, named) {
        (Some(source), _) => Ok(source.clone()),
        (None, Some(info)) => Source::published(info),
        (None, None) => Err(Error::usage("neither --weights nor --model is given")
            .remedy("name a checkpoint with --weights, or a model with --model for its published weights")),
    }
}

/// What was asked for, else what the weights are for.
fn options(
    args: &PredictArgs,
    info: &ModelInfo,
    header: Option<&Header>,
    file: &WeightsFile,
) -> Result<ModelOptions> {
    let weights = file.weights(args.use_ema)?;
    let extent = |name: String, axis: usize| weights.get(&name).and_then(|s| s.shape.get(axis).copied());
    let classes = extent(format!("{}.weight", info.pretrained_cfg.classifier), 0);
    let channels = extent(format!("{}.weight", info.pretrained_cfg.first_conv), 1);
    // A checkpoint says how its model was changed: pooling, batch norm.
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
    header: Option<&Header>,
    size: [usize; 2],
    channels: usize,
) -> Result<EvalTransform> {
    if args.tensor.is_none() && channels != 1 && channels != 3 {
        return Err(Error::usage(format!("pictures do not have {channels} channels"))
            .at("--in-chans")
            .remedy("give numbers with --tensor"));
    }
    let own = |of_run: Option<&Vec<f32>>, of_model: [f64; 3]| match of_run {
        Some(values) if values.len() == channels => values.clone(),
        // Grey is all three at once.
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
    let own_crop =
        if header.is_some_and(|h| h.image_size.is_some()) { 1.0 } else { info.pretrained_cfg.crop_pct };
    Ok(EvalTransform {
        size,
        crop_pct: args.crop_pct.unwrap_or(own_crop),
        crop_mode: args.crop_mode.unwrap_or_else(|| {
            ValueEnum::from_str(info.pretrained_cfg.crop_mode, true)
                .unwrap_or_else(|_| panic!("{}", known(info.pretrained_cfg.crop_mode)))
        }),
        filter: args.interpolation.unwrap_or_else(|| {
            ValueEnum::from_str(info.pretrained_cfg.interpolation, true)
                .unwrap_or_else(|_| panic!("{}", known(info.pretrained_cfg.interpolation)))
        }),
        mean: given("--mean", &args.mean, own(statistics.map(|s| &s.mean), info.pretrained_cfg.mean))?,
        std: given("--std", &args.std, own(statistics.map(|s| &s.std), info.pretrained_cfg.std))?,
    })
}

fn names(args: &PredictArgs, header: Option<&Header>, classes: usize) -> Result<Vec<String>> {
    let Some(path) = &args.class_map else {
        let names = header.map_or(vec![], |header| header.classes.clone());
        return Ok(if names.len() == classes { names } else { vec![] });
    };
    let fail = |why: String| Error::usage("the class map cannot be used").at_path(path).because(why);
    let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
    let names: Vec<String> = text.lines().map(|line| line.trim().to_string()).collect();
    match names.len() == classes {
        true => Ok(names),
        false => Err(fail(format!("it has {} lines, the model {classes} classes", names.len()))),
    }
}
