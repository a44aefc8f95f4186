//! Runs that are killed or interrupted, and resumed: they end with the bits of an uninterrupted run. `FORNAX_TEST_SWEEP=reliability` kills at
//! 200 points.
mod common;
#[path = "common/parallel.rs"]
mod parallel;
#[path = "common/small_dataset.rs"]
mod small_dataset;
#[path = "common/sweep.rs"]
mod sweep;

use common::{command, run, stderr, succeed};
use fornax::checkpoint;
use parallel::in_parallel;
use small_dataset::{SMALL_DATASET, write_small_dataset};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use sweep::is_reliability_sweep;

/// A run of four epochs of two updates, with momentum, EMA, warmup and recovery checkpoints.
const RUN: &str = "--epochs 4 --warmup-epochs 1 --opt adamw --model-ema --model-ema-decay 0.9 --recovery-interval 1 --mixup 0.2 \
    --log-interval 1 --progress plain --output out --threads 1";
const UPDATES: usize = 8;

fn train(name: &str) -> String {
    format!("train {SMALL_DATASET} {RUN} --experiment {name}")
}

/// Folder with the dataset, and the hash of the uninterrupted run.
fn prepare() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    write_small_dataset(folder.path());
    let hash = hash(folder.path(), &train("whole"));
    (folder, hash)
}

/// The hash at the end of a run that succeeds.
fn hash(folder: &Path, arguments: &str) -> String {
    let stdout = succeed(folder, &format!("{arguments} --print-hash"));
    stdout.lines().last().expect("a line").to_string()
}

/// Point at which a run is killed or gets a signal.
#[derive(Clone, Copy, Debug)]
enum Point {
    /// The log line of an update.
    Update(usize),
    /// A delay after the start.
    Delay(Duration),
    /// A temporary file in the folder of checkpoints: the number of such files seen before.
    Save(usize),
}

fn spawn(folder: &Path, arguments: &str) -> Child {
    let mut command = command(folder, arguments);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts")
}

/// Waits until a run reaches a point, or ends.
fn wait_for(child: &mut Child, checkpoints: &Path, point: Point) {
    match point {
        Point::Delay(delay) => std::thread::sleep(delay),
        Point::Update(update) => {
            let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
            let mut updates = 0;
            while updates < update {
                match lines.next() {
                    Some(Ok(line)) => updates += usize::from(line.contains("  batch ")),
                    _ => return,
                }
            }
            // The run must not end by a closed pipe.
            std::thread::spawn(move || lines.for_each(drop));
        }
        Point::Save(number) => {
            let mut seen = std::collections::BTreeSet::new();
            while child.try_wait().expect("it is a child").is_none() {
                let names = fs::read_dir(checkpoints).into_iter().flatten().flatten();
                for entry in names.filter(|entry| entry.path().extension().is_some_and(|e| e == "tmp")) {
                    use std::os::unix::fs::MetadataExt;
                    seen.extend(entry.metadata().map(|meta| meta.ino()));
                }
                if seen.len() > number {
                    return;
                }
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }
}

/// Kills a run at a point; true if it was still running.
fn kill_at(folder: &Path, name: &str, point: Point) -> bool {
    let mut child = spawn(folder, &format!("{} --resume auto", train(name)));
    wait_for(&mut child, &folder.join("out").join(name).join("checkpoints"), point);
    let running = child.try_wait().expect("it is a child").is_none();
    child.kill().expect("it is a child");
    child.wait().expect("it is a child");
    running
}

#[test]
fn killed_run_ends_with_the_bits_of_an_uninterrupted_one() {
    let (folder, expected) = prepare();
    let started = Instant::now();
    hash(folder.path(), &train("timed"));
    let whole = started.elapsed();
    let points: Vec<Point> = if is_reliability_sweep() {
        let fraction = |i: u32| Point::Delay(whole * (i * 7919 % 1000) / 1000);
        let updates = (0..80).map(|i| Point::Update(i % UPDATES + 1));
        updates.chain((0..60).map(fraction)).chain((0..60).map(|i| Point::Save(i % 20))).collect()
    } else {
        vec![
            Point::Update(1),
            Point::Update(4),
            Point::Update(7),
            Point::Delay(whole / 4),
            Point::Delay(whole / 2),
            Point::Save(0),
            Point::Save(3),
            Point::Save(9),
        ]
    };
    let (killed, equal, started) = (AtomicUsize::new(0), AtomicUsize::new(0), Instant::now());
    in_parallel(points.len(), |number| {
        let (name, point) = (format!("killed-{number}"), points[number]);
        killed.fetch_add(usize::from(kill_at(folder.path(), &name, point)), Ordering::Relaxed);
        // Killed again at another point of the rest.
        kill_at(folder.path(), &name, Point::Update(1));
        let resumed = hash(folder.path(), &format!("{} --resume auto", train(&name)));
        assert_eq!(resumed, expected, "{point:?}");
        equal.fetch_add(1, Ordering::Relaxed);
        fs::remove_dir_all(folder.path().join("out").join(name)).expect("removes");
    });
    let (killed, equal, seconds) = (killed.into_inner(), equal.into_inner(), started.elapsed().as_secs());
    let all = points.len();
    eprintln!(
        "R1: {all} kill points, {killed} within the run, {equal} equal hashes after resuming, {seconds} s"
    );
    assert!(killed * 2 > points.len(), "most points are within the run: {killed} of {}", points.len());
}

/// Sends a signal to a child.
fn signal(child: &Child, name: &str) {
    let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", child.id())).status();
    assert!(status.expect("a shell").success());
}

fn wait(mut child: Child) -> ExitStatus {
    let deadline = Instant::now() + Duration::from_secs(120);
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("it is a child") {
            return status;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("it is a child");
    panic!("the run did not end");
}

#[test]
fn signal_saves_the_interrupted_update_and_exits_with_its_code() {
    let (folder, expected) = prepare();
    let signals = [(1, "TERM", 143), (3, "INT", 130), (6, "HUP", 129)];
    let (cases, started) = (signals.len() * if is_reliability_sweep() { 20 } else { 1 }, Instant::now());
    in_parallel(cases, |number| {
        let (update, name, code) = signals[number % signals.len()];
        let run_name = format!("signal-{number}");
        let mut child = spawn(folder.path(), &train(&run_name));
        let checkpoints = folder.path().join("out").join(&run_name).join("checkpoints");
        wait_for(&mut child, &checkpoints, Point::Update(update));
        signal(&child, name);
        let status = wait(child);
        // A signal after the last update may find the run at its end.
        assert!([Some(code), Some(0)].contains(&status.code()), "{name} at {update}: {status}");
        let last = checkpoint::read(&checkpoints.join("last.safetensors")).expect("reads");
        let saved = last.header.state.update as usize;
        assert!((update..=UPDATES).contains(&saved), "{saved} updates after a signal at {update}");
        let resumed = hash(folder.path(), &format!("{} --resume auto", train(&run_name)));
        assert_eq!(resumed, expected, "{name} at {update}");
    });
    eprintln!(
        "S1: {cases} signals, {cases} checkpoints at the interrupted update, {} s",
        started.elapsed().as_secs()
    );
}

#[test]
fn message_of_an_interrupted_run_names_its_update_and_the_command_to_resume() {
    let folder = tempfile::tempdir().expect("a folder");
    write_small_dataset(folder.path());
    let mut child = spawn(folder.path(), &train("a").replace("--epochs 4", "--epochs 400"));
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    lines
        .by_ref()
        .find(|line| line.as_ref().is_ok_and(|line| line.contains("  batch ")))
        .expect("trains")
        .ok();
    signal(&child, "TERM");
    let rest: Vec<String> = lines.map_while(|line| line.ok()).collect();
    assert_eq!(wait(child).code(), Some(143));
    let text = rest.join("\n");
    let last = checkpoint::read(&folder.path().join("out/a/checkpoints/last.safetensors")).expect("reads");
    let update = last.header.state.update;
    assert!(text.contains(&format!("checkpoint saved at update {update}")), "{text}");
    assert!(text.contains("fornax train --resume"), "{text}");
    assert!(text.contains("SIGTERM: finishing this update, then saving; a second signal ends now"), "{text}");
}

#[test]
fn finished_run_says_so_and_prints_its_result() {
    let folder = tempfile::tempdir().expect("a folder");
    write_small_dataset(folder.path());
    let first = succeed(
        folder.path(),
        &train("a").replace("--epochs 4 --warmup-epochs 1", "--epochs 1 --warmup-epochs 0"),
    );
    assert!(first.contains("after 1 epoch in"), "{first}");
    let output = run(folder.path(), "train --resume out/a");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("finished already after 1 epoch; raise --epochs to train on"),
        "{}",
        stderr(&output)
    );
    let again = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(again.split("  after").next(), first.split("  after").next());
}

#[test]
fn run_started_by_nohup_ignores_hangups() {
    let folder = tempfile::tempdir().expect("a folder");
    write_small_dataset(folder.path());
    let arguments = train("a").replace("--epochs 4", "--epochs 400");
    let mut command = Command::new("sh");
    command.current_dir(folder.path()).arg("-c");
    command.arg(format!("trap '' HUP; exec {} {arguments}", env!("CARGO_BIN_EXE_fornax")));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("a shell");
    wait_for(&mut child, folder.path(), Point::Update(2));
    signal(&child, "HUP");
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().expect("it is a child").is_none(), "the run continues");
    signal(&child, "TERM");
    assert_eq!(wait(child).code(), Some(143));
}

#[test]
fn run_is_used_from_another_folder_and_a_missing_dataset_is_traced_to_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let other = tempfile::tempdir().expect("a folder");
    write_small_dataset(folder.path());
    succeed(folder.path(), &train("a"));
    let path = folder.path().join("out/a").display().to_string();
    let settings = fs::read_to_string(folder.path().join("out/a/args.yaml")).expect("reads");
    let small = folder.path().join("small").display().to_string();
    assert!(settings.contains(&format!("data_dir: \"{small}\"")), "{settings}");
    succeed(other.path(), &format!("train --resume {path} --epochs 5 --progress none"));
    succeed(other.path(), &format!("train -c {path}/args.yaml --epochs 1 --warmup-epochs 0 --progress none"));
    succeed(other.path(), &format!("val --checkpoint {path}"));
    fs::rename(folder.path().join("small"), folder.path().join("moved")).expect("moves");
    for (arguments, remedy) in [
        (format!("train --resume {path} --epochs 6"), "--data-dir DIR"),
        (format!("val --checkpoint {path}"), "fornax val DIR"),
    ] {
        let output = run(other.path(), &arguments);
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
        for part in [small.as_str(), "it is the run's data_dir, from", "checkpoints/", remedy] {
            assert!(stderr(&output).contains(part), "{part} in {}", stderr(&output));
        }
    }
    // A dataset is compared by its files, not by its path.
    succeed(folder.path(), "train --resume out/a --data-dir moved --epochs 6 --progress none");
}

#[test]
fn sigusr1_saves_a_checkpoint_and_training_goes_on() {
    let (folder, expected) = prepare();
    let mut child =
        spawn(folder.path(), &train("a").replace("--recovery-interval 1", "--recovery-interval 0"));
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    lines
        .by_ref()
        .find(|line| line.as_ref().is_ok_and(|line| line.contains("  batch ")))
        .expect("trains")
        .ok();
    signal(&child, "USR1");
    let rest: Vec<String> = lines.map_while(|line| line.ok()).collect();
    assert_eq!(wait(child).code(), Some(0));
    assert!(rest.iter().any(|line| line.contains("checkpoint saved at update")), "{rest:?}");
    let resumed = succeed(folder.path(), "train --resume out/a --progress none --print-hash");
    assert_eq!(resumed.lines().last(), Some(expected.as_str()));
}

#[test]
fn second_signal_leaves_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    write_small_dataset(folder.path());
    let mut child = spawn(folder.path(), &train("a").replace("--epochs 4", "--epochs 400"));
    wait_for(&mut child, folder.path(), Point::Update(1));
    signal(&child, "INT");
    // The first signal may have ended the run already.
    Command::new("sh")
        .arg("-c")
        .arg(format!("kill -INT {} 2>/dev/null", child.id()))
        .status()
        .expect("a shell");
    let started = Instant::now();
    assert_eq!(wait(child).code(), Some(130));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn options_of_the_first_weights_and_of_the_ranking_cannot_change() {
    let folder = tempfile::tempdir().expect("a folder");
    write_small_dataset(folder.path());
    succeed(folder.path(), &train("a"));
    for flag in ["--initial-checkpoint w.safetensors", "--head-init-bias 3", "--eval-metric loss"] {
        let output = run(folder.path(), &format!("train --resume out/a --epochs 5 --progress none {flag}"));
        let name = flag.split(' ').next().expect("a name");
        assert_eq!(output.status.code(), Some(2), "{flag}: {}", stderr(&output));
        assert!(
            stderr(&output).contains(&format!("{name} cannot change within a run")),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn moved_dataset_leaves_older_checkpoints_usable() {
    let folder = tempfile::tempdir().expect("a folder");
    write_small_dataset(folder.path());
    succeed(folder.path(), &train("a"));
    fs::rename(folder.path().join("small"), folder.path().join("moved")).expect("moves");
    let resume = "train --resume out/a --data-dir moved --progress none --epochs";
    succeed(folder.path(), &format!("{resume} 5"));
    fs::write(folder.path().join("out/a/checkpoints/last.safetensors"), "damaged").expect("writes");
    succeed(folder.path(), &format!("{resume} 6"));
}

#[test]
fn second_process_cannot_use_a_run_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    write_small_dataset(folder.path());
    let mut first = spawn(folder.path(), &train("a").replace("--epochs 4", "--epochs 400"));
    wait_for(&mut first, folder.path(), Point::Update(2));
    for arguments in [
        format!("{} --overwrite", train("a")),
        "train --resume out/a --progress none".into(),
        format!("{} --resume auto", train("a")),
        "train --resume out/a --dry-run".into(),
    ] {
        let output = run(folder.path(), &arguments);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains("another process trains in this folder"), "{}", stderr(&output));
    }
    first.kill().expect("it is a child");
    first.wait().expect("it is a child");
    // The lock ends with the process.
    succeed(folder.path(), "train --resume out/a --epochs 2 --progress none --start-epoch 2");
}
