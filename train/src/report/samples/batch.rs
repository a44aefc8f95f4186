//! Images and labels of training batches.
use super::grid::{CaptionNote, CaptionTone, CaptionedImage};
use crate::Result;
use crate::data::Image;
use crate::loader::{Batch, BatchPreparation};
use fornax_engine::{DType, Device};

/// Images of a batch after mixing and erasing, with the normalisation undone.
pub fn batch_images(batch: &Batch, preparation: &BatchPreparation) -> Result<Vec<Image>> {
    let input = match batch.images.dtype() {
        DType::U8 => preparation.apply(&batch.images, batch.changes.as_ref(), DType::F32)?,
        _ => batch.images.clone(),
    };
    let input = input.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
    let &[_, h, w, c] = input.dims() else { unreachable!("batches are [n, h, w, c]") };
    let (mean, std) = (&preparation.statistics.mean, &preparation.statistics.std);
    let byte = |(i, value): (usize, &f32)| {
        (255.0 * (value * std[i % c] + mean[i % c])).round().clamp(0.0, 255.0) as u8
    };
    let pixels: Vec<u8> = input.read::<f32>()?.iter().enumerate().map(byte).collect();
    Ok(pixels
        .chunks_exact(h * w * c)
        .map(|image| Image { size: [h, w, c], pixels: image.to_vec() })
        .collect())
}

/// The first images of a training batch with their labels: of mixed images the two most probable classes, of clips the first frame.
pub fn training_samples(
    batch: &Batch,
    preparation: &BatchPreparation,
    classes: &[String],
    limit: usize,
) -> Result<Vec<CaptionedImage>> {
    let labels = labels(batch, classes)?;
    let images = batch_images(batch, preparation)?;
    let first_frames = images.into_iter().step_by(batch.outputs_per_target);
    // Every augmentation split has the same targets.
    let captioned = first_frames.zip(labels.iter().cycle()).map(|(image, lines)| CaptionedImage {
        image,
        label: lines.first().cloned().unwrap_or_default(),
        note: lines.get(1).map(|text| CaptionNote { text: text.clone(), tone: CaptionTone::Neutral }),
    });
    Ok(captioned.take(limit).collect())
}

/// Name of a class, or its number if it has none.
pub fn class_name(classes: &[String], class: usize) -> String {
    classes.get(class).cloned().unwrap_or_else(|| format!("class {class}"))
}

/// One or two lines per target.
fn labels(batch: &Batch, classes: &[String]) -> Result<Vec<Vec<String>>> {
    let target = batch.target.to_device(&Device::Cpu)?;
    if target.dtype() == DType::I64 {
        return Ok(target
            .to_vec::<i64>()?
            .iter()
            .map(|class| vec![class_name(classes, *class as usize)])
            .collect());
    }
    let probabilities = target.to_dtype(DType::F32)?.to_vec::<f32>()?;
    let rows = probabilities.chunks_exact(target.dims()[1]);
    Ok(rows.map(|row| mixed_label(row, classes)).collect())
}

/// The most probable class; with a second one above label smoothing, both with their fractions.
fn mixed_label(row: &[f32], classes: &[String]) -> Vec<String> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
    // Of two classes, smoothing and mixing cannot be distinguished.
    let lowest = if row.len() > 2 { row[order[row.len() - 1]] } else { 0.0 };
    let total: f32 = row.iter().map(|value| value - lowest).sum();
    let fraction = |class: usize| (row[class] - lowest) / total.max(f32::MIN_POSITIVE);
    match order[..] {
        [first, second, _, ..] | [first, second] if fraction(second) >= 0.01 => [first, second]
            .map(|class| format!("{:.0}% {}", 100.0 * fraction(class), class_name(classes, class)))
            .into(),
        [first, ..] => vec![class_name(classes, first)],
        [] => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::ChannelStats;
    use fornax_engine::Tensor;

    fn names() -> Vec<String> {
        ["cat", "dog", "owl"].map(String::from).into()
    }

    #[test]
    fn normalised_images_become_bytes_again() {
        let statistics = ChannelStats { white: 255, mean: vec![0.5], std: vec![0.25] };
        let bytes = vec![0u8, 128, 255, 7];
        let images = Tensor::from_vec(bytes.clone(), [1, 2, 2, 1]).expect("a tensor");
        let target = Tensor::from_vec(vec![1i64], [1]).expect("a tensor");
        let samples =
            training_samples(&Batch::new(images, target), &statistics.into(), &names(), 8).expect("samples");
        assert_eq!(samples.len(), 1);
        assert_eq!((samples[0].image.pixels.clone(), samples[0].label.as_str()), (bytes, "dog"));
        assert_eq!(samples[0].note, None);
    }

    #[test]
    fn mixed_targets_name_both_classes_and_smoothed_ones_only_one() {
        assert_eq!(mixed_label(&[0.0, 0.7, 0.3], &names()), ["70% dog", "30% owl"]);
        assert_eq!(mixed_label(&[0.03, 0.03, 0.93], &names()), ["owl"]);
        assert_eq!(mixed_label(&[0.0, 0.0, 0.0, 1.0], &names()), ["class 3"]);
        assert_eq!(mixed_label(&[0.25, 0.75], &names()), ["75% dog", "25% cat"]);
        // Binary cross entropy: the sum is not 1.
        assert_eq!(mixed_label(&[1.0, 1.0, 0.0], &names()), ["50% cat", "50% dog"]);
    }
}
