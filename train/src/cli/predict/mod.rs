//! `fornax predict`: what a trained model says about pictures.
mod images;
mod model;
mod output;

use crate::checkpoint::durable;
use crate::data::eval_transform::CropMode;
use crate::data::resize::Filter;
use crate::weights::Source;
use crate::{Error, Result};
use clap::value_parser;
use fornax_engine::{Device, MappedFile, Tensor, no_grad};
use fornax_nn::state_dict::{SafetensorsFile, to_safetensors};
use fornax_nn::{Context, move_to};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What `fornax predict` accepts.
#[derive(clap::Args)]
#[command(disable_help_flag = true, group(clap::ArgGroup::new("numbers").multiple(true)))]
pub struct PredictArgs {
    /// Pictures (PNG, JPEG, WebP), or folders of them
    #[arg(value_name = "IMAGE", required_unless_present = "tensor")]
    images: Vec<PathBuf>,

    /// Model; `fornax models` lists them [default: the one that a checkpoint of fornax train is of]
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    model: Option<String>,
    /// A safetensors file, a folder that holds one, or hf-hub:ORGANISATION/NAME [default: the model's published ones]
    #[arg(long, value_name = "SOURCE", help_heading = "Model")]
    weights: Option<Source>,
    /// Take the moving average that a checkpoint holds, rather than the model's own weights
    #[arg(long, help_heading = "Model")]
    use_ema: bool,
    /// Classes of the head; 0 for none [default: as many as the weights have]
    #[arg(long, value_name = "N", help_heading = "Model")]
    num_classes: Option<usize>,
    /// Channels of the images, to which the weights are adapted [default: as many as the weights have]
    #[arg(long, value_name = "C", help_heading = "Model")]
    in_chans: Option<usize>,
    /// Further options of the model, as global_pool=max
    #[arg(long, value_name = "KEY=VALUE", num_args = 1.., help_heading = "Model")]
    model_kwargs: Vec<String>,
    /// Names of the classes, one a line, in the order of the logits
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    class_map: Option<PathBuf>,

    /// Size that pictures are brought to, as 224 or 224x160 [default: the model's own]
    #[arg(long, value_name = "SIZE", value_parser = super::models::size, help_heading = "Images")]
    img_size: Option<[usize; 2]>,
    /// Part of the resized side that is kept [default: the model's own]
    #[arg(long, value_name = "P", value_parser = share, help_heading = "Images")]
    crop_pct: Option<f64>,
    /// What is cut off or filled up to reach the aspect ratio [default: the model's own]
    #[arg(long, value_name = "MODE", help_heading = "Images")]
    crop_mode: Option<CropMode>,
    /// Filter that pictures are resized with [default: the model's own]
    #[arg(long, value_name = "FILTER", help_heading = "Images")]
    interpolation: Option<Filter>,
    /// Mean of values from 0 to 1, for all channels or for each [default: the model's own]
    #[arg(long, value_name = "M", num_args = 1.., value_parser = finite, help_heading = "Images")]
    mean: Option<Vec<f32>>,
    /// Standard deviation of the same [default: the model's own]
    #[arg(long, value_name = "S", num_args = 1.., value_parser = positive, help_heading = "Images")]
    std: Option<Vec<f32>>,

    /// Classes to print
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = value_parser!(u32).range(1..), help_heading = "Output")]
    topk: u32,
    /// Print one JSON object a picture
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Write what the classifier gets, f32 `features` [n, d]; the metadata's `paths` is a JSON list of the pictures
    #[arg(long, value_name = "FILE", group = "numbers", help_heading = "Output")]
    features: Option<PathBuf>,
    /// Write f32 `logits` [n, classes]
    #[arg(long, value_name = "FILE", group = "numbers", help_heading = "Output")]
    logits: Option<PathBuf>,

    /// Pictures in a batch
    #[arg(long, short = 'b', value_name = "N", default_value_t = 32, value_parser = value_parser!(u32).range(1..), help_heading = "Run")]
    batch_size: u32,
    /// Where to compute, as for `fornax train`
    #[arg(long, value_name = "DEVICE", default_value = "auto", help_heading = "Run")]
    device: crate::device::DeviceSpec,
    /// Threads [default: one for each processor]; results do not depend on it
    #[arg(long, value_name = "N", help_heading = "Run", value_parser = value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Take numbers in place of pictures: a safetensors file with f32 `input` [n, c, h, w], as the model gets them
    #[arg(long, value_name = "FILE", conflicts_with_all = OF_PICTURES, requires = "numbers", help_heading = "Run")]
    tensor: Option<PathBuf>,
    /// Print help
    #[arg(long, short, action = clap::ArgAction::HelpShort, help_heading = "Run")]
    help: Option<bool>,
}

/// What has no effect on numbers.
const OF_PICTURES: [&str; 8] =
    ["images", "crop_pct", "crop_mode", "interpolation", "mean", "std", "json", "class_map"];

pub fn execute(args: &PredictArgs) -> Result<()> {
    super::train::set_threads(args.threads)?;
    let inputs = match &args.tensor {
        Some(path) => Inputs::Tensor(read_tensor(path)?),
        None => Inputs::Pictures(images::gather(&args.images)?),
    };
    let predictor = model::load(args)?;
    let device = args.device.open()?;
    move_to(&*predictor.model, &device)?;
    let (mut names, mut features, mut logits) = (vec![], vec![], vec![]);
    let batch = args.batch_size as usize;
    for first in (0..inputs.len()).step_by(batch) {
        let count = batch.min(inputs.len() - first);
        let x = match &inputs {
            Inputs::Tensor(all) => all.narrow(0, first, count)?,
            Inputs::Pictures(paths) => images::batch(&paths[first..][..count], &predictor.transform)?,
        };
        let out = forward(&predictor, &x, &device)?;
        if args.tensor.is_none() && predictor.classes > 0 {
            let rows = out.logits.read::<f32>()?;
            for (i, row) in rows.chunks_exact(predictor.classes).enumerate() {
                let name = inputs.name(first + i);
                super::print(&output::text(&name, row, &predictor.names, args.topk as usize, args.json));
            }
        }
        names.extend((first..first + count).map(|i| inputs.name(i)));
        features.push(out.features);
        logits.push(out.logits);
    }
    let paths = serde_json::to_string(&names).expect("names have a JSON form");
    let metadata =
        HashMap::from([("paths".to_string(), paths), ("model".to_string(), predictor.name.into())]);
    for (path, name, parts) in [(&args.features, "features", features), (&args.logits, "logits", logits)] {
        if let Some(path) = path {
            let all = Tensor::concat(&parts.iter().collect::<Vec<_>>(), 0)?;
            let bytes = to_safetensors(&[(name.to_string(), all)], Some(metadata.clone()));
            durable::write(path, &bytes.map_err(|e| Error::usage(e.to_string()).at_path(path))?)?;
        }
    }
    Ok(())
}

enum Inputs {
    /// f32 `[n, h, w, c]`.
    Tensor(Tensor),
    Pictures(Vec<PathBuf>),
}

impl Inputs {
    fn len(&self) -> usize {
        match self {
            Inputs::Tensor(all) => all.dims()[0],
            Inputs::Pictures(paths) => paths.len(),
        }
    }

    fn name(&self, i: usize) -> String {
        match self {
            Inputs::Tensor(_) => i.to_string(),
            Inputs::Pictures(paths) => paths[i].display().to_string(),
        }
    }
}

/// What a model says about a batch, on the CPU.
struct Outputs {
    features: Tensor,
    logits: Tensor,
}

fn forward(predictor: &model::Predictor, x: &Tensor, device: &Device) -> Result<Outputs> {
    let cx = &mut Context::eval();
    let both = || -> fornax_engine::Result<Outputs> {
        let features = predictor.model.forward_features(&x.to_device(device)?, cx)?;
        Ok(Outputs {
            logits: predictor.model.forward_head(&features, false, cx)?.to_device(&Device::Cpu)?,
            features: predictor.model.forward_head(&features, true, cx)?.to_device(&Device::Cpu)?,
        })
    };
    no_grad(both).map_err(|e| match e {
        fornax_engine::Error::Shape { .. } | fornax_engine::Error::Value { .. } => {
            let [h, w, c] = [1, 2, 3].map(|axis| x.dims()[axis]);
            Error::usage(format!("{} does not take images of {h}x{w}x{c}", predictor.name))
                .because(e)
                .remedy("choose another --img-size")
        }
        other => other.into(),
    })
}

fn read_tensor(path: &Path) -> Result<Tensor> {
    let fail = |why: String| {
        let wanted = "it needs a safetensors file with f32 `input` [n, c, h, w]";
        Error::data("the input cannot be read").at_path(path).because(why).remedy(wanted)
    };
    let bytes = MappedFile::open(path).map_err(|e| fail(e.to_string()))?;
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

fn share(text: &str) -> std::result::Result<f64, String> {
    number(text, |v| v > 0.0 && v <= 1.0, "above 0, at most 1")
}

fn finite(text: &str) -> std::result::Result<f32, String> {
    number(text, f64::is_finite, "that is finite").map(|v| v as f32)
}

fn positive(text: &str) -> std::result::Result<f32, String> {
    number(text, |v| v > 0.0 && v.is_finite(), "above 0").map(|v| v as f32)
}
