//! Convolutions and linear layers.
use super::run::{check_each_case_and_dtype, check_operation};
use super::{Outcome, Topic};
use fornax_engine::{Conv2dOptions, Tensor};

/// Runs every case of the topic.
pub fn check(topic: &Topic) -> Outcome {
    check_each_case_and_dtype(topic, |case, dtype| match case.op() {
        "conv2d" => {
            case.allow_params(&["stride", "padding", "dilation", "groups", "bias"])?;
            let options = Conv2dOptions {
                stride: case.pair("stride")?,
                padding: case.pair("padding")?,
                dilation: case.pair("dilation")?,
                groups: case.number("groups")? as usize,
                ..Conv2dOptions::default()
            };
            check_operation(case, dtype, |t| {
                let (x, w) = (Tensor::from_nchw(t.get("x"))?, Tensor::from_nchw(t.get("weight"))?);
                Ok(vec![("y", x.conv2d(&w, t.find("bias"), &options)?.to_nchw()?)])
            })
        }
        "linear" => {
            case.allow_params(&["bias"])?;
            check_operation(case, dtype, |t| {
                Ok(vec![("y", t.get("x").linear(t.get("weight"), t.find("bias"))?)])
            })
        }
        "conv2d_ws" => {
            case.allow_params(&["eps", "stride", "padding"])?;
            let options = Conv2dOptions {
                stride: case.pair("stride")?,
                padding: case.pair("padding")?,
                ..Conv2dOptions::default()
            };
            let eps = case.number("eps")?;
            check_operation(case, dtype, |t| {
                let (x, w) = (Tensor::from_nchw(t.get("x"))?, Tensor::from_nchw(t.get("weight"))?);
                let y = x.conv2d(&w.standardize_weight(eps)?, t.find("bias"), &options)?;
                Ok(vec![("y", y.to_nchw()?)])
            })
        }
        op => Err(format!("{}: operation {op} is not known to the test", case.id())),
    })
}
