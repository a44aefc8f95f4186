//! Kernels by declaration, on the CPU through g++ and on the emulated device: values, checks, errors, scalars, scratch memory and captures.
use fornax_engine::DType::{BF16, F16, F32, I64};
use fornax_engine::cuda::CudaGraph;
use fornax_engine::op::{Geometry, Kernel};
use fornax_engine::{DType, Device, Result, Tensor, cuda_source, gradients, no_grad, shapes_only};
use std::process::Command;
use std::sync::{Mutex, MutexGuard};

const GPU: Device = Device::Cuda(0);

/// Runs one test at a time: a capture makes work of other threads wait.
fn serialize() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    let guard = LOCK.lock().unwrap_or_else(|e| e.into_inner());
    Device::emulated(1).expect("g++ is installed");
    guard
}

fn tensor(values: &[f32], shape: &[usize], device: &Device) -> Tensor {
    Tensor::from_slice(values, shape).and_then(|t| t.to_device(device)).expect("memory")
}

fn values(t: &Tensor) -> Vec<f32> {
    t.to_dtype(F32).and_then(|t| t.to_vec()).expect("floats")
}

/// Values that f16 and bf16 represent.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7) % 11) as f32 - 5.0).collect()
}

static AFFINE: Kernel = Kernel::new("affine")
    .template("T", [F32, F16, BF16])
    .input("x", "T[.., c]")
    .input("scale", "f32[c]")
    .input("offset", "f32[]")
    .output("y", "T like x")
    .output("sign", "f32 like x")
    .body("y = scale * x + offset; sign = x < 0 ? -1.0f : 1.0f;");

#[test]
fn body_computes_every_element_in_every_dtype_on_every_device() -> Result<()> {
    let _guard = serialize();
    // Rows of whole packs, rows of others, and a length that ends in a part of a pack.
    for shape in [[3, 5, 8], [2, 1, 3], [1, 1, 1], [0, 2, 8]] {
        let (n, c) = (shape.iter().product(), shape[2]);
        let x = numbers(n);
        let scale: Vec<f32> = (0..c).map(|i| i as f32 - 1.0).collect();
        let expected: Vec<f32> = x.iter().enumerate().map(|(i, x)| scale[i % c] * x + 0.5).collect();
        let sign: Vec<f32> = x.iter().map(|x| if *x < 0.0 { -1.0 } else { 1.0 }).collect();
        for device in [Device::Cpu, GPU] {
            for dtype in [F32, F16, BF16] {
                let x = tensor(&x, &shape, &device).to_dtype(dtype)?;
                let y = AFFINE.run(&[&x, &tensor(&scale, &[c], &device), &tensor(&[0.5], &[], &device)])?;
                assert_eq!((y[0].dtype(), y[0].dims(), y[1].dtype()), (dtype, &shape[..], F32));
                assert_eq!(
                    (values(&y[0]), values(&y[1])),
                    (expected.clone(), sign.clone()),
                    "{dtype} on {device}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn view_that_is_not_aligned_gives_the_same_values() -> Result<()> {
    let _guard = serialize();
    for device in [Device::Cpu, GPU] {
        let whole = tensor(&numbers(9 * 3), &[9, 3], &device);
        let x = whole.narrow(0, 1, 8)?;
        let y = AFFINE.run(&[&x, &tensor(&[1.0, 2.0, 3.0], &[3], &device), &tensor(&[0.0], &[], &device)])?;
        let expected: Vec<f32> = values(&x).iter().enumerate().map(|(i, x)| (i % 3 + 1) as f32 * x).collect();
        assert_eq!(values(&y[0]), expected, "{device}");
    }
    Ok(())
}

/// y = x · FACTOR, and the sums of y by channel: each block adds its rows, and the last block adds the blocks.
static SCALED_SUMS: Kernel = Kernel::new("scaled_sums")
    .template("T", [F32, F16])
    .input("x", "T[.., c]")
    .output("y", "T like x")
    .output("sum", "f32[c]")
    .scratch("partial", "f32[blocks, c]")
    .scratch("ticket", "u32[1] zeroed")
    .constant("FACTOR", 2)
    .geometry(Geometry::rows("x", "c").vector(8))
    .source(cuda_source!("kernel/scaled_sums.cu"));

#[test]
fn whole_kernel_sums_rows_through_scratch_memory() -> Result<()> {
    let _guard = serialize();
    for (rows, c) in [(1000, 16), (3, 5)] {
        let x = numbers(rows * c);
        let expected: Vec<f32> = (0..c).map(|k| x.iter().skip(k).step_by(c).map(|x| 2.0 * x).sum()).collect();
        for device in [Device::Cpu, GPU] {
            for dtype in [F32, F16] {
                let x = tensor(&x, &[rows, c], &device).to_dtype(dtype)?;
                let out = SCALED_SUMS.run(&[&x])?;
                assert_eq!(values(&out[0]), values(&x.mul_scalar(2.0)?));
                assert_eq!(values(&out[1]), expected, "{dtype} on {device}, {rows} rows of {c}");
            }
        }
    }
    let bytes = SCALED_SUMS.bytes(&[&Tensor::zeros([10, 16], F16, &Device::Cpu)?])?;
    assert_eq!((bytes.read, bytes.written), (10 * 16 * 2, 10 * 16 * 2 + 16 * 4));
    // No rows: nothing is launched, and the sums are zero.
    for device in [Device::Cpu, GPU] {
        assert_eq!(values(&SCALED_SUMS.run(&[&Tensor::zeros([0, 4], F32, &device)?])?[1]), [0.0; 4]);
    }
    Ok(())
}

/// Element `at` of each row, plus `offset`.
static PICK: Kernel = Kernel::new("pick")
    .input("x", "f32[n, m]")
    .input("at", "i64[n]")
    .output("y", "f32[n]")
    .scalar("offset", "f32")
    .scalar("step", "i64")
    .geometry(Geometry::grid(|extents| [extents.extent("n").div_ceil(32) as u32, 1, 1]).threads(32))
    .source(
        "extern \"C\" __global__ void pick(PARAMETERS) {
           const long long i = blockIdx.x * THREADS + threadIdx.x;
           if (i < n) y[i] = x[i * m + (at[i] + step) % m] + offset;
         }",
    );

#[test]
fn scalars_grids_and_integer_inputs_are_passed() -> Result<()> {
    let _guard = serialize();
    assert_eq!(
        PICK.parameters()?,
        "const float* __restrict__ x, const long long* __restrict__ at, float* __restrict__ y, const float offset, \
         const long long step, const long long n, const long long m"
    );
    for device in [Device::Cpu, GPU] {
        let x = tensor(&numbers(6), &[2, 3], &device);
        let at = Tensor::from_slice(&[0i64, 2], [2])?.to_device(&device)?;
        // Rows (-5, 2, -2) and (5, 1, -3): elements 0 + 1 and (2 + 1) % 3.
        assert_eq!(values(&PICK.run_with(&[&x, &at], &[0.5, 1.0])?[0]), [2.5, 5.5]);
        let missing = PICK.run(&[&x, &at]).expect_err("no scalars").to_string();
        assert!(missing.contains("0 values for 2 scalars (offset, step)"), "{missing}");
        let fraction = PICK.run_with(&[&x, &at], &[0.5, 1.5]).expect_err("no integer").to_string();
        assert!(fraction.contains("scalar step is 1.5"), "{fraction}");
    }
    Ok(())
}

#[test]
fn capture_at_the_first_use_replays_with_other_data() -> Result<()> {
    let _guard = serialize();
    let x = tensor(&[1.0, 2.0, 3.0, 4.0], &[2, 2], &GPU);
    static TRIPLE: Kernel =
        Kernel::new("triple").input("x", "f32[..]").output("y", "f32 like x").body("y = 3 * x;");
    let mut result = None;
    let graph = CudaGraph::capture(&GPU, || {
        result = Some(TRIPLE.run(&[&x])?.remove(0));
        Ok(())
    })?;
    let y = result.expect("the region ran");
    graph.replay()?;
    assert_eq!(values(&y), [3.0, 6.0, 9.0, 12.0]);
    x.copy_from(&tensor(&[0.0, -1.0, 5.0, 7.0], &[2, 2], &GPU))?;
    graph.replay()?;
    assert_eq!(values(&y), [0.0, -3.0, 15.0, 21.0]);
    Ok(())
}

#[test]
fn inputs_that_differ_from_the_declaration_are_errors() -> Result<()> {
    let _guard = serialize();
    let (x, scale, offset) = (
        tensor(&[0.0; 6], &[2, 3], &Device::Cpu),
        tensor(&[1.0; 3], &[3], &Device::Cpu),
        tensor(&[0.0], &[], &Device::Cpu),
    );
    let error = |inputs: &[&Tensor]| AFFINE.run(inputs).expect_err("wrong inputs").to_string();
    let count = error(&[&x]);
    assert!(count.contains("affine: 1 inputs for 3 (x: T[.., c], scale: f32[c], offset: f32[])"), "{count}");
    let dtype = error(&[&x.to_dtype(I64)?, &scale, &offset]);
    assert!(
        dtype.contains("affine: accepts x of T, one of f32, f16, bf16 (got x: i64[2, 3] on cpu"),
        "{dtype}"
    );
    let fixed = error(&[&x, &scale.to_dtype(F16)?, &offset]);
    assert!(fixed.contains("accepts scale of f32"), "{fixed}");
    let extent = error(&[&x, &tensor(&[1.0; 2], &[2], &Device::Cpu), &offset]);
    assert!(
        extent.contains("scale must be f32[c]; c is 3 in an input before it (got x: f32[2, 3]"),
        "{extent}"
    );
    let rank = error(&[&x, &x, &offset]);
    assert!(rank.contains("scale must be f32[c]; has another number of axes"), "{rank}");
    let device = error(&[&x, &scale.to_device(&GPU)?, &offset]);
    assert!(device.contains("all inputs must be on one device"), "{device}");
    static PAIR: Kernel = Kernel::new("pair")
        .template("T", [F32, F16])
        .input("a", "T[.., 3]")
        .input("b", "T[.., 3]")
        .output("y", "T like b")
        .body("y = a + b;");
    let template = PAIR.run(&[&x, &x.to_dtype(F16)?]).expect_err("two dtypes").to_string();
    assert!(template.contains("accepts b of T = f32, as a"), "{template}");
    let rest =
        PAIR.run(&[&x, &tensor(&[0.0; 3], &[1, 3], &Device::Cpu)]).expect_err("other rows").to_string();
    assert!(rest.contains("b must be T[.., 3]; `..` stands for [2] in an input before it"), "{rest}");
    Ok(())
}

#[test]
fn invalid_declarations_are_errors_that_name_the_argument() {
    let base = || Kernel::new("k").template("T", [F32]).input("x", "T[.., c]");
    let errors = [
        (base().output("y", "T like z").body(""), "argument y: no argument z comes before it"),
        (base().output("y", "U like x").body(""), "argument y: the element `U` is no template"),
        (base().output("y", "T[.., d]").body(""), "argument y: no input before it has the extent d"),
        (base().output("y", "T[c").body(""), "argument y: `T[c` is neither"),
        (
            base().output("y", "f32[blocks]").body(""),
            "argument y: blocks is an extent of scratch memory only",
        ),
        (base().output("y", "f32[c]").body(""), "has neither the shape of y"),
        (
            base().output("y", "T like x").scratch("s", "f32[c]").body(""),
            "argument s of a body is scratch memory",
        ),
        (base().output("y", "T like x"), "it has no text"),
        (base().body(""), "it has no output"),
        (base().output("y", "T like x").source(""), "a whole kernel has no geometry"),
        (base().output("x", "T like x").body(""), "the name x is used twice"),
        (
            Kernel::new("k").input("x", "f32[numel]").output("y", "f32 like x").body(""),
            "the name numel is used twice",
        ),
        (base().output("y", "T like x").scalar("s", "f64").body(""), "scalar s: `f64`"),
        (
            base().output("y", "T like x").geometry(Geometry::rows("x", "d")).source(""),
            "geometry: the last axis of x is not d",
        ),
        (
            base().output("y", "T like x").geometry(Geometry::reduce("x", "c").threads(2048)).source(""),
            "geometry: 2048 threads per block",
        ),
        (
            base()
                .output("y", "T like x")
                .scratch("s", "f32[blocks]")
                .geometry(Geometry::elementwise("x"))
                .source(""),
            "depends on the device",
        ),
        (
            Kernel::new("k").input("x", "i64[..]").output("y", "f32 like x").body(""),
            "argument x of a body is not f32",
        ),
        (
            Kernel::new("k").template("T", [DType::F64]).input("x", "T[..]").output("y", "T like x").body(""),
            "template T",
        ),
    ];
    for (kernel, why) in errors {
        let error = kernel.parameters().expect_err(why).to_string();
        assert!(
            error.contains(why) && error.contains("k: invalid declaration at") && error.contains("kernel.rs"),
            "{error}"
        );
    }
}

#[test]
fn compiler_errors_name_the_users_file_and_line() -> Result<()> {
    let _guard = serialize();
    let here = line!();
    static WRONG: Kernel =
        Kernel::new("wrong").input("x", "f32[..]").output("y", "f32 like x").body("y = undeclared_name(x);");
    static WRONG_FILE: Kernel = Kernel::new("wrong_file")
        .input("x", "f32[n]")
        .output("y", "f32 like x")
        .geometry(Geometry::reduce("x", "n"))
        .source(cuda_source!("kernel/wrong.cu"));
    for device in [Device::Cpu, GPU] {
        let x = tensor(&[1.0], &[1], &device);
        let error = WRONG.run(&[&x]).expect_err("it does not compile").to_string();
        let line = format!("kernel.rs:{}", here + 2);
        assert!(
            error.contains(&line) && error.contains("undeclared_name") && error.contains("declared at"),
            "{error}"
        );
        let error = WRONG_FILE.run(&[&x]).expect_err("it does not compile").to_string();
        assert!(error.contains("kernel/wrong.cu:3") && error.contains("undeclared_name"), "{error}");
    }
    Ok(())
}

#[test]
fn missing_compiler_is_an_error_with_a_remedy_on_the_cpu() {
    // In a process of its own, whose PATH has no g++.
    const CHILD: &str = "FORNAX_TEST_WITHOUT_COMPILER";
    if std::env::var_os(CHILD).is_none() {
        let mut child = Command::new(std::env::current_exe().expect("this test"));
        child.args(["--exact", "missing_compiler_is_an_error_with_a_remedy_on_the_cpu"]);
        let status = child.env(CHILD, "1").env("PATH", "/nowhere").status().expect("it starts");
        assert!(status.success());
        return;
    }
    let error = CUBE.run(&[&tensor(&[1.0], &[1], &Device::Cpu)]).expect_err("no g++").to_string();
    assert!(error.contains("cube on cpu: ") && error.contains("not on the PATH: install it"), "{error}");
}

#[test]
fn compiled_image_runs_on_the_device_and_is_an_error_on_the_cpu() -> Result<()> {
    let _guard = serialize();
    let text = "extern \"C\" __global__ void image(const float* x, float* y, long long c, long long rows) {\n  \
                if (threadIdx.x < c) y[blockIdx.x * c + threadIdx.x] = -x[blockIdx.x * c + threadIdx.x];\n}\n";
    let source = fornax_kernels::KernelSource { name: "image", text };
    let image: &'static [u8] = fornax_kernels::compile(source, (9, 0)).expect("it compiles").leak();
    let kernel = Kernel::new("image")
        .input("x", "f32[.., c]")
        .output("y", "f32 like x")
        .geometry(Geometry::reduce("x", "c"))
        .image(image);
    assert_eq!(values(&kernel.run(&[&tensor(&[1.0, -2.0], &[2, 1], &GPU)])?[0]), [-1.0, 2.0]);
    let error = kernel.run(&[&tensor(&[1.0], &[1, 1], &Device::Cpu)]).expect_err("no text").to_string();
    assert!(error.contains("image on cpu: PTX and cubins run on CUDA devices only"), "{error}");
    Ok(())
}

static CUBE: Kernel =
    Kernel::new("cube").input("x", "f32[..]").output("y", "f32 like x").body("y = x * x * x;");
static CUBE_BACKWARD: Kernel = Kernel::new("cube_backward")
    .input("x", "f32[..]")
    .input("dy", "f32[..]")
    .output("dx", "f32 like x")
    .body("dx = 3 * x * x * dy;");

#[test]
fn gradient_is_an_error_unless_it_is_added() -> Result<()> {
    let x = tensor(&[2.0, -1.0], &[2], &Device::Cpu).variable();
    let one = Tensor::ones([2], F32, &Device::Cpu)?;
    let y = CUBE.run(&[&x])?.remove(0);
    let error = y.backward_from(&one).expect_err("no gradient").to_string();
    assert!(error.contains("kernel cube has no gradient; add one with Tensor::with_gradient"), "{error}");
    assert!(!no_grad(|| CUBE.run(&[&x]))?[0].requires_grad());

    let cube = || {
        Tensor::with_gradient(
            &[&x],
            |saved, x| {
                saved.push(x[0].clone());
                Ok(CUBE.run(&[&x[0]])?.remove(0))
            },
            |saved, dy| Ok(vec![Some(CUBE_BACKWARD.run(&[&saved[0], dy])?.remove(0))]),
        )
    };
    cube()?.backward_from(&one)?;
    assert_eq!(x.grad().expect("a gradient").to_vec::<f32>()?, [12.0, 3.0]);
    // The backward kernel has no gradient, so there is no second derivative.
    let first = gradients(&[(&cube()?, &one)], &[&x], true)?.remove(0).expect("a gradient");
    let error = gradients(&[(&first, &one)], &[&x], false).expect_err("no second derivative").to_string();
    assert!(error.contains("kernel cube_backward has no gradient"), "{error}");
    Ok(())
}

#[test]
fn output_that_exceeds_the_address_space_is_an_error() {
    let kernel = Kernel::new("huge")
        .input("x", "f32[n, m]")
        .output("y", "f32[n, n, n, n]")
        .geometry(Geometry::reduce("x", "m"))
        .source("");
    let x = Tensor::zeros([1 << 17, 0], F32, &Device::Cpu).expect("no elements");
    let error = kernel.run(&[&x]).expect_err("2^68 elements").to_string();
    assert!(error.contains("argument y is larger than the address space"), "{error}");
}

#[test]
fn kernels_of_one_name_and_different_texts_are_kept_apart() -> Result<()> {
    let _guard = serialize();
    let kernel = |body| Kernel::new("same_name").input("x", "f32[..]").output("y", "f32 like x").body(body);
    for device in [Device::Cpu, GPU] {
        let x = tensor(&[2.0], &[1], &device);
        let of = |body| kernel(body).run(&[&x]).map(|y| values(&y[0]));
        assert_eq!((of("y = x + 1;")?, of("y = x * 10;")?), (vec![3.0], vec![20.0]), "{device}");
    }
    Ok(())
}

#[test]
fn shapes_are_inferred_without_running() -> Result<()> {
    let x = Tensor::zeros([2, 3, 4], F32, &Device::Cpu)?;
    let y = shapes_only(|| {
        AFFINE.run(&[&x, &Tensor::zeros([4], F32, &Device::Cpu)?, &Tensor::zeros((), F32, &Device::Cpu)?])
    })?;
    assert_eq!(y[0].dims(), [2, 3, 4]);
    Ok(())
}
