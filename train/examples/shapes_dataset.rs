//! Writes a photo-like dataset of JPEG files: ten classes of shapes and textures, of varied sizes, colours, positions and backgrounds.
//!
//! ```sh
//! cargo run --release --example shapes_dataset -- shapes 2500    # folder, number of images
//! ```
//!
//! The result is an image folder, `train/CLASS/NUMBER.jpg` and `validation/CLASS/NUMBER.jpg`, one image in five for validation. The same
//! number gives the same files.
use fornax::engine::random::{RngKey, RngStream};
use jpeg_encoder::{ColorType, Encoder};
use std::error::Error;
use std::f32::consts::{PI, TAU};
use std::fs;
use std::path::Path;

/// Class names.
pub const CLASSES: [&str; 10] =
    ["checkerboard", "circle", "cross", "dots", "ring", "square", "star", "stripes", "triangle", "waves"];

/// Writes `images` files below `folder`.
pub fn write(folder: &Path, images: usize) -> Result<(), Box<dyn Error>> {
    for number in 0..images {
        let class = number % CLASSES.len();
        let split = if number / CLASSES.len() % 5 == 4 { "validation" } else { "train" };
        let path = folder.join(split).join(CLASSES[class]).join(format!("{number}.jpg"));
        fs::create_dir_all(path.parent().expect("it has a folder"))?;
        let mut rng = RngStream::new(RngKey::new(0, "shapes"), 0, number as u64);
        let height = 96 + rng.below(225) as usize;
        let width = (height as f32 * (0.75 + 0.6 * rng.uniform())) as usize;
        let pixels = draw(class, [height, width], &mut rng);
        let quality = 75 + rng.below(21) as u8;
        Encoder::new_file(path, quality)?.encode(&pixels, width as u16, height as u16, ColorType::Rgb)?;
    }
    Ok(())
}

/// Draws an image of a class, u8 `[h, w, 3]`.
fn draw(class: usize, [height, width]: [usize; 2], rng: &mut RngStream) -> Vec<u8> {
    let mut between = |low: f32, high: f32| low + (high - low) * rng.uniform();
    // The object has another brightness than the background.
    let bright = between(0.0, 1.0) < 0.5;
    let mut colour = |bright: bool| {
        let (low, high) = if bright { (140.0, 250.0) } else { (10.0, 100.0) };
        [(); 3].map(|()| between(low, high))
    };
    let (object, near, far) = (colour(bright), colour(!bright), colour(!bright));
    let side = height.min(width) as f32;
    let radius = side * between(0.22, 0.36);
    // A centre crop of 7/8 of the short side keeps most of the object.
    let centre = [height, width].map(|extent| extent as f32 * between(0.38, 0.62));
    let angle = between(0.0, TAU);
    let gradient = between(0.0, TAU);
    let phases = [(); 4].map(|()| between(0.0, TAU));
    let frequencies = [(); 4].map(|()| between(0.02, 0.15));
    let period = radius * between(0.32, 0.5);
    let noise = between(2.0, 18.0);

    let mut pixels = Vec::with_capacity(height * width * 3);
    for y in 0..height {
        for x in 0..width {
            let (dy, dx) = (y as f32 - centre[0], x as f32 - centre[1]);
            // Object coordinates: rotated, in units of the radius.
            let (u, v) = (
                (dx * angle.cos() + dy * angle.sin()) / radius,
                (dy * angle.cos() - dx * angle.sin()) / radius,
            );
            let inside = contains(class, u, v, period / radius);
            let position = (x as f32 * gradient.cos() + y as f32 * gradient.sin()) / (height + width) as f32;
            let texture: f32 = (0..4)
                .map(|i| {
                    let along = if i % 2 == 0 { x as f32 } else { y as f32 };
                    (along * frequencies[i] + phases[i] + 0.7 * (i as f32)).sin() * 6.0
                })
                .sum();
            let blend = (0.5 + position).clamp(0.0, 1.0);
            for channel in 0..3 {
                let background = near[channel] * (1.0 - blend) + far[channel] * blend + texture;
                let value = if inside { object[channel] + 0.5 * texture } else { background };
                pixels.push((value + noise * (rng.uniform() - 0.5)).clamp(0.0, 255.0) as u8);
            }
        }
    }
    pixels
}

/// True if a point belongs to the object of a class; the object lies within the unit circle, textures have the given period.
fn contains(class: usize, u: f32, v: f32, period: f32) -> bool {
    let distance = (u * u + v * v).sqrt();
    let cell = |t: f32| (t / period).floor() as i32;
    let within = |t: f32| t.rem_euclid(period) - period / 2.0;
    match CLASSES[class] {
        "checkerboard" => u.abs().max(v.abs()) < 0.8 && (cell(u) + cell(v)) % 2 == 0,
        "circle" => distance < 0.85,
        "cross" => u.abs().max(v.abs()) < 0.95 && u.abs().min(v.abs()) < 0.2,
        "dots" => distance < 1.0 && (within(u).powi(2) + within(v).powi(2)).sqrt() < 0.32 * period,
        "ring" => (0.55..0.95).contains(&distance),
        "square" => u.abs().max(v.abs()) < 0.75,
        "star" => {
            // Five points: the radius falls from 1 to 0.4 between two points.
            let sector = (v.atan2(u) + PI).rem_euclid(TAU / 5.0) / (TAU / 5.0);
            distance < 1.0 - 0.6 * (1.0 - (2.0 * sector - 1.0).abs())
        }
        "stripes" => u.abs().max(v.abs()) < 0.85 && cell(u) % 2 == 0,
        "triangle" => v > -0.5 && v < 1.0 - 1.732 * u.abs(),
        "waves" => u.abs().max(v.abs()) < 0.9 && (v + 0.15 * (u * TAU * 1.2).sin()).rem_euclid(0.45) < 0.2,
        _ => unreachable!("there are ten classes"),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), images) = (arguments.next(), arguments.next()) else {
        return Err("give a folder and, optionally, a number of images (2500)".into());
    };
    let images = images.map_or(Ok(2500), |text| text.parse())?;
    write(Path::new(&folder), images)?;
    println!("{images} images of {} classes in {folder}", CLASSES.len());
    Ok(())
}
