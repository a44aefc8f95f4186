//! Data-parallel gradients, as PyTorch's `DistributedDataParallel`: each rank computes the gradients of its samples, which are averaged over
//! the ranks in buckets, during the backward pass.
use super::buckets::{Bucket, assign};
use super::group::ProcessGroup;
use crate::{Error, Result};
use fornax_engine::{Collective, DType, Device, PendingCollective, Reduction, Tensor, pack};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// Averages gradients over the ranks.
pub struct DataParallel {
    reducer: Arc<Reducer>,
    group: Arc<ProcessGroup>,
}

/// State that the hooks of the parameters share.
struct Reducer {
    collective: Arc<dyn Collective>,
    names: Vec<String>,
    parameters: Vec<Tensor>,
    sizes: Vec<usize>,
    /// Dtype of the communication, if it is not f32.
    compression: Option<DType>,
    device: Device,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    buckets: Vec<Bucket>,
    /// Bucket of each parameter and first element in it; `None` for unused parameters.
    places: Vec<Option<(usize, usize)>>,
    /// The buckets have the order of the first update's gradients.
    is_ordered: bool,
    /// The backward pass of the update's last batch runs.
    is_active: bool,
    /// Parameters whose gradients are complete, in this order.
    ready: Vec<usize>,
    is_ready: Vec<bool>,
    /// Parameters of each bucket that are not complete.
    missing: Vec<usize>,
    /// Complete gradients of each bucket, by parameter, until they are packed.
    gradients: Vec<Vec<(usize, Tensor)>>,
    /// Reductions that were started: in the order of the buckets.
    started: Vec<PendingCollective>,
}

impl DataParallel {
    /// Averages the gradients of these parameters, by name, in buckets. With a compression dtype the ranks exchange f16 or bf16.
    pub fn new(
        group: Arc<ProcessGroup>,
        collective: Arc<dyn Collective>,
        parameters: Vec<(String, Tensor)>,
        compression: Option<DType>,
    ) -> Result<DataParallel> {
        let device = parameters.first().map_or(Device::Cpu, |(_, tensor)| tensor.device());
        let sizes: Vec<usize> = parameters.iter().map(|(_, tensor)| tensor.numel()).collect();
        let (names, parameters): (Vec<String>, Vec<Tensor>) = parameters.into_iter().unzip();
        let reducer = Arc::new(Reducer {
            collective,
            names,
            parameters,
            sizes,
            compression,
            device,
            state: Mutex::default(),
        });
        // Gradients become complete in about the reverse order of the layers.
        let order: Vec<usize> = (0..reducer.parameters.len()).rev().collect();
        reducer.set_buckets(&order)?;
        for (index, parameter) in reducer.parameters.iter().enumerate() {
            // Not an Arc: the reducer has the parameters, which have the hooks.
            let reducer: Weak<Reducer> = Arc::downgrade(&reducer);
            parameter.register_post_accumulate_grad_hook(Box::new(move |grad| match reducer.upgrade() {
                Some(reducer) => reducer.complete(index, grad),
                None => Ok(()),
            }))?;
        }
        Ok(DataParallel { reducer, group })
    }

    /// Names the parameters of each bucket, in the order of the reductions.
    pub fn buckets(&self) -> Vec<Vec<&str>> {
        let state = self.reducer.state();
        let names =
            |bucket: &Bucket| bucket.parameters.iter().map(|(i, _)| &*self.reducer.names[*i]).collect();
        state.buckets.iter().map(names).collect()
    }

    /// Starts the reduction of the gradients of the next backward pass, the last one of an update.
    pub fn begin(&self) {
        let mut state = self.reducer.state();
        state.is_active = true;
        state.ready.clear();
        state.is_ready = vec![false; self.reducer.parameters.len()];
        state.missing = state.buckets.iter().map(|bucket| bucket.parameters.len()).collect();
        state.gradients = state.buckets.iter().map(|_| vec![]).collect();
        state.started.clear();
    }

    /// Ends the reduction after the backward pass: each parameter has the averaged gradient, and `loss` the averaged loss. Errors if a
    /// parameter has no gradient that had one in the first update.
    pub fn finish(&self, loss: &Tensor, others: &[Tensor]) -> fornax_engine::Result<()> {
        let reducer = &self.reducer;
        let mut unused = vec![];
        let incomplete: Vec<usize> = {
            let state = reducer.state();
            (0..reducer.parameters.len())
                .filter(|i| !state.is_ready[*i] && state.places[*i].is_some())
                .collect()
        };
        for index in incomplete {
            // A second-order optimizer sets gradients itself, without hooks.
            match reducer.parameters[index].grad() {
                Some(grad) => reducer.complete(index, &grad)?,
                None if reducer.state().is_ordered => return Err(self.unused_error(&[index])),
                None => {
                    unused.push(index);
                    reducer.complete_unused(index)?;
                }
            }
        }
        let loss = reducer.collective.start_all_reduce(loss, Reduction::Mean)?;
        let others = others.iter().map(|tensor| reducer.collective.start_all_reduce(tensor, Reduction::Mean));
        let others = others.collect::<fornax_engine::Result<Vec<_>>>()?;
        let mut state = reducer.state();
        let started = std::mem::take(&mut state.started);
        for (bucket, pending) in state.buckets.iter().zip(started) {
            pending.wait()?;
            if let Some(compressed) = &bucket.compressed {
                pack(&[(compressed, 0)], 1.0, &bucket.data)?;
            }
        }
        state.is_active = false;
        drop(state);
        loss.wait()?;
        others.into_iter().try_for_each(PendingCollective::wait)?;
        // As in a run of one process, an unused parameter has no gradient.
        unused.iter().for_each(|index| reducer.parameters[*index].set_grad(None));
        Ok(())
    }

    /// After the first update: orders the buckets as its gradients became complete. The result is a message about unused parameters.
    pub fn order_buckets(&self) -> Result<Option<String>> {
        let reducer = &self.reducer;
        let (order, unused) = {
            let state = reducer.state();
            if state.is_ordered || state.is_ready.is_empty() {
                return Ok(None);
            }
            let unused: Vec<bool> = state.is_ready.iter().map(|ready| !ready).collect();
            (state.ready.clone(), unused)
        };
        let bitmap: Vec<u8> = unused.iter().map(|unused| u8::from(*unused)).collect();
        let bitmaps = self.group.all_gather("unused parameters", &bitmap)?;
        if let Some(other) = bitmaps.iter().position(|other| *other != bitmaps[0]) {
            let differs = (0..bitmap.len()).filter(|i| bitmaps[0].get(*i) != bitmaps[other].get(*i));
            return Err(Error::usage("the ranks use different parameters")
                .because(format!(
                    "{} is used on {} or on {}, but not on both",
                    self.names(&differs.collect::<Vec<_>>()),
                    self.group.describe(0),
                    self.group.describe(other)
                ))
                .remedy("let the forward pass use the same layers for every batch"));
        }
        let bytes: Vec<u8> = order.iter().flat_map(|index| (*index as u32).to_le_bytes()).collect();
        let bytes = self.group.broadcast("the order of gradients", Some(&bytes))?;
        let order: Vec<usize> =
            bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes) as usize).collect();
        reducer.set_buckets(&order)?;
        reducer.state().is_ordered = true;
        let unused: Vec<usize> = (0..unused.len()).filter(|index| unused[*index]).collect();
        Ok((!unused.is_empty()).then(|| {
            format!("warning: no gradient reaches {}: these weights are not trained", self.names(&unused))
        }))
    }

    fn unused_error(&self, indices: &[usize]) -> fornax_engine::Error {
        fornax_engine::Error::Autograd {
            why: format!(
                "{} has no gradient in this update, but had one in the first: data-parallel training needs the same parameters in every \
                 forward pass, on every rank",
                self.names(indices)
            ),
        }
    }

    fn names(&self, indices: &[usize]) -> String {
        let names: Vec<&str> = indices.iter().map(|index| self.reducer.names[*index].as_str()).collect();
        names.join(", ")
    }
}

impl Reducer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Makes new buckets of the parameters in `order`; others are unused.
    fn set_buckets(&self, order: &[usize]) -> Result<()> {
        let mut places = vec![None; self.parameters.len()];
        let mut buckets = vec![];
        for parameters in assign(order, &self.sizes) {
            let bucket = Bucket::new(&parameters, &self.sizes, self.compression, &self.device)?;
            bucket.parameters.iter().for_each(|(i, offset)| places[*i] = Some((buckets.len(), *offset)));
            buckets.push(bucket);
        }
        let mut state = self.state();
        (state.buckets, state.places) = (buckets, places);
        Ok(())
    }

    /// Hook of a parameter: its gradient is complete.
    fn complete(&self, index: usize, grad: &Tensor) -> fornax_engine::Result<()> {
        let mut state = self.state();
        // Batches before the last one of an update only accumulate.
        let Some((bucket, _)) = state.places[index].filter(|_| state.is_active) else { return Ok(()) };
        if std::mem::replace(&mut state.is_ready[index], true) {
            let why = format!("the gradient of {} is complete twice in one backward pass", self.names[index]);
            return Err(fornax_engine::Error::Autograd { why });
        }
        state.ready.push(index);
        state.gradients[bucket].push((index, grad.clone()));
        state.missing[bucket] -= 1;
        self.start_complete(&mut state)
    }

    /// Completes a parameter without a gradient, as zeros.
    fn complete_unused(&self, index: usize) -> fornax_engine::Result<()> {
        let mut state = self.state();
        if let Some((bucket, _)) = state.places[index] {
            state.missing[bucket] -= 1;
        }
        self.start_complete(&mut state)
    }

    /// Packs complete buckets and starts their reduction. Every rank starts them in the same order.
    fn start_complete(&self, state: &mut State) -> fornax_engine::Result<()> {
        while state.missing.get(state.started.len()) == Some(&0) {
            let number = state.started.len();
            let bucket = &state.buckets[number];
            let gradients = std::mem::take(&mut state.gradients[number]);
            let place = |index: usize| state.places[index].map_or(0, |(_, offset)| offset);
            let sources: Vec<(&Tensor, usize)> =
                gradients.iter().map(|(index, gradient)| (gradient, place(*index))).collect();
            let started = match &bucket.compressed {
                None => {
                    pack(&sources, 1.0, &bucket.data)?;
                    self.collective.start_all_reduce(&bucket.data, Reduction::Mean)?
                }
                Some(compressed) => {
                    // Divided before, as the sum may overflow f16.
                    pack(&sources, (1.0 / self.collective.world_size() as f64) as f32, compressed)?;
                    self.collective.start_all_reduce(compressed, Reduction::Sum)?
                }
            };
            for (index, _) in &gradients {
                let parameter = &self.parameters[*index];
                parameter.set_grad(Some(bucket.view(place(*index), parameter)?));
            }
            state.started.push(started);
        }
        Ok(())
    }
}
