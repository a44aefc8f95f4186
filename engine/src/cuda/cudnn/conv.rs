//! Convolutions on a stream, with a cache of plans, which are made at the first use of a problem.
use super::api::{CudnnApi, unplanned, unsupported};
use super::descriptor::{AttributeName, Descriptor, DescriptorType, DevicePointer, HandleValue};
use super::graph::{INPUT, OUTPUT, SCALE, SHIFT, SQUARES, SUM, WEIGHT};
use super::planner::{ALL_CONFIGURATIONS, ConvPlanner, ExecutionPlan, FIRST_THEN_ALL};
use super::problem::{ConvEngineOptions, ConvFusion, ConvKind, ConvPlanChoice, ConvProblem};
use super::timing::EventTimer;
use crate::cuda::library::{LibraryError, WorkspaceAllocator};
use crate::{ConvShape, DType};
use cudarc::driver::sys::{CUdeviceptr, CUstream, CUstreamCaptureStatus};
use cudarc::driver::{DriverError, result};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

/// cuDNN on one stream of one device.
pub struct Cudnn {
    api: &'static CudnnApi,
    stream: CUstream,
    // A handle and its plans must not be used by two threads at once.
    state: Mutex<CudnnState>,
}

struct CudnnState {
    // Declared before the handle, so that plans are dropped first. `None` for an unsupported problem.
    plans: HashMap<ConvProblem, Option<ExecutionPlan>>,
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

/// Device addresses of a scale and a shift per input channel, of dtype [`ConvProblem::affine_dtype`].
#[derive(Clone, Copy, Debug)]
pub struct ChannelAffine {
    /// Scale.
    pub scale: CUdeviceptr,
    /// Shift.
    pub shift: CUdeviceptr,
}

/// Device addresses for the f32 sums of each output channel.
#[derive(Clone, Copy, Debug)]
pub struct ChannelSums {
    /// Sums.
    pub sum: CUdeviceptr,
    /// Sums of squares.
    pub squares: CUdeviceptr,
}

/// Device addresses of a convolution's tensors. For gradient computations, they are those of the gradients.
#[derive(Clone, Copy)]
struct ConvTensors {
    input: CUdeviceptr,
    weight: CUdeviceptr,
    output: CUdeviceptr,
    affine: Option<ChannelAffine>,
    sums: Option<ChannelSums>,
    /// Data gradient: add to the input's gradient.
    accumulate: bool,
}

impl Cudnn {
    /// Opens cuDNN for `stream`, whose context must be current and must outlive this value.
    ///
    /// # Safety
    /// `stream` must be a live stream of the current context.
    pub unsafe fn new(stream: CUstream) -> Result<Cudnn, LibraryError> {
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
        Ok(Cudnn { api, stream, state: Mutex::new(CudnnState { plans: HashMap::new(), planner, handle }) })
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
        let tensors =
            ConvTensors { input: x, weight: w, output: y, affine: None, sums: None, accumulate: false };
        // SAFETY: guaranteed by the caller.
        unsafe { self.run(ConvKind::Forward, shape, dtype, options, tensors, workspace) }
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
        let tensors =
            ConvTensors { input: dx, weight: w, output: dy, affine: None, sums: None, accumulate: false };
        // SAFETY: guaranteed by the caller.
        unsafe { self.run(ConvKind::DataGradient, shape, dtype, options, tensors, workspace) }
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
        let tensors =
            ConvTensors { input: dx, weight: w, output: dy, affine: None, sums: None, accumulate: true };
        // SAFETY: guaranteed by the caller.
        unsafe { self.run(ConvKind::DataGradient, shape, dtype, options, tensors, workspace) }
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
        let tensors =
            ConvTensors { input: x, weight: dw, output: dy, affine: None, sums: None, accumulate: false };
        // SAFETY: guaranteed by the caller.
        unsafe { self.run(ConvKind::WeightGradient, shape, dtype, options, tensors, workspace) }
    }

    /// [`Cudnn::forward`] of `max(x * scale + shift, 0)` if `affine` is given, with per-channel sums of the output if `sums` is given.
    /// Returns [`LibraryError::Unsupported`], without effect, if cuDNN has no kernel for the fusion; that result is cached.
    ///
    /// # Safety
    /// As for [`Cudnn::forward`]; scale and shift have one element per channel of x, the sums one per channel of y.
    pub unsafe fn forward_fused(
        &self,
        shape: &ConvShape,
        dtype: DType,
        options: ConvEngineOptions,
        (x, affine): (CUdeviceptr, Option<ChannelAffine>),
        w: CUdeviceptr,
        (y, sums): (CUdeviceptr, Option<ChannelSums>),
        workspace: &mut WorkspaceAllocator,
    ) -> Result<(), LibraryError> {
        let tensors = ConvTensors { input: x, weight: w, output: y, affine, sums, accumulate: false };
        // SAFETY: guaranteed by the caller.
        unsafe { self.run(ConvKind::Forward, shape, dtype, options, tensors, workspace) }
    }

    /// [`Cudnn::weight_gradient`] for the input `max(x * scale + shift, 0)`; errors as for [`Cudnn::forward_fused`].
    ///
    /// # Safety
    /// As for [`Cudnn::forward_fused`].
    pub unsafe fn weight_gradient_fused(
        &self,
        shape: &ConvShape,
        dtype: DType,
        options: ConvEngineOptions,
        (x, affine): (CUdeviceptr, ChannelAffine),
        dy: CUdeviceptr,
        dw: CUdeviceptr,
        workspace: &mut WorkspaceAllocator,
    ) -> Result<(), LibraryError> {
        let tensors = ConvTensors {
            input: x,
            weight: dw,
            output: dy,
            affine: Some(affine),
            sums: None,
            accumulate: false,
        };
        // SAFETY: guaranteed by the caller.
        unsafe { self.run(ConvKind::WeightGradient, shape, dtype, options, tensors, workspace) }
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
        workspace: &mut WorkspaceAllocator,
    ) -> Result<(), LibraryError> {
        let (alignment, fusion) = (tensors.alignment(), tensors.fusion());
        let problem = ConvProblem { kind, shape: *shape, dtype, alignment, fusion, options };
        if shape.input_len() == 0 || shape.weight_len() == 0 || shape.output_len() == 0 {
            return Err(unsupported(format!("empty tensor: {problem}")));
        }
        // Run-time-compiled engines do not report whether they round to TF32.
        if (fusion.normalize || fusion.statistics) && dtype == DType::F32 && !options.tf32 {
            return Err(unsupported(problem));
        }
        // A panic in another thread leaves complete plans.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.plans.get(&problem) {
            Some(Some(plan)) => return self.execute(&state.handle, plan, tensors, workspace),
            Some(None) => return Err(unsupported(problem)),
            // Engines are compiled, loaded and timed, none of which can be captured.
            None if self.is_capturing()? => return Err(unplanned(problem)),
            None => {}
        }
        // Planning runs plans, some of them several times, so it must not accumulate into the result.
        let planned = match fusion.accumulate {
            true => {
                ConvTensors { input: self.zeros(shape.input_len() * dtype.size(), workspace)?, ..tensors }
            }
            false => tensors,
        };
        let execute = |plan: &ExecutionPlan| self.execute(&state.handle, plan, planned, workspace);
        let found = match options.choice {
            ConvPlanChoice::Heuristic => first_that_runs(&state.planner, &problem, execute),
            ConvPlanChoice::Benchmark { candidates, workspace } => {
                let timer = EventTimer::new(self.stream)?;
                benchmark_plans(&state.planner, &problem, candidates, workspace, timer, execute)
            }
        };
        match found {
            Ok(plan) => {
                let result = match fusion.accumulate {
                    true => self.execute(&state.handle, &plan, tensors, workspace),
                    false => Ok(()),
                };
                state.plans.insert(problem, Some(plan));
                result
            }
            // A fusion that fails to compile is unsupported; the caller has a fallback.
            Err(e)
                if is_unsupported(&e)
                    || fusion != ConvFusion::default() && matches!(e, LibraryError::Call { .. }) =>
            {
                state.plans.insert(problem, None);
                Err(if is_unsupported(&e) { e } else { unsupported(problem) })
            }
            Err(e) => Err(e),
        }
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
        let affine = self.affine.map(|a| [(SCALE, a.scale), (SHIFT, a.shift)]);
        let sums = self.sums.map(|s| [(SUM, s.sum), (SQUARES, s.squares)]);
        let three = [(INPUT, self.input), (WEIGHT, self.weight), (OUTPUT, self.output)];
        three.into_iter().chain(affine.into_iter().flatten()).chain(sums.into_iter().flatten())
    }

    /// The largest power of two, at most 16, that divides all addresses. No engine requires more.
    fn alignment(&self) -> usize {
        1 << self.bindings().fold(16, |all, (_, pointer)| all | pointer).trailing_zeros()
    }

    fn fusion(&self) -> ConvFusion {
        ConvFusion {
            normalize: self.affine.is_some(),
            statistics: self.sums.is_some(),
            accumulate: self.accumulate,
        }
    }
}

fn driver_error(call: &str, error: DriverError) -> LibraryError {
    LibraryError::Call {
        library: "CUDA",
        call: call.into(),
        status: error.0 as i32,
        message: error.to_string(),
    }
}

fn is_unsupported(error: &LibraryError) -> bool {
    matches!(error, LibraryError::Unsupported { .. })
}

/// Returns the first plan that builds and runs, after running it.
fn first_that_runs(
    planner: &ConvPlanner,
    problem: &ConvProblem,
    mut execute: impl FnMut(&ExecutionPlan) -> Result<(), LibraryError>,
) -> Result<ExecutionPlan, LibraryError> {
    let graph = planner.describe(problem)?;
    let mut last_error = unsupported(problem);
    for plan in planner.plans(problem, &graph, &FIRST_THEN_ALL) {
        match plan.and_then(|plan| execute(&plan).map(|()| plan)) {
            Ok(plan) => return Ok(plan),
            Err(e) => last_error = e,
        }
    }
    Err(last_error)
}

/// Returns the fastest of the first `candidates` plans that need at most `workspace` bytes, after running them all.
fn benchmark_plans(
    planner: &ConvPlanner,
    problem: &ConvProblem,
    candidates: usize,
    workspace: usize,
    timer: EventTimer,
    mut execute: impl FnMut(&ExecutionPlan) -> Result<(), LibraryError>,
) -> Result<ExecutionPlan, LibraryError> {
    let graph = planner.describe(problem)?;
    let mut best: Option<(f32, ExecutionPlan)> = None;
    let mut last_error = unsupported(problem);
    let small = planner.plans(problem, &graph, &ALL_CONFIGURATIONS).filter(|plan| match plan {
        Ok(plan) => plan.workspace <= workspace,
        Err(_) => true,
    });
    for plan in small.take(candidates.max(1)) {
        // Run twice, because the first run loads the kernels.
        let timed = plan.and_then(|plan| {
            execute(&plan)?;
            Ok((timer.time(|| execute(&plan))?, plan))
        });
        match timed {
            Ok(timed) if best.as_ref().is_none_or(|best| timed.0 < best.0) => best = Some(timed),
            Ok(_) => {}
            Err(e) => last_error = e,
        }
    }
    best.map(|(_, plan)| plan).ok_or(last_error)
}
