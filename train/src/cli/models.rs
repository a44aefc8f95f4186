//! `fornax models`.
use super::{print, table};
use crate::report::thousands;
use crate::{Error, Result};
use fornax_nn::{ModelOptions, models};

/// What the models are to be built for.
#[derive(clap::Args)]
pub struct ModelsArgs {
    /// Classes that parameters are counted for
    #[arg(long, value_name = "N", default_value_t = 10)]
    num_classes: usize,
    /// Channels of the images that parameters are counted for
    #[arg(long, value_name = "C", default_value_t = 3)]
    in_chans: usize,
}

pub fn execute(args: &ModelsArgs) -> Result<()> {
    let options =
        ModelOptions { num_classes: args.num_classes, in_chans: args.in_chans, ..ModelOptions::default() };
    let mut rows = vec![["NAME", "PARAMETERS", "DESIGNED FOR", "WHAT"].map(String::from).to_vec()];
    for info in models::models() {
        let parameters = info.parameters(&options).map_err(|e| Error::usage(e.to_string()))?;
        let [h, w] = info.input_size;
        rows.push(vec![
            info.name.into(),
            thousands(parameters as u64),
            format!("{h}x{w}"),
            info.about.into(),
        ]);
    }
    print(&table(&rows, &[1, 2]));
    print(&format!("\nParameters for {} classes and {} channels.\n", args.num_classes, args.in_chans));
    Ok(())
}
