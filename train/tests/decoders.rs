//! Image decoders: pixels equal to Pillow's, and no abort on damaged files.
#[path = "common/sweep.rs"]
mod sweep;

use fornax::augment::{ImageTransform, TrainCropMode, TransformOptions};
use fornax::data::Image;
use fornax::data::decode::{DecodeOptions, RegionDecoder};
use fornax::data::export::png_bytes;
use fornax::nn::state_dict::from_safetensors;
use fornax_engine::ImageBox;
use fornax_engine::random::{RngKey, RngStream};
use std::fs;
use std::path::{Path, PathBuf};

/// Files and pixels written by scripts/make-decoder-cases.
fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/decoders")
}

/// Names, heights and widths.
fn sizes() -> Vec<(String, [usize; 2])> {
    let text = fs::read_to_string(cases().join("sizes.txt")).expect("the cases");
    let case = |line: &str| {
        let mut words = line.split(' ');
        let name = words.next().expect("a name").to_string();
        let mut extent = || words.next().expect("a size").parse().expect("a number");
        (name, [extent(), extent()])
    };
    text.lines().map(case).collect()
}

#[test]
fn decoded_pixels_match_pillow() {
    let all = sizes();
    assert!(all.len() >= 20, "{} cases", all.len());
    for (name, [h, w]) in all {
        let bytes = fs::read(cases().join(&name)).expect("reads");
        let expected = fs::read(cases().join(format!("{name}.rgb"))).expect("reads");
        let image = Image::decode(&bytes, 3).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!(image.size, [h, w, 3], "{name}");
        let gaps = image.pixels.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b));
        let worst = gaps.max().expect("pixels");
        // The inverse DCT of CMYK JPEGs rounds differently; everything else is equal to the last bit.
        let tolerance = if ["cmyk.jpg", "ycck.jpg"].contains(&name.as_str()) { 3 } else { 0 };
        assert!(worst <= tolerance, "{name}: differs by {worst}");
    }
}

#[test]
fn golden_progressive_jpeg_is_equal_to_pillow() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let bytes = fs::read(golden.join("images/progressive.jpg")).expect("reads");
    let image = Image::decode(&bytes, 3).expect("decodes");
    let tensors = fs::read(golden.join("images.safetensors")).expect("reads");
    let (tensors, _) = from_safetensors(&tensors).expect("safetensors");
    assert!(image.pixels == tensors["decode/progressive.jpg"].to_vec::<u8>().expect("bytes"));
}

/// Start of each scan's header.
fn scans(jpeg: &[u8]) -> Vec<usize> {
    let starts = |pair: &[u8]| pair == [0xff, 0xda];
    jpeg.windows(2).enumerate().filter(|(_, pair)| starts(pair)).map(|(at, _)| at).collect()
}

#[test]
fn progressive_jpegs_with_damaged_scans_are_rejected() {
    for (name, bytes) in region_jpegs().iter().filter(|(name, _)| name.starts_with("progressive")) {
        let scans = scans(bytes);
        assert!(scans.len() >= 6, "{name}: {} scans", scans.len());
        let rejected = |bytes: &[u8], what: &str| {
            let why = Image::decode(bytes, 3).expect_err(what);
            assert!(why.starts_with("the JPEG is"), "{name}, {what}: {why}");
        };
        for at in &scans[1..] {
            rejected(&[&bytes[..*at], &[0xff, 0xd9]].concat(), "later scans missing");
        }
        // The last scan again: bits that are there already.
        let last = &bytes[*scans.last().expect("a scan")..];
        rejected(&[&bytes[..bytes.len() - 2], last].concat(), "a repeated scan");
        // Data of the first scan cut short.
        let first = scans[0] + 2 + usize::from(bytes[scans[0] + 3]);
        rejected(&[&bytes[..first], &[0], &bytes[bytes.len() - 2..]].concat(), "data missing");
    }
}

#[test]
fn exif_orientation_is_applied_only_on_request() {
    let upright = Image { size: [2, 3, 1], pixels: (0..6).map(|v| v * 40).collect() };
    let png = png_bytes(&upright);
    // The chunk eXIf after the header: orientation 6.
    let data = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let mut chunk = (data.len() as u32).to_be_bytes().to_vec();
    chunk.extend(b"eXIf");
    chunk.extend(data);
    let mut crc = flate2::Crc::new();
    crc.update(&chunk[4..]);
    chunk.extend(crc.sum().to_be_bytes());
    let with_exif = [&png[..33], &chunk, &png[33..]].concat();
    let decode = |exif_orientation| {
        Image::decode_with(&with_exif, &DecodeOptions { channels: 1, exif_orientation }).expect("decodes")
    };
    assert_eq!(decode(false), upright);
    assert_eq!(decode(true), Image { size: [3, 2, 1], pixels: vec![120, 0, 160, 40, 200, 80] });
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/images/exif_rotated.jpg");
    let photo = fs::read(photo).expect("reads");
    let size = |exif_orientation| {
        let options = DecodeOptions { channels: 3, exif_orientation };
        Image::decode_with(&photo, &options).expect("decodes").size
    };
    assert_eq!([size(false)[0], size(false)[1]], [size(true)[1], size(true)[0]]);
}

/// BMP of one-row pixel data below each other, the first at the bottom. `extra` follows the header of 40 bytes: masks or a palette.
fn bmp(size: [i32; 2], depth: u16, compression: u32, extra: &[u8], rows: &[u8]) -> Vec<u8> {
    let mut bytes = b"BM".to_vec();
    let start = 54 + extra.len();
    let words =
        [(start + rows.len()) as u32, 0, start as u32, 40, size[1].cast_unsigned(), size[0].cast_unsigned()];
    words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    [1, depth].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    [compression, rows.len() as u32, 0, 0, 0, 0].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    [&bytes, extra, rows].concat()
}

/// Masks of red, green and blue in a BMP.
fn masks(masks: [u32; 3]) -> Vec<u8> {
    masks.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// The expected values are those of Pillow.
#[test]
fn bmps_of_16_and_32_bits_decode_by_their_masks() {
    let rgb = |bytes: &[u8]| Image::decode(bytes, 3).expect("decodes");
    // Two rows of three pixels, each row padded to eight bytes.
    let rows: Vec<u8> = [0x7fff, 0x7c00, 0x03e0, 0, 0x001f, 0x4210, 0x0001, 0]
        .into_iter()
        .flat_map(u16::to_le_bytes)
        .collect();
    let image = rgb(&bmp([2, 3], 16, 0, &[], &rows));
    assert_eq!(image.size, [2, 3, 3]);
    assert_eq!(image.pixels[..9], [0, 0, 255, 131, 131, 131, 0, 0, 8]);
    assert_eq!(image.pixels[9..], [255, 255, 255, 255, 0, 0, 0, 255, 0]);
    let turned = rgb(&bmp([-2, 3], 16, 0, &[], &rows));
    assert_eq!(turned.pixels[..9], image.pixels[9..], "a negative height starts at the top");
    let narrow = masks([0xf800, 0x7e0, 0x1f]);
    let image = rgb(&bmp([2, 3], 16, 3, &narrow, &rows));
    assert_eq!(image.pixels[9..], [123, 255, 255, 123, 129, 0, 0, 125, 0]);
    let swapped = masks([0xff, 0xff00, 0xff_0000]);
    assert_eq!(rgb(&bmp([1, 1], 32, 3, &swapped, &[1, 2, 3, 4])).pixels, [1, 2, 3]);
    assert_eq!(rgb(&bmp([1, 1], 32, 0, &[], &[1, 2, 3, 4])).pixels, [3, 2, 1]);
    // A file of one pixel, with and without a palette.
    assert_eq!(rgb(&bmp([1, 1], 24, 0, &[], &[1, 2, 3, 0])).pixels, [3, 2, 1]);
    let palette: Vec<u8> = (0..=255).flat_map(|i| [i, 0, 255 - i, 0]).collect();
    assert_eq!(rgb(&bmp([1, 1], 8, 0, &palette, &[7, 0, 0, 0])).pixels, [248, 0, 7]);
    let gap = Image::decode(&bmp([1, 1], 16, 3, &masks([0xa000, 0x7e0, 0x1f]), &[0; 4]), 3);
    assert!(gap.expect_err("a mask with a gap").contains("not supported"));
}

#[test]
fn truncated_bmps_are_rejected() {
    let palette: Vec<u8> = (0..=255).flat_map(|i| [i, i, i, 0]).collect();
    let runs = [[4, 9, 0, 0], [2, 7, 0, 0], [0, 3, 1, 2], [3, 0, 0, 1]].concat();
    for (name, whole) in [
        ("1 bit", bmp([3, 40], 1, 0, &palette[..8], &[0x55; 24])),
        ("8 bits", bmp([3, 4], 8, 0, &palette, &[9; 12])),
        ("16 bits", bmp([3, 4], 16, 0, &[], &[9; 24])),
        ("24 bits", bmp([3, 4], 24, 0, &[], &[9; 36])),
        ("32 bits", bmp([3, 4], 32, 0, &[], &[9; 48])),
        ("runs", bmp([3, 4], 8, 1, &palette, &runs)),
    ] {
        assert_eq!(Image::decode(&whole, 3).expect(name).size[0], 3, "{name}");
        for cut in [4, 10, whole.len() - 30] {
            let why = Image::decode(&whole[..whole.len() - cut], 3).expect_err(name);
            assert_eq!(why, "the BMP is truncated", "{name} without {cut} bytes");
        }
    }
}

/// Random numbers below a limit.
fn random_numbers(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    }
}

/// True for a JPEG of which regions can be decoded.
fn has_regions(name: &str) -> bool {
    name.starts_with("baseline") || name.starts_with("progressive")
}

/// Names and bytes of the JPEGs of which regions can be decoded.
fn region_jpegs() -> Vec<(String, Vec<u8>)> {
    let names = sizes().into_iter().map(|(name, _)| name).filter(|name| has_regions(name));
    names.map(|name| (name.clone(), fs::read(cases().join(name)).expect("reads"))).collect()
}

#[test]
fn regions_of_jpegs_have_the_pixels_of_the_whole_image() {
    let mut random = random_numbers(3);
    let files = region_jpegs();
    assert!(files.len() >= 16, "{} files", files.len());
    for (name, bytes) in files {
        for channels in [1, 3] {
            let options = DecodeOptions { channels, exif_orientation: false };
            let whole = Image::decode_with(&bytes, &options).expect("decodes");
            let decoder = RegionDecoder::open(&bytes, &options).expect("baseline or progressive");
            assert_eq!(decoder.size(), whole.size, "{name}");
            let [h, w, _] = whole.size;
            for _ in 0..300 {
                let (top, left) = (random(h), random(w));
                let (bottom, right) = (top + 1 + random(h - top), left + 1 + random(w - left));
                let [t, b, l, r] = [top, bottom, left, right].map(|side| side as u32);
                let region =
                    decoder.decode(ImageBox { top: t, bottom: b, left: l, right: r }).expect("decodes");
                assert_eq!(region.size, [bottom - top, right - left, channels], "{name}");
                let expected = (top..bottom)
                    .flat_map(|y| &whole.pixels[(y * w + left) * channels..(y * w + right) * channels]);
                assert!(
                    region.pixels.iter().eq(expected),
                    "{name}: rows {top}..{bottom}, columns {left}..{right}"
                );
            }
        }
    }
}

#[test]
fn other_files_and_turned_images_are_decoded_whole() {
    let options = DecodeOptions { channels: 3, exif_orientation: true };
    for (name, _) in sizes().iter().filter(|(name, _)| !has_regions(name)) {
        let bytes = fs::read(cases().join(name)).expect("reads");
        assert!(RegionDecoder::open(&bytes, &options).is_none(), "{name}");
    }
    let (_, bytes) = &region_jpegs()[0];
    assert!(RegionDecoder::open(bytes, &options).is_some());
    assert!(RegionDecoder::open(&bytes[..bytes.len() - 2], &options).is_none(), "truncated");
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/images/exif_rotated.jpg");
    let photo = fs::read(photo).expect("reads");
    assert!(RegionDecoder::open(&photo, &options).is_none());
    assert!(RegionDecoder::open(&photo, &DecodeOptions { exif_orientation: false, ..options }).is_some());
}

#[test]
fn encoded_images_are_transformed_like_decoded_ones() {
    let plain = TransformOptions { size: [24, 20], ..TransformOptions::default() };
    let all = [
        plain.clone(),
        TransformOptions { vflip: 0.5, color_jitter: vec![], scale: Some([0.001, 0.02]), ..plain.clone() },
        TransformOptions {
            auto_augment: Some("augmix-m5".parse().expect("known")),
            num_aug_splits: 3,
            ..plain.clone()
        },
        TransformOptions { train_crop_mode: TrainCropMode::Rkrr, ..plain },
    ];
    let mut files = region_jpegs();
    for name in ["cmyk.jpg", "rgba.png"] {
        files.push((name.into(), fs::read(cases().join(name)).expect("reads")));
    }
    for options in all {
        let transform = options.train_transform().expect("valid");
        for (name, bytes) in &files {
            for sample in 0..40 {
                let decode =
                    DecodeOptions { channels: 3 - 2 * (sample % 2) as usize, exif_orientation: false };
                let mut rngs = [0, 1].map(|_| RngStream::new(RngKey::new(1, "augment"), 0, sample));
                let decoded = Image::decode_with(bytes, &decode).expect("decodes");
                let expected = transform.apply(&decoded, &mut rngs[0]).expect("transforms");
                let got = transform.apply_encoded(bytes, &decode, &mut rngs[1]).expect("transforms");
                assert!(got == expected, "{name}, sample {sample}, {options:?}");
                assert_eq!(rngs[0].uniform(), rngs[1].uniform(), "{name}: the same random numbers are used");
            }
        }
    }
}

#[test]
fn data_after_the_end_of_a_jpeg_change_nothing() {
    let options = DecodeOptions { channels: 3, exif_orientation: false };
    for (name, bytes) in region_jpegs() {
        let whole = Image::decode(&bytes, 3).expect("decodes");
        for tail in [&b"\n"[..], &[0; 100], &bytes[..200]] {
            let longer = [&bytes, tail].concat();
            assert!(Image::decode(&longer, 3).expect("decodes") == whole, "{name}");
            assert!(RegionDecoder::open(&longer, &options).is_some(), "{name}");
        }
    }
}

#[test]
fn jpegs_without_their_last_bytes_are_rejected() {
    for (name, bytes) in sizes()
        .iter()
        .filter(|(name, _)| name.ends_with(".jpg"))
        .map(|(name, _)| (name, fs::read(cases().join(name)).expect("reads")))
    {
        assert!(bytes.ends_with(&[0xff, 0xd9]), "{name}");
        for cut in 1..=13 {
            let why = Image::decode(&bytes[..bytes.len() - cut], 3).expect_err(name);
            assert_eq!(why, "the JPEG is truncated", "{name} without {cut} bytes");
        }
    }
}

#[test]
fn truncated_jpegs_are_rejected_even_if_the_crop_is_complete() {
    let transform =
        TransformOptions { size: [4, 4], ..TransformOptions::default() }.train_transform().expect("valid");
    let options = DecodeOptions { channels: 3, exif_orientation: false };
    for (name, bytes) in region_jpegs() {
        for sample in 0..20 {
            let cut = &bytes[..bytes.len() - 30 - 5 * sample as usize];
            let mut rng = RngStream::new(RngKey::new(1, "augment"), 0, sample);
            let why = transform.apply_encoded(cut, &options, &mut rng).expect_err("truncated");
            assert_eq!(why, "the JPEG is truncated", "{name}");
        }
    }
}

/// Every damaged file gives an image of the announced size or an error, never an abort. 10,000 files in the full sweep.
#[test]
fn mutated_files_give_an_image_or_an_error() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/images");
    let mut files: Vec<(String, Vec<u8>)> = sizes()
        .into_iter()
        .map(|(name, _)| (name.clone(), fs::read(cases().join(name)).expect("reads")))
        .collect();
    for name in ["progressive.jpg", "gray.jpg", "palette.png", "one_bit.png"] {
        files.push((name.into(), fs::read(golden.join(name)).expect("reads")));
    }
    let total = if sweep::is_full_sweep() { 10_000 } else { 1_000 };
    let mut random = random_numbers(7);
    let (mut images, mut errors) = (0, 0);
    for i in 0..total {
        let (name, good) = &files[i % files.len()];
        let mut bad = good.clone();
        match random(4) {
            0 => bad.truncate(random(good.len())),
            1 => {
                let at = random(good.len());
                bad.drain(at..(at + 1 + random(8)).min(good.len()));
            }
            _ => {
                for _ in 0..=random(4) {
                    // The header decides most, so half of the changes are there.
                    let at = if random(2) == 0 { random(64.min(bad.len())) } else { random(bad.len()) };
                    bad[at] = random(256) as u8;
                }
            }
        }
        let options = DecodeOptions { channels: 3, exif_orientation: false };
        if let Some(decoder) = RegionDecoder::open(&bad, &options) {
            let [h, w, _] = decoder.size();
            let last = ImageBox { top: h as u32 - 1, bottom: h as u32, left: w as u32 / 2, right: w as u32 };
            if let Some(region) = decoder.decode(last) {
                assert_eq!(region.pixels.len(), last.width() * 3, "{name}");
            }
        }
        match Image::decode(&bad, 3) {
            Ok(image) => {
                assert_eq!(image.pixels.len(), image.size.iter().product::<usize>(), "{name}");
                images += 1;
            }
            Err(why) => {
                assert!(!why.is_empty(), "{name}");
                errors += 1;
            }
        }
    }
    assert!(images > total / 20 && errors > total / 20, "{images} images, {errors} errors");
}

#[test]
fn bombs_are_rejected_by_their_header() {
    let png = png_bytes(&Image { size: [1, 1, 1], pixels: vec![0] });
    let mut header = png[16..24].to_vec();
    header[..4].copy_from_slice(&100_000u32.to_be_bytes());
    header[4..].copy_from_slice(&100_000u32.to_be_bytes());
    let mut bomb = png.clone();
    bomb[16..24].copy_from_slice(&header);
    let mut crc = flate2::Crc::new();
    crc.update(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    let why = Image::decode(&bomb, 3).expect_err("a bomb");
    assert!(why.contains("100000x100000 pixels"), "{why}");
    let mut gif = fs::read(cases().join("palette.gif")).expect("reads");
    gif[6..10].copy_from_slice(&[0xff; 4]);
    let why = Image::decode(&gif, 3).expect_err("a bomb");
    assert!(why.contains("65535x65535 pixels"), "{why}");
    let mut bmp = fs::read(cases().join("rgb.bmp")).expect("reads");
    bmp[18..26].copy_from_slice(&[0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0]);
    assert!(Image::decode(&bmp, 3).is_err());
}
