//! Matmuls by cuBLASLt: every transposition, epilogue and dtype, batches, and unsupported cases.
use crate::device::{Block, Device};
use crate::numbers::{DTYPES, error, from_bytes, random, to_bytes};
use fornax_engine::DType;
use fornax_engine::cuda::LibraryError;
use fornax_engine::cuda::cublaslt::{CublasLt, Epilogue, Gemm, GemmOperands};
use fornax_kernels::emulator::plant_matmul;

const EPILOGUES: [Epilogue; 5] =
    [Epilogue::None, Epilogue::Bias, Epilogue::BiasRelu, Epilogue::BiasGeluTanh, Epilogue::BgradA];

struct Fixture {
    device: Device,
    blas: CublasLt,
}

/// Outputs of a matmul: D, and the bias vector, which the `BgradA` epilogue computes.
struct GemmResult {
    d: Vec<f64>,
    bias: Vec<f64>,
}

struct GemmValues {
    a: Vec<f64>,
    b: Vec<f64>,
    bias: Vec<f64>,
}

impl GemmValues {
    fn of(p: &Gemm) -> GemmValues {
        let bias = if p.epilogue == Epilogue::BgradA { p.rows } else { p.cols };
        GemmValues {
            a: random(1, p.stride_a * (p.batch - 1) + p.rows * p.inner, p.dtype),
            b: random(2, p.stride_b * (p.batch - 1) + p.inner * p.cols, p.dtype),
            bias: random(3, bias, p.dtype),
        }
    }
}

impl Fixture {
    fn new() -> Fixture {
        let device = Device::open();
        Fixture { device, blas: CublasLt::new().unwrap() }
    }

    fn run(&self, p: &Gemm, values: &GemmValues, offset: usize) -> Result<GemmResult, LibraryError> {
        let upload = |values: &[f64], offset| self.device.upload(&to_bytes(values, p.dtype), offset);
        let bias = match p.epilogue {
            Epilogue::BgradA => vec![f64::NAN; p.rows],
            _ => values.bias.clone(),
        };
        let (a, b, bias) = (upload(&values.a, offset), upload(&values.b, offset), upload(&bias, 0));
        let d = upload(&vec![f64::NAN; p.batch * p.rows * p.cols], offset);
        let operands =
            GemmOperands { a: a.pointer(), b: b.pointer(), d: d.pointer(), bias: bias.pointer(), aux: 0 };
        let mut workspaces: Vec<Block> = Vec::new();
        let workspace = &mut |bytes: usize| {
            workspaces.push(self.device.allocate(bytes, 0));
            Ok(workspaces[workspaces.len() - 1].pointer())
        };
        // SAFETY: the blocks have the matmul's extents, and live until the downloads have waited for the stream.
        unsafe { self.blas.matmul(p, operands, self.device.stream(), workspace) }?;
        let read = |block| from_bytes(&self.device.download(block), p.dtype);
        Ok(GemmResult { d: read(&d), bias: read(&bias) })
    }

    /// The largest error of D and of the bias gradient, in units of the tolerance.
    fn error(&self, p: &Gemm, offset: usize) -> f64 {
        let values = GemmValues::of(p);
        let got = self.run(p, &values, offset).unwrap();
        let (want, scale) = reference(p, &values);
        let worst = error(&got.d, &want.d, &scale.d, p.dtype);
        worst.max(error(&got.bias, &want.bias, &scale.bias, p.dtype))
    }
}

/// The matmul by plain loops, and for each result the sum of the absolute terms.
fn reference(p: &Gemm, values: &GemmValues) -> (GemmResult, GemmResult) {
    let a = |at: usize, i, k| {
        values.a[at * p.stride_a + if p.transpose_a { k * p.rows + i } else { i * p.inner + k }]
    };
    let b = |at: usize, k, j| {
        values.b[at * p.stride_b + if p.transpose_b { j * p.inner + k } else { k * p.cols + j }]
    };
    let mut d = Vec::new();
    let mut scale = Vec::new();
    for at in 0..p.batch {
        for (i, j) in (0..p.rows).flat_map(|i| (0..p.cols).map(move |j| (i, j))) {
            let bias = match p.epilogue {
                Epilogue::None | Epilogue::BgradA => 0.0,
                _ => values.bias[j],
            };
            let terms = (0..p.inner).map(|k| a(at, i, k) * b(at, k, j));
            d.push(activate(p.epilogue, terms.clone().sum::<f64>() + bias));
            scale.push(terms.map(f64::abs).sum::<f64>() + bias.abs());
        }
    }
    let (mut bias, mut bias_scale) = (values.bias.clone(), vec![0.0; values.bias.len()]);
    if p.epilogue == Epilogue::BgradA {
        for i in 0..p.rows {
            bias[i] = (0..p.inner).map(|k| a(0, i, k)).sum();
            bias_scale[i] = (0..p.inner).map(|k| a(0, i, k).abs()).sum();
        }
    }
    (GemmResult { d, bias }, GemmResult { d: scale, bias: bias_scale })
}

fn activate(epilogue: Epilogue, x: f64) -> f64 {
    match epilogue {
        Epilogue::BiasRelu => x.max(0.0),
        Epilogue::BiasGeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        _ => x,
    }
}

#[test]
fn gemm_matches_plain_loops() {
    let fixture = Fixture::new();
    for (rows, cols, inner) in [(5, 7, 3), (1, 9, 65), (33, 1, 130), (16, 8, 1)] {
        for dtype in DTYPES {
            for (transpose_a, transpose_b) in [(false, false), (false, true), (true, false), (true, true)] {
                for epilogue in EPILOGUES {
                    let p =
                        Gemm { transpose_a, transpose_b, epilogue, ..Gemm::new(dtype, rows, cols, inner) };
                    // Twice: the second call uses the algorithm that the first one cached.
                    for call in 0..2 {
                        let worst = fixture.error(&p, 0);
                        assert!(worst <= 1.0, "{p}: {worst} times the tolerance at call {call}");
                    }
                }
            }
        }
    }
}

/// Runs a matmul of `[rows, cols]` with an epilogue that reads or writes the `aux` block; D and the bias.
fn run_with_aux(fixture: &Fixture, p: &Gemm, [a, b, bias]: [&[f64]; 3], aux: &Block) -> (Vec<f64>, Vec<f64>) {
    let upload = |values: &[f64]| fixture.device.upload(&to_bytes(values, p.dtype), 0);
    let (a, b, bias, d) = (upload(a), upload(b), upload(bias), upload(&vec![f64::NAN; p.rows * p.cols]));
    let operands = GemmOperands {
        a: a.pointer(),
        b: b.pointer(),
        d: d.pointer(),
        bias: bias.pointer(),
        aux: aux.pointer(),
    };
    let mut workspaces: Vec<Block> = Vec::new();
    let workspace = &mut |bytes: usize| {
        workspaces.push(fixture.device.allocate(bytes, 0));
        Ok(workspaces[workspaces.len() - 1].pointer())
    };
    // SAFETY: the blocks have the matmul's extents, and live until the downloads have waited for the stream.
    unsafe { fixture.blas.matmul(p, operands, fixture.device.stream(), workspace) }.unwrap();
    let read = |block| from_bytes(&fixture.device.download(block), p.dtype);
    (read(&d), read(&bias))
}

#[test]
fn aux_epilogues_match_plain_loops_forward_and_backward() {
    let fixture = Fixture::new();
    for (rows, cols, inner) in [(5, 8, 3), (33, 136, 10), (1, 264, 7)] {
        for dtype in DTYPES {
            for (forward, back) in [
                (Epilogue::BiasReluAux, Epilogue::DreluBgrad),
                (Epilogue::BiasGeluTanhAux, Epilogue::DgeluTanhBgrad),
            ] {
                let p = Gemm { transpose_b: true, epilogue: forward, ..Gemm::new(dtype, rows, cols, inner) };
                let reference_epilogue = match forward {
                    Epilogue::BiasReluAux => Epilogue::BiasRelu,
                    _ => Epilogue::BiasGeluTanh,
                };
                let values = GemmValues::of(&p);
                let aux = fixture.device.allocate(p.aux_bytes(), 0);
                let (d, _) = run_with_aux(&fixture, &p, [&values.a, &values.b, &values.bias], &aux);
                let (want, scale) = reference(&Gemm { epilogue: reference_epilogue, ..p }, &values);
                assert!(error(&d, &want.d, &scale.d, dtype) <= 1.0, "{p}");

                // The aux block: the ReLU mask, or the activation's input.
                let (pre_activation, pre_activation_scale) =
                    reference(&Gemm { epilogue: Epilogue::Bias, ..p }, &values);
                let bytes = fixture.device.download(&aux);
                if forward == Epilogue::BiasReluAux {
                    let step = cols.next_multiple_of(128);
                    for (i, y) in d.iter().enumerate() {
                        let at = i / cols * step + i % cols;
                        assert_eq!(bytes[at / 8] >> (at % 8) & 1 == 1, *y > 0.0, "{p}, element {i}");
                    }
                } else {
                    let got = from_bytes(&bytes, dtype);
                    assert!(error(&got, &pre_activation.d, &pre_activation_scale.d, dtype) <= 1.0, "{p}");
                }

                let backward = Gemm { epilogue: back, ..Gemm::new(dtype, rows, cols, inner + 2) };
                let upstream = GemmValues::of(&Gemm { epilogue: Epilogue::Bias, ..backward });
                let empty = vec![f64::NAN; cols];
                let (dx, sums) = run_with_aux(&fixture, &backward, [&upstream.a, &upstream.b, &empty], &aux);
                let (want, scale) = reference(&Gemm { epilogue: Epilogue::None, ..backward }, &upstream);
                let derivative = |i: usize| match forward {
                    Epilogue::BiasReluAux => f64::from(d[i] > 0.0),
                    _ => gelu_tanh_derivative(from_bytes(&bytes, dtype)[i]),
                };
                let masked: Vec<f64> = want.d.iter().enumerate().map(|(i, d)| d * derivative(i)).collect();
                assert!(error(&dx, &masked, &scale.d, dtype) <= 1.0, "{backward}");
                let column =
                    |values: &[f64], j: usize| -> f64 { (0..rows).map(|i| values[i * cols + j]).sum() };
                let want: Vec<f64> = (0..cols).map(|j| column(&dx, j)).collect();
                let absolute: Vec<f64> = dx.iter().map(|v| v.abs()).collect();
                let scale: Vec<f64> = (0..cols).map(|j| column(&absolute, j)).collect();
                assert!(error(&sums, &want, &scale, dtype) <= 1.0, "{backward}");
            }
        }
    }
}

fn gelu_tanh_derivative(x: f64) -> f64 {
    let root = (2.0 / std::f64::consts::PI).sqrt();
    let t = (root * (x + 0.044715 * x.powi(3))).tanh();
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * root * (1.0 + 3.0 * 0.044715 * x * x)
}

#[test]
fn strided_batches_match_plain_loops() {
    let fixture = Fixture::new();
    for dtype in DTYPES {
        for (transpose_a, transpose_b) in [(false, false), (true, true)] {
            let p = Gemm { batch: 3, transpose_a, transpose_b, ..Gemm::new(dtype, 4, 6, 5) };
            for (stride_a, stride_b) in [(20, 30), (0, 30), (20, 0), (24, 37)] {
                for epilogue in [Epilogue::None, Epilogue::Bias] {
                    let p = Gemm { stride_a, stride_b, epilogue, ..p };
                    let worst = fixture.error(&p, 0);
                    assert!(
                        worst <= 1.0,
                        "{p}, strides {stride_a} and {stride_b}: {worst} times the tolerance"
                    );
                }
            }
        }
    }
}

#[test]
fn unaligned_views_match_plain_loops() {
    let fixture = Fixture::new();
    for dtype in DTYPES {
        let p = Gemm { transpose_b: true, epilogue: Epilogue::Bias, ..Gemm::new(dtype, 6, 8, 10) };
        let worst = fixture.error(&p, dtype.size());
        assert!(worst <= 1.0, "{p}: {worst} times the tolerance");
    }
}

#[test]
fn f32_is_rounded_to_tf32_only_where_allowed() {
    let fixture = Fixture::new();
    let strict = Gemm::new(DType::F32, 16, 16, 64);
    let (strict, rounded) = (fixture.error(&strict, 0), fixture.error(&Gemm { tf32: true, ..strict }, 0));
    assert!(strict <= 1.0, "{strict} times the tolerance");
    assert!(rounded > 4.0 && rounded < 1000.0, "{rounded} times the strict tolerance");
}

#[test]
fn rejected_algorithms_are_skipped_and_epilogues_without_one_are_unsupported() {
    let fixture = Fixture::new();
    let relu_bias = 6;
    for (rejections, is_supported) in [(1, true), (2, false)] {
        for status in [7, 8, 13, 14] {
            (0..rejections).for_each(|rank| plant_matmul(relu_bias, rank, status).unwrap());
            // A shape of its own for each, as the choice is cached.
            let p = Gemm {
                epilogue: Epilogue::BiasRelu,
                ..Gemm::new(DType::F32, 3 + rejections as usize, status as usize, 9)
            };
            for _ in 0..2 {
                match is_supported {
                    true => assert!(fixture.error(&p, 0) <= 1.0, "{p}"),
                    false => {
                        let error = fixture.run(&p, &GemmValues::of(&p), 0).err();
                        assert!(
                            matches!(error, Some(LibraryError::Unsupported { .. })),
                            "{status}: {error:?}"
                        );
                    }
                }
            }
            (0..rejections).for_each(|rank| plant_matmul(relu_bias, rank, 0).unwrap());
        }
    }
}

#[test]
fn unsupported_gemms_are_rejected() {
    let fixture = Fixture::new();
    let p = Gemm::new(DType::F32, 4, 4, 4);
    let unsupported = [
        Gemm { dtype: DType::F64, ..p },
        Gemm { inner: 0, ..p },
        Gemm { batch: 2, epilogue: Epilogue::BgradA, ..p },
        Gemm { dtype: DType::F16, tf32: true, ..p },
        Gemm { batch: 2, epilogue: Epilogue::BiasReluAux, ..p },
        // GELU's input needs rows of a multiple of 8 elements.
        Gemm { epilogue: Epilogue::BiasGeluTanhAux, ..p },
    ];
    for p in unsupported {
        // Twice: the answer is cached.
        for _ in 0..2 {
            let values = GemmValues { a: vec![1.0; 64], b: vec![1.0; 64], bias: vec![1.0; 4] };
            let result = fixture.run(&p, &values, 0);
            assert!(matches!(result, Err(LibraryError::Unsupported { .. })), "{p}");
        }
    }
    let with_bias = Gemm { epilogue: Epilogue::Bias, ..p };
    let bias = fixture.device.upload(&[0; 32], 4);
    let operands = GemmOperands { a: 256, b: 256, d: 256, bias: bias.pointer(), aux: 0 };
    // SAFETY: the call is rejected before it reads anything.
    let result =
        unsafe { fixture.blas.matmul(&with_bias, operands, fixture.device.stream(), &mut |_| Ok(0)) };
    assert!(matches!(result, Err(LibraryError::Unsupported { .. })), "a bias aligned to 4 bytes: {result:?}");
}
