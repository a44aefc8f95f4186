//! Convolutions on a stream: plans are made when a problem is first met, and kept.
use super::api::{Api, unplanned, unsupported};
use super::descriptor::{Descriptor, DevicePointer, HandleValue, Kind, Name};
use super::graph::{IMAGE, OUTPUT, SCALE, SHIFT, SQUARES, SUM, WEIGHT};
use super::planner::{ALL, ConvPlanner, FIRST_THEN_ALL, Plan};
use super::problem::{ConvEngineOptions, ConvFusion, ConvKind, ConvPlanChoice, ConvProblem};
use super::timing::Stopwatch;
use crate::cuda::library::{LibraryError, Workspace};
use crate::{ConvShape, DType};
use cudarc::driver::result;
use cudarc::driver::sys::{CUdeviceptr, CUstream, CUstreamCaptureStatus};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

/// cuDNN on one stream of one device.
pub struct Cudnn {
    api: &'static Api,
    stream: CUstream,
    // A handle and its plans must not be used by two threads at once.
    state: Mutex<State>,
}

struct State {
    // Before the handle: plans are destroyed first.
    // `None` where no engine takes the problem.
    plans: HashMap<ConvProblem, Option<Plan>>,
    planner: ConvPlanner,
    handle: Handle,
}

struct Handle {
    api: &'static Api,
    raw: *mut c_void,
}

// SAFETY: cuDNN's handles and plans belong to a context, not to a thread; the mutex lets one thread at a time use them. A stream
// may be named by any thread.
unsafe impl Send for Cudnn {}
// SAFETY: as above.
unsafe impl Sync for Cudnn {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is this value's own.
        unsafe { (self.api.destroy)(self.raw) };
    }
}

/// The device addresses of a scale and a shift for each channel of an image, in [`Problem::affine_dtype`].
#[derive(Clone, Copy, Debug)]
pub struct ChannelAffine {
    /// Of the scale.
    pub scale: CUdeviceptr,
    /// Of the shift.
    pub shift: CUdeviceptr,
}

/// The device addresses that receive, in f32, what an output's channels add up to.
#[derive(Clone, Copy, Debug)]
pub struct ChannelSums {
    /// Of the sums.
    pub sum: CUdeviceptr,
    /// Of the sums of squares.
    pub squares: CUdeviceptr,
}

/// The device addresses of a convolution's tensors: image and output stand for their gradients too.
#[derive(Clone, Copy)]
struct Tensors {
    image: CUdeviceptr,
    weight: CUdeviceptr,
    output: CUdeviceptr,
    affine: Option<ChannelAffine>,
    sums: Option<ChannelSums>,
}

impl Cudnn {
    /// Opens cuDNN for `stream`, whose context must be current, and is to outlive this value.
    ///
    /// # Safety
    /// `stream` must be a live stream of the current context.
    pub unsafe fn new(stream: CUstream) -> Result<Cudnn, LibraryError> {
        let api = Api::get()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the library writes one pointer.
        let status = unsafe { (api.create)(&mut raw) };
        api.check(status, || "creating a handle".into())?;
        let handle = Handle { api, raw };
        // SAFETY: the caller's stream is alive.
        let status = unsafe { (api.set_stream)(raw, stream.cast()) };
        api.check(status, || "choosing the stream".into())?;
        let planner = ConvPlanner::with_handle(api, HandleValue(raw));
        Ok(Cudnn { api, stream, state: Mutex::new(State { plans: HashMap::new(), planner, handle }) })
    }

    /// cuDNN's version, as 10000 major + 100 minor + patch.
    pub fn version(&self) -> usize {
        // SAFETY: the function has no preconditions.
        unsafe { (self.api.version)() }
    }

    /// `y = x * w`: x `[n, h, w, c]`, w `[out, kh, kw, c / groups]`, y `[n, h', w', out]`.
    ///
    /// # Safety
    /// The pointers must be device memory of the shapes and `dtype`, free of other use until the stream has got there, and the
    /// stream's context must be current.
    pub unsafe fn forward(
        &self,
        shape: &ConvShape,
        dtype: DType,
        options: ConvEngineOptions,
        x: CUdeviceptr,
        w: CUdeviceptr,
        y: CUdeviceptr,
        workspace: &mut Workspace,
    ) -> Result<(), LibraryError> {
        let tensors = Tensors { image: x, weight: w, output: y, affine: None, sums: None };
        // SAFETY: as the caller promises.
        unsafe { self.run(ConvKind::Forward, shape, dtype, options, tensors, workspace) }
    }

    /// `dx`, the gradient of [`Dnn::forward`]'s x, from `dy`.
    ///
    /// # Safety
    /// As for [`Dnn::forward`].
    pub unsafe fn data_gradient(
        &self,
        shape: &ConvShape,
        dtype: DType,
        options: ConvEngineOptions,
        dy: CUdeviceptr,
        w: CUdeviceptr,
        dx: CUdeviceptr,
        workspace: &mut Workspace,
    ) -> Result<(), LibraryError> {
        let tensors = Tensors { image: dx, weight: w, output: dy, affine: None, sums: None };
        // SAFETY: as the caller promises.
        unsafe { self.run(ConvKind::DataGradient, shape, dtype, options, tensors, workspace) }
    }

    /// `dw`, the gradient of [`Dnn::forward`]'s w, from `dy`; summed in f32, rounded once to `dtype`.
    ///
    /// # Safety
    /// As for [`Dnn::forward`].
    pub unsafe fn weight_gradient(
        &self,
        shape: &ConvShape,
        dtype: DType,
        options: ConvEngineOptions,
        x: CUdeviceptr,
        dy: CUdeviceptr,
        dw: CUdeviceptr,
        workspace: &mut Workspace,
    ) -> Result<(), LibraryError> {
        let tensors = Tensors { image: x, weight: dw, output: dy, affine: None, sums: None };
        // SAFETY: as the caller promises.
        unsafe { self.run(ConvKind::WeightGradient, shape, dtype, options, tensors, workspace) }
    }

    /// [`Dnn::forward`] of `max(x scale + shift, 0)` where `affine` is given, with the sums of the result's channels where
    /// `sums` is. [`LibraryError::Unsupported`], and nothing done, where cuDNN has no one kernel for it; the answer is kept.
    ///
    /// # Safety
    /// As for [`Dnn::forward`]; scale and shift have as many elements as x channels, the sums as many as y.
    pub unsafe fn forward_fused(
        &self,
        shape: &ConvShape,
        dtype: DType,
        options: ConvEngineOptions,
        (x, affine): (CUdeviceptr, Option<ChannelAffine>),
        w: CUdeviceptr,
        (y, sums): (CUdeviceptr, Option<ChannelSums>),
        workspace: &mut Workspace,
    ) -> Result<(), LibraryError> {
        let tensors = Tensors { image: x, weight: w, output: y, affine, sums };
        // SAFETY: as the caller promises.
        unsafe { self.run(ConvKind::Forward, shape, dtype, options, tensors, workspace) }
    }

    /// [`Dnn::weight_gradient`] for the image `max(x scale + shift, 0)`; refusals as of [`Dnn::forward_fused`].
    ///
    /// # Safety
    /// As for [`Dnn::forward_fused`].
    pub unsafe fn weight_gradient_fused(
        &self,
        shape: &ConvShape,
        dtype: DType,
        options: ConvEngineOptions,
        (x, affine): (CUdeviceptr, ChannelAffine),
        dy: CUdeviceptr,
        dw: CUdeviceptr,
        workspace: &mut Workspace,
    ) -> Result<(), LibraryError> {
        let tensors = Tensors { image: x, weight: dw, output: dy, affine: Some(affine), sums: None };
        // SAFETY: as the caller promises.
        unsafe { self.run(ConvKind::WeightGradient, shape, dtype, options, tensors, workspace) }
    }

    /// # Safety
    /// As for [`Dnn::forward`].
    unsafe fn run(
        &self,
        kind: ConvKind,
        shape: &ConvShape,
        dtype: DType,
        options: ConvEngineOptions,
        tensors: Tensors,
        workspace: &mut Workspace,
    ) -> Result<(), LibraryError> {
        let (alignment, fusion) = (tensors.alignment(), tensors.fusion());
        let problem = ConvProblem { kind, shape: *shape, dtype, alignment, fusion, options };
        if shape.input_len() == 0 || shape.weight_len() == 0 || shape.output_len() == 0 {
            return Err(unsupported(format!("empty tensor: {problem}")));
        }
        // Engines that are compiled for a graph do not say whether they round to TF32.
        if fusion != ConvFusion::default() && dtype == DType::F32 && !options.tf32 {
            return Err(unsupported(problem));
        }
        // A panic elsewhere leaves plans complete: they are stored whole or not at all.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.plans.get(&problem) {
            Some(Some(plan)) => return self.execute(&state.handle, plan, tensors, workspace),
            Some(None) => return Err(unsupported(problem)),
            // Engines are compiled, loaded and timed, none of which can be recorded.
            None if self.is_recording()? => return Err(unplanned(problem)),
            None => {}
        }
        let execute = |plan: &Plan| self.execute(&state.handle, plan, tensors, workspace);
        let found = match options.choice {
            ConvPlanChoice::Heuristic => first_that_runs(&state.planner, &problem, execute),
            ConvPlanChoice::Benchmark { candidates, workspace } => {
                let stopwatch = Stopwatch::new(self.stream)?;
                fastest(&state.planner, &problem, candidates, workspace, stopwatch, execute)
            }
        };
        match found {
            Ok(plan) => {
                state.plans.insert(problem, Some(plan));
                Ok(())
            }
            // A fusion that cannot be compiled is one that cuDNN lacks: there is another way.
            Err(e)
                if is_refusal(&e)
                    || fusion != ConvFusion::default() && matches!(e, LibraryError::Call { .. }) =>
            {
                state.plans.insert(problem, None);
                Err(if is_refusal(&e) { e } else { unsupported(problem) })
            }
            Err(e) => Err(e),
        }
    }

    fn is_recording(&self) -> Result<bool, LibraryError> {
        // SAFETY: the stream is alive, as `new`'s caller promises.
        let status = unsafe { result::stream::is_capturing(self.stream) };
        let status = status.map_err(|e| LibraryError::Call {
            library: "CUDA",
            call: "asking whether work is recorded".into(),
            status: e.0 as i32,
            message: e.to_string(),
        })?;
        Ok(status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }

    /// Queues a plan on the stream.
    fn execute(
        &self,
        handle: &Handle,
        plan: &Plan,
        tensors: Tensors,
        workspace: &mut Workspace,
    ) -> Result<(), LibraryError> {
        let memory = match plan.workspace {
            0 => 0,
            bytes => workspace(bytes)?,
        };
        let (ids, pointers): (Vec<i64>, Vec<DevicePointer>) =
            tensors.named().map(|(id, pointer)| (id, DevicePointer(pointer))).unzip();
        let pack = Descriptor::new(self.api, Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?
            .set(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &ids)?
            .set(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, &pointers)?
            .set(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &[DevicePointer(memory)])?
            .finish()?;
        // SAFETY: the plan is finalised for this handle, the pack names its tensors and as much workspace as it wants;
        // that the memory is what the plan takes it for is the promise of `forward`'s caller.
        let status = unsafe { (self.api.execute)(handle.raw, plan.descriptor.raw().0, pack.raw().0) };
        self.api.check(status, || "running a plan".into())
    }
}

impl Tensors {
    /// Identities in the graph, and addresses.
    fn named(self) -> impl Iterator<Item = (i64, CUdeviceptr)> {
        let affine = self.affine.map(|a| [(SCALE, a.scale), (SHIFT, a.shift)]);
        let sums = self.sums.map(|s| [(SUM, s.sum), (SQUARES, s.squares)]);
        let three = [(IMAGE, self.image), (WEIGHT, self.weight), (OUTPUT, self.output)];
        three.into_iter().chain(affine.into_iter().flatten()).chain(sums.into_iter().flatten())
    }

    /// The largest power of two, at most 16, that divides all addresses: more brings no engine.
    fn alignment(&self) -> usize {
        1 << self.named().fold(16, |all, (_, pointer)| all | pointer).trailing_zeros()
    }

    fn fusion(&self) -> ConvFusion {
        ConvFusion { normalize: self.affine.is_some(), statistics: self.sums.is_some() }
    }
}

fn is_refusal(error: &LibraryError) -> bool {
    matches!(error, LibraryError::Unsupported { .. })
}

/// The first plan that builds and runs.
fn first_that_runs(
    planner: &ConvPlanner,
    problem: &ConvProblem,
    mut execute: impl FnMut(&Plan) -> Result<(), LibraryError>,
) -> Result<Plan, LibraryError> {
    let graph = planner.describe(problem)?;
    let mut refusal = unsupported(problem);
    for plan in planner.plans(problem, &graph, &FIRST_THEN_ALL) {
        match plan.and_then(|plan| execute(&plan).map(|()| plan)) {
            Ok(plan) => return Ok(plan),
            Err(e) => refusal = e,
        }
    }
    Err(refusal)
}

/// The fastest of the first `candidates` plans that work in at most `workspace` bytes.
fn fastest(
    planner: &ConvPlanner,
    problem: &ConvProblem,
    candidates: usize,
    workspace: usize,
    stopwatch: Stopwatch,
    mut execute: impl FnMut(&Plan) -> Result<(), LibraryError>,
) -> Result<Plan, LibraryError> {
    let graph = planner.describe(problem)?;
    let mut best: Option<(f32, Plan)> = None;
    let mut refusal = unsupported(problem);
    let small = planner.plans(problem, &graph, &ALL).filter(|plan| match plan {
        Ok(plan) => plan.workspace <= workspace,
        Err(_) => true,
    });
    for plan in small.take(candidates.max(1)) {
        // Twice: the first run loads the kernels.
        let timed = plan.and_then(|plan| {
            execute(&plan)?;
            Ok((stopwatch.time(|| execute(&plan))?, plan))
        });
        match timed {
            Ok(timed) if best.as_ref().is_none_or(|best| timed.0 < best.0) => best = Some(timed),
            Ok(_) => {}
            Err(e) => refusal = e,
        }
    }
    best.map(|(_, plan)| plan).ok_or(refusal)
}
