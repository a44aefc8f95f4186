//! Natural sort order of names: runs of digits compare as numbers, case is ignored.
use std::cmp::Ordering;

/// Compares two names in natural order.
pub fn compare(a: &str, b: &str) -> Ordering {
    // Names that differ only in case or leading zeros still have a total order.
    let order = match a.is_ascii() && b.is_ascii() {
        true => compare_ascii(a.as_bytes(), b.as_bytes()),
        false => compare_runs(&a.to_lowercase(), &b.to_lowercase()),
    };
    order.then_with(|| a.cmp(b))
}

/// Comparison without allocations.
fn compare_ascii(mut a: &[u8], mut b: &[u8]) -> Ordering {
    // A name that begins with a digit comes first, as an empty text precedes its number.
    let digit = |text: &[u8]| text.first().is_some_and(u8::is_ascii_digit);
    if digit(a) != digit(b) && !a.is_empty() && !b.is_empty() {
        return digit(b).cmp(&digit(a));
    }
    loop {
        match (a.first(), b.first()) {
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let ((run_a, after_a), (run_b, after_b)) = (digits(a), digits(b));
                let order = by_value(run_a, run_b);
                if order.is_ne() {
                    return order;
                }
                (a, b) = (after_a, after_b);
            }
            // A run of letters ends where its digits begin: the shorter run comes first.
            (Some(x), Some(y)) if x.is_ascii_digit() != y.is_ascii_digit() => {
                return y.is_ascii_digit().cmp(&x.is_ascii_digit());
            }
            (Some(x), Some(y)) => {
                let order = x.to_ascii_lowercase().cmp(&y.to_ascii_lowercase());
                if order.is_ne() {
                    return order;
                }
                (a, b) = (&a[1..], &b[1..]);
            }
            (x, y) => return x.is_some().cmp(&y.is_some()),
        }
    }
}

/// Comparison of lowercase names.
fn compare_runs(mut a: &str, mut b: &str) -> Ordering {
    while !a.is_empty() && !b.is_empty() {
        let ((run_a, after_a), (run_b, after_b)) = (run(a), run(b));
        let order = match (is_number(run_a), is_number(run_b)) {
            (true, true) => by_value(run_a.as_bytes(), run_b.as_bytes()),
            (false, false) => run_a.cmp(run_b),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        };
        if order.is_ne() {
            return order;
        }
        (a, b) = (after_a, after_b);
    }
    (!a.is_empty()).cmp(&!b.is_empty())
}

/// Splits ASCII text after its leading digits.
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(|c| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// Splits a text after its leading run of digits or of non-digits.
fn run(text: &str) -> (&str, &str) {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    text.split_at(text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len()))
}

fn is_number(run: &str) -> bool {
    run.starts_with(|c: char| c.is_ascii_digit())
}

fn by_value(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while let [b'0', rest @ ..] = a {
        a = rest;
    }
    while let [b'0', rest @ ..] = b {
        b = rest;
    }
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_digits_compare_as_numbers() {
        let mut names =
            ["b", "a10", "a9", "A1", "a01b", "a1a", "10", "9", "a", "99999999999999999999999", "a 2"];
        names.sort_by(|a, b| compare(a, b));
        assert_eq!(
            names,
            ["9", "10", "99999999999999999999999", "a", "A1", "a1a", "a01b", "a9", "a10", "a 2", "b"]
        );
    }

    #[test]
    fn ascii_and_unicode_names_compare_alike() {
        let names = [
            "", "a", "A1", "a01", "a1b", "9", "10x", " 1", "-", "a.png", "a1.png", "ab", "a/b", "a-b/c",
            "00", "0",
        ];
        for a in names {
            for b in names {
                assert_eq!(
                    compare_ascii(a.as_bytes(), b.as_bytes()),
                    compare_runs(&a.to_lowercase(), &b.to_lowercase()),
                    "{a} {b}"
                );
            }
        }
        assert_eq!(compare("9", " a"), Ordering::Less, "numbers first");
        assert_eq!(compare("É1", "é2"), Ordering::Less);
    }
}
