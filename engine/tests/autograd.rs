//! Autograd: gradient accumulation, `no_grad`, freeing of the graph, hooks, errors; views, casts and memory.
use fornax_engine::{DType, Device, Error, Result, Tensor, no_grad};
use std::sync::{Arc, Mutex};

fn variable(data: &[f32]) -> Tensor {
    Tensor::from_slice(data, [data.len()]).expect("fits").variable()
}

fn grad(t: &Tensor) -> Vec<f32> {
    t.grad().expect("a gradient").to_vec().expect("f32")
}

#[test]
fn gradients_accumulate_over_uses_and_backward_passes() -> Result<()> {
    let x = variable(&[1.0, -2.0, 3.0]);
    let y = x.mul(&x)?.add(&x)?;
    y.sum_all()?.backward()?;
    assert_eq!(grad(&x), [3.0, -3.0, 7.0]);
    x.mul_scalar(2.0)?.sum_all()?.backward()?;
    assert_eq!(grad(&x), [5.0, -1.0, 9.0], "a second pass adds to the first");
    x.zero_grad();
    assert!(x.grad().is_none());
    Ok(())
}

#[test]
fn accumulation_does_not_overwrite_a_shared_gradient() -> Result<()> {
    let (a, b) = (variable(&[1.0]), variable(&[1.0]));
    // Both leaves receive the same upstream tensor; a then receives more.
    let y = a.add(&b)?.add(&a.mul_scalar(10.0)?)?;
    y.sum_all()?.backward()?;
    assert_eq!((grad(&a), grad(&b)), (vec![11.0], vec![1.0]));
    Ok(())
}

#[test]
fn low_precision_gradients_are_summed_in_the_dtype_of_the_variable() -> Result<()> {
    let w = variable(&[1.0, 2.0]);
    let pass = |scale: f64| w.cached_cast(DType::F16)?.mul_scalar(scale)?.sum_all()?.backward();
    pass(0.1)?;
    assert_eq!(w.grad().expect("a gradient").dtype(), DType::F32, "the default");
    w.zero_grad();
    w.allow_low_precision_grad();
    pass(0.1)?;
    let half = w.grad().expect("a gradient");
    assert_eq!(half.dtype(), DType::F16);
    let half = half.to_dtype(DType::F32)?.to_vec::<f32>()?;
    // In f16 the sum would be rounded.
    pass(100.0)?;
    assert_eq!(grad(&w), [half[0] + 100.0, half[1] + 100.0]);
    // Two uses in one pass.
    w.zero_grad();
    let (a, b) = (w.cached_cast(DType::F16)?.mul_scalar(0.1)?, w.mul_scalar(100.0)?);
    a.to_dtype(DType::F32)?.add(&b)?.sum_all()?.backward()?;
    assert_eq!(grad(&w), [half[0] + 100.0, half[1] + 100.0]);
    // A cast to f64 is no low precision.
    w.zero_grad();
    w.to_dtype(DType::F64)?.sum_all()?.backward()?;
    assert_eq!(grad(&w), [1.0, 1.0]);
    Ok(())
}

#[test]
fn operations_inside_no_grad_are_not_tracked() -> Result<()> {
    let x = variable(&[1.0]);
    let y = no_grad(|| x.mul_scalar(2.0))?;
    assert!(!y.requires_grad());
    assert!(matches!(y.sum_all()?.backward(), Err(Error::Autograd { .. })));
    assert!(x.mul_scalar(2.0)?.requires_grad(), "tracking is enabled again");
    Ok(())
}

#[test]
fn second_backward_pass_through_a_freed_graph_is_an_error() -> Result<()> {
    let x = variable(&[1.0, 2.0]);
    let loss = x.square()?.sum_all()?;
    loss.backward()?;
    let again = loss.backward().expect_err("freed").to_string();
    assert!(again.contains("already differentiated"), "{again}");
    Ok(())
}

#[test]
fn hook_receives_the_complete_gradient_before_earlier_layers_run() -> Result<()> {
    let seen = Arc::new(Mutex::new(Vec::<(&str, Vec<f32>)>::new()));
    let (a, b) = (variable(&[2.0]), variable(&[3.0]));
    for (name, leaf) in [("a", &a), ("b", &b)] {
        let seen = seen.clone();
        leaf.register_post_accumulate_grad_hook(Box::new(move |g| {
            seen.lock().expect("no panic").push((name, g.to_vec::<f32>()?));
            Ok(())
        }))?;
    }
    // b is used last, twice; its gradient is complete before a's.
    let y = a.square()?.mul(&b)?.mul(&b)?;
    y.sum_all()?.backward()?;
    assert_eq!(*seen.lock().expect("no panic"), [("b", vec![24.0]), ("a", vec![36.0])]);
    let square = a.square()?;
    let error = square.register_post_accumulate_grad_hook(Box::new(|_| Ok(()))).expect_err("no variable");
    assert!(error.to_string().contains("use register_hook"), "{error}");
    Ok(())
}

#[test]
fn hook_runs_although_a_branch_has_no_gradient() -> Result<()> {
    let count = Arc::new(Mutex::new(0));
    let x = variable(&[2.0]);
    let c = count.clone();
    x.register_post_accumulate_grad_hook(Box::new(move |_| {
        *c.lock().expect("no panic") += 1;
        Ok(())
    }))?;
    let mask = x.greater(1.0)?;
    x.mul(&mask)?.sum_all()?.backward()?;
    assert_eq!((*count.lock().expect("no panic"), grad(&x)), (1, vec![1.0]));
    Ok(())
}

#[test]
fn backward_requires_a_scalar_or_an_upstream_gradient_of_its_shape() -> Result<()> {
    let x = variable(&[1.0, 2.0]);
    let y = x.mul_scalar(3.0)?;
    assert!(y.backward().expect_err("two elements").to_string().contains("needs a scalar"));
    let wrong = Tensor::ones([3], DType::F32, &Device::Cpu)?;
    assert!(
        y.backward_from(&wrong).expect_err("three elements").to_string().contains("upstream: f32[3] on cpu")
    );
    y.backward_from(&Tensor::from_slice(&[1.0f32, 10.0], [2])?)?;
    assert_eq!(grad(&x), [3.0, 30.0]);
    Ok(())
}

#[test]
fn views_share_elements_and_copies_do_not() -> Result<()> {
    let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], [2, 2])?;
    let (view, copy) = (x.narrow(0, 1, 1)?.reshape([2])?, x.copy()?);
    x.write::<f32>()?[2] = 9.0;
    assert_eq!(view.to_vec::<f32>()?, [9.0, 4.0]);
    assert_eq!(copy.to_vec::<f32>()?, [1.0, 2.0, 3.0, 4.0]);
    Ok(())
}

#[test]
fn errors_name_operation_shapes_dtypes_and_device() -> Result<()> {
    let a = Tensor::zeros([2, 3], DType::F32, &Device::Cpu)?;
    let b = Tensor::zeros([4], DType::F32, &Device::Cpu)?;
    let e = a.add(&b).expect_err("no broadcast").to_string();
    assert_eq!(e, "add: the shapes do not broadcast (got self: f32[2, 3] on cpu, other: f32[4] on cpu)");
    let e = a.add(&a.to_dtype(DType::F64)?).expect_err("mixed").to_string();
    assert!(e.contains("add: accepts operands of one dtype") && e.contains("other: f64[2, 3]"), "{e}");
    let e = a.to_dtype(DType::U8)?.mul_scalar(2.0).expect_err("u8").to_string();
    assert!(e.contains("mul_scalar: accepts f32, f16, bf16 or f64"), "{e}");
    let e = a.read::<f64>().err().expect("f32 is not f64").to_string();
    assert!(e.contains("read: accepts f64"), "{e}");
    let classes = Tensor::from_slice(&[0i64, 3], [2])?;
    let e = a.cross_entropy(&classes, 0.0).expect_err("class 3 of 3").to_string();
    assert!(e.contains("class 3 is not in 0..3"), "{e}");
    Ok(())
}

#[test]
fn casts_round_to_nearest_even_and_saturate() -> Result<()> {
    let x = Tensor::from_slice(&[1.0f32 + 1.0 / 2048.0, -1.5, 300.0, 1e30], [4])?;
    let back = |d| x.to_dtype(d)?.to_dtype(DType::F32)?.to_vec::<f32>();
    assert_eq!(back(DType::F16)?, [1.0, -1.5, 300.0, f32::INFINITY]);
    assert_eq!(back(DType::BF16)?[1..3], [-1.5, 300.0]);
    assert_eq!(back(DType::U8)?, [1.0, 0.0, 255.0, 255.0]);
    assert_eq!(back(DType::I64)?[..3], [1.0, -1.0, 300.0]);
    for from in DType::ALL {
        for to in DType::ALL {
            let t = Tensor::full([3], 7.0, from, &Device::Cpu)?.to_dtype(to)?;
            assert_eq!(t.to_dtype(DType::F64)?.to_vec::<f64>()?, [7.0; 3], "{from} to {to}");
        }
    }
    Ok(())
}

#[test]
fn memory_does_not_grow_over_steps() -> Result<()> {
    use fornax_engine::cpu::memory::memory_stats;
    let w = Tensor::full([64, 512], 0.01, DType::F32, &Device::Cpu)?.variable();
    let step = || -> Result<()> {
        let x = Tensor::full([300, 512], 1.0, DType::F32, &Device::Cpu)?;
        x.linear(&w, None)?.relu()?.square()?.sum_all()?.backward()?;
        w.zero_grad();
        Ok(())
    };
    (0..3).try_for_each(|_| step())?;
    let warm = memory_stats();
    (0..20).try_for_each(|_| step())?;
    // Other tests in this process use memory too, but much less than one step of this one.
    let now = memory_stats();
    assert!(now.reserved < warm.reserved + (4 << 20), "{warm:?} then {now:?}");
    assert!(now.peak_allocated >= warm.peak_allocated);
    Ok(())
}
