//! The table of cases on the CPU: gradients against finite differences, other dtypes against f64, SIMD levels and thread counts.
use fornax_engine::cpu::simd::{self, Level};
use fornax_engine::testing::{gradcheck, tolerance, worst};
use fornax_engine::{DType, Device, Result, Tensor};
use fornax_tests::cases::{Case, all};
use fornax_tests::parity::{differences, report};
use fornax_tests::sweep;
use std::sync::{Mutex, MutexGuard, PoisonError};

const HALF: [DType; 2] = [DType::F16, DType::BF16];

/// Batch size of large cases: enough for every kernel's tiles, and few enough for the plain f64 loops.
const BATCH: usize = 3;

/// Output and gradients of a case, as f64.
fn outcome(case: &Case, dtype: DType) -> Result<Vec<Vec<f64>>> {
    let tensors = case.tensors_of_batch(BATCH, dtype)?;
    let y = (case.run)(&tensors)?;
    if y.requires_grad() {
        y.backward_from(&case.upstream(&y, dtype)?)?;
    }
    let values = |t: &Tensor| t.to_dtype(DType::F64)?.to_vec::<f64>();
    let mut out = vec![values(&y)?];
    for (input, t) in case.inputs.iter().zip(&tensors).filter(|(input, _)| input.differentiable) {
        let grad = t
            .grad()
            .unwrap_or_else(|| panic!("{}: no gradient for an input of {:?}", case.name(), input.shape));
        assert_eq!(grad.shape(), t.shape(), "{}: shape of a gradient", case.name());
        out.push(values(&grad)?);
    }
    Ok(out)
}

/// Lock for the test that sets the SIMD level, which is global to the process, and for tests of kernels that are chosen by it: the
/// backward pass of a bf16 convolution needs the level of its forward pass.
fn lock_level() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn names_are_unique() {
    let mut names: Vec<String> = all().iter().map(Case::name).collect();
    names.sort();
    let before = names.len();
    names.dedup();
    assert_eq!(names.len(), before);
}

/// Every element of every gradient, for a random upstream gradient, against central differences in f64.
#[test]
fn gradients_match_finite_differences() {
    let mut checked = 0;
    for case in all().iter().filter(|c| !c.large) {
        let tensors = case.tensors(DType::F64).expect("makes its tensors");
        if tensors.iter().any(Tensor::requires_grad) {
            gradcheck(|x| (case.run)(x), &tensors.iter().collect::<Vec<_>>())
                .unwrap_or_else(|e| panic!("{}: {e}", case.name()));
            checked += tensors.iter().filter(|t| t.requires_grad()).map(Tensor::numel).sum::<usize>();
        }
    }
    assert!(checked > 1000, "only {checked} gradients were checked");
}

/// The vectorised f32 kernels against the plain f64 ones at every SIMD level of the CPU; at each level the results with one and
/// three threads (in a full sweep also two) are bitwise equal. Outside of a full sweep a third of the large cases runs.
#[test]
fn f32_matches_f64_at_every_level_and_thread_count() {
    let _guard = lock_level();
    let threads: &[usize] = if sweep::is_full() { &[1, 2, 3] } else { &[1, 3] };
    let pool = |&n| rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("a pool");
    let pools: Vec<_> = threads.iter().map(pool).collect();
    let widest = simd::level();
    for case in sweep::cases() {
        let name = case.name();
        let expected = outcome(&case, DType::F64).unwrap_or_else(|e| panic!("{name}: {e}"));
        let levels = if case.large { std::slice::from_ref(&widest) } else { Level::supported() };
        for level in levels {
            simd::set_max_level(*level);
            let runs: Vec<_> = pools
                .iter()
                .map(|pool| {
                    pool.install(|| outcome(&case, DType::F32)).unwrap_or_else(|e| panic!("{name}: {e}"))
                })
                .collect();
            assert!(runs.windows(2).all(|w| w[0] == w[1]), "{name} at {level:?}: thread counts differ");
            for (part, (got, expected)) in runs[0].iter().zip(&expected).enumerate() {
                if let Some(at) = worst(got, expected, tolerance(DType::F32)) {
                    let (got, expected) = (got[at], expected[at]);
                    panic!("{name} at {level:?}, part {part}, element {at}: {got} instead of {expected}");
                }
            }
        }
        simd::set_max_level(widest);
    }
}

/// f16 and bf16 on the CPU: outputs and gradients against f64.
#[test]
fn f16_and_bf16_match_f64() {
    let _guard = lock_level();
    // Outside of a full sweep the two dtypes alternate.
    let dtypes = |position: usize| -> &'static [DType] {
        let one = position % 2;
        if sweep::is_full() { &HALF } else { &HALF[one..=one] }
    };
    let cases = sweep::cases();
    report(
        differences(cases.iter().enumerate().map(|(position, case)| (case, dtypes(position))), &Device::Cpu),
        if sweep::is_full() { 200 } else { 100 },
    );
}
