//! Seeds of several runs: `--seeds`.
use std::fmt;
use std::str::FromStr;

/// Most seeds of one command.
const MAX: usize = 1000;

/// Different seeds, in the order of their runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeds(Vec<u64>);

impl Seeds {
    /// The seeds, at least one.
    pub fn list(&self) -> &[u64] {
        &self.0
    }
}

impl FromStr for Seeds {
    type Err = String;

    /// Parses numbers and ranges separated by commas. The end is part of `0-2`, but not of `0..3`: both are 0, 1 and 2.
    fn from_str(text: &str) -> Result<Seeds, String> {
        let expected = || "expected seeds such as 1,2,3, 0-2 or 0..3".to_string();
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| expected());
        let mut seeds: Vec<u64> = vec![];
        for part in text.split(',') {
            let after = |seed: u64| seed.checked_add(1).ok_or_else(expected);
            let range = match (part.split_once(".."), part.split_once('-')) {
                (Some((start, end)), _) => number(start)?..number(end)?,
                (None, Some((start, end))) => number(start)?..after(number(end)?)?,
                (None, None) => number(part)?..after(number(part)?)?,
            };
            if range.is_empty() {
                let excluded = if part.contains("..") { "; its end is not part of it" } else { "" };
                return Err(format!("{part} is an empty range{excluded}"));
            }
            if range.end - range.start > (MAX - seeds.len()) as u64 {
                return Err(format!("more than {MAX} seeds"));
            }
            if let Some(twice) = range.clone().find(|seed| seeds.contains(seed)) {
                return Err(format!("the seed {twice} is given twice"));
            }
            seeds.extend(range);
        }
        Ok(Seeds(seeds))
    }
}

impl fmt::Display for Seeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seeds: Vec<String> = self.0.iter().map(u64::to_string).collect();
        f.write_str(&seeds.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_are_parsed() {
        let list = |text: &str| text.parse::<Seeds>().map(|seeds| seeds.list().to_vec());
        assert_eq!(list("3"), Ok(vec![3]));
        assert_eq!(list("1, 2,3"), Ok(vec![1, 2, 3]));
        assert_eq!(list("0..3,7"), Ok(vec![0, 1, 2, 7]));
        assert_eq!(list("0-2,7"), Ok(vec![0, 1, 2, 7]));
        assert_eq!("0..3".parse::<Seeds>().map(|seeds| seeds.to_string()), Ok("0,1,2".into()));
        for text in [
            "",
            "1,",
            "a",
            "-1",
            "3..3",
            "3-2",
            "0..1001",
            "1,0..2",
            "0..99999999999999999",
            "1..=3",
            "18446744073709551615",
        ] {
            assert!(list(text).is_err(), "{text}");
        }
    }
}
