//! Image files of the arguments, and batches of them.
use crate::augment::{ImageTransform, TestTimeAugmentation};
use crate::data::Image;
use crate::data::decode::{DecodeOptions, EXTENSIONS};
use crate::data::{listing, read_image_file};
use crate::{Error, Result};
use fornax_engine::random::{RngKey, RngStream};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// Collects the image files: files as given, and all images in given folders. `on_error` is called with the path of each entry of a folder
/// that cannot be listed.
pub fn collect_paths(arguments: &[PathBuf], mut on_error: impl FnMut(&Path, Error)) -> Result<Vec<PathBuf>> {
    let mut paths = vec![];
    for argument in arguments {
        if !argument.is_dir() {
            paths.push(argument.clone());
            continue;
        }
        let mut is_complete = true;
        let found = listing::list_with(argument, &EXTENSIONS, |path, error| {
            is_complete = false;
            on_error(path, error);
            Ok(())
        })?;
        let found = found.files;
        if found.is_empty() && is_complete {
            return Err(Error::data("the folder has no images")
                .at_path(argument)
                .because(format!("no file in it ends in .{}", EXTENSIONS.join(", .")))
                .remedy("check the path"));
        }
        paths.extend(found.iter().map(|path| argument.join(path)));
    }
    Ok(paths)
}

/// Decodes and transforms images, on all threads; gives the views of each.
pub fn load(
    paths: &[PathBuf],
    decode: DecodeOptions,
    transform: &TestTimeAugmentation,
) -> Vec<Result<Vec<Image>>> {
    paths.par_iter().map(|path| load_image(path, decode, transform)).collect()
}

fn load_image(path: &Path, decode: DecodeOptions, transform: &TestTimeAugmentation) -> Result<Vec<Image>> {
    let bytes = read_image_file(path)?;
    // An evaluation transform takes no random numbers.
    let mut rng = RngStream::new(RngKey::new(0, "predict"), 0, 0);
    let views = Image::decode_with(&bytes, &decode).and_then(|image| transform.apply(&image, &mut rng));
    views.map_err(|why| {
        Error::data("the image cannot be read")
            .at_path(path)
            .because(why)
            .remedy("replace the file, or omit it")
    })
}
