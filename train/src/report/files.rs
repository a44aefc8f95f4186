//! Writing of report files: complete at any time, and not too often.
use crate::Result;
use crate::checkpoint::durable::{create_temporary, temporary};
use crate::run_files::cannot_write;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Replaces a file atomically: a reader sees the old or the new content. Unlike a checkpoint it is not forced to the disk.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary(path);
    let replaced = create_temporary(&temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&temporary, path));
    replaced.map_err(|error| {
        // Best effort: the write error is the one to report.
        fs::remove_file(&temporary).ok();
        cannot_write("the report cannot be written", path, &error)
    })
}

/// Limit of repeated work to a twentieth of the time.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimit {
    /// End and duration of the last work.
    last: Option<(Instant, Duration)>,
}

impl RateLimit {
    /// True if the work was never done, or long enough ago.
    pub fn is_due(&self) -> bool {
        self.last.is_none_or(|(end, duration)| end.elapsed() >= 20 * duration)
    }

    /// Does the work and measures it.
    pub fn measure(&mut self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let started = Instant::now();
        let result = work();
        self.last = Some((Instant::now(), started.elapsed()));
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_due_at_first_and_after_twenty_times_its_duration() {
        let mut limit = RateLimit::default();
        assert!(limit.is_due());
        limit
            .measure(|| {
                std::thread::sleep(Duration::from_millis(20));
                Ok(())
            })
            .expect("works");
        assert!(!limit.is_due());
        limit.last = limit.last.map(|(end, _)| (end - Duration::from_secs(1), Duration::from_millis(20)));
        assert!(limit.is_due());
    }

    #[test]
    fn file_is_replaced_and_a_failure_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("report");
        replace(&path, b"one").expect("writes");
        replace(&path, b"two").expect("writes");
        assert_eq!(fs::read(&path).expect("reads"), b"two");
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 1);
        let error = replace(&folder.path().join("absent").join("report"), b"one").expect_err("no folder");
        assert_eq!(error.kind(), crate::error::ErrorKind::Disk);
    }
}
