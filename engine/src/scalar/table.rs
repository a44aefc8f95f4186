//! Rows of all scalar functions. Each macro passes its rows to a macro that declares something for each of them.

/// Primitive functions of one value: name, method with its documentation, CUDA text, value, gradient. In the CUDA text `{f}` is the suffix
/// of float functions. The gradient is a formula of the operand `x`, the value `y` and the upstream gradient `g`; `c` makes constants. `times` and `over`
/// keep zeros that a selection put into `g`, even if the factor is infinite. Comparisons are written so that NaN propagates.
macro_rules! unary_rows {
    ($then:ident) => {
        $then! {
            Neg "-{x}", |x| -x, |x, y, g, c| -g;
            Abs abs("Absolute value; the gradient at 0 is 0.") "fabs{f}({x})", |x| x.abs(),
                |x, y, g, c| x.where_greater(c(0.0), g, c(0.0).where_greater(x, -g, c(0.0)));
            Exp exp("`e^x`") "exp{f}({x})", |x| x.fast_exp(), |x, y, g, c| g.times(y);
            ExpM1 exp_m1("`e^x - 1`, accurate near 0.") "expm1{f}({x})",
                |x| if x > T::from_f64(88.0) { T::infinity() } else { x.fast_exp_m1() },
                |x, y, g, c| g.times(x.exp());
            Ln ln("Natural logarithm.") "log{f}({x})", |x| x.ln(), |x, y, g, c| g.over(x);
            Sqrt sqrt("Square root.") "sqrt{f}({x})", |x| x.sqrt(), |x, y, g, c| (c(0.5) * g).over(y);
            Tanh tanh("Hyperbolic tangent.") "tanh{f}({x})", |x| x.fast_tanh(), |x, y, g, c| g.times(c(1.0) - y * y);
            Sigmoid sigmoid("`1 / (1 + e^-x)`") "sigmoid({x})",
                |x| T::one() / (T::one() + (-x).fast_exp()), |x, y, g, c| g.times(y * (c(1.0) - y));
            Softplus softplus("`ln(1 + e^x)`, without overflow.") "softplus({x})",
                |x| (-x.abs()).fast_exp().fast_ln_1p() + if x < T::zero() { T::zero() } else { x },
                |x, y, g, c| g.times(x.sigmoid());
            Erf erf("Error function.") "erf{f}({x})",
                |x| x.fast_erf(), |x, y, g, c| g.times(c(std::f64::consts::FRAC_2_SQRT_PI) * (-(x * x)).exp());
            Relu relu("`max(x, 0)`; the gradient at 0 is 0.") "relu({x})", |x| if x < T::zero() { T::zero() } else { x },
                |x, y, g, c| x.where_greater(c(0.0), g, c(0.0));
            Floor floor("Largest integer not above `x`. Has no gradient.") "floor{f}({x})", |x| x.floor();
        }
    };
}
pub(crate) use unary_rows;

/// Primitive functions of two values, like [`unary_rows`], with the gradients of both operands.
macro_rules! binary_rows {
    ($then:ident) => {
        $then! {
            Add "{a} + {b}", |a, b| a + b, |a, b, y, g, c| (g, g);
            Sub "{a} - {b}", |a, b| a - b, |a, b, y, g, c| (g, -g);
            Mul "{a} * {b}", |a, b| a * b, |a, b, y, g, c| (g.times(b), g.times(a));
            Div "{a} / {b}", |a, b| a / b, |a, b, y, g, c| (g.over(b), -g.over(b).times(y));
            Max max("Maximum; NaN if either value is NaN. At a tie each operand gets half of the gradient.") "larger({a}, {b})",
                |a, b| {
                    let larger = if a > b { a } else { b };
                    if a.is_nan() { a } else { larger }
                },
                |a, b, y, g, c| {
                    let tie = a.where_equal(b, c(0.5) * g, c(0.0));
                    (a.where_greater(b, g, tie), b.where_greater(a, g, tie))
                };
            Min min("Minimum; NaN if either value is NaN. At a tie each operand gets half of the gradient.") "smaller({a}, {b})",
                |a, b| {
                    let smaller = if a < b { a } else { b };
                    if a.is_nan() { a } else { smaller }
                },
                |a, b, y, g, c| {
                    let tie = a.where_equal(b, c(0.5) * g, c(0.0));
                    (b.where_greater(a, g, tie), a.where_greater(b, g, tie))
                };
            Pow pow("`self` to the power `other`. The gradient of the exponent requires a positive base.") "pow{f}({a}, {b})",
                |a, b| a.powf(b),
                |a, b, y, g, c| (g.times(b * a.pow(b - c(1.0))), g.times(y * a.ln()));
            Greater greater("1 where `self > other`, else 0. Has no gradient.") "{a} > {b} ? 1.0{f} : 0.0{f}",
                |a, b| if a > b { T::one() } else { T::zero() };
            Equal equal("1 where both are equal, else 0. Has no gradient.") "{a} == {b} ? 1.0{f} : 0.0{f}",
                |a, b| if a == b { T::one() } else { T::zero() };
        }
    };
}
pub(crate) use binary_rows;

/// Functions of one tensor with two parameters `p` and `q`: type, kernel, value.
macro_rules! unary_function_rows {
    ($then:ident) => {
        $then! {
            /// `p * x + q`
            Affine "affine", |x, p, q, c| p * x + q;
            /// `p * x`
            MulScalar "mul_scalar", |x, p, q, c| p * x;
            /// `|x|`
            Abs "abs", |x, p, q, c| x.abs();
            /// Sign of `x`, 0 at 0.
            Sign "sign", |x, p, q, c| x.where_greater(c(0.0), c(1.0), x.where_less(c(0.0), -c(1.0), c(0.0)));
            /// `sqrt(x)`
            Sqrt "sqrt", |x, p, q, c| x.sqrt();
            /// Natural logarithm.
            Ln "ln", |x, p, q, c| x.ln();
            /// `x * x`
            Square "square", |x, p, q, c| x * x;
            /// `x` to the power `p`.
            PowScalar "pow_scalar", |x, p, q, c| x.pow(p);
            /// `x` clamped to `p..=q`; NaN stays NaN.
            Clamp "clamp", |x, p, q, c| x.where_less(p, p, x.where_greater(q, q, x));
            /// 1 where `p <= x <= q`, else 0.
            Within "within", |x, p, q, c| x.where_less(p, c(0.0), x.where_greater(q, c(0.0), x.where_equal(x, c(1.0), c(0.0))));
            /// 1 where `x > p`, else 0.
            Greater "greater", |x, p, q, c| x.greater(p);
        }
    };
}
pub(crate) use unary_function_rows;

/// Functions of two tensors that broadcast: type, kernel, value.
macro_rules! binary_function_rows {
    ($then:ident) => {
        $then! {
            /// `a + b`
            Add "add", |a, b, c| a + b;
            /// `a - b`
            Sub "sub", |a, b, c| a - b;
            /// `a * b`
            Mul "mul", |a, b, c| a * b;
            /// `a / b`
            Div "div", |a, b, c| a / b;
            /// `max(a, b)`; NaN if either operand is NaN.
            Maximum "maximum", |a, b, c| a.max(b);
            /// `min(a, b)`; NaN if either operand is NaN.
            Minimum "minimum", |a, b, c| a.min(b);
            /// `a` to the power `b`.
            Pow "pow", |a, b, c| a.pow(b);
            /// `heaviside(a - b, 0.5)`: derivative of `max(a, b)` with respect to `a`. 1, 0, or 0.5 at a tie.
            Heaviside "heaviside", |a, b, c| a.where_greater(b, c(1.0), a.where_equal(b, c(0.5), c(0.0)));
            /// `b ? a : 0`, for a mask `b` of ones and zeros. NaN in `a` is masked too.
            Masked "masked", |a, b, c| b.where_equal(c(0.0), c(0.0), a);
            /// 1 where equal, else 0.
            Equal "equal", |a, b, c| a.equal(b);
        }
    };
}
pub(crate) use binary_function_rows;

/// Activations: variant with the default of its parameter `p`, names (the first one is the kernel's), value, derivative.
/// Subgradients at kinks are PyTorch's.
macro_rules! activation_rows {
    ($then:ident) => {
        $then! {
            /// `x`
            #[default]
            Identity ["identity"] |x, p, c| x, c(1.0);
            /// `max(x, 0)`
            Relu ["relu"] |x, p, c| x.relu(), x.greater(c(0.0));
            /// `min(max(x, 0), 6)`
            Relu6 ["relu6"] |x, p, c| x.clamp(0.0, 6.0), x.inside(0.0, 6.0);
            /// `x sigmoid(x)`
            Silu ["silu", "swish"] |x, p, c| x * x.sigmoid(), {
                let s = x.sigmoid();
                s * (c(1.0) + x * (c(1.0) - s))
            };
            /// `x Φ(x)`, with the error function
            Gelu ["gelu"] |x, p, c| c(0.5) * x * (c(1.0) + (x * c(FRAC_1_SQRT_2)).erf()), {
                let cdf = c(0.5) * (c(1.0) + (x * c(FRAC_1_SQRT_2)).erf());
                cdf + x * c(INV_SQRT_2PI) * (c(-0.5) * x * x).exp()
            };
            /// GELU's tanh approximation
            GeluTanh ["gelu_tanh"] |x, p, c| {
                let t = (c(SQRT_2_OVER_PI) * (x + c(0.044715) * x * x * x)).tanh();
                c(0.5) * x * (c(1.0) + t)
            }, {
                let t = (c(SQRT_2_OVER_PI) * (x + c(0.044715) * x * x * x)).tanh();
                let inner = c(SQRT_2_OVER_PI) * (c(1.0) + c(3.0 * 0.044715) * x * x);
                c(0.5) * (c(1.0) + t) + c(0.5) * x * (c(1.0) - t * t) * inner
            };
            /// `x sigmoid(1.702 x)`
            QuickGelu ["quick_gelu"] |x, p, c| x * (c(1.702) * x).sigmoid(), {
                let s = (c(1.702) * x).sigmoid();
                s * (c(1.0) + c(1.702) * x * (c(1.0) - s))
            };
            /// `x relu6(x + 3) / 6`
            HardSwish ["hard_swish", "hardswish"] |x, p, c| x * (x + c(3.0)).clamp(0.0, 6.0) * c(1.0 / 6.0), {
                let middle = x * c(1.0 / 3.0) + c(0.5);
                x.where_less(c(3.0), x.where_greater(c(-3.0), middle, c(0.0)), c(1.0))
            };
            /// `relu6(x + 3) / 6`
            HardSigmoid ["hard_sigmoid", "hardsigmoid"]
                |x, p, c| (x + c(3.0)).clamp(0.0, 6.0) * c(1.0 / 6.0), x.inside(-3.0, 3.0) * c(1.0 / 6.0);
            /// `1 / (1 + e^-x)`
            Sigmoid ["sigmoid"] |x, p, c| x.sigmoid(), {
                let s = x.sigmoid();
                s * (c(1.0) - s)
            };
            // With e = e^min(x, 20): tanh(log(1 + e)) = n / (n + 2), n = e (e + 2); it is 1 beyond.
            /// `x tanh(softplus(x))`
            Mish ["mish"] |x, p, c| {
                let e = x.where_greater(c(20.0), c(20.0), x).exp();
                let n = e * (e + c(2.0));
                x * n / (n + c(2.0))
            }, {
                let e = x.where_greater(c(20.0), c(20.0), x).exp();
                let n = e * (e + c(2.0));
                let t = n / (n + c(2.0));
                t + x * (c(1.0) - t * t) * (e / (c(1.0) + e))
            };
            /// The hyperbolic tangent
            Tanh ["tanh"] |x, p, c| x.tanh(), {
                let t = x.tanh();
                c(1.0) - t * t
            };
            /// `x` above zero, `negative_slope * x` below
            LeakyRelu(0.01) ["leaky_relu"] |x, p, c| x.where_greater(c(0.0), x, x * p), x.where_greater(c(0.0), c(1.0), p);
            /// `x` above zero, `alpha (e^x - 1)` below
            Elu(1.0) ["elu"]
                |x, p, c| x.where_greater(c(0.0), x, p * x.exp_m1()), x.where_greater(c(0.0), c(1.0), p * x.exp());
            /// `log(1 + e^x)`
            Softplus ["softplus"] |x, p, c| x.softplus(), x.sigmoid();
            /// `1.0507 * (x above zero, 1.67326 (e^x - 1) below)`
            Selu ["selu"]
                |x, p, c| c(SELU_SCALE) * x.where_greater(c(0.0), x, c(SELU_ALPHA) * x.exp_m1()),
                c(SELU_SCALE) * x.where_greater(c(0.0), c(1.0), c(SELU_ALPHA) * x.exp());
            /// `x` clamped to -1..1
            HardTanh ["hard_tanh", "hardtanh"] |x, p, c| x.clamp(-1.0, 1.0), x.inside(-1.0, 1.0);
            /// `e^x`
            Exp ["exp"] |x, p, c| x.exp(), x.exp();
        }
    };
}
pub(crate) use activation_rows;
