//! Learning rates as pure functions of (epoch, update), as timm's schedulers define them.
use std::f64::consts::PI;

/// A learning rate that warms up linearly and then follows a curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// The shape after the warm-up.
    pub curve: Curve,
    /// The peak.
    pub lr: f64,
    /// At the start of the warm-up.
    pub warmup_lr: f64,
    /// At the end of the curve.
    pub min_lr: f64,
    /// Length of the curve, in epochs.
    pub epochs: u32,
    /// Length of the warm-up, in epochs.
    pub warmup_epochs: u32,
    /// The warm-up comes before the curve, rather than over its beginning.
    pub warmup_prefix: bool,
    /// Epochs at the end value after the curve.
    pub cooldown_epochs: u32,
    /// The rate changes after every update, rather than every epoch.
    pub on_updates: bool,
}

/// The shape of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// Half a cosine, from the peak to the end value (Loshchilov and Hutter, "SGDR", 2017, one cycle).
    Cosine,
    /// The peak throughout.
    Constant,
}

impl Schedule {
    /// Epochs in all: of the curve, of the warm-up when it comes before, and at the end value.
    pub fn total_epochs(&self) -> u32 {
        let prefix = if self.warmup_prefix { self.warmup_epochs } else { 0 };
        self.epochs + prefix + self.cooldown_epochs
    }

    /// The rate of update `update` (counted from 0 over the whole run) in `epoch`, at so many updates an epoch.
    pub fn at(&self, epoch: u32, update: u64, updates_per_epoch: u64) -> f64 {
        let (mut t, unit) =
            if self.on_updates { (update as f64, updates_per_epoch as f64) } else { (f64::from(epoch), 1.0) };
        let warmup = f64::from(self.warmup_epochs) * unit;
        if t < warmup {
            return self.warmup_lr + t * ((self.lr - self.warmup_lr) / warmup);
        }
        if self.warmup_prefix {
            t -= warmup;
        }
        let length = f64::from(self.epochs) * unit;
        match self.curve {
            Curve::Constant => self.lr,
            Curve::Cosine if t >= length => self.min_lr,
            Curve::Cosine => self.min_lr + 0.5 * (self.lr - self.min_lr) * (1.0 + (PI * t / length).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// timm's rates, for the cases that a [`Schedule`] can express.
    #[test]
    fn rates_are_those_of_timm() {
        let golden = include_str!("../../../tests/golden/schedulers.json");
        let golden: serde_json::Value = serde_json::from_str(golden).expect("JSON");
        let mut compared = vec![];
        for case in golden["cases"].as_array().expect("cases") {
            let args = &case["args"];
            let other = ["cycle_limit", "cycle_mul", "k_decay", "noise_range", "noise", "lr_noise"];
            if args["sched"] != "cosine" || other.iter().any(|key| args.get(key).is_some()) {
                continue;
            }
            let number = |key: &str| args[key].as_f64().expect("a number");
            let truth = |key: &str, default| args.get(key).map_or(default, |v| v == true);
            let schedule = Schedule {
                curve: Curve::Cosine,
                lr: golden["base_lr"].as_f64().expect("a number"),
                warmup_lr: number("warmup_lr"),
                min_lr: number("min_lr"),
                epochs: number("num_epochs") as u32,
                warmup_epochs: number("warmup_epochs") as u32,
                warmup_prefix: truth("warmup_prefix", false),
                cooldown_epochs: number("cooldown_epochs") as u32,
                on_updates: !truth("step_on_epochs", true),
            };
            let id = case["id"].as_str().expect("an id");
            let Some(per_epoch) = case.get("updates_per_epoch").and_then(|v| v.as_u64()) else { continue };
            assert_eq!(
                u64::from(schedule.total_epochs()),
                case["total_epochs"].as_u64().expect("epochs"),
                "{id}"
            );
            for (i, row) in case["lr"].as_array().expect("rates").iter().enumerate() {
                let epoch = if schedule.on_updates { i as u64 / per_epoch } else { i as u64 };
                let (got, expected) =
                    (schedule.at(epoch as u32, i as u64, per_epoch), row[0].as_f64().expect("rate"));
                assert!((got - expected).abs() <= 1e-12 + 1e-9 * expected, "{id} at {i}: {got}, {expected}");
            }
            compared.push(id);
        }
        assert_eq!(
            compared,
            [
                "cosine_plain",
                "cosine_min_lr",
                "cosine_warmup",
                "cosine_warmup_prefix",
                "cosine_cooldown",
                "cosine_seed_defaults",
                "upd_cosine_warmup",
                "upd_cosine_prefix_cooldown"
            ]
        );
    }

    #[test]
    fn a_constant_rate_only_warms_up() {
        let schedule = Schedule {
            curve: Curve::Constant,
            lr: 1.0,
            warmup_lr: 0.0,
            min_lr: 0.0,
            epochs: 8,
            warmup_epochs: 2,
            warmup_prefix: false,
            cooldown_epochs: 0,
            on_updates: false,
        };
        let rates: Vec<f64> = (0..5).map(|epoch| schedule.at(epoch, 0, 1)).collect();
        assert_eq!(rates, [0.0, 0.5, 1.0, 1.0, 1.0]);
    }
}
