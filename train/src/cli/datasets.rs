//! `fornax datasets`.
use super::{print, table};
use crate::Result;
use crate::data::DATASETS;

pub fn execute() -> Result<()> {
    let mut rows = vec![["NAME", "DESCRIPTION", "FILES", "SOURCE"].map(String::from).to_vec()];
    for d in DATASETS {
        let files = if d.needs_files { "--data-dir" } else { "included" };
        rows.push([d.name, d.description, files, d.source].map(String::from).to_vec());
    }
    print(&table(&rows, &[]));
    print(
        "\n--data-dir is a folder with train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte\n\
         and t10k-labels-idx1-ubyte, each gzipped (.gz) or not.\n",
    );
    Ok(())
}
