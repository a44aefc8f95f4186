//! The pictures that arguments name, and batches of them.
use crate::data::decode::{EXTENSIONS, Picture};
use crate::data::eval_transform::EvalTransform;
use crate::data::natural;
use crate::{Error, Result};
use fornax_engine::Tensor;
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// Files as they are named, and of folders their pictures.
pub fn gather(arguments: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut paths = vec![];
    for argument in arguments {
        if !argument.is_dir() {
            paths.push(argument.clone());
            continue;
        }
        let fail =
            |why: String| Error::data("the folder has no pictures to show").at_path(argument).because(why);
        let found = natural::files(argument, &EXTENSIONS).map_err(|e| fail(e.to_string()))?;
        if found.is_empty() {
            return Err(fail(format!("no file in it ends in .{}", EXTENSIONS.join(", ."))));
        }
        paths.extend(found);
    }
    Ok(paths)
}

/// The pictures as a model takes them, decoded by all threads.
pub fn batch(paths: &[PathBuf], transform: &EvalTransform) -> Result<Tensor> {
    let pictures: Vec<Picture> =
        paths.par_iter().map(|path| fitted(path, transform)).collect::<Result<_>>()?;
    transform.batch(&pictures)
}

fn fitted(path: &Path, transform: &EvalTransform) -> Result<Picture> {
    let attempt = || {
        let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
        transform.fit(&Picture::decode(&bytes, transform.mean.len())?)
    };
    attempt().map_err(|why: String| {
        Error::data("the picture cannot be used")
            .at_path(path)
            .because(why)
            .remedy("leave it out, or save it again")
    })
}
