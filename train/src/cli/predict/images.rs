//! Image files of the arguments, and batches of them.
use crate::data::decode::{EXTENSIONS, Image};
use crate::data::eval_transform::EvalTransform;
use crate::data::natural;
use crate::error::ErrorKind;
use crate::{Error, Result};
use fornax_engine::Tensor;
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// Collects the image files: files as given, and all images in given folders.
pub fn collect_paths(arguments: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut paths = vec![];
    for argument in arguments {
        if !argument.is_dir() {
            paths.push(argument.clone());
            continue;
        }
        let fail = |why: String| Error::data("the folder has no images").at_path(argument).because(why);
        let found = natural::files(argument, &EXTENSIONS).map_err(|e| fail(e.to_string()))?;
        if found.is_empty() {
            return Err(fail(format!("no file in it ends in .{}", EXTENSIONS.join(", ."))));
        }
        paths.extend(found);
    }
    Ok(paths)
}

/// Decodes and transforms images to a model's input batch, on all threads.
pub fn batch(paths: &[PathBuf], transform: &EvalTransform) -> Result<Tensor> {
    let images: Vec<Image> =
        paths.par_iter().map(|path| load_image(path, transform)).collect::<Result<_>>()?;
    transform.batch(&images)
}

fn load_image(path: &Path, transform: &EvalTransform) -> Result<Image> {
    let what = "the image cannot be read";
    let bytes = std::fs::read(path).map_err(|e| Error::unreadable(ErrorKind::Data, what, path, &e))?;
    let image =
        Image::decode(&bytes, transform.mean.len()).and_then(|image| transform.resize_and_crop(&image));
    image.map_err(|why| {
        Error::data(what).at_path(path).because(why).remedy("replace the file, or leave it out")
    })
}
