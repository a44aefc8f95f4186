//! A training loop of one's own on the included digits: loader, model, optimizer and schedule without the trainer.
//!
//! ```sh
//! cargo run --release --example custom_training_loop
//! ```
use fornax::config::Config;
use fornax::engine::no_grad;
use fornax::experiment::Experiment;
use fornax::nn::{Context, named_parameters};
use fornax::settings::Settings;

/// Trains for some epochs and returns the top-1 accuracy in percent.
pub fn train(epochs: u32) -> fornax::Result<f64> {
    // The parts come from a configuration; each could be built by hand as well.
    let settings = Settings { epochs: Some(epochs), warmup_epochs: Some(0), ..Settings::default() };
    let mut parts = Experiment::new(Config::resolve(&settings)?);
    parts.build()?;
    let (Some(model), Some(optimizer), Some(schedule)) = (&parts.model, &parts.optimizer, &parts.scheduler)
    else {
        unreachable!("build() sets every part")
    };
    let (Some(train), Some(validation), Some(step)) =
        (&parts.train_loader, &parts.validation_loader, &parts.train_step)
    else {
        unreachable!("build() sets every part")
    };
    println!("{} parameters", named_parameters(&**model).iter().map(|(_, p)| p.numel()).sum::<usize>());

    let (mut update, updates_per_epoch) = (0, train.batches() as u64);
    for epoch in 0..epochs {
        let mut loss_sum = 0.0;
        for batch in train.epoch(epoch, 0)? {
            let (batch, mut cx) = (batch?, Context::train());
            let logits = model.forward(&step.prepare_images(&batch, &cx)?, &mut cx)?;
            let loss = logits.cross_entropy(&batch.target, 0.1)?;
            optimizer.zero_grad();
            optimizer.backward(&loss)?;
            optimizer.update(schedule.lr_at(epoch, update, updates_per_epoch))?;
            loss_sum += loss.item()?;
            update += 1;
        }
        println!("epoch {epoch}  loss {:.4}", loss_sum / updates_per_epoch as f64);
    }

    let (mut correct, mut samples) = (0, 0);
    for batch in validation.epoch(0, 0)? {
        let (batch, mut cx) = (batch?, Context::eval());
        let images = step.prepare_images(&batch, &cx)?;
        let logits = no_grad(|| model.forward(&images, &mut cx))?;
        let (_, counts) = logits.cross_entropy_counted(&batch.target, 0.0, 5)?;
        correct += counts.to_vec::<i64>()?[0];
        samples += batch.target.numel();
    }
    Ok(100.0 * correct as f64 / samples as f64)
}

fn main() -> fornax::Result<()> {
    println!("top-1 {:.2}%", train(5)?);
    Ok(())
}
