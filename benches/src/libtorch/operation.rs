//! Single operations: libtorch's counterpart of each timed row of the table of cases, on the same numbers.
use super::{Layout, image, weighted_sum};
use crate::cases::option;
use fornax_engine::DType;
use fornax_tests::cases::Case;
use tch::{Kind, Reduction, Tensor};

/// From operands to the result.
pub(super) type Function = Box<dyn Fn(&[Tensor]) -> Tensor>;

/// An operation with its operands.
pub struct Operation {
    layout: Option<Layout>,
    operands: Vec<Tensor>,
    differentiable: Vec<bool>,
    run: Function,
}

impl Operation {
    /// The counterpart of a case, in a layout; none when there is no counterpart.
    pub fn new(case: &Case, layout: Layout) -> Option<Operation> {
        let run = counterpart(case)?;
        let layout = Self::is_of_images(case).then_some(layout);
        let operands = case.tensors(DType::F32).unwrap_or_else(|error| panic!("{error}"));
        let operands = operands.iter().map(|operand| arranged(layout, from_fornax(operand))).collect();
        let differentiable = case.inputs.iter().map(|input| input.differentiable).collect();
        Some(Operation { layout, operands, differentiable, run })
    }

    /// True when axes of rank-4 operands have the meaning `[n, h, w, c]`, so that layouts differ.
    pub fn is_of_images(case: &Case) -> bool {
        let families =
            ["conv2d", "batch_norm", "group_norm", "max_pool", "avg_pool", "global_pool", "interpolate"];
        families.iter().any(|family| case.op.starts_with(family))
    }

    /// The result.
    pub fn run(&self) -> Tensor {
        (self.run)(&self.operands)
    }

    /// The result, and the gradients of `sum(result * upstream)`, all as Fornax holds them: row-major, channels-last.
    pub fn differentiate(self, upstream: &fornax_engine::Tensor) -> Vec<Vec<f32>> {
        let operation = self.with_gradients(|_| true);
        let y = operation.run();
        let upstream = arranged(operation.layout, from_fornax(upstream));
        let gradients =
            Tensor::run_backward(&[weighted_sum(&y, &upstream)], &operation.variables(), false, false);
        let elements = |t: &Tensor| {
            let nhwc = if operation.layout.is_some() && t.dim() == 4 {
                t.permute([0, 2, 3, 1])
            } else {
                t.shallow_clone()
            };
            Vec::<f32>::try_from(nhwc.detach().contiguous().view(-1)).expect("results are f32")
        };
        std::iter::once(&y).chain(&gradients).map(elements).collect()
    }

    /// With gradients for those differentiable operands that are chosen by position.
    pub fn with_gradients(mut self, chosen: impl Fn(usize) -> bool) -> Operation {
        for (i, operand) in self.operands.iter_mut().enumerate() {
            *operand = operand.set_requires_grad(self.differentiable[i] && chosen(i));
        }
        self
    }

    /// The operands with gradients.
    pub fn variables(&self) -> Vec<&Tensor> {
        self.operands.iter().filter(|operand| operand.requires_grad()).collect()
    }
}

fn arranged(layout: Option<Layout>, t: Tensor) -> Tensor {
    match layout {
        Some(layout) if t.dim() == 4 => layout.arrange(&t),
        _ => t,
    }
}

fn from_fornax(t: &fornax_engine::Tensor) -> Tensor {
    let flat = match t.dtype() {
        DType::I64 => Tensor::from_slice(&t.to_vec::<i64>().expect("i64")),
        _ => Tensor::from_slice(&t.to_vec::<f32>().expect("cases are f32 or i64")),
    };
    flat.view(t.dims().iter().map(|&extent| extent as i64).collect::<Vec<_>>().as_slice())
}

/// What libtorch calls a case's operation; constants are those of the table.
fn counterpart(case: &Case) -> Option<Function> {
    let run: fn(&[Tensor]) -> Tensor = match (case.op, case.variant.as_str()) {
        ("conv2d", _) => return Some(conv2d(case)),
        ("add", _) => |t| &t[0] + &t[1],
        ("sub", _) => |t| &t[0] - &t[1],
        ("mul", _) => |t| &t[0] * &t[1],
        ("div", _) => |t| &t[0] / &t[1],
        ("maximum", _) => |t| t[0].maximum(&t[1]),
        ("minimum", _) => |t| t[0].minimum(&t[1]),
        ("pow", _) => |t| t[0].pow(&t[1]),
        ("mul_scalar", _) => |t| &t[0] * -1.5,
        ("affine", _) => |t| &t[0] * 2.0 + 0.25,
        ("abs", _) => |t| t[0].abs(),
        ("sqrt", _) => |t| t[0].sqrt(),
        ("ln", _) => |t| t[0].log(),
        ("square", _) => |t| t[0].square(),
        ("powf", _) => |t| t[0].pow_tensor_scalar(2.5),
        ("clamp", _) => |t| t[0].clamp(-0.7, 0.9),
        ("to_dtype", _) => |t| t[0].to_kind(Kind::Double).to_kind(Kind::Float),
        ("sum", "all-large") => |t| t[0].sum(Kind::Float),
        ("sum", "channels-large") => |t| t[0].sum_dim_intlist([0i64, 1, 2].as_slice(), false, Kind::Float),
        ("sum", "last-large") => |t| t[0].sum_dim_intlist([3i64].as_slice(), false, Kind::Float),
        ("amax", _) => |t| t[0].amax([1], false),
        ("matmul", _) => |t| t[0].matmul(&t[1]),
        ("linear", _) => |t| t[0].linear(&t[1], t.get(2)),
        ("attention", _) => |t| {
            let none = None::<&Tensor>;
            Tensor::scaled_dot_product_attention(&t[0], &t[1], &t[2], none, 0.0, false, None, false)
        },
        ("permute", "nchw-large") => |t| t[0].permute([0, 2, 3, 1]).contiguous(),
        ("concat", "channels-large") => |t| Tensor::cat(t, 3),
        // Of class indices and of probabilities alike.
        ("cross_entropy" | "soft_target_cross_entropy", _) => {
            |t| t[0].cross_entropy_loss(&t[1], None::<&Tensor>, Reduction::Mean, -100, 0.0)
        }
        ("binary_cross_entropy", _) => |t| {
            t[0].binary_cross_entropy_with_logits(&t[1], None::<&Tensor>, None::<&Tensor>, Reduction::Mean)
        },
        _ => return image::counterpart(case),
    };
    Some(Box::new(run))
}

fn conv2d(case: &Case) -> Function {
    let [stride, padding, groups] = ["stride", "padding", "groups"].map(|name| option(case, name) as i64);
    Box::new(move |t| t[0].conv2d(&t[1], t.get(2), [stride; 2], [padding; 2], [1, 1], groups))
}
