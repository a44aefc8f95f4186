//! Formula tensors: weights and inputs computed from names and indices (see the golden folder's README).
use fornax_engine::{DType, Result, Tensor};
use fornax_nn::{Module, StateLayout, state_entries};

/// The integer below 2^24 of a name and an index.
pub fn u24(name: &str, index: u32) -> u32 {
    let mut x = index.wrapping_mul(0x9E37_79B1).wrapping_add(crc32fast::hash(name.as_bytes()));
    x ^= x >> 16;
    x = x.wrapping_mul(0x85EB_CA6B);
    x ^= x >> 13;
    x = x.wrapping_mul(0xC2B2_AE35);
    x ^= x >> 16;
    x >> 8
}

/// The value in [-1, 1) of a name and an index.
pub fn v(name: &str, index: u32) -> f64 {
    f64::from(u24(name, index)) / 8_388_608.0 - 1.0
}

/// The value of a state-dict entry `name`, in PyTorch's shape, under a salt and a gain.
pub fn entry(salt: &str, gain: f64, name: &str, shape: &[usize]) -> Vec<f32> {
    let key = format!("{salt}/{name}");
    let fan_in: usize = shape.iter().skip(1).product();
    let value = |x: f64| -> f64 {
        if name.ends_with("running_mean") {
            0.1 * x
        } else if name.ends_with("running_var") {
            1.0 + 0.25 * x
        } else if name.ends_with("bias") {
            0.1 * x
        } else if shape.len() >= 2 && name.ends_with("weight") {
            (3.0 * gain / fan_in as f64).sqrt() * x
        } else if shape.len() == 1 {
            1.0 + 0.2 * x
        } else {
            0.1 * x
        }
    };
    let len: usize = shape.iter().product();
    (0..len as u32).map(|i| value(v(&key, i)) as f32).collect()
}

/// Gives every parameter and buffer of a model its formula value; counters become 0.
pub fn fill(module: &(impl Module + ?Sized), salt: &str, gain: f64) -> Result<()> {
    for e in state_entries(module) {
        if e.name.ends_with("num_batches_tracked") {
            e.tensor.write::<i64>()?[0] = 0;
            continue;
        }
        let torch = match e.layout {
            StateLayout::Same => *e.tensor.shape(),
            StateLayout::ConvWeight => *e.tensor.detach().to_nchw()?.shape(),
        };
        let value = Tensor::from_vec(entry(salt, gain, &e.name, &torch), torch)?.to_dtype(DType::F32)?;
        e.tensor.copy_from(&match e.layout {
            StateLayout::Same => value,
            StateLayout::ConvWeight => Tensor::from_nchw(&value)?,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u24_matches_the_test_vectors_of_the_readme() {
        assert_eq!(crc32fast::hash(b"abc"), 891_568_578);
        assert_eq!([0, 1, 2, 3].map(|i| u24("abc", i)), [13_693_323, 4_428_153, 15_033_055, 14_345_448]);
    }
}
