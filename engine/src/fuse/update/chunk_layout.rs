//! Division of a parameter into chunks.
use crate::Shape;

/// Division of a parameter into chunks, a function of its shape alone. Rows are slices of the first axis; a chunk is the work of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkLayout {
    pub(crate) row_length: usize,
    pub(crate) rows: usize,
    pub(crate) chunk_length: usize,
    pub(crate) chunks: usize,
    pub(crate) axes: usize,
    /// Extent of the last axis of a parameter with a factored second moment, else 1.
    pub(crate) inner: usize,
}

/// Elements of a chunk; more or fewer where chunks consist of whole rows.
const CHUNK: usize = 1 << 14;

impl ChunkLayout {
    /// The layout for a shape. `by_rows` cuts between rows; `factored` has the number of rows first and the extent of the last axis last.
    pub(crate) fn new(shape: &Shape, by_rows: bool, factored: Option<[usize; 3]>) -> ChunkLayout {
        let (n, axes) = (shape.numel(), shape.rank());
        let rows = match factored {
            Some([rows, ..]) => rows,
            None if axes > 1 => shape.dims()[0],
            None => 1,
        };
        let row_length = (n / rows.max(1)).max(1);
        let chunk_length = match CHUNK / row_length {
            _ if !by_rows => CHUNK,
            // Chunks start at a multiple of four floats.
            fit @ 4.. => fit / 4 * 4 * row_length,
            fit => fit.max(1) * row_length,
        };
        let inner = factored.map_or(1, |[_, _, inner]| inner);
        ChunkLayout { row_length, rows, chunk_length, chunks: n.div_ceil(chunk_length), axes, inner }
    }
}
