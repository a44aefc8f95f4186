//! Tensors as the field writes them: operators, indices, negative axes, comparisons, constructors.
use fornax_engine::{DType, Device, Result, Tensor};

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).and_then(|t| t.to_vec()).expect("floats")
}

#[test]
fn operators_take_tensors_numbers_and_results() -> Result<()> {
    let (a, b) = (Tensor::new([8.0f64, 27.0])?, Tensor::new([2.0f64, 3.0])?);
    assert_eq!(values(&(&a / &b)?), [4.0, 9.0]);
    assert_eq!(values(&(&a + (&b * 2.0))?), [12.0, 33.0], "a result on the right");
    assert_eq!(values(&((&b * 2.0) - &a)?), [-4.0, -21.0], "a result on the left");
    assert_eq!(values(&(6.0 / &b)?), [3.0, 2.0]);
    assert_eq!(values(&(1.0 - b.clone())?), [-1.0, -2.0]);
    assert_eq!(values(&(-b.clone())?), [-2.0, -3.0]);
    let wrong = Tensor::new([1.0f64, 2.0, 3.0])?;
    let error = (&a + (&b * &wrong)).expect_err("shapes differ").to_string();
    assert!(error.starts_with("mul: the shapes do not broadcast"), "{error}");
    Ok(())
}

#[test]
fn division_by_a_number_is_a_division() -> Result<()> {
    // 5 / 49 is not 5 * (1 / 49) in f32.
    let x = Tensor::new([5.0f32])?;
    assert_eq!((&x / 49.0)?.to_vec::<f32>()?, [5.0f32 / 49.0]);
    assert_ne!(5.0f32 / 49.0, 5.0f32 * (1.0 / 49.0));
    Ok(())
}

#[test]
fn gradients_flow_through_operators_and_indices() -> Result<()> {
    let x = Tensor::new([[1.0f64, 2.0, 3.0], [4.0, 5.0, 6.0]])?.variable();
    let y = ((&x * &x)? - 3.0)?.i((.., 1..))?;
    y.sum_all()?.backward()?;
    assert_eq!(values(&x.grad().expect("a gradient")), [0.0, 4.0, 6.0, 0.0, 10.0, 12.0]);
    Ok(())
}

#[test]
fn indices_select_as_in_python() -> Result<()> {
    let x = Tensor::arange(0.0, 24.0, 1.0, DType::I64, &Device::Cpu)?.reshape([2, 3, 4])?;
    let of = |t: Result<Tensor>| t.and_then(|t| Ok((t.dims().to_vec(), t.to_vec::<i64>()?)));
    assert_eq!(of(x.i((1, -1, 2)))?, (vec![], vec![22]));
    assert_eq!(of(x.i((.., 0, 1..3)))?, (vec![2, 2], vec![1, 2, 13, 14]));
    assert_eq!(of(x.i((0, ..2, -2..)))?, (vec![2, 2], vec![2, 3, 6, 7]));
    assert_eq!(of(x.i((0, 1..=1, ..-3)))?, (vec![1, 1], vec![4]));
    assert_eq!(x.i((0..0,))?.dims(), [0, 3, 4]);
    let (start, end) = (2, 1);
    for (index, message) in [
        (x.i(-3), "-3 is out of range for axis 0 of 2 elements"),
        (x.i((.., start..end)), "2..1 is out of range for axis 1 of 3 elements"),
        (x.i((.., .., ..5)), "0..5 is out of range for axis 2 of 4 elements"),
        (x.i((0, 0, 0, 0)), "4 indices are too many for 3 axes"),
    ] {
        let error = index.expect_err(message).to_string();
        assert!(error.contains(message), "{error}");
    }
    Ok(())
}

#[test]
fn negative_axes_count_from_the_last() -> Result<()> {
    let x = Tensor::randn([2, 3, 4], DType::F32, &Device::Cpu, 1)?;
    assert_eq!(x.sum(&[-1, 0], false)?.to_vec::<f32>()?, x.sum(&[2, 0], false)?.to_vec::<f32>()?);
    assert_eq!(x.permute(&[-1, 0, 1])?.dims(), [4, 2, 3]);
    assert_eq!(x.flatten(-2)?.dims(), [2, 12]);
    assert_eq!(x.narrow(-2, 1, 2)?.dims(), [2, 2, 4]);
    let twice = x.mean(&[1, -2], true).expect_err("one axis, twice").to_string();
    assert!(twice.contains("axis -2 occurs twice"), "{twice}");
    let scalar = Tensor::scalar(1.0f32)?.argmax(0).expect_err("no axes").to_string();
    assert!(scalar.contains("axis 0 is out of range: a scalar has no axes"), "{scalar}");
    Ok(())
}

/// The devices of this build.
fn devices() -> Vec<Device> {
    let emulated = cfg!(feature = "cuda").then(|| Device::emulated(1).expect("g++ is installed"));
    [Device::Cpu].into_iter().chain(emulated).collect()
}

#[test]
fn comparisons_are_exact_in_every_dtype_on_every_device() -> Result<()> {
    // Not exact as floats.
    let large = (1i64 << 53) + 1;
    for device in devices() {
        let a = Tensor::new([large, 1, -5])?.to_device(&device)?;
        let b = Tensor::new([large - 1, 1, 3])?.to_device(&device)?;
        let bits = |t: Tensor| t.to_vec::<u8>();
        assert_eq!(bits(a.gt(&b)?)?, [1, 0, 0], "{device}");
        assert_eq!(bits(a.eq(&b)?)?, [0, 1, 0], "{device}");
        assert_eq!(bits(a.ne(&b)?)?, [1, 0, 1], "{device}");
        assert_eq!(bits(a.le(&b)?)?, [0, 1, 1], "{device}");
        let bytes = Tensor::new([0u8, 200, 255])?.to_device(&device)?;
        assert_eq!(bits(bytes.ge(200.0)?)?, [0, 1, 1], "{device}");
        assert_eq!(bits(bytes.lt(&bytes)?)?, [0, 0, 0], "{device}");
        let chosen = a.lt(0.0)?.where_cond(&b, &a)?;
        assert_eq!(chosen.to_vec::<i64>()?, [large, 1, 3], "{device}");
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let x = Tensor::new([f32::NAN, f32::INFINITY, -0.0])?.to_dtype(dtype)?.to_device(&device)?;
            assert_eq!(bits(x.eq(&x)?)?, [0, 1, 1], "{dtype} on {device}: NaN equals nothing");
            assert_eq!(bits(x.ne(&x)?)?, [1, 0, 0], "{dtype} on {device}");
            assert_eq!(bits(x.ge(0.0)?)?, [0, 1, 1], "{dtype} on {device}: -0 equals 0");
        }
    }
    Ok(())
}

#[test]
fn element_that_is_not_chosen_has_no_gradient() -> Result<()> {
    for device in devices() {
        let x = Tensor::new([4.0f32, 0.0])?.to_device(&device)?.variable();
        // The gradient of log at 0 is infinite.
        let y = x.gt(0.0)?.where_cond(&x.log()?, &x.zeros_like()?)?;
        let masked = x.masked_fill(&x.eq(0.0)?, 1.0)?.log()?;
        masked.sum_all()?.backward()?;
        assert_eq!(x.grad().expect("a gradient").to_vec::<f32>()?, [0.25, 0.0], "{device}");
        assert_eq!(y.to_vec::<f32>()?[1], 0.0);
    }
    let mask = Tensor::new([1.0f32])?;
    let error = mask.where_cond(&mask, &mask).expect_err("a mask of f32").to_string();
    assert!(error.contains("where_cond: accepts a mask of u8"), "{error}");
    Ok(())
}

#[test]
fn rearrangements_have_gradients_and_say_what_does_not_fit() -> Result<()> {
    let x = Tensor::arange(1.0, 7.0, 1.0, DType::F64, &Device::Cpu)?.reshape([2, 3])?.variable();
    let y = Tensor::stack(&[&x.roll(-1, 1)?, &x.repeat(&[1, 1])?], 1)?;
    assert_eq!(y.dims(), [2, 2, 3]);
    (&y * &y)?.sum_all()?.backward()?;
    let twice: Vec<f64> = values(&x).iter().map(|v| 4.0 * v).collect();
    assert_eq!(values(&x.grad().expect("a gradient")), twice);
    assert_eq!(x.chunk(2, -1)?.iter().map(|t| t.dims()[1]).collect::<Vec<_>>(), [2, 1]);
    let error = |t: Result<Tensor>| t.expect_err("does not fit").to_string();
    assert!(error(x.squeeze(1)).contains("axis 1 has extent 3, not 1"));
    assert!(error(x.unsqueeze(4)).contains("axis 4 is out of range: the axes of 3 are -3 to 2"));
    assert!(error(x.repeat(&[2])).contains("1 numbers are too few for 2 axes"));
    assert!(x.split(0, 0).is_err() && x.chunk(0, 0).is_err());
    Ok(())
}

#[test]
fn constructors_check_their_arguments() -> Result<()> {
    assert!(Tensor::arange(0.0, 1.0, 0.0, DType::F32, &Device::Cpu).is_err());
    assert!(Tensor::arange(1.0, 0.0, 1.0, DType::F32, &Device::Cpu).is_err());
    assert!(Tensor::randn([2], DType::I64, &Device::Cpu, 0).is_err());
    assert!(Tensor::new(vec![vec![1.0f32, 2.0], vec![3.0]]).is_err());
    assert_eq!(Tensor::linspace(-1.0, 1.0, 1, DType::F32, &Device::Cpu)?.to_vec::<f32>()?, [-1.0]);
    assert_eq!(Tensor::new([[[1u8], [2]], [[3], [4]]])?.dims(), [2, 2, 1]);
    Ok(())
}
