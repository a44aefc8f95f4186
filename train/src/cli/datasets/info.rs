//! `fornax datasets info`.
use super::args::DatasetArgs;
use super::{print, splits, table};
use crate::Result;
use crate::data::decode::{DecodeOptions, decode_file, gray16_note};
use crate::data::{Dataset, DatasetSplits, SampleImage};
use crate::message::{count, is_or_are};
use crate::report::thousands;
use crate::text::escape_control;
use rayon::prelude::*;
use serde_json::{Value, json};

/// Arguments of `fornax datasets info`.
#[derive(clap::Args)]
pub struct InfoArgs {
    #[command(flatten)]
    dataset: DatasetArgs,
    /// Image files that are decoded for the sizes, evenly spaced; 0 for none
    #[arg(long, value_name = "N", default_value_t = 1000)]
    size_samples: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs `fornax datasets info`.
pub fn execute(args: &InfoArgs) -> Result<()> {
    let data = args.dataset.options()?.open()?;
    let splits: Vec<SplitInfo> = splits(&data)
        .into_iter()
        .map(|(name, split)| SplitInfo::new(name, &**split, args.size_samples, args.dataset.channels()))
        .collect();
    if args.json {
        return print(&format!("{}\n", as_json(&data, &splits)));
    }
    let mut text = format!("dataset     {}\nclasses     {}\n", data.name, data.classes.len());
    data.notes.iter().for_each(|note| text += &format!("note        {note}\n"));
    splits.iter().for_each(|split| text += &split.lines());
    let mut rows = vec![vec!["CLASS".to_string(), "NAME".into()]];
    rows[0].extend(splits.iter().map(|split| split.name.to_uppercase()));
    for (class, name) in data.classes.iter().enumerate() {
        let mut row = vec![class.to_string(), escape_control(name).into_owned()];
        row.extend(splits.iter().map(|split| thousands(split.counts[class] as u64)));
        rows.push(row);
    }
    print(&format!("{text}\n{}", table(&rows, &[0, 2, 3])))
}

/// Counts and image sizes of a split.
struct SplitInfo {
    name: &'static str,
    samples: usize,
    clip_len: usize,
    /// Samples per class.
    counts: Vec<usize>,
    /// Number of images that were decoded.
    decoded: usize,
    /// Heights and widths of the decoded images, ascending.
    extents: [Vec<usize>; 2],
    unreadable: usize,
    repaired: usize,
    gray16: usize,
}

impl SplitInfo {
    /// Counts the samples of a split, and decodes at most `limit` of its images.
    fn new(name: &'static str, dataset: &dyn Dataset, limit: usize, channels: usize) -> SplitInfo {
        let decoded = limit.min(dataset.len());
        let index = |i: usize| (i as u128 * dataset.len() as u128 / decoded as u128) as usize;
        let files: Vec<ImageInfo> =
            (0..decoded).into_par_iter().filter_map(|i| decode(dataset, index(i), channels)).collect();
        let extents = [0, 1].map(|axis| {
            let mut extents: Vec<usize> = files.iter().map(|file| file.size[axis]).collect();
            extents.sort_unstable();
            extents
        });
        SplitInfo {
            name,
            samples: dataset.len(),
            clip_len: dataset.clip_len(),
            counts: counts(dataset),
            decoded,
            extents,
            unreadable: decoded - files.len(),
            repaired: files.iter().filter(|file| file.is_repaired).count(),
            gray16: files.iter().filter(|file| file.is_gray16).count(),
        }
    }

    /// Lines for the terminal.
    fn lines(&self) -> String {
        let frames = if self.clip_len > 1 { format!(" of {} frames", self.clip_len) } else { String::new() };
        let mut text = format!("{:<11} {}{frames}", self.name, count(self.samples as u64, "sample"));
        let decoded = thousands(self.decoded as u64);
        if self.decoded > 0 {
            text += &format!(", height {}, width {}", range(&self.extents[0]), range(&self.extents[1]));
        }
        if 0 < self.decoded && self.decoded < self.samples {
            text += &format!(" in {decoded} of them");
        }
        if self.unreadable > 0 {
            text += &format!("; {} cannot be read, see `fornax datasets verify`", self.unreadable);
        }
        if self.repaired > 0 {
            let files = self.repaired as u64;
            text += &format!("; {} {} repaired as libjpeg does", count(files, "file"), is_or_are(files));
        }
        text += "\n";
        if let Some(note) = gray16_note(self.gray16, self.decoded) {
            text += &format!("note        {note}\n");
        }
        text
    }
}

/// Smallest, median and largest of ascending extents.
fn range(extents: &[usize]) -> String {
    match (extents.first(), extents.last()) {
        (Some(first), Some(last)) if first == last => first.to_string(),
        (Some(first), Some(last)) => format!("{first} to {last} (median {})", extents[extents.len() / 2]),
        _ => "unknown".into(),
    }
}

/// What is reported of an image.
struct ImageInfo {
    size: [usize; 3],
    is_repaired: bool,
    is_gray16: bool,
}

/// Decodes an image; `None` if it cannot be read.
fn decode(dataset: &dyn Dataset, index: usize, channels: usize) -> Option<ImageInfo> {
    match dataset.image(index).ok()? {
        SampleImage::Decoded(image) => {
            Some(ImageInfo { size: image.size, is_repaired: false, is_gray16: false })
        }
        SampleImage::Encoded(bytes) => {
            let file = decode_file(&bytes, &DecodeOptions::new(channels)).ok()?;
            let (size, is_repaired) = (file.image.size, file.repair.is_some());
            Some(ImageInfo { size, is_repaired, is_gray16: file.is_gray16 })
        }
    }
}

fn as_json(data: &DatasetSplits, splits: &[SplitInfo]) -> Value {
    let extent = |extents: &[usize]| match extents {
        [] => Value::Null,
        all => json!({ "min": all[0], "median": all[all.len() / 2], "max": all[all.len() - 1] }),
    };
    let of_split = |split: &SplitInfo| {
        json!({
            "name": split.name,
            "samples": split.samples,
            "frames": split.clip_len,
            "decoded": split.decoded,
            "height": extent(&split.extents[0]),
            "width": extent(&split.extents[1]),
            "unreadable": split.unreadable,
            "repaired": split.repaired,
            "gray16": split.gray16,
        })
    };
    let of_class = |(class, name): (usize, &String)| {
        let mut entry = json!({ "class": class, "name": name });
        splits.iter().for_each(|split| entry[split.name] = split.counts[class].into());
        entry
    };
    json!({
        "dataset": data.name,
        "notes": data.notes,
        "splits": splits.iter().map(of_split).collect::<Vec<_>>(),
        "classes": data.classes.iter().enumerate().map(of_class).collect::<Vec<_>>(),
    })
}

/// Samples per class.
fn counts(dataset: &dyn Dataset) -> Vec<usize> {
    let mut counts = vec![0; dataset.classes().len()];
    (0..dataset.len()).for_each(|index| counts[dataset.target(index) as usize] += 1);
    counts
}
