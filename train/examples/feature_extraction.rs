//! Feature extraction: the features of a trained model classify digits by their nearest class mean.
//!
//! ```sh
//! cargo run --release --example feature_extraction
//! ```
use fornax::config::Config;
use fornax::engine::no_grad;
use fornax::experiment::Experiment;
use fornax::loader::Loader;
use fornax::nn::Context;
use fornax::nn::models::Model;
use fornax::settings::Settings;
use fornax::train_step::TrainStep;

/// Features of all samples of a loader, and their classes.
fn features(model: &dyn Model, loader: &Loader, step: &TrainStep) -> fornax::Result<Vec<(Vec<f32>, usize)>> {
    let mut rows = vec![];
    for batch in loader.epoch(0, 0)? {
        let (batch, mut cx) = (batch?, Context::eval());
        let images = step.prepare_images(&batch, &cx)?;
        let features = no_grad(|| {
            let maps = model.forward_features(&images, &mut cx)?;
            model.forward_head(&maps, true, &mut cx)
        })?;
        let values = features.to_vec::<f32>()?;
        let width = features.dims()[1];
        let classes = batch.target.to_vec::<i64>()?;
        rows.extend(values.chunks_exact(width).map(<[f32]>::to_vec).zip(classes.iter().map(|c| *c as usize)));
    }
    Ok(rows)
}

/// Trains for some epochs; returns the accuracy of the nearest class mean in percent, and the width of the features.
pub fn classify(epochs: u32) -> fornax::Result<(f64, usize)> {
    let settings = Settings { epochs: Some(epochs), warmup_epochs: Some(0), ..Settings::default() };
    let mut experiment = Experiment::new(Config::resolve(&settings)?);
    experiment.run()?;
    let (Some(model), Some(step)) = (&experiment.model, &experiment.train_step) else {
        unreachable!("a run sets every part")
    };
    let (Some(train), Some(validation)) = (&experiment.train_loader, &experiment.validation_loader) else {
        unreachable!("a run sets every part")
    };
    let known = features(&**model, train, step)?;
    let width = known[0].0.len();
    let mut means = vec![(vec![0.0f32; width], 0); 10];
    for (row, class) in &known {
        let (sum, count) = &mut means[*class];
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        *count += 1;
    }
    for (sum, count) in &mut means {
        sum.iter_mut().for_each(|sum| *sum /= (*count).max(1) as f32);
    }
    let unknown = features(&**model, validation, step)?;
    let distance = |row: &[f32], class: usize| -> f32 {
        row.iter().zip(&means[class].0).map(|(a, b)| (a - b) * (a - b)).sum()
    };
    let nearest = |row: &[f32]| {
        (0..10).min_by(|a, b| distance(row, *a).total_cmp(&distance(row, *b))).expect("ten classes")
    };
    let correct = unknown.iter().filter(|(row, class)| nearest(row) == *class).count();
    Ok((100.0 * correct as f64 / unknown.len() as f64, width))
}

fn main() -> fornax::Result<()> {
    let (accuracy, width) = classify(5)?;
    println!("{accuracy:.2}% by the nearest class mean of {width} features");
    Ok(())
}
