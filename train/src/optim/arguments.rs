//! What a user says about an optimizer, as its rule asks for it.
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The value of one of an optimizer's arguments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KwargValue {
    /// A number.
    Number(f64),
    /// Yes or no.
    Bool(bool),
    /// What an argument that can be left out is without: `none`.
    None,
}

impl FromStr for KwargValue {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<KwargValue, String> {
        match text.to_ascii_lowercase().as_str() {
            "true" => Ok(KwargValue::Bool(true)),
            "false" => Ok(KwargValue::Bool(false)),
            "none" => Ok(KwargValue::None),
            text => match text.parse() {
                Ok(number) => Ok(KwargValue::Number(number)),
                Err(_) => Err(format!("{text:?} is not a number, true, false or none")),
            },
        }
    }
}

impl fmt::Display for KwargValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KwargValue::Number(number) => write!(f, "{number}"),
            KwargValue::Bool(flag) => write!(f, "{flag}"),
            KwargValue::None => write!(f, "none"),
        }
    }
}

/// What a user says about an optimizer; what is left out has the optimizer's default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptimizerOptions {
    /// The highest learning rate of the run, which corrected weight decay is relative to; updates get theirs when they are made.
    pub lr: Option<f64>,
    /// Momentum.
    pub momentum: Option<f64>,
    /// What is added to a denominator.
    pub eps: Option<f64>,
    /// What stays of the moments.
    pub betas: Option<Vec<f64>>,
    /// The arguments that only some optimizers have, by name.
    pub kwargs: BTreeMap<String, KwargValue>,
}

/// The arguments of one optimizer: what the user gave, else the name's own defaults, else those of the rule. It notes what the rule
/// asks for, so that what nothing asked for can be refused.
pub(super) struct Arguments<'a> {
    name: &'a str,
    options: &'a OptimizerOptions,
    defaults: &'a [(&'a str, f64)],
    asked: Vec<(&'static str, String)>,
    settled: OptimizerOptions,
    wrong: Option<Error>,
}

impl<'a> Arguments<'a> {
    pub(super) fn new(name: &'a str, options: &'a OptimizerOptions, defaults: &'a [(&'a str, f64)]) -> Self {
        Arguments { name, options, defaults, asked: vec![], settled: options.clone(), wrong: None }
    }

    /// A number.
    pub(super) fn number(&mut self, name: &'static str, default: f64) -> f64 {
        self.optional(name, Some(default)).unwrap_or_else(|| {
            self.complain(name, "it cannot be none".into());
            default
        })
    }

    /// A number that can be `none`.
    pub(super) fn optional(&mut self, name: &'static str, default: Option<f64>) -> Option<f64> {
        let default = self.default(name).or(default);
        self.ask(name, default.map_or(KwargValue::None, KwargValue::Number));
        let value = match self.given(name) {
            None => default,
            Some(KwargValue::Number(number)) => Some(number),
            Some(KwargValue::None) => None,
            Some(KwargValue::Bool(_)) => {
                self.complain(name, "it is a number".into());
                default
            }
        };
        match name {
            "momentum" => self.settled.momentum = value,
            "eps" => self.settled.eps = value,
            _ => {}
        }
        value
    }

    /// Yes or no.
    pub(super) fn flag(&mut self, name: &'static str, default: bool) -> bool {
        let default = self.default(name).map_or(default, |value| value != 0.0);
        self.ask(name, KwargValue::Bool(default));
        match self.given(name) {
            None => default,
            Some(KwargValue::Bool(flag)) => flag,
            Some(_) => {
                self.complain(name, "it is true or false".into());
                default
            }
        }
    }

    /// What stays of each moment, in `[0, 1)`.
    pub(super) fn betas<const N: usize>(&mut self, default: [f64; N]) -> [f64; N] {
        self.asked.push(("betas", default.map(|b| b.to_string()).join(" ")));
        let Some(betas) = &self.options.betas else {
            self.settled.betas = Some(default.to_vec());
            return default;
        };
        match betas[..].try_into() {
            Ok(betas) => betas,
            Err(_) => {
                self.complain("betas", format!("there are {N}, and {} are given", betas.len()));
                default
            }
        }
    }

    /// As [`Arguments::betas`] of a rule that can do without.
    pub(super) fn optional_betas<const N: usize>(&mut self) -> Option<[f64; N]> {
        if self.options.betas.is_some() {
            return Some(self.betas([0.0; N]));
        }
        self.asked.push(("betas", "none".into()));
        None
    }

    /// The highest learning rate where weight decay is corrected: it then shrinks with the square of the rate, as the effect of a
    /// gradient on normalised weights does (Defazio, "Why gradients rapidly increase near the end of training", 2025).
    pub(super) fn peak_rate(&mut self) -> Option<f64> {
        if !self.flag("corrected_weight_decay", false) {
            return None;
        }
        match self.options.lr.filter(|lr| *lr > 0.0) {
            Some(lr) => Some(lr),
            None => {
                self.complain("corrected_weight_decay", "it needs the highest learning rate".into());
                Some(1.0)
            }
        }
    }

    /// The options with every value that has a flag of its own. Errors when something given is wrong, or nothing asked for it.
    pub(super) fn settle(self) -> Result<OptimizerOptions> {
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        let options = self.options;
        let named = [
            ("--momentum", "momentum", options.momentum.is_some()),
            ("--opt-eps", "eps", options.eps.is_some()),
            ("--opt-betas", "betas", options.betas.is_some()),
        ];
        let extra = options.kwargs.keys().map(|name| ("--opt-kwargs", name.as_str(), true));
        let unknown = |name: &str| self.asked.iter().all(|(asked, _)| *asked != name);
        let Some((flag, name, _)) =
            named.into_iter().chain(extra).find(|(_, name, given)| *given && unknown(name))
        else {
            return Ok(self.settled);
        };
        let asked: Vec<String> =
            self.asked.iter().map(|(name, default)| format!("{name}={default}")).collect();
        Err(Error::usage(format!("{} has no {name}", self.name)).at(flag).because(match asked.is_empty() {
            true => "it has no arguments".into(),
            false => format!("its arguments and their defaults are {}", asked.join(", ")),
        }))
    }

    fn default(&self, name: &str) -> Option<f64> {
        let default = self.defaults.iter().find(|(known, _)| *known == name)?;
        Some(default.1)
    }

    fn given(&self, name: &str) -> Option<KwargValue> {
        let named = match name {
            "momentum" => self.options.momentum,
            "eps" => self.options.eps,
            _ => None,
        };
        named.map(KwargValue::Number).or_else(|| self.options.kwargs.get(name).copied())
    }

    fn ask(&mut self, name: &'static str, default: KwargValue) {
        self.asked.push((name, default.to_string()));
    }

    pub(super) fn complain(&mut self, name: &str, why: String) {
        let error = Error::usage(format!("{} of {} is wrong", name, self.name)).at("--opt").because(why);
        self.wrong.get_or_insert(error);
    }
}
