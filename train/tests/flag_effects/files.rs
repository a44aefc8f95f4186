//! Files of datasets.
use crate::small_dataset::write_small_dataset;
use fornax::data::Image;
use fornax::data::export::png_bytes;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Folder of the datasets, written once per process:
///
/// - `photos`: RGB images of 40x30 pixels in two classes, with the splits train (16), validation (8) and other (6)
/// - `unsplit`: 20 images of each class without splits
/// - `formats`: photos, and 4 images in each split with the extension jpg
/// - `broken`: photos, 2 of which are truncated
/// - `turned`: photos, one of which has an EXIF orientation
/// - `deep`: photos, one of which has 16-bit grey values
/// - `videos`: 4 training and 2 validation videos of 6 frames per class
/// - `small`: IDX files, 32 training images
/// - `both`: photos beside IDX files
/// - `list.csv`: photos with the columns path, label (2 classes) and number (4 classes)
/// - `classes.txt`: a class map with class b only, and class c without images
pub fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME"));
        if root.exists() {
            fs::remove_dir_all(&root).expect("removes");
        }
        fs::create_dir_all(&root).expect("creates");
        write_all(&root);
        root
    });
    &ROOT
}

/// The path of [`root`].
pub fn root_text() -> &'static str {
    root().to_str().expect("UTF-8")
}

fn write_all(root: &Path) {
    for dataset in ["photos", "formats", "broken", "turned", "deep", "both"] {
        photos(&root.join(dataset));
    }
    for (class, first) in [("a", 0), ("b", 1)] {
        (0..20).for_each(|i| write(&root.join(format!("unsplit/{class}/{i}.png")), &png(2 * i + first)));
        for i in 0..2 {
            for split in ["train", "validation"] {
                write(&root.join(format!("formats/{split}/{class}/{i}.jpg")), &png(2 * i + first));
            }
        }
        for (split, videos) in [("train", 4), ("validation", 2)] {
            for (video, frame) in (0..videos).flat_map(|video| (0..6).map(move |frame| (video, frame))) {
                let path = format!("videos/{split}/{class}/{video}/{frame}.png");
                write(&root.join(path), &png(12 * video + 2 * frame + first));
            }
        }
    }
    let truncated = png(0);
    for class in ["a", "b"] {
        write(&root.join(format!("broken/train/{class}/0.png")), &truncated[..truncated.len() / 2]);
    }
    let turned = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/images/exif_rotated.jpg");
    fs::copy(turned, root.join("turned/train/a/turned.jpg")).expect("copies");
    let deep = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/decoders/grey16.tif");
    fs::copy(deep, root.join("deep/train/a/deep.tif")).expect("copies");
    write_small_dataset(root);
    for file in fs::read_dir(root.join("small")).expect("lists") {
        let file = file.expect("an entry");
        fs::copy(file.path(), root.join("both").join(file.file_name())).expect("copies");
    }
    let row = |i: usize| format!("photos/train/{0}/{1}.png,{0},{2}\n", ["a", "b"][i % 2], i / 2, i % 4);
    let rows: String = (0..16).map(row).collect();
    write(&root.join("list.csv"), format!("path,label,number\n{rows}").as_bytes());
    write(&root.join("classes.txt"), b"b\nc\n");
}

fn photos(folder: &Path) {
    for (split, images) in [("train", 8), ("validation", 4), ("other", 3)] {
        for i in 0..2 * images {
            let path = folder.join(format!("{split}/{}/{}.png", ["a", "b"][i % 2], i / 2));
            write(&path, &png(i + split.len() * 31));
        }
    }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("creates");
    fs::write(path, bytes).expect("writes");
}

/// A smooth RGB image of 40x30 pixels with another pattern for each number.
fn png(number: usize) -> Vec<u8> {
    let pixel = |i: usize| {
        let (y, x, channel) = (i / 3 / 40, i / 3 % 40, i % 3);
        let wave = |at: usize, period: usize| ((at + number) as f32 * 6.3 / period as f32).sin();
        (128.0 + 60.0 * wave(x + 7 * channel, 13 + number % 5) + 60.0 * wave(y, 9 + channel + number % 7))
            as u8
    };
    png_bytes(&Image { size: [30, 40, 3], pixels: (0..30 * 40 * 3).map(pixel).collect() })
}

/// The events of a kind in a run's `metrics.jsonl`.
#[allow(dead_code)]
pub fn events(run: &Path, kind: &str) -> Vec<serde_json::Value> {
    let lines = fs::read_to_string(run.join("metrics.jsonl")).expect("reads");
    let events = lines.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    events.filter(|event: &serde_json::Value| event["event"] == kind).collect()
}
