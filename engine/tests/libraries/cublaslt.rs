//! Matrix products: every transposition, epilogue and dtype, batches, and what is refused.
use crate::device::{Block, Device};
use crate::numbers::{DTYPES, draw, error, from_bytes, to_bytes};
use fornax_engine::DType;
use fornax_engine::cuda::LibraryError;
use fornax_engine::cuda::cublaslt::{CublasLt, Epilogue, Gemm, GemmOperands};

const EPILOGUES: [Epilogue; 5] =
    [Epilogue::None, Epilogue::Bias, Epilogue::BiasRelu, Epilogue::BiasGeluTanh, Epilogue::BgradA];

struct Bench {
    device: Device,
    blas: CublasLt,
}

/// D and the vector that a product leaves.
struct Outcome {
    d: Vec<f64>,
    vector: Vec<f64>,
}

struct Values {
    a: Vec<f64>,
    b: Vec<f64>,
    vector: Vec<f64>,
}

impl Values {
    fn of(p: &Gemm) -> Values {
        let vector = if p.epilogue == Epilogue::BgradA { p.rows } else { p.cols };
        Values {
            a: draw(1, p.stride_a * (p.batch - 1) + p.rows * p.inner, p.dtype),
            b: draw(2, p.stride_b * (p.batch - 1) + p.inner * p.cols, p.dtype),
            vector: draw(3, vector, p.dtype),
        }
    }
}

impl Bench {
    fn new() -> Bench {
        let device = Device::open();
        Bench { device, blas: CublasLt::new().unwrap() }
    }

    fn run(&self, p: &Gemm, values: &Values, offset: usize) -> Result<Outcome, LibraryError> {
        let upload = |values: &[f64], offset| self.device.upload(&to_bytes(values, p.dtype), offset);
        let vector = match p.epilogue {
            Epilogue::BgradA => vec![f64::NAN; p.rows],
            _ => values.vector.clone(),
        };
        let (a, b, vector) = (upload(&values.a, offset), upload(&values.b, offset), upload(&vector, 0));
        let d = upload(&vec![f64::NAN; p.batch * p.rows * p.cols], offset);
        let operands =
            GemmOperands { a: a.pointer(), b: b.pointer(), d: d.pointer(), bias: vector.pointer(), aux: 0 };
        let mut held: Vec<Block> = Vec::new();
        let workspace = &mut |bytes: usize| {
            held.push(self.device.allocate(bytes, 0));
            Ok(held[held.len() - 1].pointer())
        };
        // SAFETY: the blocks have the product's extents, and live until the downloads have waited for the stream.
        unsafe { self.blas.matmul(p, operands, self.device.stream(), workspace) }?;
        let read = |block| from_bytes(&self.device.download(block), p.dtype);
        Ok(Outcome { d: read(&d), vector: read(&vector) })
    }

    /// The worst error of D and of the sums; at most 1 is right.
    fn error(&self, p: &Gemm, offset: usize) -> f64 {
        let values = Values::of(p);
        let got = self.run(p, &values, offset).unwrap();
        let (want, scale) = plain(p, &values);
        let worst = error(&got.d, &want.d, &scale.d, p.dtype);
        worst.max(error(&got.vector, &want.vector, &scale.vector, p.dtype))
    }
}

/// The product by plain loops, and for each result the sum of the absolute terms.
fn plain(p: &Gemm, values: &Values) -> (Outcome, Outcome) {
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
                _ => values.vector[j],
            };
            let terms = (0..p.inner).map(|k| a(at, i, k) * b(at, k, j));
            d.push(activate(p.epilogue, terms.clone().sum::<f64>() + bias));
            scale.push(terms.map(f64::abs).sum::<f64>() + bias.abs());
        }
    }
    let (mut vector, mut vector_scale) = (values.vector.clone(), vec![0.0; values.vector.len()]);
    if p.epilogue == Epilogue::BgradA {
        for i in 0..p.rows {
            vector[i] = (0..p.inner).map(|k| a(0, i, k)).sum();
            vector_scale[i] = (0..p.inner).map(|k| a(0, i, k).abs()).sum();
        }
    }
    (Outcome { d, vector }, Outcome { d: scale, vector: vector_scale })
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
fn matches_plain_loops() {
    let bench = Bench::new();
    for (rows, cols, inner) in [(5, 7, 3), (1, 9, 65), (33, 1, 130), (16, 8, 1)] {
        for dtype in DTYPES {
            for (transpose_a, transpose_b) in [(false, false), (false, true), (true, false), (true, true)] {
                for epilogue in EPILOGUES {
                    let p =
                        Gemm { transpose_a, transpose_b, epilogue, ..Gemm::new(dtype, rows, cols, inner) };
                    // Twice: the second call takes the algorithm that the first one kept.
                    for call in 0..2 {
                        let worst = bench.error(&p, 0);
                        assert!(worst <= 1.0, "{p}: {worst} times the tolerance at call {call}");
                    }
                }
            }
        }
    }
}

/// Runs a product of `[rows, cols]` with an epilogue that has something beside D: D, the vector and the block beside.
fn run_beside(bench: &Bench, p: &Gemm, [a, b, vector]: [&[f64]; 3], beside: &Block) -> (Vec<f64>, Vec<f64>) {
    let upload = |values: &[f64]| bench.device.upload(&to_bytes(values, p.dtype), 0);
    let (a, b, vector, d) = (upload(a), upload(b), upload(vector), upload(&vec![f64::NAN; p.rows * p.cols]));
    let operands = GemmOperands {
        a: a.pointer(),
        b: b.pointer(),
        d: d.pointer(),
        bias: vector.pointer(),
        aux: beside.pointer(),
    };
    let mut held: Vec<Block> = Vec::new();
    let workspace = &mut |bytes: usize| {
        held.push(bench.device.allocate(bytes, 0));
        Ok(held[held.len() - 1].pointer())
    };
    // SAFETY: the blocks have the product's extents, and live until the downloads have waited for the stream.
    unsafe { bench.blas.matmul(p, operands, bench.device.stream(), workspace) }.unwrap();
    let read = |block| from_bytes(&bench.device.download(block), p.dtype);
    (read(&d), read(&vector))
}

#[test]
fn activations_leave_their_slopes_beside_and_take_them_back() {
    let bench = Bench::new();
    for (rows, cols, inner) in [(5, 8, 3), (33, 136, 10), (1, 264, 7)] {
        for dtype in DTYPES {
            for (ahead, back) in [
                (Epilogue::BiasReluAux, Epilogue::DreluBgrad),
                (Epilogue::BiasGeluTanhAux, Epilogue::DgeluTanhBgrad),
            ] {
                let p = Gemm { transpose_b: true, epilogue: ahead, ..Gemm::new(dtype, rows, cols, inner) };
                let plain_epilogue = match ahead {
                    Epilogue::BiasReluAux => Epilogue::BiasRelu,
                    _ => Epilogue::BiasGeluTanh,
                };
                let values = Values::of(&p);
                let beside = bench.device.allocate(p.aux_bytes(), 0);
                let (d, _) = run_beside(&bench, &p, [&values.a, &values.b, &values.vector], &beside);
                let (want, scale) = plain(&Gemm { epilogue: plain_epilogue, ..p }, &values);
                assert!(error(&d, &want.d, &scale.d, dtype) <= 1.0, "{p}");

                // The bits, and the activation's input, as documented.
                let (seen, seen_scale) = plain(&Gemm { epilogue: Epilogue::Bias, ..p }, &values);
                let bytes = bench.device.download(&beside);
                if ahead == Epilogue::BiasReluAux {
                    let step = cols.next_multiple_of(128);
                    for (i, y) in d.iter().enumerate() {
                        let at = i / cols * step + i % cols;
                        assert_eq!(bytes[at / 8] >> (at % 8) & 1 == 1, *y > 0.0, "{p}, element {i}");
                    }
                } else {
                    let got = from_bytes(&bytes, dtype);
                    assert!(error(&got, &seen.d, &seen_scale.d, dtype) <= 1.0, "{p}");
                }

                let of_back = Gemm { epilogue: back, ..Gemm::new(dtype, rows, cols, inner + 2) };
                let upstream = Values::of(&Gemm { epilogue: Epilogue::Bias, ..of_back });
                let room = vec![f64::NAN; cols];
                let (dx, sums) = run_beside(&bench, &of_back, [&upstream.a, &upstream.b, &room], &beside);
                let (want, scale) = plain(&Gemm { epilogue: Epilogue::None, ..of_back }, &upstream);
                let slope = |i: usize| match ahead {
                    Epilogue::BiasReluAux => f64::from(d[i] > 0.0),
                    _ => gelu_tanh_slope(from_bytes(&bytes, dtype)[i]),
                };
                let masked: Vec<f64> = want.d.iter().enumerate().map(|(i, d)| d * slope(i)).collect();
                assert!(error(&dx, &masked, &scale.d, dtype) <= 1.0, "{of_back}");
                let column =
                    |values: &[f64], j: usize| -> f64 { (0..rows).map(|i| values[i * cols + j]).sum() };
                let want: Vec<f64> = (0..cols).map(|j| column(&dx, j)).collect();
                let absolute: Vec<f64> = dx.iter().map(|v| v.abs()).collect();
                let scale: Vec<f64> = (0..cols).map(|j| column(&absolute, j)).collect();
                assert!(error(&sums, &want, &scale, dtype) <= 1.0, "{of_back}");
            }
        }
    }
}

fn gelu_tanh_slope(x: f64) -> f64 {
    let root = (2.0 / std::f64::consts::PI).sqrt();
    let t = (root * (x + 0.044715 * x.powi(3))).tanh();
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * root * (1.0 + 3.0 * 0.044715 * x * x)
}

#[test]
fn multiplies_batches() {
    let bench = Bench::new();
    for dtype in DTYPES {
        for (transpose_a, transpose_b) in [(false, false), (true, true)] {
            let p = Gemm { batch: 3, transpose_a, transpose_b, ..Gemm::new(dtype, 4, 6, 5) };
            for (step_a, step_b) in [(20, 30), (0, 30), (20, 0), (24, 37)] {
                for epilogue in [Epilogue::None, Epilogue::Bias] {
                    let p = Gemm { stride_a: step_a, stride_b: step_b, epilogue, ..p };
                    let worst = bench.error(&p, 0);
                    assert!(worst <= 1.0, "{p}, steps {step_a} and {step_b}: {worst} times the tolerance");
                }
            }
        }
    }
}

#[test]
fn takes_views_that_are_not_aligned() {
    let bench = Bench::new();
    for dtype in DTYPES {
        let p = Gemm { transpose_b: true, epilogue: Epilogue::Bias, ..Gemm::new(dtype, 6, 8, 10) };
        let worst = bench.error(&p, dtype.size());
        assert!(worst <= 1.0, "{p}: {worst} times the tolerance");
    }
}

#[test]
fn rounds_to_tf32_only_where_allowed() {
    let bench = Bench::new();
    let strict = Gemm::new(DType::F32, 16, 16, 64);
    let (strict, rounded) = (bench.error(&strict, 0), bench.error(&Gemm { tf32: true, ..strict }, 0));
    assert!(strict <= 1.0, "{strict} times the tolerance");
    assert!(rounded > 4.0 && rounded < 1000.0, "{rounded} times the strict tolerance");
}

#[test]
fn refuses_what_the_library_lacks() {
    let bench = Bench::new();
    let p = Gemm::new(DType::F32, 4, 4, 4);
    let refused = [
        Gemm { dtype: DType::F64, ..p },
        Gemm { inner: 0, ..p },
        Gemm { batch: 2, epilogue: Epilogue::BgradA, ..p },
        Gemm { dtype: DType::F16, tf32: true, ..p },
        Gemm { batch: 2, epilogue: Epilogue::BiasReluAux, ..p },
        // GELU's input needs rows of a multiple of 8 elements.
        Gemm { epilogue: Epilogue::BiasGeluTanhAux, ..p },
    ];
    for p in refused {
        // Twice: the answer is remembered.
        for _ in 0..2 {
            let values = Values { a: vec![1.0; 64], b: vec![1.0; 64], vector: vec![1.0; 4] };
            let refusal = bench.run(&p, &values, 0);
            assert!(matches!(refusal, Err(LibraryError::Unsupported { .. })), "{p}");
        }
    }
    let bias = Gemm { epilogue: Epilogue::Bias, ..p };
    let vector = bench.device.upload(&[0; 32], 4);
    let operands = GemmOperands { a: 256, b: 256, d: 256, bias: vector.pointer(), aux: 0 };
    // SAFETY: refused before anything is read.
    let refusal = unsafe { bench.blas.matmul(&bias, operands, bench.device.stream(), &mut |_| Ok(0)) };
    assert!(
        matches!(refusal, Err(LibraryError::Unsupported { .. })),
        "a bias aligned to 4 bytes: {refusal:?}"
    );
}
