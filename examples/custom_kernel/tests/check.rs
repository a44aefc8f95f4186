use custom_kernel::ScaleRelu2;
use fornax_engine::Tensor;

#[test]
fn scale_relu2_passes_every_check() {
    let tensor = |n: usize, dims: &[usize]| {
        let values = (0..n).map(|i| ((i * 7) % 13) as f32 / 4.0 - 1.37).collect();
        Tensor::from_vec(values, dims).expect("memory").variable()
    };
    let (x, scale, bias) = (tensor(2 * 3 * 5 * 7, &[2, 3, 5, 7]), tensor(7, &[7]), tensor(7, &[7]));
    fornax_engine::testing::check_op(|| ScaleRelu2, &[&x, &scale, &bias]).unwrap_or_else(|error| panic!("{error}"));
}
