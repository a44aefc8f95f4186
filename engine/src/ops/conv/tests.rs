//! The algorithm of a convolution, from its options to the kernels of all passes.
use super::{Conv2dOptions, conv_shape, cpu, gradients};
use crate::autograd::gradients as gradients_of;
use crate::{ConvAlgorithm, ConvShape, Result, Tensor};

const ALGORITHMS: [ConvAlgorithm; 2] = [ConvAlgorithm::Auto, ConvAlgorithm::Direct];

fn options(algorithm: ConvAlgorithm) -> Conv2dOptions {
    Conv2dOptions { padding: [1, 1], algorithm, ..Conv2dOptions::default() }
}

/// Pseudo-random numbers in -1..1.
fn random(shape: [usize; 4], seed: usize) -> Tensor {
    let value = |i: usize| ((i * 7919 + seed * 104_729) % 1013) as f32 / 506.0 - 1.0;
    Tensor::from_vec((0..shape.iter().product()).map(value).collect(), shape).expect("memory")
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Bits of a tensor that a kernel computes from the elements of two others.
fn by_kernel(
    a: &Tensor,
    b: &Tensor,
    len: usize,
    kernel: impl FnOnce(&[f32], &[f32], &mut [f32]),
) -> Vec<u32> {
    let mut result = vec![0.0; len];
    kernel(&a.read::<f32>().expect("f32"), &b.read::<f32>().expect("f32"), &mut result);
    bits(&result)
}

#[test]
fn shape_of_a_convolution_has_all_its_options() -> Result<()> {
    let (x, weight) = (random([2, 9, 8, 6], 1), random([4, 3, 3, 3], 2));
    for algorithm in ALGORITHMS {
        let given = Conv2dOptions { stride: [1, 2], padding: [3, 2], dilation: [2, 1], groups: 2, algorithm };
        let shape = conv_shape(&[("x", &x), ("weight", &weight)], &given)?;
        assert_eq!(shape.algorithm, algorithm);
        assert_eq!(gradients::options(&shape), given);
    }
    Ok(())
}

#[test]
fn every_pass_and_second_derivative_uses_the_algorithm_of_the_options() -> Result<()> {
    let (x, weight) = (random([2, 9, 7, 32], 1).variable(), random([48, 3, 3, 32], 2).variable());
    let dy = random([2, 9, 7, 48], 3).variable();
    let (ddx, ddw) = (random([2, 9, 7, 32], 4), random([48, 3, 3, 32], 5));
    let mut outputs = Vec::new();
    for algorithm in ALGORITHMS {
        let s =
            ConvShape { algorithm, ..conv_shape(&[("x", &x), ("weight", &weight)], &options(algorithm))? };
        let forward = |x: &Tensor, w: &Tensor| {
            by_kernel(x, w, s.output_len(), |x, w, y| cpu::forward(&s, x, w, None, y))
        };
        let data_gradient = |dy: &Tensor, w: &Tensor| {
            by_kernel(dy, w, s.input_len(), |dy, w, dx| cpu::data_gradient(&s, dy, w, dx))
        };
        let weight_gradient = |x: &Tensor, dy: &Tensor| {
            by_kernel(x, dy, s.weight_len(), |x, dy, dw| cpu::weight_gradient(&s, x, dy, dw))
        };
        let of = |t: &Option<Tensor>| bits(&t.as_ref().expect("a gradient").to_vec::<f32>().expect("f32"));
        let y = x.conv2d(&weight, None, &options(algorithm))?;
        assert_eq!(bits(&y.to_vec()?), forward(&x, &weight), "{algorithm:?}");
        outputs.push(bits(&y.to_vec()?));
        let first = gradients_of(&[(&y, &dy)], &[&x, &weight], true)?;
        assert_eq!(of(&first[0]), data_gradient(&dy, &weight), "{algorithm:?}");
        assert_eq!(of(&first[1]), weight_gradient(&x, &dy), "{algorithm:?}");
        let [dx, dw] = [0, 1].map(|i| first[i].as_ref().expect("a gradient"));
        let of_dx = gradients_of(&[(dx, &ddx)], &[&dy, &weight], false)?;
        assert_eq!(of(&of_dx[0]), forward(&ddx, &weight), "{algorithm:?}");
        assert_eq!(of(&of_dx[1]), weight_gradient(&ddx, &dy), "{algorithm:?}");
        let of_dw = gradients_of(&[(dw, &ddw)], &[&x, &dy], false)?;
        assert_eq!(of(&of_dw[0]), data_gradient(&dy, &ddw), "{algorithm:?}");
        assert_eq!(of(&of_dw[1]), forward(&x, &ddw), "{algorithm:?}");
    }
    assert_ne!(outputs[0], outputs[1], "the algorithms round differently");
    Ok(())
}
