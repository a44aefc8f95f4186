//! Batch preparation of u8 or f32 images in one pass: mixup or cutmix with a partner image, normalisation, random erasing.
use super::{CHANGE_HEADER_LEN, EraseMode, ImagePreparation};
use crate::Element;
use crate::cpu::parallel::{DisjointSlice, for_each_task};

/// Prepares the first n of the images `[h, w, c]`, each according to its row of `changes`. The `prepare` CUDA kernel does the same.
pub(super) fn forward<S: Element + Into<f32>, T: Element>(
    x: &[S],
    changes: &[i64],
    [n, h, w, c]: [usize; 4],
    options: &ImagePreparation,
    y: &mut [T],
) {
    let size = h * w * c;
    let out = DisjointSlice::new(y);
    for_each_task(n, |i| {
        let change = &changes[i * (changes.len() / n)..][..changes.len() / n];
        let image = &x[i * size..][..size];
        let partner = &x[change[0] as usize * size..][..size];
        // SAFETY: each image belongs to one task.
        let y = unsafe { out.slice(i * size, size) };
        prepare_image(image, partner, change, [w, c], options, y);
    });
}

fn prepare_image<S: Element + Into<f32>, T: Element>(
    image: &[S],
    partner: &[S],
    change: &[i64],
    [w, c]: [usize; 2],
    options: &ImagePreparation,
    y: &mut [T],
) {
    let lam = f32::from_bits(change[1] as u32);
    let rng = options.rng.for_sample(change[6] as u64);
    let inside = |at: &[i64], row: usize, column: usize| {
        (at[0]..at[1]).contains(&(row as i64)) && (at[2]..at[3]).contains(&(column as i64))
    };
    for (i, y) in y.iter_mut().enumerate() {
        let (channel, column, row) = (i % c, i / c % w, i / c / w);
        let [mut value, other] = [image[i], partner[i]].map(Into::into);
        if inside(&change[2..6], row, column) {
            value = other;
        }
        if lam != 1.0 {
            value = lam * value + (1.0 - lam) * other;
        }
        if options.rounded {
            value = value.round_ties_even();
        }
        value = (value / f32::from(options.white) - options.mean[channel]) / options.std[channel];
        for (b, erased) in change[CHANGE_HEADER_LEN..].chunks_exact(4).enumerate() {
            if inside(erased, row, column) {
                let index = |i: usize| 2 * (b * image.len() + i) as u64;
                value = match options.erase_mode {
                    EraseMode::Const => 0.0,
                    EraseMode::Rand => rng.at(index(channel)).normal(),
                    EraseMode::Pixel => rng.at(index(i)).normal(),
                };
            }
        }
        *y = T::from_f64(f64::from(value));
    }
}
