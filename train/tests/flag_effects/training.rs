//! Cases of the flags of loss, EMA and precision.
use crate::case::{Case, assert_effects, changes, check};
use crate::common::succeed;
use crate::files;
use crate::observation::Aspect::{self, *};
use crate::observation::{differences, experiment, observe};
use fornax::engine::Device;
use fornax::nn::named_parameters;

/// Another loss of the same outputs.
const LOSS: &[Aspect] = &[FirstLoss, Weights];
/// Other rounding, which the plan names.
const PRECISION: &[Aspect] = &[Plan, InitialEvaluation, FirstLoss, Weights];

pub const CASES: &[Case] = &[
    changes("smoothing", "", "--smoothing 0.3", LOSS),
    changes("bce_loss", "", "--bce-loss", LOSS),
    changes("bce_sum", "--bce-loss", "--bce-sum", LOSS),
    changes("bce_target_thresh", "--bce-loss", "--bce-target-thresh 0.2", LOSS),
    changes("bce_pos_weight", "--bce-loss", "--bce-pos-weight 3", LOSS),
    changes("jsd_loss", "photos --aug-splits 2", "--jsd-loss", LOSS),
    changes("model_ema", "", "--model-ema", &[Evaluations]),
    changes("model_ema_decay", "--model-ema", "--model-ema-decay 0.5", &[Evaluations]),
    changes("model_ema_warmup", "--model-ema", "--model-ema-warmup", &[Evaluations]),
    check("model_ema_force_cpu", ema_weights_are_on_the_cpu),
    changes("amp", "", "--amp", PRECISION),
    changes("amp_dtype", "--amp", "--amp-dtype bfloat16", PRECISION),
    // Convolutions round the weights either way; O3 stores them rounded.
    changes("opt_level", "--amp", "--opt-level O3", &[Plan, Weights]),
    changes("model_dtype", "", "--model-dtype bfloat16", PRECISION),
    check("grad_checkpointing", checkpointed_blocks_need_less_memory),
];

fn ema_weights_are_on_the_cpu() {
    let device = Device::emulated(1).expect("g++ is installed");
    let of_ema = |arguments: &str| {
        let mut run = experiment(arguments);
        run.device = device;
        run.build().expect("builds");
        let parameters = named_parameters(run.ema().expect("an EMA").model());
        assert!(parameters.iter().all(|(_, tensor)| tensor.device() == parameters[0].1.device()));
        parameters[0].1.device()
    };
    assert_eq!(of_ema("--model-ema"), device);
    assert_eq!(of_ema("--model-ema --model-ema-force-cpu"), Device::Cpu);
}

fn checkpointed_blocks_need_less_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let peak = |flag: &str| {
        let run = format!(
            "train --device cpu --model resnet20 --img-size 32 --train-num-samples 64 --val-num-samples 8 --batch-size 64 --validation-batch-size 8 --epochs 1 --warmup-epochs 0 --progress none --log-interval 1 --output out --experiment run --overwrite {flag}"
        );
        succeed(folder.path(), &run);
        files::events(&folder.path().join("out/run"), "update")[0]["memory"]["peak_allocated"]
            .as_u64()
            .expect("bytes")
    };
    let (stored, recomputed) = (peak(""), peak("--grad-checkpointing"));
    assert!(recomputed < stored * 3 / 4, "{recomputed} and {stored} bytes");
    assert_eq!(differences(&observe(""), &observe("--grad-checkpointing")), []);
}

#[test]
fn loss_ema_and_precision_flags_have_their_effects() {
    assert_effects(CASES);
}
