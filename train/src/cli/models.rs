//! `fornax models`: list of models, table of layers with their costs, initial weights.
use super::save_weights::save;
use super::{print, table, table_within};
use crate::config::{timm_name, unknown_model};
use crate::report::{bytes, thousands};
use crate::{Error, Result};
use fornax_nn::ModelOptions;
use fornax_nn::models::{self, ModelInfo, ModelSummary, summary};
use serde_json::json;
use std::path::PathBuf;

/// Width of the list in columns.
const MAX_WIDTH: usize = 100;

/// Arguments of `fornax models`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ModelsArgs {
    /// Glob pattern of model names: `*` matches any characters, `?` one
    #[arg(value_name = "PATTERN")]
    pattern: Option<String>,
    #[command(flatten)]
    build: BuildArgs,
    #[command(subcommand)]
    command: Option<ModelsCommand>,
}

#[derive(clap::Subcommand)]
enum ModelsCommand {
    /// Show a model's layers: output shape, parameters, MACs, activation memory
    Show {
        /// Model name
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        build: BuildArgs,
    },
    /// Save a model's initial weights as safetensors, with timm's tensor names
    Save {
        /// Model name
        #[arg(value_name = "NAME")]
        name: String,
        /// Output file
        #[arg(value_name = "FILE")]
        path: PathBuf,
        /// Random seed of the weights
        #[arg(long, value_name = "N", default_value_t = 42)]
        seed: u64,
        #[command(flatten)]
        build: BuildArgs,
    },
}

#[derive(clap::Args)]
struct BuildArgs {
    /// Number of classes [default: the model's own]
    #[arg(long, value_name = "N")]
    num_classes: Option<usize>,
    /// Input channels [default: 3]
    #[arg(long, value_name = "C")]
    in_chans: Option<usize>,
    /// Image size: 224, or height x width as 224x160 [default: the model's own]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    img_size: Option<[usize; 2]>,
    /// Further model options, such as drop_path_rate=0.1
    #[arg(long, value_name = "KEY=VALUE", num_args = 1..)]
    model_kwargs: Vec<String>,
    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
}

pub fn execute(args: &ModelsArgs) -> Result<()> {
    match &args.command {
        Some(ModelsCommand::Show { name, build }) => show(name, build),
        Some(ModelsCommand::Save { name, path, seed, build }) => {
            let info = models::find_model(timm_name(name)).map_err(|_| unknown_model(name))?;
            let options = ModelOptions { seed: *seed, ..build.options(info)? };
            save(info.name, &options, &build.model_kwargs, path)
        }
        None => list(args.pattern.as_deref(), &args.build),
    }
}

fn list(pattern: Option<&str>, build: &BuildArgs) -> Result<()> {
    let chosen: Vec<&ModelInfo> =
        models::list_models().filter(|info| pattern.is_none_or(|p| matches(p, info.name))).collect();
    if chosen.is_empty() {
        let pattern = pattern.unwrap_or_default();
        return Err(Error::usage(format!("no model's name matches {pattern:?}"))
            .remedy("`fornax models` lists all names; quote a pattern with *, as in 'res*'"));
    }
    let mut rows = vec![["NAME", "PARAMETERS", "MACS", "INPUT", "DESCRIPTION"].map(String::from).to_vec()];
    for info in chosen {
        let (cost, [h, w, _]) = build.cost(info)?;
        if build.json {
            print(&format!(
                "{}\n",
                json!({ "name": info.name, "parameters": cost.parameters, "macs": cost.macs, "input": [h, w],
                    "about": info.description, "weights": info.hub_id() })
            ))?;
        }
        rows.push(vec![
            info.name.into(),
            thousands(cost.parameters as u64),
            millions(cost.macs),
            format!("{h}x{w}"),
            info.description.into(),
        ]);
    }
    if !build.json {
        print(&table_within(&rows, &[1, 2, 3], MAX_WIDTH))?;
    }
    Ok(())
}

fn show(name: &str, build: &BuildArgs) -> Result<()> {
    let info = models::find_model(timm_name(name)).map_err(|_| unknown_model(name))?;
    let (cost, [h, w, c]) = build.cost(info)?;
    let shape = |dims: &[usize]| dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
    let mut rows =
        vec![["LAYER", "TYPE", "OUTPUT", "PARAMETERS", "MACS", "ACTIVATIONS"].map(String::from).to_vec()];
    for layer in &cost.layers {
        if build.json {
            print(&format!(
                "{}\n",
                json!({ "layer": layer.name, "kind": layer.kind, "output": layer.output, "parameters": layer.parameters,
                    "macs": layer.macs, "activation_bytes": layer.activation_bytes })
            ))?;
        }
        rows.push(vec![
            layer.name.clone(),
            layer.kind.into(),
            shape(&layer.output),
            thousands(layer.parameters as u64),
            thousands(layer.macs),
            bytes(layer.activation_bytes),
        ]);
    }
    rows.push(vec![
        "total".into(),
        String::new(),
        String::new(),
        thousands(cost.parameters as u64),
        thousands(cost.macs),
        bytes(cost.activation_bytes),
    ]);
    if !build.json {
        print(&table(&rows, &[3, 4, 5]))?;
        print(&format!("\n{name}: {}; for one image of {h}x{w}x{c}, in f32.\n", info.description))?;
    }
    Ok(())
}

impl BuildArgs {
    /// Model options from the arguments.
    fn options(&self, info: &ModelInfo) -> Result<ModelOptions> {
        let fail = |e: fornax_nn::Error| Error::usage(format!("{}: {e}", info.name));
        let mut options = ModelOptions {
            num_classes: self.num_classes.unwrap_or(info.pretrained_cfg.num_classes),
            in_chans: self.in_chans.unwrap_or(3),
            img_size: self.img_size.filter(|_| info.pretrained_cfg.fixed_input_size),
            ..ModelOptions::default()
        };
        for option in &self.model_kwargs {
            let (key, value) = option
                .split_once('=')
                .ok_or_else(|| Error::usage(format!("{option:?} is not KEY=VALUE")).at("--model-kwargs"))?;
            options.set(key, value).map_err(fail)?;
        }
        Ok(options)
    }

    /// Costs of a model with these options, and the image size `[h, w, c]` that they are for.
    fn cost(&self, info: &ModelInfo) -> Result<(ModelSummary, [usize; 3])> {
        let fail = |e: fornax_nn::Error| Error::usage(format!("{}: {e}", info.name));
        let options = self.options(info)?;
        let [h, w] = self.img_size.or(options.img_size).unwrap_or(info.pretrained_cfg.input_size);
        let image = [h, w, options.in_chans];
        let model = fornax_engine::shapes_only(|| info.build(&options)).map_err(fail)?;
        Ok((summary(&*model, image).map_err(fail)?, image))
    }
}

/// Glob match: `*` matches any characters, `?` one.
fn matches(pattern: &str, name: &str) -> bool {
    let (p, n): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // Position of the last star, and of the first character after its match.
    let (mut i, mut j, mut star) = (0, 0, None);
    while j < n.len() {
        match p.get(i) {
            Some('*') => {
                star = Some((i, j));
                i += 1;
            }
            Some(&c) if c == '?' || c == n[j] => (i, j) = (i + 1, j + 1),
            _ => match star {
                Some((s, taken)) => {
                    star = Some((s, taken + 1));
                    (i, j) = (s + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    p[i..].iter().all(|c| *c == '*')
}

fn millions(n: u64) -> String {
    format!("{:.1} M", n as f64 / 1e6)
}

pub(super) fn size(text: &str) -> std::result::Result<[usize; 2], String> {
    let mut options = ModelOptions::default();
    options.set("img_size", text).map_err(|_| "must be a size, such as 224 or 224x160".to_string())?;
    Ok(options.img_size.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("res*", "resnet18", true),
            ("*18", "resnet18", true),
            ("*net*d", "resnet50d", true),
            ("resnet??", "resnet18", true),
            ("resnet??", "resnet18d", false),
            ("resnet18", "resnet18d", false),
            ("*", "", true),
            ("a*b*c", "axxbyybzzc", true),
            ("a*b*c", "axxbyybzz", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
