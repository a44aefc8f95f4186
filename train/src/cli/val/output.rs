//! Results of evaluations as text and JSON, and the confusion matrix as CSV.
use super::evaluate::Validation;
use super::results::value_name;
use crate::cli::table;
use crate::message::count;
use crate::report::thousands;
use crate::text::{csv_cell, escape_control};
use serde_json::json;

/// Images of a class, and how many of them are predicted right.
struct ClassCount<'a> {
    name: &'a str,
    images: u64,
    correct: u64,
}

/// The result of one checkpoint for stdout.
pub fn result(validation: &Validation, as_json: bool, per_class: bool) -> String {
    let Validation { source, model, dataset, evaluation, input, seconds, .. } = validation;
    let images = evaluation.targets.len();
    let rate = images as f64 / seconds;
    if as_json {
        let mut object = json!({
            "checkpoint": source,
            "model": model,
            "ema": validation.ema,
            "dataset": dataset,
            "top1": evaluation.top1,
            "top5": evaluation.top5,
            "loss": evaluation.loss,
            "images": images,
            "skipped": evaluation.skipped.len(),
            "input_size": [input.channels, input.size[0], input.size[1]],
            "crop_pct": input.crop_pct,
            "crop_mode": value_name(&input.crop_mode),
            "interpolation": value_name(&input.filter),
            "seconds": seconds,
            "images_per_second": rate,
        });
        if let Some(real) = &validation.real {
            object["real_images"] = real.images.into();
        }
        if let Some(metrics) = &validation.averages {
            object["precision"] = metrics.precision.into();
            object["recall"] = metrics.recall.into();
            object["f1_score"] = metrics.f1.into();
        }
        if per_class {
            let entry = |class: &ClassCount| json!({ "class": class.name, "images": class.images, "correct": class.correct });
            object["classes"] = class_counts(validation).iter().map(entry).collect();
        }
        return format!("{object}\n");
    }
    let weights = if validation.ema { ", EMA weights" } else { "" };
    let mut text = format!(
        "{source}: {model}{weights}, {}{} of {dataset} at {}x{}, crop {:.3} ({}), {}\ntop-1 {:.2}%  top-5 {:.2}%  loss {:.4}  in {seconds:.1} s, {} images/s\n",
        count(images as u64, "image"),
        evaluation.skipped_note(),
        input.size[0],
        input.size[1],
        input.crop_pct,
        value_name(&input.crop_mode),
        value_name(&input.filter),
        evaluation.top1,
        evaluation.top5,
        evaluation.loss,
        thousands(rate.round() as u64)
    );
    if let Some(real) = &validation.real {
        text +=
            &format!("top-1 and top-5 are of the ReaL labels of {}\n", count(real.images as u64, "image"));
    }
    if let Some(metrics) = &validation.averages {
        text += &format!(
            "precision {:.2}%  recall {:.2}%  F1 score {:.2}%\n",
            metrics.precision, metrics.recall, metrics.f1
        );
    }
    if per_class {
        let mut rows = vec![["CLASS", "IMAGES", "CORRECT", "TOP-1"].map(String::from).to_vec()];
        rows.extend(class_counts(validation).iter().map(|class| {
            vec![
                escape_control(class.name).into(),
                thousands(class.images),
                thousands(class.correct),
                class.accuracy(),
            ]
        }));
        text += &table(&rows, &[1, 2, 3]);
    }
    text
}

/// A table of all checkpoints, the best first.
pub fn comparison(all: &[Validation]) -> String {
    let mut rows = vec![["CHECKPOINT", "TOP-1", "TOP-5", "LOSS"].map(String::from).to_vec()];
    rows.extend(best_first(all).into_iter().map(|one| {
        let evaluation = &one.evaluation;
        let percent = |value: f64| format!("{value:.2}%");
        vec![
            one.source.clone(),
            percent(evaluation.top1),
            percent(evaluation.top5),
            format!("{:.4}", evaluation.loss),
        ]
    }));
    format!("\n{}", table(&rows, &[1, 2, 3]))
}

/// The confusion matrix: a header with the class names, then a row per true class.
pub fn confusion_csv(validation: &Validation) -> String {
    let names: Vec<String> =
        (0..validation.evaluation.classes).map(|class| csv_cell(name(validation, class))).collect();
    let mut text = format!("true\\predicted,{}\r\n", names.join(","));
    for (row, name) in validation.evaluation.confusion().iter().zip(&names) {
        let counts: Vec<String> = row.iter().map(u64::to_string).collect();
        text += &format!("{name},{}\r\n", counts.join(","));
    }
    text
}

pub fn best_first(all: &[Validation]) -> Vec<&Validation> {
    let mut sorted: Vec<&Validation> = all.iter().collect();
    sorted.sort_by(|a, b| b.evaluation.top1.total_cmp(&a.evaluation.top1));
    sorted
}

impl ClassCount<'_> {
    fn accuracy(&self) -> String {
        match self.images {
            0 => "-".into(),
            images => format!("{:.2}%", 100.0 * self.correct as f64 / images as f64),
        }
    }
}

/// Counts of every class that has images or a name.
fn class_counts(validation: &Validation) -> Vec<ClassCount<'_>> {
    let counts = validation.evaluation.confusion();
    let count = |(class, row): (usize, &Vec<u64>)| ClassCount {
        name: name(validation, class),
        images: row.iter().sum(),
        correct: row[class],
    };
    counts.iter().enumerate().take(validation.classes.len()).map(count).collect()
}

/// Name of a class; empty for logits beyond the dataset's classes.
fn name(validation: &Validation, class: usize) -> &str {
    validation.classes.get(class).map_or("", String::as_str)
}
