//! Parameters, MACs and activation memory of a model's layers.
use super::model::Model;
use crate::{Context, Result, named_parameters};
use fornax_engine::{DType, Device, Tensor, no_grad, shapes_only};

/// Cost of a layer for one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSummary {
    /// Dotted name.
    pub name: String,
    /// Layer type, e.g. `Conv2d`.
    pub kind: &'static str,
    /// Output shape.
    pub output: Vec<usize>,
    /// Number of parameters of the layer itself, without children.
    pub parameters: usize,
    /// Multiply-accumulate operations.
    pub macs: u64,
    /// Bytes of the output in f32.
    pub activation_bytes: u64,
}

/// Cost of a model for one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSummary {
    /// Layers in execution order.
    pub layers: Vec<LayerSummary>,
    /// Number of parameters, including parameters outside of layers.
    pub parameters: usize,
    /// Multiply-accumulate operations of all layers.
    pub macs: u64,
    /// Bytes of all layers' outputs in f32.
    pub activation_bytes: u64,
}

/// Cost of a model on the CPU for an image `[height, width, channels]`. Only shapes are computed.
pub fn summary(model: &dyn Model, image: [usize; 3]) -> Result<ModelSummary> {
    let [h, w, c] = image;
    let mut cx = Context::eval().with_output_capture(None);
    let parameters = named_parameters(model);
    let pass = || -> Result<()> {
        let x = Tensor::zeros([1, h, w, c], DType::F32, &Device::Cpu)?;
        no_grad(|| model.forward(&x, &mut cx))?;
        Ok(())
    };
    shapes_only(pass)?;
    let own = |layer: &str| {
        let of_layer = |name: &str| name.rsplit_once('.').is_some_and(|(module, _)| module == layer);
        parameters.iter().filter(|(name, _)| of_layer(name)).map(|(_, t)| t.numel()).sum()
    };
    let layers: Vec<LayerSummary> = cx
        .take_captured()
        .into_iter()
        .filter(|o| !o.kind.is_empty())
        .map(|o| LayerSummary {
            parameters: own(&o.name),
            kind: o.kind,
            output: o.output.dims().to_vec(),
            macs: o.macs,
            activation_bytes: 4 * o.output.numel() as u64,
            name: o.name,
        })
        .collect();
    Ok(ModelSummary {
        parameters: parameters.iter().map(|(_, t)| t.numel()).sum(),
        macs: layers.iter().map(|l| l.macs).sum(),
        activation_bytes: layers.iter().map(|l| l.activation_bytes).sum(),
        layers,
    })
}
