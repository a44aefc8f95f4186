//! Shapes without some axes, and reductions in several passes.
use crate::Shape;

/// Axes that are reduced, and whether they stay with extent 1.
#[derive(Clone)]
pub(super) struct ReducedAxes {
    pub(super) axes: Vec<usize>,
    pub(super) keepdim: bool,
}

impl ReducedAxes {
    /// The shape of the result.
    pub(super) fn of(&self, shape: &Shape) -> Shape {
        if self.keepdim {
            return self.kept(shape);
        }
        let dims = shape.dims().iter().enumerate().filter(|(a, _)| !self.axes.contains(a)).map(|(_, d)| *d);
        Shape::must_fit(&dims.collect::<Vec<_>>())
    }

    /// The shape with the axes reduced to extent 1.
    pub(super) fn kept(&self, shape: &Shape) -> Shape {
        self.axes.iter().fold(*shape, |s, a| s.reduced(*a))
    }
}

/// Runs a reduction in several passes on the CPU: pass `i` writes `sizes[i]` elements, the last one `y`. Without passes x is copied.
pub(super) fn in_passes<T: crate::Element>(
    x: &[T],
    sizes: &[usize],
    y: &mut [T],
    pass: impl Fn(usize, &[T], &mut [T]),
) {
    let Some((_, before)) = sizes.split_last() else { return y.copy_from_slice(x) };
    let mut current: Option<Vec<T>> = None;
    for (i, size) in before.iter().enumerate() {
        let mut next = vec![T::from_f64(0.0); *size];
        pass(i, current.as_deref().unwrap_or(x), &mut next);
        current = Some(next);
    }
    pass(before.len(), current.as_deref().unwrap_or(x), y);
}
