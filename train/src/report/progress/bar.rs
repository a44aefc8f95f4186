//! Text of the epoch bar for a terminal's width.
use super::super::{UpdateMetrics, bytes, thousands};
use super::time_left::duration;
use crate::callbacks::EpochBegin;

/// Columns of the bar itself.
const BAR: std::ops::RangeInclusive<usize> = 6..=30;
const FILLED: char = '━';
const EMPTY: char = '╌';

/// The line of the epoch bar, at most `width` columns: `epoch 3/29 ━━━╌╌╌ 12/45  loss 0.1234  9,876 images/s  data 3%  61 MiB  0:42 left`.
/// In a narrow terminal parts are omitted, the word "epoch" and the bar first. `colour` paints the bar.
pub fn bar_line(metrics: &UpdateMetrics, seconds_left: Option<f64>, width: usize, colour: bool) -> String {
    let last = metrics.epochs.saturating_sub(1).max(metrics.epoch);
    let epoch = format!("{}/{last}", metrics.epoch);
    // The parts after the bar with their rank: the lowest is left out first.
    let mut parts = vec![
        (2, format!("{}/{}", metrics.batch, metrics.batches)),
        (4, format!("loss {:.4}", metrics.loss)),
        (3, format!("{} images/s", thousands(metrics.images_per_second.round() as u64))),
        (1, format!("data {:.0}%", 100.0 * metrics.data_wait)),
        (0, bytes(metrics.memory.allocated as u64)),
    ];
    parts.extend(seconds_left.map(|seconds| (5, format!("{} left", duration(seconds)))));
    let columns = |head: &str, parts: &[(u32, String)]| {
        head.chars().count() + parts.iter().map(|(_, text)| text.chars().count() + 2).sum::<usize>()
    };
    let named = format!("epoch {epoch}");
    let head = if columns(&named, &parts) + 1 + BAR.start() <= width { named } else { epoch };
    for rank in 0..6 {
        if columns(&head, &parts) > width {
            parts.retain(|part| part.0 != rank);
        }
    }
    let free = width.saturating_sub(columns(&head, &parts) + 1).min(*BAR.end());
    let mut line = head.chars().take(width).collect::<String>();
    if free >= *BAR.start() {
        let filled = free * metrics.batch / metrics.batches.max(1);
        line += &format!(" {}", painted(filled, free, colour));
    }
    for (_, text) in &parts {
        line += "  ";
        line += text;
    }
    line
}

/// The line before the first update of this process in an epoch, at most `width` columns.
pub fn waiting_line(epoch: &EpochBegin, width: usize, colour: bool) -> String {
    let EpochBegin { epoch, epochs, first_batch, batches } = *epoch;
    let last = epochs.saturating_sub(1).max(epoch);
    let head = format!("epoch {epoch}/{last}");
    let tail = format!("  {first_batch}/{batches}  first update");
    let free = width.saturating_sub(head.chars().count() + tail.chars().count() + 1).min(*BAR.end());
    let bar = match free >= *BAR.start() {
        true => format!(" {}", painted(free * first_batch / batches.max(1), free, colour)),
        false => String::new(),
    };
    let plain = format!("{head}{tail}");
    if bar.is_empty() { plain.chars().take(width).collect() } else { format!("{head}{bar}{tail}") }
}

/// A bar of `length` columns.
fn painted(filled: usize, length: usize, colour: bool) -> String {
    let filled = filled.min(length);
    let bar = [FILLED.to_string().repeat(filled), EMPTY.to_string().repeat(length - filled)].concat();
    if colour { format!("\x1b[36m{bar}\x1b[0m") } else { bar }
}

#[cfg(test)]
mod tests {
    use super::super::super::MemoryMetrics;
    use super::*;

    fn metrics(epochs: u32, batches: usize, images_per_second: f64) -> UpdateMetrics {
        UpdateMetrics {
            epoch: epochs - 1,
            epochs,
            batch: batches,
            batches,
            update: 7,
            update_of_epoch: 7,
            updates_per_epoch: batches as u64,
            loss: 12.34567,
            lr: 0.1,
            grad_norm: None,
            loss_scale: None,
            images_per_second,
            data_wait: 0.034,
            memory: MemoryMetrics { allocated: 61 << 20, ..MemoryMetrics::default() },
        }
    }

    #[test]
    fn line_fits_every_width() {
        for width in 1..200 {
            for metrics in [metrics(300, 10_009, 123_456.0), metrics(1, 1, 3.0)] {
                let line = bar_line(&metrics, Some(86_399.0), width, false);
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
    }

    #[test]
    fn eighty_columns_show_everything() {
        let line = bar_line(&metrics(30, 45, 9876.0), Some(42.0), 80, false);
        for part in
            ["29/29 ━━━━━━━━━  45/45", "loss 12.3457", "9,876 images/s", "data 3%", "61 MiB", "0:42 left"]
        {
            assert!(line.contains(part), "{part} in {line}");
        }
        let narrow = bar_line(&metrics(30, 45, 9876.0), Some(42.0), 36, false);
        assert_eq!(narrow, "29/29  loss 12.3457  0:42 left");
    }

    #[test]
    fn line_before_the_first_update_fits_every_width() {
        let epoch = EpochBegin { epoch: 0, epochs: 30, first_batch: 0, batches: 45 };
        for width in 1..100 {
            assert!(waiting_line(&epoch, width, false).chars().count() <= width, "{width}");
        }
        let line = waiting_line(&epoch, 80, false);
        assert!(line.starts_with("epoch 0/29 ╌") && line.ends_with("0/45  first update"), "{line}");
        assert!(!line.contains(FILLED));
    }

    #[test]
    fn bar_is_filled_by_finished_batches() {
        let mut half = metrics(30, 45, 9876.0);
        half.batch = 0;
        assert!(!bar_line(&half, None, 120, false).contains(FILLED));
        half.batch = 45;
        assert!(!bar_line(&half, None, 120, false).contains(EMPTY));
        assert!(bar_line(&half, None, 120, true).contains("\x1b[36m━"));
    }
}
