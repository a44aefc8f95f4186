//! Output of the top classes of an image, as text, JSON or CSV.
use crate::Error;
use crate::cli::table;
use crate::text::{csv_cell, escape_control};
use serde_json::json;

/// Names of the columns of [`csv_rows`].
pub const CSV_HEADER: &str = "image,rank,class,name,probability\r\n";

/// Rows of CSV for one image, the most probable class first.
pub fn csv_rows(image: &str, top: &[(usize, f64)], names: &[String]) -> String {
    let row = |(rank, (class, probability)): (usize, &(usize, f64))| {
        let name = names.get(*class).map_or("", String::as_str);
        format!("{},{},{class},{},{probability}\r\n", csv_cell(image), rank + 1, csv_cell(name))
    };
    top.iter().enumerate().map(row).collect()
}

/// The output for one image, from its top classes and their probabilities.
pub fn text(image: &str, top: &[(usize, f64)], names: &[String], as_json: bool) -> String {
    let name = |class: usize| names.get(class);
    if as_json {
        let entry = |(class, probability): &(usize, f64)| match name(*class) {
            Some(name) => json!({ "class": class, "name": name, "probability": probability }),
            None => json!({ "class": class, "probability": probability }),
        };
        let entries: Vec<_> = top.iter().map(entry).collect();
        return format!("{}\n", json!({ "image": image, "topk": entries }));
    }
    let row = |(class, probability): &(usize, f64)| {
        let name = escape_control(name(*class).map_or("", String::as_str)).into_owned();
        vec![String::new(), format!("{:.2} %", 100.0 * probability), class.to_string(), name]
    };
    format!("{}\n{}", escape_control(image), table(&top.iter().map(row).collect::<Vec<_>>(), &[1, 2]))
}

/// The JSON output for an image that cannot be read.
pub fn error(image: &str, error: &Error) -> String {
    format!("{}\n", json!({ "image": image, "error": error.why().unwrap_or(error.what()) }))
}

/// The top classes and their softmax probabilities; among equals the lower class first.
pub fn top_classes(logits: &[f32], topk: usize) -> Vec<(usize, f64)> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|v| f64::from(v - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut classes: Vec<(usize, f64)> = weights.into_iter().map(|w| w / total).enumerate().collect();
    classes.sort_by(|a, b| b.1.total_cmp(&a.1));
    classes.truncate(topk);
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_probable_classes_come_first() {
        let logits = [1.0, 1.0 + 2f32.ln(), 1.0, 1001.0 - 1000.0];
        assert_eq!(top_classes(&logits, 2).iter().map(|c| c.0).collect::<Vec<_>>(), [1, 0]);
        assert!((top_classes(&logits, 9).iter().map(|c| c.1).sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(top_classes(&[1e30, -1e30], 2), [(0, 1.0), (1, 0.0)]);
        let names = ["a", "b", "c", "d"].map(String::from);
        assert_eq!(
            text("x.png", &top_classes(&logits, 2), &names, false),
            "x.png\n  40.00 %  1  b\n  20.00 %  0  a\n"
        );
        let json: serde_json::Value =
            serde_json::from_str(&text("x.png", &top_classes(&logits, 1), &[], true)).expect("JSON");
        let names = ["a,b", "", "", ""].map(String::from);
        let rows = csv_rows("x \"1\".png", &[(0, 0.75), (1, 0.25)], &names);
        assert_eq!(rows, "\"x \"\"1\"\".png\",1,0,\"a,b\",0.75\r\n\"x \"\"1\"\".png\",2,1,,0.25\r\n");
        assert_eq!((json["image"].as_str(), json["topk"][0]["class"].as_u64()), (Some("x.png"), Some(1)));
    }
}
