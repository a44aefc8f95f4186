//! The data loader: batches that do not depend on threads, ranks or resuming, bad samples, and staging on a device.
use fornax::augment::ImageTransform;
use fornax::data::{BadImagePolicy, BadImages, Dataset, Image, SampleImage};
use fornax::error::{ErrorKind, Signal};
use fornax::loader::{
    Batch, BatchChanges, BatchPreparation, BatchTransform, GlobalBatch, Loader, LoaderOptions,
};
use fornax::{Error, Result};
use fornax_engine::random::RngStream;
use fornax_engine::{DType, Device, EraseMode, ImageBox, ImageChange, Tensor};
use fornax_kernels::emulator;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const SIZE: [usize; 3] = [6, 5, 3];
const CLASSES: usize = 7;

/// What happens when a sample is read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Panic,
    Stall,
    Missing,
    InputOutput,
    Damaged,
}

/// Images of random size and content, some of which cannot be read.
#[derive(Default)]
struct Synthetic {
    len: usize,
    clip_len: usize,
    faults: BTreeMap<usize, Fault>,
    classes: Vec<String>,
    reads: AtomicUsize,
    released: (Mutex<bool>, Condvar),
}

impl Synthetic {
    fn new(len: usize) -> Synthetic {
        let classes = (0..CLASSES).map(|c| c.to_string()).collect();
        Synthetic { len, clip_len: 1, classes, ..Synthetic::default() }
    }

    fn with(mut self, index: usize, fault: Fault) -> Synthetic {
        self.faults.insert(index, fault);
        self
    }

    /// Ends all stalls.
    fn release(&self) {
        *self.released.0.lock().expect("no panic") = true;
        self.released.1.notify_all();
    }
}

/// The image with all pixels of the sample's number.
fn image(index: usize, frame: usize) -> Image {
    let pixels = (0..SIZE.iter().product()).map(|i| ((index * 31 + frame * 7 + i) % 256) as u8).collect();
    Image { size: SIZE, pixels }
}

impl Dataset for Synthetic {
    fn len(&self) -> usize {
        self.len
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn target(&self, index: usize) -> u32 {
        (index % CLASSES) as u32
    }
    fn image(&self, index: usize) -> Result<SampleImage<'_>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let unreadable = |error: std::io::ErrorKind| {
            let path = self.location(index);
            let error = std::io::Error::from(error);
            Err(Error::unreadable(ErrorKind::Data, "an image cannot be read", path.as_ref(), &error))
        };
        match self.faults.get(&index) {
            None => Ok(SampleImage::Decoded(image(index, 0))),
            Some(Fault::Panic) => panic!("planted"),
            Some(Fault::Missing) => unreadable(std::io::ErrorKind::NotFound),
            Some(Fault::InputOutput) => unreadable(std::io::ErrorKind::Other),
            Some(Fault::Damaged) => Ok(SampleImage::Encoded(b"no image"[..].into())),
            Some(Fault::Stall) => {
                let released = self.released.0.lock().expect("no panic");
                drop(self.released.1.wait_while(released, |released| !*released));
                Ok(SampleImage::Decoded(image(index, 0)))
            }
        }
    }
    fn location(&self, index: usize) -> String {
        format!("/images/{index}.png")
    }
    fn crc32c(&self) -> u32 {
        self.len as u32
    }
    fn clip_len(&self) -> usize {
        self.clip_len
    }
    fn clip(&self, index: usize, rng: Option<&mut RngStream>) -> Result<Vec<SampleImage<'_>>> {
        let first = rng.map_or(0, |rng| rng.below(3) as usize);
        Ok((0..self.clip_len).map(|t| SampleImage::Decoded(image(index, first + t))).collect())
    }
}

/// Adds a random number to every pixel, and the number of the view.
struct Shade {
    views: usize,
}

impl ImageTransform for Shade {
    fn output_size(&self) -> [usize; 2] {
        [SIZE[0], SIZE[1]]
    }
    fn views(&self) -> usize {
        self.views
    }
    fn apply(&self, image: &Image, rng: &mut RngStream) -> std::result::Result<Vec<Image>, String> {
        let shade = rng.below(50) as u8;
        let shaded = |view: usize| {
            let add = |p: &u8| p.wrapping_add(shade).wrapping_add(view as u8);
            Image { size: image.size, pixels: image.pixels.iter().map(add).collect() }
        };
        Ok((0..self.views).map(shaded).collect())
    }
}

/// Mixes every image with its mirror image in the batch, and erases a box.
struct Mix {
    half: bool,
}

impl BatchTransform for Mix {
    fn max_erase_boxes(&self) -> usize {
        1
    }
    fn changes(&self, batch: &GlobalBatch) -> std::result::Result<BatchChanges, String> {
        let n = batch.samples.len();
        let lam = batch.rng("mix").uniform();
        let results = if self.half { n / 2 } else { n };
        let change = |i: usize| {
            let left = batch.sample_rng("box", i).below(3);
            ImageChange {
                partner: n - 1 - i,
                lam,
                erase_boxes: vec![ImageBox { top: 0, bottom: 2, left, right: left + 2 }],
                ..ImageChange::none(i)
            }
        };
        let row = |i: usize| {
            let mut row = vec![0.0f32; CLASSES];
            row[batch.targets[i] as usize] += lam;
            row[batch.targets[n - 1 - i] as usize] += 1.0 - lam;
            row
        };
        let target: Vec<f32> = (0..results).flat_map(row).collect();
        let target = Tensor::from_vec(target, [results, CLASSES]).map_err(|e| e.to_string())?;
        Ok(BatchChanges { changes: (0..results).map(change).collect(), target: Some(target) })
    }
}

fn preparation() -> BatchPreparation {
    let statistics =
        fornax::data::ChannelStats { white: 255, mean: vec![0.5, 0.4, 0.3], std: vec![0.2, 0.3, 0.4] };
    BatchPreparation { statistics, rounded: true, erase_mode: EraseMode::Pixel, seed: 9 }
}

fn options(training: bool, batch_size: usize) -> LoaderOptions {
    LoaderOptions { training, batch_size, workers: 2, ..LoaderOptions::default() }
}

fn loader(dataset: Synthetic, views: usize, options: LoaderOptions) -> Loader {
    Loader::new(Arc::new(dataset), Arc::new(Shade { views }), options).expect("valid options")
}

/// Every bit of a batch.
#[derive(Clone, Debug, PartialEq)]
struct Bits(Vec<u8>, Vec<u64>, Vec<i64>);

fn bits(batch: &Batch) -> Bits {
    let images = match batch.images.dtype() {
        DType::U8 => batch.images.to_vec::<u8>().expect("u8"),
        _ => batch.images.to_vec::<f32>().expect("f32").iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    let target = match batch.target.dtype() {
        DType::I64 => batch.target.to_vec::<i64>().expect("i64").iter().map(|v| *v as u64).collect(),
        _ => batch.target.to_vec::<f32>().expect("f32").iter().map(|v| u64::from(v.to_bits())).collect(),
    };
    let changes = batch.changes.as_ref().map_or(vec![], |changes| changes.to_vec::<i64>().expect("i64"));
    Bits(images, target, changes)
}

fn epoch(loader: &Loader, epoch: u32, first: usize) -> Vec<Bits> {
    loader.epoch(epoch, first).expect("starts").map(|batch| bits(&batch.expect("a batch"))).collect()
}

fn mixing() -> LoaderOptions {
    LoaderOptions { batch_transform: Some(Arc::new(Mix { half: false })), ..options(true, 12) }
}

#[test]
fn batches_do_not_depend_on_workers_and_prefetch() {
    let with = |workers, prefetch, seed| {
        let options = LoaderOptions { workers, prefetch, seed, ..mixing() };
        loader(Synthetic::new(101), 1, options)
    };
    let expected: Vec<Vec<Bits>> = (0..2).map(|e| epoch(&with(0, 1, 42), e, 0)).collect();
    assert_eq!(expected[0].len(), 8);
    for workers in [0, 1, 2, 4, 8] {
        for prefetch in [1, 2, 4] {
            let loader = with(workers, prefetch, 42);
            for (e, expected) in expected.iter().enumerate() {
                assert!(epoch(&loader, e as u32, 0) == *expected, "{workers} workers, prefetch {prefetch}");
            }
        }
    }
    assert_ne!(expected[0], expected[1], "epochs differ");
    assert_ne!(expected[0], epoch(&with(2, 2, 43), 0, 0), "seeds differ");
}

#[test]
fn epoch_can_be_entered_at_any_batch() {
    let loader = loader(Synthetic::new(101), 1, mixing());
    let whole = epoch(&loader, 3, 0);
    for first in 0..=8 {
        assert_eq!(epoch(&loader, 3, first), whole[first..]);
    }
    assert_eq!(bits(&loader.batch(3, 5).expect("a batch")), whole[5]);
    assert!(loader.batch(3, 8).is_err(), "there are eight batches");
}

/// Prepared image and target of each sample; unmixed images are all different, so they identify the sample.
fn prepared(loader: &Loader) -> Vec<(Vec<u32>, Vec<u32>)> {
    let mut samples = vec![];
    for batch in loader.epoch(1, 0).expect("starts") {
        let batch = batch.expect("a batch");
        let images =
            preparation().apply(&batch.images, batch.changes.as_ref(), DType::F32).expect("prepares");
        let bits =
            |t: &Tensor| t.to_vec::<f32>().expect("f32").iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let (images, target) = (bits(&images), bits(&batch.target));
        let each = images.chunks_exact(SIZE.iter().product()).zip(target.chunks_exact(CLASSES));
        samples.extend(each.map(|(image, target)| (image.to_vec(), target.to_vec())));
    }
    samples.sort_unstable();
    samples
}

#[test]
fn mixed_samples_do_not_depend_on_the_number_of_ranks() {
    let on_ranks = |world: usize| {
        let mut all: Vec<_> = (0..world)
            .flat_map(|rank| {
                prepared(&loader(Synthetic::new(101), 1, LoaderOptions { rank, world, ..mixing() }))
            })
            .collect();
        all.sort_unstable();
        all
    };
    let expected = on_ranks(1);
    assert_eq!(expected.len(), 96);
    for world in [2, 3, 6] {
        assert!(on_ranks(world) == expected, "{world} ranks");
    }
    let odd = loader(Synthetic::new(101), 1, LoaderOptions { world: 4, ..mixing() });
    let error = odd.batch(0, 0).expect_err("three images on each rank").to_string();
    assert!(error.contains("--batch-size") && error.contains("twice the number of ranks"), "{error}");
}

#[test]
fn global_rows_are_the_rows_of_the_batch_of_one_rank() {
    let images = |batch: &Batch| batch.images.to_vec::<u8>().expect("u8");
    // Mirror images on each of two ranks, consecutive samples on each of three and of four.
    for (batch_size, world) in [(8, 2), (9, 3), (20, 4)] {
        for (views, clip_len) in [(1, 1), (2, 1), (2, 3)] {
            let of = |rank, world| {
                let options = LoaderOptions { rank, world, ..options(true, batch_size) };
                loader(Synthetic { clip_len, ..Synthetic::new(60) }, views, options)
            };
            let whole = of(0, 1).batch(0, 1).expect("a batch");
            assert!(whole.global_rows.is_none());
            let (whole, pixels) = (images(&whole), SIZE.iter().product::<usize>());
            let mut seen = vec![];
            for rank in 0..world {
                let part = of(rank, world).batch(0, 1).expect("a batch");
                let rows = part.global_rows.as_ref().expect("several ranks").to_vec::<i64>().expect("i64");
                for (image, row) in images(&part).chunks_exact(pixels).zip(&rows) {
                    assert_eq!(image, &whole[*row as usize * pixels..][..pixels], "rank {rank}, row {row}");
                }
                seen.extend(rows);
            }
            seen.sort_unstable();
            assert_eq!(seen, (0..(batch_size * views * clip_len) as i64).collect::<Vec<_>>());
        }
    }
}

#[test]
fn half_batches_have_a_result_for_each_pair() {
    let half = LoaderOptions { batch_transform: Some(Arc::new(Mix { half: true })), ..mixing() };
    let batch = loader(Synthetic::new(30), 1, half).batch(0, 0).expect("a batch");
    assert_eq!(batch.images.dims()[0], 12);
    assert_eq!(batch.target.dims(), [6, CLASSES]);
    assert_eq!(batch.changes.expect("mixed").dims()[0], 6);
}

#[test]
fn host_preparation_has_the_bits_of_the_step() {
    let device = loader(Synthetic::new(40), 1, mixing());
    let host =
        loader(Synthetic::new(40), 1, LoaderOptions { prepare_on_host: Some(preparation()), ..mixing() });
    for (device, host) in device.epoch(2, 0).expect("starts").zip(host.epoch(2, 0).expect("starts")) {
        let (device, host) = (device.expect("a batch"), host.expect("a batch"));
        assert!(host.changes.is_none() && host.images.dtype() == DType::F32);
        let images =
            preparation().apply(&device.images, device.changes.as_ref(), DType::F32).expect("prepares");
        assert_eq!(bits(&host).0, bits(&Batch { images, ..device }).0);
    }
}

#[test]
fn splits_are_ordered_by_split_and_views_by_sample() {
    let first_pixels = |training| {
        let options = LoaderOptions { seed: 3, ..options(training, 4) };
        let batch = loader(Synthetic::new(8), 3, options).batch(0, 0).expect("a batch");
        let images = batch.images.to_vec::<u8>().expect("u8");
        (images.chunks_exact(90).map(|image| image[0]).collect::<Vec<u8>>(), batch)
    };
    let (splits, batch) = first_pixels(true);
    assert_eq!((batch.target.numel(), batch.outputs_per_target), (12, 1));
    for i in 0..4 {
        assert_eq!([splits[4 + i], splits[8 + i]], [1, 2].map(|view| splits[i].wrapping_add(view)));
    }
    let (views, batch) = first_pixels(false);
    assert_eq!(batch.target.to_vec::<i64>().expect("i64"), [0, 1, 2, 3]);
    assert_eq!(batch.outputs_per_target, 3);
    for i in 0..4 {
        assert_eq!([views[3 * i + 1], views[3 * i + 2]], [1, 2].map(|view| views[3 * i].wrapping_add(view)));
    }
    let outputs = Tensor::from_vec((0..24).map(|v| v as f32).collect(), [12, 2]).expect("memory");
    let predictions = batch.predictions(&outputs).expect("averages").to_vec::<f32>().expect("f32");
    assert_eq!(predictions, [2.0, 3.0, 8.0, 9.0, 14.0, 15.0, 20.0, 21.0]);
}

#[test]
fn frames_of_a_clip_are_consecutive_and_change_together() {
    let dataset = || Synthetic { clip_len: 2, ..Synthetic::new(12) };
    let batch = loader(dataset(), 1, mixing()).batch(0, 0).expect("a batch");
    assert_eq!((batch.images.dims()[0], batch.outputs_per_target), (24, 2));
    let images = batch.images.to_vec::<u8>().expect("u8");
    for clip in images.chunks_exact(180) {
        assert_eq!(clip[90], clip[0].wrapping_add(7), "the frames have one shade");
    }
    let rows = batch.changes.expect("mixed").to_vec::<i64>().expect("i64");
    let partners: Vec<i64> = rows.chunks_exact(11).map(|row| row[0]).collect();
    let expected: Vec<i64> = (0..12).flat_map(|i| [2 * (11 - i), 2 * (11 - i) + 1]).collect();
    assert_eq!(partners, expected);
}

#[test]
fn evaluation_yields_every_sample_once_in_order() {
    for (len, world) in [(10, 1), (10, 3), (2, 4), (25, 8)] {
        let mut counts = [0; CLASSES];
        let mut seen = 0;
        for rank in 0..world {
            let loader = loader(Synthetic::new(len), 1, LoaderOptions { rank, world, ..options(false, 4) });
            for batch in loader.epoch(0, 0).expect("starts") {
                let targets = batch.expect("a batch").target.to_vec::<i64>().expect("i64");
                seen += targets.len();
                targets.iter().for_each(|target| counts[*target as usize] += 1);
            }
        }
        assert_eq!(seen, len, "{world} ranks");
        for (class, count) in counts.iter().enumerate() {
            assert_eq!(*count, (0..len).filter(|i| i % CLASSES == class).count(), "{world} ranks");
        }
    }
}

#[test]
fn sample_that_cannot_be_loaded_is_an_error_with_its_path() {
    for (fault, parts) in [
        (Fault::Panic, ["panicked", "planted"]),
        (Fault::Missing, ["cannot be read", "no such file"]),
        (Fault::InputOutput, ["cannot be read", "permissions"]),
        (Fault::Damaged, ["cannot be used", "it is not a PNG"]),
    ] {
        for workers in [0, 3] {
            let dataset = Synthetic::new(20).with(13, fault);
            let loader = loader(dataset, 1, LoaderOptions { workers, ..options(false, 4) });
            let batches: Vec<Result<Batch>> = loader.epoch(0, 0).expect("starts").take(4).collect();
            assert!(batches[..3].iter().all(Result::is_ok), "{fault:?}");
            let error = batches[3].as_ref().map(drop).expect_err("the fourth batch has sample 13");
            assert_eq!(error.kind().exit_code(), 3, "{fault:?}");
            let text = error.to_string();
            assert!(text.contains("/images/13.png") && parts.iter().all(|p| text.contains(p)), "{text}");
        }
    }
}

#[test]
fn stalled_sample_is_an_error_and_does_not_block_the_end() {
    let dataset = Arc::new(Synthetic::new(20).with(2, Fault::Stall));
    let options = LoaderOptions { timeout: Duration::from_millis(300), ..options(false, 4) };
    let started = Instant::now();
    let loader = Loader::new(dataset.clone(), Arc::new(Shade { views: 1 }), options).expect("valid");
    let error = loader.epoch(0, 0).expect("starts").next().expect("a batch").expect_err("it stalls");
    assert_eq!(error.kind().exit_code(), 3);
    let text = error.to_string();
    assert!(text.contains("/images/2.png") && text.contains("--loader-timeout"), "{text}");
    drop(loader);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    dataset.release();
}

#[test]
fn interrupt_ends_the_wait_for_a_batch() {
    let dataset = Arc::new(Synthetic::new(20).with(2, Fault::Stall));
    let loader =
        Loader::new(dataset.clone(), Arc::new(Shade { views: 1 }), options(false, 4)).expect("valid");
    let calls = AtomicUsize::new(0);
    let check = || match calls.fetch_add(1, Ordering::SeqCst) {
        0..2 => Ok(()),
        _ => Err(Error::new(ErrorKind::Interrupted(Signal::Interrupt), "interrupted")),
    };
    let mut batches = loader.epoch(0, 0).expect("starts");
    let error = batches.next_batch(&check).expect("a batch").expect_err("interrupted");
    assert_eq!(error.kind().exit_code(), 130);
    dataset.release();
}

fn with_policy(dataset: Synthetic, policy: BadImagePolicy, base: LoaderOptions) -> (Loader, Arc<BadImages>) {
    let bad_images = Arc::new(BadImages::new(policy, 0.5, dataset.len));
    let options = LoaderOptions { bad_images: Some(bad_images.clone()), ..base };
    (loader(dataset, 1, options), bad_images)
}

fn faulty() -> Synthetic {
    Synthetic::new(48).with(3, Fault::Damaged).with(17, Fault::Panic).with(30, Fault::Missing)
}

#[test]
fn replacements_do_not_depend_on_workers() {
    let run = |workers, first| {
        let base = LoaderOptions { workers, ..mixing() };
        let (loader, bad_images) = with_policy(faulty(), BadImagePolicy::Replace, base);
        (epoch(&loader, 0, first), bad_images.found().len())
    };
    let (expected, found) = run(0, 0);
    assert_eq!((expected.len(), found), (4, 3));
    assert!(run(1, 0).0 == expected && run(4, 0).0 == expected && run(2, 2).0 == expected[2..]);
    let (loader, _) = with_policy(faulty(), BadImagePolicy::Error, mixing());
    assert!(loader.epoch(0, 0).expect("starts").any(|batch| batch.is_err()));
}

#[test]
fn skipped_samples_are_left_out_with_their_partners() {
    let plain = options(true, 12);
    let (loader, _) = with_policy(faulty(), BadImagePolicy::Skip, plain);
    let samples: usize =
        loader.epoch(0, 0).expect("starts").map(|b| b.expect("a batch").images.dims()[0]).sum();
    assert_eq!(samples, 45);
    let (loader, _) = with_policy(faulty(), BadImagePolicy::Skip, mixing());
    let mut samples = 0;
    for batch in loader.epoch(0, 0).expect("starts") {
        let batch = batch.expect("a batch");
        let n = batch.images.dims()[0];
        assert_eq!((batch.target.dims()[0], n % 2), (n, 0));
        let rows = batch.changes.expect("mixed").to_vec::<i64>().expect("i64");
        let partners: Vec<i64> = rows.chunks_exact(11).map(|row| row[0]).collect();
        assert_eq!(partners, (0..n as i64).rev().collect::<Vec<_>>(), "pairs stay mirror images");
        samples += n;
    }
    assert!((42..=44).contains(&samples), "{samples}");
    let all_bad = (0..12).fold(Synthetic::new(12), |dataset, i| dataset.with(i, Fault::Damaged));
    let bad_images = Arc::new(BadImages::new(BadImagePolicy::Skip, 1.0, 12));
    let options = LoaderOptions { bad_images: Some(bad_images), ..options(true, 12) };
    let error = self::loader(all_bad, 1, options).batch(0, 0).expect_err("no images").to_string();
    assert!(error.contains("a batch has no images"), "{error}");
}

#[test]
fn dropped_epoch_stops_its_work() {
    let dataset = Arc::new(Synthetic::new(10_000));
    let options = LoaderOptions { prefetch: 4, ..options(true, 100) };
    let loader = Loader::new(dataset.clone(), Arc::new(Shade { views: 1 }), options).expect("valid");
    let mut batches = loader.epoch(0, 0).expect("starts");
    batches.next().expect("a batch").expect("loads");
    drop(batches);
    let first = loader.epoch(1, 0).expect("starts").next().expect("a batch").expect("loads");
    assert_eq!(bits(&first), bits(&loader.batch(1, 0).expect("a batch")));
    assert!(dataset.reads.load(Ordering::SeqCst) <= 1400, "{:?}", dataset.reads);
}

#[test]
fn invalid_options_are_rejected() {
    let make =
        |options| Loader::new(Arc::new(Synthetic::new(4)), Arc::new(Shade { views: 1 }), options).map(drop);
    for wrong in [
        options(true, 0),
        LoaderOptions { channels: 2, ..options(true, 2) },
        LoaderOptions { rank: 1, ..options(true, 2) },
        LoaderOptions { epoch_repeats: 0.5, ..options(true, 2) },
        LoaderOptions { repeats: 0, ..options(true, 2) },
    ] {
        assert_eq!(make(wrong).expect_err("invalid").kind().exit_code(), 2);
    }
    assert!(make(options(true, 2)).is_ok());
}

#[test]
fn staged_batches_equal_host_batches_without_further_allocations() {
    let device = Device::emulated(1).expect("g++ is installed");
    for order in [0, 1, 5] {
        emulator::set_order(order).expect("the emulated device");
        let host = loader(Synthetic::new(2000), 1, LoaderOptions { workers: 2, ..mixing() });
        let staged = loader(Synthetic::new(2000), 1, LoaderOptions { device, ..mixing() });
        let seen = AtomicBool::new(false);
        let prepare = |batch: Batch| {
            seen.store(true, Ordering::SeqCst);
            Ok(batch)
        };
        let mut source = staged.staged_epoch(0, 0, prepare).expect("starts");
        let mut count = 0;
        for expected in host.epoch(0, 0).expect("starts") {
            let batch = source.next_batch(&|| Ok(())).expect("a batch").expect("loads");
            assert_eq!(batch.images.device(), device);
            // Work of the compute stream that reads the batch, as a step does.
            let batch = batch.to_device(&Device::Cpu).expect("copies");
            assert!(bits(&batch) == bits(&expected.expect("loads")), "order {order}");
            count += 1;
        }
        assert!(source.next_batch(&|| Ok(())).is_none() && seen.load(Ordering::SeqCst));
        assert_eq!(count, 166);
        // How many batches are staged at once depends on timing: at most three that wait and one in use, of three tensors each.
        let calls = emulator::memory_calls();
        println!("{} {} {order}", calls.allocations, calls.host_allocations);
        assert!(calls.host_allocations <= 12, "order {order}: {}", calls.host_allocations);
        assert!(calls.allocations <= 2, "order {order}: {}", calls.allocations);
    }
    emulator::set_order(0).expect("the emulated device");
}
