//! Fuses a new activation into batch norm: `cargo run --release -p fornax-engine --example fuse_batch_norm [emulated]`.
use fornax_engine::random::{RngKey, RngStream};
use fornax_engine::{BatchNorm, DType, Device, Result, Tensor, fuse};

fn main() -> Result<()> {
    let emulated = std::env::args().nth(1).is_some_and(|device| device == "emulated");
    let device = if emulated { Device::emulated(1)? } else { Device::Cpu };
    // Serf (Nag et al., 2021): x erf(softplus(x)).
    let serf = fuse::expression(|[x]| x * fuse::erf(fuse::softplus(x)));
    let mut rng = RngStream::new(RngKey::new(1, "example"), 0, 0);
    let values: Vec<f32> = (0..16 * 28 * 28 * 64).map(|_| rng.normal()).collect();
    let images = Tensor::from_vec(values, [16, 28, 28, 64])?.to_device(&device)?;
    let weight = Tensor::ones([64], DType::F32, &device)?;
    let norm = BatchNorm { weight: Some(&weight), training: true, eps: 1e-5, ..BatchNorm::default() };
    let run = |f: &dyn Fn(&Tensor) -> Result<Tensor>| -> Result<Vec<f32>> {
        let (x, start) = (images.variable(), std::time::Instant::now());
        f(&x)?.backward_from(&images)?;
        let grad = x.grad().expect("a gradient").to_vec::<f32>()?;
        println!("{:.1} ms", start.elapsed().as_secs_f64() * 1e3);
        Ok(grad)
    };
    for _ in 0..3 {
        let fused = run(&|x| x.batch_norm_fused(&norm, &serf, None))?;
        let separate = run(&|x| serf.apply(&[&x.batch_norm(&norm)?]))?;
        assert!(fused.iter().zip(&separate).all(|(a, b)| (a - b).abs() <= 1e-4), "gradients agree");
    }
    Ok(())
}
