//! Room for a new checkpoint on a full disk.
use super::files::{self, CheckpointName};
use super::space::{file_size_by_id, free_bytes};
use crate::weights::safetensors_header;
use std::collections::BTreeMap;
use std::path::Path;

/// Removes the least important checkpoint of a folder whose space becomes free, for a new one of `bytes` bytes: damaged ones; recovery
/// checkpoints before the newest checkpoint, the oldest first; then ranked ones, the last of `ranked` first; then an older `last`; then the
/// newest checkpoint if `best` exists, which holds a complete state. Returns the removed names, which are links of one file; empty if the
/// removal of all of them would not be enough.
pub fn make_room(folder: &Path, ranked: &[u32], bytes: u64) -> Vec<CheckpointName> {
    remove_least(folder, ranked, bytes, Importance::NewestBesidesBest, &progress)
}

/// As [`make_room`], for files of `bytes` bytes that are less important than `last` and the newest checkpoint.
pub fn make_room_for_reports(folder: &Path, ranked: &[u32], bytes: u64) -> Vec<CheckpointName> {
    remove_least(folder, ranked, bytes, Importance::Ranked(usize::MAX), &progress)
}

/// Finished epochs of a state, and finished batches of the next one.
type Progress = (u32, usize);

/// Links of one checkpoint file.
struct Linked {
    size: u64,
    names: Vec<CheckpointName>,
    /// `None` if the file is damaged.
    progress: Option<Progress>,
}

/// Order of removal; the most important is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Importance {
    Damaged,
    /// A recovery checkpoint that a newer checkpoint supersedes.
    Superseded(Option<Progress>),
    /// A ranked checkpoint, by the number of checkpoints that rank below.
    Ranked(usize),
    Last,
    NewestBesidesBest,
    Needed,
}

fn remove_least(
    folder: &Path,
    ranked: &[u32],
    bytes: u64,
    limit: Importance,
    progress: &dyn Fn(&Path) -> Option<Progress>,
) -> Vec<CheckpointName> {
    let mut links: BTreeMap<u64, Linked> = BTreeMap::new();
    for name in files::list(folder) {
        let path = name.path(folder);
        if let Some((id, size)) = file_size_by_id(&path) {
            let new = || Linked { size, names: vec![], progress: progress(&path) };
            links.entry(id).or_insert_with(new).names.push(name);
        }
    }
    let newest = links.values().filter_map(|linked| linked.progress).max();
    let has_best = links
        .values()
        .any(|linked| linked.progress.is_some() && linked.names.contains(&CheckpointName::Best));
    let removable = links.into_values().filter_map(|linked| {
        let importance = importance(&linked, ranked, newest, has_best);
        (importance <= limit).then_some((importance, linked))
    });
    let mut removable: Vec<(Importance, Linked)> = removable.collect();
    removable.sort_by_key(|(importance, _)| *importance);
    let total: u64 = removable.iter().map(|(_, linked)| linked.size).sum();
    if total.saturating_add(free_bytes(folder).unwrap_or(0)) < bytes {
        return vec![];
    }
    let chosen = removable.into_iter().next().map_or(vec![], |(_, linked)| linked.names);
    chosen.into_iter().filter(|name| std::fs::remove_file(name.path(folder)).is_ok()).collect()
}

fn importance(linked: &Linked, ranked: &[u32], newest: Option<Progress>, has_best: bool) -> Importance {
    if linked.progress.is_none() {
        return Importance::Damaged;
    }
    let is_newest = linked.progress == newest;
    let of_name = |name: &CheckpointName| match name {
        CheckpointName::Best => Importance::Needed,
        _ if is_newest && has_best => Importance::NewestBesidesBest,
        _ if is_newest => Importance::Needed,
        CheckpointName::Recovery(..) => Importance::Superseded(linked.progress),
        CheckpointName::Ranked(epoch) => {
            let rank = ranked.iter().position(|other| other == epoch);
            Importance::Ranked(rank.map_or(0, |rank| ranked.len() - rank))
        }
        CheckpointName::Last => Importance::Last,
    };
    linked.names.iter().map(of_name).max().unwrap_or(Importance::Damaged)
}

/// Progress of a checkpoint, from its header; `None` if it is damaged.
fn progress(path: &Path) -> Option<Progress> {
    let header = safetensors_header(path).ok()??;
    if header.file_length != std::fs::metadata(path).ok()?.len() {
        return None;
    }
    let state = super::header(&header.metadata).ok()??.state;
    Some((state.epoch, state.batch))
}

#[cfg(test)]
mod tests {
    use super::CheckpointName::{Best, Last, Ranked, Recovery};
    use super::*;
    use std::fs;

    /// Writes a file whose first two bytes are the epoch and the batch of its state.
    fn write(folder: &Path, name: CheckpointName, (epoch, batch): (u8, u8)) {
        fs::write(name.path(folder), [&[epoch, batch][..], &[0; 98]].concat()).expect("writes");
    }

    fn written_progress(path: &Path) -> Option<Progress> {
        match fs::read(path).ok()?[..] {
            [255, ..] => None,
            [epoch, batch, ..] => Some((epoch.into(), batch.into())),
            _ => None,
        }
    }

    fn remove(folder: &Path, bytes: u64) -> Vec<CheckpointName> {
        remove_least(folder, &[2, 4, 1, 3], bytes, Importance::NewestBesidesBest, &written_progress)
    }

    #[test]
    fn least_important_checkpoints_are_removed_first_and_best_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let all = [
            (Best, (3, 0)),
            (Last, (5, 0)),
            (Ranked(1), (2, 0)),
            (Ranked(4), (5, 0)),
            (Recovery(5, 3), (5, 4)),
            (Recovery(5, 7), (5, 8)),
            (Recovery(1, 7), (255, 0)),
        ];
        all.iter().for_each(|(name, progress)| write(folder, *name, *progress));
        // The space of these is not freed before the other link's.
        fs::hard_link(Best.path(folder), Ranked(2).path(folder)).expect("links");
        fs::hard_link(Last.path(folder), Ranked(3).path(folder)).expect("links");
        assert_eq!(remove(folder, u64::MAX), [], "the removal of all would not be enough");
        assert_eq!(remove(folder, 100), [Recovery(1, 7)], "it is damaged");
        assert_eq!(remove(folder, 100), [Recovery(5, 3)], "a newer one exists");
        let for_reports = |bytes| {
            remove_least(folder, &[2, 4, 1, 3], bytes, Importance::Ranked(usize::MAX), &written_progress)
        };
        assert_eq!(remove(folder, 100), [Ranked(1)]);
        assert_eq!(for_reports(100), [Ranked(4)]);
        assert_eq!(for_reports(100), [], "`last` and the newest are more important than reports");
        assert_eq!(remove(folder, 100), [Last, Ranked(3)]);
        assert_eq!(remove(folder, 100), [Recovery(5, 7)], "`best` holds a complete state");
        assert_eq!(remove(folder, 100), []);
        assert_eq!(files::list(folder), [Best, Ranked(2)]);
    }

    #[test]
    fn newest_is_kept_without_best() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        write(folder, Last, (0, 0));
        assert_eq!(remove(folder, 100), []);
        write(folder, Recovery(0, 2), (0, 3));
        write(folder, Recovery(0, 5), (0, 6));
        assert_eq!(remove(folder, 100), [Recovery(0, 2)]);
        assert_eq!(remove(folder, 100), [Last]);
        assert_eq!(remove(folder, 100), []);
        assert_eq!(files::list(folder), [Recovery(0, 5)]);
    }
}
