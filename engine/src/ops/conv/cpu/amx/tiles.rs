//! Tile registers of AMX: detection, configuration, and the matmul of a block.
use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::sync::OnceLock;

/// Rows and columns of a block, two tiles each way.
pub(super) const BLOCK: usize = 32;
/// Reduced elements of a step: the bf16 of a tile's row.
pub(super) const STEP: usize = 32;
/// Words of the second operand in a step: two tiles of 16 rows, each of 16 pairs.
pub(super) const STEP_WORDS: usize = 512;

/// Rows and bytes per row of a tile.
const ROWS: usize = 16;
const ROW_BYTES: usize = 64;

/// True if the CPU has bf16 tiles and the operating system lets this process use them.
pub(super) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_tiles() && request_permission())
}

fn has_tiles() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    const AMX_BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    // SAFETY: the operating system has enabled XSAVE, and XGETBV with it.
    let enabled = unsafe { xgetbv() };
    __cpuid_count(7, 0).edx & AMX_BF16_AND_TILE == AMX_BF16_AND_TILE && enabled & TILE_STATE == TILE_STATE
}

#[target_feature(enable = "xsave")]
fn xgetbv() -> u64 {
    // SAFETY: register 0 exists on every CPU with XSAVE.
    unsafe { _xgetbv(0) }
}

/// Asks Linux for the tile state, which is 8 KiB per thread. The permission holds for every thread of the process.
fn request_permission() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call reads its arguments only.
    cfg!(target_os = "linux")
        && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// Calls `f` with the tile registers of this thread configured as eight full tiles.
pub(super) fn with_tiles<R>(f: impl FnOnce() -> R) -> R {
    if !use_instructions() {
        return f();
    }
    #[repr(C, align(64))]
    struct Config([u8; 64]);
    let mut config = Config([0; 64]);
    config.0[0] = 1; // Palette: eight tiles of 1 KiB.
    for tile in 0..8 {
        config.0[16 + 2 * tile] = ROW_BYTES as u8;
        config.0[48 + tile] = ROWS as u8;
    }
    // SAFETY: the CPU has tiles, and the configuration is valid for its palette.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly, preserves_flags)) };
    let result = f();
    // SAFETY: as above. It returns the registers to their initial state, which context switches need not save.
    unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    result
}

/// Byte offsets of one step in both operands.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Step {
    pub(super) a: u32,
    pub(super) b: u32,
}

/// `c = sum over steps of a · b`, or `c += …` with `add`, for a block of `[BLOCK, BLOCK]` f32 in rows.
///
/// At each step, row `i` of `a` is `STEP` bf16 at `a[i / 16] + i % 16 * pitch + step.a` bytes. `b` has `STEP_WORDS` words from `step.b`
/// on: `[half of the columns][pair of reduced elements][column]`, a word being a pair of bf16.
///
/// # Safety
/// The operands must be readable for all steps, and `c` writable, inside of [`with_tiles`].
#[inline]
pub(super) unsafe fn multiply(
    a: [*const u8; 2],
    pitch: usize,
    b: *const u8,
    steps: &[Step],
    add: bool,
    c: *mut f32,
) {
    #[cfg(test)]
    if !use_instructions() {
        // SAFETY: the caller's obligation.
        return unsafe { multiply_portable(a, pitch, b, steps, add, c) };
    }
    if steps.is_empty() {
        if !add {
            // SAFETY: the block is writable.
            unsafe { c.write_bytes(0, BLOCK * BLOCK) };
        }
        return;
    }
    // SAFETY: the caller's obligation. Only this block uses tile registers between `ldtilecfg` and `tilerelease`.
    unsafe {
        asm!(
            "test {add:e}, {add:e}",
            "jnz 2f",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "jmp 3f",
            "2:",
            "tileloadd tmm0, [{c} + {row}*2]",
            "tileloadd tmm1, [{c} + {row}*2 + 64]",
            "tileloadd tmm2, [{c} + {row}*2 + 2048]",
            "tileloadd tmm3, [{c} + {row}*2 + 2112]",
            "3:",
            "mov {oa:e}, dword ptr [{steps}]",
            "mov {ob:e}, dword ptr [{steps} + 4]",
            "add {ob}, {b}",
            "tileloadd tmm6, [{ob} + {row}*1]",
            "tileloadd tmm7, [{ob} + {row}*1 + 1024]",
            "lea {ob}, [{a1} + {oa}]",
            "add {oa}, {a0}",
            "tileloadd tmm4, [{oa} + {pitch}*1]",
            "tileloadd tmm5, [{ob} + {pitch}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {steps}, 8",
            "dec {count}",
            "jnz 3b",
            "tilestored [{c} + {row}*2], tmm0",
            "tilestored [{c} + {row}*2 + 64], tmm1",
            "tilestored [{c} + {row}*2 + 2048], tmm2",
            "tilestored [{c} + {row}*2 + 2112], tmm3",
            a0 = in(reg) a[0],
            a1 = in(reg) a[1],
            pitch = in(reg) pitch,
            b = in(reg) b,
            c = in(reg) c,
            row = in(reg) ROW_BYTES,
            add = in(reg) u32::from(add),
            steps = inout(reg) steps.as_ptr() => _,
            count = inout(reg) steps.len() => _,
            oa = out(reg) _,
            ob = out(reg) _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// False in tests on CPUs without tiles, which compute blocks in plain Rust.
fn use_instructions() -> bool {
    !cfg!(test) || available()
}

/// [`multiply`] in plain Rust.
///
/// # Safety
/// The operands must be readable for all steps, and `c` writable.
#[cfg(test)]
unsafe fn multiply_portable(
    a: [*const u8; 2],
    pitch: usize,
    b: *const u8,
    steps: &[Step],
    add: bool,
    c: *mut f32,
) {
    use crate::dtype::bf16;
    // SAFETY: the caller's obligation.
    unsafe {
        for (i, j) in (0..BLOCK).flat_map(|i| (0..BLOCK).map(move |j| (i, j))) {
            let mut sum = if add { *c.add(i * BLOCK + j) } else { 0.0 };
            for step in steps {
                let row: *const bf16 = a[i / ROWS].add(i % ROWS * pitch + step.a as usize).cast();
                let column: *const bf16 = b.add(step.b as usize).cast();
                for k in 0..STEP {
                    let at = (j / 16 * STEP_WORDS / 2 + k / 2 * 16 + j % 16) * 2 + k % 2;
                    sum += row.add(k).read_unaligned().to_f32() * column.add(at).read_unaligned().to_f32();
                }
            }
            *c.add(i * BLOCK + j) = sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::bf16;

    /// Small integers, so that every order of additions gives the same sums.
    #[test]
    fn block_matmul_is_exact_with_offsets_and_accumulation() {
        let value = |i: usize, seed: usize| bf16::from_f32(((i * 37 + seed) % 17) as f32 - 8.0);
        let pitch = 3 * STEP + 4;
        let a: Vec<bf16> = (0..BLOCK * pitch).map(|i| value(i, 3)).collect();
        let b: Vec<bf16> = (0..3 * STEP_WORDS * 2).map(|i| value(i, 11)).collect();
        let steps = [Step { a: 2 * 64, b: 2048 }, Step { a: 0, b: 4096 }, Step { a: 66, b: 0 }];
        let (mut got, mut want) = (vec![1.0f32; BLOCK * BLOCK], vec![1.0f32; BLOCK * BLOCK]);
        let rows: *const u8 = a.as_ptr().cast();
        let halves = [rows, rows.wrapping_add(ROWS * pitch * 2)];
        let b: *const u8 = b.as_ptr().cast();
        with_tiles(|| {
            for add in [false, true, true] {
                // SAFETY: rows have three steps and four elements, `b` has three steps.
                unsafe {
                    multiply(halves, pitch * 2, b, &steps, add, got.as_mut_ptr());
                    multiply_portable(halves, pitch * 2, b, &steps, add, want.as_mut_ptr());
                }
                assert_eq!(got, want);
            }
            // SAFETY: nothing is read without steps.
            unsafe { multiply(halves, pitch * 2, b, &[], true, got.as_mut_ptr()) };
            assert_eq!(got, want);
        });
    }
}
