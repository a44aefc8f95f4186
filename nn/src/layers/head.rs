//! Classifier head.
use super::{Dropout, Linear, SelectAdaptivePool2d};
use crate::models::{ModelOptions, Pooling};
use crate::{Context, Error, Module};
use fornax_engine::{GlobalPool, Tensor};
use std::sync::Arc;

/// Classifier head: global pooling, dropout and a linear classifier. timm's `ClassifierHead`.
pub struct ClassifierHead {
    /// Global pooling.
    pub pool: SelectAdaptivePool2d,
    drop: Dropout,
    /// Features per pixel or token.
    channels: usize,
    /// Output features of the layer between pooling and classifier, if the model has one.
    hidden: Option<usize>,
    /// The model has no pooling: its output is a feature map.
    unpooled: bool,
    classifier: Option<Arc<dyn Module>>,
}

impl ClassifierHead {
    /// Head over `channels` channels. With `num_classes` 0 it has no classifier.
    pub fn new(
        channels: usize,
        pool: Option<GlobalPool>,
        options: &ModelOptions,
    ) -> crate::Result<ClassifierHead> {
        let (pool, drop) = (SelectAdaptivePool2d::new(pool), Dropout(options.drop_rate));
        let unpooled = options.global_pool == Pooling::None;
        let mut head = ClassifierHead { pool, drop, channels, hidden: None, unpooled, classifier: None };
        head.reset(options.num_classes)?;
        Ok(head)
    }

    /// Declares a layer of the model between pooling and classifier, with `hidden` output features.
    pub fn with_hidden(mut self, hidden: usize, options: &ModelOptions) -> crate::Result<ClassifierHead> {
        self.hidden = Some(hidden);
        self.reset(options.num_classes)?;
        Ok(self)
    }

    /// Input features of the classifier.
    pub fn features(&self) -> usize {
        self.hidden.unwrap_or(self.pooled())
    }

    /// Features after pooling.
    pub fn pooled(&self) -> usize {
        self.channels * self.pool.multiplier()
    }

    /// Features before pooling.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The classifier; `None` if `num_classes` is 0.
    pub fn classifier(&self) -> Option<&dyn Module> {
        self.classifier.as_deref()
    }

    /// Replaces the classifier by a module with input `[n, features]`.
    pub fn replace(&mut self, classifier: Option<Arc<dyn Module>>) {
        self.classifier = classifier;
    }

    /// Replaces the classifier by a zero-initialised one for another number of classes.
    pub fn reset(&mut self, num_classes: usize) -> crate::Result<()> {
        if num_classes > 0 && self.unpooled {
            let why = "a classifier needs pooled features; choose a pooling or num_classes=0";
            return Err(Error::ModelOption { option: "global_pool=none".into(), why: why.into() });
        }
        self.classifier = match num_classes {
            0 => None,
            classes => Some(Arc::new(Linear::new(self.features(), classes)?)),
        };
        Ok(())
    }

    /// Logits of pooled features. With `pre_logits`, the features before the classifier.
    pub fn classify(
        &self,
        pooled: &Tensor,
        pre_logits: bool,
        cx: &mut Context,
    ) -> fornax_engine::Result<Tensor> {
        let pooled = self.drop.forward(pooled, cx)?;
        match &self.classifier {
            Some(classifier) if !pre_logits => classifier.forward(&pooled, cx),
            _ => Ok(pooled),
        }
    }
}
