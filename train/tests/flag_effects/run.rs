//! Cases of the flags of a run that are settings.
use crate::case::{Case, assert_effects, changes, check, tested};
use crate::observation::Aspect::*;
use crate::observation::{experiment, settings};
use crate::tiny_run::tiny_splits;
use fornax::config::Config;
use fornax::data::{Dataset, InMemoryDataset};
use fornax::engine::{ConvAlgorithm, DType, Device, Tensor};
use fornax::experiment::{Experiment, RunData};
use fornax::nn::{Context, Module, Visitor};
use fornax::report::Destination;
use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, Mutex};

pub const CASES: &[Case] = &[
    changes(
        "seed",
        "",
        "--seed 7",
        &[InitialWeights, TrainingBatches, InitialEvaluation, FirstLoss, Weights],
    ),
    tested("defaults", "recipe.rs", "every_default_of_timm_is_taken_and_stored_with_the_run"),
    tested("seeds", "seeds.rs", "runs_of_several_seeds_are_those_of_single_seeds"),
    check("eval_metric", eval_metric_selects_the_best_epoch),
    check("val_interval", epochs_between_evaluations_are_not_evaluated),
    tested("recovery_interval", "experiment.rs", "ranked_and_recovery_checkpoints_are_kept"),
    tested("checkpoint_hist", "experiment.rs", "ranked_and_recovery_checkpoints_are_kept"),
    check("save_images", training_batches_are_saved_at_log_lines),
    tested("start_epoch", "experiment.rs", "start_epoch_and_no_resume_opt_take_effect"),
    tested("no_resume_opt", "experiment.rs", "start_epoch_and_no_resume_opt_take_effect"),
    tested("early_stop_patience", "experiment.rs", "early_stopping_ends_the_run"),
    tested("on_nonfinite", "nonfinite.rs", "finite_checkpoint_remains_under_each_policy"),
    tested("train_batches_per_epoch", "experiment.rs", "batches_per_epoch_are_limited"),
    check("conv_algo", convolutions_use_the_algorithm),
    tested("cudnn_benchmark", "cudnn_benchmark.rs", "no_cudnn_benchmark_ignores_timing"),
    tested("deterministic", "cudnn_benchmark.rs", "no_deterministic_allows_nondeterministic_engines"),
];

/// A model with the same logits for every image that lists the convolution algorithm of every pass.
struct AlgorithmProbe(Mutex<Vec<ConvAlgorithm>>);

impl Module for AlgorithmProbe {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> fornax::engine::Result<Tensor> {
        self.0.lock().expect("no panic").push(cx.conv_algorithm());
        Tensor::zeros([x.dims()[0], 10], DType::F32, &Device::Cpu)
    }

    fn visit(&self, _: &mut Visitor) {}
}

fn convolutions_use_the_algorithm() {
    for (arguments, expected) in [
        ("", ConvAlgorithm::Auto),
        ("--conv-algo auto", ConvAlgorithm::Auto),
        ("--conv-algo direct", ConvAlgorithm::Direct),
    ] {
        let mut run = experiment(arguments);
        run.build().expect("builds");
        assert_eq!(run.train_step.as_ref().expect("built").options().conv_algorithm, expected);
        let probe = AlgorithmProbe(Mutex::default());
        run.evaluate_model(&probe).expect("evaluates");
        let passes = probe.0.into_inner().expect("no panic");
        assert!(!passes.is_empty() && passes.iter().all(|used| *used == expected), "{arguments}: {passes:?}");
    }
}

/// With one class in all images the accuracy is 100% from an early epoch on, and the loss falls to the end.
fn eval_metric_selects_the_best_epoch() {
    let best = |metric: &str| {
        let mut splits = tiny_splits();
        let classes = splits.train.classes().to_vec();
        let pixels = (0..32 * 64).map(|i| (i * 7919 % 251) as u8).collect();
        let one_class = InMemoryDataset::uniform(pixels, [8, 8, 1], vec![0; 32], classes.into(), "one class");
        let one_class: Arc<dyn Dataset> = Arc::new(one_class.expect("valid"));
        (splits.train, splits.validation) = (one_class.clone(), Some(one_class));
        let settings = settings(&format!("--epochs 6 --sched constant {metric}"));
        let mut config = Config::resolve(&settings).expect("valid settings");
        let data = RunData::new(&mut config, splits).expect("a valid dataset");
        let mut run = Experiment::new(config);
        run.data = Some(data);
        run.run().expect("trains");
        // Equal accuracies: as if the first epoch had been a little better.
        run.state.history.iter_mut().skip(1).for_each(|row| row.eval_top1 -= 1.0);
        (run.state.best(run.config.eval_metric).expect("evaluated").epoch, run.state.history)
    };
    let (by_top1, rows) = best("");
    let (by_loss, _) = best("--eval-metric loss");
    let lowest = rows.iter().min_by(|a, b| a.eval_loss.total_cmp(&b.eval_loss)).expect("rows").epoch;
    assert_eq!(by_loss, lowest, "{rows:?}");
    assert!(by_top1 < by_loss && rows[by_top1 as usize].eval_top1 == 100.0, "{rows:?}");
}

fn epochs_between_evaluations_are_not_evaluated() {
    let evaluated = |arguments: &str| {
        let mut run = experiment(&format!("--epochs 4 {arguments}"));
        run.run().expect("trains");
        run.state.history.iter().map(|row| row.epoch).collect::<Vec<_>>()
    };
    assert_eq!(evaluated(""), [0, 1, 2, 3]);
    assert_eq!(evaluated("--val-interval 3"), [2, 3]);
}

fn training_batches_are_saved_at_log_lines() {
    let samples = |arguments: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        let mut run = experiment(arguments);
        run.output = Some(Destination::New(folder.path().join("run")));
        run.log_interval = 4;
        run.run().expect("trains");
        let files = fs::read_dir(folder.path().join("run/samples")).expect("lists");
        let names = files.map(|file| file.expect("an entry").file_name().into_string().expect("UTF-8"));
        names.collect::<BTreeSet<_>>()
    };
    let (without, with) = (samples(""), samples("--save-images"));
    let added: Vec<&String> = with.difference(&without).collect();
    // Captions are next to the images.
    let expected = ["train-000004.json", "train-000004.png", "train-000008.json", "train-000008.png"];
    assert_eq!(added, expected);
}

#[test]
fn run_flags_have_their_effects() {
    assert_effects(CASES);
}
