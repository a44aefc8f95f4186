//! Runs as a library: parts, callbacks, validation intervals, early stopping, ranked checkpoints, failing disks.
#[path = "common/tiny_run.rs"]
mod tiny_run;

use fornax::callbacks::{
    AccuracyRecorder, BatchBegin, Callback, ConfusionMatrixRecorder, CsvLogger, EpochBegin, EpochEnd,
    EvaluatedWeights, History, JsonlLogger, LossRecorder, LrRecorder, MultiLossRecorder, RunSnapshot,
    SaveReason, TestBegin, TestSummary, TrainBegin, TrainEnd, TrainSummary,
};
use fornax::checkpoint::{self, files};
use fornax::error::ErrorKind;
use fornax::experiment::RunCheckpoint;
use fornax::nn::loss::{CrossEntropy, Loss};
use fornax::nn::named_parameters;
use fornax::optim::{self, Optimizer, OptimizerOptions};
use fornax::report::{Destination, UpdateMetrics};
use fornax::settings::Settings;
use fornax::{Error, Result};
use fornax_engine::{GradientRule, Tensor};
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tiny_run::{tiny_run, tiny_run_in, tiny_settings};

fn stems(folder: &Path) -> Vec<String> {
    let name = |name: files::CheckpointName| name.path(Path::new("")).display().to_string();
    let mut stems: Vec<String> = files::list(&folder.join("checkpoints"))
        .into_iter()
        .map(|file| name(file).replace(".safetensors", ""))
        .collect();
    stems.sort();
    stems
}

#[test]
fn run_from_a_configuration_learns() {
    let mut run = tiny_run(&Settings { epochs: Some(8), ..tiny_settings() });
    let result = run.run().expect("trains");
    assert!(result.evaluation.top1 > 90.0, "{:?}", result.evaluation.top1);
    assert_eq!((run.state.epoch, run.state.update, result.folder), (8, 32, None));
    assert_eq!(result.evaluation.predictions.len(), 16);
    let confusion = result.evaluation.confusion();
    let diagonal: u64 = (0..4).map(|class| confusion[class][class]).sum();
    assert_eq!(100.0 * diagonal as f64 / 16.0, result.evaluation.top1);
}

/// Cross entropy that counts its calls.
#[derive(Debug, Default)]
struct CountingLoss(CrossEntropy, AtomicUsize);

impl Loss for CountingLoss {
    fn forward(&self, logits: &Tensor, target: &Tensor) -> fornax_engine::Result<Tensor> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.forward(logits, target)
    }
}

#[test]
fn replaced_parts_are_used() {
    let loss = Arc::new(CountingLoss::default());
    let mut run = tiny_run(&tiny_settings());
    run.criterion = Some(loss.clone());
    let model = run.build_model().expect("builds");
    let classifier: Vec<_> =
        optim::parameters(model, 0.0).into_iter().filter(|p| p.name.starts_with("fc.")).collect();
    assert_eq!(classifier.len(), 2);
    let before: Vec<Vec<f32>> =
        named_parameters(model).iter().map(|(_, tensor)| tensor.to_vec().expect("f32")).collect();
    let options = OptimizerOptions { lr: Some(0.1), ..OptimizerOptions::default() };
    let rule = optim::rule("sgd", &options).expect("a name");
    run.optimizer = Some(Optimizer::new(classifier, rule, GradientRule::default()).expect("valid"));
    run.run().expect("trains");
    assert_eq!(loss.1.load(Ordering::Relaxed), 12);
    let model = run.model.as_deref().expect("built");
    for ((name, tensor), before) in named_parameters(model).iter().zip(before) {
        let changed = tensor.to_vec::<f32>().expect("f32") != before;
        assert_eq!(changed, name.starts_with("fc."), "{name}");
    }
}

/// Records the names of its hooks.
#[derive(Clone, Default)]
struct HookLog(Rc<RefCell<Vec<String>>>);

impl HookLog {
    fn add(&self, hook: impl Into<String>) -> Result<()> {
        self.0.borrow_mut().push(hook.into());
        Ok(())
    }
}

impl Callback for HookLog {
    fn on_train_begin(&mut self, event: &TrainBegin) -> Result<()> {
        self.add(format!("train begin: {} epochs of {} updates", event.epochs, event.updates_per_epoch))
    }
    fn on_train_end(&mut self, event: &TrainEnd) -> Result<()> {
        self.add(format!("train end: {} epochs, stop: {:?}", event.state.epoch, event.stop_reason))
    }
    fn on_epoch_begin(&mut self, event: &EpochBegin) -> Result<()> {
        self.add(format!("epoch begin {} at batch {}", event.epoch, event.first_batch))
    }
    fn on_epoch_end(&mut self, event: &EpochEnd) -> Result<()> {
        self.add(format!("epoch end {}, evaluated: {}", event.epoch, event.metrics.is_some()))
    }
    fn on_batch_begin(&mut self, event: &BatchBegin) -> Result<()> {
        self.add(format!("batch begin {} with {} batches", event.update, event.batches.len()))
    }
    fn on_batch_end(&mut self, metrics: &UpdateMetrics) -> Result<()> {
        self.add(format!("batch end {}", metrics.update))
    }
    fn on_train_summary(&mut self, summary: &TrainSummary) -> Result<()> {
        self.add(format!("train summary {}", summary.epoch))
    }
    fn on_test_begin(&mut self, event: &TestBegin) -> Result<()> {
        self.add(format!("test begin {:?}", event.weights))
    }
    fn on_test_end(&mut self, event: &TestBegin) -> Result<()> {
        self.add(format!("test end {:?}", event.weights))
    }
    fn on_test_summary(&mut self, summary: &TestSummary) -> Result<()> {
        self.add(format!("test summary {:?} of {}", summary.weights, summary.evaluation.targets.len()))
    }
    fn on_save(&mut self, _: &RunSnapshot, reason: SaveReason) -> Result<()> {
        self.add(format!("save {reason:?}"))
    }
}

/// Has a message for the user after every save, and logs saves, messages and epochs.
#[derive(Clone, Default)]
struct MessageAtSave {
    log: Rc<RefCell<Vec<String>>>,
    message: Option<String>,
}

impl Callback for MessageAtSave {
    fn on_epoch_begin(&mut self, event: &EpochBegin) -> Result<()> {
        self.log.borrow_mut().push(format!("epoch {}", event.epoch));
        Ok(())
    }
    fn on_message(&mut self, text: &str) -> Result<()> {
        if text.starts_with("saved") {
            self.log.borrow_mut().push(text.into());
        }
        Ok(())
    }
    fn take_message(&mut self) -> Option<String> {
        self.message.take()
    }
    fn on_save(&mut self, _: &RunSnapshot, reason: SaveReason) -> Result<()> {
        self.message = Some(format!("saved: {reason:?}"));
        Ok(())
    }
}

#[test]
fn messages_of_a_save_are_delivered_before_the_next_hook() {
    let callback = MessageAtSave::default();
    let mut run = tiny_run(&Settings { epochs: Some(1), ..tiny_settings() });
    run.callbacks.push(callback.clone());
    run.run().expect("trains");
    let expected =
        ["saved: Start", "epoch 0", "saved: Trained", "saved: EpochEnd { evaluated: true, best: true }"];
    assert_eq!(callback.log.borrow()[..], expected);
}

#[test]
fn callbacks_are_kept_after_a_run() {
    let callback = MessageAtSave::default();
    let mut run = tiny_run(&Settings { epochs: Some(1), ..tiny_settings() });
    run.callbacks.push(callback.clone());
    run.run().expect("trains");
    callback.log.borrow_mut().clear();
    run.callbacks.on_message("saved: a message after the run").expect("delivered");
    assert_eq!(callback.log.borrow()[..], ["saved: a message after the run"]);
}

#[test]
fn hooks_are_called_in_order() {
    let log = HookLog::default();
    let settings = Settings {
        epochs: Some(2),
        val_interval: Some(2),
        grad_accum_steps: Some(2),
        model_ema: Some(true),
        model_ema_decay: Some(0.5),
        ..tiny_settings()
    };
    let mut run = tiny_run(&settings);
    run.callbacks.push(log.clone());
    run.run().expect("trains");
    let expected = [
        "train begin: 2 epochs of 2 updates",
        "save Start",
        "epoch begin 0 at batch 0",
        "batch begin 1 with 2 batches",
        "batch begin 2 with 2 batches",
        "batch end 1",
        "batch end 2",
        "train summary 0",
        "epoch end 0, evaluated: false",
        "save EpochEnd { evaluated: false, best: false }",
        "epoch begin 1 at batch 0",
        "batch begin 3 with 2 batches",
        "batch begin 4 with 2 batches",
        "batch end 3",
        "batch end 4",
        "train summary 1",
        "save Trained",
        "test begin Ema",
        "test end Ema",
        "test summary Ema of 16",
        "test begin Model",
        "test end Model",
        "test summary Model of 16",
        "epoch end 1, evaluated: true",
        "save EpochEnd { evaluated: true, best: true }",
        "train end: 2 epochs, stop: None",
    ];
    assert_eq!(*log.0.borrow(), expected);
}

#[test]
fn recorders_hold_what_the_run_reports() {
    let folder = tempfile::tempdir().expect("a folder");
    let (history, loss, losses) = (History::default(), LossRecorder::default(), MultiLossRecorder::default());
    let accuracy = [EvaluatedWeights::Model, EvaluatedWeights::Ema].map(AccuracyRecorder::new);
    let (confusion, lrs) = (ConfusionMatrixRecorder::default(), LrRecorder::default());
    let mut run = tiny_run(&Settings { model_ema: Some(true), ..tiny_settings() });
    run.callbacks.push(history.clone());
    run.callbacks.push(loss.clone());
    run.callbacks.push(losses.clone());
    accuracy.iter().for_each(|recorder| run.callbacks.push(recorder.clone()));
    run.callbacks.push(confusion.clone());
    run.callbacks.push(lrs.clone());
    run.callbacks.push(CsvLogger::new(folder.path().join("metrics.csv")));
    run.callbacks.push(JsonlLogger::new(folder.path().join("metrics.jsonl")));
    run.run().expect("trains");
    assert_eq!(history.rows(), run.state.history);
    let train: Vec<(u32, f64)> = history.rows().iter().map(|row| (row.epoch, row.train_loss)).collect();
    assert_eq!(loss.losses(), train);
    assert_eq!(losses.losses()["train"], train);
    let of_ema: Vec<(u32, f64)> = history.rows().iter().map(|row| (row.epoch, row.eval_loss)).collect();
    assert_eq!(losses.losses()["validation_ema"], of_ema);
    assert_eq!(losses.losses()["validation"].len(), 3);
    assert_eq!(accuracy[0].accuracies().len(), 3);
    let of_ema: Vec<f64> = history.rows().iter().map(|row| row.eval_top1).collect();
    assert_eq!(accuracy[1].accuracies().iter().map(|(_, [top1, _])| *top1).collect::<Vec<_>>(), of_ema);
    assert_eq!(confusion.counts().iter().flatten().sum::<u64>(), 16);
    let updates: Vec<u64> = lrs.lrs().iter().map(|(update, _)| *update).collect();
    assert_eq!(updates, (1..=12).collect::<Vec<_>>());
    assert_eq!(lrs.lrs()[0].1, 0.05);
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("reads");
    assert_eq!(read("metrics.csv").lines().count(), 4);
    let events: Vec<serde_json::Value> =
        read("metrics.jsonl").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(events.iter().filter(|event| event["event"] == "update").count(), 12);
    assert_eq!(events.iter().filter(|event| event["event"] == "epoch").count(), 3);
}

/// Stops the run after an update.
struct StopAt(u64, Option<String>);

impl Callback for StopAt {
    fn on_batch_end(&mut self, metrics: &UpdateMetrics) -> Result<()> {
        if metrics.update >= self.0 {
            self.1 = Some("it is enough".into());
        }
        Ok(())
    }

    fn stop_reason(&self) -> Option<String> {
        self.1.clone()
    }
}

#[test]
fn callback_stops_run_and_resumed_run_equals_an_uninterrupted_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run");
    let settings = Settings { model_ema: Some(true), model_ema_decay: Some(0.9), ..tiny_settings() };
    let mut whole = tiny_run(&settings);
    whole.run().expect("trains");
    let mut first = tiny_run_in(&path, &settings);
    first.callbacks.push(StopAt(6, None));
    first.run().expect("stops in good order");
    assert!((6..=8).contains(&first.state.update), "{}", first.state.update);
    let mut second = tiny_run(&settings);
    let checkpoint = checkpoint::read(&path.join("checkpoints/last.safetensors")).expect("reads");
    assert_eq!(checkpoint.header.state, first.state);
    second.resume = Some(RunCheckpoint { checkpoint, notes: vec![] });
    second.run().expect("trains");
    assert_eq!(second.state, whole.state);
    assert_eq!(second.hash().expect("hashes"), whole.hash().expect("hashes"));
}

#[test]
fn plan_counts_the_updates_of_repeated_epochs() {
    let settings = Settings { epoch_repeats: Some(2.5), ..tiny_settings() };
    let plan = tiny_run(&settings).plan().expect("a plan").to_string();
    assert!(plan.contains("3 epochs of 10 updates"), "{plan}");
    let mut run = tiny_run(&settings);
    run.run().expect("trains");
    assert_eq!(run.state.update, 30);
}

#[test]
fn early_stopping_ends_the_run() {
    // Without learning no evaluation is better than the first.
    let settings = Settings {
        lr: Some(0.0),
        epochs: Some(9),
        early_stop_patience: Some(2),
        eval_metric: Some(fornax::settings::EvalMetric::Top1),
        ..tiny_settings()
    };
    let mut run = tiny_run(&settings);
    run.run().expect("stops in good order");
    assert!(run.state.epoch < 9, "{}", run.state.epoch);
    let best = run.state.best(run.config.eval_metric).expect("evaluated").epoch;
    // Of equal epochs the best one has the lowest loss, but an equal metric is no improvement.
    let history = &run.state.history;
    let first =
        history.iter().find(|row| row.eval_top1 == history[best as usize].eval_top1).expect("the best");
    assert_eq!(run.state.epoch, first.epoch + 3);
}

#[test]
fn ranked_and_recovery_checkpoints_are_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = Settings {
        epochs: Some(4),
        checkpoint_hist: Some(2),
        recovery_interval: Some(1),
        eval_metric: Some(fornax::settings::EvalMetric::Loss),
        ..tiny_settings()
    };
    let path = folder.path().join("run");
    let mut run = tiny_run_in(&path, &settings);
    run.run().expect("trains");
    let mut rows = run.state.history.clone();
    rows.sort_by(|a, b| a.eval_loss.total_cmp(&b.eval_loss));
    let mut expected: Vec<String> = rows[..2].iter().map(|row| format!("checkpoint-{}", row.epoch)).collect();
    expected.extend(["best", "last", "recovery-3-1", "recovery-3-2"].map(String::from));
    expected.sort();
    assert_eq!(stems(&path), expected);
    let best = checkpoint::read(&path.join("checkpoints/best.safetensors")).expect("reads");
    assert_eq!(best.header.state.epoch - 1, rows[0].epoch);
}

/// Fails to save at one of the calls.
struct FailingDisk {
    failing: usize,
    calls: usize,
    messages: Rc<RefCell<Vec<String>>>,
}

impl Callback for FailingDisk {
    fn on_save(&mut self, _: &RunSnapshot, _: SaveReason) -> Result<()> {
        self.calls += 1;
        if self.calls == self.failing + 1 {
            return Err(Error::disk("the file cannot be written").because("no space left on device"));
        }
        Ok(())
    }

    fn on_message(&mut self, text: &str) -> Result<()> {
        self.messages.borrow_mut().push(text.into());
        Ok(())
    }
}

#[test]
fn full_disk_ends_the_run_only_at_its_start_and_end() {
    let mut outcomes = vec![];
    // Saves: start, before and after the evaluation of each of three epochs.
    for failing in 0..7 {
        let messages = Rc::new(RefCell::new(vec![]));
        let mut run = tiny_run(&tiny_settings());
        run.callbacks.push(FailingDisk { failing, calls: 0, messages: messages.clone() });
        let result = run.run();
        let said = messages.borrow().iter().any(|text| text.contains("training continues"));
        match result {
            Ok(_) => outcomes.push(said && run.state.epoch == 3),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Disk);
                outcomes.push(false);
            }
        }
    }
    assert_eq!(outcomes, [false, true, true, true, true, true, false]);
}

#[test]
fn start_epoch_and_no_resume_opt_take_effect() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run");
    let mut first = tiny_run_in(&path, &tiny_settings());
    first.run().expect("trains");
    let resume = |settings: &Settings| {
        let mut run = tiny_run(settings);
        let checkpoint = checkpoint::read(&path.join("checkpoints/last.safetensors")).expect("reads");
        run.resume = Some(RunCheckpoint { checkpoint, notes: vec![] });
        run
    };
    let mut restarted = resume(&Settings { start_epoch: Some(1), ..tiny_settings() });
    restarted.build().expect("builds");
    assert_eq!((restarted.state.epoch, restarted.state.update), (1, 4));
    let moments = |settings: &Settings| {
        let mut run = resume(settings);
        run.build().expect("builds");
        let state = run.optimizer.as_ref().expect("built").state_dict();
        let (_, moment) = state.iter().find(|(name, _)| name.contains('/')).expect("momentum").clone();
        moment.to_vec::<f32>().expect("f32")
    };
    assert!(moments(&tiny_settings()).iter().any(|v| *v != 0.0));
    let reset = Settings { no_resume_opt: Some(true), ..tiny_settings() };
    assert!(moments(&reset).iter().all(|v| *v == 0.0));
}

#[test]
fn batches_per_epoch_are_limited() {
    let mut run = tiny_run(&Settings { train_batches_per_epoch: Some(3), ..tiny_settings() });
    run.run().expect("trains");
    assert_eq!(run.state.update, 9);
}

#[test]
fn more_batches_per_epoch_than_the_data_have_pass_over_them_again_and_resume_exactly() {
    let folder = tempfile::tempdir().expect("a folder");
    // Four batches in the data.
    let settings = Settings { train_batches_per_epoch: Some(11), ..tiny_settings() };
    let mut whole = tiny_run(&settings);
    let plan = whole.plan().expect("a plan").to_string();
    assert!(
        plan.contains("3 epochs of 11 updates") && plan.contains("the training images have 4 batches"),
        "{plan}"
    );
    whole.run().expect("trains");
    assert_eq!(whole.state.update, 33);
    let path = folder.path().join("run");
    let mut first = tiny_run_in(&path, &settings);
    first.callbacks.push(StopAt(17, None));
    first.run().expect("stops in good order");
    assert!(first.state.batch > 4, "within a later pass");
    let mut second = tiny_run(&settings);
    let checkpoint = checkpoint::read(&path.join("checkpoints/last.safetensors")).expect("reads");
    second.resume = Some(RunCheckpoint { checkpoint, notes: vec![] });
    second.run().expect("trains");
    assert_eq!(second.hash().expect("hashes"), whole.hash().expect("hashes"));
    for settings in [
        Settings { train_batches_per_epoch: Some(u32::MAX), ..tiny_settings() },
        Settings { epoch_repeats: Some(1e12), ..tiny_settings() },
    ] {
        let error = tiny_run(&settings).build().expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("an epoch would be too long"), "{error}");
    }
}

/// Fails at the begin of the evaluation of an epoch, as a process that is killed there.
struct FailInEvaluation(u32);

impl Callback for FailInEvaluation {
    fn on_test_begin(&mut self, event: &TestBegin) -> Result<()> {
        if event.epoch == self.0 { Err(Error::data("the evaluation fails")) } else { Ok(()) }
    }
}

#[test]
fn run_that_ends_within_an_evaluation_resumes_with_that_evaluation_and_the_same_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = Settings { model_ema: Some(true), model_ema_decay: Some(0.9), ..tiny_settings() };
    let mut whole = tiny_run(&settings);
    whole.run().expect("trains");
    for epoch in 0..3 {
        let path = folder.path().join(format!("run-{epoch}"));
        let mut first = tiny_run_in(&path, &settings);
        first.callbacks.push(FailInEvaluation(epoch));
        first.run().expect_err("the evaluation fails");
        let checkpoint = checkpoint::read(&path.join("checkpoints/last.safetensors")).expect("reads");
        let state = &checkpoint.header.state;
        assert_eq!(
            (state.epoch, state.batch, state.update),
            (epoch, 4, 4 * (u64::from(epoch) + 1)),
            "no update is lost"
        );
        let log = HookLog::default();
        let mut second = tiny_run(&settings);
        second.resume = Some(RunCheckpoint { checkpoint, notes: vec![] });
        second.callbacks.push(log.clone());
        second.run().expect("trains");
        let trained_again = log.0.borrow().iter().filter(|hook| hook.starts_with("batch end")).count();
        assert_eq!(trained_again, 4 * (2 - epoch as usize));
        assert_eq!(second.state, whole.state);
        assert_eq!(second.hash().expect("hashes"), whole.hash().expect("hashes"));
    }
}

#[cfg(unix)]
#[test]
fn checkpoints_of_one_state_are_links_that_later_saves_do_not_change() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run");
    tiny_run_in(&path, &Settings { epochs: Some(2), ..tiny_settings() }).run().expect("trains");
    let file = |name: &str| path.join("checkpoints").join(format!("{name}.safetensors"));
    let inode = |name: &str| std::fs::metadata(file(name)).expect("exists").ino();
    assert_eq!(inode("last"), inode("checkpoint-1"));
    let before: Vec<Vec<u8>> =
        ["checkpoint-0", "checkpoint-1"].map(|name| std::fs::read(file(name)).expect("reads")).into();
    let mut more = tiny_run(&tiny_settings());
    more.output = Some(Destination::Resume(path.clone()));
    let checkpoint = checkpoint::read(&file("last")).expect("reads");
    more.resume = Some(RunCheckpoint { checkpoint, notes: vec![] });
    more.run().expect("trains");
    let after: Vec<Vec<u8>> =
        ["checkpoint-0", "checkpoint-1"].map(|name| std::fs::read(file(name)).expect("reads")).into();
    assert!(before == after, "a link is never written in place");
    assert_eq!(inode("last"), inode("checkpoint-2"));
    let best = more.state.best(more.config.eval_metric).expect("evaluated").epoch;
    assert_eq!(inode("best"), inode(&format!("checkpoint-{best}")));
}

/// Cross entropy whose first value is not a number.
#[derive(Debug, Default)]
struct FirstIsNan(CrossEntropy, AtomicUsize);

impl Loss for FirstIsNan {
    fn forward(&self, logits: &Tensor, target: &Tensor) -> fornax_engine::Result<Tensor> {
        let loss = self.0.forward(logits, target)?;
        if self.1.fetch_add(1, Ordering::Relaxed) == 0 { loss.mul_scalar(f64::NAN) } else { Ok(loss) }
    }
}

#[test]
fn skipped_first_update_is_not_counted_in_the_mean_loss() {
    let settings = Settings {
        on_nonfinite: Some(fornax::settings::NonfinitePolicy::Skip),
        lr: Some(0.0),
        weight_decay: Some(0.0),
        epochs: Some(1),
        ..tiny_settings()
    };
    let mut run = tiny_run(&settings);
    run.criterion = Some(Arc::new(FirstIsNan::default()));
    run.run().expect("trains");
    assert_eq!((run.state.nonfinite.skipped, run.state.update), (1, 4));
    let mut plain = tiny_run(&settings);
    plain.run().expect("trains");
    // Nothing is learnt: every batch has about the same loss, and a batch that counts as 0 would take a quarter.
    let (skipped, all) = (run.state.history[0].train_loss, plain.state.history[0].train_loss);
    assert!((skipped / all - 1.0).abs() < 0.15, "{skipped} and {all}");
}

#[test]
fn short_ema_run_warns() {
    let messages = Rc::new(RefCell::new(vec![]));
    let mut run = tiny_run(&Settings { model_ema: Some(true), ..tiny_settings() });
    run.callbacks.push(FailingDisk { failing: 100, calls: 0, messages: messages.clone() });
    run.run().expect("trains");
    let text = messages.borrow().join("\n");
    assert!(text.contains("of the EMA weights are still those of the first update"), "{text}");
    assert!(text.contains("--model-ema-warmup"), "{text}");
}
