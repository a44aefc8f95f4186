//! Class names of ImageNet-1k, in the order of the logits of published weights.

const NAMES: &str = include_str!("../../assets/imagenet1k_classes.txt");

/// The 1,000 class names.
pub fn class_names() -> impl Iterator<Item = &'static str> {
    NAMES.lines()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_a_thousand_different_ones_in_order() {
        let names: Vec<&str> = class_names().collect();
        assert_eq!(
            (names.len(), names[0], names[1], names[281], names[999]),
            (1000, "tench", "goldfish", "tabby", "toilet tissue")
        );
        let different: std::collections::HashSet<&str> = names.iter().copied().collect();
        assert_eq!(different.len(), 1000);
    }
}
