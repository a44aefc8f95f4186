//! "Did you mean" suggestions for mistyped names.

/// The candidate most similar to `name` (Jaro-Winkler similarity above 0.75), if any.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let similarity = |candidate: &str| strsim::jaro_winkler(name, candidate);
    let near =
        candidates.into_iter().map(|c| (similarity(c), c)).filter(|(similarity, _)| *similarity > 0.75);
    near.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn similar_names_are_found_and_others_are_not() {
        let names = ["epochs", "batch_size", "lr"];
        assert_eq!(nearest("epoch", names), Some("epochs"));
        assert_eq!(nearest("bach_size", names), Some("batch_size"));
        assert_eq!(nearest("zzz", names), None);
    }
}
