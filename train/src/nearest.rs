//! What a mistyped name was meant to be.

/// The candidate that is nearest to `name`, if any is near.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |candidate: &str| strsim::jaro_winkler(name, candidate);
    let near = candidates.into_iter().map(|c| (likeness(c), c)).filter(|(likeness, _)| *likeness > 0.75);
    near.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn it_finds_the_near_and_not_the_far() {
        let names = ["epochs", "batch_size", "lr"];
        assert_eq!(nearest("epoch", names), Some("epochs"));
        assert_eq!(nearest("bach_size", names), Some("batch_size"));
        assert_eq!(nearest("zzz", names), None);
    }
}
