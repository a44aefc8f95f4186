//! Image files of the arguments, and batches of them.
use crate::data::Image;
use crate::data::decode::{DecodeOptions, EXTENSIONS};
use crate::data::eval_transform::EvalTransform;
use crate::data::{listing, read_image_file};
use crate::{Error, Result};
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

/// Decodes and transforms images, on all threads.
pub fn load(paths: &[PathBuf], decode: &DecodeOptions, transform: &EvalTransform) -> Vec<Result<Image>> {
    paths.par_iter().map(|path| load_image(path, decode, transform)).collect()
}

fn load_image(path: &Path, decode: &DecodeOptions, transform: &EvalTransform) -> Result<Image> {
    let bytes = read_image_file(path)?;
    let image = Image::decode_with(&bytes, decode).and_then(|image| transform.resize_and_crop(&image));
    image.map_err(|why| {
        Error::data("the image cannot be read")
            .at_path(path)
            .because(why)
            .remedy("replace the file, or omit it")
    })
}
