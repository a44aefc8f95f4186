//! Planning: cuDNN's heuristics return engine configurations for a problem; those allowed by its options are built in order.
use super::api::{CudnnApi, unsupported};
use super::descriptor::{
    AttributeName, Descriptor, DescriptorPointer, DescriptorType, HandleValue, NumericalNote,
};
use super::device_properties::DeviceProperties;
use super::graph::describe;
use super::problem::{ConvEngineOptions, ConvProblem};
use crate::DType;
use crate::cuda::LibraryError;
use cudarc::cudnn::sys::cudnnBackendHeurMode_t as Mode;
use cudarc::cudnn::sys::cudnnBackendNumericalNote_t as Numerical;
use std::collections::VecDeque;

/// Queries cuDNN's heuristics and builds execution plans, for one device.
pub struct ConvPlanner {
    api: &'static CudnnApi,
    target: PlanTarget,
}

enum PlanTarget {
    Handle(HandleValue),
    Properties(DeviceProperties),
}

/// Finalised execution plan.
pub(super) struct ExecutionPlan {
    pub(super) descriptor: Descriptor,
    /// Workspace in bytes.
    pub(super) workspace: usize,
    /// Sums are added to what the memory holds, which must be zero.
    pub(super) accumulates_sums: bool,
}

/// Query to the heuristics: mode and maximum number of results.
pub(super) type HeuristicQuery = (Mode, usize);

/// The first result (55 µs), then the whole list (2 ms), then the fallback list.
pub(super) const FIRST_THEN_ALL: [HeuristicQuery; 3] = [
    (Mode::CUDNN_HEUR_MODE_A, 1),
    (Mode::CUDNN_HEUR_MODE_A, usize::MAX),
    (Mode::CUDNN_HEUR_MODE_FALLBACK, usize::MAX),
];
/// All configurations, each once.
pub(super) const ALL_CONFIGURATIONS: [HeuristicQuery; 2] =
    [(Mode::CUDNN_HEUR_MODE_A, usize::MAX), (Mode::CUDNN_HEUR_MODE_FALLBACK, usize::MAX)];

/// Numbers of engine configurations for a problem.
#[derive(Clone, Copy, Debug)]
pub struct EngineSurvey {
    /// Engine configurations in both heuristic lists.
    pub offered: usize,
    /// Those allowed by the problem's options.
    pub allowed: usize,
    /// Workspace of the first plan that builds, in bytes.
    pub workspace: usize,
}

impl ConvPlanner {
    /// Planner for a described device, which need not be present.
    pub fn deviceless(properties: DeviceProperties) -> Result<ConvPlanner, LibraryError> {
        Ok(ConvPlanner { api: CudnnApi::get()?, target: PlanTarget::Properties(properties) })
    }

    /// cuDNN's version, as 10000 major + 100 minor + patch.
    pub fn version(&self) -> usize {
        // SAFETY: the function has no preconditions.
        unsafe { (self.api.version)() }
    }

    /// Planner for the device of a cuDNN handle, which must outlive it.
    pub(super) fn with_handle(api: &'static CudnnApi, handle: HandleValue) -> ConvPlanner {
        ConvPlanner { api, target: PlanTarget::Handle(handle) }
    }

    /// Counts the configurations for `problem` and builds the first plan.
    pub fn survey(&self, problem: &ConvProblem) -> Result<EngineSurvey, LibraryError> {
        let graph = self.describe(problem)?;
        let mut survey =
            EngineSurvey { offered: 0, allowed: 0, workspace: self.first_plan(problem)?.workspace };
        for search in ALL_CONFIGURATIONS {
            let found = self.configurations(&graph, search)?;
            survey.offered += found.len();
            for configuration in &found {
                survey.allowed += usize::from(self.allowed_engine(configuration, problem)?.is_some());
            }
        }
        Ok(survey)
    }

    fn first_plan(&self, problem: &ConvProblem) -> Result<ExecutionPlan, LibraryError> {
        let graph = self.describe(problem)?;
        let mut last_error = unsupported(problem);
        for plan in self.plans(problem, &graph, &FIRST_THEN_ALL) {
            match plan {
                Ok(plan) => return Ok(plan),
                Err(e) => last_error = e,
            }
        }
        Err(last_error)
    }

    /// JSON representations of the first `count` plans that build and need at most `workspace` bytes, in turn by engine.
    pub fn candidates(
        &self,
        problem: &ConvProblem,
        count: usize,
        workspace: usize,
    ) -> Result<Vec<String>, LibraryError> {
        let graph = self.describe(problem)?;
        let built = self.plans_in_turn(problem, &graph).flatten().filter(|plan| plan.workspace <= workspace);
        built.take(count).map(|plan| plan.json()).collect()
    }

    /// Builds the operation graph of `problem`.
    pub(super) fn describe(&self, problem: &ConvProblem) -> Result<Descriptor, LibraryError> {
        let handle = match self.target {
            PlanTarget::Handle(handle) => Some(handle),
            PlanTarget::Properties(_) => None,
        };
        describe(self.api, problem, handle)
    }

    /// Plans for `problem`, in the order of cuDNN's heuristics, built lazily. A configuration that the heuristics returned can still fail
    /// to build; the next one may succeed.
    pub(super) fn plans<'a>(
        &'a self,
        problem: &'a ConvProblem,
        graph: &'a Descriptor,
        searches: &'a [HeuristicQuery],
    ) -> impl Iterator<Item = Result<ExecutionPlan, LibraryError>> + 'a {
        searches.iter().flat_map(move |search| {
            let (found, last_error) = match self.configurations(graph, *search) {
                Ok(found) => (found, None),
                Err(e) => (Vec::new(), Some(Err(e))),
            };
            let plans = found.into_iter().filter_map(move |configuration| {
                match self.allowed_engine(&configuration, problem) {
                    Ok(Some(_)) => Some(self.build(&configuration)),
                    Ok(None) => None,
                    Err(e) => Some(Err(e)),
                }
            });
            plans.chain(last_error)
        })
    }

    /// Plans for `problem` from both lists of the heuristics, built lazily, in turn by engine: first the best configuration of each engine,
    /// then the second of each, and so on. The first 8 to 20 configurations of a list are often of one engine.
    pub(super) fn plans_in_turn<'a>(
        &'a self,
        problem: &'a ConvProblem,
        graph: &'a Descriptor,
    ) -> impl Iterator<Item = Result<ExecutionPlan, LibraryError>> + 'a {
        let mut by_engine: Vec<(i64, Vec<Descriptor>)> = Vec::new();
        let mut errors = Vec::new();
        for search in ALL_CONFIGURATIONS {
            for configuration in self.configurations(graph, search).unwrap_or_else(|e| {
                errors.push(e);
                Vec::new()
            }) {
                match self.allowed_engine(&configuration, problem) {
                    Ok(Some(engine)) => match by_engine.iter_mut().find(|(other, _)| *other == engine) {
                        Some((_, all)) => all.push(configuration),
                        None => by_engine.push((engine, vec![configuration])),
                    },
                    Ok(None) => {}
                    Err(e) => errors.push(e),
                }
            }
        }
        let configurations = in_turn(by_engine.into_iter().map(|(_, all)| all).collect());
        configurations.map(|configuration| self.build(&configuration)).chain(errors.into_iter().map(Err))
    }

    /// Queries the heuristics. The list can be shorter than the count that cuDNN reports, or empty.
    fn configurations(
        &self,
        graph: &Descriptor,
        (mode, limit): HeuristicQuery,
    ) -> Result<Vec<Descriptor>, LibraryError> {
        let mut heuristics = Descriptor::new(self.api, DescriptorType::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?
            .set(AttributeName::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &[graph.raw()])?
            .set(AttributeName::CUDNN_ATTR_ENGINEHEUR_MODE, &[mode])?;
        if let PlanTarget::Properties(device) = &self.target {
            heuristics =
                heuristics.set(AttributeName::CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, &[device.0.raw()])?;
        }
        let heuristics = heuristics.finalize()?;
        let reported = match limit {
            1 => 1,
            _ => {
                heuristics.get::<DescriptorPointer>(AttributeName::CUDNN_ATTR_ENGINEHEUR_RESULTS, &mut [])?
            }
        };
        let mut found = (0..reported.min(limit))
            .map(|_| Descriptor::new(self.api, DescriptorType::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR))
            .collect::<Result<Vec<_>, _>>()?;
        if found.is_empty() {
            return Ok(found);
        }
        let mut children: Vec<DescriptorPointer> = found.iter().map(Descriptor::raw).collect();
        let fetched = heuristics.get(AttributeName::CUDNN_ATTR_ENGINEHEUR_RESULTS, &mut children)?;
        found.truncate(fetched);
        Ok(found)
    }

    /// Global index of a configuration's engine; `None` if it is not allowed. Inputs must not be converted to a lower precision, and sums
    /// must be in f32; a deterministic problem excludes nondeterministic engines; strict f32 excludes tensor cores, which would use TF32.
    fn allowed_engine(
        &self,
        configuration: &Descriptor,
        problem: &ConvProblem,
    ) -> Result<Option<i64>, LibraryError> {
        let ConvEngineOptions { tf32, deterministic, .. } = problem.options;
        let forbidden = [
            (true, Numerical::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS),
            (true, Numerical::CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION),
            (deterministic, Numerical::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC),
            (problem.dtype == DType::F32 && !tf32, Numerical::CUDNN_NUMERICAL_NOTE_TENSOR_CORE),
        ];
        let engine = Descriptor::new(self.api, DescriptorType::CUDNN_BACKEND_ENGINE_DESCRIPTOR)?;
        configuration.get(AttributeName::CUDNN_ATTR_ENGINECFG_ENGINE, &mut [engine.raw()])?;
        let mut notes = [NumericalNote::default(); 32];
        let count = engine.get(AttributeName::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, &mut notes)?;
        let notes = &notes[..count.min(notes.len())];
        if forbidden.iter().any(|&(rule, note)| rule && notes.contains(&NumericalNote(note as u32))) {
            return Ok(None);
        }
        let mut index = [0i64];
        engine.get(AttributeName::CUDNN_ATTR_ENGINE_GLOBAL_INDEX, &mut index)?;
        Ok(Some(index[0]))
    }

    fn build(&self, configuration: &Descriptor) -> Result<ExecutionPlan, LibraryError> {
        let plan = Descriptor::new(self.api, DescriptorType::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
        self.finish(plan.set(AttributeName::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &[configuration.raw()])?)
    }

    /// Builds a plan from its JSON representation, which is valid for the same GPU and version of cuDNN.
    pub(super) fn restore(&self, json: &str) -> Result<ExecutionPlan, LibraryError> {
        let plan = Descriptor::new(self.api, DescriptorType::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
        // Without a device cuDNN 9 ends with a segmentation fault here.
        let plan = match &self.target {
            PlanTarget::Handle(_) => plan,
            PlanTarget::Properties(device) => {
                plan.set(AttributeName::CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, &[device.0.raw()])?
            }
        };
        self.finish(plan.set(AttributeName::CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, json.as_bytes())?)
    }

    fn finish(&self, mut plan: Descriptor) -> Result<ExecutionPlan, LibraryError> {
        if let PlanTarget::Handle(handle) = self.target {
            plan = plan.set(AttributeName::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, &[handle])?;
        }
        let descriptor = plan.finalize()?;
        let mut workspace = [0i64];
        descriptor.get(AttributeName::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, &mut workspace)?;
        Ok(ExecutionPlan { descriptor, workspace: workspace[0] as usize, accumulates_sums: false })
    }
}

impl ExecutionPlan {
    /// JSON representation of the plan; cuDNN's own format.
    pub(super) fn json(&self) -> Result<String, LibraryError> {
        let name = AttributeName::CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION;
        let mut bytes = vec![0u8; self.descriptor.get::<u8>(name, &mut [])?];
        let count = self.descriptor.get(name, &mut bytes)?;
        bytes.truncate(count);
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The first value of each list, then the second of each, and so on.
fn in_turn<T>(lists: Vec<Vec<T>>) -> impl Iterator<Item = T> {
    let mut lists: VecDeque<_> = lists.into_iter().map(Vec::into_iter).collect();
    std::iter::from_fn(move || {
        while let Some(mut list) = lists.pop_front() {
            if let Some(value) = list.next() {
                lists.push_back(list);
                return Some(value);
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_taken_in_turn_by_engine() {
        let lists = vec![vec!["2a", "2b", "2c", "2d"], vec!["3a"], vec!["1a", "1b"]];
        assert_eq!(in_turn(lists).collect::<Vec<_>>(), ["2a", "3a", "1a", "2b", "1b", "2c", "2d"]);
        assert_eq!(in_turn::<i32>(vec![]).next(), None);
    }
}
