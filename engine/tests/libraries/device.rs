pub struct Device;
pub struct Block {
    data: Vec<u64>,
    offset: usize,
    len: usize,
}
impl Device {
    pub fn open() -> Device {
        Device
    }
    pub fn stream(&self) -> cudarc::driver::sys::CUstream {
        std::ptr::null_mut()
    }
    pub fn upload(&self, bytes: &[u8], offset: usize) -> Block {
        let mut data = vec![0u64; (bytes.len() + offset) / 8 + 64];
        let base = data.as_ptr() as usize;
        let offset = base.next_multiple_of(256) - base + offset;
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                data.as_mut_ptr().cast::<u8>().add(offset),
                bytes.len(),
            )
        };
        Block { data, offset, len: bytes.len() }
    }
    pub fn allocate(&self, len: usize, offset: usize) -> Block {
        self.upload(&vec![0; len], offset)
    }
    pub fn download(&self, b: &Block) -> Vec<u8> {
        unsafe { std::slice::from_raw_parts(b.data.as_ptr().cast::<u8>().add(b.offset), b.len) }.to_vec()
    }
}
impl Block {
    pub fn pointer(&self) -> u64 {
        self.data.as_ptr() as u64 + self.offset as u64
    }
}
