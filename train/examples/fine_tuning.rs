//! Fine-tuning with frozen layers: a model is trained on the digits 0 to 4 and then, with only its classifier and its last stage, on all.
//!
//! ```sh
//! cargo run --release --example fine_tuning
//! ```
use fornax::config::Config;
use fornax::data::{Dataset, DatasetSplits, DatasetSubset};
use fornax::experiment::{Experiment, RunData};
use fornax::optim::{self, Optimizer, OptimizerOptions};
use fornax::settings::Settings;
use std::sync::Arc;

/// Parts of `resnet8` that are trained in fine-tuning.
const TRAINED: [&str; 2] = ["layer3.", "fc."];

fn settings(epochs: u32) -> Settings {
    Settings { epochs: Some(epochs), batch_size: Some(64), warmup_epochs: Some(0), ..Settings::default() }
}

/// The samples of the first five classes.
fn first_classes(split: &Arc<dyn Dataset>) -> Arc<dyn Dataset> {
    let indices = (0..split.len()).filter(|index| split.target(*index) < 5).collect();
    Arc::new(DatasetSubset::new(split.clone(), indices))
}

/// Trains and fine-tunes for some epochs each; returns the top-1 accuracy on all digits in percent, and the number of frozen parameters.
pub fn train(epochs: u32) -> fornax::Result<(f64, usize)> {
    let mut config = Config::resolve(&settings(epochs))?;
    let all = config.data.dataset.open()?;
    let some = DatasetSplits {
        train: first_classes(&all.train),
        validation: all.validation.as_ref().map(first_classes),
        ..all
    };
    let data = RunData::new(&mut config, some)?;
    let mut pretraining = Experiment::new(config);
    pretraining.data = Some(data);
    let top1 = pretraining.run()?.evaluation.top1;
    println!("digits 0 to 4: top-1 {top1:.2}%");

    let mut tuning = Experiment::new(Config::resolve(&settings(epochs))?);
    tuning.model = pretraining.model.take();
    let model = tuning.build_model()?;
    let (trained, frozen): (Vec<_>, Vec<_>) = optim::parameters(model, 1e-4)
        .into_iter()
        .partition(|parameter| TRAINED.iter().any(|name| parameter.name.starts_with(name)));
    let before: Vec<Vec<f32>> = frozen.iter().map(|p| p.tensor.to_vec()).collect::<Result<_, _>>()?;
    let rule = optim::rule("sgd", &OptimizerOptions { lr: Some(0.1), ..OptimizerOptions::default() })?;
    let gradients = tuning.config.gradient_rule();
    tuning.optimizer = Some(Optimizer::new(trained, rule, gradients)?);
    let result = tuning.run()?;

    for (parameter, before) in frozen.iter().zip(before) {
        assert_eq!(parameter.tensor.to_vec::<f32>()?, before, "{} is frozen", parameter.name);
    }
    Ok((result.evaluation.top1, frozen.iter().map(|parameter| parameter.tensor.numel()).sum()))
}

fn main() -> fornax::Result<()> {
    let (top1, frozen) = train(5)?;
    println!("all digits: top-1 {top1:.2}% with {frozen} frozen parameters");
    Ok(())
}
