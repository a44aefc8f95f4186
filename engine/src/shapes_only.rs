//! Shape inference without values, as on PyTorch's meta device.
use std::cell::Cell;

thread_local! {
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` while operations on the CPU only infer shapes: their results have the right shape and arbitrary content. Used to count the
/// cost of a model's layers. Address space is reserved, but large tensors take no memory.
pub fn shapes_only<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ACTIVE.set(self.0);
        }
    }
    let _restore = Restore(ACTIVE.replace(true));
    f()
}

/// True within [`shapes_only`].
pub(crate) fn is_active() -> bool {
    ACTIVE.get()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Device, Tensor};

    #[test]
    fn shapes_are_inferred_without_computing() {
        let matmul = || {
            let a = Tensor::ones([2, 3], DType::F32, &Device::Cpu)?;
            a.matmul(&Tensor::ones([3, 4], DType::F32, &Device::Cpu)?)
        };
        let counted = shapes_only(matmul).expect("shapes fit");
        assert_eq!(counted.dims(), [2, 4]);
        let computed = matmul().expect("shapes fit");
        assert_eq!(computed.to_vec::<f32>().expect("f32"), [3.0; 8]);
    }
}
