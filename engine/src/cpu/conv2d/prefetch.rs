//! Fetching the next band's source while the current band is computed: without it every band begins by waiting for
//! memory, which is a few per cent of a 3x3 convolution and half of a 1x1 with few channels.
use crate::cpu::simd::prefetch;

const LINE: usize = 64 / size_of::<f32>();

/// A stretch of memory that is brought into the cache in equal shares.
pub(super) struct Prefetch<'a> {
    rest: &'a [f32],
    share: usize,
}

impl<'a> Prefetch<'a> {
    /// All of `region` within `calls` calls of [`Prefetch::advance`].
    pub(super) fn new(region: &'a [f32], calls: usize) -> Prefetch<'a> {
        Prefetch { rest: region, share: region.len().div_ceil(calls.max(1)).next_multiple_of(LINE) }
    }

    /// The next share.
    #[inline]
    pub(super) fn advance(&mut self) {
        let (now, rest) = self.rest.split_at(self.share.min(self.rest.len()));
        now.iter().step_by(LINE).for_each(|v| prefetch(v));
        self.rest = rest;
    }
}
