//! Optimizers by timm's names, with timm's defaults.
use super::OptimizerRule;
use super::arguments::{Arguments, OptimizerOptions};
use super::terms::RuleBuilder;
use super::{
    adabelief, adadelta, adafactor, adagrad, adahessian, adam, adamax, adan, adopt, lamb, laprop, lars, lion,
};
use super::{lookahead, madgrad, muon, nadam, novograd, projected, radam, rmsprop, sgd};
use crate::nearest::nearest;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Registry entry: a name, its update formula, and the defaults that differ from the formula's own.
struct RegistryEntry {
    name: &'static str,
    rule: fn(&mut Arguments) -> RuleBuilder,
    defaults: &'static [(&'static str, f64)],
}

macro_rules! registry {
    ($($name:literal = $rule:path { $($argument:ident: $value:expr),* $(,)? };)*) => {
        &[$(RegistryEntry { name: $name, rule: $rule, defaults: &[$((stringify!($argument), $value)),*] }),*]
    };
}

/// A flag that defaults to true.
const TRUE: f64 = 1.0;

/// All optimizers in alphabetical order. The prefix `c` means cautious, the suffix `c` corrected weight decay, except in `lambc` and
/// `larc`, which clip trust ratios.
const REGISTRY: &[RegistryEntry] = registry! {
    "adabelief" = adabelief::adabelief { rectify: 0.0 };
    "adadelta" = adadelta::adadelta {};
    "adafactor" = adafactor::adafactor {};
    "adagrad" = adagrad::adagrad { eps: 1e-8 };
    "adahessian" = adahessian::adahessian {};
    "adam" = adam::adam {};
    "adamax" = adamax::adamax {};
    "adamc" = adam::adamw { corrected_weight_decay: TRUE };
    "adamp" = projected::adamp { wd_ratio: 0.01, nesterov: TRUE };
    "adamuon" = muon::muon { adaptive: TRUE };
    "adamw" = adam::adamw {};
    "adamwlegacy" = adam::adamw {};
    "adan" = adan::adan {};
    "adanw" = adan::adan { no_prox: TRUE };
    "adopt" = adopt::adopt {};
    "adoptc" = adopt::adopt { decoupled: TRUE, corrected_weight_decay: TRUE };
    "adoptw" = adopt::adopt { decoupled: TRUE };
    "cadamc" = adam::adamw { caution: TRUE, corrected_weight_decay: TRUE };
    "cadamp" = projected::adamp { wd_ratio: 0.01, nesterov: TRUE, caution: TRUE };
    "cadamw" = adam::adamw { caution: TRUE };
    "cadan" = adan::adan { caution: TRUE };
    "cadanw" = adan::adan { caution: TRUE, no_prox: TRUE };
    "cadopt" = adopt::adopt { caution: TRUE };
    "cadoptc" = adopt::adopt { decoupled: TRUE, caution: TRUE, corrected_weight_decay: TRUE };
    "cadoptw" = adopt::adopt { decoupled: TRUE, caution: TRUE };
    "clamb" = lamb::lamb { caution: TRUE };
    "clambw" = lamb::lamb { caution: TRUE, decoupled_decay: TRUE };
    "claprop" = laprop::laprop { caution: TRUE };
    "clion" = lion::lion { caution: TRUE };
    "clionc" = lion::lion { caution: TRUE, corrected_weight_decay: TRUE };
    "cnadamc" = nadam::nadamw { caution: TRUE, corrected_weight_decay: TRUE };
    "cnadamw" = nadam::nadamw { caution: TRUE };
    "crmsproptf" = rmsprop::rmsprop_tf { alpha: 0.9, caution: TRUE };
    "csgdc" = sgd::sgdw { nesterov: TRUE, caution: TRUE, corrected_weight_decay: TRUE };
    "csgdp" = projected::sgdp { nesterov: TRUE, caution: TRUE };
    "csgdw" = sgd::sgdw { nesterov: TRUE, caution: TRUE };
    "lamb" = lamb::lamb {};
    "lambc" = lamb::lamb { trust_clip: TRUE };
    "lambcd" = lamb::lamb { decoupled_decay: TRUE, corrected_weight_decay: TRUE };
    "lambcw" = lamb::lamb { trust_clip: TRUE, decoupled_decay: TRUE };
    "lambw" = lamb::lamb { decoupled_decay: TRUE };
    "laprop" = laprop::laprop {};
    "lapropc" = laprop::laprop { corrected_weight_decay: TRUE };
    "larc" = lars::lars { trust_clip: TRUE };
    "lars" = lars::lars {};
    "lion" = lion::lion {};
    "lionc" = lion::lion { corrected_weight_decay: TRUE };
    "madgrad" = madgrad::madgrad {};
    "madgradw" = madgrad::madgrad { decoupled_decay: TRUE };
    "momentum" = sgd::sgd {};
    "muon" = muon::muon {};
    "nadam" = nadam::nadam {};
    "nadamc" = nadam::nadamw { corrected_weight_decay: TRUE };
    "nadamuon" = muon::muon { nesterov: TRUE, adaptive: TRUE };
    "nadamw" = nadam::nadamw {};
    "nesterov" = sgd::sgd { nesterov: TRUE };
    "nesterovw" = sgd::sgdw { nesterov: TRUE };
    "nlarc" = lars::lars { nesterov: TRUE, trust_clip: TRUE };
    "nlars" = lars::lars { nesterov: TRUE };
    "nmuon" = muon::muon { nesterov: TRUE };
    "novograd" = novograd::novograd {};
    "novogradc" = novograd::novograd { decoupled_decay: TRUE, corrected_weight_decay: TRUE };
    "novogradw" = novograd::novograd { decoupled_decay: TRUE };
    "radabelief" = adabelief::adabelief { rectify: TRUE };
    "radam" = radam::radam {};
    "radamw" = radam::radam { decoupled_weight_decay: TRUE };
    "rmsprop" = rmsprop::rmsprop { alpha: 0.9 };
    "rmsproptf" = rmsprop::rmsprop_tf { alpha: 0.9 };
    "rmsproptfc" = rmsprop::rmsprop_tf { alpha: 0.9, decoupled_decay: TRUE, corrected_weight_decay: TRUE };
    "rmsproptfw" = rmsprop::rmsprop_tf { alpha: 0.9, decoupled_decay: TRUE };
    "sgd" = sgd::sgd { nesterov: TRUE };
    "sgdc" = sgd::sgdw { nesterov: TRUE, corrected_weight_decay: TRUE };
    "sgdp" = projected::sgdp { nesterov: TRUE };
    "sgdw" = sgd::sgdw { nesterov: TRUE };
};

/// The names of all optimizers; each but Muon's may have the prefix `lookahead_`.
pub fn optimizer_names() -> impl Iterator<Item = &'static str> {
    REGISTRY.iter().map(|entry| entry.name)
}

/// The names of all optimizers, without and with the prefix `lookahead_`.
pub fn optimizer_names_with_lookahead() -> impl Iterator<Item = String> {
    let with_prefix = |name| (!is_muon(name)).then(|| format!("{LOOKAHEAD_PREFIX}{name}"));
    optimizer_names().flat_map(move |name| [Some(name.to_string()), with_prefix(name)].into_iter().flatten())
}

/// True for Muon and its variants, which move the weights after the pass in which Lookahead averages them.
fn is_muon(name: &str) -> bool {
    name.ends_with("muon")
}

/// The update formula of an optimizer. Errors for an unknown name and for options that the optimizer does not have.
pub fn rule(name: &str, options: &OptimizerOptions) -> Result<OptimizerRule> {
    let unknown =
        |why: String| Error::usage(format!("{name:?} is not an optimizer")).at("--opt").because(why);
    Ok(resolve_rule(&name.parse().map_err(unknown)?, options)?.0)
}

/// The update formula, and the options with momentum, eps and betas resolved.
pub(crate) fn resolve_rule(
    name: &OptimizerName,
    options: &OptimizerOptions,
) -> Result<(OptimizerRule, OptimizerOptions)> {
    let entry =
        REGISTRY.iter().find(|entry| entry.name == name.base_name()).expect("names are of optimizers");
    let mut arguments = Arguments::new(entry.name, options, entry.defaults);
    let builder = (entry.rule)(&mut arguments);
    let resolved = arguments.finish()?;
    if name.has_lookahead() && is_muon(entry.name) {
        return Err(Error::usage(format!("{name} is not supported"))
            .at("--opt")
            .because("Muon moves the weights after the pass in which Lookahead averages them")
            .remedy(format!("use {}, or Lookahead with another optimizer", entry.name)));
    }
    let builder = if name.has_lookahead() { lookahead::lookahead(builder) } else { builder };
    Ok((builder.build(), resolved))
}

/// Name of an optimizer in lower case, optionally with the prefix `lookahead_`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OptimizerName(String);

/// Optimizers whose default learning rate is not AdamW's: a substring of the name, the recipe to start from, and a multiplier of its
/// learning rate. Weight decay is the recipe's. The first match wins.
const DEFAULT_LRS: &[(&str, BaseRecipe, f64)] = &[
    ("sgd", BaseRecipe::Sgd, 1.0),
    ("momentum", BaseRecipe::Sgd, 1.0),
    ("nesterov", BaseRecipe::Sgd, 1.0),
    ("adahessian", BaseRecipe::Sgd, 1.0),
    ("adadelta", BaseRecipe::Sgd, 20.0),
    ("lar", BaseRecipe::Sgd, 5.0),
    ("adagrad", BaseRecipe::AdamW, 10.0),
    ("lamb", BaseRecipe::AdamW, 7.0),
    ("adan", BaseRecipe::AdamW, 3.0),
    ("radam", BaseRecipe::AdamW, 3.0),
    ("novograd", BaseRecipe::AdamW, 3.0),
    ("muon", BaseRecipe::AdamW, 3.0),
];

/// Recipe whose learning rate and weight decay an optimizer starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BaseRecipe {
    /// Steps proportional to the gradient.
    Sgd,
    /// Steps normalised by the second moment.
    AdamW,
}

const LOOKAHEAD_PREFIX: &str = "lookahead_";

impl OptimizerName {
    /// The name without the prefix `lookahead_`.
    pub fn base_name(&self) -> &str {
        self.0.strip_prefix(LOOKAHEAD_PREFIX).unwrap_or(&self.0)
    }

    /// Default learning rate and weight decay, derived from those of SGD and AdamW.
    pub fn default_lr_and_weight_decay(&self, sgd: [f64; 2], adamw: [f64; 2]) -> [f64; 2] {
        let known = DEFAULT_LRS.iter().find(|(part, ..)| self.base_name().contains(part));
        let (like, factor) = known.map_or((BaseRecipe::AdamW, 1.0), |(_, like, factor)| (*like, *factor));
        let [lr, decay] = if like == BaseRecipe::Sgd { sgd } else { adamw };
        [factor * lr, decay]
    }

    fn has_lookahead(&self) -> bool {
        self.0.starts_with(LOOKAHEAD_PREFIX)
    }
}

impl FromStr for OptimizerName {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<OptimizerName, String> {
        let name = OptimizerName(without_fusion(&text.to_ascii_lowercase()));
        if REGISTRY.iter().any(|entry| entry.name == name.base_name()) {
            return Ok(name);
        }
        let names: Vec<&str> = optimizer_names().collect();
        let meant = nearest(name.base_name(), optimizer_names());
        let meant = meant.map_or(".".into(), |meant| format!("; did you mean {meant:?}?"));
        Err(format!(
            "unknown optimizer{meant} The optimizers are {}, each optionally with the prefix {LOOKAHEAD_PREFIX}",
            names.join(", ")
        ))
    }
}

/// timm's names of fused kernels: the same formulas, which are always fused here.
const FUSED: [(&str, &str); 6] = [
    ("fusedadam", "adam"),
    ("fusedadamw", "adamw"),
    ("fusedlamb", "lamb"),
    ("fusedmomentum", "momentum"),
    ("fusednovograd", "novograd"),
    ("fusedsgd", "sgd"),
];

/// A name of a fused optimizer by its formula; other names are unchanged.
fn without_fusion(name: &str) -> String {
    let (prefix, base) = match name.strip_prefix(LOOKAHEAD_PREFIX) {
        Some(base) => (LOOKAHEAD_PREFIX, base),
        None => ("", name),
    };
    let formula = FUSED.iter().find(|(fused, _)| *fused == base).map_or(base, |(_, formula)| formula);
    format!("{prefix}{formula}")
}

impl TryFrom<String> for OptimizerName {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<OptimizerName, String> {
        text.parse()
    }
}

impl From<OptimizerName> for String {
    fn from(name: OptimizerName) -> String {
        name.0
    }
}

impl fmt::Display for OptimizerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fused_optimizers_of_timm_are_the_same_formulas() {
        for (fused, formula) in FUSED {
            for prefix in ["", LOOKAHEAD_PREFIX] {
                let name: OptimizerName = format!("{prefix}{fused}").parse().expect("a name of timm");
                assert_eq!(name.to_string(), format!("{prefix}{formula}"));
            }
        }
        assert!("fusedx".parse::<OptimizerName>().is_err());
    }
}
