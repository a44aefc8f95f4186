//! CUDA code generation for update rules: one kernel per stage, on top of the loops in `kernels/cu/optimizer.cuh`. Per-parameter values
//! are computed once per thread block, in double.
use super::formula::Symbol;
use super::stage::{Scope, Stage, Target};
use crate::fuse::cuda_text::{declarations, digest, literal};
use crate::fuse::graph::{Node, Program};
use crate::scalar::Precision;
use std::fmt::Write;

/// Stages of a rule, with the sizes that its kernels depend on.
pub(super) struct UpdateProgram {
    pub(super) name: &'static str,
    pub(super) stages: Vec<Stage>,
    /// Number of sums over a parameter, and over each row.
    pub(super) sums: usize,
    pub(super) row_sums: usize,
    pub(super) moments: usize,
    pub(super) shared_scalars: usize,
    pub(super) is_factored: bool,
}

/// Name and source of the kernel of one stage.
pub(crate) struct UpdateKernel {
    pub(crate) kernel: String,
    pub(crate) text: String,
}

/// Kernels of a rule's stages.
pub(super) fn sources(rule: &UpdateProgram) -> Vec<UpdateKernel> {
    let all = &rule.stages;
    let programs: Vec<_> = all.iter().map(|s| (&s.program, &s.row_end, &s.symbols)).collect();
    let digest = digest(&programs);
    let source = |(i, stage): (usize, &Stage)| {
        let kernel = format!("update_{}_{digest:016x}_{i}_f32", rule.name);
        let text = UpdateKernelWriter { rule, stage, slots: slots(stage) }.text(&kernel);
        UpdateKernel { kernel, text }
    };
    all.iter().enumerate().map(source).collect()
}

/// Slot of each per-parameter node that elements, rows or outputs read, for both programs of a stage.
fn slots(stage: &Stage) -> [Vec<Option<usize>>; 2] {
    let mut count = 0;
    [&stage.program, &stage.row_end].map(|program| {
        let scopes = stage.scopes(program);
        let of_parameter =
            |i: usize| scopes[i] == Scope::Parameter && !matches!(program.nodes[i], Node::Constant(_));
        let mut read = vec![false; program.nodes.len()];
        for (node, _) in program.nodes.iter().zip(&scopes).filter(|(_, scope)| **scope > Scope::Parameter) {
            node.operands().for_each(|a| read[a] = true);
        }
        program.outputs.iter().for_each(|o| read[*o] = true);
        let slot = |i: usize| {
            (read[i] && of_parameter(i)).then(|| {
                count += 1;
                count - 1
            })
        };
        (0..read.len()).map(slot).collect()
    })
}

struct UpdateKernelWriter<'a> {
    rule: &'a UpdateProgram,
    stage: &'a Stage,
    /// Slots of the elementwise program and of the row-end program.
    slots: [Vec<Option<usize>>; 2],
}

impl UpdateKernelWriter<'_> {
    fn text(&self, kernel: &str) -> String {
        let mut text = String::from("#include \"optimizer.cuh\"\n\nnamespace {\n\nstruct Rule {\n");
        self.constants(&mut text);
        text += "\n  __device__ static void scalars(const RuleScalars& n, float* u) {\n";
        for (program, slots) in self.programs() {
            text += "    {\n";
            self.numbers(&mut text, program, slots);
            text += "    }\n";
        }
        text += "  }\n\n  __device__ __forceinline__ static void element(const float* u, const In& x, Out& y) {\n";
        self.statements(&mut text, &self.stage.program, &self.slots[0]);
        let mut totals = 0;
        let mut rows = 0;
        for (target, node) in self.stage.targets.iter().zip(&self.stage.program.outputs) {
            let value = self.name(&self.stage.program, &self.slots[0], *node);
            let place = match target {
                Target::Sum(_) => {
                    totals += 1;
                    format!("t[{}]", totals - 1)
                }
                Target::RowSum(_) => {
                    rows += 1;
                    format!("s[{}]", rows - 1)
                }
                Target::Weight => "w".into(),
                Target::Moment(k) => format!("m[{k}]"),
                Target::SharedScalar(_) | Target::ParamScalar => continue,
            };
            let _ = writeln!(text, "    y.{place} = {value};");
        }
        text += "  }\n\n  __device__ __forceinline__ static void end_row(const float* u, const In& x, float* totals) {\n";
        self.statements(&mut text, &self.stage.row_end, &self.slots[1]);
        for (k, node) in self.stage.row_end.outputs.iter().enumerate() {
            let value = self.name(&self.stage.row_end, &self.slots[1], *node);
            let _ = writeln!(text, "    totals[{}] += {value};", totals + k);
        }
        let _ = write!(
            text,
            "  }}\n}};\n\n}}  // namespace\n\nKERNEL {kernel}(const __grid_constant__ ParameterTable table, const __grid_constant__ UpdateArgs args) {{ stage<Rule>(table, args); }}\n"
        );
        text
    }

    fn programs(&self) -> [(&Program, &[Option<usize>]); 2] {
        [(&self.stage.program, &self.slots[0]), (&self.stage.row_end, &self.slots[1])]
    }

    /// Compile-time constants of the loops.
    fn constants(&self, text: &mut String) {
        let stage = self.stage;
        let ids = |want: &dyn Fn(&Target) -> Option<usize>| {
            stage.targets.iter().filter_map(want).collect::<Vec<_>>()
        };
        let mut totals = ids(&|t| if let Target::Sum(k) = t { Some(*k) } else { None });
        totals.extend(&stage.row_end_sums);
        let rows = ids(&|t| if let Target::RowSum(k) = t { Some(*k) } else { None });
        let (mut elements, mut sums, mut element_rows, mut end_rows) = (0u32, 0u32, 0u32, 0u32);
        for symbol in stage.reads(&stage.program) {
            match symbol {
                Symbol::Weight => elements |= 1,
                Symbol::Gradient => elements |= 2,
                Symbol::Moment(i) => elements |= 4 << i,
                Symbol::Sum(k) => sums |= 1 << k,
                Symbol::RowSum(k) => element_rows |= 1 << k,
                _ => {}
            }
        }
        for symbol in stage.reads(&stage.row_end) {
            match symbol {
                Symbol::Sum(k) => sums |= 1 << k,
                Symbol::RowSum(k) if !rows.contains(&k) => end_rows |= 1 << k,
                _ => {}
            }
        }
        let slot = |target: Target| {
            let at = stage.targets.iter().position(|t| *t == target);
            at.map(|i| self.slots[0][stage.program.outputs[i]].expect("a scalar of the parameter"))
        };
        let memory: Vec<usize> =
            (0..self.rule.shared_scalars).filter_map(|k| slot(Target::SharedScalar(k))).collect();
        let numbers = self.slots.iter().flatten().flatten().count();
        let factored = self.rule.is_factored;
        let _ = write!(
            text,
            "  static constexpr int kScalars = {numbers}, kSums = {}, kRows = {}, kTotals = {}, kOfRows = {}, kRowSums = {};\n  \
             static constexpr unsigned kReads = {elements}, kReadSums = {sums};\n  \
             static constexpr unsigned kReadRows = {element_rows}, kEndReadsRows = {end_rows};\n  \
             static constexpr int kWrites = {}, kSharedScalars = {}, kParamScalar = {};\n  \
             static constexpr bool kFactored = {factored};\n",
            self.rule.sums,
            self.rule.row_sums,
            totals.len(),
            stage.row_end_sums.len(),
            rows.len(),
            if stage.is_last() { self.rule.moments as i32 } else { -1 },
            memory.len(),
            slot(Target::ParamScalar).map_or(-1, |k| k as i32),
        );
        for (name, ids) in [("total", totals), ("row_sum", rows), ("shared_scalar", memory)] {
            let choice: String =
                ids.iter().enumerate().map(|(k, id)| format!("k == {k} ? {id} : ")).collect();
            let _ = writeln!(text, "  __device__ static constexpr int {name}(int k) {{ return {choice}0; }}");
        }
    }

    /// Per-parameter values, in double.
    fn numbers(&self, text: &mut String, program: &Program, slots: &[Option<usize>]) {
        let scopes = self.stage.scopes(program);
        let name = |i: usize| match program.nodes[i] {
            Node::Constant(bits) => literal(f64::from_bits(bits), Precision::Double),
            _ => format!("d{i}"),
        };
        for (i, node) in program.nodes.iter().enumerate() {
            let (Scope::Parameter, Node::Input(k)) = (scopes[i], node) else { continue };
            let value = match self.stage.symbols[*k] {
                Symbol::Step => "n.step".into(),
                Symbol::Lr => "n.lr".into(),
                Symbol::BaseLr => "n.base_lr".into(),
                Symbol::WeightDecay => "n.weight_decay".into(),
                Symbol::GradNorm => "n.grad_norm".into(),
                Symbol::Numel => "n.numel".into(),
                Symbol::RowLength => "n.row_length".into(),
                Symbol::Ndim => "n.ndim".into(),
                Symbol::ParamScalar => "n.param_scalar".into(),
                Symbol::IsFactored => "n.is_factored".into(),
                Symbol::SharedScalar(k) => format!("n.shared_scalars[{k}]"),
                Symbol::Sum(k) => format!("n.sums[{k}]"),
                _ => unreachable!("not a scalar of the parameter"),
            };
            let _ = writeln!(text, "      const double d{i} = {value};");
        }
        *text += &declarations(program, Precision::Double, "      ", |i| scopes[i] == Scope::Parameter, name);
        for (i, slot) in slots.iter().enumerate() {
            if let Some(slot) = slot {
                let _ = writeln!(text, "      u[{slot}] = (float)d{i};");
            }
        }
    }

    /// Statements per element or row.
    fn statements(&self, text: &mut String, program: &Program, slots: &[Option<usize>]) {
        let scopes = self.stage.scopes(program);
        let is_wanted = |i: usize| scopes[i] > Scope::Parameter;
        *text +=
            &declarations(program, Precision::Float, "    ", is_wanted, |i| self.name(program, slots, i));
    }

    /// Operand expression of a node in per-element or per-row code.
    fn name(&self, program: &Program, slots: &[Option<usize>], i: usize) -> String {
        if let Some(slot) = slots[i] {
            return format!("u[{slot}]");
        }
        match program.nodes[i] {
            Node::Constant(bits) => literal(f64::from_bits(bits), Precision::Float),
            Node::Input(k) => match self.stage.symbols[k] {
                Symbol::Weight => "x.w".into(),
                Symbol::Gradient => "x.g".into(),
                Symbol::Moment(k) => format!("x.m[{k}]"),
                Symbol::Factored => "x.factored".into(),
                Symbol::RowSum(k) => format!("x.r[{k}]"),
                _ => unreachable!("scalars of the parameter have slots"),
            },
            _ => format!("v{i}"),
        }
    }
}
