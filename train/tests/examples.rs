//! The examples run and learn.
#[expect(dead_code, reason = "the example's `main`")]
#[path = "../examples/custom_callback.rs"]
mod custom_callback;
#[expect(dead_code, reason = "the example's `main`")]
#[path = "../examples/custom_dataset.rs"]
mod custom_dataset;
#[expect(dead_code, reason = "the example's `main`")]
#[path = "../examples/custom_training_loop.rs"]
mod custom_training_loop;
#[expect(dead_code, reason = "the example's `main`")]
#[path = "../examples/feature_extraction.rs"]
mod feature_extraction;
#[expect(dead_code, reason = "the example's `main`")]
#[path = "../examples/fine_tuning.rs"]
mod fine_tuning;

#[test]
fn custom_training_loop_learns() {
    let top1 = custom_training_loop::train(5).expect("trains");
    assert!(top1 > 80.0, "{top1}");
}

#[test]
fn custom_dataset_is_learned() {
    let top1 = custom_dataset::train(3).expect("trains");
    assert!(top1 > 80.0, "{top1}");
}

#[test]
fn custom_callback_stops_at_its_target() {
    let (epochs, top1) = custom_callback::train(80.0).expect("trains");
    assert!(top1 >= 80.0 && epochs < 30, "{top1} after {epochs}");
}

#[test]
fn frozen_layers_stay_in_fine_tuning() {
    let (top1, frozen) = fine_tuning::train(6).expect("trains");
    assert!(top1 > 60.0 && frozen > 1000, "{top1} with {frozen} frozen parameters");
}

#[test]
fn features_separate_the_classes() {
    let (accuracy, width) = feature_extraction::classify(3).expect("trains");
    assert!(accuracy > 80.0 && width == 64, "{accuracy} with {width} features");
}
