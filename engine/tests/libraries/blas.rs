//! Matrix products: every transposition, epilogue and dtype, batches, and what is refused.
use crate::device::{Block, Device};
use crate::numbers::{DTYPES, draw, error, from_bytes, to_bytes};
use fornax_engine::DType;
use fornax_engine::cuda::LibraryError;
use fornax_engine::cuda::blas::{Blas, Epilogue, Operands, Product};

const EPILOGUES: [Epilogue; 5] =
    [Epilogue::None, Epilogue::Bias, Epilogue::BiasRelu, Epilogue::BiasGeluTanh, Epilogue::SumA];

struct Bench {
    device: Device,
    blas: Blas,
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
    fn of(p: &Product) -> Values {
        let vector = if p.epilogue == Epilogue::SumA { p.rows } else { p.cols };
        Values {
            a: draw(1, p.step_a * (p.batch - 1) + p.rows * p.inner, p.dtype),
            b: draw(2, p.step_b * (p.batch - 1) + p.inner * p.cols, p.dtype),
            vector: draw(3, vector, p.dtype),
        }
    }
}

impl Bench {
    fn new() -> Bench {
        let device = Device::open();
        Bench { device, blas: Blas::new().unwrap() }
    }

    fn run(&self, p: &Product, values: &Values, offset: usize) -> Result<Outcome, LibraryError> {
        let upload = |values: &[f64], offset| self.device.upload(&to_bytes(values, p.dtype), offset);
        let vector = match p.epilogue {
            Epilogue::SumA => vec![f64::NAN; p.rows],
            _ => values.vector.clone(),
        };
        let (a, b, vector) = (upload(&values.a, offset), upload(&values.b, offset), upload(&vector, 0));
        let d = upload(&vec![f64::NAN; p.batch * p.rows * p.cols], offset);
        let operands = Operands { a: a.pointer(), b: b.pointer(), d: d.pointer(), vector: vector.pointer() };
        let mut held: Vec<Block> = Vec::new();
        let workspace = &mut |bytes: usize| {
            held.push(self.device.allocate(bytes, 0));
            Ok(held[held.len() - 1].pointer())
        };
        // SAFETY: the blocks have the product's extents, and live until the downloads have waited for the stream.
        unsafe { self.blas.multiply(p, operands, self.device.stream(), workspace) }?;
        let read = |block| from_bytes(&self.device.download(block), p.dtype);
        Ok(Outcome { d: read(&d), vector: read(&vector) })
    }

    /// The worst error of D and of the sums; at most 1 is right.
    fn error(&self, p: &Product, offset: usize) -> f64 {
        let values = Values::of(p);
        let got = self.run(p, &values, offset).unwrap();
        let (want, scale) = plain(p, &values);
        let worst = error(&got.d, &want.d, &scale.d, p.dtype);
        worst.max(error(&got.vector, &want.vector, &scale.vector, p.dtype))
    }
}

/// The product by plain loops, and for each result the sum of the absolute terms.
fn plain(p: &Product, values: &Values) -> (Outcome, Outcome) {
    let a = |at: usize, i, k| {
        values.a[at * p.step_a + if p.transpose_a { k * p.rows + i } else { i * p.inner + k }]
    };
    let b = |at: usize, k, j| {
        values.b[at * p.step_b + if p.transpose_b { j * p.inner + k } else { k * p.cols + j }]
    };
    let mut d = Vec::new();
    let mut scale = Vec::new();
    for at in 0..p.batch {
        for (i, j) in (0..p.rows).flat_map(|i| (0..p.cols).map(move |j| (i, j))) {
            let bias = match p.epilogue {
                Epilogue::None | Epilogue::SumA => 0.0,
                _ => values.vector[j],
            };
            let terms = (0..p.inner).map(|k| a(at, i, k) * b(at, k, j));
            d.push(activate(p.epilogue, terms.clone().sum::<f64>() + bias));
            scale.push(terms.map(f64::abs).sum::<f64>() + bias.abs());
        }
    }
    let (mut vector, mut vector_scale) = (values.vector.clone(), vec![0.0; values.vector.len()]);
    if p.epilogue == Epilogue::SumA {
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
                    let p = Product {
                        transpose_a,
                        transpose_b,
                        epilogue,
                        ..Product::new(dtype, rows, cols, inner)
                    };
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

#[test]
fn multiplies_batches() {
    let bench = Bench::new();
    for dtype in DTYPES {
        for (transpose_a, transpose_b) in [(false, false), (true, true)] {
            let p = Product { batch: 3, transpose_a, transpose_b, ..Product::new(dtype, 4, 6, 5) };
            for (step_a, step_b) in [(20, 30), (0, 30), (20, 0), (24, 37)] {
                for epilogue in [Epilogue::None, Epilogue::Bias] {
                    let p = Product { step_a, step_b, epilogue, ..p };
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
        let p = Product { transpose_b: true, epilogue: Epilogue::Bias, ..Product::new(dtype, 6, 8, 10) };
        let worst = bench.error(&p, dtype.size());
        assert!(worst <= 1.0, "{p}: {worst} times the tolerance");
    }
}

#[test]
fn rounds_to_tf32_only_where_allowed() {
    let bench = Bench::new();
    let strict = Product::new(DType::F32, 16, 16, 64);
    let (strict, rounded) = (bench.error(&strict, 0), bench.error(&Product { tf32: true, ..strict }, 0));
    assert!(strict <= 1.0, "{strict} times the tolerance");
    assert!(rounded > 4.0 && rounded < 1000.0, "{rounded} times the strict tolerance");
}

#[test]
fn refuses_what_the_library_lacks() {
    let bench = Bench::new();
    let p = Product::new(DType::F32, 4, 4, 4);
    let refused = [
        Product { dtype: DType::F64, ..p },
        Product { inner: 0, ..p },
        Product { batch: 2, epilogue: Epilogue::SumA, ..p },
        Product { dtype: DType::F16, tf32: true, ..p },
    ];
    for p in refused {
        // Twice: the answer is remembered.
        for _ in 0..2 {
            let values = Values { a: vec![1.0; 64], b: vec![1.0; 64], vector: vec![1.0; 4] };
            let refusal = bench.run(&p, &values, 0);
            assert!(matches!(refusal, Err(LibraryError::Unsupported { .. })), "{p}");
        }
    }
    let bias = Product { epilogue: Epilogue::Bias, ..p };
    let vector = bench.device.upload(&[0; 32], 4);
    let operands = Operands { a: 256, b: 256, d: 256, vector: vector.pointer() };
    // SAFETY: refused before anything is read.
    let refusal = unsafe { bench.blas.multiply(&bias, operands, bench.device.stream(), &mut |_| Ok(0)) };
    assert!(
        matches!(refusal, Err(LibraryError::Unsupported { .. })),
        "a bias aligned to 4 bytes: {refusal:?}"
    );
}
