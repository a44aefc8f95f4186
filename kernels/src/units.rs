//! Kernel modules divided by dtype: each unit is compiled on its own, so that a program compiles only the dtypes that it uses.
use crate::kernel_names::instantiations;
use crate::registry::{KernelModule, KernelSource, kernel_modules};
use std::collections::HashMap;
use std::sync::OnceLock;

/// Part of a kernel module that is compiled on its own: the kernels of one dtype, or all kernels without one.
#[derive(Debug)]
pub struct KernelUnit {
    /// The module.
    pub module: &'static KernelModule,
    /// First dtype in the names of the kernels.
    pub dtype: Option<&'static str>,
    /// Names of the kernels.
    pub kernels: Vec<String>,
    text: String,
}

/// Dtypes in names of kernels.
const DTYPES: [&str; 5] = ["f32", "f16", "bf16", "i64", "u8"];

impl KernelUnit {
    /// Name, such as `batch_norm_f16`.
    pub fn name(&self) -> String {
        [self.module.name].into_iter().chain(self.dtype).collect::<Vec<_>>().join("_")
    }

    /// Source text: the module's, with the instantiations of this unit only. Line numbers are the module's, and errors name its file.
    pub fn source(&self) -> KernelSource<'_> {
        KernelSource { name: self.module.name, text: &self.text }
    }

    /// The units of a module.
    fn of_module(module: &'static KernelModule) -> Vec<KernelUnit> {
        let calls = instantiations(module.source, dtype_of);
        let mut by_dtype: Vec<(Option<&'static str>, Vec<String>)> = vec![];
        for kernel in module.kernels() {
            let call = calls.iter().find(|call| call.kernels.contains(&kernel));
            let dtype = call.and_then(|call| dtype_of(&call.kernels[0]));
            match by_dtype.iter_mut().find(|(other, _)| *other == dtype) {
                Some((_, kernels)) => kernels.push(kernel),
                None => by_dtype.push((dtype, vec![kernel])),
            }
        }
        let text_for = |dtype| {
            let mut lines: Vec<String> = module.source.lines().map(String::from).collect();
            calls.iter().for_each(|call| lines[call.line].clear());
            for call in calls.iter().filter(|call| dtype_of(&call.kernels[0]) == dtype) {
                lines[call.line].push_str(&call.text);
            }
            lines.join("\n") + "\n"
        };
        let unit = |(dtype, kernels)| KernelUnit { module, dtype, kernels, text: text_for(dtype) };
        by_dtype.into_iter().map(unit).collect()
    }
}

/// All units, in the order of the modules.
pub fn kernel_units() -> &'static [KernelUnit] {
    static UNITS: OnceLock<Vec<KernelUnit>> = OnceLock::new();
    UNITS.get_or_init(|| kernel_modules().iter().flat_map(KernelUnit::of_module).collect())
}

/// The unit with a kernel; `None` if there is no kernel of that name.
pub fn kernel_unit(kernel: &str) -> Option<&'static KernelUnit> {
    static BY_KERNEL: OnceLock<HashMap<&str, &KernelUnit>> = OnceLock::new();
    let of_unit = |unit: &'static KernelUnit| unit.kernels.iter().map(move |name| (name.as_str(), unit));
    BY_KERNEL.get_or_init(|| kernel_units().iter().flat_map(of_unit).collect()).get(kernel).copied()
}

/// The first of the dtypes that end a kernel's name: `f16` of `conv_norm_fwd_f16_f32`.
fn dtype_of(kernel: &str) -> Option<&'static str> {
    let dtype = |word| DTYPES.into_iter().find(|dtype| *dtype == word);
    kernel.rsplit('_').map_while(dtype).last()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel_names::find_kernels;

    #[test]
    fn each_kernel_is_in_the_source_of_its_unit() {
        for unit in kernel_units() {
            let defined = find_kernels(unit.source().text);
            let missing: Vec<_> = unit.kernels.iter().filter(|kernel| !defined.contains(kernel)).collect();
            assert!(missing.is_empty(), "{}: {missing:?}", unit.name());
            let lines = |text: &str| text.lines().count();
            assert_eq!(lines(unit.source().text), lines(unit.module.source), "{}", unit.name());
        }
        let count: usize = kernel_modules().iter().map(|module| module.kernels().len()).sum();
        assert_eq!(kernel_units().iter().map(|unit| unit.kernels.len()).sum::<usize>(), count);
    }

    #[test]
    fn units_of_a_dtype_lack_the_instantiations_of_others() {
        let names = |kernel: &str| find_kernels(kernel_unit(kernel).expect(kernel).source().text);
        let has = |kernel: &str, other: &str| names(kernel).iter().any(|name| name == other);
        assert!(has("batch_norm_fwd_f16", "batch_norm_frozen_f16"));
        assert!(!has("batch_norm_fwd_f16", "batch_norm_fwd_f32"));
        // The macro for an activation instantiates all dtypes; its body is divided.
        assert!(has("relu_fwd_bf16", "silu_bwd_bf16"));
        assert!(!has("relu_fwd_bf16", "relu_fwd_f16"));
        let [cast, sums] = ["cast_f16_f32", "gradient_norm_f32"].map(|name| kernel_unit(name).expect(name));
        assert_eq!((cast.name().as_str(), sums.name().as_str()), ("cast_f16", "optimizer"));
    }
}
