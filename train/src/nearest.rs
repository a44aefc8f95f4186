//! "Did you mean" suggestions for mistyped names.

/// The candidate with the smallest edit distance to `name`, if at most a third of the longer name differs.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let distance = |candidate: &str| strsim::damerau_levenshtein(&name, &candidate.to_lowercase());
    let is_near = |(distance, candidate): &(usize, &str)| {
        3 * distance <= name.chars().count().max(candidate.chars().count())
    };
    let near = candidates.into_iter().map(|candidate| (distance(candidate), candidate)).filter(is_near);
    near.min_by_key(|(distance, _)| *distance).map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn similar_names_are_found_and_others_are_not() {
        let names = ["epochs", "batch_size", "lr", "dataset"];
        assert_eq!(nearest("epoch", names), Some("epochs"));
        assert_eq!(nearest("bach_size", names), Some("batch_size"));
        assert_eq!(nearest("BatchSize", names), Some("batch_size"));
        for unlike in ["zzz", "color_jitter", "aa", "rl_", ""] {
            assert_eq!(nearest(unlike, names), None, "{unlike}");
        }
    }
}
