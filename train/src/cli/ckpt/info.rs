//! `fornax ckpt info`.
use crate::Result;
use crate::checkpoint::{CheckpointHeader, EMA, OPTIMIZER};
use crate::cli::{print, table};
use crate::message::count;
use crate::report::{bytes, thousands};
use crate::settings::EvalMetric;
use crate::weights::{TensorFile, WeightsIdentity};
use fornax_nn::state_dict::TensorInfo;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Arguments of `fornax ckpt info`.
#[derive(clap::Args)]
pub struct InfoArgs {
    /// Checkpoint or other weights file, or a run folder, for its checkpoint `best`
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// List every tensor: name, dtype, shape
    #[arg(long)]
    tensors: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn execute(args: &InfoArgs) -> Result<()> {
    let weights = super::open(&args.path)?;
    let file = weights.parse()?;
    let header = weights.checkpoint_header()?;
    let identity = weights.identity()?;
    let format = match (&file, &header) {
        (_, Some(_)) => ["fornax", "Fornax checkpoint"],
        (TensorFile::Safetensors(_), _) => ["safetensors", "safetensors"],
        (TensorFile::PyTorch(_), _) => ["pytorch", "PyTorch"],
    };
    let groups = groups(&file, header.is_some());
    if args.json {
        let mut object = json!({
            "path": weights.path().display().to_string(),
            "bytes": weights.size(),
            "format": format[0],
            "tensors": groups.iter().map(|group| (group.name, group.json())).collect::<BTreeMap<_, _>>(),
            "metadata": file.metadata().iter().filter(|(key, _)| !key.starts_with("fornax.")).collect::<BTreeMap<_, _>>(),
        });
        if let Some(identity) = &identity {
            object["model"] = identity.json();
        }
        if let Some(header) = &header {
            object["checkpoint"] = json!({
                "epoch": header.state.epoch,
                "batch": header.state.batch,
                "update": header.state.update,
                "classes": header.classes,
                "image_size": header.image_size,
                "history": header.state.history,
                "settings": header.settings.given(),
            });
        }
        if args.tensors {
            let entry = |(name, stored): (&String, &TensorInfo)| json!({ "name": name, "dtype": stored.stored.to_string(), "shape": stored.shape });
            object["list"] = file.tensors().iter().map(entry).collect();
        }
        return print(&format!("{object}\n"));
    }
    let size = bytes(weights.size() as u64);
    let mut rows: Vec<[String; 2]> = vec![
        ["file".into(), format!("{}, {size}", weights.path().display())],
        ["format".into(), format[1].into()],
    ];
    rows.extend(identity.iter().flat_map(describe_model));
    rows.extend(header.iter().flat_map(describe_progress));
    rows.extend(groups.iter().map(|group| [group.name.into(), group.text()]));
    let rows: Vec<Vec<String>> = rows.into_iter().map(Vec::from).collect();
    let mut text = table(&rows, &[]);
    if args.tensors {
        let mut rows = vec![["TENSOR", "DTYPE", "SHAPE"].map(String::from).to_vec()];
        rows.extend(file.tensors().iter().map(|(name, stored)| {
            vec![name.clone(), stored.stored.to_string(), format!("{:?}", stored.shape)]
        }));
        text += &format!("\n{}", table(&rows, &[]));
    }
    print(&text)
}

/// Maximum number of class names in a line of text.
const MAX_CLASSES: usize = 20;

/// Rows about the model, its classes and its input.
fn describe_model(identity: &WeightsIdentity) -> Vec<[String; 2]> {
    let WeightsIdentity { settings, classes } = identity;
    let mut model = vec![settings.model.clone().unwrap_or_else(|| "unknown".into())];
    if !classes.is_empty() {
        model.push(count(classes.len() as u64, "class"));
    }
    if let Some([c, h, w]) = settings.input_size.as_deref() {
        model.push(format!("input {h}x{w}x{c}"));
    }
    let mut rows = vec![["model".into(), model.join(", ")]];
    if !classes.is_empty() {
        let more = classes.len().saturating_sub(MAX_CLASSES);
        let more = if more > 0 { format!(", and {more} more (--json lists all)") } else { String::new() };
        let shown: Vec<&str> = classes.iter().take(MAX_CLASSES).map(String::as_str).collect();
        rows.push(["classes".into(), shown.join(", ") + &more]);
    }
    rows
}

/// Rows about the progress of a run.
fn describe_progress(header: &CheckpointHeader) -> Vec<[String; 2]> {
    let CheckpointHeader { settings, state, .. } = header;
    let mut rows = vec![];
    let within =
        if state.batch > 0 { format!(" and {}", count(state.batch as u64, "batch")) } else { String::new() };
    let progress =
        format!("{}{within}, {}", count(state.epoch.into(), "epoch"), count(state.update, "update"));
    rows.push(["progress".into(), progress]);
    let metric = settings.eval_metric.unwrap_or(EvalMetric::Top1);
    for (name, epoch) in [("last epoch", state.history.last()), ("best epoch", state.best(metric))] {
        rows.extend(epoch.map(|row| {
            let (top1, top5, loss) = (row.eval_top1, row.eval_top5, row.eval_loss);
            [name.into(), format!("{}: top-1 {top1:.2}%  top-5 {top5:.2}%  loss {loss:.4}", row.epoch)]
        }));
    }
    rows
}

/// Tensors of one purpose.
struct TensorGroup {
    name: &'static str,
    tensors: usize,
    elements: u64,
    bytes: u64,
    dtypes: BTreeSet<String>,
}

impl TensorGroup {
    fn text(&self) -> String {
        let dtypes: Vec<&str> = self.dtypes.iter().map(String::as_str).collect();
        let (tensors, elements) = (thousands(self.tensors as u64), thousands(self.elements));
        format!("{tensors} tensors of {elements} elements, {} in {}", bytes(self.bytes), dtypes.join(" and "))
    }

    fn json(&self) -> Value {
        json!({ "count": self.tensors, "elements": self.elements, "bytes": self.bytes, "dtypes": self.dtypes })
    }
}

/// The tensors of a file by purpose: weights, EMA weights and optimizer state; all are weights if Fornax did not write the file.
fn groups(file: &TensorFile, is_checkpoint: bool) -> Vec<TensorGroup> {
    let has_ema = is_checkpoint || matches!(file, TensorFile::PyTorch(_));
    let purpose = |name: &str| match name {
        name if has_ema && name.starts_with(EMA) => "EMA",
        name if is_checkpoint && name.starts_with(OPTIMIZER) => "optimizer",
        _ => "weights",
    };
    let all = ["weights", "EMA", "optimizer"].map(|name| {
        let mut group = TensorGroup { name, tensors: 0, elements: 0, bytes: 0, dtypes: BTreeSet::new() };
        for (_, stored) in file.tensors().iter().filter(|(stored, _)| purpose(stored) == name) {
            let elements = stored.shape.iter().product::<usize>() as u64;
            group.tensors += 1;
            group.elements += elements;
            group.bytes += elements * stored.stored.size() as u64;
            group.dtypes.insert(stored.stored.to_string());
        }
        group
    });
    all.into_iter().filter(|group| group.tensors > 0).collect()
}
