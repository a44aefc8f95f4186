//! Pooling and interpolation; stored images are NCHW.
use super::run::{check_each_case_and_dtype, check_operation};
use super::{GoldenCase, Outcome, Topic};
use fornax_engine::{DType, GlobalPool, Interpolation, Pool2dOptions, Result, Tensor};

/// Runs every case of the topic.
pub fn check(topic: &Topic) -> Outcome {
    check_each_case_and_dtype(topic, |case, dtype| match case.op() {
        "max_pool2d" => {
            case.allow_params(&["kernel", "stride", "padding", "dilation", "ceil_mode"])?;
            let pool = Pool2dOptions { dilation: case.pair("dilation")?, ..windows(case)? };
            on_images(case, dtype, |x| x.max_pool2d(&pool)?.to_nchw())
        }
        "avg_pool2d" => {
            case.allow_params(&["kernel", "stride", "padding", "ceil_mode", "count_include_pad"])?;
            let (pool, count_pad) = (windows(case)?, case.flag("count_include_pad"));
            on_images(case, dtype, |x| x.avg_pool2d(&pool, count_pad)?.to_nchw())
        }
        "global_pool" => {
            case.allow_params(&["type", "flatten"])?;
            let kind: GlobalPool = case.text("type")?.parse().map_err(|e| format!("{}: {e}", case.id()))?;
            if !case.flag("flatten") {
                return Err(format!("{}: only flattened results are known to the test", case.id()));
            }
            on_images(case, dtype, |x| x.global_pool(kind))
        }
        "adaptive_pool2d" => {
            case.allow_params(&["type", "output"])?;
            let out = case.pair("output")?;
            match case.text("type")? {
                "avg" => on_images(case, dtype, |x| x.adaptive_avg_pool2d(out)?.to_nchw()),
                "max" => on_images(case, dtype, |x| x.adaptive_max_pool2d(out)?.to_nchw()),
                kind => Err(format!("{}: pooling {kind} is not known to the test", case.id())),
            }
        }
        "interpolate" => {
            case.allow_params(&["output", "mode", "align_corners", "antialias"])?;
            let (align_corners, antialias) = (case.flag("align_corners"), case.flag("antialias"));
            let how = match case.text("mode")? {
                "nearest" => Interpolation::Nearest,
                "bilinear" => Interpolation::Bilinear { align_corners, antialias },
                "bicubic" => Interpolation::Bicubic { align_corners, antialias },
                mode => return Err(format!("{}: mode {mode} is not known to the test", case.id())),
            };
            let size = case.pair("output")?;
            on_images(case, dtype, |x| x.interpolate(size, how)?.to_nchw())
        }
        op => Err(format!("{}: operation {op} is not known to the test", case.id())),
    })
}

fn windows(case: &GoldenCase) -> std::result::Result<Pool2dOptions, String> {
    Ok(Pool2dOptions {
        kernel: case.pair("kernel")?,
        stride: case.pair("stride")?,
        padding: case.pair("padding")?,
        ceil_mode: case.flag("ceil_mode"),
        ..Pool2dOptions::default()
    })
}

/// Checks a case whose operation maps channels-last images to the stored output.
fn on_images(
    case: &GoldenCase,
    dtype: DType,
    f: impl Fn(&Tensor) -> Result<Tensor>,
) -> std::result::Result<(), String> {
    check_operation(case, dtype, |t| Ok(vec![("y", f(&Tensor::from_nchw(t.get("x"))?)?)]))
}
