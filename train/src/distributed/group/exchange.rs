//! Exchanges of values among all ranks: rank 0 collects a value of every rank and sends all of them to every rank.
use super::ProcessGroup;
use super::connections::{ALL_VALUES, Shared, VALUE};
use crate::error::ErrorKind;
use crate::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Instant;

/// Factor by which an operation waits longer for a rank that sends heartbeats than for a silent one: it may measure convolutions, download
/// weights or write a checkpoint.
pub(super) const BUSY_FACTOR: u32 = 5;
/// Most exchanges that are not finished.
const MAX_EXCHANGES: usize = 1024;

/// Exchange of values that may not be finished.
#[must_use = "every rank must finish the exchange"]
pub struct PendingValues {
    number: u64,
    what: &'static str,
}

impl ProcessGroup {
    /// The values that every rank passes, by rank. `what` names the exchange; all ranks make the same exchanges in the same order.
    pub fn all_gather(&self, what: &'static str, value: &[u8]) -> Result<Vec<Vec<u8>>> {
        let pending = self.start_all_gather(what, value)?;
        self.finish_all_gather(pending)
    }

    /// The values of all ranks, by rank, exchanged as JSON.
    pub fn gather<T: Serialize + DeserializeOwned>(&self, what: &'static str, own: &T) -> Result<Vec<T>> {
        let own = serde_json::to_vec(own).expect("plain values have a JSON form");
        let parsed = self.all_gather(what, &own)?.into_iter().map(|bytes| {
            serde_json::from_slice(&bytes).map_err(|e| {
                Error::new(ErrorKind::Peer, format!("{what} of another rank cannot be read")).because(e)
            })
        });
        parsed.collect()
    }

    /// Starts an exchange of values.
    pub fn start_all_gather(&self, what: &'static str, value: &[u8]) -> Result<PendingValues> {
        self.check()?;
        let number = {
            let mut next = self.next.lock().unwrap_or_else(|e| e.into_inner());
            *next += 1;
            *next
        };
        let mut payload = number.to_le_bytes().to_vec();
        payload.extend((what.len() as u32).to_le_bytes());
        payload.extend(what.as_bytes());
        payload.extend(value);
        if self.rank() == 0 {
            self.shared.collect(0, &payload);
        } else {
            self.shared.send(0, VALUE, &payload);
        }
        Ok(PendingValues { number, what })
    }

    /// Waits for the values of all ranks.
    pub fn finish_all_gather(&self, pending: PendingValues) -> Result<Vec<Vec<u8>>> {
        let PendingValues { number, what } = pending;
        let deadline = Instant::now() + self.operation_timeout();
        let mut state = self.shared.state();
        loop {
            if let Some(values) = state.gathered.remove(&number) {
                return Ok(values);
            }
            if state.failure.is_some() {
                drop(state);
                return Err(self.failure_error());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let missing = state.collected.get(&number).map_or(vec![], |values| {
                    (0..values.len()).filter(|rank| values[*rank].is_none()).collect::<Vec<_>>()
                });
                drop(state);
                let late = match missing.first() {
                    Some(rank) => self.describe(*rank),
                    None => self.describe(0),
                };
                let seconds = self.operation_timeout().as_secs_f64();
                self.fail(&format!("{late} did not join the exchange of {what} within {seconds} s"));
                return Err(self.failure_error());
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(|e| e.into_inner()).0;
        }
    }

    /// The value of rank 0. Other ranks pass `None`.
    pub fn broadcast(&self, what: &'static str, value: Option<&[u8]>) -> Result<Vec<u8>> {
        let mut values = self.all_gather(what, value.unwrap_or_default())?;
        Ok(values.swap_remove(0))
    }

    /// Errors on every rank with the differences if a text differs among ranks.
    pub fn check_equal(&self, what: &'static str, text: &str) -> Result<()> {
        let values = self.all_gather(what, text.as_bytes())?;
        let texts: Vec<String> = values.iter().map(|v| String::from_utf8_lossy(v).into_owned()).collect();
        let Some(other) = texts.iter().position(|text| *text != texts[0]) else { return Ok(()) };
        Err(Error::usage(format!("the ranks differ in {what}"))
            .because(format!(
                "{}: {}\n{}: {}",
                self.describe(0),
                texts[0],
                self.describe(other),
                texts[other]
            ))
            .remedy("start every rank with the same program, options and files"))
    }

    /// Waits until every rank calls it.
    pub fn barrier(&self) -> Result<()> {
        self.all_gather("barrier", &[]).map(drop)
    }
}

impl Shared {
    /// On rank 0: adds a rank's value to an exchange, and sends the values when it is complete.
    pub fn collect(&self, from: usize, payload: &[u8]) {
        let world = self.members.len();
        let Some((number, value)) = split_number(payload) else { return };
        let mut state = self.state();
        let values = state.collected.entry(number).or_insert_with(|| vec![None; world]);
        values[from] = Some(value.to_vec());
        if values.iter().any(Option::is_none) {
            if state.collected.len() > MAX_EXCHANGES {
                drop(state);
                self.fail(format!("{} takes part in too many exchanges", self.describe(from)));
            }
            return;
        }
        let values: Vec<Vec<u8>> =
            state.collected.remove(&number).into_iter().flatten().map(Option::unwrap_or_default).collect();
        let named: Vec<Option<(&str, &[u8])>> = values.iter().map(|value| split_name(value)).collect();
        let names: Vec<&str> = named.iter().map(|named| named.map_or("", |(name, _)| name)).collect();
        if let Some(other) = names.iter().position(|name| *name != names[0]) {
            let why = format!(
                "{} exchanges {:?}, {} exchanges {:?}: the ranks do not run the same program",
                self.describe(0),
                names[0],
                self.describe(other),
                names[other]
            );
            drop(state);
            return self.fail(why);
        }
        let values: Vec<Vec<u8>> =
            named.into_iter().map(|named| named.map_or(vec![], |(_, value)| value.to_vec())).collect();
        let mut message = number.to_le_bytes().to_vec();
        for value in &values {
            message.extend((value.len() as u64).to_le_bytes());
            message.extend(value);
        }
        drop(state);
        let _relay = self.relay.lock().unwrap_or_else(|e| e.into_inner());
        self.writers.iter().for_each(|(rank, _)| self.send(*rank, ALL_VALUES, &message));
        self.state().gathered.insert(number, values);
        self.changed.notify_all();
    }

    /// Stores the values of a finished exchange, which rank 0 sends.
    pub fn store(&self, payload: &[u8]) {
        let values = split_values(payload).filter(|(_, values)| values.len() == self.members.len());
        let mut state = self.state();
        match values {
            Some((number, values)) if state.gathered.len() < MAX_EXCHANGES => {
                state.gathered.insert(number, values);
                self.changed.notify_all();
            }
            _ => {
                drop(state);
                self.fail(format!("{} sent values that are damaged", self.describe(0)));
            }
        }
    }
}

/// Number of an exchange and the values of all ranks.
fn split_values(payload: &[u8]) -> Option<(u64, Vec<Vec<u8>>)> {
    let (number, mut rest) = split_number(payload)?;
    let mut values = vec![];
    while !rest.is_empty() {
        let (length, after) = split_number(rest)?;
        let (value, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
        values.push(value.to_vec());
        rest = after;
    }
    Some((number, values))
}

fn split_number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), rest))
}

/// Name and value of a payload of [`ProcessGroup::start_all_gather`].
fn split_name(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (name, value) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some((std::str::from_utf8(name).ok()?, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_values_are_rejected() {
        let mut payload = 7u64.to_le_bytes().to_vec();
        for value in [&b"abc"[..], b"", b"de"] {
            payload.extend((value.len() as u64).to_le_bytes());
            payload.extend(value);
        }
        let values = vec![b"abc".to_vec(), vec![], b"de".to_vec()];
        assert_eq!(split_values(&payload), Some((7, values)));
        for length in 0..payload.len() {
            let values = split_values(&payload[..length]).map_or(0, |(_, values)| values.len());
            assert!(values < 3, "{length} bytes");
        }
        payload[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(split_values(&payload), None);
    }

    #[test]
    fn damaged_names_are_rejected() {
        assert_eq!(split_name(b"\x02\0\0\0abc"), Some(("ab", &b"c"[..])));
        for damaged in [&b""[..], b"\x02\0\0", b"\x04\0\0\0abc", b"\xff\xff\xff\xffabc", b"\x01\0\0\0\xff"] {
            assert_eq!(split_name(damaged), None, "{damaged:?}");
        }
    }
}
