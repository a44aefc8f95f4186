//! Emulated devices with slow engines, and cache folders without choices of plans.
use fornax_kernels::cache;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Variable that makes engines slow.
pub const VARIABLE: &str = "FORNAX_EMULATED_ENGINES";

/// Values of [`VARIABLE`] with which the deterministic engine 0 or 1 is slow, so that timing chooses the other one.
pub const SLOW: [&str; 2] = ["0:15", "1:15"];

/// Creates a cache folder with compiled kernels, but without choices.
pub fn empty_cache(folder: &Path) {
    let ours = folder.join("fornax");
    fs::create_dir_all(&ours).expect("a folder");
    for shared in ["emulator", "emulated", "kernels"] {
        fs::create_dir_all(cache::folder().join(shared)).expect("a folder");
        symlink(cache::folder().join(shared), ours.join(shared)).expect("a link");
    }
}
