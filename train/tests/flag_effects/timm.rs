//! Options of timm without a setting: accepted ones change nothing, refused ones name the alternative.
use crate::common::{run, stderr};
use fornax::settings::{TIMM_OPTIONS, TimmAnswer, TimmOption, TimmValues};

fn flag(option: &TimmOption) -> String {
    format!("--{}", option.name.replace('_', "-"))
}

#[test]
fn refused_options_end_with_2_and_name_the_alternative() {
    let folder = tempfile::tempdir().expect("a folder");
    for option in TIMM_OPTIONS {
        let TimmAnswer::Refused(why, remedy) = option.answer else { continue };
        let value = match option.values {
            TimmValues::Switch | TimmValues::Optional => "",
            TimmValues::One | TimmValues::Many => " 7",
        };
        let output = run(folder.path(), &format!("train {}{value} --dry-run", flag(option)));
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{}: {text}", option.name);
        for part in [flag(option).as_str(), why, remedy] {
            assert!(text.contains(part), "{}: {part:?} is missing in\n{text}", option.name);
        }
    }
}

#[test]
fn accepted_options_leave_the_run_as_it_is_and_are_noted() {
    let folder = tempfile::tempdir().expect("a folder");
    let accepted: Vec<&TimmOption> =
        TIMM_OPTIONS.iter().filter(|option| matches!(option.answer, TimmAnswer::AlwaysSo(_))).collect();
    let given: Vec<String> = accepted
        .iter()
        .map(|option| match option.values {
            TimmValues::Switch => flag(option),
            _ => format!("{} part", flag(option)),
        })
        .collect();
    let train = "train --train-num-samples 32 --val-num-samples 8 --batch-size 8 --epochs 1 --warmup-epochs 0 --progress plain \
                 --print-hash --json";
    let trained = |flags: &str| {
        let output = run(folder.path(), &format!("{train} {flags}"));
        assert!(output.status.success(), "{flags}: {}", stderr(&output));
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (result["sha256"].as_str().expect("a hash").to_string(), stderr(&output))
    };
    let (plain, with) = (trained(""), trained(&given.join(" ")));
    assert_eq!(plain.0, with.0);
    let names: Vec<&str> = accepted.iter().map(|option| option.name).collect();
    let note = format!("note: without effect on this run, and ignored: {}\n", names.join(", "));
    assert!(with.1.starts_with(&note) && !plain.1.contains("note:"), "{}\n{}", with.1, plain.1);
}
