//! `metrics.jsonl`: one event per line: `update`, `epoch`, `start` and `end` of each process, and `options` of a resumed run that has
//! changed.
//!
//! After a return to a checkpoint (`--on-nonfinite rollback`) update numbers repeat. The line `{"event":"rollback", …}` between them undoes
//! the lines before it whose `update` is larger than its own, or whose epoch had not ended.
use crate::Result;
use crate::callbacks::Rollback;
use crate::checkpoint::durable;
use crate::experiment::OptionChange;
use crate::run_files::regular;
use crate::trainer::TrainerState;
use serde_json::{Value, json};
use std::path::Path;

/// Event of a return to a checkpoint: `epoch` and `update` are those of the checkpoint.
pub fn rollback_event(rollback: &Rollback) -> Value {
    let Rollback { reason, from_update, left_out: (epoch, batch), state } = *rollback;
    json!({
        "event": "rollback",
        "reason": reason,
        "from_update": from_update,
        "epoch": state.epoch,
        "update": state.update,
        "left_out": { "epoch": epoch, "batch": batch },
    })
}

/// Event of options that differ from the checkpoint's, in the state that a run resumes from.
pub fn options_event(changes: &[OptionChange], state: &TrainerState) -> Value {
    json!({ "event": "options", "epoch": state.epoch, "update": state.update, "changed": changes })
}

/// Events of the updates and epochs in effect, without the events that a rollback undid.
pub fn events(text: &str) -> Vec<Value> {
    let mut events: Vec<Value> = vec![];
    for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        match (is_rollback(&event), event["update"].as_u64(), event["epoch"].as_u64()) {
            (true, Some(update), Some(epoch)) => events.retain(|event| is_before(event, epoch, update)),
            _ => events.push(event),
        }
    }
    events
}

/// Removes events that an interrupted run logged after the state that it resumes from.
pub fn truncate(path: &Path, state: &TrainerState) -> Result<()> {
    let Ok(text) = regular::read_to_string(path) else { return Ok(()) };
    // The state has seen this many of the rollbacks; events before them are history, those after later ones never happened.
    let seen = state.nonfinite.left_out.len();
    let mut rollbacks = 0;
    let mut kept = String::new();
    let total = text.lines().filter(|line| parsed(line).is_some_and(|event| is_rollback(&event))).count();
    for line in text.lines() {
        let Some(event) = parsed(line) else { continue };
        let is_kept = match is_rollback(&event) {
            true => {
                rollbacks += 1;
                rollbacks <= seen
            }
            false if rollbacks < seen.min(total) => true,
            false if is_of_process(&event) => true,
            false => rollbacks <= seen && is_before(&event, u64::from(state.epoch), state.update),
        };
        if is_kept {
            kept += line;
            kept.push('\n');
        }
    }
    if kept == text { Ok(()) } else { durable::write(path, kept.as_bytes()) }
}

fn parsed(line: &str) -> Option<Value> {
    serde_json::from_str(line).ok()
}

/// True for an event of a process of the run, which remains if the process is resumed from an earlier state.
fn is_of_process(event: &Value) -> bool {
    ["start", "options", "end"].iter().any(|name| event["event"] == *name)
}

fn is_rollback(event: &Value) -> bool {
    event["event"] == "rollback"
}

/// True if an update or an epoch is finished in a state of this epoch and update. Events of processes remain in any case, and so do updates
/// of finished epochs: a resumed run with other epochs counts its updates anew.
fn is_before(event: &Value, epoch: u64, update: u64) -> bool {
    match event["event"].as_str() {
        _ if is_of_process(event) => true,
        Some("update") if event["epoch"].as_u64().is_some_and(|of| of < epoch) => true,
        Some("update") => event["update"].as_u64() <= Some(update),
        _ => event["epoch"].as_u64() < Some(epoch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::NonfiniteRecord;
    use std::fs;

    fn update(epoch: u32, update: u64) -> String {
        format!("{{\"event\":\"update\",\"epoch\":{epoch},\"update\":{update}}}\n")
    }

    fn epoch(epoch: u32) -> String {
        format!("{{\"event\":\"epoch\",\"epoch\":{epoch}}}\n")
    }

    /// A return from update 10 to the end of epoch 0, at update 5.
    fn rollback() -> String {
        let state = TrainerState { epoch: 1, update: 5, ..TrainerState::default() };
        let event = Rollback { reason: "NaN", from_update: 10, left_out: (1, 5), state: &state };
        format!("{}\n", rollback_event(&event))
    }

    fn truncated(text: &str, state: &TrainerState) -> String {
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path().join("metrics.jsonl");
        fs::write(&path, text).expect("writes");
        truncate(&path, state).expect("writes");
        fs::read_to_string(&path).expect("reads")
    }

    #[test]
    fn events_after_the_state_are_removed() {
        let kept = [update(0, 5), epoch(0), update(1, 8)].concat();
        let lost = [update(1, 9), epoch(1), "{\"ev".into()].concat();
        let state = TrainerState { epoch: 1, batch: 3, update: 8, ..TrainerState::default() };
        assert_eq!(truncated(&format!("{kept}{lost}"), &state), kept);
    }

    #[test]
    fn updates_of_finished_epochs_remain_if_a_resumed_run_counts_anew() {
        let kept = [update(0, 5), epoch(0), "{\"event\":\"options\"}\n".into()].concat();
        let state = TrainerState { epoch: 1, update: 2, ..TrainerState::default() };
        assert_eq!(truncated(&format!("{kept}{}", update(1, 6)), &state), kept);
    }

    #[test]
    fn events_before_a_rollback_stay_if_the_state_is_later() {
        let before = [update(0, 5), epoch(0), update(1, 9)].concat();
        let text = [before.clone(), rollback(), update(1, 7), update(1, 9)].concat();
        let left_out =
            |count| NonfiniteRecord { left_out: vec![(1, 5); count], ..NonfiniteRecord::default() };
        let state = |update, count| TrainerState {
            epoch: 1,
            update,
            nonfinite: left_out(count),
            ..TrainerState::default()
        };
        assert_eq!(truncated(&text, &state(7, 1)), [before, rollback(), update(1, 7)].concat());
        // A checkpoint from before the rollback.
        assert_eq!(truncated(&text, &state(5, 0)), [update(0, 5), epoch(0)].concat());
    }

    #[test]
    fn undone_events_are_not_in_effect() {
        let text =
            [update(0, 5), epoch(0), update(1, 9), epoch(1), rollback(), update(1, 7), epoch(1)].concat();
        let names: Vec<(String, u64)> = events(&text)
            .iter()
            .map(|event| {
                (event["event"].as_str().expect("a name").into(), event["epoch"].as_u64().expect("an epoch"))
            })
            .collect();
        let expected = [("update", 0), ("epoch", 0), ("update", 1), ("epoch", 1)];
        assert_eq!(names, expected.map(|(name, epoch)| (name.to_string(), epoch)));
        assert_eq!(events(&text)[2]["update"], 7);
    }
}
