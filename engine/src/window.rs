//! Windows of a convolution or a pooling along one axis of an image.

/// Maximum height and width of an image with its padding: CUDA kernels take positions as 32-bit integers.
pub(crate) const MAX_SIDE: usize = i32::MAX as usize;

/// Steps that a window of `kernel` elements, `dilation` apart, can make from its first to its last position in `size` elements with
/// `padding` more on each side. `None` if it does not fit at all, or the padded size exceeds [`MAX_SIDE`].
pub(crate) fn free_steps(size: usize, kernel: usize, padding: usize, dilation: usize) -> Option<usize> {
    let padded = padding.checked_mul(2)?.checked_add(size).filter(|padded| *padded <= MAX_SIDE)?;
    let extent = kernel.checked_sub(1)?.checked_mul(dilation)?.checked_add(1)?;
    padded.checked_sub(extent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_that_do_not_fit_have_no_steps() {
        assert_eq!(free_steps(7, 3, 0, 1), Some(4));
        assert_eq!(free_steps(7, 3, 1, 2), Some(4));
        assert_eq!(free_steps(2, 3, 0, 1), None);
        assert_eq!(free_steps(7, 0, 0, 1), None);
        // Values that wrap.
        assert_eq!(free_steps(7, 3, 1 << 63, 1), None);
        assert_eq!(free_steps(7, 3, 0, (1 << 63) + 1), None);
        assert_eq!(free_steps(MAX_SIDE, 1, 0, usize::MAX), Some(MAX_SIDE - 1));
        assert_eq!(free_steps(MAX_SIDE, 1, 1, 1), None);
    }
}
