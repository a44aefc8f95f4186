//! Lookahead (Zhang et al., "Lookahead optimizer: k steps forward, 1 step back", 2019) around any rule: every k updates the weights go back
//! to between slow copies of them and where they are. As in timm, slow copies are made at the first of these times, which then changes
//! nothing.
use super::terms::Draft;
use fornax_engine::fuse::{Formula, NextState};

/// What a rule keeps for lookahead: slow weights for each parameter, and whether there are any.
pub(super) const SLOW: &str = "lookahead_slow_buff";
pub(super) const READY: &str = "lookahead_ready";

/// Updates from one look to the next.
const K: f64 = 6.0;

/// How far slow weights go.
pub(super) const ALPHA: f64 = 0.5;

pub(super) fn lookahead(draft: Draft) -> Draft {
    let Draft { name, mut keeps, formula, curvature, .. } = draft;
    let (slow, ready) = (keeps.moments.len(), keeps.shared_scalars.len());
    keeps.moments.push((SLOW, 0.0));
    keeps.shared_scalars.push((READY, 0.0));
    Draft {
        name,
        keeps,
        formula: Box::new(move |f| wrap(f, formula(f), slow, ready)),
        curvature,
        cpu_loop: None,
    }
}

fn wrap<'g>(f: &'g Formula, mut next: NextState<'g>, slow: usize, ready: usize) -> NextState<'g> {
    let rounds = f.step() / K;
    let syncs = rounds.equal(rounds.floor());
    let start = f.shared_scalar(ready).select(f.moment(slow), next.weight);
    let between = start + ALPHA * (next.weight - start);
    next.weight = syncs.select(between, next.weight);
    next.moments.push(syncs.select(between, f.moment(slow)));
    next.shared_scalars.push(f.shared_scalar(ready).max(syncs));
    next
}
