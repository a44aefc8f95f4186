//! Activations and their derivatives, elementwise. The fused operations use the same functions.
use super::elementary::Elementary;
use super::parallel::for_each_piece;
use super::vectorized::vectorized;

/// Activation function and its derivative, both as functions of the input.
pub trait ActivationFn: Copy + Send + Sync + 'static {
    /// `f(x)`.
    fn value<T: Elementary>(self, x: T) -> T;
    /// `f'(x)`.
    fn derivative<T: Elementary>(self, x: T) -> T;
}

macro_rules! activations {
    ($($name:ident $(($p:ident))? [$s:ident, $x:ident] => $value:expr, $derivative:expr;)*) => {$(
        #[allow(missing_docs, reason = "named and documented by crate::Activation")]
        #[derive(Clone, Copy)]
        pub struct $name $((pub $p))?;
        impl ActivationFn for $name {
            #[inline(always)]
            fn value<T: Elementary>(self, $x: T) -> T {
                let $s = self;
                let _ = $s;
                $value
            }
            #[inline(always)]
            fn derivative<T: Elementary>(self, $x: T) -> T {
                let ($s, _) = (self, $x);
                let _ = $s;
                $derivative
            }
        }
    )*};
}

#[inline(always)]
fn c<T: Elementary>(value: f64) -> T {
    T::from_f64(value)
}

#[inline(always)]
fn clamp<T: Elementary>(x: T, low: f64, high: f64) -> T {
    let x = if x < c(low) { c(low) } else { x };
    if x > c(high) { c(high) } else { x }
}

#[inline(always)]
fn sigmoid<T: Elementary>(x: T) -> T {
    T::one() / (T::one() + (-x).fast_exp())
}

/// 1 strictly inside the bounds, else 0.
#[inline(always)]
fn inside<T: Elementary>(x: T, low: f64, high: f64) -> T {
    let above = if x > c(low) { T::one() } else { T::zero() };
    if x < c(high) { above } else { T::zero() }
}

/// SELU's scale λ.
pub const SELU_SCALE: f64 = 1.050_700_987_355_480_5;
/// SELU's α, the factor of `e^x - 1` below zero.
pub const SELU_ALPHA: f64 = 1.673_263_242_354_377_2;
const INV_SQRT_2PI: f64 = 0.398_942_280_401_432_7;
const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;

activations! {
    Identity [s, x] => x, T::one();
    Relu [s, x] => if x < T::zero() { T::zero() } else { x }, if x > T::zero() { T::one() } else { T::zero() };
    Relu6 [s, x] => clamp(x, 0.0, 6.0), inside(x, 0.0, 6.0);
    Silu [s, x] => x * sigmoid(x), {
        let s = sigmoid(x);
        s * (T::one() + x * (T::one() - s))
    };
    Gelu [s, x] => c::<T>(0.5) * x * (T::one() + (x * c(std::f64::consts::FRAC_1_SQRT_2)).fast_erf()), {
        let cdf = c::<T>(0.5) * (T::one() + (x * c(std::f64::consts::FRAC_1_SQRT_2)).fast_erf());
        cdf + x * c(INV_SQRT_2PI) * (c::<T>(-0.5) * x * x).fast_exp()
    };
    GeluTanh [s, x] => {
        let t = (c::<T>(SQRT_2_OVER_PI) * (x + c::<T>(0.044715) * x * x * x)).fast_tanh();
        c::<T>(0.5) * x * (T::one() + t)
    }, {
        let t = (c::<T>(SQRT_2_OVER_PI) * (x + c::<T>(0.044715) * x * x * x)).fast_tanh();
        let inner = c::<T>(SQRT_2_OVER_PI) * (T::one() + c::<T>(3.0 * 0.044715) * x * x);
        c::<T>(0.5) * (T::one() + t) + c::<T>(0.5) * x * (T::one() - t * t) * inner
    };
    QuickGelu [s, x] => x * sigmoid(c::<T>(1.702) * x), {
        let s = sigmoid(c::<T>(1.702) * x);
        s * (T::one() + c::<T>(1.702) * x * (T::one() - s))
    };
    HardSwish [s, x] => x * clamp(x + c(3.0), 0.0, 6.0) * c(1.0 / 6.0), {
        let middle = x * c(1.0 / 3.0) + c(0.5);
        let low = if x > c(-3.0) { middle } else { T::zero() };
        if x < c(3.0) { low } else { T::one() }
    };
    HardSigmoid [s, x] => clamp(x + c(3.0), 0.0, 6.0) * c(1.0 / 6.0), inside(x, -3.0, 3.0) * c(1.0 / 6.0);
    Sigmoid [s, x] => sigmoid(x), {
        let s: T = sigmoid(x);
        s * (T::one() - s)
    };
    // With e = e^min(x, 20): tanh(log(1 + e)) = n / (n + 2), n = e (e + 2); it is 1 beyond.
    Mish [s, x] => {
        let e = clamp(x, -1e30, 20.0).fast_exp();
        let n = e * (e + c(2.0));
        x * n / (n + c(2.0))
    }, {
        let e = clamp(x, -1e30, 20.0).fast_exp();
        let n = e * (e + c(2.0));
        let t = n / (n + c(2.0));
        t + x * (T::one() - t * t) * (e / (T::one() + e))
    };
    Tanh [s, x] => x.fast_tanh(), {
        let t = x.fast_tanh();
        T::one() - t * t
    };
    LeakyRelu(f64) [s, x] => if x > T::zero() { x } else { x * c(s.0) }, if x > T::zero() { T::one() } else { c(s.0) };
    Elu(f64) [s, x] => if x > T::zero() { x } else { c::<T>(s.0) * x.fast_exp_m1() }, if x > T::zero() { T::one() } else { c::<T>(s.0) * x.fast_exp() };
    Softplus [s, x] => (-x.abs()).fast_exp().fast_ln_1p() + clamp(x, 0.0, f64::INFINITY), sigmoid(x);
    Selu [s, x] => c::<T>(SELU_SCALE) * if x > T::zero() { x } else { c::<T>(SELU_ALPHA) * x.fast_exp_m1() },
        c::<T>(SELU_SCALE) * if x > T::zero() { T::one() } else { c::<T>(SELU_ALPHA) * x.fast_exp() };
    HardTanh [s, x] => clamp(x, -1.0, 1.0), inside(x, -1.0, 1.0);
    Exp [s, x] => x.fast_exp(), x.fast_exp();
}

/// True for the activations that normalisations are fused with: the arms of `with_activation!(fused …)`.
pub fn is_fused(f: crate::Activation) -> bool {
    use crate::Activation as A;
    matches!(f, A::Identity | A::Relu | A::Relu6 | A::Silu | A::HardSwish)
}

/// Evaluates `$body` with `$f` bound to the [`ActivationFn`] of a [`crate::Activation`].
macro_rules! with_activation {
    ($activation:expr, $f:ident => $body:expr) => {{
        use $crate::Activation as A;
        use $crate::cpu::activation as k;
        with_activation!(@ $activation, $f, $body;
            Identity Relu Relu6 Silu Gelu GeluTanh QuickGelu HardSwish HardSigmoid Sigmoid Mish Tanh Softplus Selu HardTanh Exp;
            LeakyRelu Elu)
    }};
    // Only a few activations are fused into normalisations: each one adds a copy of every fused kernel.
    (fused $activation:expr, $f:ident => $body:expr) => {{
        use $crate::Activation as A;
        use $crate::cpu::activation as k;
        with_activation!(@ $activation, $f, $body; Identity Relu Relu6 Silu HardSwish;; other => unreachable!("{other:?} is not fused"))
    }};
    (@ $activation:expr, $f:ident, $body:expr; $($plain:ident)*; $($with:ident)*$(; $other:ident => $rest:expr)?) => {
        match $activation {
            $(A::$plain => { let $f = k::$plain; $body })*
            $(A::$with(p) => { let $f = k::$with(p); $body })*
            $($other => $rest,)?
        }
    };
}
pub(crate) use with_activation;

/// `y = f(x)`.
pub fn forward<T: Elementary>(f: crate::Activation, x: &[T], y: &mut [T]) {
    with_activation!(f, f => for_each_piece(y, |start, y| forward_slice(f, &x[start..start + y.len()], y)));
}

/// `dx = dy * f'(x)`.
pub fn backward<T: Elementary>(f: crate::Activation, x: &[T], dy: &[T], dx: &mut [T]) {
    with_activation!(f, f => for_each_piece(dx, |start, dx| {
        let end = start + dx.len();
        backward_slice(f, &x[start..end], &dy[start..end], dx);
    }));
}

vectorized! {
    wide fn forward_slice<T: Elementary, F: ActivationFn>(f: F, x: &[T], y: &mut [T]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = f.value(*x);
        }
    }
}

vectorized! {
    wide fn backward_slice<T: Elementary, F: ActivationFn>(f: F, x: &[T], dy: &[T], dx: &mut [T]) {
        for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
            *dx = *dy * f.derivative(*x);
        }
    }
}
