//! Effects of the flags of `fornax train`: each has a case that shows its effect on a run.
mod common;
#[path = "common/ranks.rs"]
mod ranks;
#[path = "common/small_dataset.rs"]
mod small_dataset;
#[path = "common/tiny_run.rs"]
mod tiny_run;

#[path = "flag_effects/arguments.rs"]
mod arguments;
#[path = "flag_effects/augment.rs"]
mod augment;
#[path = "flag_effects/case.rs"]
mod case;
#[path = "flag_effects/command.rs"]
mod command;
#[path = "flag_effects/data.rs"]
mod data;
#[path = "flag_effects/distributed.rs"]
mod distributed;
#[path = "flag_effects/files.rs"]
mod files;
#[path = "flag_effects/loader.rs"]
mod loader;
#[path = "flag_effects/model.rs"]
mod model;
#[path = "flag_effects/observation.rs"]
mod observation;
#[path = "flag_effects/optimizer.rs"]
mod optimizer;
#[path = "flag_effects/run.rs"]
mod run;
#[path = "flag_effects/schedule.rs"]
mod schedule;
#[path = "flag_effects/timm.rs"]
mod timm;
#[path = "flag_effects/training.rs"]
mod training;

use case::{Case, Evidence};
use fornax::settings::{DEFINITIONS, SettingDefinition};

const TABLES: [&[Case]; 10] = [
    data::CASES,
    loader::CASES,
    model::CASES,
    optimizer::CASES,
    schedule::CASES,
    training::CASES,
    augment::CASES,
    run::CASES,
    command::CASES,
    distributed::CASES,
];

/// Names with underscores of the flags that the help shows.
fn flags_of_help() -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let help = common::succeed(folder.path(), "train --help-all");
    // Lines such as `  -j, --workers <N>   Loader threads` and `      --amp[=<BOOL>]`.
    let flag = |line: &str| {
        let column = line.strip_prefix("  ")?;
        let (short, rest) = column.split_once("--")?;
        let is_flag = short.trim().is_empty() || short.trim().len() == "-j,".len() && short.starts_with('-');
        let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        is_flag.then(|| name.replace('-', "_"))
    };
    help.lines().filter_map(flag).collect()
}

#[test]
fn every_flag_has_one_case_and_every_case_a_flag() {
    let flags = flags_of_help();
    for SettingDefinition { name, .. } in DEFINITIONS {
        assert!(flags.iter().any(|flag| flag == name), "the help lacks {name}");
    }
    let cases: Vec<&str> = TABLES.into_iter().flatten().map(|case| case.flag).collect();
    for flag in &flags {
        let count = cases.iter().filter(|case| *case == flag).count();
        assert_eq!(count, 1, "cases of {flag}: add one to a table in train/tests/flag_effects/");
    }
    for case in cases {
        assert!(flags.iter().any(|flag| flag == case), "{case} is no flag of `fornax train`");
    }
}

#[test]
fn tests_that_cases_name_exist_and_use_the_flag() {
    for case in TABLES.into_iter().flatten() {
        if let Evidence::Test { file, function } = case.evidence {
            case::assert_test_exists(case.flag, file, function);
        }
    }
}
