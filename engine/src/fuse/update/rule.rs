//! Update rules of optimizers: a formula with the names and initial values of its state. `ops/optimizer/cpu` runs its stages, `source`
//! generates their CUDA kernels.
use super::formula::{Formula, MAX_MOMENTS, MAX_SHARED_SCALARS, NextState, Symbol};
use super::source::{self, UpdateKernel, UpdateProgram};
use super::stage::{Stage, divide};
use std::fmt;
use std::sync::{Arc, OnceLock};

/// Optimizer state of a rule, with the names used in checkpoints.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptimizerStateSpec {
    /// Names and initial values of the moments, which have the parameter's shape.
    pub moments: Vec<(&'static str, f32)>,
    /// Names and initial values of the scalars shared by all parameters.
    pub shared_scalars: Vec<(&'static str, f32)>,
    /// Name of the scalar state of each parameter.
    pub param_scalar: Option<&'static str>,
    /// Factoring of the second moment of large parameters, which then lack the first entry of `moments`.
    pub factored: Option<Factoring>,
}

/// Factored second moment (Shazeer and Stern, "Adafactor", 2018): running means of `g^2 + eps` over the last axis and over the first axis.
/// The second moment is approximated by their product divided by the mean over both axes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factoring {
    /// The weight of new squares in update t is `t^decay_rate`.
    pub decay_rate: f64,
    /// Added to the squares.
    pub eps: f64,
    /// Only parameters with both axes longer than this are factored.
    pub min_dim_size_to_factor: usize,
}

/// Most positions between first and last axis (the window of a convolution) that the CUDA kernels support.
const MAX_MEANS: usize = 64;

impl Factoring {
    /// Extents of the first axis, of the axes in between, and of the last axis, if the shape is factored: matrices `[a, c]`, tokens
    /// `[1, a, c]` and convolution weights `[a, h, w, c]`.
    pub fn axes(&self, dims: &[usize]) -> Option<[usize; 3]> {
        let axes = match *dims {
            [a, c] | [1, a, c] => [a, 1, c],
            [a, h, w, c] => [a, h * w, c],
            _ => return None,
        };
        (axes[0] > self.min_dim_size_to_factor
            && axes[2] > self.min_dim_size_to_factor
            && axes[1] <= MAX_MEANS)
            .then_some(axes)
    }
}

/// Dedicated CPU loop for a formula. It is used unless gradients are clipped by value or by AGC.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CpuLoop {
    /// `g += weight_decay p`, `b = momentum b + g`, `p -= lr b`, or `p -= lr (g + momentum b)` with `nesterov`. State: b.
    Sgd {
        /// Momentum factor.
        momentum: f64,
        /// Nesterov momentum.
        nesterov: bool,
    },
    /// Adam with decoupled weight decay. State: both moments.
    AdamW {
        /// Decay rates of both moments.
        betas: [f64; 2],
        /// Added to the denominator.
        eps: f64,
    },
}

/// Update rule of an optimizer. Cloning copies the handle.
#[derive(Clone)]
pub struct UpdateRule(Arc<Inner>);

struct Inner {
    program: UpdateProgram,
    state_spec: OptimizerStateSpec,
    reads_norm: bool,
    cpu_loop: Option<CpuLoop>,
    kernels: OnceLock<Vec<UpdateKernel>>,
}

impl UpdateRule {
    /// Builds a rule from a formula.
    ///
    /// # Panics
    /// If the formula's results do not match the state specification, or the state is too large.
    pub fn new(
        name: &'static str,
        state_spec: OptimizerStateSpec,
        f: impl for<'g> FnOnce(&'g Formula) -> NextState<'g>,
    ) -> UpdateRule {
        let formula = Formula::default();
        let next = f(&formula);
        assert_eq!(next.moments.len(), state_spec.moments.len(), "{name}: one value per moment");
        assert_eq!(
            next.shared_scalars.len(),
            state_spec.shared_scalars.len(),
            "{name}: one value per shared scalar"
        );
        assert_eq!(
            next.param_scalar.is_some(),
            state_spec.param_scalar.is_some(),
            "{name}: a parameter scalar needs a value"
        );
        assert!(
            state_spec.moments.len() <= MAX_MOMENTS && state_spec.shared_scalars.len() <= MAX_SHARED_SCALARS,
            "{name}: at most {MAX_MOMENTS} moments and {MAX_SHARED_SCALARS} shared scalars"
        );
        let reads_norm = formula.symbols.borrow().contains(&Symbol::GradNorm);
        let stages = divide(&formula, &next);
        let (sums, row_sums) = (formula.sums.borrow().len(), formula.row_sums.borrow().len());
        UpdateRule(Arc::new(Inner {
            program: UpdateProgram {
                name,
                stages,
                sums,
                row_sums,
                moments: state_spec.moments.len(),
                shared_scalars: state_spec.shared_scalars.len(),
                is_factored: state_spec.factored.is_some(),
            },
            state_spec,
            reads_norm,
            cpu_loop: None,
            kernels: OnceLock::new(),
        }))
    }

    /// Sets a dedicated loop for the CPU.
    ///
    /// # Panics
    /// If the rule was cloned before.
    pub fn with_cpu_loop(mut self, cpu_loop: CpuLoop) -> UpdateRule {
        Arc::get_mut(&mut self.0).expect("a new rule").cpu_loop = Some(cpu_loop);
        self
    }

    pub(crate) fn cpu_loop(&self) -> Option<CpuLoop> {
        self.0.cpu_loop
    }

    /// Name of the rule.
    pub fn name(&self) -> &'static str {
        self.0.program.name
    }

    /// Optimizer state of the rule.
    pub fn state_spec(&self) -> &OptimizerStateSpec {
        &self.0.state_spec
    }

    /// Names of the rule's CUDA kernels, in launch order.
    pub fn kernels(&self) -> Vec<&str> {
        self.sources().iter().map(|source| source.kernel.as_str()).collect()
    }

    /// CUDA source of each kernel of the rule.
    pub fn cuda_sources(&self) -> Vec<&str> {
        self.sources().iter().map(|source| source.text.as_str()).collect()
    }

    pub(crate) fn sources(&self) -> &[UpdateKernel] {
        self.0.kernels.get_or_init(|| source::sources(&self.0.program))
    }

    pub(crate) fn stages(&self) -> &[Stage] {
        &self.0.program.stages
    }

    /// Number of sums over a parameter.
    pub(crate) fn sums(&self) -> usize {
        self.0.program.sums
    }

    /// Number of sums over each row.
    pub(crate) fn row_sums(&self) -> usize {
        self.0.program.row_sums
    }

    /// True if the formula reads the norm of all gradients.
    pub(crate) fn reads_norm(&self) -> bool {
        self.0.reads_norm
    }
}

impl fmt::Debug for UpdateRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpdateRule")
            .field("name", &self.0.program.name)
            .field("state_spec", &self.0.state_spec)
            .finish()
    }
}
