//! Prefetching the next band's source while the current band is computed. Without it every band begins by waiting for memory: a few
//! per cent of the time of a 3x3 convolution, half of that of a 1x1 convolution with few channels.
use crate::cpu::simd::prefetch;

const LINE: usize = 64 / size_of::<f32>();

/// Sources beyond this size are mostly in memory when they are needed, smaller ones in the last-level cache.
const CACHE_BYTES: usize = 8 << 20;

/// True if prefetching pays for a memory-bound kernel.
pub(super) fn exceeds_cache(source: &[f32]) -> bool {
    size_of_val(source) > CACHE_BYTES
}

/// Memory regions to prefetch in equal parts.
pub(super) struct Prefetch<'a> {
    regions: [&'a [f32]; 2],
    part_len: usize,
}

impl<'a> Prefetch<'a> {
    /// Prefetches `regions`, one after the other, within `calls` calls of the methods below.
    pub(super) fn new(regions: [&'a [f32]; 2], calls: usize) -> Prefetch<'a> {
        let all: usize = regions.iter().map(|r| r.len()).sum();
        Prefetch { regions, part_len: all.div_ceil(calls.max(1)).next_multiple_of(LINE) }
    }

    /// Prefetches the next part.
    #[inline]
    pub(super) fn advance(&mut self) {
        self.take(self.part_len).iter().step_by(LINE).for_each(|v| prefetch(v));
    }

    /// Cursor over the next part in `steps` steps of at most a cache line, for long-running kernels: many prefetches at once would stall.
    #[inline]
    pub(super) fn cursor(&mut self, steps: usize) -> PrefetchCursor {
        let step = self.part_len.div_ceil(steps.max(1)).min(LINE);
        let region = self.take(step * steps);
        PrefetchCursor { ptr: region.as_ptr(), step: if region.is_empty() { 0 } else { step } }
    }

    fn take(&mut self, len: usize) -> &'a [f32] {
        let region = if self.regions[0].is_empty() { &mut self.regions[1] } else { &mut self.regions[0] };
        let (now, rest) = region.split_at(len.min(region.len()));
        *region = rest;
        now
    }
}

/// Address to prefetch, and its increment per step of a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct PrefetchCursor {
    pub(super) ptr: *const f32,
    pub(super) step: usize,
}

impl PrefetchCursor {
    /// Cursor that prefetches nothing but an address in cache.
    pub(super) fn none(cached: *const f32) -> PrefetchCursor {
        PrefetchCursor { ptr: cached, step: 0 }
    }
}
