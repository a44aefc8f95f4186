//! Status codes of cuDNN's backend descriptors, as one table for the emulated device's cuDNN and the real one (`scripts/check-cudnn`).
//! The calls are raw, as the engine's wrapper rules these errors out.
use libloading::Library;
use std::ffi::c_void;

type Create = unsafe extern "C" fn(i32, *mut *mut c_void) -> i32;
type Destroy = unsafe extern "C" fn(*mut c_void) -> i32;
type Set = unsafe extern "C" fn(*mut c_void, i32, i32, i64, *const c_void) -> i32;
type Get = unsafe extern "C" fn(*mut c_void, i32, i32, i64, *mut i64, *mut c_void) -> i32;

// Numbers of cudnn_graph.h.
const CONVOLUTION: i32 = 1;
const FORWARD: i32 = 10;
const GRAPH: i32 = 15;
const PACK: i32 = 16;
const TENSOR: i32 = 17;
const DATA_TYPE: i32 = 1;
const INT64: i32 = 3;
const FLOAT: i32 = 4;
const POINTER: i32 = 6;
const MODE: i32 = 7;
const DESCRIPTOR: i32 = 15;

/// The functions of one library.
struct Cudnn<'a> {
    library: &'a Library,
}

struct Descriptor<'a> {
    cudnn: &'a Cudnn<'a>,
    raw: *mut c_void,
}

impl Drop for Descriptor<'_> {
    fn drop(&mut self) {
        // SAFETY: the type is the C header's, and this value owns the descriptor.
        unsafe { self.cudnn.function::<Destroy>("cudnnBackendDestroyDescriptor")(self.raw) };
    }
}

impl Cudnn<'_> {
    /// # Safety
    /// `F` must be the function's type.
    unsafe fn function<F: Copy>(&self, name: &str) -> F {
        // SAFETY: as the caller promises.
        *unsafe { self.library.get::<F>(name) }.unwrap()
    }

    fn create(&self, kind: i32) -> Result<Descriptor<'_>, i32> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the library writes one pointer.
        let status = unsafe { self.function::<Create>("cudnnBackendCreateDescriptor")(kind, &mut raw) };
        if status == 0 { Ok(Descriptor { cudnn: self, raw }) } else { Err(status) }
    }

    fn tensor(&self, id: i64, dims: [i64; 4], alignment: i64) -> Result<Descriptor<'_>, i32> {
        let [_, c, h, w] = dims;
        let tensor = self.create(TENSOR)?;
        tensor.set(901, DATA_TYPE, &[0i32])?;
        tensor.set(902, INT64, &dims)?;
        tensor.set(903, INT64, &[h * w * c, 1, w * c, c])?;
        tensor.set(906, INT64, &[id])?;
        tensor.set(900, INT64, &[alignment])?;
        tensor.finish()?;
        Ok(tensor)
    }

    /// The geometry of a convolution with padding 1.
    fn convolution(&self) -> Result<Descriptor<'_>, i32> {
        self.convolution_with(&[1, 1])
    }

    fn convolution_with(&self, padding: &[i64]) -> Result<Descriptor<'_>, i32> {
        let convolution = self.create(CONVOLUTION)?;
        convolution.set(100, DATA_TYPE, &[0i32])?;
        convolution.set(101, MODE, &[1i32])?;
        convolution.set(106, INT64, &[2i64])?;
        for (name, values) in [(102, &[1, 1][..]), (103, &[1, 1]), (104, padding), (105, padding)] {
            convolution.set(name, INT64, values)?;
        }
        convolution.finish()?;
        Ok(convolution)
    }

    fn forward(&self, image: [i64; 4], weight: [i64; 4], output: [i64; 4]) -> Result<Descriptor<'_>, i32> {
        let operation = self.create(FORWARD)?;
        for (name, id, dims) in [(704, 1, image), (703, 2, weight), (705, 3, output)] {
            operation.set(name, DESCRIPTOR, &[self.tensor(id, dims, 16)?.raw])?;
        }
        operation.set(702, DESCRIPTOR, &[self.convolution()?.raw])?;
        operation.set(700, FLOAT, &[1.0f32])?;
        operation.set(701, FLOAT, &[0.0f32])?;
        operation.finish()?;
        Ok(operation)
    }
}

impl Descriptor<'_> {
    fn set<T>(&self, name: i32, tag: i32, values: &[T]) -> Result<(), i32> {
        let (count, from) = (values.len() as i64, values.as_ptr().cast());
        // SAFETY: there are `count` values; the library rejects a wrong type tag before it reads them.
        status(unsafe {
            self.cudnn.function::<Set>("cudnnBackendSetAttribute")(self.raw, name, tag, count, from)
        })
    }

    fn finish(&self) -> Result<(), i32> {
        // SAFETY: the descriptor is alive.
        status(unsafe { self.cudnn.function::<Destroy>("cudnnBackendFinalize")(self.raw) })
    }

    fn get(&self, name: i32) -> Result<(), i32> {
        let (mut count, mut value) = (0i64, 0i64);
        let to = (&raw mut value).cast();
        // SAFETY: the buffer holds one value of 8 bytes.
        status(unsafe {
            self.cudnn.function::<Get>("cudnnBackendGetAttribute")(self.raw, name, INT64, 1, &mut count, to)
        })
    }
}

fn status(status: i32) -> Result<(), i32> {
    if status == 0 { Ok(()) } else { Err(status) }
}

/// Name of a call, the expected status (0 for success), and the call.
type Case = (&'static str, i32, fn(&Cudnn) -> Result<(), i32>);

const CASES: [Case; 25] = [
    ("a descriptor of an unknown type", 4003, |c| c.create(9999).map(drop)),
    ("a tensor's dimensions as floats", 2010, |c| c.create(TENSOR)?.set(902, FLOAT, &[1.0f32; 4])),
    ("two unique ids", 2000, |c| c.create(TENSOR)?.set(906, INT64, &[1i64, 2])),
    ("a convolution's attribute on a tensor", 2000, |c| c.create(TENSOR)?.set(101, MODE, &[1i32])),
    ("a tensor without attributes", 2000, |c| c.create(TENSOR)?.finish()),
    ("an alignment of half an element", 2000, |c| c.tensor(1, [1, 2, 3, 4], 2).map(drop)),
    ("a dimension of zero", 0, |c| c.tensor(1, [0, 2, 3, 4], 16).map(drop)),
    ("reading before finalising", 1001, |c| c.create(TENSOR)?.get(906)),
    ("setting after finalising", 2000, |c| c.tensor(1, [1, 2, 3, 4], 16)?.set(906, INT64, &[2i64])),
    ("finalising twice", 2000, |c| c.tensor(1, [1, 2, 3, 4], 16)?.finish()),
    ("a convolution without geometry", 2000, |c| c.create(CONVOLUTION)?.finish()),
    ("a convolution that fits", 0, |c| c.forward([2, 4, 6, 6], [8, 4, 3, 3], [2, 8, 6, 6]).map(drop)),
    ("two groups", 0, |c| c.forward([2, 4, 6, 6], [8, 2, 3, 3], [2, 8, 6, 6]).map(drop)),
    ("channels that groups do not divide", 2000, |c| {
        c.forward([2, 4, 6, 6], [8, 3, 3, 3], [2, 8, 6, 6]).map(drop)
    }),
    ("an output of another size", 2000, |c| c.forward([2, 4, 6, 6], [8, 4, 3, 3], [2, 8, 5, 6]).map(drop)),
    ("an operand that is not finalised", 2000, |c| {
        let (unfinished, operation) = (c.create(TENSOR)?, c.create(FORWARD)?);
        operation.set(704, DESCRIPTOR, &[unfinished.raw])?;
        operation.set(703, DESCRIPTOR, &[c.tensor(2, [8, 4, 3, 3], 16)?.raw])?;
        operation.set(705, DESCRIPTOR, &[c.tensor(3, [2, 8, 6, 6], 16)?.raw])?;
        operation.set(702, DESCRIPTOR, &[c.convolution()?.raw])?;
        operation.set(700, FLOAT, &[1.0f32])?;
        operation.set(701, FLOAT, &[0.0f32])?;
        operation.finish()
    }),
    ("heuristics without a graph", 2000, |c| c.create(4)?.finish()),
    ("an operation without operands", 2000, |c| c.create(FORWARD)?.finish()),
    ("a weight of another tensor's channels", 2000, |c| {
        c.forward([2, 4, 6, 6], [8, 8, 3, 3], [2, 8, 6, 6]).map(drop)
    }),
    ("an output of another batch", 2000, |c| c.forward([2, 4, 6, 6], [8, 4, 3, 3], [3, 8, 6, 6]).map(drop)),
    ("an output of other channels", 2000, |c| c.forward([2, 4, 6, 6], [8, 4, 3, 3], [2, 16, 6, 6]).map(drop)),
    ("odd outputs of two groups", 2000, |c| c.forward([2, 4, 6, 6], [7, 2, 3, 3], [2, 7, 6, 6]).map(drop)),
    ("a dimension below zero", 2000, |c| c.tensor(1, [-1, 2, 3, 4], 16).map(drop)),
    ("one padding for two axes", 2000, |c| c.convolution_with(&[1]).map(drop)),
    ("a graph without operations", 2000, |c| c.create(GRAPH)?.finish()),
];

/// Makes every call; the ones whose status differs from the table.
pub fn differences(library: &Library) -> Vec<String> {
    let cudnn = Cudnn { library };
    let mut different = Vec::new();
    for (what, expected, call) in CASES {
        let status = call(&cudnn).err().unwrap_or(0);
        if status != expected {
            different.push(format!("{what}: status {status} instead of {expected}"));
        }
    }
    let pack = cudnn.create(PACK).unwrap();
    pack.set(1000, INT64, &[1i64, 2]).unwrap();
    pack.set(1001, POINTER, &[256usize]).unwrap();
    pack.set(1003, POINTER, &[0usize]).unwrap();
    if pack.finish().is_ok() {
        different.push("a variant pack of two ids and one pointer: accepted".into());
    }
    different
}
