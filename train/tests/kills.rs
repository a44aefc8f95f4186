//! Runs of one and two ranks by several recipes, killed twice at random instants and in several ways: resumed, they end with the bits of an
//! uninterrupted run, and with its list of bad images. `FORNAX_TEST_SWEEP=reliability` kills 200 times.
#[allow(dead_code)]
mod common;
#[path = "common/parallel.rs"]
mod parallel;
#[path = "common/processes.rs"]
#[allow(dead_code)]
mod processes;
#[path = "common/ranks.rs"]
#[allow(dead_code)]
mod ranks;
#[allow(dead_code)]
#[path = "../examples/shapes_dataset.rs"]
mod shapes;
#[path = "common/small_dataset.rs"]
#[allow(dead_code)]
mod small_dataset;
#[path = "common/sweep.rs"]
mod sweep;

use fornax_engine::random::{RngKey, RngStream};
use parallel::in_parallel;
use processes::{Ranks, command_without_launcher, torchrun_rank};
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use sweep::is_reliability_sweep;

/// Options of all recipes: eight updates, or five an epoch on image files.
const RUN: &str = "--model resnet8 --epochs 4 --recovery-interval 1 --progress none --output out --threads 1 --workers 1 --dist-timeout 4";
const DIGITS: &str = "--dataset idx --data-dir small";
const FILES: &str = "shapes --img-size 16 --bad-image replace --max-bad 0.2";

/// A recipe, with its number of ranks and its dataset.
struct Recipe {
    name: &'static str,
    world: usize,
    data: &'static str,
    options: &'static str,
}

const RECIPES: [Recipe; 7] = [
    Recipe {
        name: "adamw",
        world: 1,
        data: DIGITS,
        options: "--opt adamw --warmup-epochs 1 --model-ema --model-ema-decay 0.9 --mixup 0.2 --drop 0.1",
    },
    Recipe {
        name: "accumulation",
        world: 1,
        data: DIGITS,
        options: "--opt lookahead_lamb --lr 0.01 --grad-accum-steps 2 --aug-repeats 3 --reprob 0.5 --sched step --decay-epochs 2",
    },
    Recipe {
        name: "half",
        world: 1,
        data: DIGITS,
        options: "--amp --amp-dtype float16 --aug-splits 3 --split-bn --jsd-loss --lr 0.05 --warmup-epochs 0",
    },
    Recipe {
        name: "sync-bn",
        world: 2,
        data: DIGITS,
        options: "--opt momentum --lr 0.05 --sync-bn --model-ema --model-ema-decay 0.9 --warmup-epochs 0",
    },
    Recipe {
        name: "element-mixup",
        world: 2,
        data: DIGITS,
        options: "--opt adamw --mixup 0.4 --mixup-mode elem --drop 0.2 --clip-grad 1 --warmup-epochs 1",
    },
    Recipe { name: "files", world: 1, data: FILES, options: "--lr 0.05 --warmup-epochs 0" },
    Recipe { name: "files-of-two-ranks", world: 2, data: FILES, options: "--lr 0.05 --warmup-epochs 0" },
];

/// How a run of two ranks is ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kill {
    Rank(usize),
    Both,
    /// `fornax launch`, whose ranks end with it.
    Launcher,
    /// SIGTERM to `fornax launch`, and SIGKILL before its ranks have saved.
    TerminatedLauncher,
    /// A rank that is stopped, and then killed.
    StoppedRank(usize),
}

const KILLS: [Kill; 7] = [
    Kill::Rank(0),
    Kill::Launcher,
    Kill::Rank(1),
    Kill::Both,
    Kill::TerminatedLauncher,
    Kill::StoppedRank(1),
    Kill::StoppedRank(0),
];

impl Recipe {
    fn train(&self, name: &str) -> String {
        let Recipe { world, data, options, .. } = self;
        format!("train {data} {RUN} {options} --batch-size {} --experiment {name}", 16 / world)
    }

    /// The hash of a run that is started or resumed, and ends.
    fn hash(&self, folder: &Path, name: &str) -> String {
        let arguments = |_| format!("{} --resume auto --print-hash", self.train(name));
        Ranks::start(folder, &format!("{name}-last"), self.world, arguments).hash()
    }

    /// Kills a run after a delay; true if it had not ended.
    fn kill(&self, folder: &Path, name: &str, kill: Kill, delay: Duration) -> bool {
        let arguments = format!("{} --resume auto", self.train(name));
        let log = format!("{name}-{kill:?}").replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let is_launched = matches!(kill, Kill::Launcher | Kill::TerminatedLauncher) && self.world > 1;
        let mut ranks = if is_launched {
            let launch = format!("launch --nproc-per-node {} {arguments}", self.world);
            Ranks::start_with(folder, &log, 1, |_, _| command_without_launcher(folder, &launch))
        } else {
            let command = |rank, port| torchrun_rank(folder, &arguments, rank, self.world, port);
            Ranks::start_with(folder, &log, self.world, command)
        };
        std::thread::sleep(delay);
        let runs = !ranks.has_ended(0);
        let processes = if is_launched { 1 } else { self.world };
        let limit = Duration::from_secs(60);
        match kill {
            Kill::TerminatedLauncher if is_launched => {
                ranks.signal(0, Signal::TERM);
                std::thread::sleep(Duration::from_millis(2));
                ranks.signal(0, Signal::KILL);
            }
            Kill::Rank(rank) if rank < processes => {
                ranks.signal(rank, Signal::KILL);
            }
            Kill::StoppedRank(rank) if processes > 1 => {
                ranks.signal(rank, Signal::STOP);
                ranks.wait(1 - rank, limit);
                ranks.signal(rank, Signal::KILL);
            }
            _ => (0..processes).for_each(|rank| ranks.signal(rank, Signal::KILL)),
        }
        for rank in 0..processes {
            ranks.wait(rank, limit);
        }
        if is_launched {
            // The kernel ends the ranks of a killed launcher.
            std::thread::sleep(Duration::from_millis(300));
        }
        runs
    }
}

/// The bad images that a run has listed, sorted.
fn bad_images(folder: &Path, name: &str) -> Vec<String> {
    let text = fs::read_to_string(folder.join("out").join(name).join("bad_images.csv")).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(String::from).collect();
    lines.sort();
    lines
}

/// Writes both datasets; five training images are damaged.
fn prepare(folder: &Path) {
    small_dataset::write_small_dataset(folder);
    shapes::write(&folder.join("shapes"), 100).expect("writes");
    for class in ["circle", "ring", "star", "waves", "dots"] {
        let entries = fs::read_dir(folder.join("shapes/train").join(class)).expect("lists");
        let path = entries.map(|entry| entry.expect("an entry").path()).min().expect("an image");
        let bytes = fs::read(&path).expect("reads");
        fs::write(path, &bytes[..bytes.len() / 2]).expect("writes");
    }
}

#[test]
fn runs_of_one_and_two_ranks_that_are_killed_twice_end_with_the_bits_of_whole_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    prepare(folder);
    let whole: Vec<(String, Vec<String>, Duration)> = RECIPES
        .iter()
        .map(|recipe| {
            let name = format!("{}-whole", recipe.name);
            let started = Instant::now();
            let hash = recipe.hash(folder, &name);
            (hash, bad_images(folder, &name), started.elapsed())
        })
        .collect();
    assert_eq!(whole[5].1.len(), 6, "a header and five images: {:?}", whole[5].1);
    let trials = if is_reliability_sweep() { 100 } else { RECIPES.len() };
    let (killed, equal, started) = (AtomicUsize::new(0), AtomicUsize::new(0), Instant::now());
    in_parallel(trials, |number| {
        let recipe = &RECIPES[number % RECIPES.len()];
        let (hash, listed, duration) = &whole[number % RECIPES.len()];
        let mut rng = RngStream::new(RngKey::new(0, "kills"), 0, number as u64);
        let name = format!("{}-{number}", recipe.name);
        let mut kills = vec![];
        for kill in 0..2 {
            let kill = KILLS[(number + number / RECIPES.len() + 3 * kill) % KILLS.len()];
            let delay = duration.mul_f32(rng.uniform());
            killed.fetch_add(usize::from(recipe.kill(folder, &name, kill, delay)), Ordering::Relaxed);
            kills.push((kill, delay));
        }
        assert_eq!(&recipe.hash(folder, &name), hash, "{name}: {kills:?}");
        assert_eq!(&bad_images(folder, &name), listed, "{name}: {kills:?}");
        equal.fetch_add(1, Ordering::Relaxed);
        fs::remove_dir_all(folder.join("out").join(&name)).expect("removes");
    });
    let (killed, equal, seconds) = (killed.into_inner(), equal.into_inner(), started.elapsed().as_secs());
    eprintln!(
        "R2: {} kills of {} recipes on one and two ranks, {killed} within the run, {equal} of {trials} runs with equal hashes, {seconds} s",
        2 * trials,
        RECIPES.len()
    );
    assert!(killed > trials, "most kills are within the run: {killed} of {}", 2 * trials);
}
