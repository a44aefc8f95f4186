//! Convolutions on a stream, with a cache of plans, which are made at the first use of a problem.
use super::api::{CudnnApi, driver_error, unplanned, unsupported};
use super::candidates::{self, GpuKind};
use super::choices::{ConvChoice, ConvChoices, ConvPlanRecord, key};
use super::descriptor::{AttributeName, Descriptor, DescriptorType, DevicePointer, HandleValue};
use super::graph::{INPUT, OUTPUT, SQUARES, SUM, WEIGHT};
use super::operands::{ChannelSums, FusionAlternative};
use super::planner::{ConvPlanner, ExecutionPlan};
use super::problem::{ConvBenchmark, ConvEngineOptions, ConvFusion, ConvKind, ConvPlanChoice, ConvProblem};
use super::selection::{PlanSelection, SelectionError, fill_sums, skipped};
use super::timing::EventTimer;
use crate::cuda::library::warn;
use crate::cuda::{LibraryError, WorkspaceAllocator};
use crate::{ConvAlgorithm, ConvShape, DType};
use cudarc::driver::result;
use cudarc::driver::sys::{CUdeviceptr, CUstream, CUstreamCaptureStatus};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// cuDNN on one stream of one device.
pub struct Cudnn {
    api: &'static CudnnApi,
    stream: CUstream,
    // A handle and its plans must not be used by two threads at once.
    state: Mutex<CudnnState>,
}

struct CudnnState {
    // Declared before the handle, so that plans are dropped first. `None` for an unsupported problem, and for a fusion that is slower
    // than separate operations.
    plans: HashMap<ConvProblem, Option<ExecutionPlan>>,
    choices: ConvChoices,
    kind: GpuKind,
    planner: ConvPlanner,
    handle: CudnnHandle,
}

struct CudnnHandle {
    api: &'static CudnnApi,
    raw: *mut c_void,
}

// SAFETY: cuDNN's handles and plans belong to a context, not to a thread; the mutex lets one thread at a time use them. A stream may be
// used by any thread.
unsafe impl Send for Cudnn {}
// SAFETY: as above.
unsafe impl Sync for Cudnn {}

impl Drop for CudnnHandle {
    fn drop(&mut self) {
        // SAFETY: this value owns the handle.
        unsafe { (self.api.destroy)(self.raw) };
    }
}

/// Device addresses of a convolution's tensors. For gradient computations, they are those of the gradients.
#[derive(Clone, Copy)]
struct ConvTensors {
    input: CUdeviceptr,
    weight: CUdeviceptr,
    output: CUdeviceptr,
    sums: Option<ChannelSums>,
    /// Data gradient: add to the input's gradient.
    accumulate: bool,
}

impl Cudnn {
    /// Opens cuDNN for `stream`, whose context must be current and must outlive this value, on the GPU of that name and kind.
    ///
    /// # Safety
    /// `stream` must be a live stream of the current context.
    pub unsafe fn new(stream: CUstream, gpu: &str, kind: GpuKind) -> Result<Cudnn, LibraryError> {
        let api = CudnnApi::get()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the library writes one pointer.
        let status = unsafe { (api.create)(&mut raw) };
        api.check(status, || "creating a handle".into())?;
        let handle = CudnnHandle { api, raw };
        // SAFETY: the caller's stream is alive.
        let status = unsafe { (api.set_stream)(raw, stream.cast()) };
        api.check(status, || "setting the stream".into())?;
        let planner = ConvPlanner::with_handle(api, HandleValue(raw));
        let choices = ConvChoices::new(gpu, planner.version());
        let state = CudnnState { plans: HashMap::new(), choices, kind, planner, handle };
        Ok(Cudnn { api, stream, state: Mutex::new(state) })
    }

    /// The choices that were made by timing so far, and restored ones.
    pub fn plan_record(&self) -> ConvPlanRecord {
        self.lock().choices.record().clone()
    }

    /// Restores choices, which [`ConvPlanChoice::Benchmark`] uses instead of timing. Plans of other choices are dropped, after waiting for
    /// the stream, and the cache folder gets the restored choices where this process has stored others. Returns false, without effect, if
    /// the record is of another GPU or version of cuDNN.
    ///
    /// The stream's context must be current, and no captured graph may contain a convolution whose choice changes.
    pub fn restore_plans(&self, record: &ConvPlanRecord) -> Result<bool, LibraryError> {
        let mut state = self.lock();
        let Some(changed) = state.choices.restore(record) else { return Ok(false) };
        let is_outdated = |problem: &ConvProblem| changed.contains(&key(problem));
        if state.plans.keys().any(is_outdated) {
            // SAFETY: `new`'s caller guarantees that the stream is alive.
            unsafe { result::stream::synchronize(self.stream) }
                .map_err(|e| driver_error("waiting for convolutions", e))?;
            state.plans.retain(|problem, _| !is_outdated(problem));
        }
        Ok(true)
    }

    fn lock(&self) -> MutexGuard<'_, CudnnState> {
        // A panic in another thread leaves complete plans.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// cuDNN's version, as 10000 major + 100 minor + patch.
    pub fn version(&self) -> usize {
        // SAFETY: the function has no preconditions.
        unsafe { (self.api.version)() }
    }

    /// `y = conv2d(x, w)`: x `[n, h, w, c]`, w `[out, kh, kw, c / groups]`, y `[n, h', w', out]`.
    ///
    /// # Safety
    /// The pointers must be device memory of the shapes and `dtype`, and not used otherwise until the stream has executed the
    /// convolution; the stream's context must be current.
    pub unsafe fn forward(
        &self,
        shape: &ConvShape,
        dtype: DType,
        options: ConvEngineOptions,
        x: CUdeviceptr,
        w: CUdeviceptr,
        y: CUdeviceptr,
        workspace: &mut WorkspaceAllocator,
    ) -> Result<(), LibraryError> {
        let tensors = ConvTensors { input: x, weight: w, output: y, sums: None, accumulate: false };
        // SAFETY: guaranteed by the caller.
        unsafe { self.run(ConvKind::Forward, shape, dtype, options, tensors, None, workspace) }
    }

    /// Gradient `dx` of [`Cudnn::forward`]'s x, from `dy`.
    ///
    /// # Safety
    /// As for [`Cudnn::forward`].
    pub unsafe fn data_gradient(
        &self,
        shape: &ConvShape,
        dtype: DType,
        options: ConvEngineOptions,
        dy: CUdeviceptr,
        w: CUdeviceptr,
        dx: CUdeviceptr,
        workspace: &mut WorkspaceAllocator,
    ) -> Result<(), LibraryError> {
        let tensors = ConvTensors { input: dx, weight: w, output: dy, sums: None, accumulate: false };
        // SAFETY: guaranteed by the caller.
        unsafe { self.run(ConvKind::DataGradient, shape, dtype, options, tensors, None, workspace) }
    }

    /// [`Cudnn::data_gradient`], added to the contents of `dx` in f32 and rounded once. Returns [`LibraryError::Unsupported`], without
    /// effect, if cuDNN has no kernel for it; that result is cached.
    ///
    /// # Safety
    /// As for [`Cudnn::forward`].
    pub unsafe fn add_data_gradient(
        &self,
        shape: &ConvShape,
        dtype: DType,
        options: ConvEngineOptions,
        dy: CUdeviceptr,
        w: CUdeviceptr,
        dx: CUdeviceptr,
        workspace: &mut WorkspaceAllocator,
    ) -> Result<(), LibraryError> {
        let tensors = ConvTensors { input: dx, weight: w, output: dy, sums: None, accumulate: true };
        // SAFETY: guaranteed by the caller.
        unsafe { self.run(ConvKind::DataGradient, shape, dtype, options, tensors, None, workspace) }
    }

    /// Gradient `dw` of [`Cudnn::forward`]'s w, from `dy`; accumulated in f32 and rounded once to `dtype`.
    ///
    /// # Safety
    /// As for [`Cudnn::forward`].
    pub unsafe fn weight_gradient(
        &self,
        shape: &ConvShape,
        dtype: DType,
        options: ConvEngineOptions,
        x: CUdeviceptr,
        dy: CUdeviceptr,
        dw: CUdeviceptr,
        workspace: &mut WorkspaceAllocator,
    ) -> Result<(), LibraryError> {
        let tensors = ConvTensors { input: x, weight: dw, output: dy, sums: None, accumulate: false };
        // SAFETY: guaranteed by the caller.
        unsafe { self.run(ConvKind::WeightGradient, shape, dtype, options, tensors, None, workspace) }
    }

    /// [`Cudnn::forward`] with per-channel sums of the output. Returns [`LibraryError::Unsupported`], with undefined outputs, if cuDNN has no
    /// kernel for it, or if timing found it slower than `alternative`; that result is cached.
    ///
    /// # Safety
    /// As for [`Cudnn::forward`]; the sums have one element per channel of y.
    pub unsafe fn forward_with_sums(
        &self,
        shape: &ConvShape,
        dtype: DType,
        options: ConvEngineOptions,
        x: CUdeviceptr,
        w: CUdeviceptr,
        (y, sums): (CUdeviceptr, ChannelSums),
        alternative: Option<FusionAlternative>,
        workspace: &mut WorkspaceAllocator,
    ) -> Result<(), LibraryError> {
        let tensors = ConvTensors { input: x, weight: w, output: y, sums: Some(sums), accumulate: false };
        // SAFETY: guaranteed by the caller.
        unsafe { self.run(ConvKind::Forward, shape, dtype, options, tensors, alternative, workspace) }
    }

    /// True if `own` is faster than `separate`: the data gradient fused with a batch norm's sums by Fornax's kernel, and the separate
    /// operations. Both are timed at the first use of a shape; the choice is stored as those between plans are.
    pub fn prefers_own_data_gradient(
        &self,
        shape: &ConvShape,
        dtype: DType,
        options: ConvEngineOptions,
        own: &mut dyn FnMut() -> Result<(), LibraryError>,
        separate: &mut dyn FnMut() -> Result<(), LibraryError>,
    ) -> Result<bool, LibraryError> {
        let problem = ConvProblem {
            kind: ConvKind::DataGradient,
            shape: ConvShape { algorithm: ConvAlgorithm::default(), ..*shape },
            dtype,
            alignment: 16,
            fusion: ConvFusion { statistics: true, accumulate: true },
            options,
        };
        {
            let mut state = self.lock();
            let made = state.choices.get(&problem);
            let load = || has_disk_cache(&problem).then(|| state.choices.load(&problem)).flatten();
            if let Some(choice) = made.clone().or_else(load) {
                if made.is_none() {
                    state.choices.insert(&problem, &choice);
                }
                return Ok(choice == ConvChoice::Own);
            }
        }
        if options.choice == ConvPlanChoice::Stored {
            return Ok(false);
        }
        if self.is_capturing()? {
            return Err(unplanned(problem));
        }
        let timer = EventTimer::new(self.stream)?;
        let (own, separate) = (timer.median_time(own)?, timer.median_time(separate)?);
        let choice = if own < separate { ConvChoice::Own } else { ConvChoice::Fallback };
        let mut state = self.lock();
        state.choices.insert(&problem, &choice);
        if has_disk_cache(&problem) {
            state.choices.store(&problem, &choice);
        }
        Ok(choice == ConvChoice::Own)
    }

    /// # Safety
    /// As for [`Cudnn::forward`].
    unsafe fn run(
        &self,
        kind: ConvKind,
        shape: &ConvShape,
        dtype: DType,
        options: ConvEngineOptions,
        tensors: ConvTensors,
        alternative: Option<FusionAlternative>,
        workspace: &mut WorkspaceAllocator,
    ) -> Result<(), LibraryError> {
        let (alignment, fusion) = (tensors.alignment(), tensors.fusion());
        // An algorithm of the CPU is no part of the key.
        let shape = ConvShape { algorithm: ConvAlgorithm::default(), ..*shape };
        let problem = ConvProblem { kind, shape, dtype, alignment, fusion, options };
        if shape.input_len() == 0 || shape.weight_len() == 0 || shape.output_len() == 0 {
            return Err(unsupported(format!("empty tensor: {problem}")));
        }
        // Run-time-compiled engines do not report whether they round to TF32.
        if fusion.statistics && dtype == DType::F32 && !options.tf32 {
            return Err(unsupported(problem));
        }
        if fusion != ConvFusion::default() && is_unfused(options.choice) {
            return Err(unsupported(problem));
        }
        let mut state = self.lock();
        match state.plans.get(&problem) {
            Some(Some(plan)) => {
                let result = self.execute(&state.handle, plan, tensors, workspace);
                let Err(error @ LibraryError::Call { .. }) = result else { return result };
                // Nothing can be waited for in a capture.
                if self.is_capturing()? {
                    return Err(error);
                }
                let error = skipped(self.stream, error).map_err(SelectionError::into_error)?;
                warn_of_fallback(&problem, &error);
                if state.choices.get(&problem).is_some() {
                    state.choices.insert(&problem, &ConvChoice::Fallback);
                }
                state.plans.insert(problem, None);
                return Err(unsupported(problem));
            }
            Some(None) => return Err(unsupported(problem)),
            // Engines are compiled, loaded and timed, none of which can be captured.
            None if self.is_capturing()? => return Err(unplanned(problem)),
            None => {}
        }
        // Candidates are run, some of them several times, and must not add to the result.
        let candidate = match fusion.accumulate {
            true => {
                ConvTensors { input: self.zeros(shape.input_len() * dtype.size(), workspace)?, ..tensors }
            }
            false => tensors,
        };
        // Candidates share one workspace, which grows as needed.
        let mut shared = (0, 0);
        let workspace: &mut WorkspaceAllocator = &mut |bytes| {
            if bytes > shared.0 {
                shared = (bytes, workspace(bytes)?);
            }
            Ok(shared.1)
        };
        let chosen = match options.choice {
            ConvPlanChoice::Heuristic if !fusion.statistics => None,
            _ => self.stored_choice(&state, &problem, candidate, workspace)?,
        };
        let is_timed = match options.choice {
            ConvPlanChoice::Benchmark(_) => true,
            ConvPlanChoice::Heuristic => fusion.statistics && alternative.is_some(),
            ConvPlanChoice::Stored => false,
        };
        let plan = if let Some((choice, plan)) = chosen {
            if options.choice != ConvPlanChoice::Stored {
                state.choices.insert(&problem, &choice);
            }
            plan
        } else if is_timed {
            let plan;
            (state, plan) = self.choose(state, &problem, candidate, alternative, workspace)?;
            plan
        } else {
            let run = &mut |plan: &ExecutionPlan| self.execute(&state.handle, plan, candidate, workspace);
            let selection = self.selection(&state, &problem, candidate, run);
            plan_or_fallback(&problem, selection.first_that_runs())?
        };
        // The tensors hold the result of the last candidate.
        let result = match &plan {
            Some(plan) => self.execute(&state.handle, plan, tensors, workspace),
            None => Err(unsupported(problem)),
        };
        state.plans.insert(problem, plan);
        result
    }

    /// Chooses by timing: the fastest plan or the heuristics' plan, and for a fusion between that plan and `alternative`. `None` selects
    /// the caller's fallback.
    fn choose<'a>(
        &'a self,
        mut state: MutexGuard<'a, CudnnState>,
        problem: &ConvProblem,
        tensors: ConvTensors,
        alternative: Option<FusionAlternative>,
        workspace: &mut WorkspaceAllocator,
    ) -> Result<(MutexGuard<'a, CudnnState>, Option<ExecutionPlan>), LibraryError> {
        let run = &mut |plan: &ExecutionPlan| self.execute(&state.handle, plan, tensors, workspace);
        let selection = self.selection(&state, problem, tensors, run);
        let selected = match problem.options.choice {
            ConvPlanChoice::Benchmark(benchmark) => {
                let ConvBenchmark { candidates, fused_candidates, workspace, disk_cache } = benchmark;
                let count = if problem.fusion.statistics { fused_candidates } else { candidates };
                let stored = || candidates::load(state.kind, state.planner.version(), problem);
                selection.fastest(count, workspace, &if disk_cache { stored() } else { vec![] })
            }
            ConvPlanChoice::Heuristic | ConvPlanChoice::Stored => {
                let plan = selection.first_that_runs();
                plan.and_then(|plan| plan.json().map(|json| (plan, json)).map_err(SelectionError::NoPlan))
            }
        };
        let mut fastest = plan_or_fallback(problem, selected)?;
        let is_supported = fastest.is_some();
        if let (Some((plan, _)), Some(alternative)) = (&fastest, alternative) {
            let timer = EventTimer::new(self.stream)?;
            let fused = timer.median_time(|| {
                self.execute(&state.handle, plan, tensors, workspace)?;
                (alternative.rest)()
            })?;
            // The separate convolution locks the state.
            drop(state);
            let separate = timer.median_time(alternative.separate)?;
            state = self.lock();
            if separate < fused {
                fastest = None;
            }
        }
        let (plan, choice) = match fastest {
            Some((plan, json)) => (Some(plan), ConvChoice::Plan(json)),
            None => (None, ConvChoice::Fallback),
        };
        state.choices.insert(problem, &choice);
        // An unsupported problem is supported once a library that was missing is installed.
        if is_supported && has_disk_cache(problem) {
            state.choices.store(problem, &choice);
        }
        Ok((state, plan))
    }

    /// The choice of a checkpoint or, if it is usable, of the cache folder, with its plan.
    fn stored_choice(
        &self,
        state: &CudnnState,
        problem: &ConvProblem,
        tensors: ConvTensors,
        workspace: &mut WorkspaceAllocator,
    ) -> Result<Option<(ConvChoice, Option<ExecutionPlan>)>, LibraryError> {
        let restored = state.choices.get(problem);
        let is_restored = restored.is_some();
        let load = || has_disk_cache(problem).then(|| state.choices.load(problem)).flatten();
        let Some(choice) = restored.or_else(load) else { return Ok(None) };
        let ConvChoice::Plan(json) = &choice else { return Ok(Some((choice, None))) };
        let run = &mut |plan: &ExecutionPlan| self.execute(&state.handle, plan, tensors, workspace);
        match self.selection(state, problem, tensors, run).restored(json) {
            Ok(plan) if is_restored || plan.workspace <= workspace_limit(problem) => {
                Ok(Some((choice, Some(plan))))
            }
            Err(SelectionError::Fault(e)) => Err(e),
            Err(SelectionError::NoPlan(e)) if is_restored => {
                Err(LibraryError::Restore { library: "cuDNN", what: problem.to_string(), why: e.to_string() })
            }
            // A file of another version of Fornax or of its cache.
            Ok(_) | Err(SelectionError::NoPlan(_)) => Ok(None),
        }
    }

    fn selection<'a>(
        &self,
        state: &'a CudnnState,
        problem: &'a ConvProblem,
        tensors: ConvTensors,
        run: &'a mut dyn FnMut(&ExecutionPlan) -> Result<(), LibraryError>,
    ) -> PlanSelection<'a> {
        PlanSelection { planner: &state.planner, problem, stream: self.stream, sums: tensors.sums, run }
    }

    /// Device memory of zeros, until the work queued on the stream is done.
    fn zeros(&self, bytes: usize, workspace: &mut WorkspaceAllocator) -> Result<CUdeviceptr, LibraryError> {
        let memory = workspace(bytes)?;
        // SAFETY: the memory is ours, and `new`'s caller guarantees that the stream is alive.
        unsafe { result::memset_d8_async(memory, 0, bytes, self.stream) }
            .map_err(|e| driver_error("filling memory", e))?;
        Ok(memory)
    }

    fn is_capturing(&self) -> Result<bool, LibraryError> {
        // SAFETY: `new`'s caller guarantees that the stream is alive.
        let status = unsafe { result::stream::is_capturing(self.stream) };
        let status = status.map_err(|e| driver_error("querying the capture status", e))?;
        Ok(status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }

    /// Queues a plan on the stream.
    fn execute(
        &self,
        handle: &CudnnHandle,
        plan: &ExecutionPlan,
        tensors: ConvTensors,
        workspace: &mut WorkspaceAllocator,
    ) -> Result<(), LibraryError> {
        let memory = match plan.workspace {
            0 => 0,
            bytes => workspace(bytes)?,
        };
        if let Some(sums) = tensors.sums.filter(|_| plan.accumulates_sums) {
            fill_sums(self.stream, sums, 0)?;
        }
        let (ids, pointers): (Vec<i64>, Vec<DevicePointer>) =
            tensors.bindings().map(|(id, pointer)| (id, DevicePointer(pointer))).unzip();
        let pack = Descriptor::new(self.api, DescriptorType::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?
            .set(AttributeName::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &ids)?
            .set(AttributeName::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, &pointers)?
            .set(AttributeName::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &[DevicePointer(memory)])?
            .finalize()?;
        // SAFETY: the plan is finalised for this handle, and the pack has its tensors and a workspace of its size; `forward`'s caller
        // guarantees that the tensors have the plan's shapes and dtypes.
        let status = unsafe { (self.api.execute)(handle.raw, plan.descriptor.raw().0, pack.raw().0) };
        self.api.check(status, || "running a plan".into())
    }
}

impl ConvTensors {
    /// Tensor ids and addresses.
    fn bindings(self) -> impl Iterator<Item = (i64, CUdeviceptr)> {
        let sums = self.sums.map(|s| [(SUM, s.sum), (SQUARES, s.squares)]);
        let three = [(INPUT, self.input), (WEIGHT, self.weight), (OUTPUT, self.output)];
        three.into_iter().chain(sums.into_iter().flatten())
    }

    /// The largest power of two, at most 16, that divides all addresses. No engine requires more.
    fn alignment(&self) -> usize {
        1 << self.bindings().fold(16, |all, (_, pointer)| all | pointer).trailing_zeros()
    }

    fn fusion(&self) -> ConvFusion {
        ConvFusion { statistics: self.sums.is_some(), accumulate: self.accumulate }
    }
}

/// True if choices for the problem are read from and stored in the cache folder.
fn has_disk_cache(problem: &ConvProblem) -> bool {
    matches!(problem.options.choice, ConvPlanChoice::Benchmark(ConvBenchmark { disk_cache: true, .. }))
}

/// True if operations are not fused with a convolution.
fn is_unfused(choice: ConvPlanChoice) -> bool {
    matches!(choice, ConvPlanChoice::Benchmark(ConvBenchmark { fused_candidates: 0, .. }))
}

/// Maximum workspace of a plan from the cache folder.
fn workspace_limit(problem: &ConvProblem) -> usize {
    match problem.options.choice {
        ConvPlanChoice::Benchmark(benchmark) => benchmark.workspace,
        ConvPlanChoice::Heuristic | ConvPlanChoice::Stored => usize::MAX,
    }
}

/// The selected plan. `None` selects the caller's fallback: the problem is unsupported, or every engine has failed on a healthy device.
fn plan_or_fallback<T>(
    problem: &ConvProblem,
    selected: Result<T, SelectionError>,
) -> Result<Option<T>, LibraryError> {
    match selected {
        Ok(selected) => Ok(Some(selected)),
        Err(SelectionError::NoPlan(LibraryError::Unsupported { .. })) => Ok(None),
        Err(SelectionError::NoPlan(error @ LibraryError::Call { .. })) => {
            warn_of_fallback(problem, &error);
            Ok(None)
        }
        Err(error) => Err(error.into_error()),
    }
}

/// Warns that no engine computes a problem. The caller caches that, so that each problem has one warning.
fn warn_of_fallback(problem: &ConvProblem, error: &LibraryError) {
    warn(format_args!(
        "no engine of cuDNN computes this {problem}, so a slower kernel does; the last error: {error}"
    ));
}
