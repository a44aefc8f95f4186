//! Structural problems of a dataset, reported together.
use crate::Error;
use std::path::Path;

/// Number of problems that an error lists.
const SHOWN: usize = 100;

/// One error for all problems of the dataset at `root`; a single one is reported as it is. Panics if there are none.
pub fn report(mut problems: Vec<Error>, root: &Path) -> Error {
    if problems.len() == 1 {
        return problems.remove(0);
    }
    let lines: Vec<String> = problems.iter().flat_map(lines).collect();
    let mut remedies: Vec<&str> = vec![];
    for remedy in problems.iter().filter_map(Error::help).flat_map(str::lines) {
        if !remedies.contains(&remedy) {
            remedies.push(remedy);
        }
    }
    let mut shown = lines.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n");
    if lines.len() > SHOWN {
        shown += &format!("\nand {} more", lines.len() - SHOWN);
    }
    Error::data(format!("{COUNT}{} problems", lines.len()))
        .at_path(root)
        .because(shown)
        .remedy(remedies.join("\n"))
}

/// Beginning of the message of several problems.
const COUNT: &str = "the dataset has ";

/// A line for a problem, or the lines of a report of several.
fn lines(problem: &Error) -> Vec<String> {
    match problem.why() {
        Some(why) if problem.what().starts_with(COUNT) && problem.what().ends_with(" problems") => {
            why.lines().map(String::from).collect()
        }
        why => {
            let parts = [Some(problem.what()), problem.location(), why];
            vec![parts.into_iter().flatten().collect::<Vec<_>>().join(": ").replace('\n', " ")]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_of_two_reports_are_one_list() {
        let problem = |name: &str| {
            Error::data("a class has no images").at(name).because("it is empty").remedy("remove the folder")
        };
        let root = Path::new("set");
        assert_eq!(report(vec![problem("a")], root).what(), "a class has no images");
        let train = report(vec![problem("a"), problem("b")], root);
        let both = report(vec![train, problem("c")], root);
        assert_eq!(both.what(), "the dataset has 3 problems");
        assert_eq!(
            both.why().expect("a list"),
            "a class has no images: a: it is empty\na class has no images: b: it is empty\na class has no images: c: it is empty"
        );
        assert_eq!(both.help(), Some("remove the folder"));
    }
}
