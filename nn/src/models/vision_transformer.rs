//! Vision transformers (Dosovitskiy et al., "An image is worth 16x16 words", 2021), with timm's names.
use super::drop_path_rates;
use super::model::{FeatureInfo, MATCH_PREV_GROUP, Model};
use super::options::{ModelOptions, Pooling, SupportedOptions, unsupported};
use super::registry::{Family, ModelInfo, PretrainedCfg};
use crate::capture::LayerInfo;
use crate::layers::{Attention, ClassifierHead, Conv2d, DropPath, LayerNorm, Mlp, Sequential, in_dtype};
use crate::precision::Operation;
use crate::{Context, Module, StateEntry, StateLayout, Visitor, init};
use fornax_engine::random::RngStream;
use fornax_engine::{Activation, DType, Device, GlobalPool, Result, Tensor};
use std::sync::Arc;

/// Architecture of a vision transformer.
#[derive(Clone, Copy, Debug)]
pub struct VisionTransformerConfig {
    /// Patch size in pixels.
    pub patch: usize,
    /// Features per token: timm's `embed_dim`.
    pub width: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Number of attention heads.
    pub heads: usize,
}

const EPS: f64 = 1e-6;
const DATA: PretrainedCfg = PretrainedCfg {
    fixed_input_size: true,
    crop_pct: 0.9,
    mean: [0.5; 3],
    std: [0.5; 3],
    pool_size: None,
    first_conv: "patch_embed.proj",
    classifier: "head",
    tag: Some("augreg_in21k_ft_in1k"),
    ..PretrainedCfg::IMAGENET
};

const fn config(width: usize, heads: usize) -> VisionTransformerConfig {
    VisionTransformerConfig { patch: 16, width, depth: 12, heads }
}

const fn model(
    name: &'static str,
    about: &'static str,
    config: &'static VisionTransformerConfig,
    data: PretrainedCfg,
) -> ModelInfo {
    ModelInfo { name, description: about, family: Family::VisionTransformer(config), pretrained_cfg: data }
}

/// All vision transformers.
pub(super) const MODELS: &[ModelInfo] = &[
    model("vit_tiny_patch16_224", "ViT-Ti/16", &config(192, 3), DATA),
    model("vit_small_patch16_224", "ViT-S/16", &config(384, 6), DATA),
    model(
        "vit_base_patch16_224",
        "ViT-B/16",
        &config(768, 12),
        PretrainedCfg { tag: Some("augreg2_in21k_ft_in1k"), ..DATA },
    ),
];

/// Vision transformer.
pub struct VisionTransformer {
    cls_token: Tensor,
    pos_embed: Tensor,
    patch_embed: Conv2d,
    patch: usize,
    image: [usize; 2],
    blocks: Sequential,
    depth: usize,
    /// Norm of all tokens before the class token is selected, or of the pooled features (timm's `fc_norm`).
    norm: LayerNorm,
    pooling: Pooling,
    head: ClassifierHead,
}

impl VisionTransformer {
    /// Model with all weights zero; see [`super::init_weights`].
    pub fn new(config: &VisionTransformerConfig, options: &ModelOptions) -> crate::Result<VisionTransformer> {
        options.check_supported(SupportedOptions { img_size: true, ..SupportedOptions::default() })?;
        let &VisionTransformerConfig { patch, width, depth, heads } = config;
        let image = options.img_size.unwrap_or(DATA.input_size);
        if image.iter().any(|side| !side.is_multiple_of(patch)) {
            let size = format!("img_size={}x{}", image[0], image[1]);
            return Err(unsupported(&size, &format!("expected multiples of the patch size, {patch}")));
        }
        let pooling = match options.global_pool {
            Pooling::Default => Pooling::Token,
            Pooling::Global(GlobalPool::CatAvgMax | GlobalPool::FastCatAvgMax) => {
                return Err(unsupported(
                    "global_pool=catavgmax",
                    "the norm after pooling has the width of a token",
                ));
            }
            // The fast variants split the gradient of the maximum between equal elements, as timm does for tokens.
            Pooling::Global(GlobalPool::Max) => Pooling::Global(GlobalPool::FastMax),
            Pooling::Global(GlobalPool::AvgMax) => Pooling::Global(GlobalPool::FastAvgMax),
            other => other,
        };
        let kind = match pooling {
            Pooling::Global(kind) => Some(kind),
            _ => None,
        };
        let activation = options.act_layer.unwrap_or(Activation::Gelu);
        let blocks = drop_path_rates(options.drop_path_rate, depth)
            .map(|rate| {
                Ok(Arc::new(TransformerBlock::new(width, heads, activation, rate)?) as Arc<dyn Module>)
            })
            .collect::<Result<Vec<_>>>()?;
        let tokens = 1 + image[0] / patch * (image[1] / patch);
        let zeros = |tokens: usize| Tensor::zeros([1, tokens, width], DType::F32, &Device::Cpu);
        Ok(VisionTransformer {
            cls_token: zeros(1)?.variable(),
            pos_embed: zeros(tokens)?.variable(),
            patch_embed: Conv2d::patchify(options.in_chans, width, patch)?.with_bias()?,
            patch,
            image,
            blocks: Sequential::new(blocks),
            depth,
            norm: LayerNorm::new(width, EPS)?,
            pooling,
            head: ClassifierHead::new(width, kind, options)?,
        })
    }

    fn norm_name(&self) -> &'static str {
        if matches!(self.pooling, Pooling::Global(_)) { "fc_norm" } else { "norm" }
    }
}

impl Module for VisionTransformer {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        self.forward_head(&self.forward_features(x, cx)?, false, cx)
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.parameter("cls_token", &self.cls_token);
        visitor.parameter("pos_embed", &self.pos_embed);
        visitor.child("patch_embed.proj", &self.patch_embed);
        visitor.child("blocks", &self.blocks);
        visitor.child(self.norm_name(), &self.norm);
        if let Some(head) = self.head.classifier() {
            visitor.child("head", head);
        }
    }

    fn input_operation(&self) -> Operation {
        Operation::MatMul
    }
}

impl Model for VisionTransformer {
    fn forward_features(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let operands = [("x", x), ("pos_embed", &self.pos_embed)];
        if x.rank() != 4 || x.dims()[1..3] != self.image {
            let [h, w] = self.image;
            let why = format!("the model was created for images of {h}x{w} pixels; set img_size");
            return Err(fornax_engine::Error::shape("vision transformer", &operands, why));
        }
        let patches = self.patch_embed.forward(x, cx)?;
        let &[n, h, w, c] = patches.dims() else { unreachable!("the output of a convolution has four axes") };
        // The residual stream has the dtype of layer norm.
        let patches = cx.autocast(Operation::RowNorm, &patches)?.reshape([n, h * w, c])?;
        let token = in_dtype(&self.cls_token, patches.dtype())?.expand([n, 1, c])?;
        let tokens = Tensor::cat(&[&token, &patches], 1)?;
        let tokens = tokens.add(&in_dtype(&self.pos_embed, tokens.dtype())?)?;
        let tokens = self.blocks.forward(&tokens, cx)?;
        match self.pooling {
            Pooling::Global(_) => Ok(tokens),
            _ => self.norm.forward(&tokens, cx),
        }
    }

    fn forward_head(&self, features: &Tensor, pre_logits: bool, cx: &mut Context) -> Result<Tensor> {
        let &[_, tokens, _] = features.dims() else {
            return Err(fornax_engine::Error::shape(
                "vision transformer",
                &[("features", features)],
                "tokens [n, l, c]",
            ));
        };
        let pooled = match self.pooling {
            Pooling::Token => features.narrow(1, 0, 1)?.flatten(1)?,
            Pooling::Global(_) => {
                let patches = features.narrow(1, 1, tokens - 1)?;
                let &[n, l, c] = patches.dims() else { unreachable!("tokens have three axes") };
                let pooled = self.head.pool.forward(&patches.reshape([n, l, 1, c])?, cx)?;
                self.norm.forward(&pooled, cx)?
            }
            _ => features.clone(),
        };
        self.head.classify(&pooled, pre_logits, cx)
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        (0..self.depth)
            .map(|i| FeatureInfo::new(format!("blocks.{i}"), self.head.channels(), self.patch))
            .collect()
    }

    fn head(&self) -> &ClassifierHead {
        &self.head
    }

    fn head_mut(&mut self) -> &mut ClassifierHead {
        &mut self.head
    }

    fn classifier_name(&self) -> &'static str {
        "head"
    }

    /// timm's initialisation: truncated normal with std 0.02 for linear layers and the position embedding, normal with std 1e-6 for the class
    /// token, zero biases, and PyTorch's default for the patch embedding.
    fn init_parameter(&self, parameter: &StateEntry, fan_in: usize, rng: &mut RngStream) -> Result<()> {
        let (name, tensor) = (parameter.name.as_str(), &parameter.tensor);
        if parameter.layout == StateLayout::ConvWeight || name == "patch_embed.proj.bias" {
            init::linear_default(tensor, fan_in, rng)
        } else if name == "cls_token" {
            init::normal(tensor, 1e-6, rng)
        } else if tensor.rank() > 1 {
            init::trunc_normal(tensor, 0.02, rng)
        } else {
            init::constant(tensor, if name.ends_with("weight") { 1.0 } else { 0.0 })
        }
    }

    fn no_weight_decay(&self) -> &'static [&'static str] {
        &["pos_embed", "cls_token"]
    }

    fn layer_group(&self, parameter: &str) -> Option<Vec<usize>> {
        if ["cls_token", "pos_embed", "patch_embed"].iter().any(|stem| parameter.starts_with(stem)) {
            return Some(vec![0]);
        }
        if parameter.starts_with("norm") {
            return Some(vec![1, MATCH_PREV_GROUP]);
        }
        Some(vec![1, parameter.strip_prefix("blocks.")?.split('.').next()?.parse().ok()?])
    }

    fn to_feature_map(&self, output: &Tensor, image: [usize; 2]) -> Result<Tensor> {
        let &[n, tokens, c] = output.dims() else { return Ok(output.clone()) };
        output.narrow(1, 1, tokens - 1)?.reshape([n, image[0] / self.patch, image[1] / self.patch, c])
    }
}

/// Transformer block with pre-norm: attention and MLP, each after a layer norm and with a residual connection.
struct TransformerBlock {
    norm1: LayerNorm,
    attn: Attention,
    drop_path1: DropPath,
    norm2: LayerNorm,
    mlp: Mlp,
    drop_path2: DropPath,
    info: LayerInfo,
}

impl TransformerBlock {
    fn new(width: usize, heads: usize, activation: Activation, drop_path: f64) -> Result<TransformerBlock> {
        Ok(TransformerBlock {
            norm1: LayerNorm::new(width, EPS)?,
            attn: Attention::new(width, heads)?,
            drop_path1: DropPath::new(drop_path),
            norm2: LayerNorm::new(width, EPS)?,
            mlp: Mlp::new(width, 4 * width, activation)?,
            drop_path2: DropPath::new(drop_path),
            info: LayerInfo::container(),
        })
    }
}

impl Module for TransformerBlock {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let y = self.attn.forward(&self.norm1.forward(x, cx)?, cx)?;
        let x = self.drop_path1.forward(&y, cx)?.to_dtype(x.dtype())?.add(x)?;
        let y = self.mlp.forward(&self.norm2.forward(&x, cx)?, cx)?;
        let y = self.drop_path2.forward(&y, cx)?.to_dtype(x.dtype())?.add(&x)?;
        Ok(cx.capture(&self.info, y, 0))
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("norm1", &self.norm1);
        visitor.child("attn", &self.attn);
        visitor.child("drop_path1", &self.drop_path1);
        visitor.child("norm2", &self.norm2);
        visitor.child("mlp", &self.mlp);
        visitor.child("drop_path2", &self.drop_path2);
    }

    fn layer_info(&self) -> Option<&LayerInfo> {
        Some(&self.info)
    }
}
