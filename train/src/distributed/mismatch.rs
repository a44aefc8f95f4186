//! Differences among ranks that must be equal: number of ranks, rank, program and options.
use super::rendezvous::Hello;
use crate::Error;
use serde_json::{Map, Value};

/// Difference that ends all ranks.
pub(super) struct Mismatch {
    pub what: String,
    pub why: String,
}

impl Mismatch {
    /// The difference between rank 0 and another rank, if there is one.
    pub fn find(own: &Hello, other: &Hello, members: &[Option<Hello>]) -> Option<Mismatch> {
        let Hello { rank, host, .. } = other;
        let differ = |what: &str, of_own: String, of_other: String| {
            let why = format!("rank 0 on {}: {of_own}\nrank {rank} on {host}: {of_other}", own.host);
            Some(Mismatch { what: format!("the ranks differ in {what}"), why })
        };
        if own.world_size != other.world_size {
            return differ(
                "the number of processes",
                own.world_size.to_string(),
                other.world_size.to_string(),
            );
        }
        match members.get(*rank) {
            None => {
                let why = format!("rank {rank} on {host} is outside of a group of {}", own.world_size);
                return Some(Mismatch { what: "a rank does not exist".into(), why });
            }
            Some(Some(first)) => {
                let why = format!("rank {rank} runs on {} and on {host}", first.host);
                return Some(Mismatch { what: "two processes have the same rank".into(), why });
            }
            Some(None) => {}
        }
        if own.program != other.program {
            return differ(
                "the program",
                format!("SHA-256 {}…", own.program),
                format!("SHA-256 {}…", other.program),
            );
        }
        let text = |settings: &Map<String, Value>, key: &str| {
            settings.get(key).map_or("unset".to_string(), ToString::to_string)
        };
        let keys = own.settings.keys().chain(other.settings.keys());
        let mut different: Vec<&String> =
            keys.filter(|key| own.settings.get(*key) != other.settings.get(*key)).collect();
        different.sort_unstable();
        different.dedup();
        if different.is_empty() {
            return None;
        }
        let list = |settings: &Map<String, Value>| {
            let flags =
                different.iter().map(|key| format!("--{} {}", key.replace('_', "-"), text(settings, key)));
            flags.collect::<Vec<_>>().join(", ")
        };
        differ("their options", list(&own.settings), list(&other.settings))
    }
}

/// Error about a difference.
pub(super) fn mismatch_error(what: &str, why: &str) -> Error {
    Error::usage(what).because(why).remedy("start every rank with the same program, options and files")
}
