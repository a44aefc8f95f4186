//! Lines on stderr, and counted nouns in messages.
use crate::report::thousands;

/// As `eprintln!`, without a panic if stderr is closed or full: a message must not end a run.
macro_rules! message {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        writeln!(std::io::stderr().lock(), $($argument)*).ok();
    }};
}

/// A number with its noun, given in the singular: `1 image`, `2,000 images`, `0 classes`.
pub fn count(number: u64, noun: &str) -> String {
    let ending = match noun.ends_with("ss") || noun.ends_with("tch") {
        _ if number == 1 => "",
        true => "es",
        false => "s",
    };
    format!("{} {noun}{ending}", thousands(number))
}

/// Verb of a counted noun.
pub fn is_or_are(number: u64) -> &'static str {
    if number == 1 { "is" } else { "are" }
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn noun_is_plural_unless_the_number_is_1() {
        let all = [
            (0, "image"),
            (1, "class"),
            (2, "class"),
            (1, "batch"),
            (3, "batch"),
            (2, "epoch"),
            (2000, "training image"),
        ];
        let texts = all.map(|(number, noun)| count(number, noun));
        assert_eq!(
            texts,
            ["0 images", "1 class", "2 classes", "1 batch", "3 batches", "2 epochs", "2,000 training images"]
        );
    }
}
