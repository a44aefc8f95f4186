//! Selection of a problem's plan by running candidates: the first that runs, the fastest, or a stored one.
use super::api::{driver_error, is_fault, unsupported};
use super::candidates;
use super::operands::ChannelSums;
use super::planner::{ConvPlanner, ExecutionPlan, FIRST_THEN_ALL};
use super::problem::ConvProblem;
use super::timing::EventTimer;
use crate::cuda::LibraryError;
use cudarc::driver::result;
use cudarc::driver::sys::CUstream;

/// Candidates for a problem, and how to run them. Afterwards the tensors hold the result of the last candidate that ran.
pub(super) struct PlanSelection<'a> {
    pub(super) planner: &'a ConvPlanner,
    pub(super) problem: &'a ConvProblem,
    /// Live stream of the current context.
    pub(super) stream: CUstream,
    /// Sums that the problem writes, of its output channels.
    pub(super) sums: Option<ChannelSums>,
    /// Queues a plan on the stream.
    pub(super) run: &'a mut dyn FnMut(&ExecutionPlan) -> Result<(), LibraryError>,
}

/// Reason for a selection without a plan.
pub(super) enum SelectionError {
    /// No candidate builds and runs; the last error.
    NoPlan(LibraryError),
    /// The device failed: no result may be used.
    Fault(LibraryError),
}

impl SelectionError {
    pub(super) fn into_error(self) -> LibraryError {
        let (SelectionError::NoPlan(error) | SelectionError::Fault(error)) = self;
        error
    }
}

impl PlanSelection<'_> {
    /// The first plan of cuDNN's heuristics that builds and runs.
    pub(super) fn first_that_runs(mut self) -> Result<ExecutionPlan, SelectionError> {
        let planner = self.planner;
        let graph = planner.describe(self.problem).map_err(SelectionError::NoPlan)?;
        let mut last_error = unsupported(self.problem);
        for plan in planner.plans(self.problem, &graph, &FIRST_THEN_ALL) {
            match self.try_out(plan)? {
                Ok(plan) => return Ok(plan),
                Err(e) => last_error = e,
            }
        }
        Err(SelectionError::NoPlan(last_error))
    }

    /// The fastest of `count` plans that need at most `workspace` bytes, with its JSON representation: of the `stored` ones or, if none of
    /// them runs, of the planner's, taken in turn by engine.
    pub(super) fn fastest(
        mut self,
        count: usize,
        workspace: usize,
        stored: &[String],
    ) -> Result<(ExecutionPlan, String), SelectionError> {
        let planner = self.planner;
        if !stored.is_empty() {
            let restored = stored.iter().map(|json| planner.restore(json));
            match self.fastest_of(restored, count, workspace, true) {
                Err(SelectionError::NoPlan(_)) => {}
                decided => return decided,
            }
        }
        let graph = planner.describe(self.problem).map_err(SelectionError::NoPlan)?;
        self.fastest_of(planner.plans_in_turn(self.problem, &graph), count, workspace, false)
    }

    fn fastest_of(
        &mut self,
        plans: impl Iterator<Item = Result<ExecutionPlan, LibraryError>>,
        count: usize,
        workspace: usize,
        are_restored: bool,
    ) -> Result<(ExecutionPlan, String), SelectionError> {
        let timer = EventTimer::new(self.stream).map_err(SelectionError::Fault)?;
        let mut best: Option<(f32, (ExecutionPlan, String))> = None;
        let mut last_error = unsupported(self.problem);
        let small = plans.filter(|plan| match plan {
            Ok(plan) => plan.workspace <= workspace,
            Err(_) => true,
        });
        for plan in small.take(count.max(1)) {
            let tried = self.try_out(plan)?;
            candidates::count(are_restored, tried.is_ok());
            let storable = tried.and_then(|plan| plan.json().map(|json| (plan, json)));
            match storable {
                Ok((plan, json)) => match timer.median_time(|| (self.run)(&plan)) {
                    Ok(time) if best.as_ref().is_none_or(|best| time < best.0) => {
                        best = Some((time, (plan, json)));
                    }
                    Ok(_) => {}
                    Err(e) => last_error = skipped(self.stream, e)?,
                },
                Err(e) => last_error = e,
            }
        }
        best.map(|(_, fastest)| fastest).ok_or(SelectionError::NoPlan(last_error))
    }

    /// The plan with a JSON representation.
    pub(super) fn restored(mut self, json: &str) -> Result<ExecutionPlan, SelectionError> {
        let plan = self.planner.restore(json);
        self.try_out(plan)?.map_err(SelectionError::NoPlan)
    }

    /// Runs a plan, and sets if it accumulates sums: it does if they are NaN after it found NaN in their memory. The inner error is that of
    /// a plan that does not build, does not support its tensors, or fails without an error of the device.
    fn try_out(
        &mut self,
        plan: Result<ExecutionPlan, LibraryError>,
    ) -> Result<Result<ExecutionPlan, LibraryError>, SelectionError> {
        let mut plan = match plan {
            Ok(plan) => plan,
            Err(e) => return skipped(self.stream, e).map(Err),
        };
        if let Some(sums) = self.sums {
            fill_sums(self.stream, sums, NAN_BYTE).map_err(SelectionError::Fault)?;
        }
        if let Err(e) = (self.run)(&plan) {
            return skipped(self.stream, e).map(Err);
        }
        if let Some(sums) = self.sums {
            plan.accumulates_sums = self.has_nan(sums).map_err(SelectionError::Fault)?;
        }
        Ok(Ok(plan))
    }

    /// Waits for the stream and returns true if a sum is NaN.
    fn has_nan(&self, sums: ChannelSums) -> Result<bool, LibraryError> {
        let mut values = vec![0f32; sums.channels];
        let mut found = false;
        for from in [sums.sum, sums.squares] {
            // SAFETY: the sums have an element for each output channel, and `values` outlives the copy, which is waited for.
            unsafe {
                result::memcpy_dtoh_async(&mut values, from, self.stream)
                    .map_err(|e| driver_error("reading sums", e))?;
                result::stream::synchronize(self.stream)
                    .map_err(|e| driver_error("waiting for a plan", e))?;
            }
            found |= values.iter().any(|v| v.is_nan());
        }
        Ok(found)
    }
}

/// Returns the error of a skipped candidate if the device has no error, after waiting for the stream. Some engines fail at execution
/// (status 5xxx) for tensors that they do not support.
pub(super) fn skipped(stream: CUstream, error: LibraryError) -> Result<LibraryError, SelectionError> {
    if is_fault(&error) {
        return Err(SelectionError::Fault(error));
    }
    // SAFETY: the stream is alive.
    match unsafe { result::stream::synchronize(stream) } {
        Ok(()) => Ok(error),
        Err(fault) => Err(SelectionError::Fault(driver_error("running a plan", fault))),
    }
}

/// Byte of an f32 that is NaN.
const NAN_BYTE: u8 = 0xff;

/// Queues a fill of the sums with a byte.
pub(super) fn fill_sums(stream: CUstream, sums: ChannelSums, byte: u8) -> Result<(), LibraryError> {
    for to in [sums.sum, sums.squares] {
        // SAFETY: the sums have an element for each channel.
        unsafe { result::memset_d8_async(to, byte, sums.channels * size_of::<f32>(), stream) }
            .map_err(|e| driver_error("filling sums", e))?;
    }
    Ok(())
}
