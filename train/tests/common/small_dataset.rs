//! A dataset that takes two updates an epoch.
use std::fs;
use std::path::Path;

/// Flags that train on the files of [`write_small_dataset`] in the working folder.
#[allow(dead_code)]
pub const SMALL_DATASET: &str = "--dataset idx --data-dir small --batch-size 16";

/// Writes IDX files of 32 training and 16 validation images of 8x8 pixels in 4 classes to `small` in a folder.
pub fn write_small_dataset(folder: &Path) {
    write_dataset(&folder.join("small"), 16);
}

/// Writes IDX files of 32 training images and some validation images of 8x8 pixels in 4 classes to a folder.
pub fn write_dataset(folder: &Path, validation: u32) {
    fs::create_dir_all(folder).expect("a folder");
    for (split, images) in [("train", 32), ("t10k", validation)] {
        let words = |words: &[u32]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<u8>>();
        let pixel = |i: u32| (i * 7919 % 251) as u8;
        let pixels = [words(&[0x803, images, 8, 8]), (0..images * 64).map(pixel).collect()].concat();
        let labels = [words(&[0x801, images]), (0..images).map(|i| (i % 4) as u8).collect()].concat();
        fs::write(folder.join(format!("{split}-images-idx3-ubyte")), pixels).expect("writes");
        fs::write(folder.join(format!("{split}-labels-idx1-ubyte")), labels).expect("writes");
    }
}
