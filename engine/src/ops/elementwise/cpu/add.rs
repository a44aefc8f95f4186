//! In-place addition, for accumulating gradients.
use crate::cpu::parallel::for_each_piece;
use crate::cpu::stored::Stored;
use crate::cpu::vectorized::vectorized;
use crate::dtype::Real;

/// Elements that are widened at a time, if they are f16 or bf16.
const BLOCK: usize = 4096;

/// `a += b`.
pub fn add_assign<T: Stored>(a: &mut [T], b: &[T]) {
    for_each_piece(a, |start, a| {
        let blocks = b[start..start + a.len()].chunks(BLOCK);
        for (a, b) in a.chunks_mut(BLOCK).zip(blocks) {
            T::load(b, |b| T::update(a, |a| add_chunk(a, b)));
        }
    });
}

vectorized! {
    fn add_chunk<T: Real>(a: &mut [T], b: &[T]) {
        for (a, b) in a.iter_mut().zip(b) {
            *a += *b;
        }
    }
}
