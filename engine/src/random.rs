//! Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//!
//! A random number is a pure function of (seed, purpose, epoch, sample, index), never of a thread, a worker or a rank.

/// Ten rounds of Philox4x32: four random words for a counter and a key.
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    const M0: u64 = 0xD251_1F53;
    const M1: u64 = 0xCD9E_8D57;
    const W0: u32 = 0x9E37_79B9;
    const W1: u32 = 0xBB67_AE85;
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let (p0, p1) = (M0 * u64::from(c0), M1 * u64::from(c2));
        (c0, c1, c2, c3) = ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        k0 = k0.wrapping_add(W0);
        k1 = k1.wrapping_add(W1);
    }
    [c0, c1, c2, c3]
}

/// Key of a random number generator: a seed and a purpose ("shuffle", "init/conv1.weight").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RngKey([u32; 2]);

impl RngKey {
    /// The key of a purpose under a seed. The purpose is hashed (FNV-1a, 64 bits) and mixed with the seed by Philox.
    pub fn new(seed: u64, purpose: &str) -> RngKey {
        let hash = purpose
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let [a, b, ..] =
            philox4x32_10([hash as u32, (hash >> 32) as u32, 0, 0], [seed as u32, (seed >> 32) as u32]);
        RngKey([a, b])
    }

    /// The four words of one counter under this key.
    pub fn words(&self, counter: [u32; 4]) -> [u32; 4] {
        philox4x32_10(counter, self.0)
    }
}

/// Random number generator of one (epoch, sample). At most 2^32 blocks of four words.
#[derive(Clone, Debug)]
pub struct RngStream {
    key: RngKey,
    counter: [u32; 4],
    words: [u32; 4],
    used: usize,
}

impl RngStream {
    /// The generator of one sample in one epoch.
    pub fn new(key: RngKey, epoch: u32, sample: u64) -> RngStream {
        RngStream { key, counter: [0, epoch, sample as u32, (sample >> 32) as u32], words: [0; 4], used: 4 }
    }

    /// The two words of the key and the last three of the counter, whose first word numbers blocks of four words. For kernels that
    /// generate the same numbers. Independent of the position in the stream.
    pub(crate) fn key_and_counter(&self) -> [u32; 5] {
        let ([k0, k1], [_, c1, c2, c3]) = (self.key.0, self.counter);
        [k0, k1, c1, c2, c3]
    }

    /// The generator of another sample, with the same key and epoch.
    pub(crate) fn for_sample(&self, sample: u64) -> RngStream {
        RngStream::new(self.key, self.counter[1], sample)
    }

    /// The generator of the sample `steps` further on.
    pub fn skip_samples(&self, steps: u64) -> RngStream {
        let [_, epoch, low, high] = self.counter;
        let sample = (u64::from(high) << 32 | u64::from(low)).wrapping_add(steps);
        RngStream::new(self.key, epoch, sample)
    }

    /// The same generator positioned at word `index`.
    pub fn at(&self, index: u64) -> RngStream {
        let mut stream = self.clone();
        (stream.counter[0], stream.used) = ((index / 4) as u32, 4);
        for _ in 0..index % 4 {
            stream.next_u32();
        }
        stream
    }

    /// Next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.words = self.key.words(self.counter);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// Uniform in [0, 1), a multiple of 2^-24.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / (1 << 24) as f32)
    }

    /// A uniform integer in `0..n`, the high word of a product: the bias is below n / 2^32.
    pub fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.next_u32()) * u64::from(n)) >> 32) as u32
    }

    /// Standard normal, by the Box-Muller transform; uses two words.
    pub fn normal(&mut self) -> f32 {
        // (0, 1], so that the logarithm is finite.
        let u = (f64::from(self.next_u32()) + 1.0) * (1.0 / 4_294_967_296.0);
        let v = f64::from(self.next_u32()) * (1.0 / 4_294_967_296.0);
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }
}

/// A keyed permutation of `0..n`, evaluated at any position in O(1) without a table, for shuffling.
///
/// A Feistel network over the next even number of bits, applied until the result is below `n` (cycle walking).
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    n: u64,
    half_bits: u32,
    key: RngKey,
    epoch: u32,
}

impl Permutation {
    /// The permutation of `0..n` for one epoch.
    pub fn new(n: u64, key: RngKey, epoch: u32) -> Permutation {
        let bits = 64 - n.saturating_sub(1).leading_zeros();
        Permutation { n, half_bits: bits.div_ceil(2).max(1), key, epoch }
    }

    /// The element at position `i`.
    ///
    /// # Panics
    /// When `i >= n`.
    pub fn get(&self, i: u64) -> u64 {
        assert!(i < self.n, "position {i} of a permutation of {}", self.n);
        let mut x = i;
        loop {
            x = self.encrypt(x);
            if x < self.n {
                return x;
            }
        }
    }

    fn encrypt(&self, x: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for round in 0..6 {
            let [word, ..] = self.key.words([right as u32, (right >> 32) as u32, round, self.epoch]);
            (left, right) = (right, left ^ (u64::from(word) & mask));
        }
        (left << self.half_bits) | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_matches_the_test_vectors_of_random123() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32_10([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn permutation_is_a_bijection_that_depends_on_key_and_epoch() {
        for n in [1u64, 2, 3, 10, 359, 1000] {
            let p = Permutation::new(n, RngKey::new(42, "shuffle"), 0);
            let mut seen: Vec<u64> = (0..n).map(|i| p.get(i)).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..n).collect::<Vec<_>>());
        }
        let order = |seed, epoch| {
            let p = Permutation::new(1000, RngKey::new(seed, "shuffle"), epoch);
            (0..1000).map(|i| p.get(i)).collect::<Vec<_>>()
        };
        assert_ne!(order(42, 0), order(42, 1));
        assert_ne!(order(42, 0), order(43, 0));
        assert_eq!(order(42, 3), order(42, 3));
    }

    #[test]
    fn stream_can_be_positioned_at_any_word() {
        let whole = RngStream::new(RngKey::new(7, "anywhere"), 2, 5);
        let words: Vec<u32> = std::iter::repeat_with({
            let mut s = whole.clone();
            move || s.next_u32()
        })
        .take(20)
        .collect();
        for (i, word) in words.iter().enumerate() {
            assert_eq!(whole.at(i as u64).next_u32(), *word);
        }
    }

    #[test]
    fn samples_have_the_moments_of_their_distributions() {
        let mut s = RngStream::new(RngKey::new(7, "moments"), 0, 0);
        let n = 100_000;
        let u: Vec<f64> = (0..n).map(|_| f64::from(s.uniform())).collect();
        let z: Vec<f64> = (0..n).map(|_| f64::from(s.normal())).collect();
        let mean = |v: &[f64]| v.iter().sum::<f64>() / n as f64;
        let var = |v: &[f64]| {
            let mean = mean(v);
            v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64
        };
        assert!((mean(&u) - 0.5).abs() < 0.005 && (var(&u) - 1.0 / 12.0).abs() < 0.002);
        assert!(mean(&z).abs() < 0.015 && (var(&z) - 1.0).abs() < 0.02);
        assert!(u.iter().all(|x| (0.0..1.0).contains(x)));
        let mut below = [0u32; 5];
        (0..5000).for_each(|_| below[s.below(5) as usize] += 1);
        assert!(below.iter().all(|c| (850..1150).contains(c)), "{below:?}");
    }
}
