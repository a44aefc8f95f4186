//! Learning rates of schedules during each epoch or update, after a resume, and with the plateau scheduler; loss scales.
use super::{GoldenCase, Outcome, Topic, loss_scale};
use fornax::schedule::{Cycles, DecayFn, PlateauState, Schedule, ScheduleOptions, create_scheduler};
use serde_json::Value;

/// Runs every case of the topic.
pub fn check(topic: &Topic) -> Outcome {
    let cases = topic.cases()?;
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let outcome = match case.op() {
                "grad_scaler" => loss_scale::check(case),
                "resume" => resumed(case),
                "(no op)" => learning_rates(case),
                op => Err(format!("operation {op} is not known to the test")),
            };
            outcome.err().map(|e| format!("{}: {e}", case.id()))
        })
        .collect();
    if failures.is_empty() { Ok(cases.len()) } else { Err(failures.join("\n")) }
}

fn learning_rates(case: &GoldenCase) -> Result<(), String> {
    let (schedule, per_epoch) = schedule(case)?;
    if u64::from(schedule.total_epochs()) != case.json["total_epochs"].as_u64().ok_or("no total_epochs")? {
        return Err(format!("{} epochs in all", schedule.total_epochs()));
    }
    let noise: Option<Vec<f64>> =
        case.json["noise_table"].as_array().map(|table| table.iter().filter_map(Value::as_f64).collect());
    let metrics = case.json["metrics"].as_array();
    let rows = case.json["lr"].as_array().ok_or("no lr")?;
    let mut plateau = PlateauState::default();
    for (t, row) in rows.iter().enumerate() {
        let epoch = if schedule.on_updates { t as u64 / per_epoch } else { t as u64 } as u32;
        let lr = match &noise {
            Some(table) => schedule.lr_at_with_noise(epoch, t as u64, per_epoch, |t| table[t as usize]),
            None => schedule.lr_at(epoch, t as u64, per_epoch),
        };
        groups(case, lr * plateau.scale, row).map_err(|e| format!("at {t}: {e}"))?;
        if let Some(metrics) = metrics {
            schedule.observe(&mut plateau, epoch, metrics[t].as_f64());
        }
    }
    Ok(())
}

fn resumed(case: &GoldenCase) -> Result<(), String> {
    let (schedule, per_epoch) = schedule(case)?;
    let epoch = case.json["start_epoch"].as_u64().ok_or("no start_epoch")?;
    groups(case, schedule.lr_at(epoch as u32, epoch * per_epoch, per_epoch), &case.json["lr_after_resume"])
}

/// Compares the learning rates of the two groups. The file's rates of the plateau scheduler are without a group's scale.
fn groups(case: &GoldenCase, lr: f64, row: &Value) -> Result<(), String> {
    let scale = |group: &Value| group.as_f64().filter(|_| case.json["metrics"].is_null()).unwrap_or(1.0);
    let tolerance = |which: &str| case.json["tol"][which].as_f64().ok_or("no tolerance");
    for (i, group) in case.topic.json["group_lr_scale"].as_array().ok_or("no groups")?.iter().enumerate() {
        let (got, expected) = (lr * scale(group), row[i].as_f64().ok_or("no lr")?);
        let bound = tolerance("atol")? + tolerance("rtol")? * expected.abs();
        if (got - expected).abs() > bound || got.is_nan() {
            return Err(format!("group {i} has {got}, expected {expected}"));
        }
    }
    Ok(())
}

fn schedule(case: &GoldenCase) -> Result<(Schedule, u64), String> {
    let args = case.json["args"].as_object().ok_or("no args")?;
    let mut name = "cosine";
    let mut per_epoch = case.json["updates_per_epoch"].as_u64().unwrap_or(1);
    // Defaults of the arguments that a case omits.
    let mut options = ScheduleOptions {
        lr: case.topic.json["base_lr"].as_f64().ok_or("no base_lr")?,
        decay_epochs: None,
        decay_milestones: Some(vec![90, 180, 270]),
        decay_rate: Some(0.1),
        cycles: Cycles { mul: 1.0, decay: 0.5, limit: 1 },
        ..ScheduleOptions::default()
    };
    for (key, value) in args {
        let number = || value.as_f64().ok_or(format!("{key} is not a number"));
        let whole = || value.as_u64().map(|n| n as u32).ok_or(format!("{key} is not whole"));
        let list = || value.as_array().ok_or(format!("{key} is not a list"));
        match key.as_str() {
            "sched" => name = value.as_str().ok_or("sched is not a name")?,
            "num_epochs" => options.epochs = whole()?,
            "warmup_epochs" => options.warmup_epochs = whole()?,
            "warmup_lr" => options.warmup_lr = number()?,
            "warmup_prefix" => options.warmup_prefix = value == true,
            "min_lr" => options.min_lr = number()?,
            "cooldown_epochs" => options.cooldown_epochs = whole()?,
            "cycle_mul" => options.cycles.mul = number()?,
            "cycle_decay" => options.cycles.decay = number()?,
            "cycle_limit" => options.cycles.limit = whole()?,
            "k_decay" => options.k_decay = number()?,
            "decay_epochs" => options.decay_epochs = Some(number()?),
            "decay_rate" => options.decay_rate = Some(number()?),
            "decay_milestones" => {
                let milestones = list()?.iter().filter_map(Value::as_u64).map(|m| m as u32);
                options.decay_milestones = Some(milestones.collect());
            }
            "decay_fn" => options.decay_fn = Some(decay_fn(value)?),
            "stable_timescale" => options.stable_timescale = Some(number()?),
            "patience_epochs" => options.patience_epochs = whole()?,
            "plateau_mode" => options.lower_is_better = value == "min",
            "noise" => options.noise = Some(list()?.iter().filter_map(Value::as_f64).collect()),
            "step_on_epochs" => options.on_updates = value == false,
            "updates_per_epoch" => per_epoch = u64::from(whole()?),
            _ => return Err(format!("argument {key} is not known to the test")),
        }
    }
    if name == "step" && options.decay_epochs.is_none() {
        options.decay_epochs = Some(90.0);
    }
    Ok((create_scheduler(name, &options).map_err(|e| e.to_string())?, per_epoch))
}

fn decay_fn(name: &Value) -> Result<DecayFn, String> {
    serde_json::from_value(name.clone()).map_err(|e| e.to_string())
}
