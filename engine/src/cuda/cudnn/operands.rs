//! Operands of a convolution that is fused with statistics.
use crate::cuda::LibraryError;

/// Device addresses for the f32 sums of each output channel.
#[derive(Clone, Copy, Debug)]
pub struct ChannelSums {
    /// Sums.
    pub sum: u64,
    /// Sums of squares.
    pub squares: u64,
    /// Number of channels.
    pub channels: usize,
}

/// Work to time for the choice between a fused and a separate convolution.
pub struct FusionAlternative<'a> {
    /// Queues the work that follows the fused convolution.
    pub rest: &'a mut dyn FnMut() -> Result<(), LibraryError>,
    /// Queues the separate convolution and the work that follows it.
    pub separate: &'a mut dyn FnMut() -> Result<(), LibraryError>,
}
