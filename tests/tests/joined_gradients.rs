//! The data gradient of the 1x1 convolution that reads a residual block's output, computed by the batch norm's backward pass on the emulated
//! device. A process of its own, as timing chooses the kernel, and other work on the stream disturbs timing.
#[path = "joined_gradients/block.rs"]
mod block;

use fornax::train_step::CudaGraphMode;
use fornax_engine::cuda::conv_plan_record;
use fornax_engine::{DType, Device, Result};
use fornax_nn::{OptLevel, Precision};
use fornax_tests::model_step::ModelStep;
use std::sync::{Mutex, MutexGuard};

/// Serializes the tests.
fn serialize() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(|e| e.into_inner())
}

#[test]
fn joined_data_gradients_match_separate_operations() -> Result<()> {
    let _guard = serialize();
    block::check_joined_gradients()
}

/// Losses of a model's updates, and its parameters after them, as bits.
fn train(dtype: DType, graph: CudaGraphMode) -> (Vec<u64>, Vec<Vec<u32>>) {
    let device = Device::emulated(1).expect("g++ is installed");
    let precision = Precision::new(OptLevel::O1, dtype);
    let mut step = ModelStep::new("resnet50", precision, graph, device).expect("a model");
    let batch = step.batch(2, 32).expect("memory");
    let losses = (0..UPDATES).map(|_| step.run(&batch).expect("an update").to_bits()).collect();
    let bits = |t: &fornax_engine::Tensor| {
        let host = t.to_device(&Device::Cpu).and_then(|t| t.to_vec::<f32>()).expect("a copy");
        host.into_iter().map(f32::to_bits).collect()
    };
    (losses, step.parameters().iter().map(bits).collect())
}

/// The first one is eager, the second captures a graph, and the others replay it.
const UPDATES: usize = 4;

#[test]
fn replayed_step_with_joined_gradients_has_the_bits_of_the_eager_one() -> Result<()> {
    let _guard = serialize();
    for dtype in [DType::F16, DType::BF16] {
        let (losses, parameters) = train(dtype, CudaGraphMode::Never);
        let (replayed_losses, replayed_parameters) = train(dtype, CudaGraphMode::Always);
        assert_eq!(replayed_losses, losses, "{dtype}");
        let first = losses[0];
        assert!(losses.iter().any(|loss| *loss != first), "{dtype}: the updates change the loss");
        for (i, (replayed, eager)) in replayed_parameters.iter().zip(&parameters).enumerate() {
            assert!(replayed == eager, "{dtype}: parameter {i} differs after {UPDATES} updates");
        }
        let record = conv_plan_record(&Device::Cuda(0))?.expect("convolutions were planned");
        let of_dtype = format!("{dtype:?}").to_lowercase();
        let own = record
            .choices
            .iter()
            .filter(|(key, choice)| *choice == "own kernel" && key.to_lowercase().contains(&of_dtype));
        // One for the blocks of each stage; the last block's output has no such convolution.
        assert!(own.count() >= 4, "{dtype}: the joined kernel was chosen: {:?}", record.choices);
    }
    Ok(())
}
