//! A callback of one's own: it prints the norm of the gradients, and stops the run at a target accuracy.
//!
//! ```sh
//! cargo run --release --example custom_callback
//! ```
use fornax::Result;
use fornax::callbacks::{Callback, EpochEnd};
use fornax::config::Config;
use fornax::experiment::Experiment;
use fornax::report::UpdateMetrics;
use fornax::settings::Settings;

/// Stops when the top-1 accuracy reaches a target.
struct StopAtAccuracy {
    target: f64,
    largest_norm: f32,
    reached: Option<f64>,
}

impl Callback for StopAtAccuracy {
    fn on_batch_end(&mut self, metrics: &UpdateMetrics) -> Result<()> {
        self.largest_norm = self.largest_norm.max(metrics.grad_norm.unwrap_or(0.0));
        Ok(())
    }

    fn on_epoch_end(&mut self, event: &EpochEnd) -> Result<()> {
        let Some(metrics) = event.metrics else { return Ok(()) };
        let norm = std::mem::take(&mut self.largest_norm);
        println!("epoch {}  top-1 {:.2}%  largest gradient norm {norm:.2}", event.epoch, metrics.eval_top1);
        self.reached = Some(metrics.eval_top1).filter(|top1| *top1 >= self.target);
        Ok(())
    }

    fn stop_reason(&self) -> Option<String> {
        self.reached.map(|top1| format!("top-1 {top1:.2}% is enough"))
    }
}

/// Trains until a top-1 accuracy in percent is reached, at most 30 epochs; returns the number of epochs and the accuracy.
pub fn train(target: f64) -> Result<(u32, f64)> {
    // Clipping by norm computes the norm of the gradients.
    let settings = Settings { epochs: Some(30), clip_grad: Some(1.0), ..Settings::default() };
    let mut experiment = Experiment::new(Config::resolve(&settings)?);
    experiment.callbacks.push(StopAtAccuracy { target, largest_norm: 0.0, reached: None });
    let result = experiment.run()?;
    Ok((experiment.state.epoch, result.evaluation.top1))
}

fn main() -> Result<()> {
    let (epochs, top1) = train(95.0)?;
    println!("top-1 {top1:.2}% after {epochs} epochs");
    Ok(())
}
