// A module of the crate, where `arguments!` makes Rust items of these declarations, and part of the build script, where it makes the
// header `arguments.cuh` of them: the constant `PACK_CHUNK` is `kPackChunk` there, the variant `Zeros` is `kZeros`. Structs have no
// padding.
arguments! {
    /// Chunks of a column merge that one block merges: large enough that few blocks merge, and small enough that a block merges them
    /// quickly.
    pub const MERGE_GROUP: usize = 32;

    /// Dtypes of parameters and of packed sources.
    pub enum ElementFormat {
        /// f32.
        F32,
        /// f16.
        F16,
        /// bf16.
        Bf16,
    }

    /// Activations that are fused into batch norm.
    pub enum FusedActivation {
        /// None.
        Identity,
        /// ReLU.
        Relu,
        /// ReLU6.
        Relu6,
        /// SiLU.
        Silu,
        /// Hard swish.
        HardSwish,
    }

    /// Partial results and result of batch norm's statistics pass. Weight, bias and running statistics have dtype `format`, and may be
    /// null.
    pub struct StatisticsMerge {
        /// Counters of the column merge.
        pub tickets: AddressMut<u32>,
        /// Partial statistics by chunk, `[chunks, 2, c]`.
        pub partial: AddressMut<f32>,
        /// Partial statistics by group of chunks, `[groups, 2, c]`.
        pub merged: AddressMut<f64>,
        /// Weight, `[c]`.
        pub weight: Address<Any>,
        /// Bias, `[c]`.
        pub bias: Address<Any>,
        /// Running mean, `[c]`.
        pub running_mean: AddressMut<Any>,
        /// Running variance, `[c]`.
        pub running_var: AddressMut<Any>,
        /// Saved statistics, `[4, c]`.
        pub saved: AddressMut<f32>,
        /// Number of batches, if the running statistics are averages over all batches; else null, and `momentum` counts.
        pub batches: Address<i64>,
        /// Weight of the batch in the running statistics.
        pub momentum: f32,
        /// Term added to the variance.
        pub eps: f32,
        /// Dtype of the parameters.
        pub format: ElementFormat,
        /// Zero: fills the struct to a multiple of 8 bytes.
        pub unused: i32,
    }

    /// Content of `SumsMerge::factors`.
    pub enum BackwardFactors {
        /// Zeros: mean and variance are the running ones.
        Zeros,
        /// k2 and k3 of the input gradient, which flows through the batch's mean and variance.
        OfBatch,
        /// The sums of d and of d * (x - mean), which are to be added over the ranks.
        Sums,
    }

    /// Partial results and results of batch norm's sums pass. The gradients of weight and bias have dtype `format`, and are null where they
    /// are not needed.
    pub struct SumsMerge {
        /// Counters of the column merge.
        pub tickets: AddressMut<u32>,
        /// Partial sums by chunk, `[chunks, 2, c]`.
        pub partial: AddressMut<f32>,
        /// Partial sums by group of chunks, `[groups, 2, c]`.
        pub merged: AddressMut<f64>,
        /// Gradient of the weight, `[c]`.
        pub dweight: AddressMut<Any>,
        /// Gradient of the bias, `[c]`.
        pub dbias: AddressMut<Any>,
        /// Factors, `[2, c]`.
        pub factors: AddressMut<f32>,
        /// Content of the factors.
        pub kind: BackwardFactors,
        /// Dtype of the gradients.
        pub format: ElementFormat,
    }

    /// Batch norm of the output y of a fused convolution, `[rows, c]`, whose sums the convolution returned. Parameters may be null.
    pub struct ConvNorm {
        /// Output of the convolution, f16 or bf16.
        pub y: Address<Any>,
        /// Sums and sums of squares of each channel, `[2, c]`.
        pub sums: Address<f32>,
        /// Weight, `[c]`.
        pub weight: Address<Any>,
        /// Bias, `[c]`.
        pub bias: Address<Any>,
        /// Running mean, `[c]`.
        pub running_mean: AddressMut<Any>,
        /// Running variance, `[c]`.
        pub running_var: AddressMut<Any>,
        /// Number of batches, as in `StatisticsMerge`.
        pub batches: Address<i64>,
        /// Result: the saved statistics, `[4, c]`.
        pub saved: AddressMut<f32>,
        /// Weight of the batch in the running statistics.
        pub momentum: f32,
        /// Term added to the variance.
        pub eps: f32,
    }

    /// Batch norms of a launch, one per blockIdx.z.
    pub struct ConvNorms {
        /// The batch norms.
        pub norms: [ConvNorm; 2],
    }

    /// Shape of a convolution; pairs are (vertical, horizontal). Weights are `[c_out, kernel, c_in / groups]`.
    pub struct Conv {
        /// Images.
        pub n: i32,
        /// Size of the input.
        pub input: [i32; 2],
        /// Size of the output.
        pub output: [i32; 2],
        /// Input channels.
        pub c_in: i32,
        /// Output channels.
        pub c_out: i32,
        /// Groups of channels.
        pub groups: i32,
        /// Size of the convolution kernel.
        pub kernel: [i32; 2],
        /// Stride.
        pub stride: [i32; 2],
        /// Padding on each side.
        pub padding: [i32; 2],
        /// Dilation.
        pub dilation: [i32; 2],
    }

    /// Shape of a depthwise convolution; pairs are (vertical, horizontal).
    pub struct Depthwise {
        /// Images.
        pub n: i32,
        /// Size of the input.
        pub input: [i32; 2],
        /// Size of the output.
        pub output: [i32; 2],
        /// Input channels.
        pub c_in: i32,
        /// Output channels.
        pub c_out: i32,
        /// Size of the convolution kernel.
        pub kernel: [i32; 2],
        /// Stride.
        pub stride: [i32; 2],
        /// Padding before the first element; may be negative.
        pub padding: [i32; 2],
        /// Dilation.
        pub dilation: [i32; 2],
        /// Threads of a block along the channels, a pack each.
        pub lanes: i32,
        /// Nonzero to flip the convolution kernel along both axes.
        pub flipped: i32,
    }

    /// Shape of a pooling operation; pairs are (vertical, horizontal).
    pub struct Pool {
        /// Size of the input.
        pub size: [i32; 2],
        /// Size of the output.
        pub out: [i32; 2],
        /// Channels.
        pub c: i32,
        /// Size of a window.
        pub kernel: [i32; 2],
        /// Stride.
        pub stride: [i32; 2],
        /// Padding on each side.
        pub padding: [i32; 2],
        /// Dilation.
        pub dilation: [i32; 2],
        /// Nonzero to count padding in the divisor of an average (PyTorch's count_include_pad).
        pub count_include_pad: i32,
    }

    /// Shape of an adaptive pooling operation; pairs are (vertical, horizontal).
    pub struct AdaptivePool {
        /// Size of the input.
        pub size: [i32; 2],
        /// Size of the output.
        pub out: [i32; 2],
        /// Channels.
        pub c: i32,
    }

    /// Shape of a group norm, and its division into chunks: runs of consecutive pixels of one image.
    pub struct GroupNorm {
        /// Images.
        pub images: i32,
        /// Pixels of an image.
        pub pixels: i32,
        /// Channels.
        pub c: i32,
        /// Groups of channels.
        pub groups: i32,
        /// Chunks of an image.
        pub chunks: i32,
        /// Pixels of a chunk; the last one of an image may have fewer.
        pub chunk_pixels: i32,
    }

    /// Sizes of a resampling operation; pairs are (vertical, horizontal).
    pub struct Resampling {
        /// Channels.
        pub c: i32,
        /// Size of the input.
        pub inputs: [i32; 2],
        /// Size of the output.
        pub outputs: [i32; 2],
        /// Floats of a row of each axis's weight table.
        pub stride: [i32; 2],
    }

    /// Samples of images at the points of a grid; pairs are (vertical, horizontal) unless they say otherwise.
    pub struct GridSampling {
        /// Size of the images.
        pub size: [i32; 2],
        /// Size of the grid.
        pub out: [i32; 2],
        /// Channels.
        pub c: i32,
        /// Nonzero to clamp points to the border.
        pub border: i32,
        /// Nonzero to align the centres of the corner pixels.
        pub align_corners: i32,
        /// Nonzero for the derivative of the weights by x and by y.
        pub order: [i32; 2],
    }

    /// Maximum number of channels whose mean and standard deviation are passed by value.
    pub const INLINE_CHANNELS: usize = 4;

    /// Mean and standard deviation of a few channels, passed by value: a captured launch keeps them.
    pub struct InlineMeanStd {
        /// Mean by channel.
        pub mean: [f32; INLINE_CHANNELS],
        /// Standard deviation by channel.
        pub std: [f32; INLINE_CHANNELS],
    }

    /// Content of erased boxes, as timm's `const`, `rand` and `pixel`.
    pub enum EraseMode {
        /// Zeros.
        Const,
        /// One normal sample per channel of a box.
        Rand,
        /// One normal sample per element.
        Pixel,
    }

    /// Columns of an image's changes before the boxes to erase.
    pub const CHANGE_HEADER: usize = 7;

    /// Maximum number of erased boxes per image.
    pub const MAX_BOXES: usize = 16;

    /// Augmentation options that apply to all images of a batch.
    pub struct Preparation {
        /// Mean by channel.
        pub mean: [f32; INLINE_CHANNELS],
        /// Standard deviation by channel.
        pub std: [f32; INLINE_CHANNELS],
        /// Value of white.
        pub max_value: f32,
        /// Nonzero to round mixed values to integers.
        pub rounded: i32,
        /// Content of erased boxes.
        pub erase_mode: EraseMode,
        /// Erased boxes per image.
        pub boxes: i32,
        /// Philox key.
        pub key: [u32; 2],
        /// Epoch: first word of the Philox counter.
        pub epoch: u32,
    }

    /// Philox key, and the upper three words of the counter: epoch, and sample index (low word first).
    pub struct PhiloxStream {
        /// Key.
        pub key: [u32; 2],
        /// Upper words of the counter.
        pub counter: [u32; 3],
    }

    /// Sources of a pack launch.
    pub const PARTS: usize = 500;

    /// Elements that a block packs.
    pub const PACK_CHUNK: usize = 4096;

    /// Source of a pack launch, and the elements of the result that it becomes.
    pub struct PackedPart {
        /// The source.
        pub from: Address<Any>,
        /// Offset of the part in the result.
        pub offset: i64,
        /// Elements.
        pub n: i64,
        /// Index of its first chunk; a block copies one chunk.
        pub chunk: i32,
        /// Dtype of the source.
        pub format: ElementFormat,
    }

    /// All sources of a pack launch.
    pub struct PackTable {
        /// Number of parts.
        pub count: i64,
        /// The parts, in the order of their chunks.
        pub parts: [PackedPart; PARTS],
    }

    /// Maximum number of axes outside the rows of a `StridedPair`.
    pub const OUTER_AXES: usize = 6;

    /// Offsets in two arrays, a and b, of `n` elements in rows of `inner`. Strides may be 0 (broadcast) or negative (reversal).
    pub struct StridedPair {
        /// Elements.
        pub n: i64,
        /// Elements of a row.
        pub inner: i64,
        /// Offset of the first element in a.
        pub a_start: i64,
        /// Offset of the first element in b.
        pub b_start: i64,
        /// Offset of the first element in the dense result, if any.
        pub y_start: i64,
        /// Stride within a row of a.
        pub a_stride: i64,
        /// Stride within a row of b.
        pub b_stride: i64,
        /// Number of axes outside the rows. Above 0, n is less than 2^32.
        pub rank: i32,
        /// Nonzero if rows consist of whole packs that start at multiples of a pack, in each array with stride 1.
        pub packed: i32,
        /// Extents of the outer axes, outermost first.
        pub extents: [u32; OUTER_AXES],
        /// Strides of the outer axes in a.
        pub a: [i64; OUTER_AXES],
        /// Strides of the outer axes in b.
        pub b: [i64; OUTER_AXES],
    }

    /// Maximum number of parameters of an optimizer launch: the number that fits into a kernel's arguments, and more than most networks
    /// have.
    pub const PARAMETERS: usize = 240;

    /// Maximum number of an optimizer's moments per parameter.
    pub const MOMENTS: usize = 5;

    /// Maximum number of a rule's scalars that all parameters share.
    pub const MAX_SHARED_SCALARS: usize = 3;

    /// Maximum product of a factored second moment's axes between first and last.
    pub const MAX_MEANS: usize = 64;

    /// Half-precision formats of an optimizer's tensors, and none: f32.
    pub enum UpdateFormat {
        /// f32.
        NoFormat,
        /// f16.
        Half,
        /// bf16.
        Bfloat,
    }

    /// Indices of `UpdateArgs::scalars`.
    pub enum UpdateScalar {
        /// Learning rate.
        Lr,
        /// 1 - EMA decay.
        EmaComplement,
        /// Loss scale.
        LossScale,
        /// Updates since the last overflow or growth of the loss scale.
        GoodUpdates,
        /// Factor of the gradients.
        GradFactor,
        /// 1 if the update is skipped, else 0.
        Skip,
        /// Norm of the unscaled gradients.
        GradNorm,
        /// Norm of the clipped gradients.
        ClippedNorm,
        /// First of the rule's scalars that all parameters share.
        FirstSharedScalar,
    }

    /// One parameter of an optimizer update. Addresses are 0 if absent. They are numbers, because generated kernels need two to four
    /// registers more for pointers.
    pub struct Parameter {
        /// Weights.
        pub weights: AddressBits<f32>,
        /// Gradient.
        pub gradient: AddressBits<Any>,
        /// Moments. If the second moment is factored, the last two are its means over the last and first axis.
        pub moments: [AddressBits<f32>; MOMENTS],
        /// EMA weights.
        pub ema: AddressBits<f32>,
        /// Low-precision copy of the weights.
        pub low_precision: AddressBits<Any>,
        /// Scalar that the rule keeps for the parameter, `[2]`.
        pub param_scalar: AddressBits<f32>,
        /// Elements.
        pub n: i64,
        /// Elements of a row.
        pub row_length: i32,
        /// Elements of a chunk; a block processes one chunk.
        pub chunk_length: i32,
        /// Index of its first chunk within the launch.
        pub chunk: i32,
        /// Index of its first row among the rows of all parameters.
        pub row: i32,
        /// Weight decay.
        pub weight_decay: f32,
        /// Factor of the learning rate.
        pub lr_scale: f32,
        /// Number of axes.
        pub ndim: i32,
        /// Nonzero to apply adaptive gradient clipping.
        pub adaptive_clip: i32,
        /// Format of the low-precision copy.
        pub low_precision_format: UpdateFormat,
        /// Format to which the weights are rounded.
        pub round_format: UpdateFormat,
        /// Length of the last axis, if the second moment is factored.
        pub inner: i32,
        /// Format of the gradient.
        pub gradient_format: UpdateFormat,
    }

    /// All parameters of an optimizer launch.
    pub struct ParameterTable {
        /// Number of parameters.
        pub count: i64,
        /// The parameters, in the order of their chunks.
        pub entries: [Parameter; PARAMETERS],
    }

    /// Arguments of an optimizer update besides the parameters.
    pub struct UpdateArgs {
        /// Scalars, indexed by `UpdateScalar`.
        pub scalars: AddressMut<f32>,
        /// Number of updates that were not skipped.
        pub step: AddressMut<i64>,
        /// Counter of finished blocks.
        pub ticket: AddressMut<u32>,
        /// Partial sums by chunk.
        pub partial: AddressMut<f64>,
        /// Sums by row.
        pub row_sums: AddressMut<f32>,
        /// Gradient multiplier of each row by adaptive gradient clipping, or null.
        pub agc_scale: AddressMut<f32>,
        /// Gradients are clamped to +-clip_value unless it is 0.
        pub clip_value: f32,
        /// Index of this launch's first chunk among the chunks of all launches.
        pub first_chunk: i32,
        /// Number of chunks of all launches.
        pub chunks: i32,
        /// Number of blocks that take a ticket, or 0.
        pub blocks: i32,
    }

    /// Loss scaling and gradient clipping; 0 disables a kind of clipping.
    pub struct GradOptions {
        /// Factor of the loss scale when it grows.
        pub growth_factor: f32,
        /// Factor of the loss scale after an overflow.
        pub backoff_factor: f32,
        /// Lower bound of the loss scale.
        pub min_scale: f32,
        /// Maximum norm of all gradients.
        pub clip_norm: f32,
        /// Maximum norm of a row's gradient relative to the norm of its weights.
        pub agc_clip: f32,
        /// Consecutive updates without overflow before the loss scale grows.
        pub growth_interval: i32,
        /// Nonzero to update the loss scale.
        pub loss_scaling: i32,
    }

    /// Options of a factored second moment: the running means move by t^decay_rate towards the new ones at step t.
    pub struct FactoredOptions {
        /// Exponent of the step.
        pub decay_rate: f64,
        /// Term added to the squared gradients.
        pub eps: f64,
    }
}
