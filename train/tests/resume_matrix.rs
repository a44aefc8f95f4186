//! Optimizers, schedules, precisions and EMA: a run that is stopped within an epoch and resumed ends with the state and the learning rates
//! of an uninterrupted run. `FORNAX_TEST_SWEEP=reliability` takes every combination.
#[path = "common/parallel.rs"]
mod parallel;
#[path = "common/sweep.rs"]
mod sweep;
#[path = "common/tiny_run.rs"]
mod tiny_run;

use clap::ValueEnum;
use fornax::Result;
use fornax::callbacks::{Callback, LrRecorder, ModelCheckpoint};
use fornax::checkpoint::{self, Checkpoint};
use fornax::experiment::RunCheckpoint;
use fornax::optim::optimizer_names_with_lookahead;
use fornax::report::UpdateMetrics;
use fornax::schedule::Sched;
use fornax::settings::{AmpDtype, EvalMetric, Settings};
use fornax_engine::Device;
use parallel::in_parallel;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use sweep::is_reliability_sweep;
use tiny_run::{tiny_run, tiny_settings};

/// Ends the run after an update.
struct StopAt(u64, bool);

impl Callback for StopAt {
    fn on_batch_end(&mut self, metrics: &UpdateMetrics) -> Result<()> {
        self.1 |= metrics.update >= self.0;
        Ok(())
    }

    fn stop_reason(&self) -> Option<String> {
        self.1.then(|| "for a test".into())
    }
}

/// Learning rates by update, as bits.
fn bits(recorder: &LrRecorder) -> Vec<(u64, u64)> {
    recorder.lrs().iter().map(|(update, lr)| (*update, lr.to_bits())).collect()
}

fn last(path: &Path) -> Checkpoint {
    checkpoint::read(&path.join("last.safetensors")).expect("reads")
}

/// Compares a whole run with one that is stopped and resumed. Its checkpoints are in a folder.
fn check(path: &Path, settings: &Settings) {
    let what =
        format!("{:?} {:?} {:?} {:?}", settings.opt, settings.sched, settings.amp_dtype, settings.model_ema);
    let mut whole = tiny_run(settings);
    let all = LrRecorder::default();
    whole.callbacks.push(all.clone());
    whole.run().unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut first = tiny_run(settings);
    let header = first.checkpoint_header().expect("a dataset");
    std::fs::create_dir_all(path).expect("a folder");
    first.callbacks.push(ModelCheckpoint::new(path.into(), header, Device::Cpu, EvalMetric::Top1, 1));
    let before = LrRecorder::default();
    first.callbacks.push(before.clone());
    first.callbacks.push(StopAt(2, false));
    first.run().unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(first.state.update < whole.state.update, "{what}");
    let mut second = tiny_run(settings);
    let after = LrRecorder::default();
    second.callbacks.push(after.clone());
    second.resume = Some(RunCheckpoint { checkpoint: last(path), notes: vec![] });
    second.run().unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(second.state, whole.state, "{what}");
    assert_eq!(second.hash().expect("hashes"), whole.hash().expect("hashes"), "{what}");
    assert_eq!([bits(&before), bits(&after)].concat(), bits(&all), "{what}");
}

#[test]
fn resumed_run_has_the_state_of_an_uninterrupted_one() {
    // In memory where that is possible: every checkpoint is forced to the disk.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder");
    let optimizers: Vec<String> = optimizer_names_with_lookahead().collect();
    let schedules: Vec<Sched> = Sched::value_variants().to_vec();
    let precisions = [None, Some(AmpDtype::Float16), Some(AmpDtype::Bfloat16)];
    let mut combinations = vec![];
    for (o, optimizer) in optimizers.iter().enumerate() {
        for (s, sched) in schedules.iter().enumerate() {
            for (p, precision) in precisions.iter().enumerate() {
                for ema in [false, true] {
                    // A subset in which every schedule, every precision, and both settings of EMA occur.
                    let i = o / 9;
                    let in_subset = o % 9 == 0
                        && (s, p, ema) == (i % schedules.len(), i % precisions.len(), i / 3 % 2 == 1);
                    let second_order_f16 =
                        optimizer.contains("adahessian") && *precision == Some(AmpDtype::Float16);
                    if (is_reliability_sweep() || in_subset) && !second_order_f16 {
                        combinations.push((optimizer, *sched, *precision, ema));
                    }
                }
            }
        }
    }
    let (done, started) = (AtomicUsize::new(0), Instant::now());
    in_parallel(combinations.len(), |number| {
        let (optimizer, sched, amp_dtype, ema) = &combinations[number];
        let settings = Settings {
            epochs: Some(2),
            lr: Some(0.002),
            opt: Some(optimizer.parse().expect("a name")),
            sched: Some(*sched),
            lr_lambda: (*sched == Sched::Lambda).then(|| "0.9 ** epoch".into()),
            warmup_epochs: (*sched != Sched::None).then_some(u32::from(*sched == Sched::Rsqrt)),
            amp: amp_dtype.is_some().then_some(true),
            amp_dtype: *amp_dtype,
            model_ema: ema.then_some(true),
            ..tiny_settings()
        };
        let path = folder.path().join(number.to_string());
        check(&path, &settings);
        std::fs::remove_dir_all(&path).expect("removes");
        let done = 1 + done.fetch_add(1, Ordering::Relaxed);
        if done.is_multiple_of(500) {
            eprintln!("R6: {done} of {} combinations, {} s", combinations.len(), started.elapsed().as_secs());
        }
    });
    let (all, seconds) = (combinations.len(), started.elapsed().as_secs());
    eprintln!(
        "R6: {all} combinations of optimizer, schedule, precision and EMA, {all} equal states after resuming, {seconds} s"
    );
    assert!(combinations.len() > 10, "{}", combinations.len());
}
