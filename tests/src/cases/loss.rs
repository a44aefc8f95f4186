//! Loss functions.
use super::case::{fixed, x};
use super::{Case, Values};
use fornax_nn::loss::{BinaryCrossEntropy, JsdCrossEntropy, Loss};

pub(super) fn rows(rows: &mut Vec<Case>) {
    let logits = || x(&[4, 7]);
    let class = || fixed(&[4], Values::Class(7));
    rows.push(Case::new("cross_entropy", "plain", vec![logits(), class()], |t| {
        t[0].cross_entropy(&t[1], 0.0)
    }));
    rows.push(Case::new("cross_entropy", "smoothed", vec![logits(), class()], |t| {
        t[0].cross_entropy(&t[1], 0.1)
    }));
    for (n, classes) in [(256, 10), (256, 1000)] {
        let inputs = vec![x(&[n, classes]), fixed(&[n], Values::Class(classes))];
        rows.push(
            Case::new("cross_entropy", format!("{n}x{classes}"), inputs, |t| t[0].cross_entropy(&t[1], 0.0))
                .large_in(&[0, 1]),
        );
    }
    let soft = || fixed(&[4, 7], Values::Positive);
    rows.push(Case::new("soft_target_cross_entropy", "dense", vec![logits(), soft()], |t| {
        t[0].soft_target_cross_entropy(&t[1])
    }));
    let wide = vec![x(&[256, 1000]), fixed(&[256, 1000], Values::Positive)];
    rows.push(
        Case::new("soft_target_cross_entropy", "256x1000", wide, |t| t[0].soft_target_cross_entropy(&t[1]))
            .large_in(&[0, 1]),
    );
    let labels = || fixed(&[4, 7], Values::Mask);
    rows.push(Case::new("binary_cross_entropy", "mean", vec![logits(), labels()], |t| {
        t[0].binary_cross_entropy(&t[1], 1.0, false)
    }));
    rows.push(Case::new("binary_cross_entropy", "weighted-sum", vec![logits(), labels()], |t| {
        t[0].binary_cross_entropy(&t[1], 3.0, true)
    }));
    let wide = vec![x(&[256, 1000]), fixed(&[256, 1000], Values::Mask)];
    rows.push(
        Case::new("binary_cross_entropy", "256x1000", wide, |t| t[0].binary_cross_entropy(&t[1], 1.0, false))
            .large_in(&[0, 1]),
    );
    let bce = BinaryCrossEntropy { target_threshold: Some(0.2), ..BinaryCrossEntropy::default() };
    rows.push(Case::new("binary_cross_entropy", "classes", vec![logits(), class()], move |t| {
        bce.forward(&t[0], &t[1])
    }));
    let jsd = JsdCrossEntropy { num_splits: 2, alpha: 12.0, smoothing: 0.1 };
    rows.push(Case::new("jsd_cross_entropy", "2 splits", vec![logits(), class()], move |t| {
        jsd.forward(&t[0], &t[1])
    }));
}
