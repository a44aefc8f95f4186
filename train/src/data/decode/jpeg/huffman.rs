//! Huffman codes and bits of a JPEG scan (annexes C and F of ITU-T T.81).

/// Bits that index the lookup table.
const LOOKUP_BITS: u32 = 10;
/// Longest Huffman code.
const MAX_CODE_BITS: u32 = 16;
/// AC symbol of 16 zeros.
pub const ZEROS: u8 = 0xf0;

/// Decoding table of one Huffman code.
#[derive(Clone)]
pub struct HuffmanTable {
    /// Symbol for each value of the next bits; no bits for a longer or an invalid code.
    lookup: Box<[Symbol; 1 << LOOKUP_BITS]>,
    /// For each length of codes, one past the last code, left-aligned in 16 bits.
    ends: [u32; 18],
    /// For each length of codes, the index of a code's symbol less the code.
    offsets: [i32; 17],
    /// Number of codes of each length.
    counts: [u8; 16],
    symbols: Vec<u8>,
}

/// Decoded symbol: a number of zeros and the size of the value after them.
#[derive(Clone, Copy, Default)]
struct Symbol {
    /// Bits of the code and of the value.
    bits: u8,
    /// Number of zeros in the high four bits, bits of the value in the low four.
    byte: u8,
}

impl Symbol {
    fn new(code_bits: u32, byte: u8) -> Symbol {
        Symbol { bits: code_bits as u8 + (byte & 15), byte }
    }
}

impl HuffmanTable {
    /// Builds a table from the number of codes of each length from 1 to 16, and their symbols. `None` if they are no prefix code.
    pub fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<HuffmanTable> {
        let mut table = HuffmanTable {
            lookup: Box::new([Symbol::default(); 1 << LOOKUP_BITS]),
            ends: [0; 18],
            offsets: [0; 17],
            counts: *counts,
            symbols: symbols.to_vec(),
        };
        let (mut code, mut index) = (0u32, 0usize);
        for bits in 1..=MAX_CODE_BITS {
            table.offsets[bits as usize] = index as i32 - code as i32;
            for _ in 0..counts[bits as usize - 1] {
                let symbol = *symbols.get(index)?;
                if code >> bits != 0 {
                    return None;
                }
                if let Some(free) = LOOKUP_BITS.checked_sub(bits) {
                    let first = (code << free) as usize;
                    table.lookup[first..first + (1 << free)].fill(Symbol::new(bits, symbol));
                }
                (code, index) = (code + 1, index + 1);
            }
            table.ends[bits as usize] = code << (MAX_CODE_BITS - bits);
            code <<= 1;
        }
        // Ends the search for an invalid code.
        table.ends[17] = u32::MAX;
        Some(table)
    }

    /// True if both tables have the same codes and symbols.
    pub fn has_codes_of(&self, other: &HuffmanTable) -> bool {
        self.counts == other.counts && self.symbols == other.symbols
    }

    /// Bits of the code at the start of 16 bits, and its byte: a number of zeros in the high four bits, bits of the value in the low four.
    pub fn code_at(&self, next: u32) -> Option<[u32; 2]> {
        let symbol = self.symbol(u64::from(next) << 48);
        let byte = u32::from(symbol.byte);
        (symbol.bits > 0).then_some([u32::from(symbol.bits) - (byte & 15), byte])
    }

    /// Decodes an AC symbol of a whole block. `None` for an invalid code.
    #[inline(always)]
    pub fn ac_symbol(&self, reader: &mut BitReader<'_>) -> Option<AcSymbol> {
        reader.refill();
        match self.symbol(reader.bits) {
            Symbol { bits: 0, .. } => None,
            symbol if symbol.byte & 15 > 0 => {
                Some(AcSymbol::Value { zeros: usize::from(symbol.byte >> 4), value: reader.value(symbol) })
            }
            symbol => {
                reader.skip(u32::from(symbol.bits));
                Some(if symbol.byte == ZEROS { AcSymbol::Zeros } else { AcSymbol::EndOfBlock })
            }
        }
    }

    /// The symbol at the start of the bits; no bits for an invalid code. A symbol with its value has at most 31 bits.
    #[inline(always)]
    fn symbol(&self, bits: u64) -> Symbol {
        let symbol = self.lookup[(bits >> (64 - LOOKUP_BITS)) as usize];
        if symbol.bits > 0 { symbol } else { self.long_code(bits) }
    }

    // The reader's bits by value: a reference would keep the reader out of registers.
    #[cold]
    fn long_code(&self, bits: u64) -> Symbol {
        let next = (bits >> 48) as u32;
        let mut bits = LOOKUP_BITS + 1;
        while next >= self.ends[bits as usize] {
            bits += 1;
        }
        if bits > MAX_CODE_BITS {
            return Symbol::default();
        }
        let code = (next >> (MAX_CODE_BITS - bits)) as i32;
        let symbol = self.symbols.get((code + self.offsets[bits as usize]) as usize);
        symbol.map_or(Symbol::default(), |symbol| Symbol::new(bits, *symbol))
    }
}

/// AC symbol of a whole block (F.1.2.2.1).
#[derive(Clone, Copy)]
pub enum AcSymbol {
    /// A number of zeros, and the value after them.
    Value { zeros: usize, value: i32 },
    /// 16 zeros.
    Zeros,
    /// The block's other coefficients are 0.
    EndOfBlock,
}

/// Reader of the bits of a scan without stuffed bytes. Past the end it reads zeros.
#[derive(Clone, Copy)]
pub struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Next bits, left-aligned.
    bits: u64,
    count: u32,
}

impl<'a> BitReader<'a> {
    pub fn new(bytes: &'a [u8]) -> BitReader<'a> {
        BitReader { bytes, at: 0, bits: 0, count: 0 }
    }

    /// Number of bits that were read.
    #[cfg(test)]
    pub fn position(&self) -> usize {
        8 * self.at - self.count as usize
    }

    /// True if more bits were read than there are.
    pub fn is_past_end(&self) -> bool {
        self.at as u64 * 8 > self.bytes.len() as u64 * 8 + u64::from(self.count)
    }

    /// Decodes the difference of a DC coefficient. `None` for an invalid code.
    #[inline(always)]
    pub fn dc(&mut self, table: &HuffmanTable) -> Option<i32> {
        match self.symbol(table) {
            Symbol { bits: 0, .. } | Symbol { byte: 16.., .. } => None,
            symbol => Some(self.value(symbol)),
        }
    }

    /// Decodes an AC symbol of a progressive scan: a number of zeros, and the value after them; 0 for none. `None` for an invalid code.
    #[inline(always)]
    pub fn run(&mut self, table: &HuffmanTable) -> Option<(usize, i32)> {
        match self.symbol(table) {
            Symbol { bits: 0, .. } => None,
            symbol => Some((usize::from(symbol.byte >> 4), self.value(symbol))),
        }
    }

    /// Reads up to 16 bits.
    #[inline(always)]
    pub fn plain(&mut self, count: u32) -> u32 {
        self.refill();
        // Two shifts, since there may be no bits.
        let value = (self.bits >> 1 >> (63 - count)) as u32;
        self.bits <<= count;
        self.count -= count;
        value
    }

    /// The next symbol; no bits for an invalid code.
    #[inline(always)]
    fn symbol(&mut self, table: &HuffmanTable) -> Symbol {
        self.refill();
        table.symbol(self.bits)
    }

    /// The next bits, left-aligned, of which [`BitReader::refill`] made at least 56 available.
    #[inline(always)]
    pub fn next_bits(&self) -> u64 {
        self.bits
    }

    /// The next `count` bits, 1 to 56, as a number.
    #[inline(always)]
    pub fn peek(&self, count: u32) -> usize {
        (self.bits >> (64 - count)) as usize
    }

    /// Skips available bits.
    #[inline(always)]
    pub fn skip(&mut self, count: u32) {
        self.bits <<= count;
        self.count -= count;
    }

    /// Makes at least 56 bits available.
    #[inline(always)]
    pub fn refill(&mut self) {
        let next = match self.bytes.get(self.at..self.at + 8) {
            Some(bytes) => u64::from_be_bytes(bytes.try_into().unwrap_or_default()),
            None => last_bytes(self.bytes, self.at),
        };
        self.bits |= next >> self.count;
        self.at += ((63 - self.count) >> 3) as usize;
        self.count |= 56;
    }

    /// The value after a symbol's code, both of which are skipped (F.2.2.1).
    #[inline(always)]
    fn value(&mut self, symbol: Symbol) -> i32 {
        let size = u32::from(symbol.byte & 15);
        let low = (1 << size) - 1;
        let value = (self.bits >> (64 - u32::from(symbol.bits))) as i32 & low;
        self.skip(u32::from(symbol.bits));
        // Values without the highest bit are negative.
        if 2 * value > low { value } else { value - low }
    }
}

// By value: a reference would keep the reader out of registers.
#[cold]
fn last_bytes(bytes: &[u8], at: usize) -> u64 {
    let rest = bytes.get(at..).unwrap_or_default();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    u64::from_be_bytes(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes 0 (no value), 10 (1 bit), 110 (no value, 16 zeros), 1110 (3 zeros, 2 bits), and one of 12 bits (8 bits).
    fn table() -> HuffmanTable {
        let mut counts = [0; 16];
        (counts[0], counts[1], counts[2], counts[3], counts[11]) = (1, 1, 1, 1, 1);
        HuffmanTable::new(&counts, &[0x00, 0x01, 0xf0, 0x32, 0x08]).expect("a prefix code")
    }

    #[test]
    fn differences_are_read_with_their_signs() {
        let mut reader = BitReader::new(&[0b1000_0000]);
        assert_eq!(reader.dc(&table()), Some(-1));
        assert!(!reader.is_past_end());
        assert_eq!(BitReader::new(&[0b1010_0000]).dc(&table()), Some(1));
    }

    #[test]
    fn invalid_codes_and_tables_are_rejected() {
        assert_eq!(BitReader::new(&[0xff; 8]).dc(&table()), None);
        assert_eq!(BitReader::new(&[0b1100_0000]).dc(&table()), None, "a DC symbol has no zeros");
        let three = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(HuffmanTable::new(&three, &[1, 2, 3]).is_none(), "three codes of one bit");
        assert!(HuffmanTable::new(&[1; 16], &[1]).is_none(), "missing symbols");
    }
}
