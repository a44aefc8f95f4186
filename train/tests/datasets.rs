//! `fornax datasets` and the formats of datasets: the same samples in every format, and one clear error for each defect.
mod common;
#[path = "common/sweep.rs"]
mod sweep;

use common::{run, stderr, succeed};
use fornax::data::export::png_bytes;
use fornax::data::{Dataset, DatasetOptions, DatasetSplits, Image, SampleImage};
use std::fs;
use std::path::Path;

/// A small grey or RGB image with a pattern that depends on `value`.
fn png(value: usize, channels: usize) -> Vec<u8> {
    let pixels = (0..12 * channels).map(|i| (i * 5 + value * 31) as u8).collect();
    png_bytes(&Image { size: [3, 4, channels], pixels })
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("creates");
    fs::write(path, bytes).expect("writes");
}

/// An image folder of two classes with train and val.
fn image_folder(root: &Path) {
    for (split, count) in [("train", 4), ("val", 2)] {
        for class in ["cat", "dog"] {
            for i in 0..count {
                write(&root.join(format!("{split}/{class}/{i}.png")), &png(i + class.len(), 3));
            }
        }
    }
}

fn open(root: &Path) -> DatasetSplits {
    options(root).open().unwrap_or_else(|error| panic!("{error}"))
}

fn options(root: &Path) -> DatasetOptions {
    DatasetOptions { root: Some(root.into()), ..DatasetOptions::default() }
}

fn contents(dataset: &dyn Dataset, channels: usize) -> Vec<(Image, u32)> {
    let image = |index| match dataset.image(index).expect("reads") {
        SampleImage::Decoded(image) => image,
        SampleImage::Encoded(bytes) => Image::decode(&bytes, channels).expect("decodes"),
    };
    (0..dataset.len()).map(|index| (image(index), dataset.target(index))).collect()
}

fn tree(folder: &Path) -> Vec<(String, u64)> {
    let mut entries = vec![];
    for entry in fs::read_dir(folder).expect("lists") {
        let path = entry.expect("an entry").path();
        let metadata = fs::symlink_metadata(&path).expect("metadata");
        entries.push((path.display().to_string(), if metadata.is_file() { metadata.len() } else { 0 }));
        if metadata.is_dir() {
            entries.extend(tree(&path));
        }
    }
    entries.sort();
    entries
}

/// Runs with an invalid dataset; checks the exit code 3, the parts of the message, and that nothing was written.
#[track_caller]
fn assert_rejected(folder: &Path, arguments: &str, parts: &[&str]) {
    let before = tree(folder);
    let output = run(folder, arguments);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{arguments}: {message}");
    for part in parts {
        assert!(message.contains(part), "{arguments}: {part:?} is missing in\n{message}");
    }
    for label in ["error: ", "\n  where ", "\n  why ", "\n  help "] {
        assert!(message.contains(label), "{arguments}: {label:?} is missing in\n{message}");
    }
    assert_eq!(before, tree(folder), "{arguments} changed files");
}

/// IDX files with MNIST's names: `train` and `t10k` images of 5x4 pixels in 10 classes.
fn idx(root: &Path) {
    for (split, count) in [("train", 37u32), ("t10k", 23)] {
        let words = |words: &[u32]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<u8>>();
        let pixels: Vec<u8> = (0..count * 20).map(|i| (i * 7 % 251) as u8).collect();
        let labels: Vec<u8> = (0..count).map(|i| (i * 7 % 10) as u8).collect();
        write(
            &root.join(format!("{split}-images-idx3-ubyte")),
            &[words(&[0x803, count, 5, 4]), pixels].concat(),
        );
        write(&root.join(format!("{split}-labels-idx1-ubyte")), &[words(&[0x801, count]), labels].concat());
    }
}

#[test]
fn exports_to_folder_tar_and_idx_hold_the_same_samples_in_the_same_order() {
    let folder = tempfile::tempdir().expect("a folder");
    idx(&folder.path().join("original"));
    let before = tree(&folder.path().join("original"));
    for name in ["fashion-mnist", "mnist"] {
        let original = DatasetOptions { name: Some(name.into()), ..options(&folder.path().join("original")) };
        let original = original.open().expect("opens");
        for format in ["folder", "tar", "idx"] {
            let output = format!("{name}-{format}");
            let text = succeed(
                folder.path(),
                &format!("datasets export original --dataset {name} --format {format} --output {output}"),
            );
            assert!(text.contains("train: 37 images") && text.contains("validation: 23 images"), "{text}");
            let exported = open(&folder.path().join(&output));
            let expected = contents(&*original.train, 1);
            assert!(contents(&*exported.train, 1) == expected, "{name} as {format}");
            let splits = [&exported, &original].map(|data| data.validation.clone().expect("a split"));
            assert!(contents(&*splits[0], 1) == contents(&*splits[1], 1), "{name} as {format}");
            assert_eq!(exported.classes.len(), 10);
        }
    }
    assert_eq!(before, tree(&folder.path().join("original")), "the dataset is unchanged");
    // Neither existing files nor the dataset itself are written to.
    for (arguments, part) in [
        ("datasets export original --dataset mnist --format idx --output mnist-idx", "exists already"),
        ("datasets export original --dataset mnist --format idx --output original/new", "inside the dataset"),
    ] {
        let output = run(folder.path(), arguments);
        assert!(output.status.code() == Some(2) && stderr(&output).contains(part), "{}", stderr(&output));
    }
}

/// White is 16 in the digits, and 255 in image files.
#[test]
fn exported_digits_have_the_range_of_image_files() {
    let folder = tempfile::tempdir().expect("a folder");
    for format in ["folder", "idx"] {
        succeed(folder.path(), &format!("datasets export digits --format {format} -o {format}"));
        let exported = open(&folder.path().join(format));
        let digits = DatasetOptions { name: Some("digits".into()), ..DatasetOptions::default() };
        let [digits, exported] = [digits.open().expect("embedded").train, exported.train];
        let pixels = |dataset: &dyn Dataset, target: u32| {
            let mut images: Vec<Vec<u8>> = contents(dataset, 1)
                .into_iter()
                .filter_map(|(image, own)| (own == target).then_some(image.pixels))
                .collect();
            images.sort();
            images
        };
        let mut scaled = pixels(&*digits, 3);
        scaled
            .iter_mut()
            .flatten()
            .for_each(|pixel| *pixel = (f64::from(*pixel) * 255.0 / 16.0).round() as u8);
        assert_eq!(pixels(&*exported, 3), scaled, "{format}");
    }
}

#[test]
fn every_format_of_the_same_images_opens_alike() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("set");
    image_folder(&root);
    let expected = open(&root);
    assert_eq!((expected.classes.clone(), expected.train.len()), (vec!["cat".into(), "dog".into()], 8));
    // One archive with both splits.
    let mut builder = tar::Builder::new(fs::File::create(folder.path().join("set.tar")).expect("creates"));
    builder.append_dir_all("set", &root).expect("writes");
    builder.into_inner().expect("writes");
    // A list with a split column.
    let mut list = String::from("path,label,split\n");
    for split in ["train", "val"] {
        for class in ["cat", "dog"] {
            for i in 0..if split == "train" { 4 } else { 2 } {
                list += &format!("set/{split}/{class}/{i}.png,{class},{split}\n");
            }
        }
    }
    write(&folder.path().join("set.csv"), list.as_bytes());
    for name in ["set.tar", "set.csv"] {
        let data = open(&folder.path().join(name));
        assert_eq!(data.classes, expected.classes, "{name}");
        assert!(contents(&*data.train, 3) == contents(&*expected.train, 3), "{name}");
        let validation = data.validation.expect("a split");
        assert!(
            contents(&*validation, 3) == contents(&**expected.validation.as_ref().expect("a split"), 3),
            "{name}"
        );
    }
}

#[test]
fn split_and_limit_options_select_samples() {
    let folder = tempfile::tempdir().expect("a folder");
    image_folder(folder.path());
    let without = DatasetOptions { val_split: Some(String::new()), ..options(folder.path()) };
    assert!(without.open().expect("opens").validation.is_none());
    let held_out = DatasetOptions { val_fraction: Some(0.25), ..without.clone() }.open().expect("opens");
    assert_eq!((held_out.train.len(), held_out.validation.expect("held out").len()), (6, 2));
    let limited = DatasetOptions { train_num_samples: Some(2), ..without.clone() }.open().expect("opens");
    assert_eq!((limited.train.target(0), limited.train.target(1), limited.train.len()), (0, 1, 2));
    let swapped = DatasetOptions {
        train_split: Some("val".into()),
        val_split: Some("train".into()),
        ..options(folder.path())
    };
    assert_eq!(swapped.open().expect("opens").train.len(), 4);
    write(&folder.path().join("map.txt"), b"dog\nbird\n");
    let map = DatasetOptions { class_map: Some(folder.path().join("map.txt")), ..options(folder.path()) };
    let mapped = map.open().expect("opens");
    assert_eq!((mapped.train.len(), mapped.train.target(0), mapped.classes.len()), (4, 0, 2));
    assert!(mapped.notes[0].contains("4 images are ignored"), "{:?}", mapped.notes);
    let rejected = |options: DatasetOptions, part: &str| {
        let error = options.open().map(drop).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    };
    rejected(DatasetOptions { val_fraction: Some(0.2), ..options(folder.path()) }, "has a validation split");
    rejected(
        DatasetOptions { val_split: Some("other".into()), ..options(folder.path()) },
        "\"other\" is not found",
    );
    rejected(
        DatasetOptions { train_split: Some("other".into()), ..options(folder.path()) },
        "\"other\" is not found",
    );
    rejected(
        DatasetOptions { clip_len: Some(4), name: Some("tar".into()), ..options(folder.path()) },
        "--clip-len",
    );
}

#[test]
fn splits_are_found_in_any_case() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("set");
    image_folder(&root);
    let count = |data: &fornax::data::DatasetSplits| {
        (data.train.len(), data.validation.as_ref().map(|split| split.len()))
    };
    let expected = count(&open(&root));
    fs::rename(root.join("train"), root.join("TRAIN")).expect("renames");
    fs::rename(root.join("val"), root.join("Val")).expect("renames");
    assert_eq!(count(&open(&root)), expected);
    let mut builder = tar::Builder::new(fs::File::create(folder.path().join("set.tar")).expect("creates"));
    builder.append_dir_all("set", &root).expect("writes");
    builder.into_inner().expect("writes");
    assert_eq!(count(&open(&folder.path().join("set.tar"))), expected);
    // Only a test split besides training: it is not trained on, even if nothing is held out.
    fs::rename(root.join("Val"), root.join("Test")).expect("renames");
    assert_eq!(count(&open(&root)), (expected.0, None));
}

#[test]
fn class_map_is_looked_up_in_the_folder_of_the_dataset() {
    let folder = tempfile::tempdir().expect("a folder");
    image_folder(folder.path());
    write(&folder.path().join("only-dogs.txt"), b"dog\n");
    let mapped = DatasetOptions { class_map: Some("only-dogs.txt".into()), ..options(folder.path()) };
    assert_eq!(mapped.open().expect("opens").classes, ["dog"]);
    let missing = DatasetOptions { class_map: Some("none.txt".into()), ..options(folder.path()) };
    assert!(missing.open().map(drop).expect_err("no file").to_string().contains("none.txt"));
}

#[test]
fn invalid_datasets_are_rejected_with_one_clear_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    fs::create_dir(root.join("empty")).expect("creates");
    assert_rejected(root, "datasets info empty", &["empty", "no file in it", ".jpg"]);
    assert_rejected(root, "datasets info gone", &["gone", "no such file"]);
    write(&root.join("flat/1.png"), &png(1, 3));
    assert_rejected(root, "datasets info flat", &["flat", "not in folders of classes", "CSV"]);
    image_folder(&root.join("hollow"));
    fs::create_dir(root.join("hollow/train/bird")).expect("creates");
    assert_rejected(root, "datasets info hollow", &["bird", "a class has no images"]);
    write(&root.join("single/train/cat/1.png"), &png(1, 3));
    assert_rejected(root, "train single --dry-run", &["single", "only one class", "\"cat\""]);
    image_folder(&root.join("extra"));
    write(&root.join("extra/val/bird/1.png"), &png(1, 3));
    assert_rejected(root, "datasets info extra", &["extra", "no class \"bird\""]);
    image_folder(&root.join("plain"));
    assert_rejected(
        root,
        "train plain --dry-run --val-num-samples 0",
        &["the validation split has no samples", "--val-num-samples"],
    );
    write(&root.join("map.txt"), b"one\ntwo\n");
    assert_rejected(
        root,
        "datasets info plain --class-map map.txt",
        &["none of its 2 classes", "--class-map"],
    );
    write(&root.join("list.csv"), b"a.png,cat\nb.png\n");
    assert_rejected(root, "datasets info list.csv", &["list.csv, line 2", "1 fields"]);
    let mut builder = tar::Builder::new(vec![]);
    builder.append_dir_all(".", root.join("plain")).expect("memory");
    let archive = builder.into_inner().expect("memory");
    write(&root.join("cut.tar"), &archive[..archive.len() / 2]);
    assert_rejected(root, "datasets info cut.tar", &["cut.tar", "truncated", "again"]);
    write(&root.join("packed.tar"), &[0x1f, 0x8b, 8, 0, 0]);
    assert_rejected(root, "datasets info packed.tar", &["packed.tar", "compressed", "gunzip"]);
}

#[cfg(unix)]
#[test]
fn link_loops_and_names_that_are_not_utf8_are_rejected() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    image_folder(&root.join("loop"));
    std::os::unix::fs::symlink(root.join("loop/train"), root.join("loop/train/cat/up")).expect("links");
    assert_rejected(root, "datasets info loop", &["circle", "up", "remove the link"]);
    image_folder(&root.join("dangling"));
    std::os::unix::fs::symlink("nowhere", root.join("dangling/train/cat/9.png")).expect("links");
    assert_rejected(root, "datasets info dangling", &["leads nowhere", "9.png", "remove the link"]);
    image_folder(&root.join("bytes"));
    write(&root.join("bytes/train/cat").join(std::ffi::OsStr::from_bytes(b"\xff\xfe.png")), &png(1, 3));
    assert_rejected(root, "datasets info bytes", &["not UTF-8", "rename"]);
}

#[test]
fn verify_lists_every_corrupt_image_and_exits_with_3() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    image_folder(&root.join("set"));
    assert_eq!(succeed(root, "datasets verify set"), "");
    write(&root.join("set/train/cat/9.png"), &png(1, 3)[..40]);
    write(&root.join("set/train/dog/8.jpg"), b"");
    let mut bomb = png(1, 3);
    bomb[16..24].copy_from_slice(&[0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0]);
    let mut crc = flate2::Crc::new();
    crc.update(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    write(&root.join("set/val/cat/7.png"), &bomb);
    // Grey, alpha and RGB images in one set are converted, not rejected.
    write(&root.join("set/train/cat/10.png"), &png(1, 1));
    assert_rejected(root, "datasets verify set", &["3 of 16 samples cannot be read"]);
    let output = run(root, "datasets verify set");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    for part in [
        "9.png: the PNG is truncated",
        "8.jpg: the file is empty",
        "7.png: it is too large: 100000x100000 pixels",
    ] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
    assert_eq!(text.lines().count(), 3, "{text}");
    // An export with a corrupt image leaves nothing behind.
    assert_rejected(root, "datasets export set --format tar --output out", &["cannot be read"]);
    let output = run(root, "datasets export set --clip-len 2 --format tar --output out");
    assert!(output.status.code() == Some(2) && stderr(&output).contains("--clip-len"), "{}", stderr(&output));
}

#[test]
fn info_and_preview_describe_the_images() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    image_folder(&root.join("set"));
    let text = succeed(root, "datasets info set");
    for part in ["classes     2", "train       8 samples, height 3, width 4", "validation  4 samples", "dog"]
    {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
    let text = succeed(root, "datasets info digits");
    assert!(text.contains("1,438 samples, height 8, width 8"), "{text}");
    succeed(root, "datasets preview set --samples 5 --columns 3 --img-size 8 --output p.png");
    let image = Image::decode(&fs::read(root.join("p.png")).expect("reads"), 3).expect("decodes");
    // Small images are enlarged to 96 pixels, with a label below.
    assert_eq!(image.size, [2 * (96 + 16 + 8) + 8, 3 * (96 + 8) + 8, 3]);
    succeed(root, "datasets preview digits --samples 4 --columns 2 --in-chans 1 --output d.png");
    let image = Image::decode(&fs::read(root.join("d.png")).expect("reads"), 3).expect("decodes");
    assert_eq!(image.size, [2 * (96 + 16 + 8) + 8, 2 * (96 + 8) + 8, 3]);
}

/// A folder with common problems: hidden entries, other types, merged names, images next to folders, an unused split.
fn messy_folder(root: &Path) {
    for (i, name) in [
        "train/cars/red/0.png",
        "train/shirts/red/1.png",
        "train/shirts/blue/2.png",
        "train/shirts/3.png",
        "train/.ipynb_checkpoints/4.png",
        "train/cars/red/._0.png",
        "val/red/5.png",
        "test/red/6.png",
    ]
    .iter()
    .enumerate()
    {
        write(&root.join(name), &png(i, 3));
    }
    for name in ["train/cars/red/a.avif", "train/cars/red/b.avif", "train/notes.txt"] {
        write(&root.join(name), b"other");
    }
}

#[test]
fn ignored_hidden_and_merged_files_are_noted_and_hidden_folders_are_no_classes() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    messy_folder(&root.join("messy"));
    let data = open(&root.join("messy"));
    assert_eq!(data.classes, ["blue", "red", "shirts"]);
    let expected = [
        "3 files ignored: 2 .avif, 1 .txt",
        "2 hidden files and folders skipped: .ipynb_checkpoints, cars/red/._0.png",
        "class red is merged from cars/red and shirts/red",
        "folder shirts has images and subfolders: both are classes of their own",
        "the test split is not used; `fornax val --split test` evaluates it",
    ];
    assert_eq!(data.notes, expected);
    let info = succeed(root, "datasets info messy");
    let verify = stderr(&run(root, "datasets verify messy"));
    let train = run(
        root,
        "train messy --model resnet8 --img-size 32 --batch-size 2 --epochs 1 --warmup-epochs 0 --output out --dry-run",
    );
    let train = stderr(&train) + &String::from_utf8_lossy(&train.stdout);
    for note in expected {
        assert!(
            info.contains(note) && verify.contains(note) && train.contains(note),
            "{note}\n{info}{verify}{train}"
        );
    }
    // The test split is used as soon as it is named.
    let tested = DatasetOptions { val_split: Some("test".into()), ..options(&root.join("messy")) };
    assert!(tested.open().expect("opens").notes.iter().all(|note| !note.contains("test split")));
}

#[test]
fn nested_class_folders_have_the_order_of_their_export() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    for (i, name) in
        ["a/zebra/1.png", "a/cat/1.png", "b/zebra/2.png", "b/ant/1.png", "zebra/0.png"].iter().enumerate()
    {
        write(&root.join("nested").join(name), &png(i, 3));
    }
    let original = open(&root.join("nested"));
    assert_eq!(original.classes, ["ant", "cat", "zebra"]);
    for format in ["folder", "tar", "idx"] {
        succeed(root, &format!("datasets export nested --format {format} --output {format}"));
        assert!(contents(&*open(&root.join(format)).train, 3) == contents(&*original.train, 3), "{format}");
    }
}

#[test]
fn structural_problems_are_all_listed_in_one_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    image_folder(&root.join("set"));
    fs::create_dir_all(root.join("set/train/empty")).expect("creates");
    fs::create_dir_all(root.join("set/val/bird")).expect("creates");
    write(&root.join("set/train/scans/1.avif"), b"x");
    let mut parts = vec![
        "a class has no images: set/train/empty",
        "a class has no images: set/train/scans",
        "none is read: 1 .avif",
        "a class has no images: set/val/bird",
    ];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("nowhere", root.join("set/train/cat/9.png")).expect("links");
        parts.push("a link leads nowhere: set/train/cat/9.png");
    }
    for command in ["info", "verify"] {
        assert_rejected(root, &format!("datasets {command} set"), &parts);
    }
    image_folder(&root.join("other"));
    for class in ["owl", "elk"] {
        write(&root.join(format!("other/val/{class}/1.png")), &png(1, 3));
    }
    assert_rejected(root, "datasets info other", &["no classes \"elk\", \"owl\""]);
}

#[test]
fn identical_images_across_classes_and_splits_are_warned_of_and_listed_in_json() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    for (name, value) in [
        ("train/cat/0.png", 0),
        ("train/cat/1.png", 1),
        ("train/cat/1 copy.png", 1),
        ("train/dog/0.png", 2),
        ("train/dog/cat.png", 0),
        ("val/cat/0.png", 3),
        ("val/dog/0.png", 2),
    ] {
        write(&root.join("set").join(name), &png(value, 3));
    }
    let output = run(root, "datasets verify set --json");
    let warnings = stderr(&output);
    assert!(output.status.success(), "{warnings}");
    for part in [
        "warning: 1 image is in both splits, so validation is too optimistic:\n  set/train/dog/0.png = set/val/dog/0.png",
        "warning: 1 image is in several classes, so labels are wrong:\n  set/train/cat/0.png = set/train/dog/cat.png",
    ] {
        assert!(warnings.contains(part), "{part:?} is missing in\n{warnings}");
    }
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let groups = json["identical"].as_array().expect("an array");
    assert_eq!(groups.len(), 2, "two equal images of one class are no mistake: {json}");
    assert_eq!((&groups[0]["across_classes"], &groups[0]["across_splits"]), (&true.into(), &false.into()));
    assert_eq!((&groups[1]["across_classes"], &groups[1]["across_splits"]), (&false.into(), &true.into()));
    assert_eq!(groups[1]["files"][1]["path"], "set/val/dog/0.png");
    let info: serde_json::Value =
        serde_json::from_str(&succeed(root, "datasets info set --json")).expect("JSON");
    assert_eq!((&info["splits"][0]["samples"], &info["classes"][1]["name"]), (&5.into(), &"dog".into()));
    assert_eq!((&info["classes"][0]["train"], &info["splits"][0]["height"]["max"]), (&3.into(), &3.into()));
}

#[test]
fn repaired_files_and_16_bit_grey_images_are_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/decoders");
    for (class, file) in [
        ("a", "extra_bytes.jpg"),
        ("a", "missing_scans.jpg"),
        ("b", "adobe_transform.jpg"),
        ("b", "grey16.tif"),
        ("b", "rgb.qoi"),
    ] {
        write(&root.join("set").join(class).join(file), &fs::read(cases.join(file)).expect("reads"));
    }
    write(&root.join("set/a/photo.JFIF"), &fs::read(cases.join("baseline_420.jpg")).expect("reads"));
    let text = stderr(&run(root, "datasets verify set"));
    for part in [
        "train: 0 of 6 samples cannot be read",
        "train: 3 files are repaired as libjpeg does: 1 with extra bytes between JPEG segments, 1 with an invalid Adobe transform, \
         1 without the last scans",
        "1 of 6 images are 16-bit grey: scaled to 8 bits",
    ] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
    let text = succeed(root, "datasets info set");
    assert!(text.contains("3 files are repaired") && text.contains("16-bit grey"), "{text}");
}

#[cfg(unix)]
#[test]
fn control_characters_of_names_are_escaped() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    for class in ["\u{1b}[31mred", "b\u{7}\u{1b}]0;owned\u{7}", "two\nlines"] {
        for i in 0..3 {
            write(&root.join("set").join(class).join(format!("{i}\u{1b}.png")), &png(i + class.len(), 3));
        }
    }
    write(&root.join("set/two\nlines/bad.png"), b"");
    for command in ["datasets info set", "datasets verify set", "datasets info set --json"] {
        let output = run(root, command);
        let text = [output.stdout, output.stderr].concat();
        assert!(!text.contains(&0x1b) && !text.contains(&7), "{command}: {}", String::from_utf8_lossy(&text));
        assert!(!String::from_utf8_lossy(&text).contains("two\nlines"), "{command}");
    }
    let text = succeed(root, "datasets info set");
    assert!(text.contains("\\u{1b}[31mred") && text.contains("two\\nlines"), "{text}");
}

#[test]
fn preview_goes_on_past_bad_images_and_shows_an_odd_number() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    image_folder(&root.join("set"));
    for (i, name) in
        ["train/cat/8.png", "train/dog/8.png", "train/dog/9.png", "val/cat/9.png"].iter().enumerate()
    {
        write(&root.join("set").join(name), &png(i, 3)[..40]);
    }
    let output = run(root, "datasets preview set --img-size 8 --output p.png");
    let text = stderr(&output);
    assert!(output.status.success() && text.contains("3 images cannot be read and are replaced: "), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "11 images in p.png\n");
    let output = run(root, "datasets preview set --img-size 8 --split validation --output v.png");
    let text = stderr(&output);
    assert!(text.contains("1 image cannot be read and is skipped: ") && text.contains("9.png"), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "4 images in v.png\n");
    let output = run(root, "datasets preview set --img-size 8 --mixup 0.8 --output p.png");
    assert!(stderr(&output).contains("the last image is omitted"), "{}", stderr(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "10 images in p.png\n");
}

#[test]
fn downloaded_dataset_is_found_in_its_folder_and_the_list_fits_a_terminal() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    assert!(stderr(&run(root, "datasets info mnist")).contains("needs --data-dir"));
    idx(&root.join("data/mnist"));
    let text = succeed(root, "datasets info mnist");
    assert!(text.contains("train       37 samples") && text.contains("read from data/mnist"), "{text}");
    let list = succeed(root, "datasets");
    assert!(list.lines().all(|line| line.chars().count() <= 100), "{list}");
}

/// A list of a million images opens fast and with little memory: the paths are stored in one text.
#[test]
fn list_of_many_images_opens_without_reading_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let count = if sweep::is_full_sweep() { 1_000_000 } else { 50_000 };
    let list: String = (0..count).map(|i| format!("images/{i:08}.jpg,class {}\n", i % 1000)).collect();
    write(&folder.path().join("list.csv"), list.as_bytes());
    let data = open(&folder.path().join("list.csv"));
    assert_eq!((data.train.len(), data.classes.len()), (count, 1000));
    assert!(data.train.location(12_345).ends_with("images/00012345.jpg"));
    assert_eq!(data.train.target(12_345), 345);
}

#[test]
fn input_key_restricts_a_folder_to_extensions_and_names_a_column_of_a_list() {
    let folder = tempfile::tempdir().expect("a folder");
    image_folder(folder.path());
    for class in ["cat", "dog"] {
        write(&folder.path().join(format!("train/{class}/other.bmp")), b"not read");
    }
    let count = |key: Option<&str>| {
        DatasetOptions { input_key: key.map(String::from), ..options(folder.path()) }
            .open()
            .expect("opens")
            .train
            .len()
    };
    assert_eq!((count(None), count(Some(".png")), count(Some("png;bmp"))), (10, 8, 10));

    let list = folder.path().join("list.csv");
    write(&list, b"species,photo\ncat,train/cat/0.png\ndog,train/dog/0.png\n");
    let columns = DatasetOptions {
        input_key: Some("photo".into()),
        target_key: Some("species".into()),
        ..options(&list)
    };
    assert_eq!(columns.open().expect("opens").classes, ["cat", "dog"]);
    let text = succeed(folder.path(), "datasets info list.csv --input-key photo --target-key species");
    assert!(text.contains("train       2 samples"), "{text}");
    let missing = DatasetOptions { target_key: Some("genus".into()), ..columns };
    let error = missing.open().map(drop).expect_err("there is no such column").to_string();
    assert!(error.contains("\"genus\"") && error.contains("species, photo"), "{error}");
    let digits = DatasetOptions { target_key: Some("label".into()), ..DatasetOptions::default() };
    assert!(
        digits.open().map(drop).expect_err("digits have no columns").to_string().contains("--target-key")
    );
}
