//! Options of timm's `validate.py` that `fornax val` has no option of its own for: accepted with a warning, because they change nothing here, or
//! rejected with the alternative.
use crate::config::IgnoredOption;
use crate::{Error, Result};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches, value_parser};

/// Option of `validate.py`.
struct ValidateOption {
    name: &'static str,
    values: ValueCount,
    /// timm's default, for options with a value.
    default: &'static str,
    answer: Answer,
}

/// Number of values of an option.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ValueCount {
    /// A switch.
    Switch,
    One,
    Any,
}

/// Answer to a value that is not timm's default.
#[derive(Clone, Copy)]
enum Answer {
    /// Accepted: it changes nothing, for this reason.
    Ignored(&'static str),
    /// Rejected, for a reason and with a remedy.
    Rejected(&'static str, &'static str),
}

use Answer::{Ignored, Rejected};
use ValueCount::{Any, One, Switch};

const COMPILER: &str = "kernels are compiled and fused already";
const NAFLEX: &str = "there is no NaFlex model";

macro_rules! options {
    ($($name:literal $values:ident $($default:literal)?: $answer:expr;)*) => {
        const OPTIONS: &[ValidateOption] = &[$(ValidateOption {
            name: $name,
            values: $values,
            default: concat!($($default)?),
            answer: $answer,
        }),*];
    };
}

options! {
    "log-freq" One "10": Ignored("only the result is printed");
    "retry" Switch: Ignored("a batch that does not fit into memory is an error; lower --batch-size");
    "pin-mem" Switch: Ignored("batches go to a CUDA device through pinned memory");
    "channels-last" Switch: Ignored("channels-last is the only memory layout");
    "fast-norm" Switch: Ignored("AMP computes layer norm in f32");
    "reparam" Switch: Ignored("no model has branches to merge");
    "torchscript" Switch: Ignored(COMPILER);
    "torchcompile" Any: Ignored(COMPILER);
    "torchcompile-mode" One: Ignored(COMPILER);
    "aot-autograd" Switch: Ignored(COMPILER);
    "fuser" One: Ignored(COMPILER);
    "dataset-download" Switch: Ignored("an evaluation downloads no images, `fornax datasets download` does");
    "dataset-trust-remote-code" Switch: Ignored("datasets contain no code");
    "naflex-max-seq-len" One "576": Ignored(NAFLEX);
    "num-gpu" One "1": Rejected("an evaluation uses one device", "choose it with --device, and omit --num-gpu");
    "test-pool" Switch: Rejected("features are pooled over the whole image", "omit it, and choose the input size with --img-size");
    "crop-border-pixels" One: Rejected(
        "the crop is a fraction of the resized image",
        "use --crop-pct with the input size divided by the size plus twice the border"
    );
    "tf-preprocessing" Switch: Rejected("images are decoded and resized as Pillow does", "omit it");
    "device-modules" Any: Rejected("Fornax runs no Python", "omit it");
    "naflex-loader" Switch: Rejected(NAFLEX, "choose a ViT of `fornax models` and its input size with --img-size");
}

/// The options of `validate.py` that a command line gives, with values other than timm's defaults.
#[derive(Clone, Default)]
pub struct ValidateArgs {
    given: Vec<&'static str>,
}

impl ValidateArgs {
    /// The options without effect. Errors on options that are not available.
    pub fn ignored(&self) -> Result<Vec<IgnoredOption>> {
        let given = OPTIONS.iter().filter(|option| self.given.contains(&option.name));
        let (mut ignored, mut rejected) = (vec![], vec![]);
        for option in given {
            match option.answer {
                Ignored(why) => ignored.push(IgnoredOption::new(option.name, why)),
                Rejected(why, remedy) => rejected.push((option.name, why, remedy)),
            }
        }
        match rejected[..] {
            [] => {}
            [(name, why, remedy)] => {
                return Err(Error::usage(format!("--{name} of timm is not available"))
                    .because(why)
                    .remedy(remedy));
            }
            _ => {
                let line = |(name, why, remedy): &(&str, &str, &str)| format!("--{name}: {why}; {remedy}");
                return Err(Error::usage(format!("{} options of timm are not available", rejected.len()))
                    .because(rejected.iter().map(line).collect::<Vec<_>>().join("\n")));
            }
        }
        Ok(ignored)
    }
}

impl clap::Args for ValidateArgs {
    fn augment_args(command: Command) -> Command {
        command.args(OPTIONS.iter().map(|option| {
            let arg = Arg::new(option.name).long(option.name).hide(true).action(ArgAction::Set);
            match option.values {
                Switch => arg.value_parser(value_parser!(bool)),
                One => arg,
                Any => arg.num_args(0..),
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        ValidateArgs::augment_args(command)
    }
}

impl FromArgMatches for ValidateArgs {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<ValidateArgs, clap::Error> {
        let is_given = |option: &&ValidateOption| {
            let values: Vec<String> = matches
                .get_raw(option.name)
                .into_iter()
                .flatten()
                .map(|value| value.to_string_lossy().into_owned())
                .collect();
            matches.value_source(option.name) == Some(ValueSource::CommandLine)
                && match option.values {
                    Switch => values != ["false"],
                    _ => values.join(" ") != option.default || option.values == Any,
                }
        };
        Ok(ValidateArgs { given: OPTIONS.iter().filter(is_given).map(|option| option.name).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = ValidateArgs::from_arg_matches(matches)?;
        Ok(())
    }
}
