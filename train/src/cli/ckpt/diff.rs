//! `fornax ckpt diff`.
use crate::cli::{print, table};
use crate::report::thousands;
use crate::weights::{TensorFile, WeightsFile};
use crate::{Error, Result};
use fornax_engine::{DType, Tensor};
use fornax_nn::state_dict::TensorInfo;
use serde_json::{Map, Value, json};
use std::cmp::Ordering;
use std::path::PathBuf;

/// Arguments of `fornax ckpt diff`.
#[derive(clap::Args)]
pub struct DiffArgs {
    /// First file, or run folder, for its checkpoint `best`
    #[arg(value_name = "A")]
    a: PathBuf,
    /// Second file or run folder
    #[arg(value_name = "B")]
    b: PathBuf,
    /// Number of tensors to list, the largest relative differences first
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Print one JSON object with every difference
    #[arg(long)]
    json: bool,
}

/// Difference of a tensor that both files hold.
struct TensorDifference {
    name: String,
    kind: DifferenceKind,
}

enum DifferenceKind {
    /// Dtype or shape of both files.
    Type([String; 2]),
    /// Number of elements that differ, number of elements, the largest absolute difference, and its ratio to the largest absolute value.
    Values { different: usize, elements: usize, max: f64, relative: f64 },
}

pub fn execute(args: &DiffArgs) -> Result<()> {
    let files = [super::open(&args.a)?, super::open(&args.b)?];
    let parsed = [files[0].parse()?, files[1].parse()?];
    let only = [0, 1].map(|i| {
        let (own, other) = (parsed[i].tensors(), parsed[1 - i].tensors());
        own.keys().filter(|name| !other.contains_key(*name)).cloned().collect::<Vec<_>>()
    });
    let mut differences = vec![];
    for (name, a) in parsed[0].tensors() {
        let Some(b) = parsed[1].tensors().get(name) else { continue };
        let kind = difference(&files, &parsed, name, [a, b])?;
        differences.extend(kind.map(|kind| TensorDifference { name: name.clone(), kind }));
    }
    differences.sort_by(|a, b| b.order().partial_cmp(&a.order()).unwrap_or(Ordering::Equal));
    let settings = settings(&files)?;
    if args.json {
        return print(&format!("{}\n", as_json(&differences, &only, settings)));
    }
    let common = parsed[0].tensors().len() - only[0].len();
    print(&text(args, &differences, &only, &settings, common))
}

impl TensorDifference {
    /// Order of the list: types first, then the largest relative difference, and counters last.
    fn order(&self) -> (bool, f64) {
        match &self.kind {
            DifferenceKind::Type(_) => (true, f64::INFINITY),
            DifferenceKind::Values { relative, .. } => (!self.is_counter(), *relative),
        }
    }

    /// True for counters of batches and updates.
    fn is_counter(&self) -> bool {
        self.name.ends_with("num_batches_tracked") || self.name == "optimizer/step"
    }
}

fn difference(
    files: &[WeightsFile; 2],
    parsed: &[TensorFile; 2],
    name: &str,
    stored: [&TensorInfo; 2],
) -> Result<Option<DifferenceKind>> {
    let [a, b] = stored;
    if (a.dtype, &a.shape) != (b.dtype, &b.shape) {
        return Ok(Some(DifferenceKind::Type(stored.map(|s| format!("{}{:?}", s.dtype, s.shape)))));
    }
    let read = |i: usize| -> Result<Tensor> {
        let fail = |e: fornax_nn::Error| Error::checkpoint(e.to_string()).at_path(files[i].path());
        Ok(parsed[i].tensor(name).map_err(fail)?.to_dtype(DType::F64)?)
    };
    let (a, b) = (read(0)?, read(1)?);
    let (a, b) = (a.read::<f64>()?, b.read::<f64>()?);
    // Equal bits of NaN are equal.
    let different = a.iter().zip(&*b).filter(|(a, b)| a != b && a.to_bits() != b.to_bits());
    let (mut count, mut max) = (0, 0.0f64);
    for (a, b) in different {
        count += 1;
        let by = (a - b).abs();
        max = if by.is_nan() { f64::INFINITY } else { max.max(by) };
    }
    let largest = a.iter().chain(&*b).map(|value| value.abs()).filter(|v| v.is_finite()).fold(0.0, f64::max);
    let relative = if max.is_finite() && largest > 0.0 { max / largest } else { max };
    Ok((count > 0).then_some(DifferenceKind::Values { different: count, elements: a.len(), max, relative }))
}

/// Settings that differ, with both values; empty unless both files are checkpoints.
fn settings(files: &[WeightsFile; 2]) -> Result<Map<String, Value>> {
    let headers = [files[0].checkpoint_header()?, files[1].checkpoint_header()?];
    let [Some(a), Some(b)] = headers.map(|header| header.map(|header| header.settings.given())) else {
        return Ok(Map::new());
    };
    let value = |map: &Map<String, Value>, key: &String| map.get(key).cloned().unwrap_or(Value::Null);
    let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
    let differing = keys.filter(|key| a.get(*key) != b.get(*key));
    Ok(differing.map(|key| (key.clone(), json!([value(&a, key), value(&b, key)]))).collect())
}

fn as_json(differences: &[TensorDifference], only: &[Vec<String>; 2], settings: Map<String, Value>) -> Value {
    let entry = |difference: &TensorDifference| match &difference.kind {
        DifferenceKind::Type(types) => json!({ "name": difference.name, "types": types }),
        DifferenceKind::Values { different, elements, max, relative } => {
            let [max, relative] =
                [max, relative].map(|value| if value.is_finite() { json!(value) } else { Value::Null });
            json!({ "name": difference.name, "different": different, "elements": elements, "max": max, "relative": relative })
        }
    };
    json!({
        "equal": differences.is_empty() && only.iter().all(Vec::is_empty),
        "tensors": differences.iter().map(entry).collect::<Vec<_>>(),
        "only_a": only[0],
        "only_b": only[1],
        "settings": settings,
    })
}

fn text(
    args: &DiffArgs,
    differences: &[TensorDifference],
    only: &[Vec<String>; 2],
    settings: &Map<String, Value>,
    common: usize,
) -> String {
    let mut text = String::new();
    if !settings.is_empty() {
        let mut rows = vec![["SETTING", "A", "B"].map(String::from).to_vec()];
        let shown = |value: &Value| if value.is_null() { "unset".into() } else { value.to_string() };
        rows.extend(settings.iter().map(|(key, both)| vec![key.clone(), shown(&both[0]), shown(&both[1])]));
        text += &format!("{}\n", table(&rows, &[]));
    }
    let counters = differences.iter().filter(|difference| difference.is_counter()).count();
    if differences.len() > counters {
        let header = ["TENSOR", "DIFFERENT", "OF", "LARGEST DIFFERENCE", "RELATIVE"];
        let mut rows = vec![header.map(String::from).to_vec()];
        let shown = differences.iter().filter(|difference| !difference.is_counter()).take(args.limit);
        rows.extend(shown.map(|difference| match &difference.kind {
            DifferenceKind::Type([a, b]) => {
                vec![difference.name.clone(), a.clone(), b.clone(), "type".into()]
            }
            DifferenceKind::Values { different, elements, max, relative } => vec![
                difference.name.clone(),
                thousands(*different as u64),
                thousands(*elements as u64),
                format!("{max:.3e}"),
                format!("{relative:.3e}"),
            ],
        }));
        text += &format!("{}\n", table(&rows, &[1, 2, 3, 4]));
    }
    if counters > 0 {
        text += &format!("{counters} counters of batches or updates differ\n");
    }
    for (names, path) in only.iter().zip([&args.a, &args.b]).filter(|(names, _)| !names.is_empty()) {
        let shown: Vec<&str> = names.iter().take(args.limit).map(String::as_str).collect();
        let more = names.len() - shown.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        text += &format!("only in {}: {}{more}\n", path.display(), shown.join(", "));
    }
    match (differences.len(), only.iter().all(Vec::is_empty)) {
        (0, true) => text + &format!("all {common} tensors are equal\n"),
        (count, _) => text + &format!("{count} of {common} common tensors differ\n"),
    }
}
