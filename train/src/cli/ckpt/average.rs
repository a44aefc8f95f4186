//! `fornax ckpt average`.
use super::strip;
use crate::cli::{print, table};
use crate::config::{IgnoredOption, ignored_warning};
use crate::settings::EvalMetric;
use crate::weights::{Weights, WeightsFile, WeightsIdentity};
use crate::{Error, Result};
use fornax_engine::{DType, Tensor};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Arguments of `fornax ckpt average`.
#[derive(clap::Args)]
pub struct AverageArgs {
    /// Checkpoints or other weights files of one model, or run folders, for their checkpoints
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Output file: the averaged weights as plain safetensors
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Average the N best checkpoints by validation metric [default: all]
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    top: Option<u32>,
    /// Metric that ranks checkpoints for --top [default: the run's --eval-metric]
    #[arg(long, value_name = "METRIC")]
    metric: Option<EvalMetric>,
    /// Average the EMA weights instead of the model's own
    #[arg(long)]
    use_ema: bool,
}

/// Checkpoint to average.
struct Candidate {
    file: WeightsFile,
    /// Epoch after which it was saved, counted from 0, and value of the metric.
    metric: Option<(u32, EvalMetric, f64)>,
}

pub fn execute(args: &AverageArgs) -> Result<()> {
    if args.metric.is_some() && args.top.is_none() {
        let ignored = IgnoredOption::new("metric", "--top is not given: all checkpoints are averaged");
        ignored_warning([&ignored]).iter().for_each(|warning| message!("{warning}"));
    }
    let mut candidates = vec![];
    for path in &args.paths {
        candidates.extend(candidates_at(path, args)?);
    }
    if let Some(top) = args.top {
        rank(&mut candidates)?;
        candidates.truncate(top as usize);
    }
    strip::check_output(&args.output, &candidates.iter().map(|c| &c.file).collect::<Vec<_>>())?;
    let weights = candidates.iter().map(|c| c.file.weights(args.use_ema)).collect::<Result<Vec<_>>>()?;
    check_same_tensors(&candidates, &weights)?;
    let tensors: Vec<(String, Tensor)> =
        weights[0].names().map(|name| Ok((name.clone(), average(name, &weights)?))).collect::<Result<_>>()?;
    strip::save(&args.output, &tensors, common_identity(&candidates)?.as_ref())?;
    let row = |candidate: &Candidate| {
        let path = candidate.file.path().display().to_string();
        match candidate.metric {
            Some((epoch, metric, value)) => {
                vec![path, format!("epoch {epoch}"), format!("{} {value:.4}", name(metric))]
            }
            None => vec![path],
        }
    };
    let rows: Vec<_> = candidates.iter().map(row).collect();
    let count = candidates.len();
    print(&format!("{}average of {count} files saved to {}\n", table(&rows, &[]), args.output.display()))
}

/// The checkpoints at a path. A run folder holds some states twice, such as an epoch that is also the best: each counts once. Those within an
/// epoch were not evaluated: a run folder's are not ranked.
fn candidates_at(path: &Path, args: &AverageArgs) -> Result<Vec<Candidate>> {
    let mut states = HashSet::new();
    let mut candidates = vec![];
    for file in super::files_at(path)? {
        let file = WeightsFile::open(&file)?;
        let header = file.checkpoint_header()?;
        let state = header.as_ref().map(|h| (h.state.epoch, h.state.batch, h.state.update));
        if path.is_dir() && state.is_some_and(|state| !states.insert(state)) {
            continue;
        }
        let metric = header.and_then(|header| {
            let metric = args.metric.or(header.settings.eval_metric).unwrap_or(EvalMetric::Top1);
            let state = header.state;
            let epoch =
                state.history.last().filter(|row| state.batch == 0 && row.epoch + 1 == state.epoch)?;
            Some((epoch.epoch, metric, metric.value(epoch)))
        });
        if metric.is_some() || args.top.is_none() || !path.is_dir() {
            candidates.push(Candidate { file, metric });
        }
    }
    Ok(candidates)
}

/// Sorts by the metric, the best first; the earlier of equals.
fn rank(candidates: &mut [Candidate]) -> Result<()> {
    if let Some(unranked) = candidates.iter().find(|candidate| candidate.metric.is_none()) {
        return Err(Error::usage("the file has no validation metric")
            .at_path(unranked.file.path())
            .because("--top ranks checkpoints of `fornax train` after an epoch")
            .remedy("omit --top, or omit this file"));
    }
    let metrics: HashSet<&str> = candidates.iter().filter_map(|c| Some(name(c.metric?.1))).collect();
    if metrics.len() > 1 {
        return Err(Error::usage("the checkpoints are ranked by different metrics")
            .remedy("choose one with --metric"));
    }
    let key = |candidate: &Candidate| match candidate.metric {
        Some((epoch, metric, value)) => (if metric.lower_is_better() { value } else { -value }, epoch),
        None => (f64::INFINITY, 0),
    };
    candidates.sort_by(|a, b| key(a).0.total_cmp(&key(b).0).then(key(a).1.cmp(&key(b).1)));
    Ok(())
}

fn name(metric: EvalMetric) -> &'static str {
    match metric {
        EvalMetric::Top1 => "top-1",
        EvalMetric::Top5 => "top-5",
        EvalMetric::Loss => "loss",
    }
}

fn check_same_tensors(candidates: &[Candidate], weights: &[Weights]) -> Result<()> {
    let (first, others) = (&weights[0], &weights[1..]);
    for (other, candidate) in others.iter().zip(&candidates[1..]) {
        let differs = |name: &&String| {
            let stored = |weights: &Weights| weights.get(name).map(|s| (s.dtype, s.shape.clone()));
            stored(first) != stored(other)
        };
        if let Some(name) = first.names().chain(other.names()).find(differs) {
            return Err(Error::checkpoint("the files hold different models")
                .at_path(candidate.file.path())
                .because(format!(
                    "{name} is missing, or of another dtype or shape than in {}",
                    candidates[0].file.path().display()
                ))
                .remedy("pass checkpoints of one model"));
        }
    }
    Ok(())
}

/// Identity of the average: the first file's. Notes if another file says something else.
fn common_identity(candidates: &[Candidate]) -> Result<Option<WeightsIdentity>> {
    let mut first: Option<WeightsIdentity> = None;
    for candidate in candidates {
        let Some(identity) = candidate.file.identity()? else { continue };
        match &first {
            None => first = Some(identity),
            Some(first) if first.metadata() != identity.metadata() => message!(
                "note: {} differs in its classes or input; the average has those of the first file",
                candidate.file.path().display()
            ),
            Some(_) => {}
        }
    }
    Ok(first)
}

/// The mean over all files in f64, rounded to the tensor's dtype. Counters are rounded to integers.
fn average(name: &str, weights: &[Weights]) -> Result<Tensor> {
    let (mut sums, mut shape, mut dtype) = (vec![], vec![], DType::F32);
    for one in weights {
        let tensor = one.tensor(name)?;
        (shape, dtype) = (tensor.dims().to_vec(), tensor.dtype());
        let wide = tensor.to_dtype(DType::F64)?;
        let values = wide.read::<f64>()?;
        sums.resize(values.len(), 0.0);
        sums.iter_mut().zip(&*values).for_each(|(sum, value)| *sum += value);
    }
    let count = weights.len() as f64;
    let mean = |sum: f64| if dtype.is_float() { sum / count } else { (sum / count).round() };
    Ok(Tensor::from_vec(sums.into_iter().map(mean).collect::<Vec<f64>>(), shape)?.to_dtype(dtype)?)
}
