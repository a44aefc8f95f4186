//! Optimizers by name, under timm's names and with its defaults.
use super::Rule;
use super::arguments::{Arguments, OptimizerOptions};
use super::terms::Draft;
use super::{
    adabelief, adadelta, adafactor, adagrad, adahessian, adam, adamax, adan, adopt, lamb, laprop, lars, lion,
};
use super::{lookahead, madgrad, nadam, novograd, projected, radam, rmsprop, sgd};
use crate::nearest::nearest;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// One name: its rule, and what it settles of the rule's arguments unless the user says otherwise.
struct Named {
    name: &'static str,
    rule: fn(&mut Arguments) -> Draft,
    defaults: &'static [(&'static str, f64)],
}

macro_rules! named {
    ($($name:literal = $rule:path { $($argument:ident: $value:expr),* $(,)? };)*) => {
        &[$(Named { name: $name, rule: $rule, defaults: &[$((stringify!($argument), $value)),*] }),*]
    };
}

/// What flags are as defaults.
const YES: f64 = 1.0;

/// All names, in the order of the alphabet. Those that begin with `c` are cautious; those that end with `c` correct weight decay, but
/// for `lambc` and `larc`, which clip trust ratios.
const NAMES: &[Named] = named! {
    "adabelief" = adabelief::adabelief { rectify: 0.0 };
    "adadelta" = adadelta::adadelta {};
    "adafactor" = adafactor::adafactor {};
    "adagrad" = adagrad::adagrad { eps: 1e-8 };
    "adahessian" = adahessian::adahessian {};
    "adam" = adam::adam {};
    "adamax" = adamax::adamax {};
    "adamc" = adam::adamw { corrected_weight_decay: YES };
    "adamp" = projected::adamp { wd_ratio: 0.01, nesterov: YES };
    "adamw" = adam::adamw {};
    "adamwlegacy" = adam::adamw {};
    "adan" = adan::adan {};
    "adanw" = adan::adan { no_prox: YES };
    "adopt" = adopt::adopt {};
    "adoptc" = adopt::adopt { decoupled: YES, corrected_weight_decay: YES };
    "adoptw" = adopt::adopt { decoupled: YES };
    "cadamc" = adam::adamw { caution: YES, corrected_weight_decay: YES };
    "cadamp" = projected::adamp { wd_ratio: 0.01, nesterov: YES, caution: YES };
    "cadamw" = adam::adamw { caution: YES };
    "cadan" = adan::adan { caution: YES };
    "cadanw" = adan::adan { caution: YES, no_prox: YES };
    "cadopt" = adopt::adopt { caution: YES };
    "cadoptc" = adopt::adopt { decoupled: YES, caution: YES, corrected_weight_decay: YES };
    "cadoptw" = adopt::adopt { decoupled: YES, caution: YES };
    "clamb" = lamb::lamb { caution: YES };
    "clambw" = lamb::lamb { caution: YES, decoupled_decay: YES };
    "claprop" = laprop::laprop { caution: YES };
    "clion" = lion::lion { caution: YES };
    "clionc" = lion::lion { caution: YES, corrected_weight_decay: YES };
    "cnadamc" = nadam::nadamw { caution: YES, corrected_weight_decay: YES };
    "cnadamw" = nadam::nadamw { caution: YES };
    "crmsproptf" = rmsprop::rmsprop_tf { alpha: 0.9, caution: YES };
    "csgdc" = sgd::sgdw { nesterov: YES, caution: YES, corrected_weight_decay: YES };
    "csgdp" = projected::sgdp { nesterov: YES, caution: YES };
    "csgdw" = sgd::sgdw { nesterov: YES, caution: YES };
    "lamb" = lamb::lamb {};
    "lambc" = lamb::lamb { trust_clip: YES };
    "lambcd" = lamb::lamb { decoupled_decay: YES, corrected_weight_decay: YES };
    "lambcw" = lamb::lamb { trust_clip: YES, decoupled_decay: YES };
    "lambw" = lamb::lamb { decoupled_decay: YES };
    "laprop" = laprop::laprop {};
    "lapropc" = laprop::laprop { corrected_weight_decay: YES };
    "larc" = lars::lars { trust_clip: YES };
    "lars" = lars::lars {};
    "lion" = lion::lion {};
    "lionc" = lion::lion { corrected_weight_decay: YES };
    "madgrad" = madgrad::madgrad {};
    "madgradw" = madgrad::madgrad { decoupled_decay: YES };
    "momentum" = sgd::sgd {};
    "nadam" = nadam::nadam {};
    "nadamc" = nadam::nadamw { corrected_weight_decay: YES };
    "nadamw" = nadam::nadamw {};
    "nesterov" = sgd::sgd { nesterov: YES };
    "nesterovw" = sgd::sgdw { nesterov: YES };
    "nlarc" = lars::lars { nesterov: YES, trust_clip: YES };
    "nlars" = lars::lars { nesterov: YES };
    "novograd" = novograd::novograd {};
    "novogradc" = novograd::novograd { decoupled_decay: YES, corrected_weight_decay: YES };
    "novogradw" = novograd::novograd { decoupled_decay: YES };
    "radabelief" = adabelief::adabelief { rectify: YES };
    "radam" = radam::radam {};
    "radamw" = radam::radam { decoupled_weight_decay: YES };
    "rmsprop" = rmsprop::rmsprop { alpha: 0.9 };
    "rmsproptf" = rmsprop::rmsprop_tf { alpha: 0.9 };
    "rmsproptfc" = rmsprop::rmsprop_tf { alpha: 0.9, decoupled_decay: YES, corrected_weight_decay: YES };
    "rmsproptfw" = rmsprop::rmsprop_tf { alpha: 0.9, decoupled_decay: YES };
    "sgd" = sgd::sgd { nesterov: YES };
    "sgdc" = sgd::sgdw { nesterov: YES, corrected_weight_decay: YES };
    "sgdp" = projected::sgdp { nesterov: YES };
    "sgdw" = sgd::sgdw { nesterov: YES };
};

/// The names of all optimizers, each of which may have `lookahead_` before it.
pub fn optimizer_names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|named| named.name)
}

/// The rule of an optimizer. Errors for names that there are not, and for options that it does not have.
pub fn rule(name: &str, options: &OptimizerOptions) -> Result<Rule> {
    let unknown = |why: String| Error::usage(format!("unknown optimizer {name:?}")).at("--opt").because(why);
    Ok(settled_rule(&name.parse().map_err(unknown)?, options)?.0)
}

/// The rule, and the options with the values that it takes for momentum, eps and betas.
pub(crate) fn settled_rule(
    name: &OptimizerName,
    options: &OptimizerOptions,
) -> Result<(Rule, OptimizerOptions)> {
    let named = NAMES.iter().find(|named| named.name == name.plain()).expect("names are of optimizers");
    let mut arguments = Arguments::new(named.name, options, named.defaults);
    let draft = (named.rule)(&mut arguments);
    let settled = arguments.settle()?;
    let draft = if name.is_wrapped() { lookahead::lookahead(draft) } else { draft };
    Ok((draft.rule(), settled))
}

/// The name of an optimizer, in lower case, perhaps with `lookahead_` before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OptimizerName(String);

/// Which optimizers want another learning rate than AdamW's where nobody chose one: a part of their names, whether a rate is told as SGD's or as
/// AdamW's, and how many times that. Weight decay is the same family's. The first that fits holds.
const RATES: &[(&str, Like, f64)] = &[
    ("sgd", Like::Sgd, 1.0),
    ("momentum", Like::Sgd, 1.0),
    ("nesterov", Like::Sgd, 1.0),
    ("adahessian", Like::Sgd, 1.0),
    ("adadelta", Like::Sgd, 20.0),
    ("lar", Like::Sgd, 5.0),
    ("adagrad", Like::AdamW, 10.0),
    ("lamb", Like::AdamW, 7.0),
    ("adan", Like::AdamW, 3.0),
    ("radam", Like::AdamW, 3.0),
    ("novograd", Like::AdamW, 3.0),
];

/// Families of optimizers that take the same learning rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Like {
    /// Steps as large as gradients.
    Sgd,
    /// Steps of one size.
    AdamW,
}

const LOOKAHEAD: &str = "lookahead_";

impl OptimizerName {
    /// Without the wrapper.
    pub fn plain(&self) -> &str {
        self.0.strip_prefix(LOOKAHEAD).unwrap_or(&self.0)
    }

    /// A learning rate and weight decay to begin with, given those that suit SGD and AdamW.
    pub fn rates(&self, sgd: [f64; 2], adamw: [f64; 2]) -> [f64; 2] {
        let known = RATES.iter().find(|(part, ..)| self.plain().contains(part));
        let (like, factor) = known.map_or((Like::AdamW, 1.0), |(_, like, factor)| (*like, *factor));
        let [lr, decay] = if like == Like::Sgd { sgd } else { adamw };
        [factor * lr, decay]
    }

    fn is_wrapped(&self) -> bool {
        self.0.starts_with(LOOKAHEAD)
    }
}

impl FromStr for OptimizerName {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<OptimizerName, String> {
        let name = OptimizerName(text.to_ascii_lowercase());
        if NAMES.iter().any(|named| named.name == name.plain()) {
            return Ok(name);
        }
        let names: Vec<&str> = optimizer_names().collect();
        let meant = nearest(name.plain(), optimizer_names());
        let meant = meant.map_or(String::new(), |meant| format!("; did you mean {meant:?}?"));
        Err(format!(
            "there is no such optimizer{meant} There are {}, each also after {LOOKAHEAD}",
            names.join(", ")
        ))
    }
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
