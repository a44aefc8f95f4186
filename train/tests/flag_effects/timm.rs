//! Options of timm without a setting: ignored ones change nothing, rejected ones name the alternative.
use crate::common::{run, stderr};
use fornax::settings::{TIMM_OPTIONS, TimmAnswer, TimmOption, TimmValues};

fn flag(option: &TimmOption) -> String {
    format!("--{}", option.name.replace('_', "-"))
}

#[test]
fn rejected_options_end_with_2_and_name_the_alternative() {
    let folder = tempfile::tempdir().expect("a folder");
    for option in TIMM_OPTIONS {
        let TimmAnswer::Rejected(why, remedy) = option.answer else { continue };
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
fn ignored_options_leave_the_run_as_it_is_and_are_in_the_warning() {
    let folder = tempfile::tempdir().expect("a folder");
    let ignored: Vec<&TimmOption> =
        TIMM_OPTIONS.iter().filter(|option| matches!(option.answer, TimmAnswer::Ignored(_))).collect();
    let given: Vec<String> = ignored
        .iter()
        .map(|option| match option.values {
            TimmValues::Switch | TimmValues::Optional => flag(option),
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
    let warning = with.1.lines().next().unwrap_or_default();
    assert!(warning.starts_with("warning: without effect, and ignored: "), "{}", with.1);
    assert!(!plain.1.contains("warning"), "{}", plain.1);
    for option in ignored {
        let TimmAnswer::Ignored(why) = option.answer else { continue };
        assert!(warning.contains(&flag(option)) && warning.contains(why), "{}: {warning}", option.name);
    }
}
