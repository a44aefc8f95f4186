//! Fetching the next band's source while the current band is computed: without it every band begins by waiting for
//! memory, which is a few per cent of a 3x3 convolution and half of a 1x1 with few channels.
use crate::cpu::simd::prefetch;

const LINE: usize = 64 / size_of::<f32>();

/// Sources that are larger than this are mostly in memory when they are needed, smaller ones in the last-level cache.
const FAR_BYTES: usize = 8 << 20;

/// Whether fetching ahead pays for a kernel that is bound by memory alone.
pub(super) fn is_far(source: &[f32]) -> bool {
    size_of_val(source) > FAR_BYTES
}

/// Memory that is brought into the cache in equal shares.
pub(super) struct Prefetch<'a> {
    regions: [&'a [f32]; 2],
    share: usize,
}

impl<'a> Prefetch<'a> {
    /// All of `regions`, one after the other, within `calls` calls of the methods below.
    pub(super) fn new(regions: [&'a [f32]; 2], calls: usize) -> Prefetch<'a> {
        let all: usize = regions.iter().map(|r| r.len()).sum();
        Prefetch { regions, share: all.div_ceil(calls.max(1)).next_multiple_of(LINE) }
    }

    /// Fetches the next share.
    #[inline]
    pub(super) fn advance(&mut self) {
        self.take(self.share).iter().step_by(LINE).for_each(|v| prefetch(v));
    }

    /// The next share as a walk of `pixels` steps, at most a cache line each: for a kernel that runs long enough for
    /// the fetches to be spread over it, because many at once would stall.
    #[inline]
    pub(super) fn walk(&mut self, pixels: usize) -> Ahead {
        let step = self.share.div_ceil(pixels.max(1)).min(LINE);
        let region = self.take(step * pixels);
        Ahead { ptr: region.as_ptr(), step: if region.is_empty() { 0 } else { step } }
    }

    fn take(&mut self, len: usize) -> &'a [f32] {
        let region = if self.regions[0].is_empty() { &mut self.regions[1] } else { &mut self.regions[0] };
        let (now, rest) = region.split_at(len.min(region.len()));
        *region = rest;
        now
    }
}

/// An address to fetch at each pixel, and how far it moves from pixel to pixel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead {
    pub(super) ptr: *const f32,
    pub(super) step: usize,
}
