//! `fornax datasets download`.
use super::print;
use crate::data::{DATASETS, find};
use crate::{Error, Result};
use std::path::PathBuf;

/// Arguments of `fornax datasets download`.
#[derive(clap::Args)]
pub struct DownloadArgs {
    /// Dataset
    #[arg(value_name = "NAME")]
    name: String,
    /// Folder for the files [default: data/NAME]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// URL of the folder with the files on another server, in place of the known ones
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
}

/// Runs `fornax datasets download`.
pub fn execute(args: &DownloadArgs) -> Result<()> {
    let names = || DATASETS.iter().filter(|d| !d.files.is_empty()).map(|d| d.name).collect::<Vec<_>>();
    let info = find(&args.name).filter(|info| !info.files.is_empty()).ok_or_else(|| {
        Error::usage(format!("{:?} cannot be downloaded", args.name))
            .because(format!("the datasets with published files are {}", names().join(", ")))
            .remedy("choose one of these")
    })?;
    if let Some(mirror) = &args.mirror {
        check_mirror(mirror)?;
    }
    let folder = args.data_dir.clone().unwrap_or_else(|| info.download_folder());
    fetch(info, args.mirror.as_deref(), &folder)?;
    print(&format!(
        "{}: {} files in {}; source: {}\n",
        info.name,
        info.files.len(),
        folder.display(),
        info.source
    ))?;
    Ok(())
}

#[cfg(feature = "download")]
fn fetch(info: &crate::data::DatasetInfo, mirror: Option<&str>, folder: &std::path::Path) -> Result<()> {
    let mirrors = mirror.as_ref().map_or(info.mirrors, std::slice::from_ref);
    std::fs::create_dir_all(folder).map_err(|e| {
        Error::disk("the folder cannot be created")
            .at_path(folder)
            .because(e)
            .remedy("choose another --data-dir")
    })?;
    let hub = crate::hub::Hub::from_environment();
    for file in info.files {
        crate::hub::download_published(
            &hub,
            mirrors,
            file.name,
            file.size,
            file.sha256,
            &folder.join(file.name),
        )?;
    }
    Ok(())
}

#[cfg(not(feature = "download"))]
fn fetch(info: &crate::data::DatasetInfo, _: Option<&str>, folder: &std::path::Path) -> Result<()> {
    Err(Error::usage("this binary was built without the feature \"download\"").remedy(format!(
        "download the files from {} to {} by other means",
        info.source,
        folder.display()
    )))
}

/// Checks that a mirror is encrypted or on this machine.
fn check_mirror(url: &str) -> Result<()> {
    let authority = url.strip_prefix("http://").and_then(|rest| rest.split(['/', '?', '#', '\\']).next());
    // A host after `@` is another one than that at the beginning.
    let host = authority.filter(|authority| !authority.contains('@')).and_then(|host| host.split(':').next());
    match (url.starts_with("https://"), host) {
        (true, _) | (_, Some("127.0.0.1" | "localhost")) => Ok(()),
        _ => Err(Error::usage("the mirror is not encrypted")
            .at("--mirror")
            .because(format!("{url} neither begins with https:// nor names this machine"))
            .remedy("pass an https:// URL")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_encrypted_mirrors_and_this_machine_are_accepted() {
        for url in ["https://host/x", "http://127.0.0.1:80/x", "http://localhost", "https://user@host/"] {
            check_mirror(url).expect(url);
        }
        for url in
            ["http://host/x", "http://127.0.0.1:80@host/", "http://localhost@host", "http://127.0.0.1.host/"]
        {
            check_mirror(url).expect_err(url);
        }
    }
}
