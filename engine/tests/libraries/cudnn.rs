//! Convolutions by cuDNN: odd sizes, strides, padding, dilation, groups, unaligned views, and unsupported cases.
use crate::cudnn_errors;
use crate::device::{Block, Device};
use crate::numbers::{DTYPES, error, from_bytes, random, to_bytes};
use fornax_engine::cuda::LibraryError;
use fornax_engine::cuda::cudnn::{
    ConvBenchmark, ConvEngineOptions, ConvKind, ConvPlanChoice, Cudnn, GpuKind,
};
use fornax_engine::{ConvAlgorithm, ConvShape, DType};

/// Kind of the emulated device.
pub const KIND: GpuKind = GpuKind { capability: (9, 0), multiprocessors: 132 };

pub const BASE: ConvShape = ConvShape {
    n: 2,
    h: 7,
    w: 5,
    c_in: 3,
    c_out: 5,
    kernel: [3, 3],
    stride: [1, 1],
    padding: [1, 1],
    dilation: [1, 1],
    groups: 1,
    algorithm: ConvAlgorithm::Auto,
};

fn shapes() -> Vec<ConvShape> {
    vec![
        BASE,
        ConvShape { n: 3, c_in: 8, c_out: 16, kernel: [1, 1], stride: [2, 2], padding: [0, 0], ..BASE },
        ConvShape { h: 14, w: 13, c_out: 16, kernel: [7, 7], stride: [2, 2], padding: [3, 3], ..BASE },
        ConvShape { h: 9, w: 8, kernel: [5, 3], stride: [2, 1], padding: [2, 1], dilation: [1, 2], ..BASE },
        ConvShape { h: 11, w: 9, c_in: 4, padding: [2, 2], dilation: [2, 2], ..BASE },
        ConvShape { c_in: 6, c_out: 10, groups: 2, ..BASE },
        ConvShape { c_in: 4, c_out: 8, groups: 4, stride: [1, 2], ..BASE },
        // Some rows and columns of the image are in no window: their gradient is zero.
        ConvShape { h: 8, w: 8, stride: [3, 3], padding: [0, 0], ..BASE },
        ConvShape { n: 1, h: 3, w: 3, padding: [0, 0], ..BASE },
    ]
}

/// Calls `visit` with the indices into image, weight and output of every multiplication in a convolution.
fn for_each_product(s: &ConvShape, mut visit: impl FnMut(usize, usize, usize)) {
    for (n, oh, ow, k) in (0..s.output_len()).map(|i| {
        let (k, i) = (i % s.c_out, i / s.c_out);
        (i / s.out_w() / s.out_h(), i / s.out_w() % s.out_h(), i % s.out_w(), k)
    }) {
        let y = ((n * s.out_h() + oh) * s.out_w() + ow) * s.c_out + k;
        for (r, q) in (0..s.kernel[0]).flat_map(|r| (0..s.kernel[1]).map(move |q| (r, q))) {
            let ih = (oh * s.stride[0] + r * s.dilation[0]).wrapping_sub(s.padding[0]);
            let iw = (ow * s.stride[1] + q * s.dilation[1]).wrapping_sub(s.padding[1]);
            if ih >= s.h || iw >= s.w {
                continue;
            }
            for c in 0..s.group_in() {
                let group = k / s.group_out();
                let x = ((n * s.h + ih) * s.w + iw) * s.c_in + group * s.group_in() + c;
                visit(x, ((k * s.kernel[0] + r) * s.kernel[1] + q) * s.group_in() + c, y);
            }
        }
    }
}

/// The result of one kind of convolution by plain loops, and for each element the sum of the absolute terms.
pub fn reference(kind: ConvKind, s: &ConvShape, tensors: &[Vec<f64>; 3]) -> (Vec<f64>, Vec<f64>) {
    let target = target_index(kind);
    let mut result = vec![0.0; tensors[target].len()];
    let mut scale = result.clone();
    for_each_product(s, |x, w, y| {
        let at = [x, w, y];
        let product: f64 = (0..3).filter(|i| *i != target).map(|i| tensors[i][at[i]]).product();
        result[at[target]] += product;
        scale[at[target]] += product.abs();
    });
    (result, scale)
}

/// Index of the tensor that a kind computes, among image, weight and output.
fn target_index(kind: ConvKind) -> usize {
    match kind {
        ConvKind::Forward => 2,
        ConvKind::DataGradient => 0,
        ConvKind::WeightGradient => 1,
    }
}

struct Fixture {
    device: Device,
    dnn: Cudnn,
}

impl Fixture {
    fn new() -> Fixture {
        let device = Device::open();
        // SAFETY: the device outlives `dnn`, and opening it made its context current.
        let dnn = unsafe { Cudnn::new(device.stream(), "emulated", KIND) }.unwrap();
        Fixture { device, dnn }
    }

    /// Runs one kind on the device. The result is initialized with NaN, so that an element that is not written is detected.
    fn run(
        &self,
        kind: ConvKind,
        s: &ConvShape,
        dtype: DType,
        options: ConvEngineOptions,
        tensors: &[Vec<f64>; 3],
        offset: usize,
    ) -> Result<Vec<f64>, LibraryError> {
        let upload = |i: usize| {
            let garbage = vec![f64::NAN; tensors[i].len()];
            let values = if i == target_index(kind) { &garbage } else { &tensors[i] };
            self.device.upload(&to_bytes(values, dtype), offset)
        };
        let [x, w, y] = [upload(0), upload(1), upload(2)];
        let (px, pw, py) = (x.pointer(), w.pointer(), y.pointer());
        let mut workspaces: Vec<Block> = Vec::new();
        let workspace = &mut |bytes: usize| {
            workspaces.push(self.device.allocate(bytes, 0));
            Ok(workspaces[workspaces.len() - 1].pointer())
        };
        // SAFETY: the blocks have the shapes' sizes, and live until the download has waited for the stream.
        unsafe {
            match kind {
                ConvKind::Forward => self.dnn.forward(s, dtype, options, px, pw, py, workspace),
                ConvKind::DataGradient => self.dnn.data_gradient(s, dtype, options, py, pw, px, workspace),
                ConvKind::WeightGradient => {
                    self.dnn.weight_gradient(s, dtype, options, px, py, pw, workspace)
                }
            }?;
        }
        Ok(from_bytes(&self.device.download([&x, &w, &y][target_index(kind)]), dtype))
    }

    /// The largest error of one kind against plain loops, in units of the tolerance.
    fn error(
        &self,
        kind: ConvKind,
        s: &ConvShape,
        dtype: DType,
        options: ConvEngineOptions,
        offset: usize,
    ) -> f64 {
        let tensors = operands(s, dtype);
        let (want, scale) = reference(kind, s, &tensors);
        let got = self.run(kind, s, dtype, options, &tensors, offset).unwrap();
        error(&got, &want, &scale, dtype)
    }
}

fn operands(s: &ConvShape, dtype: DType) -> [Vec<f64>; 3] {
    [random(1, s.input_len(), dtype), random(2, s.weight_len(), dtype), random(3, s.output_len(), dtype)]
}

#[test]
fn convolutions_match_plain_loops() {
    let fixture = Fixture::new();
    for s in shapes() {
        for dtype in DTYPES {
            for kind in ConvKind::ALL {
                // Twice: the second call uses the plan that the first one cached.
                for call in 0..2 {
                    let worst = fixture.error(kind, &s, dtype, ConvEngineOptions::default(), 0);
                    assert!(worst <= 1.0, "{kind} {dtype} {s:?}: {worst} times the tolerance at call {call}");
                }
            }
        }
    }
}

#[test]
fn unaligned_views_match_plain_loops() {
    let fixture = Fixture::new();
    for dtype in DTYPES {
        for kind in ConvKind::ALL {
            let worst = fixture.error(kind, &BASE, dtype, ConvEngineOptions::default(), dtype.size());
            assert!(worst <= 1.0, "{kind} {dtype}: {worst} times the tolerance");
        }
    }
}

#[test]
fn f32_is_rounded_to_tf32_only_where_allowed() {
    let fixture = Fixture::new();
    let s = ConvShape { c_in: 64, c_out: 32, ..BASE };
    for kind in ConvKind::ALL {
        let error =
            |tf32| fixture.error(kind, &s, DType::F32, ConvEngineOptions { tf32, ..Default::default() }, 0);
        let (strict, rounded) = (error(false), error(true));
        assert!(strict <= 1.0, "{kind}: {strict} times the tolerance");
        // TF32 has 10 mantissa bits: sums have an error of some 2^-11 of their terms, and the tolerance is 2^-20.
        assert!(rounded > 4.0 && rounded < 1000.0, "{kind}: {rounded} times the strict tolerance");
    }
}

#[test]
fn benchmarked_plans_are_correct_and_deterministic() {
    let fixture = Fixture::new();
    let choice = ConvPlanChoice::Benchmark(ConvBenchmark { disk_cache: false, ..ConvBenchmark::default() });
    let options = ConvEngineOptions { choice, deterministic: true, ..Default::default() };
    let s = ConvShape { dilation: [2, 2], padding: [2, 2], ..BASE };
    for dtype in DTYPES {
        for kind in ConvKind::ALL {
            let tensors = operands(&s, dtype);
            let (want, scale) = reference(kind, &s, &tensors);
            let first = fixture.run(kind, &s, dtype, options, &tensors, 0).unwrap();
            assert!(error(&first, &want, &scale, dtype) <= 1.0, "{kind} {dtype}");
            assert_eq!(first, fixture.run(kind, &s, dtype, options, &tensors, 0).unwrap(), "{kind} {dtype}");
        }
    }
}

#[test]
fn emulated_cudnn_returns_the_status_codes_of_the_real_one() {
    Device::open();
    // SAFETY: the library was opened by the device already.
    let cudnn = unsafe { libloading::Library::new("libcudnn.so.9") }.unwrap();
    assert_eq!(cudnn_errors::differences(&cudnn), [""; 0]);
}

#[test]
fn unsupported_dtypes_and_empty_tensors_are_rejected() {
    let fixture = Fixture::new();
    let empty = ConvShape { n: 0, ..BASE };
    for (s, dtype) in [(BASE, DType::F64), (BASE, DType::I64), (empty, DType::F32)] {
        let result = fixture.run(
            ConvKind::Forward,
            &s,
            dtype,
            ConvEngineOptions::default(),
            &operands(&s, DType::F32),
            0,
        );
        assert!(matches!(result, Err(LibraryError::Unsupported { .. })), "{dtype}: {result:?}");
    }
}

#[test]
fn workspace_allocation_failure_is_returned() {
    let fixture = Fixture::new();
    let [x, w, y] = operands(&BASE, DType::F32).map(|t| fixture.device.upload(&to_bytes(&t, DType::F32), 0));
    let workspace = &mut |bytes: usize| Err(LibraryError::Workspace { bytes, why: "none left".into() });
    // All engines with these options need a workspace.
    let options = ConvEngineOptions { deterministic: true, ..Default::default() };
    // SAFETY: the blocks have the shape's sizes.
    let result = unsafe {
        fixture.dnn.weight_gradient(
            &BASE,
            DType::F32,
            options,
            x.pointer(),
            y.pointer(),
            w.pointer(),
            workspace,
        )
    };
    let text = result.unwrap_err().to_string();
    assert!(text.contains("none left"), "{text}");
}
