//! Shape arithmetic with random extents, also 0 and beyond the address space: results equal naive models, and no operation panics.
use fornax_engine::{Conv2dOptions, DType, Error, MAX_NUMEL, MAX_RANK, Pool2dOptions, Result, Shape, Tensor};
use proptest::prelude::*;
use std::fmt::Debug;

/// Results beyond this many elements are not expected to fit in memory.
const MAX_ELEMENTS: u128 = 1 << 40;

/// Extents and offsets whose sums and products wrap. None of them is small enough to allocate.
const HUGE: [usize; 7] = [
    1 << 45,
    (1 << 59) + 1,
    isize::MAX as usize,
    1 << 63,
    12_297_829_382_473_034_411,
    usize::MAX - 1,
    usize::MAX,
];

/// A small extent, or rarely a huge one.
fn extent(small: std::ops::Range<usize>) -> impl Strategy<Value = usize> + Clone {
    prop_oneof![12 => small, 1 => prop::sample::select(&HUGE[..])]
}

/// True for most cases, whose random values are then reduced to ones that agree.
fn mostly() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.75)
}

fn extents(ranks: std::ops::Range<usize>) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(extent(0..5), ranks)
}

/// A tensor of 0, 1, 2, …; half of the time a view that does not start at the first element of its memory.
fn tensor(dims: impl Strategy<Value = Vec<usize>>) -> impl Strategy<Value = Tensor> {
    (dims, any::<bool>()).prop_map(|(dims, is_view)| {
        let n: usize = dims.iter().product();
        let values = |from: usize| (from..from + n).map(|i| i as f32).collect::<Vec<_>>();
        let dense = |values: Vec<f32>| Tensor::from_vec(values, dims.clone()).expect("few elements");
        if !is_view || dims.is_empty() || dims.len() == MAX_RANK {
            return dense(values(0));
        }
        let pair = [dense(values(1000)), dense(values(0)), dense(values(2000))];
        let stacked = Tensor::cat(&pair.each_ref(), 0).expect("equal shapes");
        stacked.narrow(0, dims[0], dims[0]).expect("in range")
    })
}

fn small_tensor() -> impl Strategy<Value = Tensor> {
    let filled = prop::collection::vec(1usize..5, 1..5);
    tensor(prop_oneof![3 => filled.boxed(), 1 => prop::collection::vec(0usize..5, 0..5).boxed()])
}

/// Number of elements if a tensor can have these extents.
fn numel(dims: &[usize]) -> Option<u128> {
    let product = dims.iter().try_fold(1u128, |n, d| n.checked_mul((*d).max(1) as u128))?;
    let fits = dims.len() <= MAX_RANK && product <= MAX_NUMEL as u128;
    fits.then(|| if dims.contains(&0) { 0 } else { product })
}

fn is_allocatable(dims: &[usize]) -> bool {
    numel(dims).is_some_and(|n| n < MAX_ELEMENTS)
}

/// Every index of a tensor of these extents, in row-major order.
fn indices(dims: &[usize]) -> Vec<Vec<usize>> {
    dims.iter().fold(vec![vec![]], |prefixes, d| {
        prefixes.iter().flat_map(|p| (0..*d).map(move |i| [&p[..], &[i]].concat())).collect()
    })
}

/// The element of `x` at an index.
fn at(x: &Tensor, values: &[f32], index: &[usize]) -> f32 {
    values[index.iter().zip(x.shape().strides()).map(|(i, stride)| i * stride).sum::<usize>()]
}

/// Checks that `result` has the extents and the elements of the model, or is an error if there is no model.
fn check<D: Debug>(
    result: Result<Tensor>,
    context: D,
    model: Option<(Vec<usize>, impl Fn(&[usize]) -> f32)>,
) -> std::result::Result<(), TestCaseError> {
    match (result, model) {
        (Ok(y), Some((dims, element))) => {
            prop_assert_eq!(y.dims(), &dims[..], "{:?}", context);
            if y.numel() > 0 {
                let expected: Vec<f32> = indices(&dims).iter().map(|index| element(index)).collect();
                prop_assert_eq!(y.to_vec::<f32>().expect("f32"), expected, "{:?}", context);
            }
        }
        (Err(error), None) => {
            let is_expected =
                matches!(error, Error::Shape { .. } | Error::Value { .. } | Error::OutOfMemory { .. });
            prop_assert!(is_expected, "{:?}: {}", context, error);
        }
        (Ok(y), None) => prop_assert!(false, "{:?}: accepted, with result {:?}", context, y),
        (Err(error), Some(_)) => prop_assert!(false, "{:?}: {}", context, error),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn shapes_are_valid_exactly_if_their_elements_can_be_counted(dims in extents(0..9)) {
        let shape = Shape::new(&dims);
        prop_assert_eq!(shape.is_ok(), numel(&dims).is_some());
        if let Ok(shape) = shape {
            prop_assert_eq!(Some(shape.numel() as u128), numel(&dims));
            let strides = shape.strides();
            prop_assert!((0..dims.len()).all(|a| strides[a] == dims[a + 1..].iter().product::<usize>()));
        }
    }

    #[test]
    fn broadcasting_follows_numpy(a in extents(0..5), b in extents(0..5)) {
        let (Ok(x), Ok(y)) = (Shape::new(&a), Shape::new(&b)) else { return Ok(()) };
        let rank = a.len().max(b.len());
        let padded = |dims: &[usize]| [vec![1; rank - dims.len()], dims.to_vec()].concat();
        let pairs: Vec<(usize, usize)> = padded(&a).into_iter().zip(padded(&b)).collect();
        let fits = pairs.iter().all(|(a, b)| a == b || *a == 1 || *b == 1);
        let dims: Vec<usize> = pairs.iter().map(|(a, b)| if *a == 1 { *b } else { *a }).collect();
        match x.broadcast(&y) {
            Ok(shape) => prop_assert_eq!(shape.map(|s| s.to_vec()), fits.then_some(dims)),
            Err(_) => prop_assert!(fits && numel(&dims).is_none()),
        }
    }

    #[test]
    fn narrow_stays_inside(x in small_tensor(), axis in 0usize..5, start in extent(0..6), len in extent(0..6), agrees in mostly()) {
        let values = x.to_vec::<f32>().expect("f32");
        let (axis, start, len) = match (agrees, x.rank()) {
            (true, rank @ 1..) => {
                let (axis, d) = (axis % rank, x.dims()[axis % rank]);
                let start = start % (d + 1);
                (axis, start, len % (d - start + 1))
            }
            _ => (axis, start, len),
        };
        let fits = axis < x.rank() && start as u128 + len as u128 <= x.dims()[axis] as u128;
        let model = fits.then(|| {
            let mut dims = x.dims().to_vec();
            dims[axis] = len;
            (dims, |index: &[usize]| {
                let mut index = index.to_vec();
                index[axis] += start;
                at(&x, &values, &index)
            })
        });
        check(x.narrow(axis, start, len), (&x, axis, start, len), model)?;
    }

    #[test]
    fn pad_surrounds_the_elements(
        x in small_tensor(),
        pads in prop::collection::vec((extent(0..3), extent(0..3)), 0..9),
        agrees in mostly(),
    ) {
        let values = x.to_vec::<f32>().expect("f32");
        let pads = if agrees { pads.into_iter().chain([(1, 2); 4]).take(x.rank()).collect() } else { pads };
        let dims: Option<Vec<usize>> =
            x.dims().iter().zip(&pads).map(|(d, (a, b))| d.checked_add(*a)?.checked_add(*b)).collect();
        let model = dims.filter(|dims| pads.len() == x.rank() && is_allocatable(dims)).map(|dims| {
            (dims, |index: &[usize]| {
                let inner: Option<Vec<usize>> = index.iter().zip(&pads).map(|(i, (a, _))| i.checked_sub(*a)).collect();
                let inner = inner.filter(|inner| inner.iter().zip(x.dims()).all(|(i, d)| i < d));
                inner.map_or(-1.0, |inner| at(&x, &values, &inner))
            })
        });
        check(x.pad(&pads, -1.0), (&x, &pads), model)?;
    }

    #[test]
    fn reshape_keeps_the_order(x in small_tensor(), dims in extents(0..8), splits_evenly in any::<bool>()) {
        let values = x.to_vec::<f32>().expect("f32");
        let dims = if splits_evenly { vec![1, x.numel(), 1] } else { dims };
        let model = (numel(&dims) == Some(x.numel() as u128)).then(|| {
            let strides = Shape::new(&dims).expect("few elements").strides();
            let offset = move |index: &[usize]| index.iter().zip(strides).map(|(i, s)| i * s).sum::<usize>();
            let values = &values;
            (dims.clone(), move |index: &[usize]| values[offset(index)])
        });
        check(x.reshape(dims.clone()), (&x, &dims), model)?;
    }

    #[test]
    fn permute_moves_axes(
        x in small_tensor(),
        order in Just((0..5usize).collect::<Vec<_>>()).prop_shuffle(),
        extra in 0usize..12,
    ) {
        let values = x.to_vec::<f32>().expect("f32");
        let mut axes: Vec<usize> = order.into_iter().filter(|axis| *axis < x.rank()).collect();
        // Now and then an axis that is repeated or does not exist.
        if extra < 2 && !axes.is_empty() {
            axes[0] = if extra == 0 { axes[axes.len() - 1] } else { usize::MAX };
        }
        let is_permutation = (0..x.rank()).all(|axis| axes.contains(&axis));
        let model = is_permutation.then(|| {
            let dims: Vec<usize> = axes.iter().map(|axis| x.dims()[*axis]).collect();
            (dims, |index: &[usize]| {
                let mut source = vec![0; index.len()];
                axes.iter().zip(index).for_each(|(axis, i)| source[*axis] = *i);
                at(&x, &values, &source)
            })
        });
        check(x.permute(&axes), (&x, &axes), model)?;
    }

    #[test]
    fn flip_reverses_an_axis(x in small_tensor(), axis in extent(0..5), agrees in mostly()) {
        let values = x.to_vec::<f32>().expect("f32");
        let axis = if agrees { axis % x.rank().max(1) } else { axis };
        let model = (axis < x.rank()).then(|| {
            (x.dims().to_vec(), |index: &[usize]| {
                let mut index = index.to_vec();
                index[axis] = x.dims()[axis] - 1 - index[axis];
                at(&x, &values, &index)
            })
        });
        check(x.flip(axis), (&x, axis), model)?;
    }

    #[test]
    fn expand_repeats_axes_of_extent_1(
        x in tensor(prop::collection::vec(0usize..3, 0..5)),
        to in prop::collection::vec(extent(0..4), 4),
        lead in extents(0..3),
    ) {
        let values = x.to_vec::<f32>().expect("f32");
        // Mostly a shape that x broadcasts to.
        let own = x.dims().iter().zip(&to).map(|(d, to)| if *d == 1 || *to == 3 { *to } else { *d });
        let dims: Vec<usize> = lead.iter().copied().chain(own).collect();
        let skip = dims.len() - x.rank();
        let fits = x.dims().iter().zip(&dims[skip..]).all(|(d, to)| d == to || *d == 1);
        let model = (fits && is_allocatable(&dims)).then(|| {
            (dims.clone(), |index: &[usize]| {
                let index: Vec<usize> =
                    index[skip..].iter().zip(x.dims()).map(|(i, d)| if *d == 1 { 0 } else { *i }).collect();
                at(&x, &values, &index)
            })
        });
        check(x.expand(dims.clone()), (&x, &dims), model)?;
    }

    #[test]
    fn concat_joins_along_an_axis(
        dims in prop::collection::vec(0usize..4, 0..4),
        own in prop::collection::vec(0usize..4, 1..4),
        axis in extent(0..4),
        differs in 0usize..10,
        agrees in mostly(),
    ) {
        let axis = if agrees { axis % dims.len().max(1) } else { axis };
        let parts: Vec<Tensor> = own.iter().enumerate().map(|(i, extent)| {
            let mut dims = dims.clone();
            if let Some(d) = dims.get_mut(axis) {
                *d = *extent;
            }
            if differs == 0 && i == 1 {
                dims.push(1);
            }
            let n: usize = dims.iter().product();
            Tensor::from_vec((0..n).map(|v| (100 * i + v) as f32).collect(), dims).expect("few elements")
        }).collect();
        let values: Vec<Vec<f32>> = parts.iter().map(|part| part.to_vec().expect("f32")).collect();
        let fits = axis < dims.len() && (differs > 0 || parts.len() == 1);
        let model = fits.then(|| {
            let mut all = dims.clone();
            all[axis] = own.iter().sum();
            (all, |index: &[usize]| {
                let (mut part, mut index) = (0, index.to_vec());
                while index[axis] >= own[part] {
                    index[axis] -= own[part];
                    part += 1;
                }
                at(&parts[part], &values[part], &index)
            })
        });
        let operands: Vec<&Tensor> = parts.iter().collect();
        check(Tensor::cat(&operands, axis), (&parts, axis), model)?;
    }

    #[test]
    fn sums_of_broadcast_tensors_match(
        a in tensor(prop::collection::vec(0usize..3, 0..4)),
        b in tensor(prop::collection::vec(0usize..3, 0..4)),
    ) {
        let (of_a, of_b) = (a.to_vec::<f32>().expect("f32"), b.to_vec::<f32>().expect("f32"));
        let model = a.shape().broadcast(b.shape()).expect("few elements").map(|shape| {
            let element = |x: &Tensor, values: &[f32], index: &[usize]| {
                let index = &index[index.len() - x.rank()..];
                let index: Vec<usize> = index.iter().zip(x.dims()).map(|(i, d)| if *d == 1 { 0 } else { *i }).collect();
                at(x, values, &index)
            };
            let (a, b, of_a, of_b) = (&a, &b, &of_a, &of_b);
            (shape.to_vec(), move |index: &[usize]| element(a, of_a, index) + element(b, of_b, index))
        });
        check(a.add(&b), (&a, &b), model)?;
    }
}

/// Windows along an axis of `size` elements: the first position and the number of windows, or `None` if the options are not valid.
struct Axis {
    size: i128,
    kernel: i128,
    stride: i128,
    padding: i128,
    dilation: i128,
}

impl Axis {
    fn new(size: usize, [kernel, stride, padding, dilation]: [usize; 4]) -> Axis {
        let [size, kernel, stride, padding, dilation] =
            [size, kernel, stride, padding, dilation].map(|v| v as i128);
        Axis { size, kernel, stride, padding, dilation }
    }

    /// Number of windows; `None` if the options are not valid.
    fn windows(&self, ceil_mode: bool) -> Option<usize> {
        let padded = self.size + 2 * self.padding;
        let is_positive = self.kernel > 0 && self.stride > 0 && self.dilation > 0;
        let free = padded - (self.dilation.checked_mul(self.kernel - 1)? + 1);
        if !is_positive || free < 0 || padded > i128::from(i32::MAX) {
            return None;
        }
        let mut n = free / self.stride + 1;
        // A further window, if it starts within the image or the padding before it.
        if ceil_mode && free % self.stride != 0 && n * self.stride < self.size + self.padding {
            n += 1;
        }
        Some(n as usize)
    }

    /// Positions of a window inside of the image.
    fn inside(&self, window: usize) -> Vec<usize> {
        let start = window as i128 * self.stride - self.padding;
        let positions = (0..self.kernel).map(|k| start + k * self.dilation);
        positions.filter(|at| (0..self.size).contains(at)).map(|at| at as usize).collect()
    }
}

/// Kernel, stride, padding and dilation of one axis.
fn window_options() -> impl Strategy<Value = [usize; 4]> {
    let valid = (1usize..5, 1usize..4, 0usize..3, 1usize..3);
    let any = (extent(0..5), extent(0..4), extent(0..3), extent(0..4));
    prop_oneof![6 => valid.boxed(), 1 => any.boxed()].prop_map(|(k, s, p, d)| [k, s, p, d])
}

fn images() -> impl Strategy<Value = Tensor> {
    let filled = (1usize..3, 1usize..8, 1usize..8, 1usize..7);
    let any = (0usize..3, 0usize..8, 0usize..8, 0usize..4);
    tensor(prop_oneof![6 => filled.boxed(), 1 => any.boxed()].prop_map(|(n, h, w, c)| vec![n, h, w, c]))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]

    #[test]
    fn pooling_matches_naive_windows(
        x in images(),
        options in [window_options(), window_options()],
        ceil_mode in any::<bool>(),
    ) {
        let pick = |i: usize| [options[0][i], options[1][i]];
        let pool = Pool2dOptions { kernel: pick(0), stride: pick(1), padding: pick(2), dilation: pick(3), ceil_mode };
        let &[n, h, w, c] = x.dims() else { unreachable!("images") };
        let values = x.to_vec::<f32>().expect("f32");
        let (rows, columns) = (Axis::new(h, options[0]), Axis::new(w, options[1]));
        let has_small_padding = options.iter().all(|[k, _, p, _]| *p <= *k / 2);
        let out = rows.windows(ceil_mode).zip(columns.windows(ceil_mode));
        let out = out.filter(|(oh, ow)| h * w * c > 0 && has_small_padding && is_allocatable(&[n, *oh, *ow, c]));

        let pixels = |index: &[usize]| -> Vec<f32> {
            let (image, channel) = (index[0], index[3]);
            rows.inside(index[1]).iter().flat_map(|iy| {
                columns.inside(index[2]).into_iter().map(|ix| at(&x, &values, &[image, *iy, ix, channel])).collect::<Vec<_>>()
            }).collect()
        };
        let area = (options[0][0] as u128) * (options[1][0] as u128);
        let max = out.filter(|_| area <= 256).map(|(oh, ow)| {
            (vec![n, oh, ow, c], |index: &[usize]| pixels(index).into_iter().fold(f32::NEG_INFINITY, f32::max))
        });
        let leaf = x.variable();
        let pooled = leaf.max_pool2d(&pool);
        if let Ok(y) = &pooled {
            y.sum_all().and_then(|sum| sum.backward()).expect("a backward pass");
            prop_assert_eq!(leaf.grad().map(|grad| *grad.shape()), Some(*x.shape()));
        }
        check(pooled, (&x, &pool), max)?;

        // Of large kernels only the shape is compared: the model would iterate over their elements.
        if pool.dilation == [1, 1] && area <= 256 {
            let mean = out.map(|(oh, ow)| {
                (vec![n, oh, ow, c], |index: &[usize]| {
                    let pixels = pixels(index);
                    pixels.iter().map(|v| v / pixels.len() as f32).sum()
                })
            });
            let y = x.avg_pool2d(&pool, false);
            match (y, mean) {
                (Ok(y), Some((dims, element))) => {
                    prop_assert_eq!(y.dims(), &dims[..]);
                    for (got, index) in y.to_vec::<f32>().expect("f32").iter().zip(indices(&dims)) {
                        let expected: f32 = element(&index);
                        let is_close = (got - expected).abs() <= 1e-4 * expected.abs().max(1.0);
                        prop_assert!(is_close, "{:?} {:?} at {:?}: {} and {}", &x, &pool, index, got, expected);
                    }
                }
                (y, mean) => prop_assert_eq!(y.is_ok(), mean.is_some(), "{:?} {:?}", &x, &pool),
            }
        }
    }

    #[test]
    fn conv2d_matches_naive_sums(
        x in images(),
        [out, group_in] in [extent(0..4), extent(0..4)],
        options in [window_options(), window_options()],
        groups in extent(0..4),
        dtype in prop::sample::select(vec![DType::F32, DType::F64]),
        agrees in mostly(),
    ) {
        let &[n, h, w, c] = x.dims() else { unreachable!("images") };
        let (groups, out, group_in) = match agrees {
            true => {
                let groups = (1..=groups.min(c)).rev().find(|groups| c.is_multiple_of(*groups)).unwrap_or(1);
                (groups, out.min(3) * groups, c / groups)
            }
            false => (groups, out, group_in),
        };
        let weight_dims = [out, options[0][0], options[1][0], group_in];
        if !is_allocatable(&weight_dims) {
            return Ok(());
        }
        let weight_len = numel(&weight_dims).expect("few elements") as usize;
        let value = |i: usize| (i * 7 % 11) as f32 - 5.0;
        let weight = Tensor::from_vec((0..weight_len).map(value).collect(), weight_dims).expect("few elements");
        let pick = |i: usize| [options[0][i], options[1][i]];
        let conv = Conv2dOptions { stride: pick(1), padding: pick(2), dilation: pick(3), groups, ..Conv2dOptions::default() };
        let (rows, columns) = (Axis::new(h, options[0]), Axis::new(w, options[1]));
        let fits = groups > 0 && c.is_multiple_of(groups) && out.is_multiple_of(groups) && c / groups == group_in;
        let size = rows.windows(false).zip(columns.windows(false)).filter(|(oh, ow)| {
            let macs = [n, *oh, *ow, out, options[0][0], options[1][0], group_in];
            let macs = macs.iter().try_fold(1u128, |n, d| n.checked_mul((*d).max(1) as u128));
            fits && is_allocatable(&[n, *oh, *ow, out]) && macs.is_some_and(|macs| macs <= MAX_NUMEL as u128)
        });

        let (values, weights) = (x.to_vec::<f32>().expect("f32"), weight.to_vec::<f32>().expect("f32"));
        let model = size.map(|(oh, ow)| {
            (vec![n, oh, ow, out], |index: &[usize]| {
                let (&[image, oy, ox, o], mut sum) = (index, 0.0) else { unreachable!("four axes") };
                let first_channel = o / (out / groups) * group_in;
                for ky in 0..options[0][0] {
                    for kx in 0..options[1][0] {
                        let place = |axis: &Axis, window: usize, k: usize| {
                            let at = window as i128 * axis.stride - axis.padding + k as i128 * axis.dilation;
                            (0..axis.size).contains(&at).then_some(at as usize)
                        };
                        let (Some(iy), Some(ix)) = (place(&rows, oy, ky), place(&columns, ox, kx)) else { continue };
                        for i in 0..group_in {
                            sum += at(&x, &values, &[image, iy, ix, first_channel + i]) * at(&weight, &weights, &[o, ky, kx, i]);
                        }
                    }
                }
                sum
            })
        });
        let (leaf, of_weight) = (x.to_dtype(dtype).expect("a cast").variable(), weight.to_dtype(dtype).expect("a cast").variable());
        let result = leaf.conv2d(&of_weight, None, &conv);
        if let Ok(y) = &result {
            y.sum_all().and_then(|sum| sum.backward()).expect("a backward pass");
            prop_assert_eq!(leaf.grad().map(|grad| *grad.shape()), Some(*x.shape()));
            prop_assert_eq!(of_weight.grad().map(|grad| *grad.shape()), Some(*weight.shape()));
        }
        // Sums of small integers are exact.
        check(result.and_then(|y| y.to_dtype(DType::F32)), (&x, &weight, &conv), model)?;
    }
}
