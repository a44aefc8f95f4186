//! Writes the headers of the kernel modules to a folder, among them `arguments.cuh`, which the build makes: `headers FOLDER`.
use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder = PathBuf::from(std::env::args_os().nth(1).expect("usage: headers FOLDER"));
    std::fs::create_dir_all(&folder)?;
    for (name, text) in fornax_kernels::kernel_modules().iter().flat_map(|module| module.headers()) {
        std::fs::write(folder.join(name), text)?;
    }
    Ok(())
}
