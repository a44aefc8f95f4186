//! A few updates of an experiment, without evaluation, checkpoints and files.
use crate::error::ErrorKind;
use crate::experiment::Experiment;
use crate::loader::Batch;
use crate::{Error, Result};

/// Trains the model of an experiment, which is built if necessary, with `lr(update)` as the learning rate of update 0, 1 and so on, until
/// it is `None`. `on_update` is called with the learning rate and the loss of each update; it returns false to end the run.
pub fn train_updates(
    experiment: &mut Experiment,
    lr: impl Fn(u64) -> Option<f64>,
    mut on_update: impl FnMut(f64, f64) -> bool,
) -> Result<()> {
    experiment.build()?;
    let accumulated = experiment.config.grad_accum_steps;
    let classes = experiment.build_data()?.num_classes;
    let Experiment { model, optimizer, train_loader, train_step, signals, .. } = experiment;
    let (Some(model), Some(optimizer), Some(loader), Some(step)) =
        (model, optimizer, train_loader, train_step)
    else {
        return Err(Error::new(ErrorKind::Bug, "the parts of the run are not built"));
    };
    let check_interrupt = || match signals.interrupt() {
        None => Ok(()),
        Some(signal) => Err(Error::new(ErrorKind::Interrupted(signal), "the run was interrupted")),
    };
    if loader.batches() == 0 {
        return Err(Error::data("an epoch has no batches").remedy("lower --batch-size"));
    }
    let mut update = 0;
    for epoch in 0.. {
        let loss = step.options().loss.clone();
        let prepare =
            move |batch: Batch| Ok(Batch { target: loss.prepare(&batch.target, classes)?, ..batch });
        let mut source = loader.staged_epoch(epoch, 0, prepare)?;
        loop {
            let Some(lr) = lr(update) else { return Ok(()) };
            let batches = std::iter::from_fn(|| source.next_batch(&check_interrupt)).take(accumulated);
            let batches = batches.collect::<Result<Vec<_>>>()?;
            if batches.is_empty() {
                break;
            }
            let loss = step.queue(&**model, optimizer, &batches, lr)?.wait()?.loss;
            update += 1;
            if !on_update(lr, loss) {
                return Ok(());
            }
            check_interrupt()?;
        }
    }
    Ok(())
}
