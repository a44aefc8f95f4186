//! Cases of the optimizer's flags.
use crate::case::{Case, assert_effects, changes, check};
use crate::observation::Aspect::*;
use crate::observation::experiment;
use fornax::nn::named_parameters;

pub const CASES: &[Case] = &[
    changes("opt", "", "--opt adamw", &[Plan, Weights]),
    changes("lr", "", "--lr 0.01", &[LearningRates, Weights]),
    changes("lr_base", "", "--lr-base 0.1", &[LearningRates, Weights]),
    changes("lr_base_size", "--lr-base 0.1", "--lr-base-size 64", &[LearningRates, Weights]),
    changes("lr_base_scale", "--lr-base 0.1", "--lr-base-scale sqrt", &[LearningRates, Weights]),
    changes("momentum", "", "--momentum 0.5", &[Weights]),
    changes("opt_betas", "--opt adamw", "--opt-betas 0.5 0.9", &[Weights]),
    changes("opt_eps", "--opt adamw", "--opt-eps 0.1", &[Weights]),
    changes(
        "opt_kwargs",
        "--opt adam --weight-decay 0.1",
        "--opt-kwargs decoupled_weight_decay=true",
        &[Weights],
    ),
    changes("weight_decay", "", "--weight-decay 0.1", &[Weights]),
    changes("layer_decay", "", "--layer-decay 0.5", &[Weights]),
    changes("layer_decay_min_scale", "--layer-decay 0.5", "--layer-decay-min-scale 0.4", &[Weights]),
    check("layer_decay_no_opt_scale", layers_below_the_scale_are_frozen),
    changes("clip_grad", "", "--clip-grad 0.1", &[Weights]),
    changes("clip_mode", "--clip-grad 0.01", "--clip-mode value", &[Weights]),
    changes(
        "grad_accum_steps",
        "",
        "--grad-accum-steps 2",
        &[Plan, FirstLoss, Updates, LearningRates, Weights],
    ),
];

fn layers_below_the_scale_are_frozen() {
    let trained = |arguments: &str| {
        let mut run = experiment(arguments);
        let values = |model: &dyn fornax::nn::Module| -> Vec<(String, Vec<f32>)> {
            let values =
                |(name, tensor): (String, fornax::engine::Tensor)| (name, tensor.to_vec().expect("f32"));
            named_parameters(model).into_iter().map(values).collect()
        };
        let before = values(run.build_model().expect("builds"));
        run.run().expect("trains");
        let after = values(run.model.as_deref().expect("built"));
        let changed = before.into_iter().zip(after).filter(|(a, b)| a.1 != b.1).map(|(a, _)| a.0);
        changed.collect::<Vec<_>>()
    };
    let all = trained("--layer-decay 0.5");
    let some = trained("--layer-decay 0.5 --layer-decay-no-opt-scale 0.4");
    assert!(all.contains(&"conv1.weight".to_string()), "{all:?}");
    assert!(
        !some.contains(&"conv1.weight".to_string()) && some.contains(&"fc.weight".to_string()),
        "{some:?}"
    );
}

#[test]
fn optimizer_flags_have_their_effects() {
    assert_effects(CASES);
}
