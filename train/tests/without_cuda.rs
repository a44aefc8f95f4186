//! A build without the feature `cuda`: the CPU, and errors that say why there is no other device.
#![cfg(not(feature = "cuda"))]
mod common;

use common::{run, stderr, succeed};

const REASON: &str = "this build has no CUDA: it was made without the Cargo feature `cuda`";

#[test]
fn cpu_is_the_device_by_default() {
    let folder = tempfile::tempdir().expect("a folder");
    let report = succeed(folder.path(), "train --epochs 1 --json");
    assert!(report.contains("\"top1\":"), "{report}");
    let doctor = succeed(folder.path(), "doctor");
    assert!(doctor.contains(&format!("none: {REASON}")), "{doctor}");
}

#[test]
fn other_devices_are_errors_with_the_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    for device in ["cuda", "cuda:1", "emulated"] {
        let output = run(folder.path(), &format!("train --epochs 1 --device {device}"));
        assert_eq!(output.status.code(), Some(9), "{device}");
        assert!(stderr(&output).contains(REASON), "{device}: {}", stderr(&output));
    }
    let kernels = run(folder.path(), "kernels build");
    assert_eq!(kernels.status.code(), Some(9));
    assert!(stderr(&kernels).contains(REASON), "{}", stderr(&kernels));
}
