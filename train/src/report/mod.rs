//! Reporting of a run: progress on the terminal, files in its folder, plots.
mod clock;
mod confusion;
mod description;
mod files;
mod folder;
mod folder_keeper;
mod machine;
mod metrics_file;
mod page;
mod plots;
mod progress;
mod samples;
pub mod tensorboard;
mod terminal;

pub use clock::timestamp;
pub use confusion::{ClassMetrics, ConfusedPair, ConfusionCounts, ConfusionTable};
pub use folder::{Destination, RunFolder};
pub use folder_keeper::FolderKeeper;
pub use machine::{Machine, available_memory, total_memory};
pub use metrics_file::rollback_event;
pub use page::{ComparedRun, PageWriter, comparison_page, differing_settings, write_page};
pub use plots::{Figure, PlotWriter, lr_figure, lr_range_figure};
pub use progress::{DownloadProgress, Progress, ProgressMode};
pub use samples::{CaptionedImage, SampleWriter, batch_images, class_name, full_size_grid, training_samples};
pub use tensorboard::TensorBoard;
pub use terminal::curve as terminal_curve;

use crate::trainer::skipped_note;
use fornax_engine::cpu::{self, memory::MemoryStats};
use fornax_engine::{Device, cuda};
use serde::{Deserialize, Serialize};

/// Metrics of one update.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct UpdateMetrics {
    /// Epoch, counted from 0.
    pub epoch: u32,
    /// Total epochs.
    pub epochs: u32,
    /// Finished batches of the epoch, this update's included.
    pub batch: usize,
    /// Batches per epoch.
    pub batches: usize,
    /// Finished updates, this one included.
    pub update: u64,
    /// Finished updates of the epoch, this one included.
    #[serde(skip)]
    pub update_of_epoch: u64,
    /// Updates per epoch.
    #[serde(skip)]
    pub updates_per_epoch: u64,
    /// Mean loss of the epoch so far.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Total gradient norm before clipping, if it was computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f32>,
    /// Loss scale of the next update, with loss scaling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f32>,
    /// Mean throughput of the epoch so far.
    pub images_per_second: f64,
    /// Fraction of the time spent waiting for batches.
    pub data_wait: f64,
    /// Memory of the model's device.
    pub memory: MemoryMetrics,
}

/// Memory of tensors on a device, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryMetrics {
    /// Allocated by live tensors.
    pub allocated: usize,
    /// Peak of `allocated`.
    pub peak_allocated: usize,
    /// Allocated plus cached.
    pub reserved: usize,
    /// Number of segments of the CUDA driver or blocks of the system that are reserved.
    pub segments: usize,
}

/// Metrics of one epoch: a row of `summary.csv`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochMetrics {
    /// Epoch, counted from 0.
    pub epoch: u32,
    /// Mean training loss.
    pub train_loss: f64,
    /// Mean validation cross entropy, without label smoothing; with an EMA, that of its weights.
    pub eval_loss: f64,
    /// Top-1 accuracy in percent; with an EMA, that of its weights.
    pub eval_top1: f64,
    /// Top-5 accuracy in percent; with an EMA, that of its weights.
    pub eval_top5: f64,
    /// Learning rate after the epoch's last update.
    pub lr: f64,
    /// With an EMA: validation loss of the model's own weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_eval_loss: Option<f64>,
    /// With an EMA: top-1 accuracy of the model's own weights in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_eval_top1: Option<f64>,
    /// With an EMA: top-5 accuracy of the model's own weights in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_eval_top5: Option<f64>,
    /// Number of validation images that were skipped as bad images.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub eval_skipped: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl MemoryMetrics {
    /// Current memory of a device.
    pub fn of(device: Device) -> MemoryMetrics {
        let stats = cuda::memory_stats(device).unwrap_or_else(cpu::memory::memory_stats);
        let MemoryStats { allocated, peak_allocated, reserved, segments } = stats;
        MemoryMetrics { allocated, peak_allocated, reserved, segments }
    }
}

impl UpdateMetrics {
    /// True if the update is a point of the curves: every `interval` updates, at least twenty times an epoch, and at the first and last
    /// update of an epoch.
    pub fn is_point(&self, interval: u64) -> bool {
        let every = interval.min(self.updates_per_epoch / 20).max(1);
        [1, self.updates_per_epoch].contains(&self.update_of_epoch)
            || self.update_of_epoch.is_multiple_of(every)
    }

    /// The log line.
    pub fn line(&self) -> String {
        format!(
            "epoch {}/{}  batch {}/{}  loss {:.4}  {} images/s  lr {:.3e}  data {:.0}%  memory {}, peak {}, reserved {} in {} segments  \
             RSS {}",
            self.epoch,
            self.epochs.saturating_sub(1),
            self.batch,
            self.batches,
            self.loss,
            thousands(self.images_per_second.round() as u64),
            self.lr,
            100.0 * self.data_wait,
            bytes(self.memory.allocated as u64),
            bytes(self.memory.peak_allocated as u64),
            bytes(self.memory.reserved as u64),
            self.memory.segments,
            bytes(machine::resident_memory()),
        )
    }
}

impl EpochMetrics {
    /// The log line.
    pub fn line(&self, best: bool) -> String {
        format!(
            "epoch {}  loss {:.4}  validation loss {:.4}  top-1 {:.2}  top-5 {:.2}{}{}",
            self.epoch,
            self.train_loss,
            self.eval_loss,
            self.eval_top1,
            self.eval_top5,
            skipped_note(self.eval_skipped),
            if best { "  best" } else { "" }
        )
    }
}

/// Content of `summary.csv`, with timm's columns, numbers and line ends. With an EMA, columns for the model's own weights follow.
pub fn summary_csv(history: &[EpochMetrics]) -> String {
    let has_ema = history.iter().any(|row| row.model_eval_loss.is_some());
    let of_model = if has_ema { ",model_eval_loss,model_eval_top1,model_eval_top5" } else { "" };
    let mut text = format!("epoch,train_loss,eval_loss,eval_top1,eval_top5,lr{of_model}\r\n");
    for r in history {
        let columns = [r.train_loss, r.eval_loss, r.eval_top1, r.eval_top5, r.lr].map(python_repr);
        text.push_str(&format!("{},{}", r.epoch, columns.join(",")));
        if has_ema {
            for value in [r.model_eval_loss, r.model_eval_top1, r.model_eval_top5] {
                text.push_str(&format!(",{}", value.map_or(String::new(), python_repr)));
            }
        }
        text.push_str("\r\n");
    }
    text
}

/// A number as Python prints it: Rust writes 1e-05 as 1e-5 and 1e+16 as 1e16.
fn python_repr(value: f64) -> String {
    let text = format!("{value:?}");
    match text.split_once('e').map(|(digits, exponent)| (digits, exponent.parse::<i32>())) {
        Some((digits, Ok(exponent))) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => text,
    }
}

/// Formats `1234567` as `1,234,567`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a number of bytes with a binary unit, such as `1.5 KiB`.
pub fn bytes(n: u64) -> String {
    let (value, unit) = match n {
        0..1024 => return format!("{n} B"),
        1024..1_048_576 => (n as f64 / 1024.0, "KiB"),
        1_048_576..1_073_741_824 => (n as f64 / 1_048_576.0, "MiB"),
        _ => (n as f64 / 1_073_741_824.0, "GiB"),
    };
    if value < 10.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_bytes_are_formatted() {
        assert_eq!(
            (thousands(7), thousands(1000), thousands(1_234_567)),
            ("7".into(), "1,000".into(), "1,234,567".into())
        );
        assert_eq!(
            (bytes(512), bytes(1536), bytes(300 << 20)),
            ("512 B".into(), "1.5 KiB".into(), "300 MiB".into())
        );
    }

    #[test]
    fn points_are_at_both_ends_and_at_least_twenty_times_an_epoch() {
        let points = |updates_per_epoch: u64, interval: u64| -> Vec<u64> {
            let is_point = |update_of_epoch: &u64| {
                UpdateMetrics {
                    update_of_epoch: *update_of_epoch,
                    updates_per_epoch,
                    ..UpdateMetrics::default()
                }
                .is_point(interval)
            };
            (1..=updates_per_epoch).filter(is_point).collect()
        };
        assert_eq!(points(8, 50), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(points(1, 50), [1]);
        assert_eq!(points(100, 50), [&[1][..], &(1..=20).map(|i| 5 * i).collect::<Vec<_>>()].concat());
        assert_eq!(points(5000, 1000).len(), 21);
        assert_eq!(
            points(205, 100),
            [&[1][..], &(1..=20).map(|i| 10 * i).collect::<Vec<_>>(), &[205]].concat()
        );
        // A short interval stays.
        assert_eq!(points(1000, 2).len(), 501);
    }

    #[test]
    fn update_line_and_event_have_the_memory_of_the_device() {
        let memory =
            MemoryMetrics { allocated: 3 << 20, peak_allocated: 5 << 20, reserved: 20 << 20, segments: 2 };
        let metrics = UpdateMetrics {
            epoch: 0,
            epochs: 2,
            batch: 1,
            batches: 8,
            update: 1,
            update_of_epoch: 1,
            updates_per_epoch: 8,
            loss: 2.5,
            lr: 0.1,
            grad_norm: None,
            loss_scale: None,
            images_per_second: 1000.0,
            data_wait: 0.0,
            memory,
        };
        let line = metrics.line();
        assert!(line.contains("memory 3.0 MiB, peak 5.0 MiB, reserved 20 MiB in 2 segments"), "{line}");
        let event = progress::event("update", &metrics);
        assert_eq!(event["memory"]["peak_allocated"], 5 << 20);
        assert_eq!(event["memory"]["segments"], 2);
        assert!(MemoryMetrics::of(Device::Cpu).peak_allocated >= MemoryMetrics::of(Device::Cpu).allocated);
    }

    #[test]
    fn summary_csv_has_timm_columns() {
        let row = EpochMetrics {
            epoch: 0,
            train_loss: 1.5,
            eval_loss: 0.25,
            eval_top1: 90.0,
            eval_top5: 100.0,
            lr: 1e-5,
            ..EpochMetrics::default()
        };
        let expected = "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr\r\n0,1.5,0.25,90.0,100.0,1e-05\r\n";
        assert_eq!(summary_csv(std::slice::from_ref(&row)), expected);
        let with_ema = EpochMetrics {
            epoch: 1,
            model_eval_loss: Some(0.5),
            model_eval_top1: Some(80.0),
            model_eval_top5: Some(99.0),
            ..row.clone()
        };
        let text = summary_csv(&[row, with_ema]);
        let rows: Vec<&str> = text.lines().collect();
        assert!(rows[0].ends_with(",lr,model_eval_loss,model_eval_top1,model_eval_top5"), "{text}");
        assert!(rows[1].ends_with("1e-05,,,") && rows[2].ends_with("1e-05,0.5,80.0,99.0"), "{text}");
        let printed = [5.25e-7, 1e16, 1e22, -1e-100, 0.0001, 123456.0].map(python_repr);
        assert_eq!(printed, ["5.25e-07", "1e+16", "1e+22", "-1e-100", "0.0001", "123456.0"]);
    }
}
