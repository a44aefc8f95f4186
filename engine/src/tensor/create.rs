//! Constructors by PyTorch's names: random numbers, ranges, the identity, and tensors like another one.
use crate::dtype::dispatch_any;
use crate::error::Operands;
use crate::random::{RngKey, RngStream};
use crate::{DType, Device, Element, Error, IntoShape, Result, Shape, Tensor};

/// A source of random numbers as an argument: a seed, or a generator that goes on.
pub trait Generator {
    /// Calls `f` with the random numbers.
    fn draw<T>(self, f: impl FnOnce(&mut RngStream) -> T) -> T;
}

impl Generator for u64 {
    fn draw<T>(self, f: impl FnOnce(&mut RngStream) -> T) -> T {
        f(&mut RngStream::new(RngKey::new(self, "tensor"), 0, 0))
    }
}

impl Generator for &mut RngStream {
    fn draw<T>(self, f: impl FnOnce(&mut RngStream) -> T) -> T {
        f(self)
    }
}

/// Elements as an argument of [`Tensor::new`]: a number, a nested array, a slice or a vector.
pub trait IntoElements {
    /// The type of the elements.
    type Element: Element;
    /// The shape.
    fn extents(&self) -> Vec<usize>;
    /// Appends the elements, row-major.
    fn append(&self, to: &mut Vec<Self::Element>);
}

macro_rules! numbers {
    ($($t:ty)*) => {$(
        impl IntoElements for $t {
            type Element = $t;
            fn extents(&self) -> Vec<usize> {
                vec![]
            }
            fn append(&self, to: &mut Vec<$t>) {
                to.push(*self);
            }
        }
    )*};
}
numbers!(f32 f64 i64 u8);

impl<E: IntoElements> IntoElements for [E] {
    type Element = E::Element;
    fn extents(&self) -> Vec<usize> {
        [self.len()].into_iter().chain(self.first().map_or(vec![], E::extents)).collect()
    }
    fn append(&self, to: &mut Vec<E::Element>) {
        self.iter().for_each(|part| part.append(to));
    }
}

impl<E: IntoElements, const N: usize> IntoElements for [E; N] {
    type Element = E::Element;
    fn extents(&self) -> Vec<usize> {
        self[..].extents()
    }
    fn append(&self, to: &mut Vec<E::Element>) {
        self[..].append(to);
    }
}

impl<E: IntoElements> IntoElements for Vec<E> {
    type Element = E::Element;
    fn extents(&self) -> Vec<usize> {
        self[..].extents()
    }
    fn append(&self, to: &mut Vec<E::Element>) {
        self[..].append(to);
    }
}

impl<E: IntoElements + ?Sized> IntoElements for &E {
    type Element = E::Element;
    fn extents(&self) -> Vec<usize> {
        (**self).extents()
    }
    fn append(&self, to: &mut Vec<E::Element>) {
        (**self).append(to);
    }
}

impl Tensor {
    /// A tensor on the CPU of a number, a nested array, a slice or a vector. Errors if the rows of nested vectors differ in length.
    ///
    /// ```
    /// # use fornax_engine::{Result, Tensor};
    /// # fn main() -> Result<()> {
    /// assert_eq!(Tensor::new([[1.0f32, 2.0], [3.0, 4.0]])?.dims(), [2, 2]);
    /// assert_eq!(Tensor::new(vec![1i64, 2, 3])?.dims(), [3]);
    /// assert!(Tensor::new(vec![vec![1.0f32], vec![]]).is_err());
    /// # Ok(()) }
    /// ```
    pub fn new<E: IntoElements>(elements: E) -> Result<Tensor> {
        let mut all = vec![];
        elements.append(&mut all);
        Tensor::from_slice(&all, elements.extents())
    }

    /// Standard normal random numbers, by a seed or a generator. f32, f16 or bf16; f64 on the CPU.
    ///
    /// ```
    /// # use fornax_engine::{DType, Device, Result, Tensor};
    /// # fn main() -> Result<()> {
    /// let x = Tensor::randn([2, 3], DType::F32, &Device::Cpu, 42)?;
    /// assert_eq!(x.to_vec::<f32>()?, Tensor::randn([2, 3], DType::F32, &Device::Cpu, 42)?.to_vec::<f32>()?);
    /// # Ok(()) }
    /// ```
    pub fn randn(
        shape: impl IntoShape,
        dtype: DType,
        device: &Device,
        generator: impl Generator,
    ) -> Result<Tensor> {
        generator.draw(|rng| of_numbers("randn", shape.into_shape()?, dtype, device, |_| rng.normal().into()))
    }

    /// Random numbers that are uniform in 0..1, by a seed or a generator. f32, f16 or bf16; f64 on the CPU.
    ///
    /// ```
    /// # use fornax_engine::{DType, Device, Result, Tensor};
    /// # fn main() -> Result<()> {
    /// let x = Tensor::rand([100], DType::F32, &Device::Cpu, 42)?;
    /// assert!(x.to_vec::<f32>()?.iter().all(|v| (0.0..1.0).contains(v)));
    /// # Ok(()) }
    /// ```
    pub fn rand(
        shape: impl IntoShape,
        dtype: DType,
        device: &Device,
        generator: impl Generator,
    ) -> Result<Tensor> {
        generator.draw(|rng| of_numbers("rand", shape.into_shape()?, dtype, device, |_| rng.uniform().into()))
    }

    /// The numbers from `start` to before `end` in steps of `step`. Any dtype; f64 on the CPU only.
    ///
    /// ```
    /// # use fornax_engine::{DType, Device, Result, Tensor};
    /// # fn main() -> Result<()> {
    /// assert_eq!(Tensor::arange(0.0, 3.0, 1.0, DType::I64, &Device::Cpu)?.to_vec::<i64>()?, [0, 1, 2]);
    /// assert_eq!(Tensor::arange(1.0, 0.0, -0.25, DType::F32, &Device::Cpu)?.numel(), 4);
    /// # Ok(()) }
    /// ```
    pub fn arange(start: f64, end: f64, step: f64, dtype: DType, device: &Device) -> Result<Tensor> {
        let count = ((end - start) / step).ceil();
        if !count.is_finite() || count < 0.0 {
            let why = format!("no number of steps of {step} leads from {start} to {end}");
            return Err(Error::Value { op: "arange", operands: Operands(vec![]), why });
        }
        of_numbers("arange", [count as usize].into_shape()?, dtype, device, |i| start + step * i as f64)
    }

    /// `count` numbers in equal steps from `start` to `end`, both included. f32, f16 or bf16; f64 on the CPU.
    ///
    /// ```
    /// # use fornax_engine::{DType, Device, Result, Tensor};
    /// # fn main() -> Result<()> {
    /// assert_eq!(Tensor::linspace(0.0, 1.0, 3, DType::F32, &Device::Cpu)?.to_vec::<f32>()?, [0.0, 0.5, 1.0]);
    /// # Ok(()) }
    /// ```
    pub fn linspace(start: f64, end: f64, count: usize, dtype: DType, device: &Device) -> Result<Tensor> {
        let step = (end - start) / count.saturating_sub(1).max(1) as f64;
        // The second half counts from the end, so that the last number is exact.
        let number = |i: usize| {
            if i < count / 2 || count == 1 {
                start + step * i as f64
            } else {
                end - step * (count - 1 - i) as f64
            }
        };
        of_numbers("linspace", [count].into_shape()?, dtype, device, number)
    }

    /// The identity of `n` rows and columns. Any dtype; f64 on the CPU only.
    ///
    /// ```
    /// # use fornax_engine::{DType, Device, Result, Tensor};
    /// # fn main() -> Result<()> {
    /// assert_eq!(Tensor::eye(2, DType::F32, &Device::Cpu)?.to_vec::<f32>()?, [1.0, 0.0, 0.0, 1.0]);
    /// # Ok(()) }
    /// ```
    pub fn eye(n: usize, dtype: DType, device: &Device) -> Result<Tensor> {
        of_numbers("eye", [n, n].into_shape()?, dtype, device, |i| f64::from(u8::from(i / n == i % n)))
    }

    /// A tensor of shape, dtype and device of this one, whose elements are all `value`. Any dtype.
    ///
    /// ```
    /// # use fornax_engine::{Result, Tensor};
    /// # fn main() -> Result<()> {
    /// let x = Tensor::new([1.0f32, 2.0])?;
    /// assert_eq!(x.full_like(7.0)?.to_vec::<f32>()?, [7.0, 7.0]);
    /// assert_eq!((x.zeros_like()? + x.ones_like()?)?.to_vec::<f32>()?, [1.0, 1.0]);
    /// # Ok(()) }
    /// ```
    pub fn full_like(&self, value: f64) -> Result<Tensor> {
        Tensor::full(*self.shape(), value, self.dtype(), &self.device())
    }

    /// Zeros of shape, dtype and device of this tensor.
    pub fn zeros_like(&self) -> Result<Tensor> {
        self.full_like(0.0)
    }

    /// Ones of shape, dtype and device of this tensor.
    pub fn ones_like(&self) -> Result<Tensor> {
        self.full_like(1.0)
    }
}

/// A tensor whose element `i` is `number(i)`, rounded to the dtype.
fn of_numbers(
    op: &'static str,
    shape: Shape,
    dtype: DType,
    device: &Device,
    mut number: impl FnMut(usize) -> f64,
) -> Result<Tensor> {
    if !dtype.is_float() && !matches!(op, "arange" | "eye") {
        return Err(Error::DType {
            op,
            operands: Operands(vec![]),
            accepted: "f32, f16, bf16 or f64".into(),
        });
    }
    let on_cpu = dispatch_any!(dtype, T => Tensor::build(shape, |out: &mut [T]| {
        out.iter_mut().enumerate().for_each(|(i, v)| *v = <T as Element>::from_f64(number(i)));
    }))?;
    on_cpu.to_device(device)
}
