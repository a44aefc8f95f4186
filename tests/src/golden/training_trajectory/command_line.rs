//! The topic through the binary: every case as `fornax train` with a CSV list, initial weights in a safetensors file, and flags.
//!
//! The seed is one under which the shuffle of a long list takes no entry in two epochs: the images of each batch can then be those of the
//! file. Mixing weights cannot be given by flags: with mixup the binary is compared with the loop that passes the file's
//! cases, on the batches that the seed mixes.
use super::given_batches::rows;
use super::{Evaluated, GoldenCase, Outcome, Protocol, Topic, TrainingRun, Trajectory, check_cases};
use super::{eval_range, number};
use fornax::checkpoint;
use fornax::config::Config;
use fornax::ema::EmaOptions;
use fornax::experiment::build;
use fornax::loader::Loader;
use fornax::loader::sampler::Sampler;
use fornax::settings::Settings;
use fornax_engine::{Device, Tensor};
use fornax_nn::loss::Loss;
use fornax_nn::state_dict;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Images of the dataset. All but those of the batches are the same.
const IMAGES: usize = 1 << 20;
/// Side of an image of the digits.
const SIDE: usize = 8;
/// The dataset: a list of images in the order of their use. Other formats are sorted by class.
const LIST: &str = "list.csv";
/// Fields of a case's configuration that are known.
const FIELDS: [&str; 25] = [
    "gain",
    "mean",
    "std",
    "weight_decay",
    "momentum",
    "smoothing",
    "warmup_epochs",
    "warmup_lr",
    "min_lr",
    "ema_decay",
    "clip_grad",
    "mixup",
    "loss",
    "grad_accum_steps",
    "depthwise_conv2",
    "eval_range",
    "id",
    "widths",
    "act",
    "opt",
    "lr",
    "epochs",
    "updates_per_epoch",
    "batch",
    "salt",
];

/// Runs every case of the topic by the binary, on a device by its name.
pub fn check(topic: &Topic, binary: &Path, device: &str) -> Outcome {
    check_cases(topic, |case| {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let run = CommandLineRun { case, config: &case.json["config"], folder: folder.path() };
        run.check(binary, device).map_err(|e| format!("{}: {e}", case.id()))
    })
}

struct CommandLineRun<'a> {
    case: &'a GoldenCase<'a>,
    config: &'a Value,
    folder: &'a Path,
}

type Result<T> = std::result::Result<T, String>;

impl<'a> CommandLineRun<'a> {
    fn check(&self, binary: &Path, device: &str) -> Result<()> {
        let unknown = |field: &&String| !FIELDS.contains(&field.as_str());
        if let Some(field) = self.config.as_object().and_then(|fields| fields.keys().find(unknown)) {
            return Err(format!("the field {field} is not known to the test"));
        }
        let mut reference = TrainingRun::new(self.case)?;
        let weights = state_dict::state_dict(&reference.model).map_err(|e| e.to_string())?;
        let weights = state_dict::to_safetensors(&weights, None).map_err(|e| e.to_string())?;
        fs::write(self.folder.join("initial.safetensors"), weights).map_err(|e| e.to_string())?;
        let seed = self.write_dataset().map_err(|e| e.to_string())?;
        let output = Command::new(binary)
            .current_dir(self.folder)
            .args(self.arguments(seed)?)
            .args(["--device", device])
            .output()
            .map_err(|e| format!("{}: {e}", binary.display()))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let result: Value = serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())?;
        let evaluated = Evaluated { loss: number(&result, "loss")?, top1: number(&result, "top1")? };
        let got = self.trajectory()?;
        let last = self.folder.join("out/run/checkpoints/last.safetensors");
        let bytes = fs::read(&last).map_err(|e| e.to_string())?;
        let (state, _) = state_dict::from_safetensors(&bytes).map_err(|e| e.to_string())?;
        // The reference loop ends an epoch as the command does, which synchronises Lookahead; that of the file does not.
        let is_lookahead =
            self.case.json["config"]["opt"].as_str().is_some_and(|name| name.starts_with("lookahead_"));
        if self.case.json["lam"].is_null() && reference.ema.is_none() && !is_lookahead {
            got.check(self.case, &Trajectory::of_file(self.case)?)?;
            for name in self.case.roles("final") {
                self.case.check("final", name, find(&state, name)?)?;
            }
            return evaluated.check(self.case, "eval", &Evaluated::of_file(self.case, "eval")?);
        }
        let protocol = SeededBatches::new(&last, &reference)?;
        got.check(self.case, &reference.train(&protocol)?)?;
        let mut models = vec![("", &reference.model as &dyn fornax_nn::Module)];
        models.extend(reference.ema.as_ref().map(|ema| ("ema/", ema.model())));
        for (prefix, model) in &models {
            let expected: BTreeMap<String, Tensor> =
                state_dict::state_dict(*model).map_err(|e| e.to_string())?.into_iter().collect();
            for name in self.case.roles("final") {
                let tolerance = self.case.json["final"][name].as_str().unwrap_or_default();
                let got = find(&state, &format!("{prefix}{name}"))?;
                self.case.check_against(tolerance, got, find(&expected, name)?)?;
            }
        }
        let (_, model) = models.last().expect("the model");
        evaluated.check(self.case, "eval", &reference.evaluation(*model)?.1)
    }

    /// Writes the dataset as PNG files and a list of them, and returns the seed under which it has the batches of the file.
    fn write_dataset(&self) -> Result<u64> {
        let batches = rows(self.case)?;
        let of_epoch =
            (number(self.config, "updates_per_epoch")? * number(self.config, "grad_accum_steps")?) as usize;
        let batch_size = number(self.config, "batch")? as usize;
        let places = |seed: u64| -> Option<HashMap<usize, usize>> {
            let order = Sampler {
                len: IMAGES,
                batch_size,
                training: true,
                seed,
                world: 1,
                epoch_repeats: 1.0,
                repeats: 1,
                fixed_batches: None,
            };
            let mut rows = HashMap::new();
            for (epoch, batches) in batches.chunks(of_epoch).enumerate() {
                let order = order.epoch(epoch as u32);
                for (index, batch) in batches.iter().enumerate() {
                    for (sample, row) in order.batch(index).iter().zip(batch) {
                        if *rows.entry(sample.index).or_insert(*row) != *row {
                            return None;
                        }
                    }
                }
            }
            Some(rows)
        };
        let found = (0..5000).find_map(|seed| places(seed).map(|rows| (seed, rows)));
        let (seed, rows) = found.ok_or("no seed without a sample in two epochs")?;
        self.write_images().map_err(|e| e.to_string())?;
        let labels = self.case.topic.tensor("digits/labels")?;
        let line = |row: usize, split: &str| format!("{row}.png,{},{split}\n", labels.data[row]);
        let mut list = String::from("path,label,split\n");
        let unused = line(0, "train");
        (0..IMAGES).for_each(|place| match rows.get(&place) {
            Some(row) => list += &line(*row, "train"),
            None => list += &unused,
        });
        eval_range(self.case)?.for_each(|row| list += &line(row, "validation"));
        fs::write(self.folder.join(LIST), list).map_err(|e| e.to_string())?;
        Ok(seed)
    }

    /// Writes the digits as PNG files named by their rows.
    fn write_images(&self) -> std::io::Result<()> {
        let images = self.case.topic.tensor("digits/images").map_err(std::io::Error::other)?;
        for (row, image) in images.data.chunks(SIDE * SIDE).enumerate() {
            let pixels: Vec<u8> = image.iter().map(|pixel| *pixel as u8).collect();
            fs::write(self.folder.join(format!("{row}.png")), png(&pixels))?;
        }
        Ok(())
    }

    fn arguments(&self, seed: u64) -> Result<Vec<String>> {
        let c = self.config;
        let text = |key: &str| c[key].as_str().map(String::from).ok_or_else(|| format!("{key} is not text"));
        let list = |values: Vec<String>| values.join(",");
        let widths: Vec<String> =
            c["widths"].as_array().ok_or("no widths")?.iter().map(Value::to_string).collect();
        let accumulate = number(c, "grad_accum_steps")?;
        // The pixels of an image file are scaled by 255, those of the digits by 16.
        let of_white = |key: &str| Ok::<_, String>(number(c, key)? * 16.0 / 255.0);
        let mut arguments: Vec<String> =
            "train --dataset csv --data-dir list.csv --in-chans 1 --img-size 8 --initial-checkpoint initial.safetensors --no-aug \
            --model resnet8 --output out --experiment run --progress none --log-interval 1 --workers 0 --json"
                .split_whitespace()
                .map(String::from)
                .collect();
        let mut flag = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
        for (name, key) in [
            ("batch-size", "batch"),
            ("lr", "lr"),
            ("weight-decay", "weight_decay"),
            ("epochs", "epochs"),
            ("warmup-epochs", "warmup_epochs"),
            ("warmup-lr", "warmup_lr"),
            ("min-lr", "min_lr"),
            ("grad-accum-steps", "grad_accum_steps"),
            ("smoothing", "smoothing"),
        ] {
            flag(name, number(c, key)?.to_string());
        }
        flag("seed", seed.to_string());
        flag("mean", of_white("mean")?.to_string());
        flag("std", of_white("std")?.to_string());
        flag("train-batches-per-epoch", (number(c, "updates_per_epoch")? * accumulate).to_string());
        let opt = text("opt")?;
        if opt != "adamw" {
            flag("momentum", number(c, "momentum")?.to_string());
        }
        flag("opt", opt);
        for (name, key) in [("clip-grad", "clip_grad"), ("model-ema-decay", "ema_decay")] {
            if let Some(value) = c[key].as_f64() {
                flag(name, value.to_string());
            }
        }
        if c["mixup"].as_bool().ok_or("mixup is not a flag")? {
            flag("mixup", "0.8".into());
        }
        flag("model-kwargs", format!("channels={}", list(widths.clone())));
        arguments.push(format!("layers={}", list(widths.iter().map(|_| "1".into()).collect())));
        arguments.push(format!("act_layer={}", text("act")?));
        arguments.push(format!("depthwise_conv2={}", c["depthwise_conv2"].as_bool().unwrap_or(false)));
        if !c["ema_decay"].is_null() {
            arguments.push("--model-ema".into());
        }
        match text("loss")?.as_str() {
            "label_smoothing" | "soft_target" => {}
            "bce" => arguments.push("--bce-loss".into()),
            other => return Err(format!("the loss {other} is not known to the test")),
        }
        Ok(arguments)
    }

    /// Learning rates, losses and gradient norms of `metrics.jsonl`, whose losses are means of the epoch so far.
    fn trajectory(&self) -> Result<Trajectory> {
        let path = self.folder.join("out/run/metrics.jsonl");
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut trajectory = Trajectory::default();
        let accumulate = number(self.config, "grad_accum_steps")?;
        let mut sum = 0.0;
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
            if event["event"] != "update" {
                continue;
            }
            let batch = number(&event, "batch")?;
            if batch == accumulate {
                sum = 0.0;
            }
            let total = number(&event, "loss")? * batch;
            trajectory.loss.push((total - sum) / accumulate);
            sum = total;
            trajectory.lr.push(number(&event, "lr")?);
            trajectory.grad_norm.extend(event["grad_norm"].as_f64());
        }
        Ok(trajectory)
    }
}

fn find<'a>(state: &'a BTreeMap<String, Tensor>, name: &str) -> Result<&'a Tensor> {
    state.get(name).ok_or_else(|| format!("the checkpoint has no {name}"))
}

/// A grey image as an uncompressed PNG file.
fn png(pixels: &[u8]) -> Vec<u8> {
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let body = [&kind[..], data].concat();
        let (length, sum) = (data.len() as u32, crc32fast::hash(&body));
        [&length.to_be_bytes()[..], &body, &sum.to_be_bytes()].concat()
    };
    // Each row starts with its filter: none.
    let rows: Vec<u8> = pixels.chunks(SIDE).flat_map(|row| [&[0], row].concat()).collect();
    let adler32 = rows.iter().fold([1, 0], |[a, b]: [u32; 2], byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        [a, (b + a) % 65_521]
    });
    let (length, sum) = (rows.len() as u16, adler32[1] << 16 | adler32[0]);
    let stored =
        [&[0x78, 1, 1][..], &length.to_le_bytes(), &(!length).to_le_bytes(), &rows, &sum.to_be_bytes()]
            .concat();
    let side = SIDE as u8;
    let header = [0, 0, 0, side, 0, 0, 0, side, 8, 0, 0, 0, 0];
    [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &header), &chunk(b"IDAT", &stored), &chunk(b"IEND", &[])]
        .concat()
}

/// Batches of a run, as mixed under its seed.
struct SeededBatches {
    loader: Loader,
    batches_per_epoch: usize,
    loss: std::sync::Arc<dyn Loss>,
    device: Device,
    ema: Option<EmaOptions>,
}

impl SeededBatches {
    /// The batches of the run with this checkpoint.
    fn new(last: &Path, run: &TrainingRun) -> Result<SeededBatches> {
        let say = |e: fornax::Error| e.to_string();
        let header = checkpoint::read(last).map_err(say)?.header;
        let data_dir = last.ancestors().nth(4).map(|folder| folder.join(LIST));
        let settings = Settings { no_prefetcher: Some(true), data_dir, ..header.settings };
        let mut config = Config::resolve(&settings).map_err(say)?;
        let data = build::open(&mut config).map_err(say)?;
        Ok(SeededBatches {
            loader: build::training_loader(&config, &data, Device::Cpu, 0).map_err(say)?,
            batches_per_epoch: config.batches_per_epoch.unwrap_or_default(),
            loss: config.loss.clone(),
            device: run.case.topic.device,
            ema: config.ema,
        })
    }
}

impl Protocol for SeededBatches {
    fn batch(&self, index: usize) -> Result<(Tensor, Tensor)> {
        let (epoch, index) = (index / self.batches_per_epoch, index % self.batches_per_epoch);
        let batch = self.loader.batch(epoch as u32, index).and_then(|batch| batch.to_device(&self.device));
        let batch = batch.map_err(|e| e.to_string())?;
        let target = self.loss.prepare(&batch.target, 10).map_err(|e| e.to_string())?;
        Ok((batch.images, target))
    }

    fn ema_decay(&self, update: u64) -> Option<f64> {
        self.ema.map(|ema| ema.decay_at(update))
    }

    fn syncs_lookahead(&self) -> bool {
        true
    }
}
