//! Non-finite values in any part of a run, under each policy: a finite checkpoint always remains.
#[path = "common/sweep.rs"]
mod sweep;
#[path = "common/tiny_run.rs"]
mod tiny_run;

use fornax::Result;
use fornax::callbacks::{BatchBegin, Callback};
use fornax::checkpoint;
use fornax::device::DeviceSpec;
use fornax::error::ErrorKind;
use fornax::nn::loss::{CrossEntropy, Loss};
use fornax::nn::state_dict::SafetensorsFile;
use fornax::nn::{StateKind, named_parameters, state_entries};
use fornax::report::UpdateMetrics;
use fornax::settings::{AmpDtype, NonfinitePolicy, Settings};
use fornax_engine::{DType, Device, Tensor};
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use sweep::is_whole_sweep;
use tiny_run::{tiny_run_in, tiny_settings};

/// Number of the update at which a value is made non-finite: the second of the second epoch.
const INJECTED: u64 = 6;

/// Part of a run that becomes non-finite.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Site {
    Input,
    Loss,
    Gradient,
    Weight,
    RunningStatistic,
    Ema,
    Moment,
}

const SITES: [Site; 7] =
    [Site::Input, Site::Loss, Site::Gradient, Site::Weight, Site::RunningStatistic, Site::Ema, Site::Moment];

/// Cross entropy whose value or gradient is not finite in some calls.
#[derive(Debug)]
struct FaultyLoss {
    site: Option<Site>,
    /// Calls that are faulty: one, or all from that one on.
    first: usize,
    always: bool,
    calls: AtomicUsize,
}

impl Loss for FaultyLoss {
    fn forward(&self, logits: &Tensor, target: &Tensor) -> fornax_engine::Result<Tensor> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let loss = CrossEntropy::default().forward(logits, target)?;
        let is_faulty = call == self.first || (self.always && call > self.first);
        match self.site.filter(|_| is_faulty) {
            Some(Site::Loss) => loss.mul_scalar(f64::NAN),
            Some(Site::Gradient) => {
                // The square root of 0 is finite, its derivative is not.
                let logits = logits.to_dtype(DType::F32)?;
                let sum = logits.sum(&[0, 1], false)?;
                loss.to_dtype(DType::F32)?.add(&sum.sub(&sum.detach())?.sqrt()?)
            }
            _ => Ok(loss),
        }
    }
}

/// Writes NaN to a tensor once, before an update.
struct Poison {
    tensor: Option<Tensor>,
    input: bool,
    done: bool,
}

fn poison(tensor: &Tensor) {
    let nan = Tensor::full(*tensor.shape(), f64::NAN, tensor.dtype(), &tensor.device()).expect("memory");
    tensor.detach().copy_from(&nan).expect("same shape");
}

impl Callback for Poison {
    fn on_batch_begin(&mut self, event: &BatchBegin) -> Result<()> {
        if event.update == INJECTED && !std::mem::replace(&mut self.done, true) {
            self.tensor.iter().for_each(poison);
            if self.input {
                poison(&event.batches[0].images);
            }
        }
        Ok(())
    }
}

fn is_finite(bytes: &[u8]) -> bool {
    let file = SafetensorsFile::parse(bytes).expect("a whole file");
    file.tensors().iter().filter(|(_, info)| info.dtype == DType::F32).all(|(name, _)| {
        let values = file.tensor(name).expect("reads").to_vec::<f32>().expect("f32");
        values.iter().all(|value| value.is_finite())
    })
}

/// Trains with a value made non-finite; returns the kind of error at the end, after checking that a finite checkpoint remains.
fn outcome(folder: &Path, device: Device, site: Site, policy: NonfinitePolicy) -> Option<ErrorKind> {
    let path = folder.join(format!("{site:?}-{policy:?}"));
    let settings = Settings {
        no_prefetcher: Some(true),
        model_ema: Some(true),
        model_ema_decay: Some(0.5),
        on_nonfinite: Some(policy),
        ..tiny_settings()
    };
    let mut run = tiny_run_in(&path, &settings);
    run.device = device;
    // A replayed CUDA graph does not call the loss.
    run.cuda_graph = matches!(site, Site::Loss | Site::Gradient).then_some(false);
    let (first, calls) = (INJECTED as usize, AtomicUsize::new(0));
    run.criterion = Some(Arc::new(FaultyLoss { site: Some(site), first, always: false, calls }));
    run.build().expect("builds");
    let model = run.model.as_deref().expect("built");
    let tensor = match site {
        Site::Input | Site::Loss | Site::Gradient => None,
        Site::Weight => Some(named_parameters(model)[0].1.clone()),
        Site::RunningStatistic => {
            let mut entries = state_entries(model).into_iter();
            entries.find(|e| e.kind == StateKind::Buffer && e.tensor.dtype().is_float()).map(|e| e.tensor)
        }
        Site::Ema => Some(named_parameters(run.ema().expect("on").model())[0].1.clone()),
        Site::Moment => {
            let state = run.optimizer.as_ref().expect("built").state_dict();
            state.into_iter().find(|(name, _)| name.contains('/')).map(|(_, tensor)| tensor)
        }
    };
    run.callbacks.push(Poison { tensor, input: site == Site::Input, done: false });
    let result = run.run();
    let checkpoints = path.join("checkpoints");
    let newest = checkpoint::newest(&checkpoints).expect("a usable one").expect("a checkpoint");
    assert!(newest.passed_over.is_empty(), "{:?}", newest.passed_over);
    for file in std::fs::read_dir(&checkpoints).expect("lists") {
        let file = file.expect("an entry").path();
        assert!(is_finite(&std::fs::read(&file).expect("reads")), "{site:?} {policy:?}: {}", file.display());
    }
    if result.is_ok() {
        let state = &newest.checkpoint.header.state;
        assert_eq!((state.epoch, state.update), (3, 12), "{site:?} {policy:?}");
        assert!(state.history.iter().all(|row| row.eval_loss.is_finite() && row.train_loss.is_finite()));
    }
    result.err().map(|error| error.kind())
}

#[test]
fn finite_checkpoint_remains_under_each_policy() {
    let folder = tempfile::tempdir().expect("a folder");
    // By default three of the seven: the loss, a weight and the EMA.
    let mut runs = 0;
    for (_, site) in SITES.into_iter().enumerate().filter(|(i, _)| is_whole_sweep() || i % 2 == 1) {
        let of = |policy| outcome(folder.path(), Device::Cpu, site, policy);
        assert_eq!(of(NonfinitePolicy::Stop), Some(ErrorKind::NonFinite), "{site:?}");
        assert_eq!(of(NonfinitePolicy::Rollback), None, "{site:?}");
        // A weight, a moment or a statistic that is not finite stays so when updates are skipped.
        let curable = matches!(site, Site::Input | Site::Loss | Site::Gradient);
        let expected = (!curable).then_some(ErrorKind::NonFinite);
        assert_eq!(of(NonfinitePolicy::Skip), expected, "{site:?}");
        runs += 3;
    }
    eprintln!("L1: {runs} runs with a non-finite value left a finite checkpoint");
}

/// On the emulated device: skipped and rolled back with captured updates (a weight, an input) and with eager ones (the loss, its gradient).
#[test]
fn emulated_device_skips_and_rolls_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let device = "emulated".parse::<DeviceSpec>().expect("a device").open().expect("the emulated device");
    let sites = if is_whole_sweep() { &SITES[..] } else { &[Site::Input, Site::Gradient, Site::Weight] };
    for site in sites {
        let of = |policy| outcome(folder.path(), device, *site, policy);
        assert_eq!(of(NonfinitePolicy::Rollback), None, "{site:?}");
        let curable = matches!(site, Site::Input | Site::Loss | Site::Gradient);
        assert_eq!(of(NonfinitePolicy::Skip), (!curable).then_some(ErrorKind::NonFinite), "{site:?}");
    }
    eprintln!("L1: {} runs on the emulated device left a finite checkpoint", 2 * sites.len());
}

/// Loss scale after each update.
#[derive(Clone, Default)]
struct LossScales(Rc<RefCell<Vec<f32>>>);

impl Callback for LossScales {
    fn on_batch_end(&mut self, metrics: &UpdateMetrics) -> Result<()> {
        self.0.borrow_mut().extend(metrics.loss_scale);
        Ok(())
    }
}

/// The scale falls from 65536 to its floor of 1 in 16 skipped updates; the next one ends the run. Under `skip` 32 updates in succession are
/// skipped.
#[test]
fn forced_overflow_stops_at_a_stated_number_of_skips() {
    for (policy, skips) in [(NonfinitePolicy::Stop, 16), (NonfinitePolicy::Skip, 32)] {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = Settings {
            amp: Some(true),
            amp_dtype: Some(AmpDtype::Float16),
            epochs: Some(16),
            on_nonfinite: Some(policy),
            ..tiny_settings()
        };
        let path = folder.path().join("run");
        let mut run = tiny_run_in(&path, &settings);
        let calls = AtomicUsize::new(0);
        let site = Some(Site::Gradient);
        run.criterion = Some(Arc::new(FaultyLoss { site, first: 1, always: true, calls }));
        let scales = LossScales::default();
        run.callbacks.push(scales.clone());
        let error = run.run().expect_err("64 overflows");
        assert_eq!(error.kind(), ErrorKind::NonFinite, "{error}");
        assert_eq!(run.state.update, skips, "{policy:?}: {error}");
        assert!(scales.0.borrow().iter().all(|scale| *scale >= 1.0), "{:?}", scales.0.borrow());
        let newest = checkpoint::newest(&path.join("checkpoints")).expect("usable").expect("a checkpoint");
        assert_eq!(newest.checkpoint.header.state.nonfinite.skipped, newest.checkpoint.header.state.update);
        eprintln!("L2: --on-nonfinite {policy:?} stops forced overflow after {skips} skipped updates");
    }
}

/// Update numbers repeat after a rollback; the line between them tells which of them are in effect.
#[test]
fn rollback_is_a_line_of_the_metrics() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run");
    let settings = Settings { on_nonfinite: Some(NonfinitePolicy::Rollback), ..tiny_settings() };
    let mut run = tiny_run_in(&path, &settings);
    run.log_interval = 1;
    let (first, calls) = (INJECTED as usize, AtomicUsize::new(0));
    run.criterion = Some(Arc::new(FaultyLoss { site: Some(Site::Loss), first, always: false, calls }));
    run.run().expect("goes on");
    let text = std::fs::read_to_string(path.join("metrics.jsonl")).expect("reads");
    let mut updates: Vec<u64> = vec![];
    let mut rollbacks = vec![];
    for line in text.lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let update = event["update"].as_u64();
        match event["event"].as_str() {
            Some("update") => updates.extend(update),
            Some("rollback") => {
                updates.retain(|logged| Some(*logged) <= update);
                rollbacks.push(event);
            }
            _ => {}
        }
    }
    // The sixth update is left out: it is counted, and has no line.
    assert_eq!(updates, [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]);
    assert_eq!(rollbacks.len(), 1, "{text}");
    assert_eq!((&rollbacks[0]["epoch"], &rollbacks[0]["update"]), (&1.into(), &4.into()), "{text}");
    assert_eq!(rollbacks[0]["left_out"], serde_json::json!({ "epoch": 1, "batch": 1 }));
    assert!(rollbacks[0]["reason"].as_str().is_some_and(|why| why.contains("not finite")), "{text}");
}
