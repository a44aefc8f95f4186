//! Convolutions on a stream: plans are made when a problem is first met, and kept.
use super::api::{Api, unsupported};
use super::descriptor::{Descriptor, DevicePointer, HandleValue, Kind, Name};
use super::graph::{IMAGE, OUTPUT, WEIGHT};
use super::planner::{ALL, FIRST_THEN_ALL, Plan, Planner};
use super::problem::{ConvKind, ConvOptions, PlanChoice, Problem};
use super::timing::Stopwatch;
use crate::cuda::library::{LibraryError, Workspace};
use crate::{ConvShape, DType};
use cudarc::driver::sys::{CUdeviceptr, CUstream};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

/// cuDNN on one stream of one device.
pub struct Dnn {
    api: &'static Api,
    stream: CUstream,
    // A handle and its plans must not be used by two threads at once.
    state: Mutex<State>,
}

struct State {
    // Before the handle: plans are destroyed first.
    plans: HashMap<Problem, Plan>,
    planner: Planner,
    handle: Handle,
}

struct Handle {
    api: &'static Api,
    raw: *mut c_void,
}

// SAFETY: cuDNN's handles and plans belong to a context, not to a thread; the mutex lets one thread at a time use them. A stream
// may be named by any thread.
unsafe impl Send for Dnn {}
// SAFETY: as above.
unsafe impl Sync for Dnn {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is this value's own.
        unsafe { (self.api.destroy)(self.raw) };
    }
}

/// The device addresses of a convolution's three tensors: image and output stand for their gradients too.
#[derive(Clone, Copy)]
struct Tensors {
    image: CUdeviceptr,
    weight: CUdeviceptr,
    output: CUdeviceptr,
}

impl Dnn {
    /// Opens cuDNN for `stream`, whose context must be current, and is to outlive this value.
    ///
    /// # Safety
    /// `stream` must be a live stream of the current context.
    pub unsafe fn new(stream: CUstream) -> Result<Dnn, LibraryError> {
        let api = Api::get()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the library writes one pointer.
        let status = unsafe { (api.create)(&mut raw) };
        api.check(status, || "creating a handle".into())?;
        let handle = Handle { api, raw };
        // SAFETY: the caller's stream is alive.
        let status = unsafe { (api.set_stream)(raw, stream.cast()) };
        api.check(status, || "choosing the stream".into())?;
        let planner = Planner::with_handle(api, HandleValue(raw));
        Ok(Dnn { api, stream, state: Mutex::new(State { plans: HashMap::new(), planner, handle }) })
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
        options: ConvOptions,
        x: CUdeviceptr,
        w: CUdeviceptr,
        y: CUdeviceptr,
        workspace: &mut Workspace,
    ) -> Result<(), LibraryError> {
        let tensors = Tensors { image: x, weight: w, output: y };
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
        options: ConvOptions,
        dy: CUdeviceptr,
        w: CUdeviceptr,
        dx: CUdeviceptr,
        workspace: &mut Workspace,
    ) -> Result<(), LibraryError> {
        let tensors = Tensors { image: dx, weight: w, output: dy };
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
        options: ConvOptions,
        x: CUdeviceptr,
        dy: CUdeviceptr,
        dw: CUdeviceptr,
        workspace: &mut Workspace,
    ) -> Result<(), LibraryError> {
        let tensors = Tensors { image: x, weight: dw, output: dy };
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
        options: ConvOptions,
        tensors: Tensors,
        workspace: &mut Workspace,
    ) -> Result<(), LibraryError> {
        let problem = Problem { kind, shape: *shape, dtype, alignment: tensors.alignment(), options };
        if shape.input_len() == 0 || shape.weight_len() == 0 || shape.output_len() == 0 {
            return Err(unsupported(format!("empty tensor: {problem}")));
        }
        // A panic elsewhere leaves plans complete: they are stored whole or not at all.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = state.plans.get(&problem) {
            return self.execute(&state.handle, plan, tensors, workspace);
        }
        let execute = |plan: &Plan| self.execute(&state.handle, plan, tensors, workspace);
        let plan = match options.choice {
            PlanChoice::Heuristic => first_that_runs(&state.planner, &problem, execute)?,
            PlanChoice::Timed { candidates, workspace } => {
                let stopwatch = Stopwatch::new(self.stream)?;
                fastest(&state.planner, &problem, candidates, workspace, stopwatch, execute)?
            }
        };
        state.plans.insert(problem, plan);
        Ok(())
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
        let pointers = [tensors.image, tensors.weight, tensors.output].map(DevicePointer);
        let pack = Descriptor::new(self.api, Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?
            .set(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &[IMAGE, WEIGHT, OUTPUT])?
            .set(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, &pointers)?
            .set(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &[DevicePointer(memory)])?
            .finish()?;
        // SAFETY: the plan is finalised for this handle, the pack names its three tensors and as much workspace as it wants;
        // that the memory is what the plan takes it for is the promise of `forward`'s caller.
        let status = unsafe { (self.api.execute)(handle.raw, plan.descriptor.raw().0, pack.raw().0) };
        self.api.check(status, || "running a plan".into())
    }
}

impl Tensors {
    /// The largest power of two, at most 16, that divides all three addresses: more brings no engine.
    fn alignment(&self) -> usize {
        1 << (self.image | self.weight | self.output | 16).trailing_zeros()
    }
}

/// The first plan that builds and runs.
fn first_that_runs(
    planner: &Planner,
    problem: &Problem,
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
    planner: &Planner,
    problem: &Problem,
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
