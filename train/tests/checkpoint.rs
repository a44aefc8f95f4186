//! Damaged, missing and foreign checkpoints. `FORNAX_TEST_SWEEP=reliability` tries every truncation and header bit.
mod common;
#[path = "common/parallel.rs"]
mod parallel;
#[path = "common/sweep.rs"]
mod sweep;
#[path = "common/tiny_run.rs"]
mod tiny_run;

use common::{run, stderr, succeed};
use fornax::checkpoint;
use fornax::error::ErrorKind;
use fornax::settings::Settings;
use parallel::in_parallel;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use sweep::{is_reliability_sweep, is_whole_sweep};
use tiny_run::{tiny_run_in, tiny_settings};

/// A checkpoint of a few kilobytes, and where its elements start.
fn small_checkpoint(folder: &Path) -> (Vec<u8>, usize) {
    let path = folder.join("run");
    let model_kwargs = Some(["channels=2,4", "layers=1,1"].map(String::from).into());
    let mut run = tiny_run_in(&path, &Settings { epochs: Some(1), model_kwargs, ..tiny_settings() });
    run.run().expect("trains");
    let bytes = fs::read(path.join("checkpoints/last.safetensors")).expect("reads");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    (bytes, 8 + header)
}

/// Pseudo-random numbers below a bound.
fn random(seed: usize) -> impl FnMut(usize) -> usize {
    let mut state = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |bound| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % bound
    }
}

/// A checkpoint with one structured mutation, and its description.
fn mutated(good: &[u8], elements: usize, number: usize) -> (Vec<u8>, String) {
    let mut random = random(number);
    let mut bad = good.to_vec();
    let what = match number % 4 {
        0 => {
            let at = elements + random(good.len() - elements);
            bad[at] ^= 1 << random(8);
            format!("bit at byte {at}")
        }
        1 => {
            let at = random(good.len());
            bad.remove(at);
            format!("byte {at} removed")
        }
        2 => {
            let at = random(good.len());
            bad.insert(at, b'7');
            format!("byte inserted at {at}")
        }
        _ => {
            // Two pieces of the elements change places.
            let length = 64;
            let places = (good.len() - elements) / length;
            let (a, b) = (random(places), random(places));
            let [a, b] = [a, b].map(|place| elements + place * length);
            let piece = good[a..a + length].to_vec();
            bad.copy_within(b..b + length, a);
            bad[b..b + length].copy_from_slice(&piece);
            format!("{length} bytes at {a} and {b} exchanged")
        }
    };
    (bad, what)
}

#[test]
fn mutated_checkpoint_is_rejected() {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder");
    let (good, elements) = small_checkpoint(folder.path());
    // White space at the end of the header is without meaning.
    let meaningful = elements - good[..elements].iter().rev().take_while(|b| **b == b' ').count();
    let (whole, started) = (is_reliability_sweep(), Instant::now());
    let every = |step: usize| if whole { 1 } else { step };
    let cuts: Vec<usize> = (0..good.len()).step_by(every(good.len() / 60)).collect();
    let bits: Vec<usize> = (0..8 * meaningful).step_by(every(meaningful / 20)).collect();
    let mutations = if whole { 100_000 } else { 200 };
    let case = |number: usize| {
        if let Some(length) = cuts.get(number) {
            return (good[..*length].to_vec(), format!("cut at {length}"));
        }
        if let Some(bit) = bits.get(number - cuts.len()) {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            return (bad, format!("bit {bit} of the header"));
        }
        mutated(&good, elements, number - cuts.len() - bits.len())
    };
    let (rejected, unchanged) = (AtomicUsize::new(0), AtomicUsize::new(0));
    in_parallel(cuts.len() + bits.len() + mutations, |number| {
        let (bad, what) = case(number);
        if bad == good {
            unchanged.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let path = folder.path().join(format!("{:?}.safetensors", std::thread::current().id()));
        fs::write(&path, bad).expect("writes");
        match checkpoint::read(&path) {
            Ok(_) => panic!("accepted: {what}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Checkpoint, "{what}: {error}"),
        }
        rejected.fetch_add(1, Ordering::Relaxed);
    });
    let (cuts, bits, seconds) = (cuts.len(), bits.len(), started.elapsed().as_secs());
    let (rejected, unchanged) = (rejected.into_inner(), unchanged.into_inner());
    eprintln!(
        "C1: {cuts} truncations, {bits} header bits, {mutations} mutations ({unchanged} without a change): {rejected} rejected, {seconds} s"
    );
    assert_eq!(rejected + unchanged, cuts + bits + mutations);
    assert!(unchanged * 20 < mutations, "{unchanged}");
}

/// Damage to the newest checkpoint of a run.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Missing,
    Empty,
    Cut,
    Header,
    Element,
    OtherModel,
    NewerVersion,
    Foreign,
}

const DAMAGES: [Damage; 8] = [
    Damage::Missing,
    Damage::Empty,
    Damage::Cut,
    Damage::Header,
    Damage::Element,
    Damage::OtherModel,
    Damage::NewerVersion,
    Damage::Foreign,
];

/// Files that are damaged: `last`, or several.
const SCOPES: [(&str, &[&str]); 5] = [
    ("last", &["last"]),
    ("last and the newest recovery checkpoint", &["last", "recovery-1-0"]),
    ("last and all recovery checkpoints", &["last", "recovery-0-0", "recovery-1-0"]),
    ("all but best", &["last", "recovery-0-0", "recovery-1-0", "checkpoint-0", "checkpoint-1"]),
    ("all", &["last", "recovery-0-0", "recovery-1-0", "checkpoint-0", "checkpoint-1", "best"]),
];

fn damage(path: &Path, how: Damage, other: &Path) {
    let bytes = fs::read(path).expect("reads");
    let mut bad = bytes.clone();
    match how {
        Damage::Missing => return fs::remove_file(path).expect("removes"),
        Damage::Empty => bad.clear(),
        Damage::Cut => bad.truncate(bytes.len() / 2),
        Damage::Header => bad[100] ^= 4,
        Damage::Element => *bad.last_mut().expect("a byte") ^= 1,
        Damage::OtherModel => bad = fs::read(other).expect("reads"),
        Damage::NewerVersion => bad = with_version_2(&bytes),
        Damage::Foreign => bad = b"PK\x03\x04 not safetensors".to_vec(),
    }
    fs::write(path, bad).expect("writes");
}

/// The checkpoint with another version of its layout, and a valid checksum.
fn with_version_2(bytes: &[u8]) -> Vec<u8> {
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
    let metadata = &mut header["__metadata__"];
    let state =
        metadata["fornax.state"].as_str().expect("text").replacen("\"version\":1", "\"version\":2", 1);
    let mut sums: serde_json::Value =
        serde_json::from_str(metadata["fornax.crc32c"].as_str().expect("text")).expect("JSON");
    sums["fornax.state"] = crc32c::crc32c(state.as_bytes()).into();
    metadata["fornax.state"] = state.into();
    metadata["fornax.crc32c"] = sums.to_string().into();
    let mut text = header.to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes()[..], &text, &bytes[8 + length..]].concat()
}

#[test]
fn newest_usable_checkpoint_is_resumed_from() {
    let folder = tempfile::tempdir().expect("a folder");
    let small =
        "--epochs 2 --batch-size 512 --warmup-epochs 0 --recovery-interval 1 --threads 1 --output out";
    let train = |name: &str, more: &str| format!("train {small} --progress none --experiment {name} {more}");
    succeed(folder.path(), &train("run", ""));
    succeed(folder.path(), &train("other", "--model wide_resnet8_2"));
    let run_folder = folder.path().join("out/run");
    let kept = folder.path().join("kept");
    copy(&run_folder, &kept);
    let expected = ["best", "checkpoint-0", "checkpoint-1", "last", "recovery-0-0", "recovery-1-0"];
    let mut found: Vec<String> = fs::read_dir(kept.join("checkpoints"))
        .expect("lists")
        .map(|e| e.expect("an entry").path().file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    found.sort();
    assert_eq!(found, expected);
    let other = folder.path().join("out/other/checkpoints/last.safetensors");
    let all: Vec<_> =
        DAMAGES.iter().flat_map(|how| SCOPES.map(|(scope, files)| (*how, scope, files))).collect();
    assert_eq!(all.len(), 40);
    // By default a third of the cases, which cover every kind of damage and every scope.
    let tried: Vec<_> = all
        .iter()
        .enumerate()
        .filter(|(i, _)| is_whole_sweep() || i % 3 == 2)
        .map(|(_, case)| case)
        .collect();
    let started = Instant::now();
    in_parallel(tried.len(), |number| {
        let (how, scope, files) = *tried[number];
        let name = format!("case-{number}");
        let run_folder = folder.path().join("out").join(&name);
        copy(&kept, &run_folder);
        for file in files {
            damage(&run_folder.join("checkpoints").join(format!("{file}.safetensors")), how, &other);
        }
        let what = format!("{how:?}: {scope}");
        let output = run(folder.path(), &format!("train --resume out/{name} --progress plain --epochs 2"));
        let text = stderr(&output);
        match (files.len() == expected.len(), how) {
            (true, Damage::Missing) => {
                assert_eq!(output.status.code(), Some(4), "{what}: {text}");
                assert!(text.contains("the folder has no checkpoint"), "{what}: {text}");
            }
            (true, _) => {
                assert_eq!(output.status.code(), Some(4), "{what}: {text}");
                assert!(text.contains("no checkpoint of this run can be used"), "{what}: {text}");
                for file in expected {
                    assert!(text.contains(&format!("{file}.safetensors")), "{what}: {text}");
                }
                assert!(text.contains("\n  help "), "{what}: {text}");
            }
            (false, _) => {
                assert!(output.status.success(), "{what}: {text}");
                let warning = "warning: a checkpoint is passed over: last.safetensors";
                assert!(text.contains(warning), "{what}: {text}");
                assert!(text.contains("resuming from "), "{what}: {text}");
            }
        }
    });
    eprintln!("C3: {} of 40 damaged run folders, {} s", tried.len(), started.elapsed().as_secs());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("lists") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("copies")),
        }
    }
}
