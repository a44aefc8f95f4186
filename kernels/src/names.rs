//! The names of a source's kernels, without a compiler: macros that define kernels are expanded just far enough.

/// The names in the order of the source. Kernels are `extern "C" __global__ void name(…)`, or `KERNEL name(…)` with the macro of that
/// name, either as they stand or in the body of a macro that is called at the beginning of a line.
pub(crate) fn kernels(source: &str) -> Vec<String> {
    let text = source.replace("\\\n", " ");
    let (mut macros, mut found) = (vec![], vec![]);
    for line in text.lines() {
        if let Some(definition) = line.strip_prefix("#define ") {
            macros.extend(Macro::parse(definition));
        } else if !line.starts_with("//") {
            found.extend(in_text(line, &macros));
        }
    }
    found
}

struct Macro<'a> {
    name: &'a str,
    parameters: Vec<&'a str>,
    body: &'a str,
}

impl<'a> Macro<'a> {
    /// A macro with parameters.
    fn parse(definition: &'a str) -> Option<Macro<'a>> {
        let name = word(definition);
        let (parameters, body) = definition[name.len()..].strip_prefix('(')?.split_once(')')?;
        Some(Macro { name, parameters: arguments(parameters), body })
    }

    /// Its body for a call with these arguments.
    fn expand(&self, given: &[&str]) -> String {
        let mut text = String::new();
        let mut rest = self.body;
        while !rest.is_empty() {
            let length = word(rest).len().max(rest.chars().next().map_or(1, char::len_utf8));
            let (piece, after) = rest.split_at(if word(rest).is_empty() { length } else { word(rest).len() });
            let parameter = self.parameters.iter().position(|name| *name == piece);
            text.push_str(parameter.and_then(|i| given.get(i)).unwrap_or(&piece));
            rest = after;
        }
        // Joined words: spaces around the operator do not count.
        let pieces: Vec<&str> = text.split("##").map(str::trim).collect();
        if pieces.len() > 1 { pieces.join("") } else { text }
    }
}

/// The kernels that a text without directives defines.
fn in_text(text: &str, macros: &[Macro]) -> Vec<String> {
    let called = word(text);
    if let Some(of) = macros.iter().find(|of| of.name == called) {
        let inside =
            text[called.len()..].trim_start().strip_prefix('(').and_then(|rest| rest.rsplit_once(')'));
        let Some((inside, _)) = inside else { return vec![] };
        let body = of.expand(&arguments(inside));
        // A body may hold kernels, calls of other macros, or both.
        let calls = macros.iter().flat_map(|inner| calls(&body, inner.name));
        let nested: Vec<String> = calls.flat_map(|call| in_text(call, macros)).collect();
        return definitions(&body).into_iter().chain(nested).collect();
    }
    definitions(text)
}

/// The calls of a macro in a text, each with its parentheses.
fn calls<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let mut found = vec![];
    for (at, _) in text.match_indices(name) {
        let call = &text[at..];
        let starts = text[..at].chars().next_back().is_none_or(|c| !is_word(c));
        if starts && call[name.len()..].starts_with('(') {
            let end = call.find(')').map_or(call.len(), |end| end + 1);
            found.push(&call[..end]);
        }
    }
    found
}

/// The names that follow `KERNEL` or `__global__ void`.
fn definitions(text: &str) -> Vec<String> {
    let mut found = vec![];
    for marker in ["KERNEL ", "__global__ void "] {
        for (at, _) in text.match_indices(marker) {
            let mut rest = text[at + marker.len()..].trim_start();
            if let Some(bounds) = rest.strip_prefix("__launch_bounds__") {
                rest = bounds.split_once(')').map_or("", |(_, rest)| rest.trim_start());
            }
            let name = word(rest);
            if !name.is_empty() && rest[name.len()..].trim_start().starts_with('(') {
                found.push((at, name.to_string()));
            }
        }
    }
    found.sort();
    found.into_iter().map(|(_, name)| name).collect()
}

fn arguments(list: &str) -> Vec<&str> {
    list.split(',').map(str::trim).collect()
}

/// The word that a text begins with; empty when it begins with something else.
fn word(text: &str) -> &str {
    let end = text.find(|c| !is_word(c)).unwrap_or(text.len());
    &text[..end]
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_of_macros_are_named() {
        let source = r#"
#define KERNEL extern "C" __global__ void __launch_bounds__(256)
// KERNEL not_this()
KERNEL plain(int n) {}
extern "C" __global__ void __launch_bounds__(256, 2) bare(float* x) {}
#define TWO(T, name)                     \
  KERNEL first_##name(T* x) { f<T>(x); } \
  KERNEL second_ ## name##_bwd(T* x) {}
#define EACH(op) TWO(float, op##_f32) TWO(half16, op##_f16)
TWO(float, f32)
EACH(add)
"#;
        let expected = [
            "plain",
            "bare",
            "first_f32",
            "second_f32_bwd",
            "first_add_f32",
            "second_add_f32_bwd",
            "first_add_f16",
            "second_add_f16_bwd",
        ];
        assert_eq!(kernels(source), expected);
    }
}
