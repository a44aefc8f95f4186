//! Differences among ranks that must be equal: number of ranks, rank, program and options.
use super::super::wire::shown;
use super::Hello;
use crate::Error;
use crate::text::first_names;
use serde_json::{Map, Value};

/// Difference that ends all ranks.
pub struct Mismatch {
    pub what: String,
    pub why: String,
}

impl Mismatch {
    /// The difference between rank 0 and another rank, if there is one.
    pub fn find(own: &Hello, other: &Hello, members: &[Option<Hello>]) -> Option<Mismatch> {
        let (rank, host, own_host) = (other.rank, shown(&other.host), &own.host);
        let differ = |what: &str, of_own: String, of_other: String| {
            let why = format!("rank 0 on {own_host}: {of_own}\nrank {rank} on {host}: {of_other}");
            Some(Mismatch { what: format!("the ranks differ in {what}"), why })
        };
        if own.world_size != other.world_size {
            return differ(
                "the number of processes",
                own.world_size.to_string(),
                other.world_size.to_string(),
            );
        }
        match members.get(rank) {
            None => {
                let why = format!("rank {rank} on {host} is outside of a group of {}", own.world_size);
                return Some(Mismatch { what: "a rank does not exist".into(), why });
            }
            Some(Some(first)) => {
                let why = format!("rank {rank} runs on {} and on {host}", shown(&first.host));
                return Some(Mismatch { what: "two processes have the same rank".into(), why });
            }
            Some(None) => {}
        }
        if own.program != other.program {
            return differ(
                "the program",
                format!("SHA-256 {}…", own.program),
                format!("SHA-256 {}…", shown(&other.program)),
            );
        }
        let text = |settings: &Map<String, Value>, key: &str| {
            settings.get(key).map_or("unset".to_string(), |value| shown(&value.to_string()))
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
            let flags = different
                .iter()
                .map(|key| format!("--{} {}", shown(&key.replace('_', "-")), text(settings, key)));
            first_names(flags)
        };
        differ("their options", list(&own.settings), list(&other.settings))
    }
}

/// Error about a difference.
pub fn mismatch_error(what: &str, why: &str) -> Error {
    Error::usage(what).because(why).remedy("start every rank with the same program, options and files")
}
