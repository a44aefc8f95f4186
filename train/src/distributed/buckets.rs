//! Division of gradients into buckets, which are reduced one by one while the backward pass goes on.
use fornax_engine::{DType, Device, Tensor};

/// Bytes of the first bucket: small, so that communication starts early.
const FIRST_BYTES: usize = 1 << 20;
/// Bytes of further buckets.
const BYTES: usize = 25 << 20;
/// Gradients start at multiples of this number of elements, so that kernels read and write 16 bytes at once.
const ALIGNMENT: usize = 8;

/// Gradients that are reduced together, one after another in one tensor.
pub(super) struct Bucket {
    /// f32. Elements of unused parameters and between gradients are 0.
    pub data: Tensor,
    /// The same in the dtype of the communication, if it is another.
    pub compressed: Option<Tensor>,
    /// Index of each parameter and its first element.
    pub parameters: Vec<(usize, usize)>,
}

/// Buckets of parameters in the given order, with their numbers of elements. As in PyTorch, a bucket ends when it has reached its size.
pub(super) fn assign(order: &[usize], sizes: &[usize]) -> Vec<Vec<usize>> {
    let mut buckets: Vec<Vec<usize>> = vec![];
    let mut current = vec![];
    let mut bytes = 0;
    for parameter in order {
        current.push(*parameter);
        bytes += sizes[*parameter] * DType::F32.size();
        if bytes >= if buckets.is_empty() { FIRST_BYTES } else { BYTES } {
            buckets.push(std::mem::take(&mut current));
            bytes = 0;
        }
    }
    if !current.is_empty() {
        buckets.push(current);
    }
    buckets
}

impl Bucket {
    /// A bucket of zeros for these parameters.
    pub fn new(
        parameters: &[usize],
        sizes: &[usize],
        compression: Option<DType>,
        device: &Device,
    ) -> fornax_engine::Result<Bucket> {
        let mut length = 0;
        let offsets = parameters.iter().map(|parameter| {
            let offset = length;
            length += sizes[*parameter].next_multiple_of(ALIGNMENT);
            (*parameter, offset)
        });
        let parameters = offsets.collect();
        let zeros = |dtype: DType| Tensor::zeros([length], dtype, device);
        Ok(Bucket { data: zeros(DType::F32)?, compressed: compression.map(zeros).transpose()?, parameters })
    }

    /// The gradient of a parameter of this shape, as a view of the bucket.
    pub fn view(&self, offset: usize, like: &Tensor) -> fornax_engine::Result<Tensor> {
        self.data.narrow(0, offset, like.numel())?.reshape(*like.shape())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bucket_ends_at_1_mib_and_others_at_25_mib() {
        let mib = (1 << 20) / 4;
        let sizes = [mib / 2, mib / 2, 20 * mib, 5 * mib, 30 * mib, mib];
        let order = [0, 1, 2, 3, 4, 5];
        assert_eq!(assign(&order, &sizes), [vec![0, 1], vec![2, 3], vec![4], vec![5]]);
        assert_eq!(assign(&[5, 0], &sizes), [vec![5], vec![0]]);
        assert!(assign(&[], &sizes).is_empty());
    }
}
