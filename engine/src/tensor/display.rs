//! Printing: values as PyTorch prints them, then dtype, shape and device.
use crate::dtype::dispatch_any;
use crate::{Element, Result, Tensor};
use std::fmt;

/// Digits after the point.
const PRECISION: usize = 4;
/// Elements above which a tensor is summarised, and elements of each end of an axis that a summary has.
const THRESHOLD: usize = 1000;
const EDGE: usize = 3;
/// Characters of a line.
const WIDTH: usize = 80;
const PREFIX: &str = "tensor(";

/// Values like PyTorch's (aligned, with scientific notation where they differ by more than a factor of 1000, summarised above 1,000 elements),
/// then dtype, shape and device. Elements on a GPU are copied to the host.
///
/// ```
/// # use fornax_engine::{Result, Tensor};
/// # fn main() -> Result<()> {
/// let x = Tensor::from_slice(&[1.0f32, -2.5, 3.0, 40.0], [2, 2])?;
/// assert_eq!(x.to_string(), "tensor([[ 1.0000, -2.5000],\n        [ 3.0000, 40.0000]], f32[2, 2] on cpu)");
/// # Ok(()) }
/// ```
impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = format!("{}{} on {}", self.dtype(), self.shape(), self.device());
        match texts(self) {
            Ok(_) if self.numel() == 0 => write!(f, "{PREFIX}[], {what})"),
            Ok((texts, width)) => {
                let mut texts = texts.into_iter().map(|text| format!("{text:>width$}"));
                let values = block(self.dims(), is_long(self), width, PREFIX.len(), &mut texts);
                write!(f, "{PREFIX}{values}, {what})")
            }
            Err(error) => write!(f, "{PREFIX}{what}: {error})"),
        }
    }
}

fn is_long(t: &Tensor) -> bool {
    t.numel() > THRESHOLD
}

/// Texts of the elements that are printed, in order, and the width to which they are padded: that of the longest number other than 0,
/// infinity and NaN.
fn texts(t: &Tensor) -> Result<(Vec<String>, usize)> {
    dispatch_any!(t.dtype(), T => {
        let elements = t.read::<T>()?;
        let mut shown = vec![];
        show(t.dims(), is_long(t), &elements, &mut shown);
        Ok(if t.dtype().is_float() {
            let values: Vec<f64> = shown.iter().map(|v| v.to_f64()).collect();
            let notation = Notation::of(&values);
            let texts: Vec<String> = values.iter().map(|v| notation.text(*v)).collect();
            let counted = texts.iter().zip(&values).filter(|(_, v)| v.is_finite() && **v != 0.0);
            let width = counted.map(|(text, _)| text.len()).max().unwrap_or(1);
            (texts, width)
        } else {
            let texts: Vec<String> = shown.iter().map(|v| format!("{v:?}")).collect();
            let width = texts.iter().map(String::len).max().unwrap_or(1);
            (texts, width)
        })
    })
}

/// Collects the elements that are printed.
fn show<T: Element>(dims: &[usize], is_long: bool, elements: &[T], shown: &mut Vec<T>) {
    let Some((&n, inner)) = dims.split_first() else { return shown.extend(elements) };
    let row = inner.iter().product::<usize>();
    for i in (0..n).filter(|i| !is_skipped(*i, n, is_long)) {
        show(inner, is_long, &elements[i * row..][..row], shown);
    }
}

/// True for an element of an axis that a summary omits.
fn is_skipped(i: usize, n: usize, is_long: bool) -> bool {
    is_long && n > 2 * EDGE && (EDGE..n - EDGE).contains(&i)
}

/// Lines of the texts of a block of that shape.
fn block(
    dims: &[usize],
    is_long: bool,
    width: usize,
    indent: usize,
    texts: &mut dyn Iterator<Item = String>,
) -> String {
    let Some((&n, inner)) = dims.split_first() else { return texts.next().unwrap_or_default() };
    let mut parts = vec![];
    for i in 0..n {
        match is_skipped(i, n, is_long) {
            false => parts.push(block(inner, is_long, width, indent + 1, texts)),
            true if i == EDGE => parts.push(if inner.is_empty() { " ...".into() } else { "...".into() }),
            true => {}
        }
    }
    let margin = " ".repeat(indent + 1);
    if inner.is_empty() {
        let per_line = (WIDTH.saturating_sub(indent) / (width + 2)).max(1);
        let lines: Vec<String> = parts.chunks(per_line).map(|line| line.join(", ")).collect();
        return format!("[{}]", lines.join(&format!(",\n{margin}")));
    }
    format!("[{}]", parts.join(&format!(",{}{margin}", "\n".repeat(inner.len()))))
}

/// How all numbers of a tensor are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notation {
    /// Whole numbers, with a point.
    Whole,
    Fixed,
    Scientific,
}

impl Notation {
    fn of(values: &[f64]) -> Notation {
        let finite = || values.iter().copied().filter(|v| v.is_finite() && *v != 0.0);
        let largest = finite().map(f64::abs).fold(0.0, f64::max);
        let smallest = finite().map(f64::abs).fold(f64::INFINITY, f64::min);
        let is_whole = finite().all(|v| v.fract() == 0.0);
        let is_wide = largest / smallest > 1000.0 || largest > 1e8;
        match (is_wide || (!is_whole && smallest < 1e-4), is_whole) {
            (true, _) => Notation::Scientific,
            (false, true) => Notation::Whole,
            (false, false) => Notation::Fixed,
        }
    }

    fn text(self, v: f64) -> String {
        if v.is_nan() {
            return "nan".into();
        }
        match self {
            _ if v.is_infinite() => (if v > 0.0 { "inf" } else { "-inf" }).into(),
            Notation::Whole => format!("{v:.0}."),
            Notation::Fixed => format!("{v:.PRECISION$}"),
            Notation::Scientific => {
                let text = format!("{v:.PRECISION$e}");
                let (digits, exponent) = text.split_once('e').expect("an exponent");
                let exponent: i32 = exponent.parse().expect("a number");
                let sign = if exponent < 0 { '-' } else { '+' };
                format!("{digits}e{sign}{:02}", exponent.abs())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Device};

    fn text(values: &[f64], shape: &[usize], dtype: DType) -> String {
        let t = Tensor::from_slice(values, shape).and_then(|t| t.to_dtype(dtype)).expect("memory");
        t.to_string()
    }

    #[test]
    fn numbers_are_printed_as_pytorch_prints_them() {
        // The values are torch.tensor(…)'s; dtype, shape and device follow.
        assert_eq!(text(&[1.0, 2.0, -3.0], &[3], DType::F32), "tensor([ 1.,  2., -3.], f32[3] on cpu)");
        assert_eq!(
            text(&[1.5, f64::NAN, f64::INFINITY], &[3], DType::F32),
            "tensor([1.5000,    nan,    inf], f32[3] on cpu)"
        );
        assert_eq!(text(&[1e-5, 2.0], &[2], DType::F64), "tensor([1.0000e-05, 2.0000e+00], f64[2] on cpu)");
        assert_eq!(
            text(&[12345.0, 1.0], &[2], DType::F32),
            "tensor([1.2345e+04, 1.0000e+00], f32[2] on cpu)"
        );
        assert_eq!(text(&[7.0], &[], DType::I64), "tensor(7, i64[] on cpu)");
        assert_eq!(
            text(&[1.0, 200.0], &[2, 1], DType::U8),
            "tensor([[  1],\n        [200]], u8[2, 1] on cpu)"
        );
        assert_eq!(text(&[1.0, f64::NAN], &[2], DType::F32), "tensor([1., nan], f32[2] on cpu)");
        assert_eq!(text(&[0.0; 0], &[0, 3], DType::F32), "tensor([], f32[0, 3] on cpu)");
    }

    #[test]
    fn long_tensors_are_summarised() {
        let t = Tensor::full([1001], 2.0, DType::F32, &Device::Cpu).expect("memory");
        assert_eq!(t.to_string(), "tensor([2., 2., 2.,  ..., 2., 2., 2.], f32[1001] on cpu)");
        let t = Tensor::full([8, 200], 1.0, DType::F32, &Device::Cpu).expect("memory");
        let text = t.to_string();
        assert_eq!(text.lines().count(), 7, "{text}");
        assert_eq!(text.lines().nth(3), Some("        ...,"), "{text}");
        let t = Tensor::full([2, 2, 2], 1.0, DType::F32, &Device::Cpu).expect("memory");
        assert_eq!(
            t.to_string(),
            "tensor([[[1., 1.],\n         [1., 1.]],\n\n        [[1., 1.],\n         [1., 1.]]], f32[2, 2, 2] on cpu)"
        );
    }

    #[test]
    fn lines_are_broken_at_80_characters() {
        let t = Tensor::full([20], 0.5, DType::F32, &Device::Cpu).expect("memory");
        let text = t.to_string();
        assert!(text.lines().take(2).all(|line| line.len() <= 80), "{text}");
        assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("        0.5000, ")), "{text}");
    }
}
