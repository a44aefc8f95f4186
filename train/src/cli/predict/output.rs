//! The likeliest classes of a picture, for people or for programs.
use crate::cli::table;
use serde_json::json;

/// What is printed about a picture, whose logits these are.
pub fn text(picture: &str, logits: &[f32], names: &[String], topk: usize, as_json: bool) -> String {
    let likeliest = likeliest(logits, topk);
    let name = |class: usize| names.get(class);
    if as_json {
        let entry = |(class, probability): &(usize, f64)| match name(*class) {
            Some(name) => json!({ "class": class, "name": name, "probability": probability }),
            None => json!({ "class": class, "probability": probability }),
        };
        let entries: Vec<_> = likeliest.iter().map(entry).collect();
        return format!("{}\n", json!({ "image": picture, "topk": entries }));
    }
    let row = |(class, probability): &(usize, f64)| {
        let name = name(*class).cloned().unwrap_or_default();
        vec![String::new(), format!("{:.2} %", 100.0 * probability), class.to_string(), name]
    };
    format!("{picture}\n{}", table(&likeliest.iter().map(row).collect::<Vec<_>>(), &[1, 2]))
}

/// Classes and their probabilities, the likeliest first; of equal ones the first.
fn likeliest(logits: &[f32], topk: usize) -> Vec<(usize, f64)> {
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
    fn the_likeliest_come_first() {
        let logits = [1.0, 1.0 + 2f32.ln(), 1.0, 1001.0 - 1000.0];
        assert_eq!(likeliest(&logits, 2).iter().map(|c| c.0).collect::<Vec<_>>(), [1, 0]);
        assert!((likeliest(&logits, 9).iter().map(|c| c.1).sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(likeliest(&[1e30, -1e30], 2), [(0, 1.0), (1, 0.0)]);
        let names = ["a", "b", "c", "d"].map(String::from);
        assert_eq!(text("x.png", &logits, &names, 2, false), "x.png\n  40.00 %  1  b\n  20.00 %  0  a\n");
        let json: serde_json::Value =
            serde_json::from_str(&text("x.png", &logits, &[], 1, true)).expect("JSON");
        assert_eq!((json["image"].as_str(), json["topk"][0]["class"].as_u64()), (Some("x.png"), Some(1)));
    }
}
