//! TensorBoard's messages: events and the values of their summaries, in the form that PyTorch's `SummaryWriter` writes.
use super::protobuf::{FieldValue, ProtoMessage, fields};

/// One tagged value of a summary.
#[derive(Clone, Debug)]
pub struct SummaryValue(ProtoMessage);

/// Hyper-parameter of the hparams plugin.
#[derive(Clone, Debug, PartialEq)]
pub enum HyperParameter {
    /// Number.
    Number(f64),
    /// Boolean.
    Bool(bool),
    /// Text.
    Text(String),
}

/// Outcome of a session of the hparams plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionStatus {
    /// The run reached its last epoch.
    Success = 1,
    /// The run ended with an error.
    Failure = 2,
}

const DT_FLOAT: u64 = 1;
const DT_STRING: u64 = 7;

impl SummaryValue {
    /// A scalar.
    pub fn scalar(tag: &str, value: f64) -> SummaryValue {
        SummaryValue(ProtoMessage::new().bytes(1, tag).float(2, value as f32))
    }

    /// An image from the bytes of an 8-bit grey or RGB PNG file; `None` if they are no PNG file.
    pub fn png(tag: &str, file: &[u8]) -> Option<SummaryValue> {
        let info = png::Decoder::new(std::io::Cursor::new(file)).read_info().ok()?.info().clone();
        let (height, width) = (u64::from(info.height), u64::from(info.width));
        let colour_space = info.color_type.samples() as u64;
        let image = ProtoMessage::new().int(1, height).int(2, width).int(3, colour_space).bytes(4, file);
        Some(SummaryValue(ProtoMessage::new().bytes(1, tag).message(4, image)))
    }

    /// A histogram of the finite values; `None` if there are none.
    pub fn histogram(tag: &str, values: &[f32]) -> Option<SummaryValue> {
        let histogram = Histogram::of(values)?;
        let message = ProtoMessage::new()
            .double(1, histogram.min)
            .double(2, histogram.max)
            .double(3, histogram.counts.iter().sum())
            .double(4, histogram.sum)
            .double(5, histogram.sum_squares)
            .doubles(6, &histogram.limits)
            .doubles(7, &histogram.counts);
        Some(SummaryValue(ProtoMessage::new().bytes(1, tag).message(5, message)))
    }

    /// Markdown text.
    pub fn text(tag: &str, text: &str) -> SummaryValue {
        let shape = ProtoMessage::new().message(2, ProtoMessage::new().int(1, 1));
        let tensor = ProtoMessage::new().int(1, DT_STRING).message(2, shape).bytes(8, text);
        SummaryValue(
            ProtoMessage::new()
                .bytes(1, tag)
                .message(8, tensor)
                .message(9, metadata("text", ProtoMessage::new())),
        )
    }

    /// Start of a session of the hparams plugin, with the hyper-parameters of the run.
    pub fn session_start(hparams: &[(String, HyperParameter)], seconds: f64) -> SummaryValue {
        let entry = |(name, value): &(String, HyperParameter)| {
            let value = match value {
                HyperParameter::Number(number) => ProtoMessage::new().double(2, *number),
                HyperParameter::Bool(flag) => ProtoMessage::new().int(4, u64::from(*flag)),
                HyperParameter::Text(text) => ProtoMessage::new().bytes(3, text),
            };
            ProtoMessage::new().bytes(1, name).message(2, value)
        };
        let start = hparams.iter().map(entry).fold(ProtoMessage::new(), |info, entry| info.message(1, entry));
        hparams_value("_hparams_/session_start_info", 3, start.double(5, seconds))
    }

    /// Columns of the hparams plugin: hyper-parameters, and the scalar tags that measure a run.
    pub fn experiment(hparams: &[(String, HyperParameter)], metrics: &[&str], seconds: f64) -> SummaryValue {
        let mut experiment = ProtoMessage::new().double(3, seconds);
        for (name, value) in hparams {
            let data_type = match value {
                HyperParameter::Text(_) => 1,
                HyperParameter::Bool(_) => 2,
                HyperParameter::Number(_) => 3,
            };
            experiment = experiment.message(4, ProtoMessage::new().bytes(1, name).int(4, data_type));
        }
        for tag in metrics {
            let name = ProtoMessage::new().bytes(2, tag);
            experiment = experiment.message(5, ProtoMessage::new().message(1, name));
        }
        hparams_value("_hparams_/experiment", 2, experiment)
    }

    /// End of a session of the hparams plugin.
    pub fn session_end(status: SessionStatus, seconds: f64) -> SummaryValue {
        let end = ProtoMessage::new().int(1, status as u64).double(2, seconds);
        hparams_value("_hparams_/session_end_info", 4, end)
    }
}

/// The first event of a file, which has its version.
pub fn version_event(seconds: f64) -> Vec<u8> {
    ProtoMessage::new().double(1, seconds).bytes(3, "brain.Event:2").into_bytes()
}

/// An event with the values of a step.
pub fn summary_event(seconds: f64, step: u64, values: Vec<SummaryValue>) -> Vec<u8> {
    let summary = values.into_iter().fold(ProtoMessage::new(), |summary, value| summary.message(1, value.0));
    ProtoMessage::new().double(1, seconds).int(2, step).message(5, summary).into_bytes()
}

/// Step of an encoded event; 0 for events without one.
pub fn step_of(event: &[u8]) -> u64 {
    let step = fields(event).find_map(|field| match field {
        (2, FieldValue::Varint(step)) => Some(step),
        _ => None,
    });
    step.unwrap_or(0)
}

/// A value without data; its metadata has `content` as field `field` of the plugin's message.
fn hparams_value(tag: &str, field: u64, content: ProtoMessage) -> SummaryValue {
    let null = ProtoMessage::new()
        .int(1, DT_FLOAT)
        .message(2, ProtoMessage::new().message(2, ProtoMessage::new().int(1, 0)));
    let content = ProtoMessage::new().int(1, 0).message(field, content);
    SummaryValue(ProtoMessage::new().bytes(1, tag).message(8, null).message(9, metadata("hparams", content)))
}

/// Metadata of a value: the plugin that displays it, and the plugin's own message.
fn metadata(plugin: &str, content: ProtoMessage) -> ProtoMessage {
    ProtoMessage::new().message(1, ProtoMessage::new().bytes(1, plugin).bytes(2, content.into_bytes()))
}

/// Counts of values in buckets of equal width.
struct Histogram {
    min: f64,
    max: f64,
    sum: f64,
    sum_squares: f64,
    /// Upper limit of each bucket.
    limits: Vec<f64>,
    counts: Vec<f64>,
}

const BUCKETS: usize = 30;

impl Histogram {
    fn of(values: &[f32]) -> Option<Histogram> {
        let finite = || values.iter().filter(|value| value.is_finite()).map(|value| f64::from(*value));
        let (min, max) = (finite().reduce(f64::min)?, finite().reduce(f64::max)?);
        let width = if max > min { (max - min) / BUCKETS as f64 } else { 1.0 };
        let mut counts = vec![0.0; BUCKETS];
        let (mut sum, mut sum_squares) = (0.0, 0.0);
        for value in finite() {
            counts[(((value - min) / width) as usize).min(BUCKETS - 1)] += 1.0;
            sum += value;
            sum_squares += value * value;
        }
        let limits = (1..=BUCKETS).map(|i| min + width * i as f64).collect();
        Some(Histogram { min, max, sum, sum_squares, limits, counts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Image;
    use crate::data::export::png_bytes;

    /// The value of a field of an encoded message.
    fn field(message: &[u8], number: u64) -> FieldValue<'_> {
        fields(message).find(|field| field.0 == number).expect("the field is present").1
    }

    fn bytes(message: &[u8], number: u64) -> &[u8] {
        match field(message, number) {
            FieldValue::Bytes(bytes) => bytes,
            other => panic!("field {number} is {other:?}"),
        }
    }

    #[test]
    fn event_has_time_step_and_value() {
        let event = summary_event(1.5, 300, vec![SummaryValue::scalar("train/loss", 0.25)]);
        assert_eq!(field(&event, 1), FieldValue::Fixed64(1.5f64.to_bits()));
        assert_eq!(step_of(&event), 300);
        let value = bytes(bytes(&event, 5), 1);
        assert_eq!(bytes(value, 1), b"train/loss");
        assert_eq!(field(value, 2), FieldValue::Fixed32(0.25f32.to_bits()));
        assert_eq!(bytes(&version_event(0.0), 3), b"brain.Event:2");
        assert_eq!(step_of(&version_event(0.0)), 0);
    }

    #[test]
    fn image_has_its_size_and_its_file() {
        let file = png_bytes(&Image { size: [2, 3, 1], pixels: vec![7; 6] });
        let value = SummaryValue::png("a", &file).expect("a PNG file").0.into_bytes();
        let message = bytes(&value, 4);
        let extents = [1, 2, 3].map(|number| field(message, number));
        assert_eq!(extents, [2, 3, 1].map(FieldValue::Varint));
        assert_eq!(bytes(message, 4), file);
        assert!(SummaryValue::png("a", b"no image").is_none());
    }

    #[test]
    fn histogram_counts_every_finite_value() {
        let histogram = Histogram::of(&[-1.0, 0.0, 2.0, f32::NAN, 2.0]).expect("finite values");
        assert_eq!(
            (histogram.min, histogram.max, histogram.sum, histogram.sum_squares),
            (-1.0, 2.0, 3.0, 9.0)
        );
        assert_eq!((histogram.counts[0], histogram.counts[10], histogram.counts[29]), (1.0, 1.0, 2.0));
        assert_eq!(histogram.counts.iter().sum::<f64>(), 4.0);
        assert_eq!(histogram.limits.len(), 30);
        assert!((histogram.limits[29] - 2.0).abs() < 1e-12);
        let constant = Histogram::of(&[3.0, 3.0]).expect("finite values");
        assert_eq!((constant.counts[0], constant.limits[0]), (2.0, 4.0));
        assert!(Histogram::of(&[f32::INFINITY]).is_none());
    }

    #[test]
    fn hyper_parameters_are_typed() {
        let hparams = [
            ("lr".to_string(), HyperParameter::Number(0.1)),
            ("opt".to_string(), HyperParameter::Text("sgd".into())),
            ("amp".to_string(), HyperParameter::Bool(true)),
        ];
        let value = SummaryValue::session_start(&hparams, 5.0).0.into_bytes();
        let plugin = bytes(bytes(&value, 9), 1);
        assert_eq!(bytes(plugin, 1), b"hparams");
        let start = bytes(bytes(plugin, 2), 3);
        let entries: Vec<&[u8]> = fields(start)
            .filter_map(|field| match field {
                (1, FieldValue::Bytes(entry)) => Some(entry),
                _ => None,
            })
            .collect();
        assert_eq!(
            entries.iter().map(|entry| bytes(entry, 1)).collect::<Vec<_>>(),
            [&b"lr"[..], b"opt", b"amp"]
        );
        assert_eq!(field(bytes(entries[0], 2), 2), FieldValue::Fixed64(0.1f64.to_bits()));
        assert_eq!(bytes(bytes(entries[1], 2), 3), b"sgd");
        assert_eq!(field(bytes(entries[2], 2), 4), FieldValue::Varint(1));
    }
}
