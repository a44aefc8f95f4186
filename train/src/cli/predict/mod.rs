//! `fornax predict`: classify images with a trained model.
mod images;
mod model;
mod output;

use crate::cli::compute::{ComputeArgs, ignored_conv_algo};
use crate::cli::output_file;
use crate::config::{IgnoredOption, ignored_warning};
use crate::data::eval_transform::CropMode;
use crate::data::resize::ResizeFilter;
use crate::error::ErrorKind;
use crate::settings::ConvAlgo;
use crate::weights::{WeightsSource, read_weights};
use crate::{Error, Result};
use clap::value_parser;
use fornax_engine::{Device, Tensor, no_grad};
use fornax_nn::state_dict::{SafetensorsFile, to_safetensors};
use fornax_nn::{Context, move_to};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Default of `--top-k`.
const DEFAULT_TOP_K: u32 = 5;

/// Arguments of `fornax predict`.
#[derive(clap::Args)]
#[command(disable_help_flag = true, group(clap::ArgGroup::new("numbers").multiple(true)))]
pub struct PredictArgs {
    /// Images (PNG, JPEG, WebP, GIF, BMP, TIFF, QOI), or folders of images
    #[arg(value_name = "IMAGE", required_unless_present = "tensor")]
    images: Vec<PathBuf>,

    /// Model architecture name; `fornax models` lists them [default: the checkpoint's model]
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    model: Option<String>,
    /// Weights: a run folder, a safetensors or PyTorch file, a folder with one, or hf-hub:ORGANISATION/NAME [default: the model's published weights]
    #[arg(long, visible_alias = "checkpoint", value_name = "SOURCE", help_heading = "Model")]
    weights: Option<WeightsSource>,
    /// Use the EMA weights of a checkpoint
    #[arg(long, help_heading = "Model")]
    use_ema: bool,
    /// Number of classes; 0 for no classifier [default: as in the weights]
    #[arg(long, value_name = "N", help_heading = "Model")]
    num_classes: Option<usize>,
    /// Input channels; the first convolution is adapted to them [default: as in the weights]
    #[arg(long, value_name = "C", help_heading = "Model")]
    in_chans: Option<usize>,
    /// Further model options, such as global_pool=max
    #[arg(long, value_name = "KEY=VALUE", num_args = 1.., help_heading = "Model")]
    model_kwargs: Vec<String>,
    /// File of class names, one per line, in the order of the logits [default: as in the checkpoint; ImageNet-1k for published weights of 1,000 classes]
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    class_map: Option<PathBuf>,

    /// Image size: 224, or height x width as 224x160 [default: the weights' own, else the model's]
    #[arg(long, value_name = "SIZE", value_parser = super::models::size, help_heading = "Images")]
    img_size: Option<[usize; 2]>,
    /// Centre-crop fraction of the resized image [default: the weights' own, else the model's]
    #[arg(long, value_name = "P", value_parser = crop_fraction, help_heading = "Images")]
    crop_pct: Option<f64>,
    /// Crop mode [default: the weights' own, else the model's]
    #[arg(long, value_name = "MODE", help_heading = "Images")]
    crop_mode: Option<CropMode>,
    /// Resize interpolation [default: the weights' own, else the model's]
    #[arg(long, value_name = "FILTER", help_heading = "Images")]
    interpolation: Option<ResizeFilter>,
    /// Normalisation mean for values in 0..1, one for all channels or one per channel [default: the weights' own, else the model's]
    #[arg(long, value_name = "M", num_args = 1.., value_parser = finite, help_heading = "Images")]
    mean: Option<Vec<f32>>,
    /// Normalisation standard deviation, one for all channels or one per channel [default: the weights' own, else the model's]
    #[arg(long, value_name = "S", num_args = 1.., value_parser = positive, help_heading = "Images")]
    std: Option<Vec<f32>>,
    /// Rotate and flip images by their EXIF orientation [default: as in training]
    #[arg(long, help_heading = "Images")]
    exif_orientation: Option<bool>,
    /// Test-time augmentation: mean over 1, 2 (with the mirror image), 5 (with the corners) or 10 views of each image
    #[arg(long, value_name = "VIEWS", default_value_t = 1, help_heading = "Images")]
    tta: usize,

    /// Number of top classes to print
    #[arg(long, visible_alias = "topk", value_name = "K", default_value_t = DEFAULT_TOP_K, value_parser = value_parser!(u32).range(1..), help_heading = "Output")]
    top_k: u32,
    /// Print one JSON object per image
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Write the top classes as CSV: a row per image and rank, with class, name and probability
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    csv: Option<PathBuf>,
    /// Write the classifier's input as safetensors: f32 `features` [n, d], with the image paths as JSON in the metadata `paths`
    #[arg(long, value_name = "FILE", group = "numbers", help_heading = "Output")]
    features: Option<PathBuf>,
    /// Write the logits as safetensors: f32 `logits` [n, classes]
    #[arg(long, value_name = "FILE", group = "numbers", help_heading = "Output")]
    logits: Option<PathBuf>,

    /// Batch size, in images
    #[arg(long, short = 'b', value_name = "N", default_value_t = 32, value_parser = value_parser!(u32).range(1..), help_heading = "Run")]
    batch_size: u32,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Convolution algorithm on the CPU: auto (Winograd for 3x3 convolutions of stride 1 where the shape gains) or direct
    #[arg(long, value_name = "NAME", default_value = "auto", help_heading = "Run")]
    conv_algo: ConvAlgo,
    /// Preprocessed input in place of images: a safetensors file with f32 `input` [n, c, h, w]
    #[arg(long, value_name = "FILE", conflicts_with_all = IMAGE_ARGUMENTS, requires = "numbers", help_heading = "Run")]
    tensor: Option<PathBuf>,
    /// Print help
    #[arg(long, short, action = clap::ArgAction::HelpShort, help_heading = "Run")]
    help: Option<bool>,
}

/// Arguments whose result `--tensor` cannot give, as it names no images.
const IMAGE_ARGUMENTS: [&str; 4] = ["images", "tta", "json", "csv"];

/// The options without effect.
fn ignored(args: &PredictArgs) -> Vec<IgnoredOption> {
    let of_images = [
        ("crop_pct", args.crop_pct.is_some()),
        ("crop_mode", args.crop_mode.is_some()),
        ("interpolation", args.interpolation.is_some()),
        ("mean", args.mean.is_some()),
        ("std", args.std.is_some()),
        ("exif_orientation", args.exif_orientation.is_some()),
    ];
    let of_names = [("top_k", args.top_k != DEFAULT_TOP_K), ("class_map", args.class_map.is_some())];
    let given = |options: &[(&str, bool)], why: &str| -> Vec<IgnoredOption> {
        let given = options.iter().filter(|(_, is_given)| *is_given);
        given.map(|(name, _)| IgnoredOption::new(*name, why)).collect()
    };
    match (&args.tensor, args.num_classes) {
        (Some(_), _) => {
            let mut ignored = given(&of_images, "the input of --tensor is preprocessed");
            ignored.extend(given(&of_names, "--tensor prints no classes"));
            ignored
        }
        (None, Some(0)) => given(&of_names, "--num-classes 0 prints no classes"),
        (None, _) => vec![],
    }
}

pub fn execute(args: &PredictArgs) -> Result<()> {
    args.compute.set_threads()?;
    let device = args.compute.device.open()?;
    let mut ignored = ignored(args);
    ignored.extend(ignored_conv_algo(Some(args.conv_algo), &device));
    ignored_warning(&ignored).iter().for_each(|warning| message!("{warning}"));
    let mut bad: Vec<(String, Error)> = vec![];
    let inputs = match &args.tensor {
        Some(path) => Inputs::Tensor(read_tensor(path)?),
        None => Inputs::Images(images::collect_paths(&args.images, |path, error| {
            message!("{error}");
            bad.push((path.display().to_string(), error));
        })?),
    };
    let total = inputs.len() + bad.len();
    let predictor = model::load(args)?;
    move_to(&*predictor.model, &device)?;
    let (mut names, mut features, mut logits) = (vec![], vec![], vec![]);
    let mut csv = output::CSV_HEADER.to_string();
    let batch = args.batch_size as usize;
    for first in (0..inputs.len()).step_by(batch) {
        let count = batch.min(inputs.len() - first);
        let (x, chosen) = match &inputs {
            Inputs::Tensor(all) => (all.narrow(0, first, count)?, (first..first + count).collect()),
            Inputs::Images(paths) => {
                let (mut images, mut chosen) = (vec![], vec![]);
                for (i, loaded) in images::load(&paths[first..][..count], predictor.decode, &predictor.views)
                    .into_iter()
                    .enumerate()
                {
                    match loaded {
                        Ok(views) => {
                            images.extend(views);
                            chosen.push(first + i);
                        }
                        Err(error) if total == 1 => return Err(error),
                        Err(error) => {
                            message!("{error}");
                            bad.push((inputs.name(first + i), error));
                        }
                    }
                }
                if chosen.is_empty() {
                    continue;
                }
                (predictor.transform.batch(&images)?, chosen)
            }
        };
        let out = forward(args, &predictor, &x, &device)?;
        if args.tensor.is_none() && predictor.classes > 0 {
            let rows = out.logits.read::<f32>()?;
            for (index, row) in chosen.iter().zip(rows.chunks_exact(predictor.classes)) {
                let name = inputs.name(*index);
                let top = output::top_classes(row, args.top_k as usize);
                super::print(&output::text(&name, &top, &predictor.names, args.json))?;
                csv += &output::csv_rows(&name, &top, &predictor.names);
            }
        }
        names.extend(chosen.into_iter().map(|index| inputs.name(index)));
        features.push(out.features);
        logits.push(out.logits);
    }
    if args.json {
        bad.iter().try_for_each(|(name, error)| super::print(&output::error(name, error)))?;
    }
    if !names.is_empty() {
        write_numbers(args, &predictor, &names, [&features, &logits])?;
    }
    if let Some(path) = &args.csv {
        output_file::write(path, csv.as_bytes())?;
    }
    match bad.first() {
        None => Ok(()),
        Some((_, first)) => Err(Error::data(format!("{} of {total} images cannot be read", bad.len()))
            .because(format!("the first: {}", first.why().unwrap_or(first.what())))
            .remedy("replace the files reported above, or omit them")),
    }
}

/// Writes features and logits of the images that were read, as requested.
fn write_numbers(
    args: &PredictArgs,
    predictor: &model::Predictor,
    names: &[String],
    [features, logits]: [&[Tensor]; 2],
) -> Result<()> {
    let paths = serde_json::to_string(names).expect("names have a JSON form");
    let metadata =
        HashMap::from([("paths".to_string(), paths), ("model".to_string(), predictor.name.into())]);
    for (path, name, parts) in [(&args.features, "features", features), (&args.logits, "logits", logits)] {
        if let Some(path) = path {
            let all = Tensor::cat(&parts.iter().collect::<Vec<_>>(), 0)?;
            let bytes = to_safetensors(&[(name.to_string(), all)], Some(metadata.clone()));
            output_file::write(path, &bytes.map_err(|e| Error::usage(e.to_string()).at_path(path))?)?;
        }
    }
    Ok(())
}

enum Inputs {
    /// f32 `[n, h, w, c]`.
    Tensor(Tensor),
    Images(Vec<PathBuf>),
}

impl Inputs {
    fn len(&self) -> usize {
        match self {
            Inputs::Tensor(all) => all.dims()[0],
            Inputs::Images(paths) => paths.len(),
        }
    }

    fn name(&self, i: usize) -> String {
        match self {
            Inputs::Tensor(_) => i.to_string(),
            Inputs::Images(paths) => paths[i].display().to_string(),
        }
    }
}

/// Model outputs for a batch, on the CPU.
struct Outputs {
    features: Tensor,
    logits: Tensor,
}

/// Computes the outputs of images with `--tta` views each; the outputs of an image are the mean over its views.
fn forward(args: &PredictArgs, predictor: &model::Predictor, x: &Tensor, device: &Device) -> Result<Outputs> {
    let cx = &mut Context::eval().with_conv_algorithm(args.conv_algo.into());
    let views = args.tta;
    let images = x.dims()[0] / views;
    let both = || -> fornax_engine::Result<Outputs> {
        let features = predictor.model.forward_features(&x.to_device(device)?, cx)?;
        let mean = |values: Tensor| match views {
            1 => Ok(values),
            _ => values.reshape([images, views, values.dims()[1]])?.mean(&[1], false),
        };
        Ok(Outputs {
            logits: mean(predictor.model.forward_head(&features, false, cx)?)?.to_device(&Device::Cpu)?,
            features: mean(predictor.model.forward_head(&features, true, cx)?)?.to_device(&Device::Cpu)?,
        })
    };
    no_grad(both).map_err(|e| match e {
        fornax_engine::Error::Shape { .. } | fornax_engine::Error::Value { .. } => {
            let [h, w, c] = [1, 2, 3].map(|axis| x.dims()[axis]);
            Error::usage(format!("{} does not accept images of {h}x{w}x{c}", predictor.name))
                .because(e)
                .remedy("choose another --img-size")
        }
        other => other.into(),
    })
}

fn read_tensor(path: &Path) -> Result<Tensor> {
    let fail = |why: String| {
        let wanted = "pass a safetensors file with f32 `input` [n, c, h, w]";
        Error::data("the input cannot be read").at_path(path).because(why).remedy(wanted)
    };
    let bytes = read_weights(path)
        .map_err(|e| Error::unreadable(ErrorKind::Data, "the input cannot be read", path, &e))?;
    let input = SafetensorsFile::parse(&bytes).and_then(|file| file.tensor("input"));
    let input = input.map_err(|e| fail(e.to_string()))?;
    match input.dims() {
        [_, _, _, _] if input.dtype() == fornax_engine::DType::F32 && input.numel() > 0 => {
            Ok(Tensor::from_nchw(&input)?)
        }
        dims => Err(fail(format!("`input` is {}{dims:?}", input.dtype()))),
    }
}

fn number(text: &str, accepts: impl Fn(f64) -> bool, range: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|v| accepts(*v)).ok_or_else(|| format!("must be a number {range}"))
}

fn crop_fraction(text: &str) -> std::result::Result<f64, String> {
    number(text, |v| v > 0.0 && v <= 1.0, "above 0, at most 1")
}

fn finite(text: &str) -> std::result::Result<f32, String> {
    number(text, f64::is_finite, "that is finite").map(|v| v as f32)
}

fn positive(text: &str) -> std::result::Result<f32, String> {
    number(text, |v| v > 0.0 && v.is_finite(), "above 0").map(|v| v as f32)
}
