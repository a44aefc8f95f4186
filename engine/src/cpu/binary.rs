//! Elementwise functions of two operands that broadcast against each other.
use super::parallel::{DisjointSlice, GRAIN, for_each_task};
use super::vectorized::vectorized;
use crate::dtype::Real;

/// A function of two numbers.
pub trait BinaryFn: Send + Sync + 'static {
    /// What the CUDA kernel is called.
    const KERNEL: &'static str;
    /// Its value.
    fn apply<T: Real>(a: T, b: T) -> T;
}

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident = $kernel:literal, ($a:ident, $b:ident) => $e:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;
        impl BinaryFn for $name {
            const KERNEL: &'static str = $kernel;
            #[inline(always)]
            fn apply<T: Real>($a: T, $b: T) -> T {
                $e
            }
        }
    )*};
}
binary! {
    /// `a + b`
    Add = "add", (a, b) => a + b;
    /// `a - b`
    Sub = "sub", (a, b) => a - b;
    /// `a * b`
    Mul = "mul", (a, b) => a * b;
    /// `a / b`
    Div = "div", (a, b) => a / b;
    /// The larger; NaN if either is.
    Maximum = "maximum", (a, b) => {
        let larger = if a > b { a } else { b };
        if a.is_nan() { a } else { larger }
    };
    /// The smaller; NaN if either is.
    Minimum = "minimum", (a, b) => {
        let smaller = if a < b { a } else { b };
        if a.is_nan() { a } else { smaller }
    };
    /// `a` to the power `b`.
    Pow = "pow", (a, b) => a.powf(b);
    /// The share of the gradient of `max(a, b)` that goes to `a`: 1, 0, or half at a tie.
    Heaviside = "heaviside", (a, b) => if a > b { T::one() } else if a == b { T::from_f64(0.5) } else { T::zero() };
    /// `b ? a : 0`: keeps what a mask of ones and zeros keeps, NaN in `a` or not.
    Masked = "masked", (a, b) => if b == T::zero() { T::zero() } else { a };
    /// 1 where equal, else 0.
    Equal = "equal", (a, b) => if a == b { T::one() } else { T::zero() };
}

/// How two operands walk under a result: rows of `inner` elements, where each operand advances by its step (0 or 1), and
/// outer axes with their own steps.
pub struct BroadcastLayout {
    outer: Vec<(usize, usize, usize)>,
    inner: usize,
    steps: (usize, usize),
}

impl BroadcastLayout {
    /// From the result's extents and the operands' steps along each (0 where repeated). Neighbouring axes are merged.
    pub fn new(extents: &[usize], a: &[usize], b: &[usize]) -> BroadcastLayout {
        let mut axes: Vec<(usize, usize, usize)> = vec![];
        for ((&n, &sa), &sb) in extents.iter().zip(a).zip(b).filter(|((n, _), _)| **n != 1) {
            match axes.last_mut() {
                // The outer axis steps over whole inner ones in both operands: one axis.
                Some(last) if last.1 == sa * n && last.2 == sb * n => *last = (last.0 * n, sa, sb),
                _ => axes.push((n, sa, sb)),
            }
        }
        match axes.pop() {
            Some((inner, sa, sb)) if sa <= 1 && sb <= 1 => {
                BroadcastLayout { outer: axes, inner, steps: (sa, sb) }
            }
            Some(axis) => {
                axes.push(axis);
                BroadcastLayout { outer: axes, inner: 1, steps: (0, 0) }
            }
            None => BroadcastLayout { outer: vec![], inner: 1, steps: (0, 0) },
        }
    }

    /// Elements of a row.
    pub fn inner(&self) -> usize {
        self.inner
    }

    /// How far each operand advances within a row: 0 or 1.
    pub fn steps(&self) -> (usize, usize) {
        self.steps
    }

    /// Where row `row` starts in each operand.
    pub fn start(&self, row: usize) -> (usize, usize) {
        let (mut rest, mut a, mut b) = (row, 0, 0);
        for &(n, sa, sb) in self.outer.iter().rev() {
            a += rest % n * sa;
            b += rest % n * sb;
            rest /= n;
        }
        (a, b)
    }
}

/// `y = F(a, b)` along a walk.
pub fn forward<T: Real, F: BinaryFn>(walk: &BroadcastLayout, a: &[T], b: &[T], y: &mut [T]) {
    let inner = walk.inner;
    let rows = y.len() / inner.max(1);
    let out = DisjointSlice::new(y);
    if rows == 1 {
        // One long row: cut along it.
        let (sa, sb) = walk.steps;
        return for_each_task(inner.div_ceil(GRAIN), |task| {
            let (start, len) = (task * GRAIN, GRAIN.min(inner - task * GRAIN));
            // SAFETY: pieces do not overlap.
            let y = unsafe { out.slice(start, len) };
            row::<T, F>(&a[start * sa..], sa, &b[start * sb..], sb, y);
        });
    }
    let rows_per_task = (GRAIN / inner.max(1)).max(1);
    for_each_task(rows.div_ceil(rows_per_task), |task| {
        for r in task * rows_per_task..rows.min((task + 1) * rows_per_task) {
            let (i, j) = walk.start(r);
            // SAFETY: each row belongs to one task.
            let y = unsafe { out.slice(r * inner, inner) };
            row::<T, F>(&a[i..], walk.steps.0, &b[j..], walk.steps.1, y);
        }
    });
}

vectorized! {
    /// One row of the result.
    wide fn row<T: Real, F: BinaryFn>(a: &[T], a_step: usize, b: &[T], b_step: usize, y: &mut [T]) {
        let n = y.len();
        match (a_step, b_step) {
            (1, 1) => {
                let (a, b) = (&a[..n], &b[..n]);
                for i in 0..n {
                    y[i] = F::apply(a[i], b[i]);
                }
            }
            (1, _) => {
                let (a, b) = (&a[..n], b[0]);
                for i in 0..n {
                    y[i] = F::apply(a[i], b);
                }
            }
            (_, 1) => {
                let (a, b) = (a[0], &b[..n]);
                for i in 0..n {
                    y[i] = F::apply(a, b[i]);
                }
            }
            _ => y.fill(F::apply(a[0], b[0])),
        }
    }
}
