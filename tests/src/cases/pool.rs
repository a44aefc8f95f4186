//! Pooling and interpolation.
use super::case::{of, x};
use super::{Case, Values};
use fornax_engine::resampling::GridPadding;
use fornax_engine::{GlobalPool, Interpolation, Pool2dOptions, Tensor};

pub(super) fn rows(rows: &mut Vec<Case>) {
    windows(rows);
    to_size(rows);
    interpolations(rows);
    grid_samples(rows);
}

fn windows(rows: &mut Vec<Case>) {
    let pool = |kernel, stride, padding, dilation, ceil_mode| Pool2dOptions {
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [padding; 2],
        dilation: [dilation; 2],
        ceil_mode,
    };
    let (s2p1, s2) = (pool(3, 2, 1, 1, false), Pool2dOptions::default());
    let small = [
        ("3x3s2p1", s2p1),
        ("3x3s2p1-ceil", Pool2dOptions { ceil_mode: true, ..s2p1 }),
        ("2x2s2", s2),
        ("2x2s2-ceil", Pool2dOptions { ceil_mode: true, ..s2 }),
        ("3x3s1p1", pool(3, 1, 1, 1, false)),
        ("rectangular", Pool2dOptions { kernel: [1, 3], stride: [2, 1], padding: [0, 1], ..s2 }),
    ];
    let dilated = [("3x3s1-dilated", pool(3, 1, 1, 2, false))];
    for (name, pool) in small.into_iter().chain(dilated) {
        let images = vec![of(&[2, 7, 5, 3], Values::Distinct)];
        rows.push(Case::new("max_pool2d", name, images, move |t| t[0].max_pool2d(&pool)));
    }
    for (name, pool) in small {
        for (suffix, count_pad) in [("", false), ("-count-pad", true)] {
            let images = vec![x(&[2, 7, 5, 3])];
            rows.push(Case::new("avg_pool2d", format!("{name}{suffix}"), images, move |t| {
                t[0].avg_pool2d(&pool, count_pad)
            }));
        }
    }
    let large = [
        ("3x3s2p1-64-112x112-b16", s2p1, [16, 112, 112, 64]),
        ("2x2s2-32-28x28-b256", s2, [256, 28, 28, 32]),
    ];
    for (name, pool, images) in large {
        rows.push(Case::new("max_pool2d", name, vec![x(&images)], move |t| t[0].max_pool2d(&pool)).large());
        rows.push(
            Case::new("avg_pool2d", name, vec![x(&images)], move |t| t[0].avg_pool2d(&pool, true)).large(),
        );
    }
}

fn to_size(rows: &mut Vec<Case>) {
    for (name, out) in [("down", [2, 3]), ("up", [9, 6]), ("one", [1, 1])] {
        let images = || vec![of(&[2, 7, 5, 3], Values::Distinct)];
        rows.push(Case::new("adaptive_avg_pool2d", name, images(), move |t| t[0].adaptive_avg_pool2d(out)));
        rows.push(Case::new("adaptive_max_pool2d", name, images(), move |t| t[0].adaptive_max_pool2d(out)));
    }
    for (name, kind) in [
        ("avg", GlobalPool::Avg),
        ("max", GlobalPool::Max),
        ("avgmax", GlobalPool::AvgMax),
        ("catavgmax", GlobalPool::CatAvgMax),
        ("fastmax", GlobalPool::FastMax),
        ("fastavgmax", GlobalPool::FastAvgMax),
        ("fastcatavgmax", GlobalPool::FastCatAvgMax),
    ] {
        let images = vec![of(&[2, 3, 5, 7], Values::Distinct)];
        rows.push(Case::new("global_pool", name, images, move |t| t[0].global_pool(kind)));
        let images = vec![x(&[64, 7, 7, 512])];
        rows.push(
            Case::new("global_pool", format!("{name}-large"), images, move |t| t[0].global_pool(kind))
                .large(),
        );
    }
}

fn interpolations(rows: &mut Vec<Case>) {
    let mut kinds = vec![("nearest".to_string(), Interpolation::Nearest)];
    for (suffix, align_corners, antialias) in
        [("", false, false), ("-corners", true, false), ("-antialias", false, true)]
    {
        kinds.push((format!("bilinear{suffix}"), Interpolation::Bilinear { align_corners, antialias }));
        kinds.push((format!("bicubic{suffix}"), Interpolation::Bicubic { align_corners, antialias }));
    }
    for (name, how) in kinds {
        for (direction, size) in [("down", [3, 2]), ("up", [11, 7]), ("same", [7, 5])] {
            rows.push(Case::new(
                "interpolate",
                format!("{name}-{direction}"),
                vec![x(&[2, 7, 5, 3])],
                move |t| t[0].interpolate(size, how),
            ));
        }
        rows.push(
            Case::new("interpolate", format!("{name}-large"), vec![x(&[8, 28, 28, 64])], move |t| {
                t[0].interpolate([56, 56], how)
            })
            .large(),
        );
    }
}

fn grid_samples(rows: &mut Vec<Case>) {
    for (padding, name) in [(GridPadding::Zeros, "zeros"), (GridPadding::Border, "border")] {
        for (align_corners, suffix) in [(false, ""), (true, "-corners")] {
            let inputs = vec![x(&[2, 5, 7, 3]), of(&[2, 4, 3, 2], Values::Distinct)];
            rows.push(Case::new("grid_sample", format!("{name}{suffix}"), inputs, move |t| {
                t[0].grid_sample(&t[1], padding, align_corners)
            }));
        }
        let inputs = vec![x(&[8, 28, 28, 64]), x(&[8, 28, 28, 2])];
        let large = move |t: &[Tensor]| t[0].grid_sample(&t[1], padding, false);
        rows.push(Case::new("grid_sample", format!("{name}-large"), inputs, large).large_in(&[0, 1]));
    }
}
