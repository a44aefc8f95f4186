//! `fornax lr-find`.
mod common;

use common::{run, stderr, succeed};
use serde_json::Value;
use std::fs;

#[test]
fn suggestion_lies_in_the_range_and_no_run_folder_is_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = "lr-find digits --num-updates 60 --start-lr 1e-5 --end-lr 10 --seed 1";
    let result: Value =
        serde_json::from_str(&succeed(folder.path(), &format!("{arguments} --json"))).expect("JSON");
    let list = |key: &str| -> Vec<f64> {
        result[key]
            .as_array()
            .expect("a list")
            .iter()
            .map(|value| value.as_f64().expect("a number"))
            .collect()
    };
    let (lr, loss) = (list("lr"), list("loss"));
    assert!(lr.len() == loss.len() && lr.len() <= 60 && lr.is_sorted() && lr[0] == 1e-5);
    let suggestion = result["suggestion"].as_f64().expect("the digits are learnt");
    assert!((1e-4..5.0).contains(&suggestion), "{suggestion}");
    assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 0);

    // The same test again, with a plot and text.
    let text = succeed(folder.path(), &format!("{arguments} --plot a.svg"));
    assert!(text.contains(&format!("suggestion: --lr {suggestion:.2e}")), "{text}");
    let svg = fs::read_to_string(folder.path().join("a.svg")).expect("reads");
    assert!(svg.contains("Learning-rate range test"), "{svg}");
    assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 1);
}

#[test]
fn settings_without_effect_are_ignored_with_a_warning() {
    let folder = tempfile::tempdir().expect("a folder");
    let line = "lr-find digits --num-updates 10 --batch-size 8 --json";
    let [plain, with] = ["", "--lr 0.2 --sched step --eval-metric loss"].map(|flags| {
        let output = run(folder.path(), &format!("{line} {flags}"));
        assert!(output.status.success(), "{}", stderr(&output));
        (output.stdout.clone(), stderr(&output))
    });
    assert_eq!(plain.0, with.0);
    assert!(
        with.1.contains("--lr, --sched, --eval-metric (the learning rate of the test rises"),
        "{}",
        with.1
    );
    assert!(!plain.1.contains("warning"), "{}", plain.1);
}

#[test]
fn wrong_ranges_are_rejected() {
    let folder = tempfile::tempdir().expect("a folder");
    for (arguments, part) in [
        ("lr-find digits --start-lr 1 --end-lr 0.1", "the range of learning rates is empty"),
        ("lr-find digits --start-lr 0", "above 0"),
        ("lr-find digits --plot a.txt", "ends with .svg or .png"),
    ] {
        let output = run(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{arguments}: {}", stderr(&output));
    }
}
