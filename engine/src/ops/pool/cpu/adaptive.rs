//! Adaptive max pooling of channels-last images, including the global maximum.
use super::window_max::WindowRow;
use crate::cpu::elementary::Elementary;
use crate::cpu::parallel::{DisjointSlice, for_each_task};
use crate::cpu::scratch;
use crate::cpu::vectorized::vectorized;
use crate::ops::pool::AdaptivePool;
use crate::resampling::adaptive_window;

impl AdaptivePool {
    /// Maximum of each window, and its pixel index within the image. The first of equal elements is chosen; NaN counts as the
    /// largest. Images must have fewer than 2^24 pixels, so that f32 represents every index.
    pub fn max_forward<T: Elementary>(&self, x: &[T], y: &mut [T], pixel: &mut [u32]) {
        let ([h, w], [oh, ow], c) = (self.size, self.out, self.c);
        let (image, row) = (h * w * c, ow * c);
        let (y, pixel) = (DisjointSlice::new(y), DisjointSlice::new(pixel));
        let columns: Vec<Vec<(usize, usize)>> =
            (0..ow).map(|ox| adaptive_window(w, ow, ox).map(|ix| (ix, ix)).collect()).collect();
        for_each_task(self.n * oh, |task| {
            let (n, oy) = (task / oh, task % oh);
            let rows: Vec<(usize, usize)> = adaptive_window(h, oh, oy).map(|iy| (iy * w, iy)).collect();
            // SAFETY: each output row belongs to one task.
            let (y, pixel) = unsafe { (y.slice(task * row, row), pixel.slice(task * row, row)) };
            scratch::with(row, |number: &mut [T]| {
                let windows = WindowRow { width: w, c, rows: &rows, columns: &columns };
                windows.maxima(&x[n * image..][..image], y, number);
                pixel.iter_mut().zip(number).for_each(|(pixel, n)| *pixel = n.to_f64() as u32);
            });
        });
    }

    /// Adds each window's gradient to the pixel that was its maximum.
    pub fn max_backward<T: Elementary>(&self, dy: &[T], pixel: &[u32], dx: &mut [T]) {
        let (image, out, c) =
            (self.size[0] * self.size[1] * self.c, self.out[0] * self.out[1] * self.c, self.c);
        let dx = DisjointSlice::new(dx);
        for_each_task(self.n, |n| {
            // SAFETY: each image belongs to one task.
            let dx = unsafe { dx.slice(n * image, image) };
            dx.fill(T::zero());
            for (k, (dy, pixel)) in dy[n * out..][..out].iter().zip(&pixel[n * out..]).enumerate() {
                dx[*pixel as usize * c + k % c] += *dy;
            }
        });
    }
}

impl AdaptivePool {
    /// For each window the pixel that was its maximum.
    pub fn pick_maxima<T: Elementary>(&self, x: &[T], pixel: &[u32], y: &mut [T]) {
        let (image, out, c) =
            (self.size[0] * self.size[1] * self.c, self.out[0] * self.out[1] * self.c, self.c);
        let y = DisjointSlice::new(y);
        for_each_task(self.n, |n| {
            // SAFETY: each image belongs to one task.
            let y = unsafe { y.slice(n * out, out) };
            for (k, (y, pixel)) in y.iter_mut().zip(&pixel[n * out..]).enumerate() {
                *y = x[n * image + *pixel as usize * c + k % c];
            }
        });
    }
}

/// Gradient of each image's maximum `y` `[n, c]`, distributed evenly over the pixels that equal it, as `torch.amax` does.
pub fn amax_backward<T: Elementary>(x: &[T], y: &[T], dy: &[T], c: usize, dx: &mut [T]) {
    let images = y.len() / c;
    let image = x.len() / images.max(1);
    let dx = DisjointSlice::new(dx);
    for_each_task(images, |n| {
        // SAFETY: each image belongs to one task.
        let dx = unsafe { dx.slice(n * image, image) };
        let mut fraction = vec![T::zero(); c];
        amax_backward_image(&x[n * image..][..image], &y[n * c..][..c], &dy[n * c..][..c], &mut fraction, dx);
    });
}

vectorized! {
    fn amax_backward_image<T: Elementary>(x: &[T], y: &[T], dy: &[T], fraction: &mut [T], dx: &mut [T]) {
        let c = y.len();
        for x in x.chunks_exact(c) {
            for j in 0..c {
                fraction[j] += if x[j] == y[j] { T::one() } else { T::zero() };
            }
        }
        for j in 0..c {
            fraction[j] = dy[j] / fraction[j];
        }
        for (x, dx) in x.chunks_exact(c).zip(dx.chunks_exact_mut(c)) {
            for j in 0..c {
                dx[j] = if x[j] == y[j] { fraction[j] } else { T::zero() };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_wins_and_first_of_equal_maxima_is_chosen() {
        let pool = AdaptivePool { n: 1, size: [2, 2], out: [1, 1], c: 3 };
        let nan = f32::NAN;
        let x = [1.0, 5.0, -1.0, 2.0, nan, -1.0, 2.0, 7.0, -1.0, 0.0, nan, -1.0];
        let (mut y, mut pixel) = ([0.0; 3], [9; 3]);
        pool.max_forward(&x, &mut y, &mut pixel);
        assert!(y[0] == 2.0 && y[1].is_nan() && y[2] == -1.0, "{y:?}");
        assert_eq!(pixel, [1, 3, 0], "of several NaN the last, as in PyTorch");
        let mut dx = [9.0f32; 12];
        pool.max_backward(&[1.0, 2.0, 3.0], &pixel, &mut dx);
        assert_eq!(dx, [0.0, 0.0, 3.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0]);
    }

    #[test]
    fn gradient_is_split_evenly_between_equal_maxima() {
        let mut dx = [9.0f64; 4];
        amax_backward(&[3.0, 1.0, 3.0, 3.0], &[3.0], &[6.0], 1, &mut dx);
        assert_eq!(dx, [2.0, 0.0, 2.0, 2.0]);
    }
}
