//! Settings by arguments of `fornax train`.
use crate::files;
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser};
use fornax::settings::Settings;

/// Settings of the command line; the first word may be a dataset of [`files::root`]. Settings that are not given make runs short.
pub fn settings(arguments: &str) -> Settings {
    #[derive(Parser)]
    #[command(args_override_self = true, no_binary_name = true)]
    struct Arguments {
        dir: Option<String>,
        #[command(flatten)]
        settings: Settings,
    }
    let is_switch = |arg: &clap::Arg| {
        arg.get_value_parser().type_id() == clap::value_parser!(bool).type_id()
            && matches!(arg.get_action(), ArgAction::Set)
    };
    let command = Arguments::command().mut_args(|arg| match is_switch(&arg) {
        true => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        false => arg.allow_negative_numbers(true),
    });
    let words = arguments.split_whitespace().map(|word| word.replace("ROOT", files::root_text()));
    let matches = command.try_get_matches_from(words).unwrap_or_else(|error| panic!("{arguments}: {error}"));
    let Arguments { dir, settings } = Arguments::from_arg_matches(&matches).expect("it is parsed");
    let mut short = Settings {
        epochs: Some(2),
        batch_size: Some(8),
        warmup_epochs: Some(0),
        workers: Some(0),
        lr: Some(0.05),
        model: Some("resnet8".into()),
        ..Settings::default()
    };
    match dir {
        Some(dir) => {
            short.data_dir = Some(files::root().join(dir));
            short.img_size = Some(16);
        }
        None => (short.train_num_samples, short.val_num_samples) = (Some(32), Some(16)),
    }
    settings.over(short)
}
