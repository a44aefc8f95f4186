//! Tables of a page: a title, column names, and rows of text and numbers.
use super::super::ConfusionCounts;
use super::duration;
use serde_json::{Value, json};

/// Precision, recall and F1 score of each class in the best epoch, the lowest F1 score first.
pub(super) fn per_class(counts: &ConfusionCounts) -> Value {
    let metrics = counts.class_metrics();
    let mut order: Vec<usize> = (0..metrics.len()).collect();
    let score = |class: &usize| metrics[*class].f1.unwrap_or(f64::INFINITY);
    order.sort_by(|a, b| score(a).total_cmp(&score(b)));
    let rounded = |value: Option<f64>| value.map(|value| (100.0 * value).round() / 100.0);
    let row = |class: &usize| {
        let of_class = &metrics[*class];
        let [precision, recall, f1] = [of_class.precision, of_class.recall, of_class.f1].map(rounded);
        json!([counts.classes[*class], of_class.images, precision, recall, f1])
    };
    json!({
        "title": "Classes",
        "note": format!("Validation images of epoch {}. A click on a column name sorts by it.", counts.epoch),
        "columns": ["class", "images", "precision (%)", "recall (%)", "F1 (%)"],
        "rows": order.iter().map(row).collect::<Vec<_>>(),
    })
}

/// The starts of a run and how each ended; `None` if no event tells.
pub(super) fn starts(events: &[Value]) -> Option<Value> {
    let mut rows: Vec<[Value; 6]> = vec![];
    for event in events {
        match event["event"].as_str() {
            Some("start") => rows.push([
                event["time"].clone(),
                event["host"].clone(),
                event["ranks"].clone(),
                event["epoch"].clone(),
                Value::Null,
                "no record: the process was killed, or still runs".into(),
            ]),
            Some("end") => {
                if let Some([.., seconds, reason]) = rows.last_mut() {
                    *seconds =
                        event["seconds"].as_f64().map_or(Value::Null, |seconds| duration(seconds).into());
                    *reason = event["reason"].clone();
                }
            }
            _ => {}
        }
    }
    let columns = ["started (UTC)", "host", "ranks", "from epoch", "duration", "ended"];
    (!rows.is_empty()).then(|| json!({ "title": "Starts", "note": "", "columns": columns, "rows": rows }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_has_the_reason_of_its_end() {
        let events = [
            json!({"event": "start", "time": "a", "host": "h", "ranks": 2, "epoch": 0}),
            json!({"event": "update", "update": 1}),
            json!({"event": "start", "time": "b", "host": "h", "ranks": 1, "epoch": 3}),
            json!({"event": "end", "seconds": 75.0, "reason": "finished"}),
        ];
        let rows = starts(&events).expect("a table")["rows"].clone();
        assert_eq!(rows[0][5], "no record: the process was killed, or still runs");
        assert_eq!(rows[1], json!(["b", "h", 1, 3, "1 min 15 s", "finished"]));
        assert_eq!(starts(&events[1..2]), None);
    }

    #[test]
    fn class_with_the_lowest_score_is_first() {
        let classes = ["cat", "dog"].map(String::from);
        let table = per_class(&ConfusionCounts::new(0, 75.0, &classes, &[0, 0, 0, 1], &[0, 0, 1, 1]));
        assert_eq!(table["rows"], json!([["dog", 1, 50.0, 100.0, 66.67], ["cat", 3, 100.0, 66.67, 80.0]]));
    }
}
