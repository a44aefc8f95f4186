//! Convolution plans of the ranks. Each rank times its own, and the fastest one may differ from rank to rank and from run to run, with the
//! last bits of the results; so the ranks use the same, which the checkpoint contains.
use super::DistributedRun;
use crate::checkpoint::ConvPlans;
use crate::error::ErrorKind;
use crate::{Error, Result};
use fornax_engine::{Device, cuda};

impl DistributedRun {
    /// Makes the ranks with the same GPU model and version of cuDNN use the same convolution plans: for each problem the choice of the lowest
    /// of these ranks that has one. From then on no rank times plans of its own: a shape that only one rank has, because images of its
    /// batch were skipped, gets the plans of the heuristics. The ranks must not have captured updates yet.
    pub fn share_conv_plans(&self) -> Result<()> {
        let own = ConvPlans::of_device(&self.device)?;
        let bytes = serde_json::to_vec(&own).expect("plain values have a JSON form");
        let all = self.group.all_gather("the convolution plans", &bytes)?;
        if self.device != Device::Cpu {
            cuda::use_stored_conv_plans(&self.device)?;
        }
        let Some(own) = own else { return Ok(()) };
        let read = |(rank, bytes): (usize, &Vec<u8>)| {
            serde_json::from_slice(bytes).map_err(|e| {
                let what = format!("the convolution plans of {} cannot be read", self.group.describe(rank));
                Error::new(ErrorKind::Peer, what).because(e)
            })
        };
        let all = all.iter().enumerate().map(read).collect::<Result<Vec<_>>>()?;
        cuda::restore_conv_plans(&self.device, &shared(own, all).into())?;
        Ok(())
    }
}

/// A rank's plans, completed and replaced by those of all ranks with the same GPU model and version of cuDNN; the lowest rank wins.
fn shared(own: ConvPlans, ranks: Vec<Option<ConvPlans>>) -> ConvPlans {
    let mut shared = own;
    for plans in ranks.into_iter().rev().flatten() {
        if (&plans.gpu, plans.cudnn) == (&shared.gpu, shared.cudnn) {
            shared.choices.extend(plans.choices);
        }
    }
    shared
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plans(gpu: &str, choices: &[(&str, &str)]) -> ConvPlans {
        let choices = choices.iter().map(|(problem, plan)| (problem.to_string(), plan.to_string())).collect();
        ConvPlans { gpu: gpu.into(), cudnn: 92000, choices }
    }

    #[test]
    fn lowest_rank_with_the_same_gpu_wins() {
        let ranks = || {
            vec![
                Some(plans("A", &[("stem", "1")])),
                None,
                Some(plans("B", &[("stem", "2"), ("head", "2")])),
                Some(plans("A", &[("stem", "3"), ("head", "3")])),
                Some(plans("B", &[("stem", "4"), ("tail", "4")])),
            ]
        };
        let of_rank = |rank: usize| shared(ranks().swap_remove(rank).expect("plans"), ranks());
        for rank in [0, 3] {
            assert_eq!(of_rank(rank), plans("A", &[("stem", "1"), ("head", "3")]));
        }
        for rank in [2, 4] {
            assert_eq!(of_rank(rank), plans("B", &[("stem", "2"), ("head", "2"), ("tail", "4")]));
        }
    }
}
