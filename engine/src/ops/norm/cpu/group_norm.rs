//! Group normalisation of images: statistics over the pixels and the channels of a group, for each image.
use crate::cpu::elementary::Elementary;
use crate::cpu::parallel::{DisjointSlice, for_each_task};
use crate::cpu::vectorized::vectorized;

/// Group norm over images of `pixels` rows of `c` channels.
#[derive(Clone, Copy)]
pub struct GroupNorm {
    /// Pixels per image.
    pub pixels: usize,
    /// Channels.
    pub c: usize,
    /// Number of channel groups.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
}

impl GroupNorm {
    /// `y = (x - mean) * inv_std * weight + bias`. `stats` receives mean and inv_std of each image's groups, `[images, groups, 2]`.
    pub fn forward<T: Elementary>(&self, x: &[T], weight: &[T], bias: &[T], y: &mut [T], stats: &mut [f64]) {
        let (image, width) = (self.pixels * self.c, self.c / self.groups);
        let (y, stats) = (DisjointSlice::new(y), DisjointSlice::new(stats));
        for_each_task(x.len() / image, |i| {
            let x = &x[i * image..][..image];
            let zero = vec![T::zero(); self.c];
            let (mut sums, mut squares) = (vec![T::zero(); self.c], vec![T::zero(); self.c]);
            channel_sums(x, x, &zero, &mut sums, &mut squares);
            let mean: Vec<T> = sums.iter().map(|s| T::from_f64(s.to_f64() / self.pixels as f64)).collect();
            // Differences from each channel's mean: no cancellation for large means.
            centred_squares(x, &mean, &mut squares);
            // SAFETY: each image belongs to one task.
            let (y, stats) =
                unsafe { (y.slice(i * image, image), stats.slice(i * 2 * self.groups, 2 * self.groups)) };
            let (mut scale, mut shift) = (vec![T::zero(); self.c], vec![T::zero(); self.c]);
            for g in 0..self.groups {
                let channels = g * width..(g + 1) * width;
                let group_mean = channels.clone().map(|j| mean[j].to_f64()).sum::<f64>() / width as f64;
                let var = channels
                    .clone()
                    .map(|j| {
                        squares[j].to_f64() / self.pixels as f64 + (mean[j].to_f64() - group_mean).powi(2)
                    })
                    .sum::<f64>()
                    / width as f64;
                let inv = 1.0 / (var + self.eps).sqrt();
                (stats[2 * g], stats[2 * g + 1]) = (group_mean, inv);
                for j in channels {
                    scale[j] = T::from_f64(weight[j].to_f64() * inv);
                    shift[j] = T::from_f64(bias[j].to_f64() - group_mean * weight[j].to_f64() * inv);
                }
            }
            affine_rows(x, x, &scale, &zero, &shift, y);
        });
    }

    /// Gradient of the input, and each image's contribution to the gradients of weight and bias (`[images, 2, c]`).
    pub fn backward<T: Elementary>(
        &self,
        x: &[T],
        dy: &[T],
        weight: &[T],
        stats: &[f64],
        dx: &mut [T],
        contributions: &mut [f64],
    ) {
        let (image, width) = (self.pixels * self.c, self.c / self.groups);
        let count = (self.pixels * width) as f64;
        let (dx, contributions) = (DisjointSlice::new(dx), DisjointSlice::new(contributions));
        for_each_task(x.len() / image, |i| {
            let (x, dy) = (&x[i * image..][..image], &dy[i * image..][..image]);
            let stats = &stats[i * 2 * self.groups..][..2 * self.groups];
            let mean: Vec<T> = (0..self.c).map(|j| T::from_f64(stats[j / width * 2])).collect();
            let (mut sums, mut products) = (vec![T::zero(); self.c], vec![T::zero(); self.c]);
            channel_sums(dy, x, &mean, &mut sums, &mut products);
            // SAFETY: each image belongs to one task.
            let (dx, contributions) =
                unsafe { (dx.slice(i * image, image), contributions.slice(i * 2 * self.c, 2 * self.c)) };
            let [mut k1, mut k2, mut k3] = [(); 3].map(|()| vec![T::zero(); self.c]);
            for g in 0..self.groups {
                let channels = g * width..(g + 1) * width;
                let (group_mean, inv) = (stats[2 * g], stats[2 * g + 1]);
                let weighted =
                    |v: &[T]| channels.clone().map(|j| weight[j].to_f64() * v[j].to_f64()).sum::<f64>();
                let (a, b) = (weighted(&sums), weighted(&products));
                let k = -inv.powi(3) * b / count;
                for j in channels.clone() {
                    k1[j] = T::from_f64(inv * weight[j].to_f64());
                    k2[j] = T::from_f64(k);
                    k3[j] = T::from_f64(-inv * a / count - k * group_mean);
                    contributions[j] = products[j].to_f64() * inv;
                    contributions[self.c + j] = sums[j].to_f64();
                }
            }
            affine_rows(dy, x, &k1, &k2, &k3, dx);
        });
    }
}

vectorized! {
    /// Sums over rows of `a`, and of `a * (b - mean)`.
    fn channel_sums<T: Elementary>(a: &[T], b: &[T], mean: &[T], sums: &mut [T], products: &mut [T]) {
        let c = mean.len();
        let (sums, products) = (&mut sums[..c], &mut products[..c]);
        for (a, b) in a.chunks_exact(c).zip(b.chunks_exact(c)) {
            for j in 0..c {
                sums[j] += a[j];
                products[j] += a[j] * (b[j] - mean[j]);
            }
        }
    }
}

vectorized! {
    /// Sums over rows of the squared difference from `mean`.
    fn centred_squares<T: Elementary>(x: &[T], mean: &[T], squares: &mut [T]) {
        let c = mean.len();
        squares.fill(T::zero());
        let squares = &mut squares[..c];
        for x in x.chunks_exact(c) {
            for j in 0..c {
                squares[j] += (x[j] - mean[j]) * (x[j] - mean[j]);
            }
        }
    }
}

vectorized! {
    /// `y = k1 * a + k2 * b + k3` with per-channel coefficients.
    fn affine_rows<T: Elementary>(a: &[T], b: &[T], k1: &[T], k2: &[T], k3: &[T], y: &mut [T]) {
        let c = k1.len();
        let (k2, k3) = (&k2[..c], &k3[..c]);
        for ((a, b), y) in a.chunks_exact(c).zip(b.chunks_exact(c)).zip(y.chunks_exact_mut(c)) {
            for j in 0..c {
                y[j] = k1[j] * a[j] + k2[j] * b[j] + k3[j];
            }
        }
    }
}
