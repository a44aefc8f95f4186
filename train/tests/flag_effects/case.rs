//! Cases: a flag of `fornax train` and the evidence of its effect.
use crate::observation::{Aspect, differences, observe, plan};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Flag, by its name with underscores, and the evidence of its effect.
pub struct Case {
    pub flag: &'static str,
    pub evidence: Evidence,
}

/// Evidence of a flag's effect.
#[derive(Clone, Copy)]
pub enum Evidence {
    /// A run with the arguments `base` and the same run with `with` added: exactly these aspects differ.
    Changes { base: &'static str, with: &'static str, aspects: &'static [Aspect] },
    /// The plan of a run with `base` and `with` contains `part`, that of a run with `base` does not.
    Plan { base: &'static str, with: &'static str, part: &'static str },
    /// A function that fails if the flag has no effect.
    Check(fn()),
    /// A test in another file of train/tests.
    Test { file: &'static str, function: &'static str },
}

pub const fn changes(
    flag: &'static str,
    base: &'static str,
    with: &'static str,
    aspects: &'static [Aspect],
) -> Case {
    Case { flag, evidence: Evidence::Changes { base, with, aspects } }
}

pub const fn plans(flag: &'static str, base: &'static str, with: &'static str, part: &'static str) -> Case {
    Case { flag, evidence: Evidence::Plan { base, with, part } }
}

pub const fn check(flag: &'static str, check: fn()) -> Case {
    Case { flag, evidence: Evidence::Check(check) }
}

pub const fn tested(flag: &'static str, file: &'static str, function: &'static str) -> Case {
    Case { flag, evidence: Evidence::Test { file, function } }
}

/// Runs the cases of a table and reports every failure.
pub fn assert_effects(cases: &[Case]) {
    // A run that fails does not hide the other cases.
    let failure = |case: &Case| match catch_unwind(AssertUnwindSafe(|| failure(case))) {
        Ok(failure) => failure,
        Err(_) => Some(format!("{}: the case panics", case.flag)),
    };
    let failures: Vec<String> = cases.iter().filter_map(failure).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn failure(case: &Case) -> Option<String> {
    let flag = case.flag;
    match case.evidence {
        Evidence::Changes { base, with, aspects } => {
            assert_uses(flag, with);
            let found = differences(&observe(base), &observe(&format!("{base} {with}")));
            (found != aspects).then(|| format!("{flag}: {with} changes {found:?}, not {aspects:?}"))
        }
        Evidence::Plan { base, with, part } => {
            assert_uses(flag, with);
            let [before, after] =
                [base.to_string(), format!("{base} {with}")].map(|arguments| plan(&arguments));
            let is_effect = !before.contains(part) && after.contains(part);
            (!is_effect)
                .then(|| format!("{flag}: {part:?} must be only in the second plan of\n{before}\n{after}"))
        }
        Evidence::Check(check) => {
            check();
            None
        }
        // The test runs where it is defined.
        Evidence::Test { .. } => None,
    }
}

fn assert_uses(flag: &str, arguments: &str) {
    let flag = format!("--{}", flag.replace('_', "-"));
    assert!(arguments.split([' ', '=']).any(|word| word == flag), "{flag} is missing in {arguments}");
}

/// Checks that a file in train/tests has a test of this name and uses the flag or its setting.
pub fn assert_test_exists(flag: &str, file: &str, function: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{flag}: {file}: {error}"));
    assert!(text.contains(&format!("#[test]\nfn {function}()")), "{flag}: {file} has no test {function}");
    let names = [format!("--{}", flag.replace('_', "-")), format!("{flag}: Some(")];
    assert!(names.iter().any(|name| text.contains(name)), "{flag}: {file} has neither of {names:?}");
}
