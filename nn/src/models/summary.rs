//! What a model's layers cost.
use super::model::Model;
use crate::{Context, Result, named_parameters};
use fornax_engine::{DType, Device, Tensor, no_grad, shapes_only};

/// A layer in a pass over one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSummary {
    /// Its dotted name.
    pub name: String,
    /// Its kind, as `Conv2d`.
    pub kind: &'static str,
    /// Shape of its output.
    pub output: Vec<usize>,
    /// Parameters of its own.
    pub parameters: usize,
    /// Multiplications followed by an addition.
    pub macs: u64,
    /// Bytes of its output in f32.
    pub activation_bytes: u64,
}

/// A model in a pass over one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSummary {
    /// The layers, in the order in which they work.
    pub layers: Vec<LayerSummary>,
    /// Of all layers, and of what belongs to none.
    pub parameters: usize,
    /// Of all layers.
    pub macs: u64,
    /// Of all layers' outputs.
    pub activation_bytes: u64,
}

/// Counts what a model costs for an image `[height, width, channels]`. Nothing is computed but shapes; the model is on the CPU.
pub fn summary(model: &dyn Model, image: [usize; 3]) -> Result<ModelSummary> {
    let [h, w, c] = image;
    let mut cx = Context::eval().observing(None);
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
        .observations()
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
