//! The end of a classifier.
use super::{Dropout, Linear, SelectAdaptivePool2d};
use crate::models::{ModelOptions, Pooling};
use crate::{Context, Error, Module};
use fornax_engine::{GlobalPool, Tensor};
use std::sync::Arc;

/// Pooling, dropout and the classifier.
pub struct ClassifierHead {
    /// From feature maps to vectors.
    pub pool: SelectAdaptivePool2d,
    drop: Dropout,
    /// Features of one pixel, or one token.
    channels: usize,
    /// Features that a layer between pooling and classifier gives.
    hidden: Option<usize>,
    /// The model ends with its maps.
    unpooled: bool,
    classifier: Option<Arc<dyn Module>>,
}

impl ClassifierHead {
    /// Over `channels`, with the pooling given; a classifier for no classes is none.
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

    /// With a layer of the model's between pooling and classifier, which gives `hidden` features.
    pub fn with_hidden(mut self, hidden: usize, options: &ModelOptions) -> crate::Result<ClassifierHead> {
        self.hidden = Some(hidden);
        self.reset(options.num_classes)?;
        Ok(self)
    }

    /// Features that the classifier gets.
    pub fn features(&self) -> usize {
        self.hidden.unwrap_or(self.pooled())
    }

    /// Features that pooling gives.
    pub fn pooled(&self) -> usize {
        self.channels * self.pool.multiplier()
    }

    /// Features before pooling.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The classifier; none when there are no classes.
    pub fn classifier(&self) -> Option<&dyn Module> {
        self.classifier.as_deref()
    }

    /// Puts a module of the caller's in the classifier's place. It gets `[n, features]`.
    pub fn replace(&mut self, classifier: Option<Arc<dyn Module>>) {
        self.classifier = classifier;
    }

    /// A classifier of zeros for another number of classes.
    pub fn reset(&mut self, num_classes: usize) -> crate::Result<()> {
        if num_classes > 0 && self.unpooled {
            let why = "a classifier needs vectors: choose a pooling, or num_classes=0";
            return Err(Error::ModelOption { option: "global_pool=none".into(), why: why.into() });
        }
        self.classifier = match num_classes {
            0 => None,
            classes => Some(Arc::new(Linear::new(self.features(), classes)?)),
        };
        Ok(())
    }

    /// Logits of pooled features, or these themselves before the classifier.
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
