//! Check of the headers of all image files before training: a file that is no image is found in the first seconds of a run, not in its
//! last epoch. Only the first bytes of each file are read; `fornax datasets verify` decodes all of them.
use super::bad_images::BadImage;
use super::dataset::{Dataset, SampleImage};
use super::decode::{HeaderVerdict, check_header, is_gray16};
use super::image::Image;
use crate::error::ErrorKind;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that suffice for most headers; a JPEG may have long application data before its frame header.
const HEAD: usize = 4 << 10;
const LONG_HEAD: usize = 1 << 20;
/// Samples that a thread takes at a time.
const CHUNK: usize = 64;
/// Interval of progress reports.
const INTERVAL: Duration = Duration::from_millis(50);

/// Progress of a check of headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderCheckProgress {
    /// Checked images.
    pub checked: usize,
    /// Images to check.
    pub total: usize,
    /// Time since the start.
    pub elapsed: Duration,
}

/// Which samples to check, and on how many threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderCheckPart {
    /// Rank of this process: it checks every sample whose index modulo `world` is `rank`.
    pub rank: usize,
    /// Number of ranks.
    pub world: usize,
    /// Threads, which mostly wait for the disk.
    pub threads: usize,
}

/// Findings of a check of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedHeaders {
    /// Bad images, by sample index.
    pub bad: Vec<(usize, BadImage)>,
    /// Number of samples with 16-bit grey images.
    pub gray16: usize,
}

/// True if the samples of a dataset are image files, whose headers can be checked.
pub fn has_image_files(dataset: &dyn Dataset) -> bool {
    !dataset.is_empty() && dataset.image_heads(0, 0).map_or(true, |heads| !heads.is_empty())
}

/// Checks the headers of this rank's part of a dataset of image files. `on_progress` is called several times a second; its error ends the
/// check.
pub fn check_headers(
    dataset: &dyn Dataset,
    part: HeaderCheckPart,
    on_progress: &mut dyn FnMut(&HeaderCheckProgress) -> Result<()>,
) -> Result<CheckedHeaders> {
    let total = (dataset.len() + part.world - 1 - part.rank) / part.world;
    let (next, stop, started) = (AtomicUsize::new(0), AtomicBool::new(false), Instant::now());
    let (found, failure, gray16) = (Mutex::new(vec![]), Mutex::new(None), AtomicUsize::new(0));
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let first = next.fetch_add(CHUNK, Ordering::Relaxed);
            if first >= total {
                return;
            }
            for number in first..total.min(first + CHUNK) {
                let index = number * part.world + part.rank;
                match check_sample(dataset, index) {
                    Ok(is_gray16) => drop(gray16.fetch_add(is_gray16.into(), Ordering::Relaxed)),
                    Err(error) if error.kind() == ErrorKind::Data => {
                        let bad = BadImage::new(dataset.location(index), &error);
                        found.lock().unwrap_or_else(PoisonError::into_inner).push((index, bad));
                    }
                    Err(error) => {
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            }
        }
    };
    let reported = std::thread::scope(|scope| {
        let (running, ended) = channel::<()>();
        for _ in 0..part.threads.max(1) {
            let running = running.clone();
            scope.spawn(move || {
                work();
                drop(running);
            });
        }
        drop(running);
        loop {
            let waited = ended.recv_timeout(INTERVAL);
            let checked = next.load(Ordering::Relaxed).min(total);
            let progress = HeaderCheckProgress { checked, total, elapsed: started.elapsed() };
            if let Err(error) = on_progress(&progress) {
                stop.store(true, Ordering::Relaxed);
                return Err(error);
            }
            if waited == Err(RecvTimeoutError::Disconnected) {
                return Ok(());
            }
        }
    });
    reported?;
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut bad = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    bad.sort_unstable_by_key(|(index, _)| *index);
    Ok(CheckedHeaders { bad, gray16: gray16.into_inner() })
}

/// Checks the headers of the image files of a sample; true if one is of 16-bit grey values.
fn check_sample(dataset: &dyn Dataset, index: usize) -> Result<bool> {
    let mut has_gray16 = false;
    let bad = |why: String| Error::data("an image cannot be used").because(why);
    for limit in [HEAD, LONG_HEAD] {
        let mut is_complete = true;
        for head in dataset.image_heads(index, limit)? {
            has_gray16 |= is_gray16(&head.bytes);
            match check_header(&head.bytes, head.file_size).map_err(bad)? {
                HeaderVerdict::Valid => {}
                HeaderVerdict::Incomplete => is_complete = false,
                HeaderVerdict::Unknown => {
                    return match dataset.image(index)? {
                        SampleImage::Encoded(bytes) => {
                            Image::decode(&bytes, 3).map_err(bad)?;
                            Ok(has_gray16 || is_gray16(&bytes))
                        }
                        SampleImage::Decoded(_) => Ok(has_gray16),
                    };
                }
            }
        }
        if is_complete {
            break;
        }
    }
    Ok(has_gray16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{FileDataset, InMemoryDataset};
    use std::fs;

    fn check(dataset: &dyn Dataset, rank: usize, world: usize) -> Vec<(usize, BadImage)> {
        let part = HeaderCheckPart { rank, world, threads: 3 };
        let mut last = None;
        let found = check_headers(dataset, part, &mut |progress| {
            last = Some(*progress);
            Ok(())
        });
        let last = last.expect("progress is reported");
        assert_eq!(last.checked, last.total);
        found.expect("no other error").bad
    }

    /// 300 small PNG files, three of them damaged.
    fn dataset(folder: &std::path::Path) -> FileDataset {
        let good = crate::data::export::png_bytes(&Image { size: [2, 3, 3], pixels: vec![9; 18] });
        let mut paths = crate::data::paths::PathList::default();
        for index in 0..300 {
            let name = format!("{index}.png");
            let bytes: &[u8] = match index {
                7 => b"",
                150 => b"<html>no image</html>",
                299 => &good[..20],
                _ => &good,
            };
            fs::write(folder.join(&name), bytes).expect("writes");
            paths.push(&name);
        }
        FileDataset::new(folder, paths, vec![0; 300], vec!["a".to_string()].into())
    }

    #[test]
    fn bad_headers_are_found_and_each_rank_checks_its_part() {
        let folder = tempfile::tempdir().expect("a folder");
        let dataset = dataset(folder.path());
        assert!(has_image_files(&dataset));
        let found = check(&dataset, 0, 1);
        let whys: Vec<(usize, &str)> = found.iter().map(|(index, bad)| (*index, bad.why.as_str())).collect();
        assert_eq!(whys[0], (7, "the file is empty"));
        assert!(whys[1].0 == 150 && whys[1].1.contains("not a PNG"), "{whys:?}");
        assert_eq!(whys[2], (299, "the PNG is truncated"));
        let mut of_ranks: Vec<usize> =
            (0..4).flat_map(|rank| check(&dataset, rank, 4)).map(|(index, _)| index).collect();
        of_ranks.sort_unstable();
        assert_eq!(of_ranks, [7, 150, 299]);
        fs::remove_file(folder.path().join("11.png")).expect("removes");
        assert_eq!(check(&dataset, 0, 1)[1].1.why, "no such file");
    }

    #[test]
    fn error_of_progress_ends_the_check_and_decoded_images_have_no_headers() {
        let folder = tempfile::tempdir().expect("a folder");
        let part = HeaderCheckPart { rank: 0, world: 1, threads: 1 };
        let error = check_headers(&dataset(folder.path()), part, &mut |_| Err(Error::usage("enough")));
        assert_eq!(error.expect_err("ends").what(), "enough");
        let classes = vec!["a".to_string()].into();
        let decoded =
            InMemoryDataset::uniform(vec![0; 4], [1, 1, 1], vec![0; 4], classes, "a").expect("valid");
        assert!(!has_image_files(&decoded));
    }
}
