//! Memory of the loader over many images; alone in its process, whose resident memory it measures.
#![cfg(target_os = "linux")]
use fornax::augment::{TrainCropMode, TransformOptions};
use fornax::data::InMemoryDataset;
use fornax::loader::{Loader, LoaderOptions};
use std::sync::Arc;

const SIDE: usize = 128;

/// Resident memory of this process in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number") * 4096
}

#[test]
fn memory_is_flat_over_ten_thousand_images() {
    let bytes = 100 * SIDE * SIDE * 3;
    let dataset = InMemoryDataset::uniform(
        (0..bytes).map(|i| (i % 251) as u8).collect(),
        [SIDE, SIDE, 3],
        vec![0; 100],
        vec!["a".to_string()].into(),
        "memory",
    );
    let transform = TransformOptions {
        size: [SIDE, SIDE],
        train_crop_mode: TrainCropMode::Shift,
        shift: 2,
        color_jitter: vec![],
        ..TransformOptions::default()
    };
    let transform = transform.train_transform().expect("valid");
    let options =
        LoaderOptions { batch_size: 20, workers: 2, epoch_repeats: 100.0, ..LoaderOptions::default() };
    let loader = Loader::new(Arc::new(dataset.expect("valid")), Arc::new(transform), options).expect("valid");
    let mut resident_at = vec![];
    for batch in loader.epoch(0, 0).expect("starts") {
        assert_eq!(batch.expect("a batch").images.dims()[0], 20);
        resident_at.push(resident());
    }
    assert_eq!(resident_at.len() * 20, 10_000);
    // A batch has 1 MB: keeping the images would add 400 MB.
    let (early, late) = (resident_at[100], resident_at[499]);
    assert!(late <= early + (16 << 20), "{early} bytes after 2,000 images, {late} after 10,000");
}
