//! NCCL's calls between two emulated devices of this process.

use std::ffi::c_int;
use std::sync::Arc;
use std::thread;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DevicePtrMut};
use cudarc::nccl::sys::{self, ncclComm_t, ncclDataType_t, ncclRedOp_t, ncclResult_t};
use half::{bf16, f16};

use super::support::emulated;

const OK: ncclResult_t = ncclResult_t::ncclSuccess;
const IN_PROGRESS: ncclResult_t = ncclResult_t::ncclInProgress;

/// A rank on the device of its number.
struct Rank {
    communicator: ncclComm_t,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
}

fn device(ordinal: usize) -> (Arc<CudaContext>, Arc<CudaStream>) {
    let context = CudaContext::new(ordinal).unwrap();
    let stream = context.new_stream().unwrap();
    (context, stream)
}

fn unique_id() -> sys::ncclUniqueId {
    let mut id = sys::ncclUniqueId { internal: [0; 128] };
    // SAFETY: the call writes the id.
    assert_eq!(unsafe { sys::ncclGetUniqueId(&mut id) }, OK);
    id
}

/// Makes the calls in a group.
fn group(calls: impl FnOnce()) -> ncclResult_t {
    // SAFETY: the calls have no preconditions.
    unsafe {
        assert_eq!(sys::ncclGroupStart(), OK);
        calls();
        sys::ncclGroupEnd()
    }
}

/// Two ranks in one thread, which needs a group.
fn two_ranks() -> Vec<Rank> {
    let (id, mut ranks) = (unique_id(), vec![]);
    let joined = group(|| {
        for rank in 0..2 {
            let (context, stream) = device(rank);
            context.bind_to_thread().unwrap();
            let mut communicator = std::ptr::null_mut();
            // SAFETY: the call writes the communicator.
            assert_eq!(unsafe { sys::ncclCommInitRank(&mut communicator, 2, id, rank as c_int) }, OK);
            ranks.push(Rank { communicator, context, stream });
        }
    });
    assert_eq!(joined, OK);
    ranks
}

fn destroy(ranks: Vec<Rank>) {
    for rank in ranks {
        rank.stream.synchronize().unwrap();
        // SAFETY: the communicator is alive, and used no more.
        assert_eq!(unsafe { sys::ncclCommDestroy(rank.communicator) }, OK);
    }
}

/// All-reduces an array of each rank, in place, and returns the results of the ranks.
fn all_reduce<T: cudarc::driver::DeviceRepr + Clone + Default + Unpin>(
    ranks: &[Rank],
    inputs: [&[T]; 2],
    dtype: ncclDataType_t,
    reduction: ncclRedOp_t,
) -> Vec<Vec<T>> {
    let mut arrays: Vec<CudaSlice<T>> =
        ranks.iter().zip(inputs).map(|(rank, input)| rank.stream.clone_htod(input).unwrap()).collect();
    let queued = group(|| {
        for (rank, array) in ranks.iter().zip(&mut arrays) {
            rank.context.bind_to_thread().unwrap();
            let count = array.len();
            let (at, _sync) = array.device_ptr_mut(&rank.stream);
            // SAFETY: the array has `count` elements, and is alive until the stream is synchronized.
            let status = unsafe {
                sys::ncclAllReduce(
                    at as *const _,
                    at as *mut _,
                    count,
                    dtype,
                    reduction,
                    rank.communicator,
                    rank.stream.cu_stream().cast(),
                )
            };
            assert_eq!(status, OK);
        }
    });
    assert_eq!(queued, OK);
    ranks.iter().zip(&arrays).map(|(rank, array)| rank.stream.clone_dtoh(array).unwrap()).collect()
}

#[test]
fn every_dtype_and_reduction_is_exact_on_small_integers() {
    let _emulated = emulated(0, false);
    let ranks = two_ranks();
    let (a, b) = ([6u8, 2, 3], [2u8, 4, 3]);
    let expected: [(ncclRedOp_t, [u8; 3]); 5] = [
        (ncclRedOp_t::ncclSum, [8, 6, 6]),
        (ncclRedOp_t::ncclProd, [12, 8, 9]),
        (ncclRedOp_t::ncclMax, [6, 4, 3]),
        (ncclRedOp_t::ncclMin, [2, 2, 3]),
        (ncclRedOp_t::ncclAvg, [4, 3, 3]),
    ];
    macro_rules! check {
        ($dtype:ident, $type:ty, $from:expr, $to:expr) => {
            for (reduction, values) in expected {
                let (from, to): (fn(u8) -> $type, fn($type) -> f64) = ($from, $to);
                let (a, b) = (a.map(from), b.map(from));
                for got in all_reduce(&ranks, [&a, &b], ncclDataType_t::$dtype, reduction) {
                    let got: Vec<f64> = got.into_iter().map(to).collect();
                    assert_eq!(got, values.map(f64::from), "{reduction:?} of {}", stringify!($dtype));
                }
            }
        };
    }
    check!(ncclInt8, i8, |v| v as i8, f64::from);
    check!(ncclUint8, u8, |v| v, f64::from);
    check!(ncclInt32, i32, i32::from, f64::from);
    check!(ncclUint32, u32, u32::from, f64::from);
    check!(ncclInt64, i64, i64::from, |v| v as f64);
    check!(ncclUint64, u64, u64::from, |v| v as f64);
    check!(ncclFloat16, u16, |v| f16::from_f32(v.into()).to_bits(), |v| f16::from_bits(v).to_f64());
    check!(ncclBfloat16, u16, |v| bf16::from_f32(v.into()).to_bits(), |v| bf16::from_bits(v).to_f64());
    check!(ncclFloat32, f32, f32::from, f64::from);
    check!(ncclFloat64, f64, f64::from, |v| v);
    destroy(ranks);
}

#[test]
fn reduce_scatter_gives_each_rank_its_part() {
    let _emulated = emulated(0, false);
    let ranks = two_ranks();
    let inputs: Vec<CudaSlice<f32>> =
        ranks.iter().map(|r| r.stream.clone_htod(&[1.0, 2.0, 3.0, 4.0]).unwrap()).collect();
    let mut outputs: Vec<CudaSlice<f32>> = ranks.iter().map(|r| r.stream.alloc_zeros(2).unwrap()).collect();
    let queued = group(|| {
        for ((rank, input), output) in ranks.iter().zip(&inputs).zip(&mut outputs) {
            let ((from, _read), (to, _write)) =
                (input.device_ptr(&rank.stream), output.device_ptr_mut(&rank.stream));
            let (dtype, sum) = (ncclDataType_t::ncclFloat32, ncclRedOp_t::ncclSum);
            // SAFETY: the input has two elements for each rank, the output two; both are alive until the stream is synchronized.
            let status = unsafe {
                let stream = rank.stream.cu_stream().cast();
                sys::ncclReduceScatter(
                    from as *const _,
                    to as *mut _,
                    2,
                    dtype,
                    sum,
                    rank.communicator,
                    stream,
                )
            };
            assert_eq!(status, OK);
        }
    });
    assert_eq!(queued, OK);
    let got: Vec<Vec<f32>> =
        ranks.iter().zip(&outputs).map(|(r, o)| r.stream.clone_dtoh(o).unwrap()).collect();
    assert_eq!(got, [[2.0, 4.0], [6.0, 8.0]]);
    destroy(ranks);
}

#[test]
fn communicator_reports_its_ranks_and_rejects_wrong_arguments() {
    let _emulated = emulated(0, false);
    let ranks = two_ranks();
    let (mut version, mut count, mut rank, mut device) = (0, 0, -1, -1);
    // SAFETY: the calls write a number each; wrong arguments are rejected before use.
    unsafe {
        assert_eq!(sys::ncclGetVersion(&mut version), OK);
        let communicator = ranks[1].communicator;
        assert_eq!(sys::ncclCommCount(communicator, &mut count), OK);
        assert_eq!(sys::ncclCommUserRank(communicator, &mut rank), OK);
        assert_eq!(sys::ncclCommCuDevice(communicator, &mut device), OK);
        let (dtype, sum) = (ncclDataType_t::ncclFloat32, ncclRedOp_t::ncclSum);
        let null = std::ptr::null_mut();
        let stream = ranks[1].stream.cu_stream().cast();
        let status = sys::ncclAllReduce(null, null, 1, dtype, sum, communicator, stream);
        assert_eq!(status, ncclResult_t::ncclInvalidArgument);
        // The stream of the other rank's device.
        let other = ranks[0].stream.cu_stream().cast();
        let status = sys::ncclAllReduce(null, null, 0, dtype, sum, communicator, other);
        assert_eq!(status, ncclResult_t::ncclInvalidArgument);
        assert_eq!(sys::ncclGroupEnd(), ncclResult_t::ncclInvalidUsage);
    }
    assert_eq!((version / 10_000, count, rank, device), (2, 2, 1, 1));
    destroy(ranks);
}

/// The configuration without blocking.
fn without_blocking() -> sys::ncclConfig_t {
    // SAFETY: all fields are numbers and pointers.
    let zero: sys::ncclConfig_t = unsafe { std::mem::zeroed() };
    sys::ncclConfig_t { size: size_of::<sys::ncclConfig_t>(), magic: 0xcafe_beef, version: 22800, ..zero }
}

fn poll_until_ready(communicator: ncclComm_t) {
    let mut status = IN_PROGRESS;
    while status == IN_PROGRESS {
        // SAFETY: the communicator is alive; the call writes the status.
        assert_eq!(unsafe { sys::ncclCommGetAsyncError(communicator, &mut status) }, OK);
        thread::yield_now();
    }
    assert_eq!(status, OK);
}

#[test]
fn call_without_blocking_is_queued_when_it_is_polled() {
    let _emulated = emulated(0, false);
    let id = unique_id();
    let run = move |rank: c_int| {
        let (context, stream) = device(rank as usize);
        context.bind_to_thread().unwrap();
        let (mut communicator, mut config) = (std::ptr::null_mut(), without_blocking());
        // SAFETY: the call writes the communicator.
        let status = unsafe { sys::ncclCommInitRankConfig(&mut communicator, 2, id, rank, &mut config) };
        assert!(status == OK || status == IN_PROGRESS);
        poll_until_ready(communicator);
        let mut array = stream.clone_htod(&[1.0f32 + rank as f32]).unwrap();
        {
            let (at, _sync) = array.device_ptr_mut(&stream);
            // SAFETY: the array has one element, and is alive until the stream is synchronized.
            let call = || unsafe {
                let (dtype, sum, stream) =
                    (ncclDataType_t::ncclFloat32, ncclRedOp_t::ncclSum, stream.cu_stream().cast());
                sys::ncclAllReduce(at as *const _, at as *mut _, 1, dtype, sum, communicator, stream)
            };
            assert_eq!(call(), IN_PROGRESS);
            assert_eq!(call(), ncclResult_t::ncclInvalidArgument, "before the first call has succeeded");
            poll_until_ready(communicator);
        }
        assert_eq!(stream.clone_dtoh(&array).unwrap(), [3.0]);
        // SAFETY: the communicator is alive, and used no more after `ncclCommDestroy`.
        unsafe {
            assert!([OK, IN_PROGRESS].contains(&sys::ncclCommFinalize(communicator)));
            poll_until_ready(communicator);
            assert_eq!(sys::ncclCommDestroy(communicator), OK);
        }
    };
    thread::scope(|scope| {
        scope.spawn(move || run(1));
        run(0);
    });
}

#[test]
fn rank_that_joins_twice_is_rejected() {
    let _emulated = emulated(0, false);
    let id = unique_id();
    let join = move || {
        device(0).0.bind_to_thread().unwrap();
        let mut communicator = std::ptr::null_mut();
        // SAFETY: the call writes the communicator.
        unsafe { sys::ncclCommInitRank(&mut communicator, 2, id, 0) }
    };
    let other = thread::spawn(join);
    assert_eq!([join(), other.join().unwrap()], [ncclResult_t::ncclInvalidUsage; 2]);
}
