//! Which kernels there are: `build.rs` lists the files of `cu/`.
use crate::names;

/// A source to compile: that of a family, or one that was generated.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// What it is called in errors and in the cache.
    pub name: &'a str,
    /// Its text, which includes headers of `cu/` alone.
    pub text: &'a str,
}

/// A source and what nvcc made of it.
#[derive(Debug)]
pub struct Family {
    /// Its file's name without the ending.
    pub name: &'static str,
    /// Its text.
    pub source: &'static str,
    fatbin: Option<&'static [u8]>,
}

/// All families, by name.
pub fn kernel_modules() -> &'static [Family] {
    FAMILIES
}

/// The family of that name.
pub fn family(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.name == name)
}

impl<'a> From<&'a Family> for Source<'a> {
    fn from(family: &'a Family) -> Source<'a> {
        Source { name: family.name, text: family.source }
    }
}

impl Source<'_> {
    /// The headers that it includes, directly or not: their names and texts.
    pub(crate) fn headers(&self) -> Vec<(&'static str, &'static str)> {
        let mut found: Vec<(&'static str, &'static str)> = vec![];
        let mut texts = vec![self.text];
        while let Some(text) = texts.pop() {
            for name in includes(text) {
                if found.iter().any(|(known, _)| *known == name) {
                    continue;
                }
                if let Some(header) = HEADERS.iter().find(|(known, _)| *known == name) {
                    found.push(*header);
                    texts.push(header.1);
                }
            }
        }
        found
    }
}

impl Family {
    /// The headers that it includes, directly or not: their names and texts.
    pub fn headers(&self) -> Vec<(&'static str, &'static str)> {
        Source::from(self).headers()
    }

    /// The names of its kernels, in the order of the source.
    pub fn kernels(&self) -> Vec<String> {
        names::kernels(self.source)
    }

    /// A fatbin from when this crate was built, if nvcc was there and a device of that compute capability can run it.
    pub(crate) fn embedded(&self, (major, _): (u32, u32)) -> Option<&'static [u8]> {
        // sm_80 runs on all of 8.x, and the PTX for compute_80 on what is newer than any machine code in it.
        self.fatbin.filter(|_| major >= 8)
    }
}

fn includes(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix('"'))
}

// `FAMILIES: &[Family]` and `HEADERS: &[(&str, &str)]`.
include!(concat!(env!("OUT_DIR"), "/families.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_brings_the_headers_that_it_includes_and_no_others() {
        let names = |family: &str| -> Vec<&str> {
            self::family(family).expect("it is there").headers().iter().map(|(name, _)| *name).collect()
        };
        assert_eq!(names("softmax"), ["rows.cuh", "channels.cuh", "fornax.cuh"]);
        assert_eq!(names("cast"), ["fornax.cuh"]);
    }

    #[test]
    fn every_header_that_is_included_exists() {
        for family in kernel_modules() {
            let texts = family.headers().into_iter().map(|(_, text)| text).chain([family.source]);
            for name in texts.flat_map(includes) {
                assert!(HEADERS.iter().any(|(known, _)| *known == name), "{} includes {name}", family.name);
            }
        }
    }

    #[test]
    fn no_kernel_has_two_homes() {
        let mut names: Vec<String> = kernel_modules().iter().flat_map(Family::kernels).collect();
        assert!(kernel_modules().iter().all(|family| !family.kernels().is_empty()));
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
