//! `fornax models save`: initial weights of a model as a safetensors file.
use super::{output_file, print};
use crate::{Error, Result};
use fornax_nn::models::create_model;
use fornax_nn::{ModelOptions, state_dict};
use std::collections::HashMap;
use std::path::Path;

/// Initialises a model and writes its weights with timm's names and PyTorch's shapes.
pub fn save(name: &str, options: &ModelOptions, path: &Path) -> Result<()> {
    let fail = |e: fornax_nn::Error| Error::usage(format!("{name}: {e}"));
    let model = create_model(name, options).map_err(fail)?;
    let state = state_dict::state_dict(&*model).map_err(fail)?;
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let bytes = state_dict::to_safetensors(&state, Some(metadata)).map_err(fail)?;
    output_file::write(path, &bytes)?;
    print(&format!(
        "saved {} tensors of {name}, initialised with seed {}, to {}\n",
        state.len(),
        options.seed,
        path.display()
    ))?;
    Ok(())
}
