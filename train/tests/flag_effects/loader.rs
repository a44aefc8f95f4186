//! Cases of the loader's flags, which do not change results.
use crate::case::{Case, assert_effects, check};
use crate::observation::{differences, experiment, observe, settings};
use crate::tiny_run::tiny_splits;
use fornax::Result;
use fornax::config::Config;
use fornax::data::{Dataset, SampleImage};
use fornax::engine::DType;
use fornax::experiment::{Experiment, RunData};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

pub const CASES: &[Case] = &[
    check("workers", workers_load_on_their_threads),
    check("prefetch", prefetch_loads_so_many_batches_ahead),
    check("loader_timeout", stalled_loader_ends_the_run),
    check("no_prefetcher", no_prefetcher_prepares_images_in_the_loader),
    check("validation_batch_size", validation_batches_have_their_size),
];

/// Dataset that records where it is read.
struct Recorder {
    images: Arc<dyn Dataset>,
    threads: Mutex<BTreeSet<String>>,
    reads: AtomicUsize,
    behaviour: Behaviour,
}

/// Behaviour of a read.
#[derive(Clone, Copy)]
enum Behaviour {
    /// Returns at once.
    Immediate,
    /// Takes this time.
    Slow(Duration),
    /// Waits until so many threads have read.
    WaitFor(usize),
}

/// Limit of a wait that ends early in a working loader.
const LIMIT: Duration = Duration::from_secs(20);

/// Waits until a condition holds, at most [`LIMIT`].
fn wait_until(condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() && started.elapsed() < LIMIT {
        thread::sleep(Duration::from_millis(1));
    }
}

impl Dataset for Recorder {
    fn len(&self) -> usize {
        self.images.len()
    }
    fn classes(&self) -> &[String] {
        self.images.classes()
    }
    fn target(&self, index: usize) -> u32 {
        self.images.target(index)
    }
    fn image(&self, index: usize) -> Result<SampleImage<'_>> {
        self.threads.lock().expect("no panic").insert(thread::current().name().unwrap_or_default().into());
        self.reads.fetch_add(1, Ordering::SeqCst);
        match self.behaviour {
            Behaviour::Immediate => {}
            Behaviour::Slow(time) => thread::sleep(time),
            Behaviour::WaitFor(threads) => {
                wait_until(|| self.threads.lock().expect("no panic").len() >= threads)
            }
        }
        self.images.image(index)
    }
    fn location(&self, index: usize) -> String {
        self.images.location(index)
    }
    fn crc32c(&self) -> u32 {
        self.images.crc32c()
    }
}

/// A run whose training images are recorded: 4 batches of 8 images.
fn recorded(arguments: &str, behaviour: Behaviour) -> (Experiment, Arc<Recorder>) {
    let mut splits = tiny_splits();
    let (threads, reads) = (Mutex::default(), AtomicUsize::new(0));
    let recorder = Arc::new(Recorder { images: splits.train.clone(), threads, reads, behaviour });
    splits.train = recorder.clone();
    let mut config = Config::resolve(&settings(arguments)).expect("valid settings");
    let data = RunData::new(&mut config, splits).expect("a valid dataset");
    let mut run = Experiment::new(config);
    run.data = Some(data);
    (run, recorder)
}

fn workers_load_on_their_threads() {
    let threads = |arguments: &str, count: usize| {
        let (mut run, recorder) = recorded(arguments, Behaviour::WaitFor(count));
        let mut batches = run.build_train_loader().expect("builds").epoch(0, 0).expect("starts");
        while batches.next_batch(&|| Ok(())).transpose().expect("loads").is_some() {}
        recorder.threads.lock().expect("no panic").clone()
    };
    let own = thread::current().name().unwrap_or_default().to_string();
    assert_eq!(threads("--workers 0", 1), BTreeSet::from([own]));
    let workers = (0..3).map(|worker| format!("fornax-loader-{worker}")).collect();
    assert_eq!(threads("--workers 3", 3), workers);
    assert_eq!(differences(&observe(""), &observe("--workers 3")), []);
}

fn prefetch_loads_so_many_batches_ahead() {
    // The batch that was taken, and those ahead of it.
    let reads = |prefetch: usize| {
        let arguments = format!("--workers 1 --prefetch {prefetch}");
        let (mut run, recorder) = recorded(&arguments, Behaviour::Immediate);
        let mut batches = run.build_train_loader().expect("builds").epoch(0, 0).expect("starts");
        batches.next_batch(&|| Ok(())).expect("a batch").expect("loads");
        let reads = || recorder.reads.load(Ordering::SeqCst);
        wait_until(|| reads() >= 8 * (1 + prefetch));
        // A worker that did not stop would load the rest of the epoch.
        thread::sleep(Duration::from_millis(50));
        reads()
    };
    assert_eq!([reads(1), reads(2)], [16, 24]);
    assert_eq!(differences(&observe(""), &observe("--workers 1 --prefetch 5")), []);
}

fn stalled_loader_ends_the_run() {
    let first = |arguments: &str| {
        let (mut run, _) =
            recorded(&format!("--workers 1 {arguments}"), Behaviour::Slow(Duration::from_millis(1500)));
        run.run().map(drop)
    };
    let error = first("--loader-timeout 1").expect_err("an image takes longer").to_string();
    assert!(error.contains("--loader-timeout"), "{error}");
}

fn no_prefetcher_prepares_images_in_the_loader() {
    let dtype = |arguments: &str| {
        let mut run = experiment(arguments);
        run.build_train_loader().and_then(|loader| loader.batch(0, 0)).expect("loads").images.dtype()
    };
    assert_eq!([dtype(""), dtype("--no-prefetcher")], [DType::U8, DType::F32]);
    let recipe = "photos --mixup 0.3 --reprob 0.5";
    assert_eq!(differences(&observe(recipe), &observe(&format!("{recipe} --no-prefetcher"))), []);
}

fn validation_batches_have_their_size() {
    let evaluated = |arguments: &str| {
        let mut run = experiment(arguments);
        let evaluation = run.evaluate().expect("evaluates");
        let loader = run.validation_loader.as_ref().expect("built");
        let sizes: Vec<usize> = (0..loader.batches())
            .map(|index| loader.batch(0, index).expect("loads").images.dims()[0])
            .collect();
        (sizes, evaluation.predictions)
    };
    let (whole, parts) = (evaluated(""), evaluated("--validation-batch-size 6"));
    assert_eq!((whole.0, parts.0), (vec![16], vec![6, 6, 4]));
    assert_eq!(whole.1, parts.1);
}

#[test]
fn loader_flags_have_their_effects() {
    assert_effects(CASES);
}
