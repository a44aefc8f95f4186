//! The geometry of a 2-D convolution, shared by the operation, its kernels, tests and benches.
use crate::shape::{MAX_NUMEL, Shape};
use crate::window::{MAX_SIDE, free_steps};

/// Shapes and options of one convolution: input `[n, h, w, c_in]`, weight `[c_out, kh, kw, c_in / groups]`,
/// output `[n, out_h, out_w, c_out]`. Pairs are (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvShape {
    /// Batch size.
    pub n: usize,
    /// Input height in pixels.
    pub h: usize,
    /// Input width in pixels.
    pub w: usize,
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Step between windows.
    pub stride: [usize; 2],
    /// Rows and columns of zeros on each side.
    pub padding: [usize; 2],
    /// Spacing between kernel elements.
    pub dilation: [usize; 2],
    /// Channel groups; `c_in` for a depthwise convolution.
    pub groups: usize,
    /// Algorithm of the CPU kernels.
    pub algorithm: ConvAlgorithm,
}

/// Algorithm of a convolution on the CPU, in its forward pass and its gradients. CUDA devices ignore it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ConvAlgorithm {
    /// The fastest one for the shape: Winograd F(4×4, 3×3) for f32 convolutions of kernel 3×3 and stride 1 with many channels (Lavin and
    /// Gray, 2015, arXiv:1509.09308), direct otherwise. The choice depends on the shape alone, and not on the batch size.
    #[default]
    Auto,
    /// Direct: sums of products without a transform of the operands. The rounding error is the smaller one.
    Direct,
}

impl ConvShape {
    /// Convolution of `n` square images of side `size` with a square kernel of odd side and padding `kernel / 2`, without dilation or groups.
    pub const fn square(
        n: usize,
        size: usize,
        [c_in, c_out]: [usize; 2],
        kernel: usize,
        stride: usize,
    ) -> ConvShape {
        ConvShape {
            n,
            h: size,
            w: size,
            c_in,
            c_out,
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [kernel / 2; 2],
            dilation: [1; 2],
            groups: 1,
            algorithm: ConvAlgorithm::Auto,
        }
    }

    /// True if the groups divide the channels, the kernel fits into the padded input, whose height and width are at most 2^31 - 1, and
    /// the elements of all tensors and the MACs can be counted. The other methods and the kernels require it.
    pub fn is_valid(&self) -> bool {
        let axis = |axis: usize, size: usize| {
            let (stride, dilation) = (self.stride[axis], self.dilation[axis]);
            let steps = free_steps(size, self.kernel[axis], self.padding[axis], dilation);
            (1..=MAX_SIDE).contains(&stride) && (1..=MAX_SIDE).contains(&dilation) && steps.is_some()
        };
        let counts = |dims: [usize; 4]| Shape::new(&dims).is_ok();
        let divides = |channels: usize| self.groups > 0 && channels.is_multiple_of(self.groups);
        divides(self.c_in) && divides(self.c_out) && axis(0, self.h) && axis(1, self.w) && {
            let [kh, kw] = self.kernel;
            let (output, weight) =
                ([self.n, self.out_h(), self.out_w(), self.c_out], [kh, kw, self.group_in()]);
            let macs = output.into_iter().chain(weight).try_fold(1usize, |n, d| n.checked_mul(d.max(1)));
            counts([self.n, self.h, self.w, self.c_in])
                && counts([self.c_out, kh, kw, self.group_in()])
                && counts(output)
                && macs.is_some_and(|macs| macs <= MAX_NUMEL)
        }
    }

    /// Output height, `(h + 2p - d(k-1) - 1) / s + 1`.
    pub const fn out_h(&self) -> usize {
        self.out(self.h, 0)
    }

    /// Output width, `(w + 2p - d(k-1) - 1) / s + 1`.
    pub const fn out_w(&self) -> usize {
        self.out(self.w, 1)
    }

    /// Input channels per group: the last axis of the weight.
    pub const fn group_in(&self) -> usize {
        self.c_in / self.groups
    }

    /// Output channels per group.
    pub const fn group_out(&self) -> usize {
        self.c_out / self.groups
    }

    /// True for a depthwise convolution (`groups == c_in`, any channel multiplier).
    pub const fn is_depthwise(&self) -> bool {
        self.groups == self.c_in && self.groups > 1
    }

    /// Elements of the input.
    pub const fn input_len(&self) -> usize {
        self.n * self.h * self.w * self.c_in
    }

    /// Elements of the weight.
    pub const fn weight_len(&self) -> usize {
        self.c_out * self.kernel[0] * self.kernel[1] * self.group_in()
    }

    /// Elements of the output.
    pub const fn output_len(&self) -> usize {
        self.n * self.out_h() * self.out_w() * self.c_out
    }

    /// Multiply-accumulates (MACs) of the forward pass, those on padding included.
    pub const fn macs(&self) -> usize {
        self.output_len() * self.kernel[0] * self.kernel[1] * self.group_in()
    }

    const fn out(&self, size: usize, axis: usize) -> usize {
        let extent = self.dilation[axis] * (self.kernel[axis] - 1) + 1;
        (size + 2 * self.padding[axis] - extent) / self.stride[axis] + 1
    }
}
