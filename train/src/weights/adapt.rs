//! Adaptation of pretrained weights to other input channels and another patch grid.
use super::LoadOptions;
use crate::Result;
use fornax_engine::{DType, Interpolation, Tensor};
use fornax_nn::StateEntry;
use fornax_nn::state_dict::torch_shape;

/// The stored tensor adapted to the model's shape, with a note about it; `None` if it cannot be adapted.
pub fn adapt_tensor(
    entry: &StateEntry,
    entries: &[StateEntry],
    options: &LoadOptions<'_>,
    read: impl Fn() -> Result<Tensor>,
    stored: &[usize],
) -> Result<Option<(Tensor, String)>> {
    if !options.adapt {
        return Ok(None);
    }
    let needed = torch_shape(entry);
    let read = || -> Result<Tensor> { Ok(read()?.to_dtype(DType::F32)?) };
    match (stored, needed.as_slice()) {
        (&[out, from, kh, kw], &[out_needed, to, kh_needed, kw_needed])
            if entry.name == weight_of(options.first_conv)
                && [out, kh, kw] == [out_needed, kh_needed, kw_needed]
                && from * to > 0 =>
        {
            let note = format!("{} was adapted from {from} to {to} input channels", entry.name);
            Ok(Some((adapt_input_conv(&read()?, to)?, note)))
        }
        (&[1, from, width], &[1, to, width_needed]) if entry.name == "pos_embed" && width == width_needed => {
            let has = |name: &str| entries.iter().find(|e| e.name == name).map_or(0, |e| e.tensor.dims()[1]);
            let prefix = has("cls_token") + has("reg_token");
            let old = from.checked_sub(prefix).and_then(square);
            let new = to.checked_sub(prefix).and_then(|n| match patch_grid(entries, options) {
                Some([h, w]) => (h * w == n).then_some([h, w]),
                None => square(n),
            });
            let (Some(old), Some(new)) = (old, new) else { return Ok(None) };
            let note = format!("pos_embed was resampled from {old:?} to {new:?} patches");
            Ok(Some((resample_pos_embed(&read()?, prefix, old, new)?, note)))
        }
        _ => Ok(None),
    }
}

/// Adapts a convolution's weight `[out, in, kh, kw]` to `to` input channels as timm does: a single channel is the sum over all; otherwise
/// channels are repeated and scaled by `in / to`, which preserves the response to grey images.
fn adapt_input_conv(weight: &Tensor, to: usize) -> Result<Tensor> {
    let &[out, from, kh, kw] = weight.dims() else { unreachable!("the caller checks the shape") };
    let (values, area) = (weight.read::<f32>()?, kh * kw);
    let plane = |o: usize, i: usize| &values[(o * from + i) * area..][..area];
    let scale = (from as f64 / to as f64) as f32;
    Ok(Tensor::build([out, to, kh, kw], |adapted: &mut [f32]| {
        for (index, plane_out) in adapted.chunks_exact_mut(area).enumerate() {
            let (o, i) = (index / to, index % to);
            if to == 1 {
                plane_out.copy_from_slice(plane(o, 0));
                for i in 1..from {
                    plane_out.iter_mut().zip(plane(o, i)).for_each(|(sum, v)| *sum += v);
                }
            } else {
                plane_out.iter_mut().zip(plane(o, i % from)).for_each(|(out, v)| *out = v * scale);
            }
        }
    })?)
}

/// Resamples a position embedding `[1, prefix + h * w, width]` to another patch grid: bicubic with antialiasing; prefix tokens are kept.
fn resample_pos_embed(positions: &Tensor, prefix: usize, old: [usize; 2], new: [usize; 2]) -> Result<Tensor> {
    let width = positions.dims()[2];
    let values = positions.read::<f32>()?;
    let (tokens, grid) = values.split_at(prefix * width);
    let how = Interpolation::Bicubic { align_corners: false, antialias: true };
    let grid = Tensor::from_slice(grid, [1, old[0], old[1], width])?.interpolate(new, how)?;
    let all = [tokens, &grid.read::<f32>()?].concat();
    Ok(Tensor::from_vec(all, [1, prefix + new[0] * new[1], width])?)
}

/// Rows and columns of the patch grid: the image size divided by the first convolution's kernel size.
fn patch_grid(entries: &[StateEntry], options: &LoadOptions<'_>) -> Option<[usize; 2]> {
    let [h, w] = options.img_size?;
    let patches = entries.iter().find(|e| e.name == weight_of(options.first_conv))?;
    match torch_shape(patches)[..] {
        [_, _, kh, kw] => Some([h / kh, w / kw]),
        _ => None,
    }
}

fn weight_of(layer: &str) -> String {
    format!("{layer}.weight")
}

fn square(n: usize) -> Option<[usize; 2]> {
    let side = n.isqrt();
    (side > 0 && side * side == n).then_some([side, side])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sines(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i as f32).sin()).collect()
    }

    #[track_caller]
    fn assert_near(got: &Tensor, expected: &[f32], tolerance: f32) {
        let got = got.to_vec::<f32>().expect("f32");
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() <= tolerance, "{got} {expected}");
        }
    }

    /// Expected: `timm.models._manipulate.adapt_input_conv(to, torch.arange(12.).reshape(2, 3, 1, 2).sin())`.
    #[test]
    fn input_channels_are_adapted_as_timm_does() {
        let weight = Tensor::from_vec(sines(12), [2, 3, 1, 2]).expect("memory");
        let cases: [(usize, &[f32]); 3] = [
            (1, &[0.1524949, 0.02366668, 0.16592163, 0.06911492]),
            (2, &[0.0, 1.2622064, 1.3639461, 0.21168, -0.41912323, 0.9854799, 1.4840374, 0.6181778]),
            (
                4,
                &[
                    0.0,
                    0.6311032,
                    0.68197304,
                    0.10584,
                    -0.56760186,
                    -0.7191932,
                    0.0,
                    0.6311032,
                    -0.20956162,
                    0.49273995,
                    0.7420187,
                    0.3090889,
                    -0.40801585,
                    -0.74999267,
                    -0.20956162,
                    0.49273995,
                ],
            ),
        ];
        for (to, expected) in cases {
            let adapted = adapt_input_conv(&weight, to).expect("adapts");
            assert_eq!(adapted.dims(), [2, to, 1, 2]);
            assert_near(&adapted, expected, 2e-7);
        }
    }

    /// Expected: `timm.layers.pos_embed.resample_abs_pos_embed` of sines, one prefix token, 2x2 to 3x3 and 4x4 to 2x3 patches.
    #[test]
    fn positions_are_resampled_as_timm_does() {
        let positions = Tensor::from_vec(sines(10), [1, 5, 2]).expect("memory");
        let expected = [
            0.0,
            0.84147096,
            1.1098166,
            0.18325408,
            0.057910394,
            -0.47097138,
            -0.9939961,
            -1.1251973,
            0.32801086,
            0.44329375,
            0.21560942,
            0.06282522,
            0.103207916,
            -0.31764352,
            -0.45379502,
            0.70333356,
            0.3733085,
            0.59662205,
            1.2004124,
            0.48991048,
        ];
        assert_near(&resample_pos_embed(&positions, 1, [2, 2], [3, 3]).expect("resamples"), &expected, 2e-6);
        let positions = Tensor::from_vec(sines(17), [1, 17, 1]).expect("memory");
        let expected = [0.0, 0.029030528, 0.21770233, 0.09684941, 0.22416383, 0.02694799, -0.20858195];
        assert_near(&resample_pos_embed(&positions, 1, [4, 4], [2, 3]).expect("resamples"), &expected, 2e-6);
    }
}
