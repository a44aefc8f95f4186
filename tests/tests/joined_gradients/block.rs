//! The end of a residual block and the next block's first convolution, whose data gradient the block's batch norm can compute.
use fornax_engine::cuda::conv_plan_record;
use fornax_engine::{
    Activation, BatchNorm, Conv2dOptions, ConvBatchNorm, DType, Device, Result, Tensor, gradients,
};

/// Shape of a block's output, and channels of the next block's first convolution.
#[derive(Clone, Copy, Debug)]
struct Shape {
    image: [usize; 3],
    c: usize,
    k: usize,
}

fn random(shape: &[usize], seed: usize, offset: f32, dtype: DType) -> Tensor {
    let value = |i: usize| ((i * 7919 + seed * 104_729) % 1013) as f32 / 506.0 - 1.0 + offset;
    let count = shape.iter().product();
    let host = Tensor::from_vec((0..count).map(value).collect(), shape).expect("memory");
    let gpu = Device::emulated(1).expect("g++ is installed");
    host.to_dtype(dtype).and_then(|t| t.to_device(&gpu)).expect("memory")
}

/// Inputs of the end of a residual block and of the next convolution, and its output next to the skip connection's.
struct Block {
    leaves: Vec<Tensor>,
    outputs: Vec<(Tensor, Tensor)>,
}

fn block(shape: Shape, dtype: DType, is_pair: bool, has_skip: bool) -> Result<Block> {
    let Shape { image: [n, h, w], c, k } = shape;
    let leaf = |shape: &[usize], seed, offset, dtype| random(shape, seed, offset, dtype).variable();
    let [x, residual] = [1, 2].map(|seed| leaf(&[n, h, w, c], seed, 0.0, dtype));
    let vectors: Vec<Tensor> =
        [(3, 2.0), (4, 0.0), (5, 2.0), (6, 0.0)].map(|(seed, at)| leaf(&[c], seed, at, DType::F32)).into();
    let weight = leaf(&[k, 1, 1, c], 7, 0.0, dtype);
    let [one, other] = [8, 9].map(|seed| leaf(&[c, 1, 1, c], seed, 0.0, dtype));
    let norm = |i: usize| BatchNorm {
        weight: Some(&vectors[2 * i]),
        bias: Some(&vectors[2 * i + 1]),
        training: true,
        eps: 1e-3,
        ..BatchNorm::default()
    };
    let options = Conv2dOptions::default();
    let y = if is_pair {
        let conv = |x, weight, i| ConvBatchNorm { x, weight, options, norm: norm(i) };
        conv(&x, &one, 0).add_relu(&conv(&residual, &other, 1))?
    } else {
        x.batch_norm_act(&norm(0), Activation::Relu, Some(&residual))?
    };
    let z = y.conv2d(&weight, None, &options)?;
    let mut outputs = vec![(z.clone(), random(z.dims(), 10, 0.0, dtype))];
    if has_skip {
        let skip = y.mul_scalar(0.5)?;
        outputs.push((skip.clone(), random(skip.dims(), 11, 0.0, dtype)));
    }
    let mut leaves = vec![x, residual, weight];
    leaves.extend(vectors.into_iter().take(if is_pair { 4 } else { 2 }));
    if is_pair {
        leaves.extend([one, other]);
    }
    Ok(Block { leaves, outputs })
}

fn values(t: &Tensor) -> Vec<f32> {
    let host = t.to_device(&Device::Cpu).and_then(|t| t.to_dtype(DType::F32)).expect("a copy");
    host.to_vec().expect("f32")
}

/// Asserts that the joined gradients of every shape match those of separate operations, for one and two batch norms, with and without a skip
/// connection, and that timing chose the joined kernel.
pub fn check_joined_gradients() -> Result<()> {
    let shapes = [
        // One chunk; columns and terms in parts of a tile; more than 32 chunks, whose sums are merged in groups.
        Shape { image: [1, 5, 7], c: 8, k: 16 },
        Shape { image: [2, 9, 11], c: 136, k: 72 },
        Shape { image: [2, 48, 48], c: 24, k: 8 },
    ];
    for (i, shape) in shapes.into_iter().enumerate() {
        for (is_pair, has_skip) in [(false, true), (false, false), (true, true), (true, false)] {
            let dtype = [DType::F16, DType::BF16][(i + usize::from(is_pair)) % 2];
            // This backward pass never leaves a term to the next operation.
            let Block { leaves, outputs } = block(shape, dtype, is_pair, has_skip)?;
            let outputs: Vec<(&Tensor, &Tensor)> = outputs.iter().map(|(y, grad)| (y, grad)).collect();
            let separate = gradients(&outputs, &leaves.iter().collect::<Vec<_>>(), false)?;
            let Block { leaves, outputs } = block(shape, dtype, is_pair, has_skip)?;
            // As one scalar, so that one pass reaches both outputs.
            let mut total: Option<Tensor> = None;
            for (y, grad) in &outputs {
                let term = y.to_dtype(DType::F32)?.mul(&grad.to_dtype(DType::F32)?)?.sum_all()?;
                total = Some(match total {
                    Some(total) => total.add(&term)?,
                    None => term,
                });
            }
            total.expect("there is an output").backward()?;
            for (which, (leaf, separate)) in leaves.iter().zip(separate).enumerate() {
                let (got, want) =
                    (values(&leaf.grad().expect("a gradient")), values(&separate.expect("a gradient")));
                let largest = want.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
                let tolerance = largest * if dtype == DType::F16 { 4e-3 } else { 3e-2 };
                for (at, (a, b)) in got.iter().zip(&want).enumerate() {
                    let what = format!("{shape:?} {dtype}, pair {is_pair}, skip {has_skip}, leaf {which}");
                    assert!((a - b).abs() <= tolerance, "{what}, element {at}: {a}, not {b}");
                }
            }
        }
    }
    let record = conv_plan_record(&Device::Cuda(0))?.expect("convolutions were planned");
    for Shape { image: [n, h, w], c, k } in shapes {
        let shape = format!("n: {n}, h: {h}, w: {w}, c_in: {c}, c_out: {k}");
        let chosen = |(key, choice): (&String, &String)| key.contains(&shape) && choice == "own kernel";
        assert!(record.choices.iter().any(chosen), "the joined kernel was chosen for {shape}");
    }
    Ok(())
}
