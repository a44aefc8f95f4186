//! Text from names of files and classes, made safe for terminals and spreadsheets.
use std::borrow::Cow;

/// The text with control characters escaped, so that a name can neither move the cursor of a terminal nor break a table: `\u{1b}`, `\n`.
pub fn escape_control(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match is_unsafe(character) {
            true => escaped.extend(character.escape_default()),
            false => escaped.push(character),
        }
    }
    Cow::Owned(escaped)
}

/// Control characters, and characters that change the direction of the text around them.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with control characters escaped, except for line breaks: for messages of several lines.
pub fn escape_control_in_lines(text: &str) -> Cow<'_, str> {
    match text.contains(|character| character != '\n' && is_unsafe(character)) {
        false => Cow::Borrowed(text),
        true => Cow::Owned(text.split('\n').map(escape_control).collect::<Vec<_>>().join("\n")),
    }
}

/// A CSV cell: control characters are escaped, a text that a spreadsheet would take for a formula begins with `'`, and the cell is quoted
/// if needed. Numbers stay numbers.
pub fn csv_cell(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err();
    let text = escape_control(text);
    let prefix = if is_formula { "'" } else { "" };
    match text.contains([',', '"']) {
        true => format!("\"{prefix}{}\"", text.replace('"', "\"\"")),
        false => format!("{prefix}{text}"),
    }
}

/// At most ten names, with the number of the others.
pub fn first_names(names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let names: Vec<String> =
        names.into_iter().map(|name| escape_control(name.as_ref()).into_owned()).collect();
    let shown = names.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(10) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_other_text_is_unchanged() {
        assert_eq!(escape_control("\u{1b}[31mred\u{7}\n"), "\\u{1b}[31mred\\u{7}\\n");
        assert_eq!(escape_control("ab\u{202e}c"), "ab\\u{202e}c");
        assert!(matches!(escape_control("猫 é a/b"), Cow::Borrowed("猫 é a/b")));
        assert_eq!(escape_control_in_lines("a\nb\u{1b}"), "a\nb\\u{1b}");
    }

    #[test]
    fn csv_cells_are_quoted_and_are_no_formulas() {
        for (text, cell) in [
            ("cat", "cat"),
            ("a,b", "\"a,b\""),
            ("the \"dog\"", "\"the \"\"dog\"\"\""),
            ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
            ("=1,2", "\"'=1,2\""),
            ("@sum", "'@sum"),
            ("-x", "'-x"),
            ("-1.5", "-1.5"),
            ("+7", "+7"),
            ("\t=1", "'\\t=1"),
            ("a\r\nb", "a\\r\\nb"),
        ] {
            assert_eq!(csv_cell(text), cell, "{text:?}");
        }
    }

    #[test]
    fn long_lists_are_cut_and_counted() {
        let names: Vec<String> = (0..13).map(|i| i.to_string()).collect();
        assert_eq!(first_names(&names), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 3 more");
        assert_eq!(first_names(["a\u{1b}", "b"]), "a\\u{1b}, b");
    }
}
