//! The memory behind tensors: one buffer on a device, shared by views, read and written under a lock.
use crate::cpu::memory::CpuBuffer;
use crate::cuda::{CudaError, DeviceBuffer, DeviceSlice, Gpu};
use crate::{DType, Device, Element, Result, shapes_only};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::any::Any;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::panic::RefUnwindSafe;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// A buffer on a device. It can move to another device: all tensors that share it move with it.
pub(crate) struct Storage {
    /// Device of the buffer, readable without its lock: 0 is the CPU, i + 1 is CUDA device i.
    device_index: AtomicUsize,
    /// Version counter: incremented by every change after the elements were first written. The autocast cache is valid for one version.
    version: AtomicU64,
    buffer: RwLock<StorageBuffer>,
    /// Formula of the elements, until they are written to. After the elements were computed it is kept only if `keeps_formula`.
    formula: Mutex<Option<Arc<dyn DeferredElements>>>,
    keeps_formula: bool,
}

// A panic while writing leaves valid numbers, so tensors may be used after it is caught, as with std's lock.
impl RefUnwindSafe for Storage {}

/// Formula of elements on the CPU that are computed when they are first read or written.
pub(crate) trait DeferredElements: Any + Send + Sync {
    /// Size of the elements in bytes.
    fn bytes(&self) -> usize;
    /// Computes the elements.
    fn compute(&self) -> Result<CpuBuffer>;
}

/// The buffer of a storage.
pub(crate) enum StorageBuffer {
    Cpu(CpuBuffer),
    Cuda(DeviceBuffer),
    /// Not computed yet.
    Deferred,
}

impl Storage {
    /// Host memory for `len` elements of `T`, filled by `fill`.
    pub(crate) fn build<T: Element>(len: usize, fill: impl FnOnce(&mut [T])) -> Result<Storage> {
        let bytes = T::DTYPE.bytes(len);
        if shapes_only::is_active() {
            return Ok(Storage::of(StorageBuffer::Cpu(CpuBuffer::untouched(bytes)?)));
        }
        let mut buffer = CpuBuffer::new(bytes)?;
        fill(buffer.as_mut_slice());
        Ok(Storage::of(StorageBuffer::Cpu(buffer)))
    }

    /// Host memory of a buffer.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_cpu(buffer: CpuBuffer) -> Storage {
        Storage::of(StorageBuffer::Cpu(buffer))
    }

    /// Elements that are computed at their first use. With `keeps_formula` the formula is available afterwards, too.
    pub(crate) fn deferred(formula: Arc<dyn DeferredElements>, keeps_formula: bool) -> Storage {
        Storage { formula: Mutex::new(Some(formula)), keeps_formula, ..Storage::of(StorageBuffer::Deferred) }
    }

    /// Device memory of arbitrary content.
    pub(crate) fn on_gpu(
        gpu: &Arc<Gpu>,
        len: usize,
        dtype: DType,
    ) -> std::result::Result<Storage, CudaError> {
        Ok(Storage::of(StorageBuffer::Cuda(gpu.empty(len, dtype)?)))
    }

    pub(crate) fn device(&self) -> Device {
        match self.device_index.load(Ordering::Acquire) {
            0 => Device::Cpu,
            i => Device::Cuda(i - 1),
        }
    }

    /// The buffer, locked for reading, after deferred elements were computed. A panic while writing leaves valid numbers.
    pub(crate) fn buffer(&self) -> Result<RwLockReadGuard<'_, StorageBuffer>> {
        let guard = self.locked();
        if !matches!(&*guard, StorageBuffer::Deferred) {
            return Ok(guard);
        }
        drop(guard);
        drop(self.buffer_mut()?);
        Ok(self.locked())
    }

    /// The formula of the elements, if they are deferred or were, and it was kept.
    pub(crate) fn formula(&self) -> Option<Arc<dyn DeferredElements>> {
        self.formula_slot().clone()
    }

    /// True if the elements are not computed yet.
    pub(crate) fn is_deferred(&self) -> bool {
        matches!(&*self.locked(), StorageBuffer::Deferred)
    }

    /// The buffer, locked for reading. Recursive: an operation may read one storage by several operands (`x.add(&x)`), and its second lock
    /// must not wait for a writer that waits for the first, as a lock that prefers writers would.
    fn locked(&self) -> RwLockReadGuard<'_, StorageBuffer> {
        self.buffer.read_recursive()
    }

    fn formula_slot(&self) -> MutexGuard<'_, Option<Arc<dyn DeferredElements>>> {
        self.formula.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The version counter.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Increments the version counter.
    pub(crate) fn bump_version(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// The buffer, locked for writing, after deferred elements were computed.
    fn buffer_mut(&self) -> Result<RwLockWriteGuard<'_, StorageBuffer>> {
        let mut guard = self.buffer.write();
        if matches!(&*guard, StorageBuffer::Deferred) {
            let formula = self.formula().expect("deferred elements have a formula");
            *guard = StorageBuffer::Cpu(formula.compute()?);
            if !self.keeps_formula {
                *self.formula_slot() = None;
            }
        }
        Ok(guard)
    }

    /// Replaces the buffer with one of the same elements on another device.
    pub(crate) fn replace(&self, buffer: StorageBuffer) {
        let mut guard = self.buffer.write();
        *self.formula_slot() = None;
        self.device_index.store(device_index(&buffer), Ordering::Release);
        *guard = buffer;
    }

    /// Capacity in elements of `dtype`.
    pub(crate) fn len(&self, dtype: DType) -> usize {
        match &*self.locked() {
            StorageBuffer::Cpu(buffer) => buffer.as_slice::<u8>().len() / dtype.size(),
            StorageBuffer::Cuda(buffer) => buffer.as_slice(dtype).len,
            StorageBuffer::Deferred => self.formula().map_or(0, |formula| formula.bytes() / dtype.size()),
        }
    }

    pub(crate) fn into_buffer(self) -> StorageBuffer {
        self.buffer.into_inner()
    }

    fn of(buffer: StorageBuffer) -> Storage {
        Storage {
            device_index: AtomicUsize::new(device_index(&buffer)),
            version: AtomicU64::new(0),
            buffer: RwLock::new(buffer),
            formula: Mutex::default(),
            keeps_formula: false,
        }
    }
}

fn device_index(buffer: &StorageBuffer) -> usize {
    match buffer {
        StorageBuffer::Cpu(_) | StorageBuffer::Deferred => 0,
        StorageBuffer::Cuda(buffer) => buffer.gpu().ordinal() + 1,
    }
}

/// Read access to the elements of a tensor: holds the tensor's lock, or a host copy of elements on a GPU.
pub struct ReadGuard<'a, T> {
    bytes: Bytes<'a>,
    start: usize,
    len: usize,
    element: PhantomData<T>,
}

enum Bytes<'a> {
    Shared(RwLockReadGuard<'a, StorageBuffer>),
    Copied(CpuBuffer),
}

impl<'a, T: Element> ReadGuard<'a, T> {
    /// `len` elements from `start` on: borrowed from host memory, or copied from device memory.
    pub(crate) fn new(
        storage: &'a Storage,
        start: usize,
        len: usize,
    ) -> Result<std::result::Result<ReadGuard<'a, T>, CudaError>> {
        let guard = storage.buffer()?;
        let StorageBuffer::Cuda(buffer) = &*guard else {
            return Ok(Ok(ReadGuard { bytes: Bytes::Shared(guard), start, len, element: PhantomData }));
        };
        let mut copy = CpuBuffer::new(T::DTYPE.bytes(len))?;
        let downloaded = buffer.gpu().download(buffer.slice(start, len, T::DTYPE), copy.as_mut_slice());
        Ok(downloaded.map(|()| ReadGuard { bytes: Bytes::Copied(copy), start: 0, len, element: PhantomData }))
    }
}

impl<T: Element> Deref for ReadGuard<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        let buffer = match &self.bytes {
            Bytes::Copied(buffer) => buffer,
            Bytes::Shared(guard) => cpu_buffer(guard),
        };
        &buffer.as_slice()[self.start..][..self.len]
    }
}

/// Write access to the elements of a tensor in host memory; holds the tensor's lock exclusively.
pub struct WriteGuard<'a, T> {
    guard: RwLockWriteGuard<'a, StorageBuffer>,
    start: usize,
    len: usize,
    element: PhantomData<T>,
}

impl<'a, T: Element> WriteGuard<'a, T> {
    /// `len` elements from `start` on, or `None` when they are not in host memory.
    pub(crate) fn new(storage: &'a Storage, start: usize, len: usize) -> Result<Option<WriteGuard<'a, T>>> {
        let guard = storage.buffer_mut()?;
        *storage.formula_slot() = None;
        storage.bump_version();
        let is_on_cpu = matches!(&*guard, StorageBuffer::Cpu(_));
        Ok(is_on_cpu.then_some(WriteGuard { guard, start, len, element: PhantomData }))
    }
}

impl<T: Element> Deref for WriteGuard<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &cpu_buffer(&self.guard).as_slice()[self.start..][..self.len]
    }
}

impl<T: Element> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let StorageBuffer::Cpu(buffer) = &mut *self.guard else {
            unreachable!("the guard was made for host memory")
        };
        &mut buffer.as_mut_slice()[self.start..][..self.len]
    }
}

fn cpu_buffer(block: &StorageBuffer) -> &CpuBuffer {
    let StorageBuffer::Cpu(buffer) = block else { unreachable!("the guard was made for host memory") };
    buffer
}

/// The elements of a tensor in device memory, for kernel launchers. Holds the read lock, so that they cannot move meanwhile.
pub(crate) struct DeviceView<'a> {
    guard: RwLockReadGuard<'a, StorageBuffer>,
    start: usize,
    len: usize,
    dtype: DType,
}

impl<'a> DeviceView<'a> {
    pub(crate) fn new(storage: &'a Storage, start: usize, len: usize, dtype: DType) -> DeviceView<'a> {
        DeviceView { guard: storage.locked(), start, len, dtype }
    }

    pub(crate) fn slice(&self) -> DeviceSlice<'_> {
        self.buffer().slice(self.start, self.len, self.dtype)
    }

    pub(crate) fn gpu(&self) -> &Arc<Gpu> {
        self.buffer().gpu()
    }

    /// The whole buffer, which views share.
    pub(crate) fn buffer(&self) -> &DeviceBuffer {
        let StorageBuffer::Cuda(buffer) = &*self.guard else {
            panic!("a kernel launcher received a tensor on the CPU")
        };
        buffer
    }
}

#[cfg(test)]
mod tests {
    use crate::Tensor;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn second_read_while_a_writer_waits_does_not_deadlock() {
        let x = Tensor::scalar(1.0f32).expect("memory");
        let (done, result) = mpsc::channel();
        thread::spawn(move || {
            let first = x.read::<f32>().expect("f32");
            let writer = {
                let x = x.clone();
                thread::spawn(move || x.write::<f32>().expect("f32")[0] = 2.0)
            };
            // Time for the writer to reach the lock.
            thread::sleep(Duration::from_millis(100));
            let sum = first[0] + x.read::<f32>().expect("f32")[0];
            drop(first);
            writer.join().expect("the writer ends");
            done.send((sum, x.item().expect("one element"))).expect("the test waits");
        });
        let values = result.recv_timeout(Duration::from_secs(20)).expect("both reads and the write end");
        assert_eq!(values, (2.0, 2.0));
    }
}
