//! Sequential container.
use crate::capture::LayerInfo;
use crate::{Context, Module, Visitor, named_parameters};
use fornax_engine::{Result, Tensor, checkpoint};
use std::sync::Arc;

/// Sequential container of modules, named by position or by the caller. Each module is one block of activation checkpointing.
pub struct Sequential {
    modules: Vec<(String, Arc<dyn Module>)>,
    info: LayerInfo,
}

impl Sequential {
    /// Container of modules named `0`, `1`, `2`, …
    pub fn new(modules: Vec<Arc<dyn Module>>) -> Sequential {
        Sequential::named(modules.into_iter().enumerate().map(|(i, m)| (i.to_string(), m)).collect())
    }

    /// Container of named modules.
    pub fn named(modules: Vec<(String, Arc<dyn Module>)>) -> Sequential {
        Sequential { modules, info: LayerInfo::container() }
    }
}

impl Module for Sequential {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        if !cx.checkpointing() {
            let y = self.modules.iter().try_fold(x.clone(), |x, (_, module)| module.forward(&x, cx))?;
            return Ok(cx.capture(&self.info, y, 0));
        }
        self.modules.iter().try_fold(x.clone(), |x, (_, module)| {
            let parameters: Vec<Tensor> = named_parameters(&**module).into_iter().map(|(_, t)| t).collect();
            let (module, cx) = (module.clone(), cx.next_checkpoint());
            checkpoint(&x, &parameters, move |x, again| module.forward(x, &mut cx.clone().recomputing(again)))
        })
    }

    fn visit(&self, visitor: &mut Visitor) {
        for (name, module) in &self.modules {
            visitor.child(name, module.as_ref());
        }
    }

    fn layer_info(&self) -> Option<&LayerInfo> {
        Some(&self.info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_engine::ConvAlgorithm;
    use std::sync::Mutex;

    /// Squares its input and lists the convolution algorithm of every pass.
    #[derive(Default)]
    struct AlgorithmProbe(Mutex<Vec<ConvAlgorithm>>);

    impl Module for AlgorithmProbe {
        fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
            self.0.lock().expect("no panic").push(cx.conv_algorithm());
            x.square()
        }

        fn visit(&self, _: &mut Visitor) {}
    }

    #[test]
    fn recomputed_block_keeps_the_convolution_algorithm() -> Result<()> {
        let probe = Arc::new(AlgorithmProbe::default());
        let model = Sequential::new(vec![probe.clone()]);
        let mut cx = Context::train().with_checkpointing(true).with_conv_algorithm(ConvAlgorithm::Direct);
        let x = Tensor::from_slice(&[1.0, 2.0], [2])?.variable();
        model.forward(&x, &mut cx)?.sum_all()?.backward()?;
        assert_eq!(*probe.0.lock().expect("no panic"), [ConvAlgorithm::Direct; 2]);
        Ok(())
    }
}
