//! Reductions over the ranks in the order of ranks, and elements as bytes.
use fornax_engine::dtype::{bf16, f16};
use fornax_engine::{Element, Reduction};

/// Element that can be sent and reduced.
pub trait RankElement: Element + PartialOrd {
    /// Type of sums: f32 for half precision.
    type Sum: Copy;
    /// Widens to the type of sums.
    fn widen(self) -> Self::Sum;
    /// Adds.
    fn add(a: Self::Sum, b: Self::Sum) -> Self::Sum;
    /// Rounds a sum divided by a number of ranks.
    fn narrow(sum: Self::Sum, ranks: usize) -> Self;
    /// True for a value that is not a number.
    fn is_nan(self) -> bool;
    /// Appends elements, little-endian.
    fn append(elements: &[Self], bytes: &mut Vec<u8>);
    /// Elements of bytes.
    fn parse(bytes: &[u8]) -> Vec<Self>;
}

macro_rules! rank_element {
    ($t:ty, $sum:ty, $widen:expr, $narrow:expr, $is_nan:expr, $add:expr) => {
        impl RankElement for $t {
            type Sum = $sum;
            fn widen(self) -> $sum {
                $widen(self)
            }
            fn add(a: $sum, b: $sum) -> $sum {
                $add(a, b)
            }
            fn narrow(sum: $sum, ranks: usize) -> $t {
                $narrow(sum, ranks)
            }
            fn is_nan(self) -> bool {
                $is_nan(self)
            }
            fn append(elements: &[$t], bytes: &mut Vec<u8>) {
                let start = bytes.len();
                bytes.resize(start + size_of_val(elements), 0);
                let chunks = bytes[start..].as_chunks_mut().0;
                chunks.iter_mut().zip(elements).for_each(|(chunk, element)| *chunk = element.to_le_bytes());
            }
            fn parse(bytes: &[u8]) -> Vec<$t> {
                bytes.as_chunks().0.iter().map(|chunk| <$t>::from_le_bytes(*chunk)).collect()
            }
        }
    };
}
rank_element!(f32, f32, |v| v, |sum, ranks| sum / ranks as f32, f32::is_nan, |a: f32, b: f32| a + b);
rank_element!(f64, f64, |v| v, |sum, ranks| sum / ranks as f64, f64::is_nan, |a: f64, b: f64| a + b);
rank_element!(
    f16,
    f32,
    f16::to_f32,
    |sum, ranks| f16::from_f32(sum / ranks as f32),
    f16::is_nan,
    |a: f32, b: f32| a + b
);
rank_element!(
    bf16,
    f32,
    bf16::to_f32,
    |sum, ranks| bf16::from_f32(sum / ranks as f32),
    bf16::is_nan,
    |a: f32, b: f32| a + b
);
rank_element!(i64, i64, |v| v, |sum: i64, ranks| sum / ranks as i64, |_| false, i64::wrapping_add);
rank_element!(
    u8,
    u8,
    |v| v,
    |sum: u8, ranks: usize| (usize::from(sum) / ranks) as u8,
    |_| false,
    u8::wrapping_add
);

/// The reduction of the ranks' elements, in the order of ranks. The maximum with a value that is not a number is not a number.
pub fn reduce<T: RankElement>(inputs: &[Vec<T>], reduction: Reduction) -> Vec<T> {
    let (first, rest) = inputs.split_first().expect("a group has ranks");
    if reduction == Reduction::Max {
        let mut max = first.clone();
        for input in rest {
            let larger = |(max, value): (&mut T, &T)| {
                if !max.is_nan() && (value.is_nan() || *value > *max) {
                    *max = *value;
                }
            };
            max.iter_mut().zip(input).for_each(larger);
        }
        return max;
    }
    let divisor = if reduction == Reduction::Mean { inputs.len() } else { 1 };
    let mut sums: Vec<T::Sum> = first.iter().map(|value| value.widen()).collect();
    for input in rest {
        sums.iter_mut().zip(input).for_each(|(sum, value)| *sum = T::add(*sum, value.widen()));
    }
    sums.into_iter().map(|sum| T::narrow(sum, divisor)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_reduced_in_the_order_of_ranks() {
        let inputs = [vec![1e8f32, 1.0], vec![1.0, 2.0], vec![-1e8, 6.0]];
        // 1e8 + 1 rounds to 1e8.
        assert_eq!(reduce(&inputs, Reduction::Sum), [0.0, 9.0]);
        assert_eq!(reduce(&inputs, Reduction::Mean), [0.0, 3.0]);
        assert_eq!(reduce(&inputs, Reduction::Max), [1e8, 6.0]);
        assert_eq!(reduce(&[vec![3i64], vec![5]], Reduction::Sum), [8]);
    }

    #[test]
    fn half_precision_is_rounded_once() {
        let inputs: Vec<Vec<bf16>> = (0..4).map(|_| vec![bf16::from_f32(1.0 + 1.0 / 128.0)]).collect();
        assert_eq!(reduce(&inputs, Reduction::Sum)[0], bf16::from_f32(4.0 + 4.0 / 128.0));
    }

    #[test]
    fn nan_of_any_rank_is_kept() {
        for at in 0..3 {
            let inputs: Vec<Vec<f32>> =
                (0..3).map(|r| vec![if r == at { f32::NAN } else { r as f32 }]).collect();
            for reduction in [Reduction::Sum, Reduction::Mean, Reduction::Max] {
                assert!(reduce(&inputs, reduction)[0].is_nan(), "{at} {reduction:?}");
            }
        }
    }

    #[test]
    fn bytes_are_parsed_as_appended() {
        let mut bytes = vec![];
        f16::append(&[f16::from_f32(1.5), f16::NEG_INFINITY], &mut bytes);
        assert_eq!(f16::parse(&bytes), [f16::from_f32(1.5), f16::NEG_INFINITY]);
    }
}
