//! The memory behind tensors: one block, shared by views, read and written under a lock.
use crate::cpu::memory::CpuBuffer;
use crate::{Element, Result};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A block of memory on a device.
pub(crate) struct Storage(RwLock<CpuBuffer>);

impl Storage {
    /// A block for `len` elements of `T`, filled by `fill`.
    pub(crate) fn build<T: Element>(len: usize, fill: impl FnOnce(&mut [T])) -> Result<Storage> {
        let mut buffer = CpuBuffer::new(len * std::mem::size_of::<T>())?;
        fill(buffer.as_mut_slice());
        Ok(Storage(RwLock::new(buffer)))
    }

    pub(crate) fn read<T: Element>(&self, start: usize, len: usize) -> Read<'_, T> {
        // A panic while writing leaves plain numbers: the lock's poison carries no news.
        let guard = self.0.read().unwrap_or_else(|e| e.into_inner());
        Read { guard, start, len, element: PhantomData }
    }

    pub(crate) fn write<T: Element>(&self, start: usize, len: usize) -> Write<'_, T> {
        let guard = self.0.write().unwrap_or_else(|e| e.into_inner());
        Write { guard, start, len, element: PhantomData }
    }
}

/// The elements of a tensor, to read; holds the tensor's lock.
pub struct Read<'a, T> {
    guard: RwLockReadGuard<'a, CpuBuffer>,
    start: usize,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Element> Deref for Read<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.guard.as_slice()[self.start..self.start + self.len]
    }
}

/// The elements of a tensor, to write in place; holds the tensor's lock alone.
pub struct Write<'a, T> {
    guard: RwLockWriteGuard<'a, CpuBuffer>,
    start: usize,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Element> Deref for Write<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.guard.as_slice()[self.start..self.start + self.len]
    }
}

impl<T: Element> DerefMut for Write<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.guard.as_mut_slice()[self.start..self.start + self.len]
    }
}
