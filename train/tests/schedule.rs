//! `fornax schedule`, and schedules in a run.
mod common;

use common::{run, stderr, succeed};
use serde_json::Value;
use std::fs;

#[test]
fn schedule_is_printed_as_text_csv_and_json_and_plotted() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags =
        "schedule --epochs 4 --updates-per-epoch 5 --lr 0.1 --warmup-epochs 0 --sched step --decay-epochs 2";
    let text = succeed(folder.path(), flags);
    assert!(text.starts_with("step: 4 epochs of 5 updates") && text.contains("1.000000e-2"), "{text}");
    let csv = succeed(folder.path(), &format!("{flags} --csv --plot lr.svg"));
    let rows: Vec<&str> = csv.lines().collect();
    assert_eq!((rows.len(), rows[0], rows[6]), (21, "epoch,update,lr", "1,5,0.1"));
    assert!(rows[11].starts_with("2,10,0.010"), "{csv}");
    assert!(fs::read_to_string(folder.path().join("lr.svg")).expect("reads").starts_with("<svg"));
    let json = succeed(folder.path(), &format!("{flags} --json --no-sched-on-updates"));
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((json["unit"].as_str(), json["lr"].as_array().map(Vec::len)), (Some("epoch"), Some(4)));
}

#[test]
fn schedule_reads_settings_of_a_run_and_ignores_unrelated_flags() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("a.yaml"), "model: resnet8\nepochs: 3\nsched: constant\nlr: 0.5\n")
        .expect("writes");
    let text = succeed(folder.path(), "schedule -c a.yaml --warmup-epochs 0");
    assert!(text.starts_with("constant: 3 epochs") && text.contains("5.000000e-1"), "{text}");
    let output =
        run(folder.path(), "schedule --epochs 3 --model resnet8 --sched cosine --decay-milestones 3");
    assert!(output.status.success(), "{}", stderr(&output));
    for part in
        ["--model (the learning rate does not depend on it)", "--decay-milestones (the schedule cosine"]
    {
        assert!(stderr(&output).contains(part), "{part}: {}", stderr(&output));
    }
    for (flags, what) in [
        ("schedule --plot a.gif", ".svg or .png"),
        ("schedule --sched lambda --lr-lambda foo(1)", "is not known"),
    ] {
        let output = run(folder.path(), flags);
        assert_eq!(output.status.code(), Some(2), "{flags}");
        assert!(stderr(&output).contains(what), "{flags}: {}", stderr(&output));
    }
}

/// The plateau's state is part of the checkpoint: a resumed run has the learning rates and bits of an uninterrupted one.
#[test]
fn plateau_resume_matches_uninterrupted_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = "train --epochs 8 --batch-size 256 --warmup-epochs 0 --sched plateau --patience-epochs 0 --lr 0.3 --decay-rate 0.1 \
                 --eval-metric loss --output out --progress none --print-hash";
    let whole = succeed(folder.path(), &format!("{flags} --experiment whole"));
    let summary =
        |run: &str| fs::read_to_string(folder.path().join(format!("out/{run}/summary.csv"))).expect("reads");
    let lrs = |run: &str| -> Vec<String> {
        summary(run).lines().skip(1).filter_map(|l| l.rsplit(',').next().map(String::from)).collect()
    };
    assert!(
        lrs("whole")[7].parse::<f64>().expect("a learning rate") < 0.29,
        "nothing was reduced: {:?}",
        lrs("whole")
    );
    let part = flags.replace("--epochs 8", "--epochs 5");
    succeed(folder.path(), &format!("{part} --experiment parts"));
    let resumed = succeed(folder.path(), "train --resume out/parts --epochs 8 --progress none --print-hash");
    assert_eq!(whole.lines().last(), resumed.lines().last());
    assert_eq!(lrs("whole"), lrs("parts"));
}
