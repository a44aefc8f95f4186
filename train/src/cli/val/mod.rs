//! `fornax val`: loss and accuracy of trained or published models on a dataset.
mod args;
mod bad_images;
mod dataset;
mod evaluate;
mod metrics;
mod output;
mod real_labels;
mod results;
mod settings;
mod timm;
mod valid_labels;

pub use args::ValArgs;

use crate::cli::signals::Signals;
use crate::cli::{output_file, print};
use crate::config::{timm_name, unknown_model};
use crate::error::ErrorKind;
use crate::settings::Settings;
use crate::weights::WeightsSource;
use crate::{Error, Result};
use evaluate::Validator;
use fornax_nn::models::find_model;

/// Evaluates every checkpoint and prints the results.
pub fn execute(args: &ValArgs) -> Result<()> {
    let (given, ignored) = settings::given(args)?;
    let sources = sources(args, &given)?;
    if args.confusion_matrix.is_some() && sources.len() > 1 {
        return Err(Error::usage("--confusion-matrix takes one checkpoint")
            .because(format!("{} are given", sources.len()))
            .remedy("evaluate them one by one"));
    }
    args.compute.set_threads()?;
    let signals = Signals::listen(|_| ())?;
    let mut validator = Validator::new(args, given, ignored, &signals)?;
    // Before the first evaluation, which may take hours.
    let mut failed = vec![];
    let mut usable = vec![];
    for source in &sources {
        match validator.check_file(source) {
            Ok(()) => usable.push(source),
            Err(error) => report_failure(error, sources.len(), &mut failed)?,
        }
    }
    let mut all = vec![];
    for source in usable {
        let validation = match validator.evaluate(source) {
            Ok(validation) => validation,
            Err(error) => {
                report_failure(error, sources.len(), &mut failed)?;
                continue;
            }
        };
        print(&output::result(&validation, args.json, args.per_class))?;
        all.push(validation);
        if let Some(path) = args.results_file.as_deref().filter(|path| results::is_replaced(path)) {
            output_file::write(path, results::text(&all, args.results_format).as_bytes())?;
        }
    }
    if let (Some(path), [only]) = (&args.confusion_matrix, &all[..]) {
        output_file::write(path, output::confusion_csv(only).as_bytes())?;
    }
    if let Some(path) = args.results_file.as_deref().filter(|path| !results::is_replaced(path)) {
        output_file::write(path, results::text(&all, args.results_format).as_bytes())?;
    }
    if all.len() > 1 && !args.json {
        print(&output::comparison(&all))?;
    }
    let (count, total) = (failed.len(), sources.len());
    match failed.into_iter().next() {
        None => Ok(()),
        Some(first) => Err(Error::checkpoint(format!("{count} of {total} checkpoints were not evaluated"))
            .because(format!("the first: {}", first.why().unwrap_or(first.what())))
            .remedy("repair or omit the checkpoints reported above")),
    }
}

/// Keeps the error of one checkpoint among several, and prints it. Returns it if it ends the command: it concerns an only checkpoint, or the
/// others too, such as the dataset.
fn report_failure(error: Error, total: usize, failed: &mut Vec<Error>) -> Result<()> {
    if total == 1 || error.kind() != ErrorKind::Checkpoint {
        return Err(error);
    }
    message!("error: {error}");
    failed.push(error);
    Ok(())
}

/// The checkpoints to evaluate: the given ones, or the published weights of `--model`.
fn sources(args: &ValArgs, given: &Settings) -> Result<Vec<WeightsSource>> {
    let find = |name: &str| find_model(timm_name(name)).map_err(|_| unknown_model(name).at("--model"));
    match (&args.checkpoint[..], &given.model, given.pretrained) {
        ([], Some(model), Some(true)) => Ok(vec![WeightsSource::published(find(model)?)?]),
        ([], ..) => Err(Error::usage("there is nothing to evaluate")
            .because("neither --checkpoint nor --pretrained with --model is given")
            .remedy("pass a run folder or a weights file with --checkpoint")),
        (sources, ..) => Ok(sources.to_vec()),
    }
}
