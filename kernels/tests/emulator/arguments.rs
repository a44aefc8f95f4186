//! Structs that kernels take by value: their layout, and declarations of their own in kernels.
use super::support::emulated;
use fornax_kernels::arguments::{BackwardFactors, Parameter, ParameterTable, Preparation, StridedPair};
use fornax_kernels::{KernelError, KernelSource};
use std::mem::offset_of;

/// Compiles a source for the emulated device.
fn compile(text: &str) -> Result<(), String> {
    match fornax_kernels::compile(KernelSource { name: "planted", text }, (9, 0)) {
        Ok(_) => Ok(()),
        Err(KernelError::Compile { log, .. }) => Err(log),
        Err(other) => panic!("{other}"),
    }
}

/// Offset of a field in Rust, and the assertion in a kernel's text that it is the same.
macro_rules! same_offset {
    ($of:ident, $field:ident) => {
        format!(
            "static_assert(__builtin_offsetof({}, {}) == {}, \"offset\");\n",
            stringify!($of),
            stringify!($field),
            offset_of!($of, $field)
        )
    };
}

#[test]
fn fields_have_the_same_offsets_in_rust_and_in_kernels() {
    let _emulated = emulated(0, false);
    let mut text = String::from("#include \"arguments.cuh\"\n");
    text += &same_offset!(StridedPair, packed);
    text += &same_offset!(StridedPair, extents);
    text += &same_offset!(StridedPair, b);
    text += &same_offset!(Parameter, param_scalar);
    text += &same_offset!(Parameter, gradient_format);
    text += &same_offset!(ParameterTable, entries);
    text += &same_offset!(Preparation, erase_mode);
    text += &same_offset!(Preparation, epoch);
    text += &format!("static_assert(kSums == {}, \"variant\");\n", BackwardFactors::Sums as i32);
    text += "extern \"C\" __global__ void planted(const StridedPair pair) {}\n";
    compile(&text).expect("the offsets are the same");
    let wrong = text.replace("kSums == 2", "kSums == 1");
    assert!(compile(&wrong).expect_err("a wrong assertion").contains("static assertion failed"));
}

#[test]
fn struct_with_another_field_order_does_not_compile() {
    let _emulated = emulated(0, false);
    let pool = fornax_kernels::kernel_module("pool").expect("a kernel module").source;
    compile(pool).expect("the module compiles");
    let planted =
        "namespace {\n\n/// Shape of a pooling operation.\nstruct Pool {\n  int out[2], size[2], c;\n};\n";
    let text = pool.replacen("namespace {\n", planted, 1);
    assert_ne!(text, pool);
    let log = compile(&text).expect_err("a second declaration");
    assert!(log.contains("Pool"), "{log}");
}
