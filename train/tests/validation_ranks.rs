//! Validation on several ranks: each sample counts once, whatever the numbers of samples and ranks. `FORNAX_TEST_SWEEP=reliability` covers 1 to
//! 200 samples on 1 to 8 ranks.
#[path = "common/ranks.rs"]
mod ranks;
#[path = "common/sweep.rs"]
mod sweep;
#[path = "common/tiny_run.rs"]
mod tiny_run;

use fornax::config::Config;
use fornax::data::InMemoryDataset;
use fornax::distributed::DistributedRun;
use fornax::experiment::{Experiment, RunData};
use fornax::settings::Settings;
use fornax::trainer::Evaluation;
use fornax_engine::Device;
use fornax_nn::{ModelOptions, Module, create_model};
use ranks::on_ranks;
use std::sync::Arc;
use sweep::is_reliability_sweep;
use tiny_run::{tiny_settings, tiny_splits};

/// A run on `world` ranks with this many validation images, four in a batch of a rank.
fn experiment(images: usize, world: usize) -> Experiment {
    let settings = Settings { validation_batch_size: Some(4), batch_size: Some(2), ..tiny_settings() };
    let mut splits = tiny_splits();
    let pixels = (0..images * 64).map(|i| (i * 7919 % 251) as u8).collect();
    let targets = (0..images as u32).map(|i| i % 4).collect();
    let classes: Arc<[String]> = splits.classes.clone().into();
    let validation = InMemoryDataset::uniform(pixels, [8, 8, 1], targets, classes, "tiny").expect("valid");
    splits.validation = Some(Arc::new(validation));
    let mut config = Config::resolve_for(&settings, world).expect("valid settings");
    let data = RunData::new(&mut config, splits).expect("a valid dataset");
    let mut experiment = Experiment::new(config);
    experiment.data = Some(data);
    experiment
}

fn model() -> Box<dyn Module> {
    let options = ModelOptions { num_classes: 4, in_chans: 1, seed: 5, ..ModelOptions::default() };
    create_model("resnet8", &options).expect("a model")
}

#[test]
fn metrics_are_those_of_one_process() {
    let (samples, worlds): (Vec<usize>, Vec<usize>) = match is_reliability_sweep() {
        true => ((1..=200).collect(), (1..=8).collect()),
        false => (vec![1, 2, 5, 16, 23], vec![2, 3]),
    };
    let alone: Vec<Evaluation> =
        samples.iter().map(|n| experiment(*n, 1).evaluate_model(&*model()).expect("evaluates")).collect();
    for (n, evaluation) in samples.iter().zip(&alone) {
        assert_eq!(evaluation.targets.len(), *n);
    }
    for world in worlds.iter().copied() {
        let ranks = on_ranks(world, |group| {
            let mut run = Some(DistributedRun::new(group.clone(), Device::Cpu).expect("connects"));
            let evaluations = samples.iter().map(|n| {
                let mut experiment = experiment(*n, world);
                experiment.distributed = run.take();
                let evaluation = experiment.evaluate_model(&*model()).expect("evaluates");
                run = experiment.distributed.take();
                evaluation
            });
            let evaluations: Vec<Evaluation> = evaluations.collect();
            group.finish().expect("ends");
            evaluations
        });
        for (rank, evaluations) in ranks.iter().enumerate() {
            for ((n, expected), found) in samples.iter().zip(&alone).zip(evaluations) {
                let at = format!("{n} samples, rank {rank} of {world}");
                assert_eq!((found.top1, found.top5), (expected.top1, expected.top5), "{at}");
                assert_eq!(
                    (&found.targets, &found.predictions),
                    (&expected.targets, &expected.predictions),
                    "{at}"
                );
                assert!((found.loss - expected.loss).abs() < 1e-5, "{at}: {} {}", found.loss, expected.loss);
            }
        }
    }
    let (last, ranks) = (samples[samples.len() - 1], worlds[worlds.len() - 1]);
    eprintln!(
        "R5: {} numbers of samples up to {last} on up to {ranks} ranks: the metrics of one process",
        samples.len()
    );
}
