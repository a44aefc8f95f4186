//! "Did you mean" suggestions for mistyped names.

/// The candidate with the smallest edit distance to `name`, if at most a third of the longer name differs.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let distance = |candidate: &str| strsim::damerau_levenshtein(&name, &candidate.to_lowercase());
    let is_near = |(distance, candidate): &(usize, &str)| {
        3 * distance <= name.chars().count().max(candidate.chars().count())
    };
    let near = candidates.into_iter().map(|candidate| (distance(candidate), candidate)).filter(is_near);
    near.min_by_key(|(distance, _)| *distance).map(|(_, candidate)| candidate)
}

/// Up to three candidates that are near to `name`, the nearest first.
pub fn nearest_names<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let name = name.to_lowercase();
    let distance = |candidate: &str| strsim::damerau_levenshtein(&name, &candidate.to_lowercase());
    let mut near: Vec<(usize, &str)> = candidates
        .into_iter()
        .map(|candidate| (distance(candidate), candidate))
        .filter(|(distance, candidate)| 2 * distance <= name.chars().count().max(candidate.chars().count()))
        .collect();
    near.sort();
    near.into_iter().take(3).map(|(_, candidate)| candidate).collect()
}

/// Names of options in PyTorch's examples, Lightning, Ultralytics and Transformers, with Fornax's options.
const SYNONYMS: &[(&str, &[&str])] = &[
    ("amp", &["fp16", "use-amp", "mixed-precision", "half"]),
    ("amp-dtype", &["bf16", "precision"]),
    ("aa", &["auto-augment", "autoaugment", "augment"]),
    ("batch-size", &["batch", "train-batch-size", "per-device-train-batch-size", "bs"]),
    ("checkpoint-hist", &["save-top-k", "save-total-limit"]),
    ("clip-grad", &["gradient-clip-val", "max-grad-norm", "clip-grad-norm", "grad-clip"]),
    ("crop-pct", &["crop-ratio", "crop-fraction"]),
    ("data-dir", &["data-path", "dataset-dir", "train-dir", "root"]),
    ("device", &["accelerator"]),
    ("devices", &["gpus", "gpu", "gpu-ids"]),
    ("drop", &["dropout", "dropout-rate", "drop-rate"]),
    ("drop-path", &["drop-path-rate", "stochastic-depth"]),
    ("early-stop-patience", &["patience", "early-stopping", "early-stopping-patience"]),
    ("epochs", &["max-epochs", "num-epochs", "num-train-epochs", "n-epochs"]),
    ("experiment", &["name", "run-name", "exp-name"]),
    (
        "grad-accum-steps",
        &["accumulate-grad-batches", "gradient-accumulation-steps", "accumulation-steps", "accum-iter"],
    ),
    ("img-size", &["imgsz", "image-size", "crop-size", "train-crop-size", "resolution"]),
    ("in-chans", &["in-channels", "input-channels"]),
    ("log-interval", &["log-every-n-steps", "print-freq", "logging-steps"]),
    ("lr", &["learning-rate", "lr0", "max-lr"]),
    ("min-lr", &["lrf", "lr-min", "eta-min"]),
    ("mixup", &["mixup-alpha"]),
    ("cutmix", &["cutmix-alpha"]),
    ("model", &["arch", "architecture", "backbone", "net"]),
    ("model-ema", &["ema", "use-ema"]),
    ("model-ema-decay", &["ema-decay"]),
    ("num-classes", &["nb-classes", "n-classes", "classes"]),
    ("opt", &["optimizer", "optim"]),
    ("output", &["save-dir", "output-dir", "default-root-dir", "project", "log-dir", "results-dir"]),
    ("overwrite", &["exist-ok", "overwrite-output-dir"]),
    ("pretrained-path", &["weights", "finetune", "checkpoint", "init-checkpoint"]),
    ("reprob", &["random-erase", "random-erasing", "erasing"]),
    ("sched", &["scheduler", "lr-scheduler", "lr-scheduler-type", "cos-lr"]),
    ("smoothing", &["label-smoothing", "label-smoothing-factor"]),
    ("train-batches-per-epoch", &["limit-train-batches", "steps-per-epoch", "max-steps"]),
    ("val-interval", &["check-val-every-n-epoch", "eval-interval", "eval-freq"]),
    ("validation-batch-size", &["val-batch-size", "eval-batch-size", "per-device-eval-batch-size"]),
    ("warmup-epochs", &["warmup", "lr-warmup-epochs"]),
    ("weight-decay", &["wd"]),
    ("workers", &["num-workers", "num-worker", "dataloader-num-workers"]),
];

/// The option that other tools call `name`; both with hyphens.
pub fn synonym(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase().replace('_', "-");
    SYNONYMS.iter().find(|(_, others)| others.contains(&name.as_str())).map(|(own, _)| *own)
}

#[cfg(test)]
mod tests {
    use super::{nearest, nearest_names, synonym};

    #[test]
    fn names_of_other_tools_are_known() {
        for (name, own) in [
            ("learning_rate", "lr"),
            ("num-workers", "workers"),
            ("imgsz", "img-size"),
            ("wd", "weight-decay"),
        ] {
            assert_eq!(synonym(name), Some(own));
        }
        assert_eq!(synonym("epochs"), None);
    }

    #[test]
    fn nearest_names_are_at_most_three() {
        let names = ["resnet18", "resnet34", "resnet50", "resnet101", "vit_base"];
        assert_eq!(nearest_names("resnet19", names)[0], "resnet18");
        assert_eq!(nearest_names("resnet19", names).len(), 3);
        assert!(nearest_names("swin", names).is_empty());
    }

    #[test]
    fn similar_names_are_found_and_others_are_not() {
        let names = ["epochs", "batch_size", "lr", "dataset"];
        assert_eq!(nearest("epoch", names), Some("epochs"));
        assert_eq!(nearest("bach_size", names), Some("batch_size"));
        assert_eq!(nearest("BatchSize", names), Some("batch_size"));
        for unlike in ["zzz", "color_jitter", "aa", "rl_", ""] {
            assert_eq!(nearest(unlike, names), None, "{unlike}");
        }
    }
}
