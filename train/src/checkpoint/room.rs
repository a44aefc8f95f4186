//! Room for a new checkpoint on a full disk.
use super::files::{self, CheckpointName};
use super::space::{file_size_by_id, free_bytes};
use std::collections::BTreeMap;
use std::path::Path;

/// Removes the least important checkpoint of a folder whose space becomes free, for a new one of `bytes` bytes: recovery checkpoints, the
/// oldest first; then ranked ones, the last of `ranked` first; then `last` if `best` exists, which holds a complete state. Returns the removed
/// names, which are links of one file; empty if the removal of all of them would not be enough.
pub fn make_room(folder: &Path, ranked: &[u32], bytes: u64) -> Vec<CheckpointName> {
    let mut links: BTreeMap<u64, (u64, Vec<CheckpointName>)> = BTreeMap::new();
    for name in files::list(folder) {
        if let Some((id, size)) = file_size_by_id(&name.path(folder)) {
            links.entry(id).or_insert((size, vec![])).1.push(name);
        }
    }
    let has_best = links.values().any(|(_, names)| names.contains(&CheckpointName::Best));
    links.retain(|_, (_, names)| {
        let is_needed =
            names.contains(&CheckpointName::Best) || names.contains(&CheckpointName::Last) && !has_best;
        !is_needed
    });
    let removable: u64 = links.values().map(|(size, _)| size).sum();
    if removable.saturating_add(free_bytes(folder).unwrap_or(0)) < bytes {
        return vec![];
    }
    let names = links.into_values().map(|(_, names)| names);
    let chosen = names.min_by_key(|names| names.iter().map(|name| importance(*name, ranked)).max());
    let chosen = chosen.unwrap_or_default();
    chosen.into_iter().filter(|name| std::fs::remove_file(name.path(folder)).is_ok()).collect()
}

/// Order of removal; the most important is the greatest.
fn importance(name: CheckpointName, ranked: &[u32]) -> (u8, usize, usize) {
    match name {
        CheckpointName::Recovery(epoch, batch) => (0, epoch as usize, batch),
        CheckpointName::Ranked(epoch) => {
            let rank = ranked.iter().position(|other| *other == epoch).unwrap_or(usize::MAX);
            (1, usize::MAX - rank, 0)
        }
        CheckpointName::Last => (2, 0, 0),
        CheckpointName::Best => (3, 0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::CheckpointName::{Best, Last, Ranked, Recovery};
    use super::*;
    use std::fs;

    #[test]
    fn least_important_checkpoints_are_removed_first_and_best_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: CheckpointName| name.path(folder.path());
        for name in [Best, Last, Ranked(1), Ranked(4), Recovery(5, 3), Recovery(5, 7)] {
            fs::write(path(name), [0; 100]).expect("writes");
        }
        // The space of these is not freed before that of the other link.
        fs::hard_link(path(Best), path(Ranked(2))).expect("links");
        fs::hard_link(path(Last), path(Ranked(3))).expect("links");
        let remove = |bytes| make_room(folder.path(), &[2, 4, 1, 3], bytes);
        assert_eq!(remove(u64::MAX), [], "the removal of all would not be enough");
        assert_eq!(remove(100), [Recovery(5, 3)]);
        assert_eq!(remove(100), [Recovery(5, 7)]);
        assert_eq!(remove(100), [Ranked(1)]);
        assert_eq!(remove(100), [Ranked(4)]);
        assert_eq!(remove(100), [Last, Ranked(3)]);
        assert_eq!(remove(100), []);
        assert_eq!(files::list(folder.path()), [Best, Ranked(2)]);
    }

    #[test]
    fn last_is_kept_without_best() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(Last.path(folder.path()), [0; 100]).expect("writes");
        assert_eq!(make_room(folder.path(), &[], 100), []);
    }
}
