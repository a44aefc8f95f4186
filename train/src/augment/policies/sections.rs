//! Configuration strings of policies: a name, and sections `key` + value, separated by dashes.

/// Configuration string, divided into sections.
pub(super) struct Sections<'a> {
    /// Name before the first dash.
    pub name: &'a str,
    sections: Vec<(&'a str, &'a str)>,
}

impl<'a> Sections<'a> {
    /// Divides a configuration whose sections have these keys. The value begins at the first digit; the value of `t`, a name, after it.
    pub fn read(text: &'a str, keys: &[&str]) -> Result<Sections<'a>, String> {
        let mut parts = text.split('-');
        let name = parts.next().unwrap_or_default();
        let mut sections: Vec<(&str, &str)> = vec![];
        for part in parts {
            let digit = part.find(|c: char| c.is_ascii_digit()).unwrap_or(part.len());
            let (key, value) = match part.strip_prefix('t').filter(|_| keys.contains(&"t")) {
                Some(value) => ("t", value),
                None => part.split_at(digit),
            };
            if !keys.contains(&key) || value.is_empty() {
                return Err(format!(
                    "section `{part}` of `{text}` is unknown; sections are {}, each with its value",
                    keys.join(", ")
                ));
            }
            if sections.iter().any(|(other, _)| *other == key) {
                return Err(format!("section `{key}` is given twice in `{text}`"));
            }
            sections.push((key, value));
        }
        Ok(Sections { name, sections })
    }

    /// The value of a section, read by `parse`; `None` if there is no such section.
    pub fn get<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
        let section = self.sections.iter().find(|(other, _)| *other == key);
        section.map(|(_, value)| parse(value).map_err(|e| format!("section `{key}{value}`: {e}"))).transpose()
    }
}

/// Reads a non-negative integer.
pub(super) fn integer(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("`{text}` is not an integer"))
}

/// Reads a non-negative number.
pub(super) fn float(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|v: &f64| v.is_finite()).ok_or_else(|| format!("`{text}` is not a number"))
}

/// Reads a probability.
pub(super) fn probability(text: &str) -> Result<f64, String> {
    let value = float(text)?;
    if value <= 1.0 { Ok(value) } else { Err(format!("`{text}` is above 1")) }
}
