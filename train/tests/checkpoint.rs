//! Damaged, missing and foreign checkpoints. `FORNAX_TEST_SWEEP=reliability` tries every truncation and header bit.
mod common;
#[path = "common/sweep.rs"]
mod sweep;
#[path = "common/tiny_run.rs"]
mod tiny_run;

use common::{run, stderr, succeed};
use fornax::checkpoint;
use fornax::error::ErrorKind;
use fornax::settings::Settings;
use std::fs;
use std::path::Path;
use sweep::{is_full_sweep, is_reliability_sweep};
use tiny_run::{tiny_run_in, tiny_settings};

/// A small checkpoint, and where its elements start.
fn small_checkpoint(folder: &Path) -> (Vec<u8>, usize) {
    let path = folder.join("run");
    let mut run = tiny_run_in(&path, &Settings { epochs: Some(1), ..tiny_settings() });
    run.run().expect("trains");
    let bytes = fs::read(path.join("checkpoints/last.safetensors")).expect("reads");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    (bytes, 8 + header)
}

/// Pseudo-random numbers below a bound.
fn random() -> impl FnMut(usize) -> usize {
    let mut state = 1u64;
    move |bound| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % bound
    }
}

#[test]
fn mutated_checkpoint_is_rejected() {
    let folder = tempfile::tempdir().expect("a folder");
    let (good, elements) = small_checkpoint(folder.path());
    let path = folder.path().join("mutated.safetensors");
    let rejects = |bytes: &[u8], what: &str| {
        fs::write(&path, bytes).expect("writes");
        match checkpoint::read(&path) {
            Ok(_) => panic!("accepted: {what}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Checkpoint, "{what}: {error}"),
        }
    };
    let full = is_reliability_sweep();
    let mut random = random();
    let step = if full { 1 } else { elements / 40 };
    for length in (0..elements).step_by(step).chain((elements..good.len()).step_by(good.len() / 20)) {
        rejects(&good[..length], &format!("cut at {length}"));
    }
    // White space at the end of the header is without meaning.
    let meaningful = elements - good[..elements].iter().rev().take_while(|b| **b == b' ').count();
    for bit in (0..8 * meaningful).step_by(if full { 1 } else { meaningful / 20 }) {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        rejects(&bad, &format!("bit {bit} of the header"));
    }
    for number in 0..if full { 100_000 } else { 200 } {
        let mut bad = good.clone();
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
        if bad != good {
            rejects(&bad, &what);
        }
    }
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
    let mut cases = 0_u32;
    for how in DAMAGES {
        for (scope, files) in SCOPES {
            cases += 1;
            // By default a third of the cases, which cover every kind of damage and every scope.
            if !is_full_sweep() && !cases.is_multiple_of(3) {
                continue;
            }
            fs::remove_dir_all(&run_folder).expect("removes");
            copy(&kept, &run_folder);
            for file in files {
                damage(&run_folder.join("checkpoints").join(format!("{file}.safetensors")), how, &other);
            }
            let what = format!("{how:?}: {scope}");
            let output = run(folder.path(), "train --resume out/run --progress plain --epochs 2");
            let text = stderr(&output);
            let all = files.len() == expected.len();
            match (all, how) {
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
                    assert!(text.contains("to do"), "{what}: {text}");
                }
                (false, _) => {
                    assert!(output.status.success(), "{what}: {text}");
                    assert!(
                        text.contains("warning: a checkpoint is passed over: last.safetensors"),
                        "{what}: {text}"
                    );
                    assert!(text.contains("resuming from "), "{what}: {text}");
                }
            }
        }
    }
    assert_eq!(cases, 40);
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
