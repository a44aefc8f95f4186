//! Files of a run's folder: their names, and the only place that opens them. They are regular files inside of the folder, so a run that was
//! unpacked or copied from elsewhere makes no command wait at a pipe, or write to a file outside of its folder.
mod appended;
mod failure;
mod location;
pub mod regular;

pub use appended::AppendedFile;
pub use failure::cannot_write;
pub use location::RunLocation;

use crate::checkpoint::LOCK_FILE;
use crate::checkpoint::durable::{link_target, target_of_temporary};
use crate::report::tensorboard::{event_files, is_event_file};
use crate::{Error, Result};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// Names of a run's files, besides event files and the lock.
pub const FILES: [&str; 7] =
    ["args.yaml", "env.json", "summary.csv", "metrics.jsonl", "log.txt", "report.html", "bad_images.csv"];
/// Names of the folders in a run's folder.
pub const FOLDERS: [&str; 3] = ["plots", "samples", CHECKPOINTS];
const CHECKPOINTS: &str = "checkpoints";
/// Extensions of the files in [`FOLDERS`].
const EXTENSIONS: [&str; 4] = ["safetensors", "png", "svg", "json"];

/// Checks that everything that a run reads or writes in its folder is a regular file or a folder inside of it, if it exists. Links within the
/// folder are allowed; the folder itself may be a link.
pub fn check(folder: &Path) -> Result<()> {
    let files = files(folder).into_iter().chain([folder.join(LOCK_FILE)]);
    files.into_iter().try_for_each(|path| check_file(folder, &path))?;
    for name in FOLDERS {
        let path = folder.join(name);
        check_place(folder, &path, true)?;
        let entries = fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path());
        let is_of_run = |path: &PathBuf| {
            path.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| *known == extension))
        };
        entries.filter(is_of_run).try_for_each(|path| check_file(folder, &path))?;
    }
    Ok(())
}

/// Paths of the files that a run may have in its folder, besides the lock and the files in [`FOLDERS`].
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let of_earlier_settings = entries
        .filter(|path| path.file_name().and_then(OsStr::to_str).and_then(number_of_settings).is_some());
    FILES.iter().map(|name| folder.join(name)).chain(event_files(folder)).chain(of_earlier_settings).collect()
}

/// Number in the name of a file with earlier settings, `args.1.yaml`.
pub fn number_of_settings(name: &str) -> Option<u32> {
    name.strip_prefix("args.")?.strip_suffix(".yaml")?.parse().ok()
}

/// Checks that a path in a run's folder is a regular file inside of it, if it exists.
pub fn check_file(folder: &Path, path: &Path) -> Result<()> {
    check_place(folder, path, false)
}

fn check_place(folder: &Path, path: &Path, is_folder: bool) -> Result<()> {
    let Ok(entry) = fs::symlink_metadata(path) else { return Ok(()) };
    let unusable = |why: String| {
        let what = "the run's folder has an entry that cannot be used";
        let error = match path.extension() {
            Some(extension) if extension == "safetensors" => Error::checkpoint(what),
            _ => Error::disk(what),
        };
        error.at_path(path).because(why).remedy("remove it, or replace it with a copy of the file")
    };
    if entry.is_symlink() && !leads_inside(folder, path) {
        let target = fs::read_link(path).unwrap_or_default();
        return Err(unusable(format!("it is a link to {}, outside of the run's folder", target.display())));
    }
    match fs::metadata(path) {
        // A link to an absent file inside of the folder.
        Err(_) => Ok(()),
        Ok(found) if is_folder && found.is_dir() || !is_folder && found.is_file() => Ok(()),
        Ok(found) => {
            let expected = if is_folder { "a folder" } else { "a regular file" };
            Err(unusable(format!("it is {}, not {expected}", regular::kind(&found))))
        }
    }
}

/// True if a link leads to a place inside of a folder, whether or not the target exists.
fn leads_inside(folder: &Path, link: &Path) -> bool {
    let canonical = |path: &Path| fs::canonicalize(path).ok();
    let target = canonical(link).or_else(|| {
        let target = link_target(link).ok()?;
        Some(canonical(target.parent()?)?.join(target.file_name()?))
    });
    matches!((target, canonical(folder)), (Some(target), Some(folder)) if target.starts_with(&folder))
}

/// True if a folder exists and has no files but a run's.
pub fn has_only_run_files(folder: &Path) -> bool {
    let known = |name: &OsStr| {
        FILES.iter().chain(&FOLDERS).chain([&LOCK_FILE]).any(|known| *known == name)
            || name.to_str().and_then(number_of_settings).is_some()
            || is_event_file(name)
            || is_leftover(name)
    };
    fs::read_dir(folder).is_ok_and(|entries| entries.flatten().all(|entry| known(&entry.file_name())))
}

/// True for a temporary file of the run's folder, which a killed run leaves behind.
fn is_leftover(name: &OsStr) -> bool {
    let is_own = |target: &str| FILES.contains(&target) || number_of_settings(target).is_some();
    name.to_str().and_then(target_of_temporary).is_some_and(is_own)
}

/// Removes the temporary files of a killed run: no other process writes while the lock is held.
pub fn remove_leftovers(path: &Path) {
    let names =
        |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let in_folder = names(path).filter(|file| file.file_name().is_some_and(is_leftover));
    let is_temporary = |file: &PathBuf| {
        file.file_name().and_then(OsStr::to_str).is_some_and(|name| target_of_temporary(name).is_some())
    };
    let below = FOLDERS.iter().flat_map(|name| names(&path.join(name))).filter(is_temporary);
    // Best effort: such a file takes space and does no other harm.
    in_folder.chain(below).for_each(|file| drop(fs::remove_file(file)));
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_out_of_the_folder_and_special_files_are_rejected_and_links_within_it_are_not() {
        let root = tempfile::tempdir().expect("a folder");
        let run = root.path().join("run");
        for name in FOLDERS {
            fs::create_dir_all(run.join(name)).expect("creates");
        }
        let outside = root.path().join("outside");
        fs::write(&outside, "mine").expect("writes");
        check(&run).expect("an empty run");
        fs::write(run.join("checkpoints/checkpoint-3.safetensors"), "").expect("writes");
        symlink("checkpoint-3.safetensors", run.join("checkpoints/best.safetensors")).expect("links");
        symlink("absent.txt", run.join("log.txt")).expect("links");
        // Files of the user, which no command of the run opens.
        symlink(&outside, run.join("notes.txt")).expect("links");
        fs::create_dir(run.join("checkpoints/copies")).expect("creates");
        check(&run).expect("links within the folder");
        let linked = root.path().join("linked");
        symlink(&run, &linked).expect("links");
        check(&linked).expect("the folder may be a link");
        let names =
            FILES.iter().chain(&[LOCK_FILE, "args.2.yaml", "events.out.tfevents.1", "plots/loss.png"]);
        for name in names.chain(&["checkpoints/last.safetensors"]) {
            let path = run.join(name);
            fs::remove_file(&path).ok();
            for target in [&outside, &root.path().join("absent"), Path::new("../../elsewhere")] {
                symlink(target, &path).expect("links");
                let error = check(&run).expect_err("leads out of the folder");
                let is_checkpoint = name.ends_with(".safetensors");
                let expected = if is_checkpoint { ErrorKind::Checkpoint } else { ErrorKind::Disk };
                assert_eq!(error.kind(), expected, "{error}");
                let text = error.to_string();
                assert!(text.contains(name) && text.contains("outside of the run's folder"), "{text}");
                fs::remove_file(&path).expect("removes");
            }
            fs::create_dir(&path).expect("creates");
            let text = check(&run).expect_err("a folder").to_string();
            assert!(text.contains("it is a folder, not a regular file"), "{text}");
            fs::remove_dir(&path).expect("removes");
        }
        for name in FOLDERS {
            fs::remove_dir_all(run.join(name)).expect("removes");
            symlink(root.path(), run.join(name)).expect("links");
            let text = check(&run).expect_err("leads out of the folder").to_string();
            assert!(text.contains(name), "{text}");
            fs::remove_file(run.join(name)).expect("removes");
            fs::write(run.join(name), "").expect("writes");
            let text = check(&run).expect_err("a file").to_string();
            assert!(text.contains("it is a regular file, not a folder"), "{text}");
            fs::remove_file(run.join(name)).expect("removes");
        }
        assert_eq!(fs::read_to_string(outside).expect("reads"), "mine");
    }
}
