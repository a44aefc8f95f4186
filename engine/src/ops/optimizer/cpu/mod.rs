//! Optimizer step: runs the stages of an update rule, each a pass over chunks of all parameters. A chunk is computed block by block:
//! each instruction is a vectorised loop, and its result stays in a block-sized register in the L1 cache.
mod factors;
mod gradients;
mod loops;
mod parameter;
mod stage;

use crate::cpu::parallel::{DisjointSlice, for_each_task};
use crate::cpu::scratch;
use crate::fuse::update::formula::Symbol;
use crate::fuse::update::stage::{Stage, Target};
use crate::fuse::{CpuLoop, GradClip, GradientRule, UpdateRule, UpdateScalar};
use crate::ops::fuse::cpu::blocks::BLOCK;
use parameter::ParameterArrays;
pub(crate) use parameter::{LowPrecisionCopy, OptimizerParameter};
use stage::{ChunkTask, StagePlan};

/// Computes the gradient norm if needed, updates the loss scale, and updates the parameters unless the update is skipped.
pub(crate) fn update(
    rule: &UpdateRule,
    parameters: &mut [OptimizerParameter],
    gradients: &GradientRule,
    scalars: &mut [f32],
    updates: &mut i64,
) {
    let chunks =
        |(p, parameter): (usize, &OptimizerParameter)| (0..parameter.layout.chunks).map(move |c| (p, c));
    let tasks: Vec<(usize, usize)> = parameters.iter().enumerate().flat_map(chunks).collect();
    let mut rows = 0;
    let first_rows: Vec<usize> = parameters
        .iter()
        .map(|parameter| {
            rows += parameter.layout.rows;
            rows - parameter.layout.rows
        })
        .collect();
    let mut agc_factors = vec![0.0; if matches!(gradients.clip, Some(GradClip::Agc(_))) { rows } else { 0 }];
    if gradients.computes_grad_norm() || rule.reads_norm() {
        let factor = 1.0 / f64::from(scalars[UpdateScalar::LossScale as usize]);
        let squares = gradients::compute_squares(
            parameters,
            &tasks,
            &first_rows,
            factor,
            gradients.clip,
            &mut agc_factors,
        );
        if !gradients::update_loss_scale(gradients, squares, scalars) {
            average_unchanged(parameters, &tasks, scalars[UpdateScalar::EmaComplement as usize]);
            return;
        }
    }
    let mut pass = UpdatePass {
        rule,
        scalars,
        step: *updates + 1,
        clip: if let Some(GradClip::Value(limit)) = gradients.clip { Some(limit) } else { None },
        tasks: &tasks,
        first_rows: &first_rows,
        agc_factors: &agc_factors,
        rows: vec![0.0; rows * rule.row_sums()],
        sums: vec![vec![0.0; rule.sums()]; parameters.len()],
        means: vec![vec![]; parameters.len()],
    };
    if parameters.is_empty() {
        return;
    }
    if let Some(factoring) = rule.state_spec().factored {
        let gradients = factors::ClippedGradients {
            factor: pass.scalar(UpdateScalar::GradFactor) as f32,
            clip: pass.clip.unwrap_or(f32::INFINITY),
            agc_factors: &agc_factors,
            first_rows: &first_rows,
        };
        pass.means = factors::update_factors(parameters, factoring, pass.step, &gradients);
    }
    if let Some(cpu_loop) = rule.cpu_loop().filter(|_| pass.clip.is_none() && agc_factors.is_empty()) {
        pass.run_loop(cpu_loop, parameters);
        *updates += 1;
        return;
    }
    let mut shared_scalars = vec![];
    for stage in rule.stages() {
        shared_scalars = pass.run(stage, parameters);
    }
    *updates += 1;
    scalars[UpdateScalar::SharedScalars as usize..][..shared_scalars.len()].copy_from_slice(&shared_scalars);
}

/// State of one update across its stages.
struct UpdatePass<'a> {
    rule: &'a UpdateRule,
    scalars: &'a [f32],
    /// Number of this update, starting at 1.
    step: i64,
    /// Clamp of the gradients (clip by value).
    clip: Option<f32>,
    tasks: &'a [(usize, usize)],
    /// Index of each parameter's first row among the rows of all parameters.
    first_rows: &'a [usize],
    agc_factors: &'a [f32],
    /// `[rows, row sums]`
    rows: Vec<f32>,
    /// `[parameters, sums]`
    sums: Vec<Vec<f64>>,
    /// Mean of each factored second moment over both axes, per position in between.
    means: Vec<Vec<f32>>,
}

impl UpdatePass<'_> {
    fn scalar(&self, n: UpdateScalar) -> f64 {
        f64::from(self.scalars[n as usize])
    }

    /// Value of a symbol with parameter scope. The scalar state of a parameter is double-buffered: update `t` writes element `t % 2`.
    fn symbol(&self, p: usize, parameter: &OptimizerParameter, symbol: Symbol) -> f64 {
        let stored = |at: i64| parameter.param_scalar.as_ref().map_or(0.0, |s| f64::from(s[at as usize % 2]));
        match symbol {
            Symbol::Step => self.step as f64,
            Symbol::Lr => self.scalar(UpdateScalar::Lr) * f64::from(parameter.lr_scale),
            Symbol::BaseLr => self.scalar(UpdateScalar::Lr),
            Symbol::WeightDecay => f64::from(parameter.weight_decay),
            Symbol::GradNorm => self.scalar(UpdateScalar::ClippedNorm),
            Symbol::Numel => parameter.gradient.len() as f64,
            Symbol::RowLength => parameter.layout.row_length as f64,
            Symbol::Ndim => parameter.layout.axes as f64,
            Symbol::ParamScalar => stored(self.step + 1),
            Symbol::IsFactored => f64::from(u8::from(parameter.factors.is_some())),
            Symbol::SharedScalar(k) => f64::from(self.scalars[UpdateScalar::SharedScalars as usize + k]),
            Symbol::Sum(k) => self.sums[p][k],
            _ => unreachable!("not a scalar of the parameter"),
        }
    }

    /// Runs a rule that has a dedicated CPU loop.
    fn run_loop(&self, cpu_loop: CpuLoop, parameters: &mut [OptimizerParameter]) {
        let loop_scalars = |parameter: &OptimizerParameter| loops::LoopScalars {
            step: self.step,
            lr: self.scalar(UpdateScalar::Lr) * f64::from(parameter.lr_scale),
            weight_decay: f64::from(parameter.weight_decay),
            factor: self.scalar(UpdateScalar::GradFactor) as f32,
        };
        let loop_scalars: Vec<_> = parameters.iter().map(loop_scalars).collect();
        let arrays: Vec<ParameterArrays> = parameters.iter_mut().map(ParameterArrays::new).collect();
        let ema_complement = self.scalar(UpdateScalar::EmaComplement) as f32;
        for_each_task(self.tasks.len(), |i| {
            let (p, chunk) = self.tasks[i];
            arrays[p].run_loop(cpu_loop, loop_scalars[p], chunk, ema_complement);
        });
    }

    /// Runs a stage. Returns the shared scalars that the last stage produces.
    fn run(&mut self, stage: &Stage, parameters: &mut [OptimizerParameter]) -> Vec<f32> {
        let gradient_in_place = self.scalar(UpdateScalar::GradFactor) == 1.0
            && self.clip.is_none()
            && self.agc_factors.is_empty();
        let plan = StagePlan::new(stage, gradient_in_place);
        let values: Vec<[Vec<f64>; 2]> = parameters
            .iter()
            .enumerate()
            .map(|(p, parameter)| {
                [&stage.program, &stage.row_end].map(|program| {
                    stage.parameter_values(program, |symbol| self.symbol(p, parameter, symbol))
                })
            })
            .collect();
        let output = |p: usize, target: Target| {
            let at = stage.targets.iter().position(|t| *t == target);
            at.map(|at| values[p][0][stage.program.outputs[at]] as f32)
        };
        let shared_scalars = (0..self.rule.state_spec().shared_scalars.len())
            .filter_map(|k| output(0, Target::SharedScalar(k)))
            .collect();
        for (p, parameter) in parameters.iter_mut().enumerate() {
            if let (Some(scalars), Some(value)) =
                (parameter.param_scalar.as_mut(), output(p, Target::ParamScalar))
            {
                scalars[self.step as usize % 2] = value;
            }
        }
        let num_sums = plan.sums.len() + stage.row_end_sums.len();
        let mut partial = vec![0.0f64; self.tasks.len() * num_sums];
        {
            let arrays: Vec<ParameterArrays> = parameters.iter_mut().map(ParameterArrays::new).collect();
            let (rows, partial) = (DisjointSlice::new(&mut self.rows), DisjointSlice::new(&mut partial));
            let (factor, ema_complement) =
                (self.scalar(UpdateScalar::GradFactor), self.scalar(UpdateScalar::EmaComplement));
            for_each_task(self.tasks.len(), |i| {
                let (p, chunk) = self.tasks[i];
                let [element_values, row_end_values] = &values[p];
                scratch::with(plan.blocks.registers * BLOCK, |registers: &mut [f32]| {
                    let task = ChunkTask {
                        plan: &plan,
                        arrays: &arrays[p],
                        values: element_values,
                        row_end_values,
                        factor: factor as f32,
                        clip: self.clip,
                        agc_factors: self.agc_factors.get(self.first_rows[p]..).unwrap_or(&[]),
                        ema_complement: ema_complement as f32,
                        first_row: self.first_rows[p],
                        means: &self.means[p],
                        row_sums: self.rule.row_sums(),
                        rows: &rows,
                    };
                    let registers = DisjointSlice::new(registers);
                    // SAFETY: each task has its own sums.
                    let sums = unsafe { partial.slice(i * num_sums, num_sums) };
                    task.run(registers, arrays[p].range(chunk), sums);
                });
            });
        }
        for ((p, _), partial) in self.tasks.iter().zip(partial.chunks(num_sums.max(1))) {
            for (k, sum) in plan.sums.iter().map(|(k, _)| k).chain(&stage.row_end_sums).zip(partial) {
                self.sums[*p][*k] += sum;
            }
        }
        shared_scalars
    }
}

/// Updates the EMA of each parameter after a skipped update.
fn average_unchanged(parameters: &mut [OptimizerParameter], tasks: &[(usize, usize)], complement: f32) {
    let arrays: Vec<ParameterArrays> = parameters.iter_mut().map(ParameterArrays::new).collect();
    for_each_task(tasks.len(), |i| {
        let (p, chunk) = tasks[i];
        arrays[p].average(chunk, complement);
    });
}
