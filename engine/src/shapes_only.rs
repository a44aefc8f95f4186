//! Computing shapes without values.
use std::cell::Cell;

thread_local! {
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` with operations on the CPU giving tensors of the right shape and of arbitrary content: what a model's layers cost is counted
/// without paying for it. Memory is reserved, and not touched.
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
    fn shapes_come_without_values() {
        let product = || {
            let a = Tensor::ones([2, 3], DType::F32, &Device::Cpu)?;
            a.matmul(&Tensor::ones([3, 4], DType::F32, &Device::Cpu)?)
        };
        let counted = shapes_only(product).expect("shapes fit");
        assert_eq!(counted.dims(), [2, 4]);
        let computed = product().expect("shapes fit");
        assert_eq!(computed.to_vec::<f32>().expect("f32"), [3.0; 8]);
    }
}
