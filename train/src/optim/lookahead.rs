//! Lookahead (Zhang et al., "Lookahead optimizer: k steps forward, 1 step back", 2019) around any optimizer: every k updates
//! `slow += alpha * (fast - slow); fast = slow`. As in timm, the slow weights are created at the first synchronisation, which therefore
//! changes nothing.
use super::terms::RuleBuilder;
use fornax_engine::fuse::{Formula, NextState};

/// Names of Lookahead's state: the slow weights of each parameter, and whether they exist.
pub(super) const SLOW: &str = "lookahead_slow_buff";
pub(super) const READY: &str = "lookahead_ready";

/// Updates between synchronisations.
const K: f64 = 6.0;

/// Step size of the slow weights.
pub(super) const ALPHA: f64 = 0.5;

pub(super) fn lookahead(builder: RuleBuilder) -> RuleBuilder {
    let RuleBuilder { name, mut state_spec, formula, hessian, orthogonalization, .. } = builder;
    let (slow, ready) = (state_spec.moments.len(), state_spec.shared_scalars.len());
    state_spec.moments.push((SLOW, 0.0));
    state_spec.shared_scalars.push((READY, 0.0));
    RuleBuilder {
        name,
        state_spec,
        formula: Box::new(move |f| wrap(f, formula(f), slow, ready)),
        hessian,
        orthogonalization,
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
