//! Gradient checkpointing.
use super::{
    Derivative, Gradients, Saved, Saves, gradients, is_grad_enabled, no_grad, track, with_grad_enabled,
};
use crate::{Result, Tensor};

/// `f(x)` with gradient checkpointing: only x is saved, and the backward pass recomputes `f` (Chen et al., "Training deep nets with
/// sublinear memory cost", 2016). `parameters` are the variables that `f` reads; they receive gradients as usual. `f` must be
/// deterministic. Its second argument is true when it is recomputed, so that running statistics are updated only once.
pub fn checkpoint<F>(x: &Tensor, parameters: &[Tensor], f: F) -> Result<Tensor>
where
    F: Fn(&Tensor, bool) -> Result<Tensor> + Send + Sync + 'static,
{
    let y = no_grad(|| f(&x.detach(), false))?;
    let operands: Vec<&Tensor> = [x].into_iter().chain(parameters).collect();
    Ok(track("checkpoint", &operands, vec![y], Checkpoint(f)).swap_remove(0))
}

/// Derivative by the recomputed function of x and parameters.
struct Checkpoint<F>(F);

impl<F> Derivative for Checkpoint<F>
where
    F: Fn(&Tensor, bool) -> Result<Tensor> + Send + Sync + 'static,
{
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::all_operands()
    }

    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        let (x, create_graph) = (saved.operand(0), is_grad_enabled());
        let x = match (needs[0], create_graph) {
            (true, true) => x.reshape(*x.shape())?,
            (true, false) => x.detach().variable(),
            (false, _) => x.detach(),
        };
        let y = with_grad_enabled(true, || (self.0)(&x, true))?;
        let all = (0..needs.len()).map(|i| if i == 0 { &x } else { saved.operand(i) }).zip(needs);
        let wanted: Vec<&Tensor> = all.filter_map(|(t, need)| need.then_some(t)).collect();
        let mut grads = gradients(&[(&y, &dy)], &wanted, create_graph)?.into_iter();
        Ok(needs.iter().map(|need| if *need { grads.next().flatten() } else { None }).collect())
    }
}
