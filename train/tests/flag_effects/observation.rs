//! Observable aspects of a run in this process.
pub use crate::arguments::settings;
use fornax::callbacks::Callback;
use fornax::checkpoint;
use fornax::config::Config;
use fornax::engine::{DType, Tensor};
use fornax::experiment::{Experiment, build};
use fornax::loader::{BatchPreparation, Loader};
use fornax::nn::{Module, named_parameters, state_entries};
use fornax::report::UpdateMetrics;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

/// Aspect of a run. Two runs are compared by the text of each aspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aspect {
    /// The printed plan: sizes of dataset, input and model, number of updates, precision.
    Plan,
    /// Parameters and buffers before the first update.
    InitialWeights,
    /// Prepared images and targets of every training batch.
    TrainingBatches,
    /// Prepared images and targets of every validation batch.
    ValidationBatches,
    /// Validation loss of the initial weights.
    InitialEvaluation,
    /// Training loss of the first update.
    FirstLoss,
    /// Number of updates.
    Updates,
    /// Learning rate of each update.
    LearningRates,
    /// Parameters after the last update.
    Weights,
    /// Buffers after the last update, which are batch norm statistics. Not compared if the parameters differ.
    RunningStatistics,
    /// Validation losses at the ends of epochs. Not compared if the parameters or the initial evaluations differ.
    Evaluations,
}

/// The text of each aspect.
pub type Observation = BTreeMap<Aspect, String>;

/// Aspects that differ between two runs.
pub fn differences(a: &Observation, b: &Observation) -> Vec<Aspect> {
    let differs = |aspect: Aspect| a[&aspect] != b[&aspect];
    let follows = |aspect| match aspect {
        Aspect::RunningStatistics => differs(Aspect::Weights),
        Aspect::Evaluations => differs(Aspect::Weights) || differs(Aspect::InitialEvaluation),
        _ => false,
    };
    a.keys().copied().filter(|aspect| differs(*aspect) && !follows(*aspect)).collect()
}

/// Observes a run with these arguments of `fornax train`, once per process.
pub fn observe(arguments: &str) -> Arc<Observation> {
    type Cell = Arc<OnceLock<Arc<Observation>>>;
    static OBSERVED: LazyLock<Mutex<HashMap<String, Cell>>> = LazyLock::new(Mutex::default);
    let cell = OBSERVED.lock().expect("no panic").entry(arguments.trim().into()).or_default().clone();
    cell.get_or_init(|| Arc::new(observed(arguments))).clone()
}

/// The plan of a run with these arguments.
pub fn plan(arguments: &str) -> String {
    experiment(arguments).plan().unwrap_or_else(|error| panic!("{arguments}: {error}")).to_string()
}

/// A run with these arguments that writes no files, on few images.
pub fn experiment(arguments: &str) -> Experiment {
    let settings = settings(arguments);
    Experiment::new(Config::resolve(&settings).unwrap_or_else(|error| panic!("{arguments}: {error}")))
}

fn observed(arguments: &str) -> Observation {
    let fail = |error: fornax::Error| -> ! { panic!("{arguments}: {error}") };
    let mut run = experiment(arguments);
    run.build().unwrap_or_else(|error| fail(error));
    let updates = Updates::default();
    run.callbacks.push(updates.clone());
    let mut observation =
        Observation::from([(Aspect::Plan, run.plan().unwrap_or_else(|error| fail(error)).to_string())]);
    let model = run.model.as_deref().expect("built");
    observation.insert(Aspect::InitialWeights, hash(&state(model)));
    let preparation = build::preparation(&run.config, run.data.as_ref().expect("built"));
    let epochs = run.config.schedule.total_epochs();
    let training = batches(run.train_loader.as_ref().expect("built"), &preparation, epochs);
    observation.insert(Aspect::TrainingBatches, training);
    let validation = batches(run.validation_loader.as_ref().expect("built"), &preparation, 1);
    observation.insert(Aspect::ValidationBatches, validation);
    let before = run.evaluate().unwrap_or_else(|error| fail(error));
    observation.insert(Aspect::InitialEvaluation, before.loss.to_string());
    run.run().unwrap_or_else(|error| fail(error));
    let updates = updates.0.take();
    observation.insert(Aspect::FirstLoss, updates[0].0.to_string());
    observation.insert(Aspect::Updates, updates.len().to_string());
    let lrs: Vec<f64> = updates.iter().map(|(_, lr)| *lr).collect();
    observation.insert(Aspect::LearningRates, format!("{lrs:?}"));
    let model = run.model.as_deref().expect("built");
    observation.insert(Aspect::Weights, hash(&named_parameters(model)));
    observation.insert(Aspect::RunningStatistics, hash(&state(model)));
    let losses: Vec<f64> = run.state.history.iter().map(|row| row.eval_loss).collect();
    observation.insert(Aspect::Evaluations, format!("{losses:?}"));
    observation
}

/// Loss and learning rate of each update.
#[derive(Clone, Default)]
struct Updates(Rc<RefCell<Vec<(f64, f64)>>>);

impl Callback for Updates {
    fn on_batch_end(&mut self, metrics: &UpdateMetrics) -> fornax::Result<()> {
        self.0.borrow_mut().push((metrics.loss, metrics.lr));
        Ok(())
    }
}

fn state(model: &dyn Module) -> Vec<(String, Tensor)> {
    state_entries(model).into_iter().map(|entry| (entry.name, entry.tensor)).collect()
}

fn hash(tensors: &[(String, Tensor)]) -> String {
    checkpoint::hash(tensors).expect("tensors of the CPU")
}

/// Hash of the prepared images and the targets of the first epochs.
fn batches(loader: &Loader, preparation: &BatchPreparation, epochs: u32) -> String {
    let mut tensors = vec![];
    for epoch in 0..epochs {
        for index in 0..loader.batches() {
            let batch = loader.batch(epoch, index).unwrap_or_else(|error| panic!("{error}"));
            let images = match batch.images.dtype() {
                DType::U8 => preparation.apply(&batch.images, batch.changes.as_ref(), DType::F32),
                _ => Ok(batch.images),
            };
            tensors.push(("images".to_string(), images.expect("it can be prepared")));
            tensors.push(("target".to_string(), batch.target));
        }
    }
    hash(&tensors)
}
