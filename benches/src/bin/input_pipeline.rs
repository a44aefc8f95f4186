//! Fornax's input pipeline on one thread: JPEG files to a u8 batch `[n, 224, 224, 3]` by random resized crop (bilinear or bicubic) and
//! horizontal flip. `scripts/bench-input-pipeline` runs it and torchvision interleaved.
//!
//!     input_pipeline FOLDER
//!
//! Reads rounds from standard input, one per line: `region BATCHES`, where only the crop is decoded, or `whole BATCHES`, where the whole
//! image is. Prints a JSON line for each round: images, CPU seconds, and resident bytes after it.
use fornax::augment::{ImageTransform, TrainTransform, TransformOptions};
use fornax::data::Image;
use fornax::data::decode::DecodeOptions;
use fornax_benches::machine::{memory, thread_cpu_seconds};
use fornax_engine::random::{RngKey, RngStream};
use std::io::BufRead;
use std::{fs, io};

/// Images per batch.
const BATCH: usize = 64;
/// Height and width of the results.
const SIZE: usize = 224;

struct Pipeline {
    files: Vec<Vec<u8>>,
    transform: TrainTransform,
    batch: Vec<u8>,
    /// Images made so far, the sample number of the next one.
    images: u64,
}

fn main() {
    let folder = std::env::args().nth(1).unwrap_or_else(|| usage());
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .expect("the folder exists")
        .map(|entry| entry.expect("a file").path())
        .collect();
    paths.sort();
    let transform = TransformOptions { size: [SIZE; 2], color_jitter: vec![], ..TransformOptions::default() };
    let mut pipeline = Pipeline {
        files: paths.iter().map(|path| fs::read(path).expect("the file is readable")).collect(),
        transform: transform.train_transform().expect("the options are valid"),
        batch: vec![0; BATCH * SIZE * SIZE * 3],
        images: 0,
    };
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let (decoding, batches) = line.split_once(' ').unwrap_or_else(|| usage());
        let batches: u64 = batches.parse().unwrap_or_else(|_| usage());
        let start = thread_cpu_seconds();
        for _ in 0..batches {
            match decoding {
                "region" => pipeline.fill_batch(true),
                "whole" => pipeline.fill_batch(false),
                _ => usage(),
            }
        }
        let round = serde_json::json!({
            "images": batches * BATCH as u64,
            "cpu_seconds": thread_cpu_seconds() - start,
            "memory_bytes": memory(),
        });
        println!("{round}");
    }
}

impl Pipeline {
    fn fill_batch(&mut self, region: bool) {
        let options = DecodeOptions::new(3);
        for result in self.batch.chunks_exact_mut(SIZE * SIZE * 3) {
            let bytes = &self.files[self.images as usize % self.files.len()];
            let mut rng = RngStream::new(RngKey::new(0, "augment"), 0, self.images);
            let views = if region {
                self.transform.apply_encoded(bytes, &options, &mut rng)
            } else {
                Image::decode_with(bytes, &options).and_then(|image| self.transform.apply(&image, &mut rng))
            };
            result.copy_from_slice(&views.expect("the files are images")[0].pixels);
            self.images += 1;
        }
        std::hint::black_box(&self.batch);
    }
}

fn usage() -> ! {
    eprintln!("usage: input_pipeline FOLDER; on standard input, lines `region BATCHES` or `whole BATCHES`");
    std::process::exit(2);
}
