//! Batch augmentation of images in one pass: mixup (Zhang et al., 2018), CutMix (Yun et al., 2019), normalisation, and random erasing
//! (Zhong et al., 2020). The caller makes all random choices but the noise in erased boxes.
use super::gpu::OnGpu;
use crate::random::RngStream;
use crate::{DType, Element, Error, Result, Tensor, cpu, cuda};

const OP: &str = "prepare_images";

/// Numbers of a row of changes before its erase boxes.
pub(crate) const CHANGE_HEADER_LEN: usize = 7;

/// Shape of `changes`, for errors.
const CHANGES_SHAPE: &str = "changes must be [m, 7 + 4 boxes] with one row for each of the first m images; make them with ImageChange::rows";

/// Maximum number of erase boxes per image on a GPU.
const MAX_ERASE_BOXES: usize = 16;

/// Box of an image, in pixels. Empty where its height or width is 0, as by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ImageBox {
    /// First row.
    pub top: u32,
    /// One past the last row.
    pub bottom: u32,
    /// First column.
    pub left: u32,
    /// One past the last column.
    pub right: u32,
}

/// Augmentation of one image of a batch: mixing and erasing.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageChange {
    /// Index of the image it is mixed with.
    pub partner: usize,
    /// Mixup weight of the image itself, outside of the CutMix box.
    pub lam: f32,
    /// CutMix box: its pixels are the partner's.
    pub cutmix_box: ImageBox,
    /// Sample number for the random numbers in erased boxes.
    pub sample: u64,
    /// Erased boxes.
    pub erase_boxes: Vec<ImageBox>,
}

/// Options that all images of a batch share.
#[derive(Clone, Debug)]
pub struct ImagePreparation<'a> {
    /// Value of full intensity, which becomes 1 before normalisation: 255.
    pub white: u8,
    /// Mean of each channel.
    pub mean: &'a [f32],
    /// Standard deviation of each channel.
    pub std: &'a [f32],
    /// Round mixed values to bytes, half to even, as timm's collation does.
    pub rounded: bool,
    /// Content of erased boxes.
    pub erase_mode: EraseMode,
    /// Random numbers for erased boxes: the key and the epoch of this stream; the sample is each image's.
    pub rng: RngStream,
}

/// Content of erased boxes, after normalisation; timm's `--remode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EraseMode {
    /// 0, the mean (`const`).
    #[default]
    Const,
    /// One standard normal value per channel of each box (`rand`).
    Rand,
    /// A standard normal value per element (`pixel`).
    Pixel,
}

impl ImageBox {
    /// Number of rows.
    pub fn height(&self) -> usize {
        (self.bottom - self.top) as usize
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        (self.right - self.left) as usize
    }

    /// Number of pixels.
    pub fn area(&self) -> usize {
        self.height() * self.width()
    }

    /// Top, bottom, left and right: the box's part of a row of changes.
    fn row(&self) -> [i64; 4] {
        [self.top, self.bottom, self.left, self.right].map(i64::from)
    }
}

impl ImageChange {
    /// No mixing and no erasing; the image is only normalised.
    pub fn none(image: usize) -> ImageChange {
        ImageChange {
            partner: image,
            lam: 1.0,
            cutmix_box: ImageBox::default(),
            sample: image as u64,
            erase_boxes: vec![],
        }
    }

    /// Encodes the changes of the first `changes.len()` of `images` images as i64 `[changes, 7 + 4 boxes]`, with up to `boxes` erase boxes
    /// per image. Errors when an image has more, or a partner is out of range.
    pub fn rows(changes: &[ImageChange], images: usize, boxes: usize) -> Result<Tensor> {
        let mut rows = vec![];
        for change in changes {
            if change.partner >= images || change.erase_boxes.len() > boxes {
                let why = format!(
                    "partner {} must be below {images}, and an image must have at most {boxes} erase boxes, not {}",
                    change.partner,
                    change.erase_boxes.len()
                );
                return Err(Error::value(OP, &[], why));
            }
            rows.extend([change.partner as i64, i64::from(change.lam.to_bits())]);
            rows.extend(change.cutmix_box.row());
            rows.push(change.sample as i64);
            let erased = change.erase_boxes.iter().copied().chain(std::iter::repeat(ImageBox::default()));
            rows.extend(erased.take(boxes).flat_map(|erased| erased.row()));
        }
        Tensor::from_vec(rows, [changes.len(), CHANGE_HEADER_LEN + 4 * boxes])
    }
}

impl Tensor {
    /// Converts u8 or f32 images `[n, h, w, c]` to a float dtype (f64 on the CPU only): mixes each with its partner, normalises it, and erases
    /// boxes, as encoded by [`ImageChange::rows`] in `changes` `[m, 7 + 4 boxes]`. With m rows, at most n, the result has the first m images;
    /// the others only serve as partners. Each value is read once, and once more where it is mixed into a partner. The result has no
    /// gradient. On a GPU images have up to four channels and 16 erase boxes, and a CUDA graph can capture the operation: `changes` is read
    /// on the device, and its partners are not checked.
    pub fn prepare_images(&self, changes: &Tensor, how: &ImagePreparation, dtype: DType) -> Result<Tensor> {
        let operands = [("x", self), ("changes", changes)];
        if !matches!(self.dtype(), DType::U8 | DType::F32)
            || changes.dtype() != DType::I64
            || !dtype.is_float()
        {
            return Err(Error::dtype(
                OP,
                &operands,
                "u8 or f32 images, i64 changes, and a float dtype for the result",
            ));
        }
        let &[n, h, w, c] = self.dims() else {
            return Err(Error::shape(OP, &operands, "images must be [n, h, w, c]"));
        };
        let &[results, width] = changes.dims() else {
            return Err(Error::shape(OP, &operands, CHANGES_SHAPE));
        };
        if results > n || width < CHANGE_HEADER_LEN || !(width - CHANGE_HEADER_LEN).is_multiple_of(4) {
            return Err(Error::shape(OP, &operands, CHANGES_SHAPE));
        }
        if how.mean.len() != c || how.std.len() != c {
            let why = format!("mean and std must have {c} numbers, one per channel");
            return Err(Error::shape(OP, &operands, why));
        }
        let size = [results, h, w, c];
        if let Some(on) = OnGpu::of_any(OP, &operands)? {
            if dtype == DType::F64 || c > 4 || width > CHANGE_HEADER_LEN + 4 * MAX_ERASE_BOXES {
                let accepted = "every result dtype but f64, up to 4 channels and up to 16 erase boxes per image on a GPU";
                return Err(Error::dtype(OP, &operands, accepted));
            }
            return on.build(size, dtype, |y| {
                let (x, changes) = (self.device_view(), changes.device_view());
                cuda::prepare::forward(&on.gpu, x.slice(), changes.slice(), size, how, y)
            });
        }
        let changes = changes.read::<i64>()?;
        if changes.chunks_exact(width).any(|row| !(0..n as i64).contains(&row[0])) {
            return Err(Error::value(OP, &operands, format!("the partners in changes must be below {n}")));
        }
        match self.dtype() {
            DType::U8 => prepare_on_cpu(&self.read::<u8>()?, &changes, size, how, dtype),
            _ => prepare_on_cpu(&self.read::<f32>()?, &changes, size, how, dtype),
        }
    }
}

fn prepare_on_cpu<S: Element + Into<f32>>(
    x: &[S],
    changes: &[i64],
    size: [usize; 4],
    how: &ImagePreparation,
    dtype: DType,
) -> Result<Tensor> {
    dispatch_any!(dtype, T => Tensor::build(size, |y: &mut [T]| {
        cpu::prepare::forward(x, changes, size, how, y)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::random::RngKey;

    const N: usize = 3;
    const SIZE: [usize; 3] = [5, 7, 3];

    fn batch() -> Tensor {
        let bytes: Vec<u8> = (0..N * 5 * 7 * 3).map(|i| (i * 7919 % 251) as u8).collect();
        Tensor::from_vec(bytes, [N, 5, 7, 3]).expect("memory")
    }

    fn image_box(top: u32, bottom: u32, left: u32, right: u32) -> ImageBox {
        ImageBox { top, bottom, left, right }
    }

    fn changes() -> Vec<ImageChange> {
        let mixed = ImageChange { partner: 2, lam: 0.25, ..ImageChange::none(0) };
        let cut = ImageChange {
            partner: 0,
            cutmix_box: image_box(1, 3, 2, 6),
            erase_boxes: vec![image_box(0, 2, 0, 3)],
            ..ImageChange::none(1)
        };
        let erase_boxes = vec![image_box(0, 5, 6, 7), image_box(4, 5, 0, 7)];
        vec![mixed, cut, ImageChange { sample: 1 << 40, erase_boxes, ..ImageChange::none(2) }]
    }

    fn preparation(erase_mode: EraseMode, rounded: bool) -> ImagePreparation<'static> {
        let rng = RngStream::new(RngKey::new(5, "erase"), 3, 0);
        ImagePreparation {
            white: 255,
            mean: &[0.5, 0.4, 0.3],
            std: &[0.2, 0.3, 0.4],
            rounded,
            erase_mode,
            rng,
        }
    }

    /// The result by the definition, element by element.
    fn expected(erase_mode: EraseMode, rounded: bool) -> Vec<f64> {
        let x = batch().to_vec::<u8>().expect("bytes");
        let (how, [h, w, c]) = (preparation(erase_mode, rounded), SIZE);
        let inside = |b: &ImageBox, y: usize, x: usize| {
            (b.top as usize..b.bottom as usize).contains(&y)
                && (b.left as usize..b.right as usize).contains(&x)
        };
        let mut out = vec![];
        for (image, change) in changes().iter().enumerate() {
            for i in 0..h * w * c {
                let (channel, column, row) = (i % c, i / c % w, i / c / w);
                let pixel = |image: usize| f64::from(x[image * h * w * c + i]);
                let lam = f64::from(change.lam);
                let mut v = match inside(&change.cutmix_box, row, column) {
                    true => pixel(change.partner),
                    false => lam * pixel(image) + (1.0 - lam) * pixel(change.partner),
                };
                if rounded {
                    v = v.round_ties_even();
                }
                v = (v / 255.0 - f64::from(how.mean[channel])) / f64::from(how.std[channel]);
                for (b, erased) in change.erase_boxes.iter().enumerate() {
                    if inside(erased, row, column) {
                        let stream = RngStream::new(RngKey::new(5, "erase"), 3, change.sample);
                        let normal = |i: usize| stream.at(2 * (b * h * w * c + i) as u64).normal();
                        v = match erase_mode {
                            EraseMode::Const => 0.0,
                            EraseMode::Rand => f64::from(normal(channel)),
                            EraseMode::Pixel => f64::from(normal(i)),
                        };
                    }
                }
                out.push(v);
            }
        }
        out
    }

    #[test]
    fn images_are_mixed_normalised_and_erased() {
        let device = Device::emulated(1).expect("g++ is installed");
        let rows = ImageChange::rows(&changes(), N, 2).expect("they fit");
        for device in [Device::Cpu, device] {
            let (x, rows) =
                (batch().to_device(&device).expect("memory"), rows.to_device(&device).expect("memory"));
            for (erase_mode, rounded) in
                [(EraseMode::Const, true), (EraseMode::Rand, false), (EraseMode::Pixel, true)]
            {
                let expected = expected(erase_mode, rounded);
                for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F16, 1e-3), (DType::BF16, 8e-3)] {
                    let y = x.prepare_images(&rows, &preparation(erase_mode, rounded), dtype).expect("bytes");
                    let y = y.to_device(&Device::Cpu).and_then(|y| y.to_dtype(DType::F64)).expect("floats");
                    for (i, (got, want)) in y.to_vec::<f64>().expect("f64").iter().zip(&expected).enumerate()
                    {
                        let off = (got - want).abs();
                        assert!(
                            off <= tolerance * (1.0 + want.abs()),
                            "{erase_mode:?} {dtype} {device} {i}: {got}, {want}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn f32_images_give_the_results_of_u8_images() {
        let rows = ImageChange::rows(&changes(), N, 2).expect("they fit");
        let how = preparation(EraseMode::Pixel, true);
        for device in [Device::Cpu, Device::emulated(1).expect("g++ is installed")] {
            let rows = rows.to_device(&device).expect("memory");
            let prepared = |images: &Tensor| {
                let images = images.to_device(&device).expect("memory");
                let y = images.prepare_images(&rows, &how, DType::F32).expect("images");
                y.to_device(&Device::Cpu).and_then(|y| y.to_vec::<f32>()).expect("f32")
            };
            let floats = batch().to_dtype(DType::F32).expect("memory");
            assert_eq!(prepared(&floats), prepared(&batch()), "{device}");
        }
    }

    #[test]
    fn half_precision_results_are_casts_of_f32_results() {
        let rows = ImageChange::rows(&changes(), N, 2).expect("they fit");
        for device in [Device::Cpu, Device::emulated(1).expect("g++ is installed")] {
            let (x, rows) =
                (batch().to_device(&device).expect("memory"), rows.to_device(&device).expect("memory"));
            for dtype in [DType::F16, DType::BF16] {
                let how = preparation(EraseMode::Pixel, false);
                let prepared = |to: DType| x.prepare_images(&rows, &how, to).expect("bytes");
                let normalized = |to: DType| x.normalize_bytes(255, how.mean, how.std, to).expect("bytes");
                let pairs =
                    [(prepared(dtype), prepared(DType::F32)), (normalized(dtype), normalized(DType::F32))];
                for (half, wide) in pairs {
                    let [half, cast] = [half, wide.to_dtype(dtype).expect("a cast")]
                        .map(|t| t.to_dtype(DType::F32).and_then(|t| t.to_vec::<f32>()).expect("f32"));
                    assert_eq!(half, cast, "{dtype} on {device}");
                }
            }
        }
    }

    #[test]
    fn images_without_a_row_serve_as_partners_only() {
        let how = preparation(EraseMode::Const, false);
        for device in [Device::Cpu, Device::emulated(1).expect("g++ is installed")] {
            let x = batch().to_device(&device).expect("memory");
            let prepared = |count: usize| {
                let rows = ImageChange::rows(&changes()[..count], N, 2).expect("they fit");
                let y = x
                    .prepare_images(&rows.to_device(&device).expect("memory"), &how, DType::F32)
                    .expect("u8");
                assert_eq!(y.dims(), [count, 5, 7, 3]);
                y.to_device(&Device::Cpu).and_then(|y| y.to_vec::<f32>()).expect("f32")
            };
            // The first image is mixed with the third, which has no row.
            assert_eq!(prepared(1), prepared(3)[..5 * 7 * 3], "{device}");
        }
    }

    #[test]
    fn invalid_changes_and_options_are_rejected() {
        let how = preparation(EraseMode::Const, false);
        assert!(ImageChange::rows(&changes(), N, 1).is_err(), "an image has two boxes");
        let partner = ImageChange { partner: 9, ..ImageChange::none(0) };
        assert!(ImageChange::rows(&[partner], N, 0).is_err(), "there is no tenth image");
        let rows = ImageChange::rows(&[0, 1, 2, 0].map(ImageChange::none), N, 0).expect("they fit");
        assert!(batch().prepare_images(&rows, &how, DType::F32).is_err(), "four rows for three images");
        let rows = ImageChange::rows(&changes(), N, 2).expect("they fit");
        assert!(batch().prepare_images(&rows, &how, DType::I64).is_err(), "numbers, not integers");
        let short = ImagePreparation { mean: &[0.0], ..how };
        assert!(batch().prepare_images(&rows, &short, DType::F32).is_err(), "a mean a channel");
    }
}
