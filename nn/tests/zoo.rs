//! Tests of all models of the zoo, independent of their weights: shapes, options, heads, features, costs, initial values.
use fornax_engine::{Activation, DType, Device, GlobalPool, Tensor, shapes_only};
use fornax_nn::layers::Linear;
use fornax_nn::models::{
    FeatureExtractor, ModelInfo, Pooling, create_model, find_model, list_models, summary,
};
use fornax_nn::{Context, Model, ModelOptions, layer_names, named_parameters, state_entries};
use std::sync::Arc;

/// Options for small images.
fn small(info: &ModelInfo, options: ModelOptions) -> ModelOptions {
    ModelOptions { img_size: info.pretrained_cfg.fixed_input_size.then_some([64, 64]), ..options }
}

fn images(n: usize, c: usize) -> Tensor {
    let pixel = |i: usize| ((i * 7919 % 1000) as f32 / 500.0) - 1.0;
    Tensor::from_vec((0..n * 64 * 64 * c).map(pixel).collect::<Vec<f32>>(), [n, 64, 64, c]).expect("memory")
}

fn values(t: &Tensor) -> Vec<f32> {
    t.to_vec::<f32>().expect("f32")
}

#[test]
fn every_model_returns_features_and_feature_pyramid() {
    shapes_only(|| {
        for info in list_models() {
            let options =
                small(info, ModelOptions { num_classes: 0, in_chans: 1, ..ModelOptions::default() });
            let model = info.build(&options).expect(info.name);
            assert!(model.get_classifier().is_none());
            let x = Tensor::zeros([2, 64, 64, 1], DType::F32, &Device::Cpu).expect("memory");
            let y = model.forward(&x, &mut Context::eval()).expect(info.name);
            assert_eq!(y.dims(), [2, model.head_hidden_size()], "{}", info.name);
            let features = FeatureExtractor::new(model, None).expect("all levels");
            let maps = features.forward(&x, &mut Context::eval()).expect(info.name);
            for (level, map) in features.feature_info().iter().zip(&maps) {
                let side = 64 / level.reduction;
                assert_eq!(map.dims(), [2, side, side, level.channels], "{} {}", info.name, level.module);
            }
        }
    });
}

#[test]
fn first_conv_and_classifier_names_match_parameters() {
    for info in list_models() {
        let model = shapes_only(|| info.build(&ModelOptions::default())).expect(info.name);
        let names: Vec<String> = state_entries(&*model).into_iter().map(|e| e.name).collect();
        for layer in [info.pretrained_cfg.first_conv, info.pretrained_cfg.classifier] {
            assert!(names.contains(&format!("{layer}.weight")), "{}: {layer}", info.name);
        }
        assert_eq!(model.classifier_name(), info.pretrained_cfg.classifier);
        // Layer groups run from the input to the head, which has none.
        let depth = |layer: &str| model.layer_group(&format!("{layer}.weight"));
        assert_eq!(depth(info.pretrained_cfg.first_conv), Some(vec![0]), "{}", info.name);
        assert_eq!(depth(info.pretrained_cfg.classifier), None, "{}", info.name);
    }
}

#[test]
fn output_stride_sets_size_of_last_feature_map() {
    for name in ["resnet18", "resnet50d", "efficientnet_b0", "regnety_004", "convnext_atto"] {
        for stride in [8, 16] {
            let options = ModelOptions { output_stride: stride, ..ModelOptions::default() };
            shapes_only(|| {
                let model = find_model(name).and_then(|info| info.build(&options)).expect(name);
                let x = Tensor::zeros([1, 64, 64, 3], DType::F32, &Device::Cpu).expect("memory");
                let map = model.forward_features(&x, &mut Context::eval()).expect(name);
                assert_eq!(map.dims()[1..3], [64 / stride; 2], "{name} at {stride}");
                assert_eq!(model.feature_info().pop().expect("levels").reduction, stride, "{name}");
            });
        }
    }
}

#[test]
fn unsupported_options_are_rejected() {
    for (name, option, value) in [
        ("vit_tiny_patch16_224", "output_stride", "16"),
        ("vit_tiny_patch16_224", "bn_momentum", "0.2"),
        ("vit_tiny_patch16_224", "img_size", "100"),
        ("vit_tiny_patch16_224", "global_pool", "catavgmax"),
        ("mobilenetv3_large_100", "output_stride", "16"),
        ("convnext_atto", "bn_eps", "1e-3"),
        ("convnext_atto", "global_pool", "catavgmax"),
        ("regnety_004", "drop_block_rate", "0.1"),
        ("resnet18", "img_size", "64"),
        ("resnet18", "output_stride", "4"),
        ("resnet18", "global_pool", "token"),
        ("resnet18", "in_chans", "0"),
    ] {
        let mut options = ModelOptions::default();
        options.set(option, value).expect("a value");
        let Err(error) = shapes_only(|| find_model(name).and_then(|info| info.build(&options))) else {
            panic!("{name} took {option}={value}")
        };
        assert!(error.to_string().contains(option), "{name}: {error}");
    }
}

#[test]
fn head_can_be_pooled_reset_and_replaced() {
    let (x, cx) = (images(2, 3), &mut Context::eval());
    let whole = ModelOptions { num_classes: 0, global_pool: Pooling::None, ..ModelOptions::default() };
    let maps = create_model("resnet8", &whole).expect("builds").forward(&x, cx).expect("runs");
    assert_eq!(maps.dims(), [2, 16, 16, 64]);
    let unpooled = ModelOptions { global_pool: Pooling::None, ..ModelOptions::default() };
    assert!(create_model("resnet8", &unpooled).is_err(), "a classifier of maps");

    let pool = Pooling::Global(GlobalPool::CatAvgMax);
    let options = ModelOptions { num_classes: 5, global_pool: pool, ..ModelOptions::default() };
    let mut model = create_model("resnet8", &options).expect("builds");
    assert_eq!((model.num_features(), model.head_hidden_size()), (64, 128));
    let before = named_parameters(&*model);
    model.reset_classifier(7, 3).expect("resets");
    assert_eq!(model.forward(&x, cx).expect("runs").dims(), [2, 7]);
    for ((name, old), (_, new)) in before.iter().zip(named_parameters(&*model)) {
        assert_eq!(values(old) == values(&new), !name.starts_with("fc."), "{name}");
    }
    model.set_classifier(Some(Arc::new(Linear::new(128, 2).expect("memory"))));
    assert_eq!(model.forward(&x, cx).expect("runs").dims(), [2, 2]);
    model.set_classifier(None);
    assert!(model.get_classifier().is_none());
    assert_eq!(model.forward(&x, cx).expect("runs").dims(), [2, 128]);
}

#[test]
fn intermediates_are_captured_by_name_without_changing_the_output() {
    let options = ModelOptions { act_layer: Some(Activation::Silu), ..ModelOptions::classes(3) };
    let model = create_model("resnet8", &options).expect("builds");
    let (x, mut cx) = (images(2, 3), Context::eval());
    let names = layer_names(&*model);
    for name in ["conv1", "bn1", "act1", "layer2", "layer2.0", "layer2.0.conv1", "layer2.0.act2", "fc"] {
        assert!(names.iter().any(|n| n == name), "{name} in {names:?}");
    }
    let close = |a: &Tensor, b: &Tensor, what: &str| {
        for (a, b) in values(a).iter().zip(values(b)) {
            assert!((a - b).abs() < 1e-4, "{what}: {a} {b}");
        }
    };
    let logits = model.forward(&x, &mut cx).expect("runs");
    let layers = ["fc", "bn1", "act1", "layer2.0.downsample.1", "global_pool"];
    let found = model.forward_intermediates(&x, &layers, &mut cx).expect("all layers exist");
    close(&found[0], &logits, "logits");
    close(&found[1].silu().expect("f32"), &found[2], "activation");
    assert_eq!((found[3].dims(), found[4].dims()), (&[2, 32, 32, 32][..], &[2, 64][..]));
    let error =
        model.forward_intermediates(&x, &["layer1.0.conv3"], &mut cx).expect_err("no such layer").to_string();
    assert!(error.contains("layer1.0.conv3") && error.contains("did you mean"), "{error}");
}

#[test]
fn macs_and_parameters_match_papers() {
    // Multiplications of convolutions and linear layers; attention adds its own.
    let attention = 2 * 12 * 197 * 197 * 192_u64;
    for (name, macs) in [
        ("resnet18", 1_814_073_344),
        ("resnet50", 4_089_184_256_u64),
        ("mobilenetv2_100", 300_774_272),
        ("vit_tiny_patch16_224", 1_074_000_000 + attention),
    ] {
        let model =
            shapes_only(|| find_model(name).and_then(|i| i.build(&ModelOptions::default()))).expect(name);
        let cost = summary(&*model, [224, 224, 3]).expect(name);
        let ratio = cost.macs as f64 / macs as f64;
        assert!((ratio - 1.0).abs() < 5e-3, "{name}: {} MACs, expected {macs}", cost.macs);
        let parameters: usize = named_parameters(&*model).iter().map(|(_, t)| t.numel()).sum();
        let of_layers: usize = cost.layers.iter().map(|l| l.parameters).sum();
        assert_eq!(cost.parameters, parameters, "{name}");
        // Class token and positions belong to no layer.
        let loose = if name.starts_with("vit") { 198 * 192 } else { 0 };
        assert_eq!(of_layers + loose, parameters, "{name}");
    }
}

/// Mean and standard deviation of a parameter's initial values.
fn moments(model: &dyn Model, name: &str) -> (f64, f64) {
    let all = named_parameters(model);
    let (_, t) = all.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name}"));
    let v = values(t);
    let mean = v.iter().map(|x| f64::from(*x)).sum::<f64>() / v.len() as f64;
    let var = v.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / v.len() as f64;
    (mean, var.sqrt())
}

#[test]
fn initial_values_match_timm_statistics() {
    let he = |fan_out: f64| (2.0 / fan_out).sqrt();
    let uniform = |fan: f64| 1.0 / (3.0 * fan).sqrt();
    // Mean and standard deviation.
    type Expected = (&'static str, f64, f64);
    let cases: &[(&str, &[Expected])] = &[
        (
            "seresnet50",
            &[
                ("conv1.weight", 0.0, he(64.0 * 49.0)),
                ("layer1.0.conv2.weight", 0.0, he(64.0 * 9.0)),
                ("layer3.0.se.fc1.weight", 0.0, he(64.0)),
                ("layer3.0.se.fc2.bias", 0.0, uniform(64.0)),
                ("layer1.0.bn3.weight", 0.0, 0.0),
                ("layer1.0.downsample.1.weight", 1.0, 0.0),
                ("fc.weight", 0.0, uniform(2048.0)),
                ("fc.bias", 0.0, uniform(2048.0)),
            ],
        ),
        ("resnet18", &[("layer1.0.bn2.weight", 0.0, 0.0), ("layer1.0.bn1.weight", 1.0, 0.0)]),
        (
            "efficientnet_b0",
            &[
                ("conv_stem.weight", 0.0, he(32.0 * 9.0)),
                ("blocks.2.1.conv_dw.weight", 0.0, he(25.0)),
                ("blocks.2.1.se.conv_reduce.weight", 0.0, he(10.0)),
                ("blocks.1.0.bn3.weight", 1.0, 0.0),
                ("classifier.weight", 0.0, uniform(1000.0)),
                ("classifier.bias", 0.0, 0.0),
            ],
        ),
        (
            "regnety_004",
            &[
                ("s3.b2.conv2.conv.weight", 0.0, he(8.0 * 9.0)),
                ("s1.b1.conv3.bn.weight", 0.0, 0.0),
                ("head.fc.weight", 0.0, 0.01),
            ],
        ),
        (
            "convnext_atto",
            &[
                ("stages.2.blocks.1.conv_dw.weight", 0.0, 0.02),
                ("stages.0.blocks.0.gamma", 1e-6, 0.0),
                ("stages.0.blocks.0.mlp.fc1.bias", 0.0, 0.0),
                ("head.fc.weight", 0.0, 0.02),
            ],
        ),
        (
            "vit_tiny_patch16_224",
            &[
                ("pos_embed", 0.0, 0.02),
                ("blocks.3.attn.qkv.weight", 0.0, 0.02),
                ("blocks.0.norm1.weight", 1.0, 0.0),
                ("cls_token", 0.0, 1e-6),
                ("patch_embed.proj.weight", 0.0, uniform(768.0)),
                ("patch_embed.proj.bias", 0.0, uniform(768.0)),
                ("head.weight", 0.0, 0.02),
            ],
        ),
    ];
    for (name, expected) in cases {
        let model = create_model(name, &ModelOptions::default()).expect(name);
        for &(parameter, mean, std) in *expected {
            let (got_mean, got_std) = moments(&*model, parameter);
            let slack = 1e-12 + 0.3 * std + 1e-6 * mean;
            assert!((got_mean - mean).abs() <= slack, "{name} {parameter}: mean {got_mean}, expected {mean}");
            assert!(
                (got_std - std).abs() <= 1e-12 + 0.12 * std,
                "{name} {parameter}: {got_std}, expected {std}"
            );
        }
    }
}

#[test]
fn drop_path_and_drop_block_are_active_only_in_training() {
    for (name, option) in
        [("resnet18", "drop_path_rate"), ("resnet18", "drop_block_rate"), ("convnext_atto", "drop_path_rate")]
    {
        let mut options = ModelOptions::classes(4);
        options.set(option, "0.5").expect("a probability");
        let build = |options: &ModelOptions| {
            let model = create_model(name, options).expect(name);
            for e in state_entries(&*model)
                .iter()
                .filter(|e| ["bn2.weight", "gamma"].iter().any(|end| e.name.ends_with(end)))
            {
                // Zero-initialised residual branches would hide the effect.
                let ones = Tensor::ones(*e.tensor.shape(), DType::F32, &Device::Cpu).expect("memory");
                e.tensor.copy_from(&ones).expect("same shape");
            }
            model
        };
        let (model, plain, x) = (build(&options), build(&ModelOptions::classes(4)), images(4, 3));
        let run = |model: &dyn Model, mut cx: Context| values(&model.forward(&x, &mut cx).expect(name));
        assert_eq!(run(&*model, Context::eval()), run(&*plain, Context::eval()), "{name} {option}");
        let training =
            |step: i64| run(&*model, Context::train().with_seed(1, &Tensor::scalar(step).expect("memory")));
        let first = training(0);
        assert_eq!(first, training(0), "{name} {option}: random numbers depend on seed and step");
        assert_ne!(first, training(1), "{name} {option}: random numbers change with the step");
        assert!(model.forward(&x, &mut Context::train()).is_err(), "a seed is required");
    }
}
