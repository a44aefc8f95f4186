//! Image decoders: pixels equal to Pillow's, and no abort on damaged files.
#[path = "common/sweep.rs"]
mod sweep;

use fornax::augment::{ImageTransform, TrainCropMode, TransformOptions};
use fornax::data::Image;
use fornax::data::decode::{DecodeOptions, Gray16, JpegRepair, RegionDecoder, decode_file, is_gray16};
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
        // As in Pillow, also for 16-bit grey.
        let options = DecodeOptions { gray16: Gray16::Saturate, ..DecodeOptions::new(3) };
        let image = Image::decode_with(&bytes, &options).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!(image.size, [h, w, 3], "{name}");
        let gaps = image.pixels.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b));
        let worst = gaps.max().expect("pixels");
        // The inverse DCT of CMYK JPEGs rounds differently, and libjpeg smooths blocks whose last scans are missing; everything else is
        // equal to the last bit.
        let tolerance = match name.as_str() {
            "missing_scans.jpg" => 6,
            name if name.ends_with(".jpg") && (name.contains("cmyk") || name.starts_with("ycck")) => 3,
            _ => 0,
        };
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
fn progressive_jpegs_with_damaged_data_are_rejected() {
    for (name, bytes) in region_jpegs().iter().filter(|(name, _)| name.starts_with("progressive")) {
        let scans = scans(bytes);
        assert!(scans.len() >= 6, "{name}: {} scans", scans.len());
        let rejected = |bytes: &[u8], what: &str| {
            let why = Image::decode(bytes, 3).expect_err(what);
            assert!(why.starts_with("the JPEG is"), "{name}, {what}: {why}");
        };
        // The last scan again: bits that are there already.
        let last = &bytes[*scans.last().expect("a scan")..];
        rejected(&[&bytes[..bytes.len() - 2], last].concat(), "a repeated scan");
        // Data of the first scan cut short.
        let first = scans[0] + 2 + usize::from(bytes[scans[0] + 3]);
        rejected(&[&bytes[..first], &[0], &bytes[bytes.len() - 2..]].concat(), "data missing");
    }
}

#[test]
fn progressive_jpegs_without_their_last_scans_lack_details() {
    for (name, bytes) in region_jpegs().iter().filter(|(name, _)| name.starts_with("progressive")) {
        let whole = Image::decode(bytes, 3).expect("decodes");
        let mut last_gap = 0;
        for at in scans(bytes)[1..].iter().rev() {
            let cut = [&bytes[..*at], &[0xff, 0xd9]].concat();
            let file =
                decode_file(&cut, &DecodeOptions::new(3)).unwrap_or_else(|why| panic!("{name}: {why}"));
            assert_eq!(
                (file.image.size, file.repair),
                (whole.size, Some(JpegRepair::MissingScans)),
                "{name}"
            );
            let gaps = file.image.pixels.iter().zip(&whole.pixels).map(|(a, b)| u64::from(a.abs_diff(*b)));
            last_gap = gaps.sum();
        }
        assert!(last_gap > 0, "{name}: the first scan alone is not the whole image");
    }
}

#[test]
fn repaired_jpegs_are_reported() {
    let cases = [
        ("extra_bytes.jpg", Some(JpegRepair::ExtraBytes)),
        ("extra_bytes_cmyk.jpg", Some(JpegRepair::ExtraBytes)),
        ("adobe_transform.jpg", Some(JpegRepair::AdobeTransform)),
        ("adobe_transform_cmyk.jpg", Some(JpegRepair::AdobeTransform)),
        ("missing_scans.jpg", Some(JpegRepair::MissingScans)),
        ("baseline_420.jpg", None),
        ("cmyk.jpg", None),
        ("rgb.tif", None),
    ];
    for (name, repair) in cases {
        let bytes = fs::read(self::cases().join(name)).expect("reads");
        assert_eq!(decode_file(&bytes, &DecodeOptions::new(3)).expect(name).repair, repair, "{name}");
    }
}

#[test]
fn sixteen_bit_grey_is_scaled_unless_saturation_is_requested() {
    for name in ["grey16.png", "grey16.tif", "grey16_big_endian.tif"] {
        let bytes = fs::read(cases().join(name)).expect("reads");
        let decode =
            |gray16| decode_file(&bytes, &DecodeOptions { gray16, ..DecodeOptions::new(1) }).expect(name);
        let (scaled, saturated) = (decode(Gray16::Scale), decode(Gray16::Saturate));
        assert!(scaled.is_gray16 && is_gray16(&bytes), "{name}");
        let largest = *scaled.image.pixels.iter().max().expect("pixels");
        assert!((40..255).contains(&largest), "{name}: {largest}");
        assert!(saturated.image.pixels.iter().filter(|value| **value == 255).count() > 100, "{name}");
    }
    for name in ["grey.tif", "rgb16.tif", "rgb16.png", "rgb.bmp"] {
        assert!(!is_gray16(&fs::read(cases().join(name)).expect("reads")), "{name}");
    }
}

#[test]
fn compressed_profiles_and_text_of_pngs_are_not_expanded() {
    let png = png_bytes(&Image { size: [1, 1, 1], pixels: vec![7] });
    for kind in [b"iCCP", b"zTXt", b"iTXt"] {
        // Not even valid zlib data: they are never looked at.
        let chunk = [&kind[..], b"name\0\0broken"].concat();
        let mut crc = flate2::Crc::new();
        crc.update(&chunk);
        let length = (chunk.len() as u32 - 4).to_be_bytes();
        let file = [&png[..33], &length, &chunk, &crc.sum().to_be_bytes(), &png[33..]].concat();
        assert_eq!(Image::decode(&file, 1).expect("decodes").pixels, [7]);
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
        Image::decode_with(&with_exif, &DecodeOptions { exif_orientation, ..DecodeOptions::new(1) })
            .expect("decodes")
    };
    assert_eq!(decode(false), upright);
    assert_eq!(decode(true), Image { size: [3, 2, 1], pixels: vec![120, 0, 160, 40, 200, 80] });
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/images/exif_rotated.jpg");
    let photo = fs::read(photo).expect("reads");
    let size = |exif_orientation| {
        let options = DecodeOptions { exif_orientation, ..DecodeOptions::new(3) };
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
            let options = DecodeOptions::new(channels);
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
    let options = DecodeOptions { exif_orientation: true, ..DecodeOptions::new(3) };
    for (name, _) in sizes().iter().filter(|(name, _)| !has_regions(name) && name != "missing_scans.jpg") {
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
                let decode = DecodeOptions::new(3 - 2 * (sample % 2) as usize);
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
    let options = DecodeOptions::new(3);
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
    let options = DecodeOptions::new(3);
    for (name, bytes) in region_jpegs() {
        for sample in 0..20 {
            let cut = &bytes[..bytes.len() - 30 - 5 * sample as usize];
            let mut rng = RngStream::new(RngKey::new(1, "augment"), 0, sample);
            let why = transform.apply_encoded(cut, &options, &mut rng).expect_err("truncated");
            assert_eq!(why, "the JPEG is truncated", "{name}");
        }
    }
}

/// Every damaged file gives an image of the expected size or an error, never an abort. 10,000 files in the full sweep.
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
        let options = DecodeOptions::new(3);
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
    assert!(why.contains("too large: 100000x100000 pixels"), "{why}");
    let mut gif = fs::read(cases().join("palette.gif")).expect("reads");
    gif[6..10].copy_from_slice(&[0xff; 4]);
    let why = Image::decode(&gif, 3).expect_err("a bomb");
    assert!(why.contains("65535x65535 pixels"), "{why}");
    let mut bmp = fs::read(cases().join("rgb.bmp")).expect("reads");
    bmp[18..26].copy_from_slice(&[0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0]);
    assert!(Image::decode(&bmp, 3).is_err());
    let mut qoi = fs::read(cases().join("rgb.qoi")).expect("reads");
    qoi[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let why = Image::decode(&qoi, 3).expect_err("a bomb");
    assert!(why.contains("too large: 65536x65536 pixels"), "{why}");
    let mut tiff = fs::read(cases().join("rgb_planes.tif")).expect("reads");
    // The first two entries of the directory: width and height.
    tiff[18..22].copy_from_slice(&100_000u32.to_le_bytes());
    tiff[30..34].copy_from_slice(&100_000u32.to_le_bytes());
    assert!(Image::decode(&tiff, 3).is_err());
}
