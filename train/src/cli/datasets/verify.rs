//! `fornax datasets verify`.
use super::args::DatasetArgs;
use super::{print, splits};
use crate::data::decode::{DecodeOptions, JpegRepair, decode_file, gray16_note};
use crate::data::identical::{Fingerprint, IdenticalSamples, SampleId, fingerprint, identical_samples};
use crate::data::{Dataset, SampleImage};
use crate::error::ErrorKind;
use crate::message::{count, is_or_are};
use crate::report::thousands;
use crate::text::{escape_control, first_names};
use crate::{Error, Result};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Arguments of `fornax datasets verify`.
#[derive(clap::Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    dataset: DatasetArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Finding about a sample that can be read or not.
#[derive(Default)]
struct Sample {
    /// Reason why it cannot be read.
    defect: Option<String>,
    repair: Option<JpegRepair>,
    is_gray16: bool,
    fingerprint: Option<Fingerprint>,
}

/// Findings about a split.
struct VerifiedSplit<'a> {
    name: &'static str,
    dataset: &'a dyn Dataset,
    samples: Vec<Sample>,
}

/// Runs `fornax datasets verify`.
pub fn execute(args: &VerifyArgs) -> Result<()> {
    let data = args.dataset.options()?.open()?;
    data.notes.iter().for_each(|note| message!("note: {note}"));
    let verified: Vec<VerifiedSplit> = splits(&data)
        .into_iter()
        .map(|(name, split)| {
            let samples = (0..split.len()).into_par_iter().map(|index| verify(&**split, index));
            Ok(VerifiedSplit { name, dataset: &**split, samples: samples.collect::<Result<_>>()? })
        })
        .collect::<Result<_>>()?;
    let datasets: Vec<&dyn Dataset> = verified.iter().map(|split| split.dataset).collect();
    let fingerprints: Vec<Vec<Option<Fingerprint>>> = verified
        .iter()
        .map(|split| split.samples.iter().map(|sample| sample.fingerprint).collect())
        .collect();
    let identical = identical_samples(&datasets, &fingerprints)?;
    if args.json {
        print(&format!("{}\n", as_json(&data.name, &data.notes, &verified, &identical)))?;
    }
    for split in &verified {
        split.report(args.json)?;
    }
    report_identical(&verified, &identical);
    let bad: usize = verified.iter().map(|split| split.defects().count()).sum();
    let total: usize = verified.iter().map(|split| split.samples.len()).sum();
    match bad {
        0 => Ok(()),
        bad => Err(Error::data(format!("{bad} of {total} samples cannot be read"))
            .at(&data.name)
            .because("they are damaged, too large or of an unknown format")
            .remedy("replace or remove the files listed on stdout")),
    }
}

/// Reads and decodes a sample, all frames of a clip. Errors if the sample is not to blame.
fn verify(dataset: &dyn Dataset, index: usize) -> Result<Sample> {
    let images = match dataset.clip(index, None) {
        Ok(images) => images,
        Err(error) if error.kind() == ErrorKind::OpenFiles => return Err(error),
        Err(error) => {
            let defect = Some(error.why().unwrap_or(error.what()).into());
            return Ok(Sample { defect, ..Sample::default() });
        }
    };
    let mut sample = Sample { fingerprint: Some(fingerprint(&images)), ..Sample::default() };
    for image in images {
        if let SampleImage::Encoded(bytes) = image {
            match decode_file(&bytes, &DecodeOptions::new(3)) {
                Ok(file) => {
                    sample.repair = sample.repair.or(file.repair);
                    sample.is_gray16 |= file.is_gray16;
                }
                Err(why) => sample.defect = sample.defect.or(Some(why)),
            }
        }
    }
    Ok(sample)
}

impl VerifiedSplit<'_> {
    /// Index and reason of each sample that cannot be read.
    fn defects(&self) -> impl Iterator<Item = (usize, &str)> {
        self.samples.iter().enumerate().filter_map(|(index, sample)| Some((index, sample.defect.as_deref()?)))
    }

    fn location(&self, index: usize) -> String {
        self.dataset.location(index)
    }

    /// Lists the samples that cannot be read on stdout, unless the JSON object does, and writes the counts to stderr.
    fn report(&self, as_json: bool) -> Result<()> {
        if !as_json {
            for (index, why) in self.defects() {
                print(&format!(
                    "{}: {}\n",
                    escape_control(&self.location(index)),
                    escape_control(&why.replace('\n', " "))
                ))?;
            }
        }
        let (name, total) = (self.name, thousands(self.samples.len() as u64));
        message!("{name}: {} of {total} samples cannot be read", thousands(self.defects().count() as u64));
        let mut repairs: BTreeMap<JpegRepair, usize> = BTreeMap::new();
        self.samples
            .iter()
            .filter_map(|sample| sample.repair)
            .for_each(|repair| *repairs.entry(repair).or_insert(0) += 1);
        if !repairs.is_empty() {
            let kinds = repairs.iter().map(|(repair, count)| format!("{count} {}", repair.describe()));
            let files = repairs.values().sum::<usize>() as u64;
            let kinds = first_names(kinds);
            message!(
                "{name}: {} {} repaired as libjpeg does: {kinds}",
                count(files, "file"),
                is_or_are(files)
            );
        }
        let gray16 = self.samples.iter().filter(|sample| sample.is_gray16).count();
        if let Some(note) = gray16_note(gray16, self.samples.len()) {
            message!("{name}: {note}");
        }
        Ok(())
    }
}

/// Warns of identical files.
fn report_identical(splits: &[VerifiedSplit], identical: &[IdenticalSamples]) {
    let warn = |what: &str, chosen: Vec<&IdenticalSamples>| {
        if chosen.is_empty() {
            return;
        }
        let text = |group: &&IdenticalSamples| {
            let location = |sample: &SampleId| splits[sample.split].location(sample.index);
            let names: Vec<String> = group.samples.iter().take(4).map(location).collect();
            let more = if group.samples.len() > 4 { " = ..." } else { "" };
            format!("\n  {}{more}", escape_control(&names.join(" = ")))
        };
        let shown: String = chosen.iter().take(10).map(text).collect();
        let more = if chosen.len() > 10 { "\n  ... (--json lists all)" } else { "" };
        let images = chosen.len() as u64;
        message!("warning: {} {} {what}:{shown}{more}", count(images, "image"), is_or_are(images));
    };
    let with = |is_chosen: fn(&IdenticalSamples) -> bool| {
        identical.iter().filter(|group| is_chosen(group)).collect()
    };
    warn("in both splits, so validation is too optimistic", with(|group| group.across_splits));
    warn("in several classes, so labels are wrong", with(|group| group.across_classes));
}

fn as_json(name: &str, notes: &[String], splits: &[VerifiedSplit], identical: &[IdenticalSamples]) -> Value {
    let of_split = |split: &VerifiedSplit| {
        let bad = split.defects().map(|(index, why)| json!({ "path": split.location(index), "reason": why }));
        let repaired = split.samples.iter().enumerate().filter_map(|(index, sample)| {
            Some(json!({ "path": split.location(index), "repair": sample.repair?.describe() }))
        });
        json!({
            "name": split.name,
            "samples": split.samples.len(),
            "bad": bad.collect::<Vec<_>>(),
            "repaired": repaired.collect::<Vec<_>>(),
            "gray16": split.samples.iter().filter(|sample| sample.is_gray16).count(),
        })
    };
    let of_group = |group: &IdenticalSamples| {
        let file = |sample: &SampleId| {
            let split = &splits[sample.split];
            let class = &split.dataset.classes()[split.dataset.target(sample.index) as usize];
            json!({ "split": split.name, "class": class, "path": split.location(sample.index) })
        };
        json!({
            "across_splits": group.across_splits,
            "across_classes": group.across_classes,
            "files": group.samples.iter().map(file).collect::<Vec<_>>(),
        })
    };
    json!({
        "dataset": name,
        "notes": notes,
        "splits": splits.iter().map(of_split).collect::<Vec<_>>(),
        "identical": identical.iter().map(of_group).collect::<Vec<_>>(),
    })
}
