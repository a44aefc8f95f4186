//! Huffman code of the AC coefficients of whole blocks, decoded several symbols at a time (F.2.2.2 of ITU-T T.81).
use super::header::ZIGZAG;
use super::huffman::{AcSymbol, BitReader, HuffmanTable, ZEROS};
use fornax_engine::cpu::image::inverse_dct::{BlockCoefficients, LANES};
use std::cell::RefCell;
use std::rc::Rc;

/// Bits that index the table of pairs.
const PAIR_BITS: u32 = 11;
/// Bits that index the table of runs.
const RUN_BITS: u32 = 12;
/// Codes that a thread keeps. Most files have the same two.
const CACHED_CODES: usize = 8;

/// Position of a coefficient in the first of interleaved blocks, by its zigzag index plus one.
static POSITIONS: [u16; 64] = {
    let mut positions = [0; 64];
    let mut i = 1;
    while i < 64 {
        positions[i] = ZIGZAG[i - 1] as u16 * LANES as u16;
        i += 1;
    }
    positions
};

/// Huffman code of AC coefficients with the tables that decode several symbols per look-up.
pub struct AcCode {
    table: HuffmanTable,
    /// For each value of the next bits.
    pairs: Box<[SymbolPair; 1 << PAIR_BITS]>,
    /// For each value of the next bits.
    runs: Box<[SymbolRun; 1 << RUN_BITS]>,
}

/// The next one or two symbols that have a value, packed into a word so that one load gets them. From the low bits:
///
/// | bits | field |
/// |--:|---|
/// | 5 | bits of all codes and values |
/// | 5 | bits before the last symbol's value |
/// | 5 | distance of the first coefficient from the one before it |
/// | 7 | distance of the last coefficient from the one before the first |
/// | 10 | value of the first coefficient, signed |
///
/// One symbol has both distances equal: its value is then stored over the first value. The value of the last symbol may be longer than
/// the index, so it is read from the bits.
#[derive(Clone, Copy)]
struct SymbolPair(u32);

impl SymbolPair {
    /// No pair: past the end of every block.
    const NONE: SymbolPair = SymbolPair(127 << 15);

    fn one(symbol: ValueSymbol) -> SymbolPair {
        let ValueSymbol { code_bits, value_bits, distance } = symbol;
        SymbolPair(distance << 15 | distance << 10 | code_bits << 5 | (code_bits + value_bits))
    }

    fn two(first: ValueSymbol, value: i32, last: ValueSymbol) -> SymbolPair {
        let before = first.bits() + last.code_bits;
        let distances = (first.distance + last.distance) << 15 | first.distance << 10;
        SymbolPair((value as u32) << 22 | distances | before << 5 | (before + last.value_bits))
    }

    #[inline(always)]
    fn bits(self) -> u32 {
        self.0 & 31
    }

    #[inline(always)]
    fn bits_before_last_value(self) -> u32 {
        self.0 >> 5 & 31
    }

    #[inline(always)]
    fn first_distance(self) -> usize {
        (self.0 >> 10 & 31) as usize
    }

    #[inline(always)]
    fn last_distance(self) -> usize {
        (self.0 >> 15 & 127) as usize
    }

    #[inline(always)]
    fn first_value(self) -> i16 {
        (self.0 as i32 >> 22) as i16
    }

    /// Value of the last symbol (F.2.2.1); `bits` begin with the pair.
    #[inline(always)]
    fn last_value(self, bits: u64) -> i16 {
        let value = bits << self.bits_before_last_value();
        let value_bits = self.bits() - self.bits_before_last_value();
        // All ones for a negative value, which lacks the highest bit.
        let sign = !(value as i64 >> 63);
        let magnitude = ((value ^ sign as u64) >> (64 - value_bits)) as i32;
        ((magnitude ^ sign as i32) - sign as i32) as i16
    }
}

/// Symbol with a value, whose code is within an index.
#[derive(Clone, Copy)]
struct ValueSymbol {
    code_bits: u32,
    value_bits: u32,
    /// Distance of the coefficient from the one before it: zeros plus one.
    distance: u32,
}

impl ValueSymbol {
    /// The symbol at the start of an index of which `valid` bits are known.
    fn at(table: &HuffmanTable, index: usize, valid: u32) -> Option<ValueSymbol> {
        let [code_bits, byte] = table.code_at((index as u32) << (16 - PAIR_BITS))?;
        let symbol = ValueSymbol { code_bits, value_bits: byte & 15, distance: (byte >> 4) + 1 };
        (symbol.value_bits > 0 && code_bits <= valid).then_some(symbol)
    }

    fn bits(self) -> u32 {
        self.code_bits + self.value_bits
    }
}

/// Symbols that are skipped together.
#[derive(Clone, Copy, Default)]
struct SymbolRun {
    /// Bits of all codes and values, plus [`SymbolRun::END`] if the last symbol ends the block.
    bits: u8,
    /// Coefficients, zeros included.
    coefficients: u8,
}

impl SymbolRun {
    const END: u8 = 64;
    /// No whole symbol: past the end of every block.
    const NONE: SymbolRun = SymbolRun { bits: 0, coefficients: 255 };
}

impl AcCode {
    /// The code of a table. The thread keeps the latest codes.
    pub fn cached(table: &HuffmanTable) -> Rc<AcCode> {
        thread_local! {
            static CODES: RefCell<Vec<Rc<AcCode>>> = const { RefCell::new(vec![]) };
        }
        CODES.with_borrow_mut(|codes| {
            if let Some(found) = codes.iter().find(|code| code.table.has_codes_of(table)) {
                return found.clone();
            }
            let code = Rc::new(AcCode::new(table.clone()));
            if codes.len() == CACHED_CODES {
                codes.remove(0);
            }
            codes.push(code.clone());
            code
        })
    }

    fn new(table: HuffmanTable) -> AcCode {
        AcCode { pairs: symbol_pairs(&table), runs: symbol_runs(&table), table }
    }

    /// Decodes the AC coefficients of a block to a lane of interleaved blocks, where they are 0. True if one of them is not 0; `None` for an
    /// invalid code, or a coefficient past the block.
    #[inline(always)]
    pub fn read(
        &self,
        reader: &mut BitReader<'_>,
        blocks: &mut BlockCoefficients,
        lane: usize,
    ) -> Option<bool> {
        // A copy stays in registers.
        let mut bits = *reader;
        // Zigzag index of the next coefficient.
        let (mut index, mut has_values) = (1, false);
        'pairs: while index < 64 {
            bits.refill();
            // Two pairs have at most 2 * (11 + 15) of 56 bits.
            for _ in 0..2 {
                let pair = self.pairs[bits.peek(PAIR_BITS)];
                let end = index + pair.last_distance();
                if end > 63 {
                    // The end of the block may lie within the pair.
                    let (zeros, value) = match self.table.ac_symbol(&mut bits)? {
                        AcSymbol::Value { zeros, value } => (zeros, value),
                        AcSymbol::Zeros => {
                            index += 16;
                            continue 'pairs;
                        }
                        AcSymbol::EndOfBlock => break 'pairs,
                    };
                    let zigzag = ZIGZAG.get(index + zeros)?;
                    blocks[usize::from(*zigzag) * LANES + lane] = value as i16;
                    (index, has_values) = (index + zeros + 1, true);
                    continue 'pairs;
                }
                let first = usize::from(POSITIONS[(index + pair.first_distance()) % 64]) + lane;
                blocks[first % (64 * LANES)] = pair.first_value();
                let last = usize::from(POSITIONS[end % 64]) + lane;
                blocks[last % (64 * LANES)] = pair.last_value(bits.next_bits());
                (index, has_values) = (end, true);
                bits.skip(pair.bits());
            }
        }
        *reader = bits;
        Some(has_values)
    }

    /// Skips the AC coefficients of a block. `None` as for [`AcCode::read`].
    #[inline(always)]
    pub fn skip(&self, reader: &mut BitReader<'_>) -> Option<()> {
        let mut bits = *reader;
        let mut index = 1;
        'runs: while index < 64 {
            bits.refill();
            // Two runs have at most 2 * (12 + 15) of 56 bits.
            for _ in 0..2 {
                let run = self.runs[bits.peek(RUN_BITS)];
                let next = index + usize::from(run.coefficients);
                if next > 63 {
                    // The end of the block may lie within the run.
                    match self.table.ac_symbol(&mut bits)? {
                        AcSymbol::Value { zeros, .. } if index + zeros > 63 => return None,
                        AcSymbol::Value { zeros, .. } => index += zeros + 1,
                        AcSymbol::Zeros => index += 16,
                        AcSymbol::EndOfBlock => break 'runs,
                    }
                    continue 'runs;
                }
                index = next;
                bits.skip(u32::from(run.bits % SymbolRun::END));
                if run.bits >= SymbolRun::END {
                    break 'runs;
                }
            }
        }
        *reader = bits;
        Some(())
    }
}

fn symbol_pairs(table: &HuffmanTable) -> Box<[SymbolPair; 1 << PAIR_BITS]> {
    let mut pairs = Box::new([SymbolPair::NONE; 1 << PAIR_BITS]);
    for (index, pair) in pairs.iter_mut().enumerate() {
        let Some(first) = ValueSymbol::at(table, index, PAIR_BITS) else { continue };
        *pair = SymbolPair::one(first);
        let Some(rest) = PAIR_BITS.checked_sub(first.bits()) else { continue };
        let next = (index << first.bits()) % (1 << PAIR_BITS);
        if let Some(last) = ValueSymbol::at(table, next, rest) {
            let one = SymbolPair::one(first);
            *pair = SymbolPair::two(first, one.last_value((index as u64) << (64 - PAIR_BITS)).into(), last);
        }
    }
    pairs
}

/// Runs for every index: the first symbol, and the run within the bits after it.
fn symbol_runs(table: &HuffmanTable) -> Box<[SymbolRun; 1 << RUN_BITS]> {
    // Runs within each number of bits. Shorter ones come first, since longer ones continue with them.
    let mut by_bits: Vec<Vec<SymbolRun>> = vec![];
    for n in 0..=RUN_BITS {
        let run = |index: usize| {
            let first = table.code_at((index as u32) << (16 - n)).filter(|[code_bits, _]| *code_bits <= n);
            let Some([code_bits, byte]) = first else { return SymbolRun::default() };
            if byte & 15 == 0 && byte != u32::from(ZEROS) {
                return SymbolRun { bits: code_bits as u8 | SymbolRun::END, coefficients: 0 };
            }
            let bits = code_bits + (byte & 15);
            let rest = n.checked_sub(bits).map_or(SymbolRun::default(), |rest| {
                by_bits.get(rest as usize).map_or(SymbolRun::default(), |runs| runs[index % (1 << rest)])
            });
            SymbolRun {
                bits: bits as u8 + rest.bits,
                coefficients: (byte >> 4) as u8 + 1 + rest.coefficients,
            }
        };
        by_bits.push((0..1 << n).map(run).collect());
    }
    let mut runs = Box::new([SymbolRun::NONE; 1 << RUN_BITS]);
    for (run, found) in runs.iter_mut().zip(&by_bits[RUN_BITS as usize]) {
        if found.bits > 0 {
            *run = *found;
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_engine::random::{RngKey, RngStream};

    /// Codes 0 (end of block), 10 (1 bit), 110 (16 zeros), 1110 (3 zeros, 2 bits), and one of 12 bits (8 bits).
    fn table() -> HuffmanTable {
        let mut counts = [0; 16];
        (counts[0], counts[1], counts[2], counts[3], counts[11]) = (1, 1, 1, 1, 1);
        HuffmanTable::new(&counts, &[0x00, 0x01, 0xf0, 0x32, 0x08]).expect("a prefix code")
    }

    /// Coefficients of a block, in zigzag order, that one symbol after another decodes.
    fn one_by_one(table: &HuffmanTable, reader: &mut BitReader<'_>) -> Option<[i16; 64]> {
        let (mut block, mut index) = ([0; 64], 1);
        while index < 64 {
            match table.ac_symbol(reader)? {
                AcSymbol::Value { zeros, value } => {
                    *block.get_mut(index + zeros)? = value as i16;
                    index += zeros + 1;
                }
                AcSymbol::Zeros => index += 16,
                AcSymbol::EndOfBlock => break,
            }
        }
        Some(block)
    }

    fn read(code: &AcCode, reader: &mut BitReader<'_>) -> Option<[i16; 64]> {
        let mut blocks = [0; 64 * LANES];
        let has_values = code.read(reader, &mut blocks, 5)?;
        let block = ZIGZAG.map(|position| blocks[usize::from(position) * LANES + 5]);
        assert_eq!(has_values, block != [0; 64]);
        assert!((0..64 * LANES).all(|i| i % LANES == 5 || blocks[i] == 0), "other lanes are not written");
        Some(block)
    }

    #[test]
    fn coefficients_are_read_with_their_signs_and_runs() {
        // 10 1 | 1110 01 | 110 | 111100000000 10000000 | 0
        let bytes = [0b1011_1100, 0b1110_1111, 0b0000_0000, 0b1000_0000, 0b0000_0000];
        let mut reader = BitReader::new(&bytes);
        let block = read(&AcCode::cached(&table()), &mut reader).expect("valid");
        let mut expected = [0; 64];
        (expected[1], expected[5], expected[22]) = (1, -2, 128);
        assert_eq!(block, expected);
        assert!(!reader.is_past_end());
    }

    #[test]
    fn invalid_codes_and_coefficients_past_the_block_are_rejected() {
        let code = AcCode::cached(&table());
        assert_eq!(read(&code, &mut BitReader::new(&[0xff; 8])), None);
        assert_eq!(code.skip(&mut BitReader::new(&[0xff; 8])), None);
        let mut counts = [0; 16];
        counts[0] = 1;
        let runs = AcCode::cached(&HuffmanTable::new(&counts, &[0xf1]).expect("one code"));
        assert_eq!(read(&runs, &mut BitReader::new(&[0x55])), None);
        assert_eq!(runs.skip(&mut BitReader::new(&[0x55])), None);
        let mut reader = BitReader::new(&[]);
        read(&code, &mut reader).expect("the end of a block");
        assert!(reader.is_past_end());
    }

    /// A code with random lengths, of which some are not used, and random symbols.
    fn random_table(rng: &mut RngStream) -> HuffmanTable {
        let (mut counts, mut free) = ([0u8; 16], 1u32);
        for count in &mut counts {
            free *= 2;
            let used = rng.below(free.min(40) + 1).min(free - u32::from(free > 1 && rng.below(4) > 0));
            (*count, free) = (used as u8, free - used);
        }
        let codes = counts.iter().map(|count| usize::from(*count)).sum();
        // Values of few bits and short runs are the most frequent, as in photos.
        let symbol = |rng: &mut RngStream| match rng.below(8) {
            0 => [0x00, 0xf0][rng.below(2) as usize],
            1 => rng.below(256) as u8,
            _ => (rng.below(3) << 4 | (1 + rng.below(3))) as u8,
        };
        let symbols: Vec<u8> = (0..codes).map(|_| symbol(rng)).collect();
        HuffmanTable::new(&counts, &symbols).expect("a prefix code")
    }

    #[test]
    fn random_codes_and_bits_give_the_same_blocks_as_one_symbol_at_a_time() {
        let mut rng = RngStream::new(RngKey::new(1, "ac codes"), 0, 0);
        let (mut valid, mut invalid) = (0, 0);
        for _ in 0..300 {
            let table = random_table(&mut rng);
            let code = AcCode::new(table.clone());
            let bytes: Vec<u8> = (0..200).map(|_| rng.below(256) as u8).collect();
            let mut readers = [BitReader::new(&bytes); 3];
            while !readers[0].is_past_end() {
                let expected = one_by_one(&table, &mut readers[0]);
                assert_eq!(read(&code, &mut readers[1]), expected);
                assert_eq!(code.skip(&mut readers[2]).is_some(), expected.is_some());
                if expected.is_none() {
                    invalid += 1;
                    break;
                }
                valid += 1;
                let positions = readers.map(|reader| reader.position());
                assert!(positions[1] == positions[0] && positions[2] == positions[0], "{positions:?}");
            }
        }
        assert!(valid > 3_000 && invalid > 50, "{valid} valid blocks, {invalid} invalid ones");
    }

    #[test]
    fn codes_are_shared_by_tables_with_the_same_codes_only() {
        let code = AcCode::cached(&table());
        assert!(Rc::ptr_eq(&code, &AcCode::cached(&table())));
        let mut counts = [0; 16];
        counts[1] = 2;
        let [a, b] =
            [[0x01, 0x02], [0x01, 0x03]].map(|symbols| HuffmanTable::new(&counts, &symbols).expect("codes"));
        assert!(!Rc::ptr_eq(&AcCode::cached(&a), &AcCode::cached(&b)));
    }
}
