//! Protocol Buffers encoding of a message, field by field, and decoding of its top level.

/// Encoded message under construction. Fields are written in the order of the calls; zeros and empty values are written too.
#[derive(Clone, Debug, Default)]
pub struct ProtoMessage(Vec<u8>);

/// Value of a decoded field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FieldValue<'a> {
    /// Integer, Boolean or enumeration.
    Varint(u64),
    /// 64-bit value, such as a double.
    Fixed64(u64),
    /// 32-bit value, such as a float.
    Fixed32(u32),
    /// String, bytes, message or packed values.
    Bytes(&'a [u8]),
}

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

impl ProtoMessage {
    /// An empty message.
    pub fn new() -> ProtoMessage {
        ProtoMessage::default()
    }

    /// Adds an integer, Boolean or enumeration field.
    pub fn int(mut self, field: u64, value: u64) -> ProtoMessage {
        self.key(field, VARINT);
        self.varint(value);
        self
    }

    /// Adds a double field.
    pub fn double(mut self, field: u64, value: f64) -> ProtoMessage {
        self.key(field, FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Adds a float field.
    pub fn float(mut self, field: u64, value: f32) -> ProtoMessage {
        self.key(field, FIXED32);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Adds a string or bytes field.
    pub fn bytes(mut self, field: u64, value: impl AsRef<[u8]>) -> ProtoMessage {
        let value = value.as_ref();
        self.key(field, BYTES);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// Adds a message field.
    pub fn message(self, field: u64, value: ProtoMessage) -> ProtoMessage {
        self.bytes(field, value.0)
    }

    /// Adds a packed repeated double field.
    pub fn doubles(self, field: u64, values: &[f64]) -> ProtoMessage {
        self.bytes(field, values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
    }

    /// The encoded message.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.varint(field << 3 | wire_type);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// The fields of an encoded message with their numbers; ends at the first damaged one.
pub fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, FieldValue<'_>)> {
    std::iter::from_fn(move || {
        let key = take_varint(&mut message)?;
        let value = match key & 7 {
            VARINT => FieldValue::Varint(take_varint(&mut message)?),
            FIXED64 => FieldValue::Fixed64(u64::from_le_bytes(*take::<8>(&mut message)?)),
            FIXED32 => FieldValue::Fixed32(u32::from_le_bytes(*take::<4>(&mut message)?)),
            BYTES => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                let (bytes, rest) = message.split_at_checked(length)?;
                message = rest;
                FieldValue::Bytes(bytes)
            }
            _ => return None,
        };
        Some((key >> 3, value))
    })
}

fn take<'a, const N: usize>(message: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, rest) = message.split_first_chunk::<N>()?;
    *message = rest;
    Some(taken)
}

fn take_varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let [byte] = *take::<1>(message)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_the_encoding_of_the_specification() {
        // The examples of the Protocol Buffers documentation: field 1 = 150, field 2 = "testing".
        assert_eq!(ProtoMessage::new().int(1, 150).into_bytes(), [0x08, 0x96, 0x01]);
        assert_eq!(ProtoMessage::new().bytes(2, "testing").into_bytes(), *b"\x12\x07testing");
        assert_eq!(
            ProtoMessage::new().message(3, ProtoMessage::new().int(1, 150)).into_bytes(),
            [0x1a, 0x03, 0x08, 0x96, 0x01]
        );
    }

    #[test]
    fn decoded_fields_equal_the_encoded_ones() {
        let message = ProtoMessage::new().int(1, u64::MAX).double(2, 0.5).float(100, -1.0).doubles(3, &[1.0]);
        let encoded = message.into_bytes();
        let expected = [
            (1, FieldValue::Varint(u64::MAX)),
            (2, FieldValue::Fixed64(0.5f64.to_bits())),
            (100, FieldValue::Fixed32((-1.0f32).to_bits())),
            (3, FieldValue::Bytes(&1.0f64.to_le_bytes())),
        ];
        assert_eq!(fields(&encoded).collect::<Vec<_>>(), expected);
        assert_eq!(fields(&encoded[..encoded.len() - 1]).count(), 3);
        assert_eq!(fields(&[0x80]).count(), 0);
    }
}
