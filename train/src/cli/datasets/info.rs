//! `fornax datasets info`.
use super::args::DatasetArgs;
use super::{print, splits, table};
use crate::Result;
use crate::data::Dataset;
use crate::data::export::image;
use crate::report::thousands;
use rayon::prelude::*;

/// Arguments of `fornax datasets info`.
#[derive(clap::Args)]
pub struct InfoArgs {
    #[command(flatten)]
    dataset: DatasetArgs,
    /// Image files that are decoded for the sizes, evenly spaced; 0 for none
    #[arg(long, value_name = "N", default_value_t = 1000)]
    size_samples: usize,
}

/// Runs `fornax datasets info`.
pub fn execute(args: &InfoArgs) -> Result<()> {
    let data = args.dataset.options()?.open()?;
    let mut text = format!("dataset     {}\nclasses     {}\n", data.name, data.classes.len());
    data.notes.iter().for_each(|note| text += &format!("note        {note}\n"));
    for (name, split) in splits(&data) {
        text += &format!("{name:<11} {} samples", thousands(split.len() as u64));
        if split.clip_len() > 1 {
            text += &format!(" of {} frames", split.clip_len());
        }
        text += &format!("{}\n", sizes(&**split, args.size_samples, args.dataset.channels())?);
    }
    let counts: Vec<Vec<usize>> = splits(&data).into_iter().map(|(_, split)| counts(&**split)).collect();
    let mut rows = vec![vec!["CLASS".to_string(), "NAME".into()]];
    rows[0].extend(splits(&data).into_iter().map(|(name, _)| name.to_uppercase()));
    for (class, name) in data.classes.iter().enumerate() {
        let mut row = vec![class.to_string(), name.clone()];
        row.extend(counts.iter().map(|counts| thousands(counts[class] as u64)));
        rows.push(row);
    }
    print(&format!("{text}\n{}", table(&rows, &[0, 2, 3])))?;
    Ok(())
}

/// Samples per class.
fn counts(dataset: &dyn Dataset) -> Vec<usize> {
    let mut counts = vec![0; dataset.classes().len()];
    (0..dataset.len()).for_each(|index| counts[dataset.target(index) as usize] += 1);
    counts
}

/// Smallest, median and largest height and width of at most `samples` images.
fn sizes(dataset: &dyn Dataset, samples: usize, channels: usize) -> Result<String> {
    let count = samples.min(dataset.len());
    let index = |i: usize| (i as u128 * dataset.len() as u128 / count as u128) as usize;
    let sizes: Vec<[usize; 3]> = (0..count)
        .into_par_iter()
        .filter_map(|i| image(dataset, index(i), channels).ok())
        .map(|image| image.size)
        .collect();
    let range = |axis: usize| {
        let mut extents: Vec<usize> = sizes.iter().map(|size| size[axis]).collect();
        extents.sort_unstable();
        match (extents.first(), extents.last()) {
            (Some(first), Some(last)) if first == last => first.to_string(),
            (Some(first), Some(last)) => format!("{first} to {last} (median {})", extents[extents.len() / 2]),
            _ => "unknown".into(),
        }
    };
    let unreadable = count - sizes.len();
    let part = if count < dataset.len() {
        format!(" in {} of them", thousands(count as u64))
    } else {
        String::new()
    };
    let bad = if unreadable > 0 {
        format!("; {unreadable} cannot be read, see `fornax datasets verify`")
    } else {
        String::new()
    };
    Ok(match count {
        0 => String::new(),
        _ => format!(", height {}, width {}{part}{bad}", range(0), range(1)),
    })
}
