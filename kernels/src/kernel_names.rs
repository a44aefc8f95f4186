//! Names of the kernels in a CUDA source, found without a compiler: macros that define kernels are expanded as far as necessary.

/// Returns the kernel names in source order. Kernels are `extern "C" __global__ void name(…)`, or `KERNEL name(…)` with the macro of that
/// name, either directly or in the body of a macro that is called at the beginning of a line.
pub(crate) fn find_kernels(source: &str) -> Vec<String> {
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

/// Call of a macro at the beginning of a line, or a call in the body of that macro, that defines kernels.
pub(crate) struct Instantiation {
    /// Number of the line, from 0.
    pub(crate) line: usize,
    /// Text of the call.
    pub(crate) text: String,
    /// Kernels that it defines.
    pub(crate) kernels: Vec<String>,
}

/// Returns the instantiations of a source. A call whose kernels differ by `group` is replaced by the calls in its body, if the body consists
/// of calls.
pub(crate) fn instantiations<G: PartialEq>(source: &str, group: impl Fn(&str) -> G) -> Vec<Instantiation> {
    let text = source.replace("\\\n", " ");
    let definitions = text.lines().filter_map(|line| line.strip_prefix("#define "));
    let macros: Vec<Macro> = definitions.filter_map(Macro::parse).collect();
    let mut found = vec![];
    let mut continues = false;
    for (line, text) in source.lines().enumerate() {
        if !continues {
            let all = divide(text, &macros, &group);
            found.extend(all.into_iter().map(|(text, kernels)| Instantiation { line, text, kernels }));
        }
        continues = text.ends_with('\\');
    }
    found
}

/// Calls with the kernels that they define: the call at the beginning of a text, or the calls in its body.
fn divide<G: PartialEq>(
    text: &str,
    macros: &[Macro],
    group: &impl Fn(&str) -> G,
) -> Vec<(String, Vec<String>)> {
    let called = identifier(text);
    let Some(of) = macros.iter().find(|of| of.name == called) else { return vec![] };
    let kernels = in_text(text, macros);
    let Some(first) = kernels.first() else { return vec![] };
    let is_mixed = kernels.iter().any(|kernel| group(kernel) != group(first));
    let inside = text[called.len()..].trim_start().strip_prefix('(').and_then(|rest| rest.rsplit_once(')'));
    if let (true, Some((inside, _))) = (is_mixed, inside) {
        let body = of.expand(&arguments(inside));
        let nested: Vec<_> = macros
            .iter()
            .flat_map(|inner| calls(&body, inner.name))
            .flat_map(|call| divide(call, macros, group))
            .collect();
        if definitions(&body).is_empty() {
            return nested;
        }
    }
    vec![(text.to_string(), kernels)]
}

struct Macro<'a> {
    name: &'a str,
    parameters: Vec<&'a str>,
    body: &'a str,
}

impl<'a> Macro<'a> {
    /// Parses a macro with parameters; `None` for one without.
    fn parse(definition: &'a str) -> Option<Macro<'a>> {
        let name = identifier(definition);
        let (parameters, body) = definition[name.len()..].strip_prefix('(')?.split_once(')')?;
        Some(Macro { name, parameters: arguments(parameters), body })
    }

    /// Returns the body with parameters replaced by arguments.
    fn expand(&self, given: &[&str]) -> String {
        let mut text = String::new();
        let mut rest = self.body;
        while !rest.is_empty() {
            let length = identifier(rest).len().max(rest.chars().next().map_or(1, char::len_utf8));
            let (piece, after) =
                rest.split_at(if identifier(rest).is_empty() { length } else { identifier(rest).len() });
            let parameter = self.parameters.iter().position(|name| *name == piece);
            text.push_str(parameter.and_then(|i| given.get(i)).unwrap_or(&piece));
            rest = after;
        }
        // `##` joins tokens; spaces around it are ignored.
        let pieces: Vec<&str> = text.split("##").map(str::trim).collect();
        if pieces.len() > 1 { pieces.join("") } else { text }
    }
}

/// Returns the kernels defined in a text without directives.
fn in_text(text: &str, macros: &[Macro]) -> Vec<String> {
    let called = identifier(text);
    if let Some(of) = macros.iter().find(|of| of.name == called) {
        let inside =
            text[called.len()..].trim_start().strip_prefix('(').and_then(|rest| rest.rsplit_once(')'));
        let Some((inside, _)) = inside else { return vec![] };
        let body = of.expand(&arguments(inside));
        // A body may contain kernels, calls of other macros, or both.
        let calls = macros.iter().flat_map(|inner| calls(&body, inner.name));
        let nested: Vec<String> = calls.flat_map(|call| in_text(call, macros)).collect();
        return definitions(&body).into_iter().chain(nested).collect();
    }
    definitions(text)
}

/// Returns the calls of a macro in a text, including their parentheses.
fn calls<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let mut found = vec![];
    for (at, _) in text.match_indices(name) {
        let call = &text[at..];
        let starts = text[..at].chars().next_back().is_none_or(|c| !is_identifier_char(c));
        if starts && call[name.len()..].starts_with('(') {
            let end = call.find(')').map_or(call.len(), |end| end + 1);
            found.push(&call[..end]);
        }
    }
    found
}

/// Returns the names that follow `KERNEL` or `__global__ void`.
fn definitions(text: &str) -> Vec<String> {
    let mut found = vec![];
    for marker in ["KERNEL ", "__global__ void "] {
        for (at, _) in text.match_indices(marker) {
            let mut rest = text[at + marker.len()..].trim_start();
            if let Some(bounds) = rest.strip_prefix("__launch_bounds__") {
                rest = bounds.split_once(')').map_or("", |(_, rest)| rest.trim_start());
            }
            let name = identifier(rest);
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

/// Returns the identifier at the start of a text; empty if there is none.
fn identifier(text: &str) -> &str {
    let end = text.find(|c| !is_identifier_char(c)).unwrap_or(text.len());
    &text[..end]
}

fn is_identifier_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_defined_by_macros_are_found() {
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
        assert_eq!(find_kernels(source), expected);
    }
}
