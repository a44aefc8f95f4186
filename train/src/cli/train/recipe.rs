//! Settings of a run as given on the command line and in YAML files.
use crate::cli::yaml::{self, ConfigFile};
use crate::config::{Config, IgnoredOption, ignored_warning};
use crate::data;
use crate::settings::Settings;
use crate::{Error, Result};
use std::path::PathBuf;

/// Dataset, settings and configuration files.
#[derive(clap::Args, Clone)]
pub struct RecipeArgs {
    /// Dataset root: a folder of images, tar archives, IDX or CIFAR files; a tar archive; or a CSV list; same as --data-dir
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) settings: Settings,
    /// YAML file with options of `fornax train`; repeatable: later files win, and the command line wins over all
    #[arg(long, short = 'c', value_name = "FILE", help_heading = "Run")]
    config: Vec<PathBuf>,
    /// Other options that are given and have no effect.
    #[arg(skip)]
    pub(in crate::cli) ignored: Vec<IgnoredOption>,
}

impl RecipeArgs {
    /// The given settings; those of later files win, and those of the command line over all.
    pub fn settings(&self) -> Result<Settings> {
        self.settings_over(Settings::default())
    }

    /// The configuration files, in the order of the command line.
    pub fn files(&self) -> Result<Vec<(PathBuf, ConfigFile)>> {
        self.config.iter().map(|path| Ok((path.clone(), yaml::read(path)?))).collect()
    }

    /// The settings of the command line.
    pub fn command_line(&self) -> Result<Settings> {
        let mut given = self.settings.clone();
        if let Some(folder) = &self.dir {
            if given.data_dir.is_some() {
                return Err(Error::usage("the dataset root is given twice")
                    .at(format!("{} and --data-dir", folder.display()))
                    .remedy("use one of the two"));
            }
            let Some(name) = folder.to_str() else {
                return Err(Error::usage("the dataset root is not UTF-8")
                    .at_path(folder)
                    .because("settings are written to args.yaml, which is UTF-8")
                    .remedy("rename the folder, or refer to it by a link"));
            };
            match data::find(name).filter(|info| !info.needs_files() && !folder.exists()) {
                Some(included) => given.dataset = Some(included.name.into()),
                None => given.data_dir = Some(folder.clone()),
            }
        }
        Ok(given)
    }

    /// Warnings about options without effect, in one line, and about unusual values.
    pub fn warnings(&self, config: &Config) -> Vec<String> {
        let ignored = ignored_warning(config.ignored.iter().chain(&self.ignored));
        ignored.into_iter().chain(config.warnings.iter().cloned()).collect()
    }

    /// The given settings, completed by others.
    pub(super) fn settings_over(&self, mut settings: Settings) -> Result<Settings> {
        for (_, file) in self.files()? {
            settings = file.settings.over(settings);
        }
        Ok(self.command_line()?.over(settings))
    }
}
