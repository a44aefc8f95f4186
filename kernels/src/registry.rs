//! Registry of kernel modules: `build.rs` embeds the files of `cu/`.
use crate::kernel_names;

/// CUDA source to compile: of a kernel module, or generated.
#[derive(Clone, Copy, Debug)]
pub struct KernelSource<'a> {
    /// Name in error messages and in the cache.
    pub name: &'a str,
    /// Source text; it includes headers of `cu/` only.
    pub text: &'a str,
}

/// A source file in a folder of `cu/` with its kernels, and the fatbin that nvcc compiled from it, if any.
#[derive(Debug)]
pub struct KernelModule {
    /// File name without extension.
    pub name: &'static str,
    /// Group of operations: the name of its folder.
    pub group: &'static str,
    /// Source text.
    pub source: &'static str,
    fatbin: Option<&'static [u8]>,
}

/// All kernel modules, sorted by name.
pub fn kernel_modules() -> &'static [KernelModule] {
    KERNEL_MODULES
}

/// Returns the kernel module of that name.
pub fn kernel_module(name: &str) -> Option<&'static KernelModule> {
    KERNEL_MODULES.iter().find(|module| module.name == name)
}

impl<'a> From<&'a KernelModule> for KernelSource<'a> {
    fn from(module: &'a KernelModule) -> KernelSource<'a> {
        KernelSource { name: module.name, text: module.source }
    }
}

impl KernelSource<'_> {
    /// File name for the compiler.
    pub(crate) fn file(&self) -> String {
        let folder = kernel_module(self.name).map_or(String::new(), |module| format!("{}/", module.group));
        format!("kernels/cu/{folder}{}.cu", self.name)
    }

    /// Names and texts of the headers that it includes, directly or indirectly.
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

impl KernelModule {
    /// Names and texts of the headers that it includes, directly or indirectly.
    pub fn headers(&self) -> Vec<(&'static str, &'static str)> {
        KernelSource::from(self).headers()
    }

    /// Names of its kernels, in source order.
    pub fn kernels(&self) -> Vec<String> {
        kernel_names::find_kernels(self.source)
    }

    /// The embedded fatbin, if nvcc compiled one at build time and it runs on a device of that compute capability.
    pub(crate) fn embedded(&self, (major, _): (u32, u32)) -> Option<&'static [u8]> {
        // sm_80 code runs on all of 8.x; devices newer than all embedded machine code use the PTX for compute_80.
        self.fatbin.filter(|_| major >= 8)
    }
}

fn includes(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let (name, _) = line.trim_start().strip_prefix("#include \"")?.split_once('"')?;
        Some(name)
    })
}

// `KERNEL_MODULES: &[KernelModule]` and `HEADERS: &[(&str, &str)]`.
include!(concat!(env!("OUT_DIR"), "/kernel_modules.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_those_included_directly_or_indirectly() {
        let names = |module: &str| -> Vec<&str> {
            kernel_module(module).expect("a kernel module").headers().iter().map(|(name, _)| *name).collect()
        };
        assert_eq!(names("softmax"), ["rows.cuh", "channels.cuh", "fornax.cuh"]);
        assert_eq!(names("cast"), ["fornax.cuh"]);
        // Indented, as in a string of a program, and with a comment.
        let text = "  #include \"cast.cuh\"\n  #include \"fornax.cuh\"  // types\n";
        let source = KernelSource { name: "indented", text };
        assert_eq!(source.headers().iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["fornax.cuh"]);
    }

    #[test]
    fn file_of_a_module_is_in_the_folder_of_its_group() {
        let file = |name| KernelSource { name, text: "" }.file();
        assert_eq!(file("softmax"), "kernels/cu/reduce/softmax.cu");
        assert_eq!(file("generated"), "kernels/cu/generated.cu");
    }

    #[test]
    fn every_included_header_exists() {
        for module in kernel_modules() {
            let texts = module.headers().into_iter().map(|(_, text)| text).chain([module.source]);
            for name in texts.flat_map(includes) {
                assert!(HEADERS.iter().any(|(known, _)| *known == name), "{} includes {name}", module.name);
            }
        }
    }

    /// Types of the parameters that kernels of a source take by value, numbers aside.
    fn structs_by_value(source: &str) -> Vec<String> {
        let text = source.replace("\\\n", " ");
        let kernels = text.split("KERNEL ").skip(1).chain(text.split("__global__ void").skip(1));
        // Launch bounds of a kernel end with `) name(`.
        let lists = kernels.filter_map(|kernel| {
            let kernel = kernel.split_once("__launch_bounds__").map_or(kernel, |(_, rest)| {
                rest.split_once(") ").map_or(rest, |(_, declaration)| declaration)
            });
            Some(kernel.split_once('(')?.1.split_once(')')?.0.to_string())
        });
        let parameters: Vec<String> =
            lists.flat_map(|list| list.split(',').map(String::from).collect::<Vec<_>>()).collect();
        let numbers = ["int", "unsigned", "float", "double", "long"];
        parameters
            .iter()
            .filter(|parameter| !parameter.contains('*'))
            .filter_map(|parameter| {
                let mut words =
                    parameter.split_whitespace().filter(|w| !["const", "__grid_constant__"].contains(w));
                words.next().filter(|word| !numbers.contains(word)).map(String::from)
            })
            .collect()
    }

    #[test]
    fn structs_that_kernels_take_by_value_are_declared_in_the_crate() {
        let (_, declared) = HEADERS.iter().find(|(name, _)| *name == "arguments.cuh").expect("the header");
        let mut count = 0;
        for module in kernel_modules() {
            for name in structs_by_value(module.source) {
                assert!(declared.contains(&format!("struct {name} {{")), "{} takes {name:?}", module.name);
                count += 1;
            }
        }
        assert!(count >= 20, "{count} parameters");
        assert_eq!(
            structs_by_value("KERNEL planted(const float* x, const Planted p, int n) {}"),
            ["Planted"]
        );
    }

    #[test]
    fn kernel_names_are_unique() {
        let mut names: Vec<String> = kernel_modules().iter().flat_map(KernelModule::kernels).collect();
        assert!(kernel_modules().iter().all(|module| !module.kernels().is_empty()));
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
