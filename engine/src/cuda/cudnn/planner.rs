//! From a problem to plans: cuDNN's heuristics hand out engine configurations; those that keep our rules are built in order.
use super::api::{Api, unsupported};
use super::descriptor::{Child, Descriptor, HandleValue, Kind, Name, Note};
use super::device_properties::DeviceProperties;
use super::graph::describe;
use super::problem::{ConvEngineOptions, ConvProblem};
use crate::DType;
use crate::cuda::library::LibraryError;
use cudarc::cudnn::sys::cudnnBackendHeurMode_t as Mode;
use cudarc::cudnn::sys::cudnnBackendNumericalNote_t as Numerical;

/// Asks cuDNN for engines and builds plans, for one device.
pub struct ConvPlanner {
    api: &'static Api,
    target: Target,
}

enum Target {
    Handle(HandleValue),
    Properties(DeviceProperties),
}

/// A finalised execution plan.
pub(super) struct Plan {
    pub(super) descriptor: Descriptor,
    /// Bytes that it works in.
    pub(super) workspace: usize,
}

/// One question to the heuristics: a mode, and the most results that are wanted.
pub(super) type Search = (Mode, usize);

/// The first result alone costs 55 µs, the whole list 2 ms; the fallback list is for what the first leaves open.
pub(super) const FIRST_THEN_ALL: [Search; 3] = [
    (Mode::CUDNN_HEUR_MODE_A, 1),
    (Mode::CUDNN_HEUR_MODE_A, usize::MAX),
    (Mode::CUDNN_HEUR_MODE_FALLBACK, usize::MAX),
];
/// Every configuration once.
pub(super) const ALL: [Search; 2] =
    [(Mode::CUDNN_HEUR_MODE_A, usize::MAX), (Mode::CUDNN_HEUR_MODE_FALLBACK, usize::MAX)];

/// What cuDNN has for a problem.
#[derive(Clone, Copy, Debug)]
pub struct Survey {
    /// Engine configurations that both heuristic lists hand out.
    pub offered: usize,
    /// How many of them keep the rules of the problem's options.
    pub allowed: usize,
    /// Bytes of workspace of the plan that the engine would take.
    pub workspace: usize,
}

impl ConvPlanner {
    /// A planner for a device that need not be there.
    pub fn deviceless(properties: DeviceProperties) -> Result<ConvPlanner, LibraryError> {
        Ok(ConvPlanner { api: Api::get()?, target: Target::Properties(properties) })
    }

    /// cuDNN's version, as 10000 major + 100 minor + patch.
    pub fn version(&self) -> usize {
        // SAFETY: the function has no preconditions.
        unsafe { (self.api.version)() }
    }

    /// A planner for the device of a cuDNN handle, which must outlive it.
    pub(super) fn with_handle(api: &'static Api, handle: HandleValue) -> ConvPlanner {
        ConvPlanner { api, target: Target::Handle(handle) }
    }

    /// Counts the configurations for `problem` and builds the plan that heuristics choose for it.
    pub fn survey(&self, problem: &ConvProblem) -> Result<Survey, LibraryError> {
        let graph = self.describe(problem)?;
        let mut survey = Survey { offered: 0, allowed: 0, workspace: self.first_plan(problem)?.workspace };
        for search in ALL {
            let found = self.configurations(&graph, search)?;
            survey.offered += found.len();
            for configuration in &found {
                survey.allowed += usize::from(self.is_allowed(configuration, problem)?);
            }
        }
        Ok(survey)
    }

    fn first_plan(&self, problem: &ConvProblem) -> Result<Plan, LibraryError> {
        let graph = self.describe(problem)?;
        let mut refusal = unsupported(problem);
        for plan in self.plans(problem, &graph, &FIRST_THEN_ALL) {
            match plan {
                Ok(plan) => return Ok(plan),
                Err(e) => refusal = e,
            }
        }
        Err(refusal)
    }

    /// The operation graph of `problem`.
    pub(super) fn describe(&self, problem: &ConvProblem) -> Result<Descriptor, LibraryError> {
        let handle = match self.target {
            Target::Handle(handle) => Some(handle),
            Target::Properties(_) => None,
        };
        describe(self.api, problem, handle)
    }

    /// The plans for `problem`, best first by cuDNN's judgement, each built when it is asked for. A configuration that was
    /// handed out can still fail here: then the next may do.
    pub(super) fn plans<'a>(
        &'a self,
        problem: &'a ConvProblem,
        graph: &'a Descriptor,
        searches: &'a [Search],
    ) -> impl Iterator<Item = Result<Plan, LibraryError>> + 'a {
        searches.iter().flat_map(move |search| {
            let (found, refusal) = match self.configurations(graph, *search) {
                Ok(found) => (found, None),
                Err(e) => (Vec::new(), Some(Err(e))),
            };
            let plans = found.into_iter().filter_map(move |configuration| {
                match self.is_allowed(&configuration, problem) {
                    Ok(true) => Some(self.build(&configuration)),
                    Ok(false) => None,
                    Err(e) => Some(Err(e)),
                }
            });
            plans.chain(refusal)
        })
    }

    /// Asks the heuristics. The list can be shorter than the count that cuDNN announces, or empty.
    fn configurations(
        &self,
        graph: &Descriptor,
        (mode, limit): Search,
    ) -> Result<Vec<Descriptor>, LibraryError> {
        let mut heuristics = Descriptor::new(self.api, Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?
            .set(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &[graph.raw()])?
            .set(Name::CUDNN_ATTR_ENGINEHEUR_MODE, &[mode])?;
        if let Target::Properties(device) = &self.target {
            heuristics = heuristics.set(Name::CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, &[device.0.raw()])?;
        }
        let heuristics = heuristics.finish()?;
        let announced = match limit {
            1 => 1,
            _ => heuristics.get::<Child>(Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, &mut [])?,
        };
        let mut found = (0..announced.min(limit))
            .map(|_| Descriptor::new(self.api, Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR))
            .collect::<Result<Vec<_>, _>>()?;
        if found.is_empty() {
            return Ok(found);
        }
        let mut children: Vec<Child> = found.iter().map(Descriptor::raw).collect();
        let fetched = heuristics.get(Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, &mut children)?;
        found.truncate(fetched);
        Ok(found)
    }

    /// Whether a configuration's engine keeps the rules: never inputs of less precision or sums in less than f32; no atomics
    /// where the same bits are wanted; and no tensor cores for strict f32, where they would mean TF32.
    fn is_allowed(&self, configuration: &Descriptor, problem: &ConvProblem) -> Result<bool, LibraryError> {
        let ConvEngineOptions { tf32, deterministic, .. } = problem.options;
        let forbidden = [
            (true, Numerical::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS),
            (true, Numerical::CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION),
            (deterministic, Numerical::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC),
            (problem.dtype == DType::F32 && !tf32, Numerical::CUDNN_NUMERICAL_NOTE_TENSOR_CORE),
        ];
        let engine = Descriptor::new(self.api, Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR)?;
        configuration.get(Name::CUDNN_ATTR_ENGINECFG_ENGINE, &mut [engine.raw()])?;
        let mut notes = [Note::default(); 32];
        let count = engine.get(Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, &mut notes)?;
        let notes = &notes[..count.min(notes.len())];
        Ok(!forbidden.iter().any(|&(rule, note)| rule && notes.contains(&Note(note as u32))))
    }

    fn build(&self, configuration: &Descriptor) -> Result<Plan, LibraryError> {
        let mut plan = Descriptor::new(self.api, Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?
            .set(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &[configuration.raw()])?;
        if let Target::Handle(handle) = self.target {
            plan = plan.set(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, &[handle])?;
        }
        let descriptor = plan.finish()?;
        let mut workspace = [0i64];
        descriptor.get(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, &mut workspace)?;
        Ok(Plan { descriptor, workspace: workspace[0] as usize })
    }
}
