//! Models of every architecture in training: gradients with `create_graph` match those of the kernels, and the curvature along a direction
//! matches finite differences of gradients.
use fornax_engine::{Activation, DType, Device, Result, Tensor, gradients};
use fornax_nn::{Context, Model, ModelOptions, create_model, named_parameters};
use fornax_tests::second_order::vector;

/// Step of the finite differences, large enough that f32 rounding is negligible.
const STEP: f64 = 3e-4;

struct Network {
    model: Box<dyn Model>,
    images: Tensor,
    target: Tensor,
    parameters: Vec<Tensor>,
}

impl Network {
    fn new(name: &str, size: usize) -> Result<Network> {
        let options = ModelOptions {
            num_classes: 5,
            img_size: name.starts_with("vit").then_some([size; 2]),
            // A smooth activation: a step over a kink would change the gradient more than the curvature does.
            act_layer: (!name.starts_with("vit") && !name.starts_with("convnext"))
                .then_some(Activation::Silu),
            ..ModelOptions::default()
        };
        let model = create_model(name, &options).expect("a model");
        let images = Tensor::zeros([4, size, size, 3], DType::F64, &Device::Cpu)?;
        let images = vector(&images, name)?.to_dtype(DType::F32)?;
        let target = Tensor::from_slice(&[4i64, 0, 3, 1], [4])?;
        let parameters = named_parameters(&*model).into_iter().map(|(_, tensor)| tensor).collect();
        Ok(Network { model, images, target, parameters })
    }

    fn gradients(&self, create_graph: bool) -> Result<Vec<Tensor>> {
        let logits = self.model.forward(&self.images, &mut Context::train())?;
        let loss = logits.cross_entropy(&self.target, 0.1)?;
        let one = Tensor::ones((), DType::F32, &Device::Cpu)?;
        let grads = gradients(&[(&loss, &one)], &self.wanted(), create_graph)?;
        Ok(grads.into_iter().map(|g| g.expect("the loss depends on every parameter")).collect())
    }

    fn wanted(&self) -> Vec<&Tensor> {
        self.parameters.iter().collect()
    }

    fn step(&self, along: &[Tensor], by: f64) -> Result<()> {
        let mut each = self.parameters.iter().zip(along);
        each.try_for_each(|(p, v)| p.copy_from(&p.detach().add(&v.mul_scalar(by)?)?))
    }
}

fn dot(a: &[Tensor], b: &[Tensor]) -> Result<f64> {
    let of = |(a, b): (&Tensor, &Tensor)| {
        a.detach().to_dtype(DType::F64)?.mul(&b.detach().to_dtype(DType::F64)?)?.sum_all()?.item()
    };
    a.iter().zip(b).map(of).sum()
}

#[test]
fn second_derivatives_of_every_architecture_match_finite_differences() -> Result<()> {
    for (name, size) in [
        ("resnet20", 32),
        ("mobilenetv2_100", 64),
        ("efficientnet_b0", 64),
        ("regnety_002", 64),
        ("convnext_atto", 64),
        ("vit_tiny_patch16_224", 32),
    ] {
        let network = Network::new(name, size)?;
        let kernels = network.gradients(false)?;
        let grads = network.gradients(true)?;
        let norm = dot(&kernels, &kernels)?.sqrt();
        for (i, (got, expected)) in grads.iter().zip(&kernels).enumerate() {
            let gap =
                got.detach().sub(expected)?.l2_norm(&(0..got.rank()).collect::<Vec<_>>(), false)?.item()?;
            assert!(gap < 1e-4 * norm, "{name}: gradient {i} is off by {gap} of {norm}");
        }
        let v: Vec<Tensor> = kernels.iter().map(|g| g.mul_scalar(1.0 / norm)).collect::<Result<_>>()?;
        let outputs: Vec<(&Tensor, &Tensor)> = grads.iter().zip(&v).collect();
        let hvps = gradients(&outputs, &network.wanted(), false)?;
        let hvps: Vec<Tensor> =
            hvps.into_iter().map(|p| p.expect("the gradient depends on every parameter")).collect();
        let curvature = dot(&hvps, &v)?;
        network.step(&v, STEP)?;
        let above = dot(&network.gradients(false)?, &v)?;
        network.step(&v, -2.0 * STEP)?;
        let below = dot(&network.gradients(false)?, &v)?;
        let expected = (above - below) / (2.0 * STEP);
        let near = (curvature - expected).abs() < 1e-2 * expected.abs();
        assert!(near, "{name}: a curvature of {curvature}, by differences {expected}");
    }
    Ok(())
}
