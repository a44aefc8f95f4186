//! Caching allocator of device memory: blocks inside of large segments, with best fit, splitting and coalescing.
//!
//! The arena only keeps books on the host: it calls no driver, and the addresses are numbers. Sizes and size classes are those of PyTorch's
//! CUDA caching allocator. Requests of up to 1 MiB (small) come from segments of 2 MiB; larger ones from segments of 20 MiB or, from 10 MiB
//! on, from segments of their own size. A freed block joins its free neighbours and is reused at once, so all work on a pool must run in the
//! order of its allocations and frees.
use crate::host_memory::MemoryStats;
use std::collections::{BTreeMap, BTreeSet};

/// Granularity of blocks, and their alignment.
const BLOCK_ALIGN: usize = 512;
/// Largest request that comes from a segment of the small class.
const MAX_SMALL: usize = 1 << 20;
const SMALL_SEGMENT: usize = 2 << 20;
/// Segment for large requests below `MIN_OWN_SEGMENT`.
const SHARED_SEGMENT: usize = 20 << 20;
/// Smallest request that gets a segment of its own size.
const MIN_OWN_SEGMENT: usize = 10 << 20;
/// Granularity of segments of their own size.
const SEGMENT_ALIGN: usize = 2 << 20;

/// Device address.
pub(in crate::cuda) type Address = u64;

/// Free memory from which one sequence of work allocates: the general pool, or the private pool of a CUDA graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cuda) struct MemoryPoolId(u64);

/// Pool of eager work.
pub(in crate::cuda) const GENERAL_POOL: MemoryPoolId = MemoryPoolId(0);

/// Caching allocator of one device.
#[derive(Debug)]
pub(in crate::cuda) struct Arena {
    segments: BTreeMap<Address, Segment>,
    /// Blocks, which cover all segments without gaps.
    blocks: BTreeMap<Address, ArenaBlock>,
    /// Free blocks, ordered by pool, class, size and address: the first large enough one is the best fit.
    free: BTreeSet<FreeBlock>,
    stats: MemoryStats,
    last_pool: MemoryPoolId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SizeClass {
    Small,
    Large,
}

#[derive(Debug)]
struct Segment {
    bytes: usize,
    class: SizeClass,
    pool: MemoryPoolId,
}

#[derive(Clone, Copy, Debug)]
struct ArenaBlock {
    bytes: usize,
    segment: Address,
    free: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FreeBlock {
    pool: MemoryPoolId,
    class: SizeClass,
    bytes: usize,
    address: Address,
}

impl Arena {
    /// An arena without segments.
    pub(in crate::cuda) fn new() -> Arena {
        Arena {
            segments: BTreeMap::new(),
            blocks: BTreeMap::new(),
            free: BTreeSet::new(),
            stats: MemoryStats::default(),
            last_pool: GENERAL_POOL,
        }
    }

    /// Current statistics.
    pub(in crate::cuda) fn stats(&self) -> MemoryStats {
        self.stats
    }

    /// Size of a block for a request of `bytes`.
    pub(in crate::cuda) fn block_bytes(bytes: usize) -> usize {
        bytes.max(1).next_multiple_of(BLOCK_ALIGN)
    }

    /// Size of the segment to add when no free block fits a request of `bytes`.
    pub(in crate::cuda) fn segment_bytes(bytes: usize) -> usize {
        match Arena::block_bytes(bytes) {
            0..=MAX_SMALL => SMALL_SEGMENT,
            size if size < MIN_OWN_SEGMENT => SHARED_SEGMENT,
            size => size.next_multiple_of(SEGMENT_ALIGN),
        }
    }

    /// Allocates from the free blocks of a pool, else, for a private pool, from a segment of the general pool without allocated blocks,
    /// which then belongs to the private pool. Returns `None` if nothing fits.
    pub(in crate::cuda) fn allocate(&mut self, bytes: usize, pool: MemoryPoolId) -> Option<Address> {
        let bytes = Arena::block_bytes(bytes);
        let class = SizeClass::of(bytes);
        let best = self.fitting(pool, class, bytes).next().copied();
        let found = match best {
            Some(best) => best,
            None if pool == GENERAL_POOL => return None,
            None => self.take_over_segment(pool, class, bytes)?,
        };
        self.free.remove(&found);
        let block = self.blocks.get_mut(&found.address).expect("free blocks are blocks");
        block.free = false;
        let rest = block.bytes - bytes;
        if rest >= class.min_split() {
            block.bytes = bytes;
            let (segment, address) = (block.segment, found.address + bytes as u64);
            self.blocks.insert(address, ArenaBlock { bytes: rest, segment, free: true });
            self.free.insert(FreeBlock { bytes: rest, address, ..found });
        }
        self.stats.allocated += self.blocks[&found.address].bytes;
        self.stats.peak_allocated = self.stats.peak_allocated.max(self.stats.allocated);
        Some(found.address)
    }

    /// Frees an allocated block and joins it with its free neighbours.
    pub(in crate::cuda) fn free(&mut self, address: Address) {
        let mut block = self.blocks.remove(&address).expect("the address is that of a block");
        assert!(!block.free, "the block is allocated");
        self.stats.allocated -= block.bytes;
        let Segment { class, pool, .. } = self.segments[&block.segment];
        let joins = |other: &ArenaBlock| other.free && other.segment == block.segment;
        let mut start = address;
        if let Some((&next, &other)) = self.blocks.range(address..).next().filter(|(_, b)| joins(b)) {
            self.blocks.remove(&next);
            self.free.remove(&FreeBlock { pool, class, bytes: other.bytes, address: next });
            block.bytes += other.bytes;
        }
        if let Some((&previous, &other)) = self.blocks.range(..address).next_back().filter(|(_, b)| joins(b))
        {
            self.free.remove(&FreeBlock { pool, class, bytes: other.bytes, address: previous });
            (start, block.bytes) = (previous, block.bytes + other.bytes);
        }
        self.blocks.insert(start, ArenaBlock { free: true, ..block });
        self.free.insert(FreeBlock { pool, class, bytes: block.bytes, address: start });
    }

    /// Adds a segment of [`Arena::segment_bytes`] to a pool.
    pub(in crate::cuda) fn add_segment(&mut self, address: Address, bytes: usize, pool: MemoryPoolId) {
        let class = if bytes == SMALL_SEGMENT { SizeClass::Small } else { SizeClass::Large };
        self.segments.insert(address, Segment { bytes, class, pool });
        self.blocks.insert(address, ArenaBlock { bytes, segment: address, free: true });
        self.free.insert(FreeBlock { pool, class, bytes, address });
        self.stats.reserved += bytes;
        self.stats.segments += 1;
    }

    /// Removes the segments of the general pool without allocated blocks, and returns their addresses.
    pub(in crate::cuda) fn remove_free_segments(&mut self) -> Vec<Address> {
        let whole = |free: &&FreeBlock| free.pool == GENERAL_POOL && self.is_whole_segment(free);
        let removed: Vec<FreeBlock> = self.free.iter().filter(whole).copied().collect();
        for free in &removed {
            self.free.remove(free);
            self.blocks.remove(&free.address);
            self.segments.remove(&free.address);
            self.stats.reserved -= free.bytes;
            self.stats.segments -= 1;
        }
        removed.into_iter().map(|free| free.address).collect()
    }

    /// Adds a private pool without segments.
    pub(in crate::cuda) fn add_pool(&mut self) -> MemoryPoolId {
        self.last_pool.0 += 1;
        self.last_pool
    }

    /// Moves the segments of a private pool to the general pool. Allocated blocks stay allocated.
    pub(in crate::cuda) fn remove_pool(&mut self, pool: MemoryPoolId) {
        let free: Vec<FreeBlock> = self.free.iter().filter(|free| free.pool == pool).copied().collect();
        for free in free {
            self.free.remove(&free);
            self.free.insert(FreeBlock { pool: GENERAL_POOL, ..free });
        }
        for segment in self.segments.values_mut().filter(|segment| segment.pool == pool) {
            segment.pool = GENERAL_POOL;
        }
    }

    /// Pool of an allocated block.
    pub(in crate::cuda) fn pool_of(&self, address: Address) -> MemoryPoolId {
        self.segments[&self.blocks[&address].segment].pool
    }

    /// Free blocks of at least `bytes`, smallest first.
    fn fitting(
        &self,
        pool: MemoryPoolId,
        class: SizeClass,
        bytes: usize,
    ) -> impl Iterator<Item = &FreeBlock> {
        let from = |bytes, address| FreeBlock { pool, class, bytes, address };
        self.free.range(from(bytes, 0)..=from(usize::MAX, Address::MAX))
    }

    /// Moves the smallest fitting segment without allocated blocks from the general pool to a private one; returns its free block.
    fn take_over_segment(&mut self, pool: MemoryPoolId, class: SizeClass, bytes: usize) -> Option<FreeBlock> {
        let taken = *self.fitting(GENERAL_POOL, class, bytes).find(|free| self.is_whole_segment(free))?;
        self.free.remove(&taken);
        self.segments.get_mut(&taken.address).expect("it is a segment").pool = pool;
        let taken = FreeBlock { pool, ..taken };
        self.free.insert(taken);
        Some(taken)
    }

    fn is_whole_segment(&self, free: &FreeBlock) -> bool {
        self.segments.get(&free.address).is_some_and(|segment| segment.bytes == free.bytes)
    }
}

impl SizeClass {
    fn of(bytes: usize) -> SizeClass {
        if bytes <= MAX_SMALL { SizeClass::Small } else { SizeClass::Large }
    }

    /// Smallest remainder that is split off as a free block.
    fn min_split(self) -> usize {
        match self {
            SizeClass::Small => BLOCK_ALIGN,
            SizeClass::Large => MAX_SMALL + BLOCK_ALIGN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: usize = 1 << 20;

    /// Arena over segments at made-up addresses.
    struct TestArena {
        arena: Arena,
        next_segment: Address,
    }

    impl TestArena {
        fn new() -> TestArena {
            TestArena { arena: Arena::new(), next_segment: 0x7000_0000_0000 }
        }

        fn allocate_in(&mut self, bytes: usize, pool: MemoryPoolId) -> Address {
            if let Some(address) = self.arena.allocate(bytes, pool) {
                return address;
            }
            // Some segments follow each other without a gap, as they can on a device.
            let segment = Arena::segment_bytes(bytes);
            self.arena.add_segment(self.next_segment, segment, pool);
            self.next_segment += segment as u64 + (segment % (3 * MIB)) as u64;
            self.arena.allocate(bytes, pool).expect("the new segment fits")
        }

        fn allocate(&mut self, bytes: usize) -> Address {
            self.allocate_in(bytes, GENERAL_POOL)
        }

        /// Asserts that blocks cover the segments, that no two neighbours are free, and that the list of free blocks and the statistics agree.
        fn assert_consistent(&self) {
            let arena = &self.arena;
            let mut free = BTreeSet::new();
            let (mut allocated, mut covered) = (0, 0);
            for (&start, segment) in &arena.segments {
                let end = start + segment.bytes as u64;
                let (mut at, mut after_free) = (start, false);
                for (&address, block) in arena.blocks.range(start..end) {
                    assert_eq!((address, block.segment), (at, start), "blocks have no gaps");
                    assert!(!(after_free && block.free), "free neighbours are joined");
                    assert_eq!(address % BLOCK_ALIGN as u64, 0);
                    after_free = block.free;
                    at += block.bytes as u64;
                    covered += 1;
                    if block.free {
                        let (pool, class, bytes) = (segment.pool, segment.class, block.bytes);
                        free.insert(FreeBlock { pool, class, bytes, address });
                    } else {
                        allocated += block.bytes;
                    }
                }
                assert_eq!(at, end, "blocks cover the segment");
            }
            assert_eq!(covered, arena.blocks.len());
            assert_eq!(free, arena.free);
            let reserved = arena.segments.values().map(|segment| segment.bytes).sum::<usize>();
            let stats = arena.stats();
            assert_eq!((stats.allocated, stats.reserved), (allocated, reserved));
            assert_eq!(stats.segments, arena.segments.len());
        }
    }

    #[test]
    fn sizes_are_pytorchs() {
        assert_eq!([0, 1, 512, 513].map(Arena::block_bytes), [512, 512, 512, 1024]);
        let sizes = [1, MIB, MIB + 1, 10 * MIB - 512, 10 * MIB, 21 * MIB];
        let segments = [2 * MIB, 2 * MIB, 20 * MIB, 20 * MIB, 10 * MIB, 22 * MIB];
        assert_eq!(sizes.map(Arena::segment_bytes), segments);
    }

    #[test]
    fn smallest_fitting_block_is_reused() {
        let mut arena = TestArena::new();
        let sizes = [4096, 512, 1024, 512, 2048, 512];
        let blocks = sizes.map(|bytes| arena.allocate(bytes));
        for i in [0, 2, 4] {
            arena.arena.free(blocks[i]);
        }
        assert_eq!(arena.allocate(1500), blocks[4], "the block of 2,048 bytes");
        assert_eq!(arena.allocate(700), blocks[2], "the block of 1,024 bytes");
        assert_eq!(arena.allocate(700), blocks[0], "the block of 4,096 bytes");
        assert_eq!(arena.allocate(3000), blocks[0] + 1024, "its rest");
        assert_eq!(arena.arena.stats().segments, 1);
        arena.assert_consistent();
    }

    #[test]
    fn small_and_large_blocks_have_separate_segments() {
        let mut arena = TestArena::new();
        let large = arena.allocate(3 * MIB);
        let small = arena.allocate(1000);
        assert_eq!(arena.arena.stats().reserved, 22 * MIB);
        arena.arena.free(large);
        arena.arena.free(small);
        assert_eq!(arena.allocate(1000), small);
        assert_eq!(arena.allocate(19 * MIB + 512), large, "a remainder below 1 MiB is not split off");
        assert_eq!(arena.arena.stats().allocated, 1024 + 20 * MIB);
        assert_eq!(arena.arena.remove_free_segments(), []);
        arena.assert_consistent();
    }

    #[test]
    fn private_pool_takes_over_free_segments_only() {
        let mut arena = TestArena::new();
        let (kept, warm) = (arena.allocate(12 * MIB), arena.allocate(14 * MIB));
        arena.arena.free(warm);
        let pool = arena.arena.add_pool();
        assert_eq!(arena.allocate_in(13 * MIB, pool), warm);
        assert_eq!(arena.arena.pool_of(warm), pool);
        let private = arena.allocate_in(12 * MIB, pool);
        assert_ne!(private, kept);
        arena.arena.free(warm);
        assert_ne!(arena.allocate(12 * MIB), warm, "eager work does not use the private pool");
        assert_eq!(arena.allocate_in(14 * MIB, pool), warm);
        arena.arena.free(warm);
        arena.assert_consistent();

        arena.arena.remove_pool(pool);
        assert_eq!(arena.arena.pool_of(private), GENERAL_POOL);
        assert_eq!(arena.allocate(14 * MIB), warm);
        arena.arena.free(private);
        assert_eq!(arena.arena.remove_free_segments(), [private]);
        arena.assert_consistent();
    }

    #[derive(Clone, Debug)]
    enum Step {
        Allocate {
            bytes: usize,
            private: bool,
        },
        /// Position among the allocated blocks, modulo their number.
        Free(usize),
        RemoveFreeSegments,
        RenewPool,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let bytes = prop_oneof![0..5000usize, 0..3 * MIB, 0..40 * MIB];
        let allocate = (bytes, any::<bool>()).prop_map(|(bytes, private)| Step::Allocate { bytes, private });
        let step = prop_oneof![
            8 => allocate,
            7 => any::<usize>().prop_map(Step::Free),
            1 => Just(Step::RemoveFreeSegments),
            1 => Just(Step::RenewPool),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn blocks_never_overlap_and_segments_become_whole_again(steps in steps()) {
            let mut arena = TestArena::new();
            let mut pool = arena.arena.add_pool();
            let mut live: Vec<(Address, usize)> = vec![];
            for step in steps {
                match step {
                    Step::Allocate { bytes, private } => {
                        let pool = if private { pool } else { GENERAL_POOL };
                        let size = Arena::block_bytes(bytes);
                        let smallest = arena.arena.fitting(pool, SizeClass::of(size), size).map(|free| free.bytes).min();
                        let free: Vec<FreeBlock> = arena.arena.free.iter().copied().collect();
                        let address = arena.allocate_in(bytes, pool);
                        prop_assert_eq!(arena.arena.pool_of(address), pool);
                        let end = address + bytes.max(1) as u64;
                        for &(other, size) in &live {
                            prop_assert!(end <= other || other + size.max(1) as u64 <= address, "blocks overlap");
                        }
                        if let Some(smallest) = smallest {
                            let used = free.iter().find(|free| free.address == address).map(|free| free.bytes);
                            prop_assert_eq!(used, Some(smallest), "not the best fit");
                        }
                        live.push((address, bytes));
                    }
                    Step::Free(_) if live.is_empty() => {}
                    Step::Free(position) => {
                        let (address, _) = live.swap_remove(position % live.len());
                        arena.arena.free(address);
                    }
                    Step::RemoveFreeSegments => {
                        for segment in arena.arena.remove_free_segments() {
                            prop_assert!(live.iter().all(|(address, _)| *address != segment));
                        }
                    }
                    Step::RenewPool => {
                        arena.arena.remove_pool(pool);
                        pool = arena.arena.add_pool();
                    }
                }
                arena.assert_consistent();
            }
            arena.arena.remove_pool(pool);
            live.into_iter().for_each(|(address, _)| arena.arena.free(address));
            arena.arena.remove_free_segments();
            arena.assert_consistent();
            let MemoryStats { allocated, reserved, segments, .. } = arena.arena.stats();
            prop_assert_eq!((allocated, reserved, segments), (0, 0, 0));
        }
    }
}
