//! Samples of an epoch on several ranks: each is in one batch, and every update has the same samples on any number of ranks, also if a run
//! is stopped within an epoch and resumed on another number. Random masks belong to the samples, too. The ranks are threads. `FORNAX_TEST_SWEEP=reliability` stops after more updates.
#[path = "common/ranks.rs"]
mod ranks;
#[path = "common/sweep.rs"]
mod sweep;
#[path = "common/tiny_run.rs"]
mod tiny_run;

use fornax::Result;
use fornax::callbacks::{BatchBegin, Callback, ModelCheckpoint};
use fornax::checkpoint;
use fornax::config::Config;
use fornax::data::InMemoryDataset;
use fornax::distributed::{DistributedRun, ProcessGroup};
use fornax::experiment::{Experiment, RunCheckpoint, RunData};
use fornax::report::UpdateMetrics;
use fornax::settings::{EvalMetric, Settings};
use fornax_engine::Device;
use fornax_nn::named_parameters;
use ranks::on_ranks;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use sweep::is_reliability_sweep;
use tiny_run::{tiny_settings, tiny_splits};

/// Images of a batch over all ranks, a multiple of 1, 2, 3, 4 and 8.
const BATCH: usize = 24;
const UPDATES_PER_EPOCH: usize = 5;
const IMAGES: usize = BATCH * UPDATES_PER_EPOCH;
const EPOCHS: u32 = 4;

/// Samples by epoch and update. The target of a sample is its index in the dataset.
type Samples = BTreeMap<(u32, u64), Vec<i64>>;

/// Records the samples of a rank, and ends the run after an update.
struct Recorder {
    samples: Arc<Mutex<Samples>>,
    last_update: u64,
    is_over: bool,
}

impl Callback for Recorder {
    fn on_batch_begin(&mut self, event: &BatchBegin) -> Result<()> {
        let mut samples = self.samples.lock().expect("no panic");
        let of_update = samples.entry((event.epoch, event.update)).or_default();
        event
            .batches
            .iter()
            .for_each(|batch| of_update.extend(batch.target.to_vec::<i64>().expect("indices")));
        Ok(())
    }

    fn on_batch_end(&mut self, metrics: &UpdateMetrics) -> Result<()> {
        self.is_over |= metrics.update >= self.last_update;
        Ok(())
    }

    fn stop_reason(&self) -> Option<String> {
        self.is_over.then(|| "for a test".into())
    }
}

fn experiment(world: usize) -> Experiment {
    let settings = Settings {
        epochs: Some(EPOCHS),
        batch_size: Some((BATCH / world) as u32),
        validation_batch_size: Some(8),
        ..tiny_settings()
    };
    experiment_with(&settings, world)
}

fn experiment_with(settings: &Settings, world: usize) -> Experiment {
    let classes: Arc<[String]> = (0..IMAGES).map(|i| format!("{i:03}")).collect();
    let dataset = |images: usize| {
        let pixels = (0..images * 64).map(|i| (i * 7919 % 251) as u8).collect();
        let targets = (0..images as u32).collect();
        InMemoryDataset::uniform(pixels, [8, 8, 1], targets, classes.clone(), "tiny").expect("valid")
    };
    let mut splits = tiny_splits();
    splits.classes = classes.to_vec();
    splits.train = Arc::new(dataset(IMAGES));
    splits.validation = Some(Arc::new(dataset(16)));
    let mut config = Config::resolve_for(settings, world).expect("valid settings");
    let data = RunData::new(&mut config, splits).expect("a valid dataset");
    let mut experiment = Experiment::new(config);
    experiment.data = Some(data);
    experiment
}

/// Trains on `world` ranks from the last checkpoint in a folder to `last_update`, and returns the samples of each update over all ranks and
/// the number of updates of the run.
fn train(world: usize, checkpoints: &Path, last_update: u64) -> (Samples, u64) {
    let run = |group: Option<Arc<ProcessGroup>>| {
        let mut experiment = experiment(world);
        let samples: Arc<Mutex<Samples>> = Arc::default();
        if group.as_ref().is_none_or(|group| group.rank() == 0) {
            let last = checkpoints.join("last.safetensors");
            let read = || checkpoint::read(&last).expect("loads");
            experiment.resume = last.exists().then(|| RunCheckpoint { checkpoint: read(), notes: vec![] });
            let header = experiment.checkpoint_header().expect("a dataset");
            let saved = ModelCheckpoint::new(checkpoints.into(), header, Device::Cpu, EvalMetric::Top1, 1);
            experiment.callbacks.push(saved);
        }
        experiment.callbacks.push(Recorder { samples: samples.clone(), last_update, is_over: false });
        experiment.distributed =
            group.clone().map(|group| DistributedRun::new(group, Device::Cpu).expect("connects"));
        experiment.run().expect("trains");
        group.iter().for_each(|group| group.finish().expect("ends"));
        let samples = samples.lock().expect("no panic").clone();
        (samples, experiment.state.update)
    };
    let of_ranks = match world {
        1 => vec![run(None)],
        _ => on_ranks(world, |group| run(Some(group))),
    };
    let updates = of_ranks[0].1;
    let mut all = Samples::new();
    for (rank, (samples, of_rank)) in of_ranks.into_iter().enumerate() {
        assert_eq!(of_rank, updates, "rank {rank} of {world} ends after another update");
        for (update, indices) in samples {
            assert_eq!(indices.len(), BATCH / world, "rank {rank} of {world} at {update:?}");
            all.entry(update).or_default().extend(indices);
        }
    }
    all.values_mut().for_each(|indices| indices.sort_unstable());
    (all, updates)
}

/// Checks that each sample is once in each epoch.
fn assert_each_sample_once(samples: &Samples, case: &str) {
    for epoch in 0..EPOCHS {
        let of_epoch = samples.iter().filter(|((of, _), _)| *of == epoch);
        let mut indices: Vec<i64> = of_epoch.flat_map(|(_, indices)| indices.clone()).collect();
        indices.sort_unstable();
        assert_eq!(indices, (0..IMAGES as i64).collect::<Vec<_>>(), "epoch {epoch}, {case}");
    }
}

#[test]
fn every_number_of_ranks_trains_on_each_sample_once_per_epoch() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = |world: usize| train(world, &folder.path().join(world.to_string()), u64::MAX).0;
    let worlds = [1, 2, 3, 4, 8];
    for world in worlds {
        std::fs::create_dir(folder.path().join(world.to_string())).expect("a folder");
    }
    let expected = whole(1);
    assert_eq!(expected.len(), EPOCHS as usize * UPDATES_PER_EPOCH);
    assert_each_sample_once(&expected, "one rank");
    let epochs: Vec<&Vec<i64>> = expected
        .iter()
        .filter(|((_, update), _)| update % UPDATES_PER_EPOCH as u64 == 1)
        .map(|(_, s)| s)
        .collect();
    assert!(epochs[0] != epochs[1], "epochs have other batches");
    for world in &worlds[1..] {
        assert_eq!(whole(*world), expected, "{world} ranks");
    }
    eprintln!(
        "R4: ranks {worlds:?}: {EPOCHS} epochs of {IMAGES} samples, each once per epoch and in the same updates"
    );
}

#[test]
fn resuming_on_other_numbers_of_ranks_trains_on_each_sample_once_per_epoch() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut chains: Vec<(&[usize], u64)> = vec![(&[4, 2, 1, 4], 2)];
    if is_reliability_sweep() {
        chains = (1..=3).map(|step| (&[4, 2, 1, 4][..], step)).collect();
        chains.extend((1..=2).map(|step| (&[8, 3, 1, 2, 4][..], step)));
    }
    let mut mid_epoch = 0;
    for (number, (worlds, step)) in chains.iter().enumerate() {
        let case = format!("{worlds:?}, {step} updates each");
        let checkpoints = folder.path().join(number.to_string());
        std::fs::create_dir(&checkpoints).expect("a folder");
        let (mut all, mut update) = (Samples::new(), 0);
        for (part, world) in worlds.iter().enumerate() {
            let is_last = part + 1 == worlds.len();
            let (samples, reached) =
                train(*world, &checkpoints, if is_last { u64::MAX } else { update + step });
            assert!(reached > update, "{case}, part {part}");
            for (at, indices) in samples {
                assert!(
                    all.insert(at, indices).is_none(),
                    "{case}: the update {at:?} is repeated by part {part}"
                );
            }
            mid_epoch += usize::from(!is_last && reached % UPDATES_PER_EPOCH as u64 != 0);
            update = reached;
        }
        assert_eq!(update, u64::from(EPOCHS) * UPDATES_PER_EPOCH as u64, "{case}");
        assert_each_sample_once(&all, &case);
    }
    assert!(mid_epoch >= chains.len(), "{mid_epoch} parts end within an epoch");
    eprintln!(
        "R4: {} chains such as {:?}, {mid_epoch} times resumed within an epoch: each sample once per epoch",
        chains.len(),
        chains[0].0
    );
}

/// Records the losses of a run.
struct Losses(Arc<Mutex<Vec<f64>>>);

impl Callback for Losses {
    fn on_batch_end(&mut self, metrics: &UpdateMetrics) -> Result<()> {
        self.0.lock().expect("no panic").push(metrics.loss);
        Ok(())
    }
}

/// Losses and weights after three updates of `batch` images over all ranks at a low learning rate.
fn trained_with_masks(world: usize, batch: usize, drop: f64) -> (Vec<f64>, Vec<f32>) {
    let run = |group: Option<Arc<ProcessGroup>>| {
        let settings = Settings {
            epochs: Some(1),
            batch_size: Some((batch / world) as u32),
            train_batches_per_epoch: Some(3),
            drop: Some(drop),
            drop_path: Some(0.2),
            sync_bn: (world > 1).then_some(true),
            lr: Some(0.002),
            ..tiny_settings()
        };
        let mut experiment = experiment_with(&settings, world);
        let losses: Arc<Mutex<Vec<f64>>> = Arc::default();
        experiment.callbacks.push(Losses(losses.clone()));
        experiment.distributed =
            group.clone().map(|group| DistributedRun::new(group, Device::Cpu).expect("connects"));
        experiment.run().expect("trains");
        group.iter().for_each(|group| group.finish().expect("ends"));
        let model = experiment.model.as_deref().expect("built");
        let weights = named_parameters(model).into_iter();
        let weights = weights.flat_map(|(_, weight)| weight.to_vec::<f32>().expect("f32")).collect();
        (losses.lock().expect("no panic").clone(), weights)
    };
    match world {
        1 => run(None),
        _ => on_ranks(world, |group| run(Some(group))).swap_remove(world - 1),
    }
}

#[test]
fn masks_of_dropout_and_drop_path_do_not_depend_on_the_number_of_ranks() {
    // Of 24 images a rank has mirror images, of 18 consecutive ones.
    for batch in [24, 18] {
        let (losses, weights) = trained_with_masks(1, batch, 0.3);
        assert_eq!(losses.len(), 3);
        let (other, _) = trained_with_masks(1, batch, 0.0);
        assert!((losses[0] - other[0]).abs() > 1e-3, "{losses:?} {other:?}");
        for world in [2, 3] {
            let (of_ranks, of_rank) = trained_with_masks(world, batch, 0.3);
            let largest = weights.iter().zip(&of_rank).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            eprintln!(
                "batches of {batch}, {world} ranks: {losses:?} {of_ranks:?}, weights differ by {largest:e}"
            );
            assert!(largest < 1e-5, "batches of {batch}, {world} ranks: {largest:e}");
            for (a, b) in losses.iter().zip(&of_ranks) {
                assert!((a - b).abs() < 1e-5, "batches of {batch}, {world} ranks: {losses:?} {of_ranks:?}");
            }
        }
    }
}
