//! CUDA graph captures on the emulated device, which rejects what a driver rejects during a capture.
use fornax_engine::cuda::{CudaGraph, pinned_tensor, upload};
use fornax_engine::{DType, Device, Result, Tensor};
use std::sync::{Mutex, MutexGuard};

const GPU: Device = Device::Cuda(0);

/// Runs one test at a time, since captures of the same device wait for each other.
fn serialize() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    let guard = LOCK.lock().unwrap_or_else(|e| e.into_inner());
    Device::emulated(1).expect("g++ is installed");
    guard
}

fn on_device(values: &[f32]) -> Tensor {
    Tensor::from_vec(values.to_vec(), [values.len()]).and_then(|x| x.to_device(&GPU)).expect("memory")
}

#[test]
fn kernel_whose_first_use_is_in_a_capture_is_loaded() -> Result<()> {
    let _guard = serialize();
    let (x, y) = (on_device(&[0.0, 1.0, 4.0]), on_device(&[9.0; 3]));
    // The first use of a module, and of a kernel of a generated source.
    let graph = CudaGraph::capture(&GPU, || y.copy_from(&x.sqrt()?.softmax(0)?))?;
    assert_eq!(y.to_vec::<f32>()?, [9.0; 3]);
    graph.replay()?;
    let expected = Tensor::from_vec(vec![0.0f32, 1.0, 4.0], [3])?.sqrt()?.softmax(0)?.to_vec::<f32>()?;
    y.to_vec::<f32>()?.iter().zip(expected).for_each(|(y, want)| assert!((y - want).abs() < 1e-6));
    Ok(())
}

#[test]
fn pinned_memory_is_allocated_and_reused_in_a_capture() -> Result<()> {
    let _guard = serialize();
    let (x, y) = (on_device(&[1.0, 2.0]), on_device(&[0.0; 2]));
    // A block that a copy has used: whether that is done is queried in the capture.
    drop(upload(&pinned_tensor([2000], DType::F32, &GPU)?, &GPU)?.into_tensor()?);
    let graph = CudaGraph::capture(&GPU, || {
        let reused = pinned_tensor([2000], DType::F32, &GPU)?;
        let new = pinned_tensor([1 << 20], DType::F32, &GPU)?;
        assert_eq!((reused.numel(), new.numel()), (2000, 1 << 20));
        y.copy_from(&x)
    })?;
    graph.replay()?;
    assert_eq!(y.to_vec::<f32>()?, [1.0, 2.0]);
    Ok(())
}

#[test]
fn earlier_result_is_read_in_a_capture() -> Result<()> {
    let _guard = serialize();
    let (x, y) = (on_device(&[1.0, 2.0]), on_device(&[0.0; 2]));
    let earlier = x.read_later::<f32>()?;
    let graph = CudaGraph::capture(&GPU, || {
        assert_eq!(earlier.wait()?, [1.0, 2.0]);
        y.copy_from(&x)
    })?;
    graph.replay()?;
    assert_eq!(y.to_vec::<f32>()?, [1.0, 2.0]);
    Ok(())
}

#[test]
fn copies_between_host_and_device_in_a_capture_are_errors() -> Result<()> {
    let _guard = serialize();
    let x = on_device(&[1.0, 2.0]);
    let host = Tensor::from_vec(vec![1.0f32], [1])?;
    let attempts: [(&str, &dyn Fn() -> Result<()>); 2] =
        [("read_later", &|| x.read_later::<f32>().map(drop)), ("upload", &|| upload(&host, &GPU).map(drop))];
    for (op, copy) in attempts {
        let error = CudaGraph::capture(&GPU, copy).err().expect("a copy").to_string();
        assert!(error.contains(op) && error.contains("cannot be captured in a CUDA graph"), "{error}");
        assert_eq!(x.to_vec::<f32>()?, [1.0, 2.0], "the device is usable afterwards");
    }
    Ok(())
}
