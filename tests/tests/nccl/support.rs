//! Ranks as threads of this process, and the update that the tests run.
use fornax_engine::cuda::nccl::{NcclCollective, UniqueId};
use fornax_engine::{Collective, DType, Device, Error, Reduction, Result, Tensor};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// Deadline of a test: longer than the first build of the emulated device.
pub const DEADLINE: Duration = Duration::from_secs(240);
/// Timeout of operations that succeed.
pub const PATIENT: Duration = Duration::from_secs(120);
/// Timeout of operations that hang on purpose.
pub const SHORT: Duration = Duration::from_millis(1500);
/// Serializes the tests: they use the same devices.
pub fn serialize() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(|e| e.into_inner())
}

/// Runs a function on another thread, and panics if it does not return in time.
pub fn within_deadline<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let worker = thread::spawn(move || sender.send(run()).expect("the test waits"));
    match receiver.recv_timeout(DEADLINE) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("the ranks hang"),
        Err(RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(worker.join().expect_err("it panicked"))
        }
    }
}

/// Runs ranks as threads of this process, each on an emulated device of its own, and returns their results.
pub fn run_ranks<T: Send + 'static>(
    world: usize,
    timeout: Duration,
    run: impl Fn(NcclCollective, Device) -> T + Send + Sync + 'static,
) -> Vec<T> {
    Device::emulated(4).expect("the emulated device");
    within_deadline(move || {
        let id = UniqueId::new().expect("an id");
        thread::scope(|scope| {
            let rank = |rank| {
                let (id, run) = (&id, &run);
                scope.spawn(move || {
                    let device = Device::Cuda(rank);
                    run(
                        NcclCollective::new(&device, id, rank, world, timeout).expect("the ranks join"),
                        device,
                    )
                })
            };
            let ranks: Vec<_> = (0..world).map(rank).collect();
            ranks
                .into_iter()
                .map(|rank| rank.join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
                .collect()
        })
    })
}

pub fn full(value: f64, device: &Device) -> Tensor {
    Tensor::full([1000], value, DType::F32, device).expect("a tensor")
}

/// The reason of an error of a collective operation, and the rank that it names.
pub fn failure(result: Result<()>) -> (String, usize) {
    match result {
        Err(Error::Collective { rank, why, .. }) => (why, rank),
        other => panic!("an error of a collective operation: {other:?}"),
    }
}

/// Values of a rank, whose sums depend on the order of the additions.
pub fn values(rank: usize) -> Vec<f32> {
    (0..1000).map(|i| ((i * 7919 + rank * 104_729) % 1009) as f32 / 77.0 - 5.0 * rank as f32).collect()
}

/// Updates with an all-reduce that overlaps with other work, whose memory is freed at once: private and common results.
pub fn train(group: &NcclCollective, device: &Device, updates: usize) -> Result<(Vec<f32>, Vec<f32>)> {
    let own = Tensor::from_slice(&values(group.rank()), [1000])?.to_device(device)?;
    let weights = full(0.5, device);
    for _ in 0..updates {
        update(group, &own, &weights)?;
    }
    Ok((own.to_vec()?, weights.to_vec()?))
}

pub fn update(group: &NcclCollective, own: &Tensor, weights: &Tensor) -> Result<()> {
    let gradient = own.add(weights)?;
    let pending = group.start_all_reduce(&gradient, Reduction::Mean)?;
    own.copy_from(&own.mul_scalar(1.25)?.add(&own.mul_scalar(-0.5)?)?)?;
    pending.wait()?;
    weights.copy_from(&weights.add(&gradient.mul_scalar(-0.1)?)?)
}
