//! Batches and mixing weights as the file lists them.
use super::{Protocol, TrainingRun, number};
use fornax_engine::{Result as EngineResult, Tensor};
use fornax_nn::loss::mixup_target;

/// The batches of a case.
pub struct GivenBatches<'a> {
    id: &'a str,
    images: Tensor,
    labels: Tensor,
    /// Dataset rows of each batch.
    rows: Vec<Vec<usize>>,
    /// Mixup's weight of each batch; empty without mixup.
    lam: Vec<f64>,
    smoothing: f64,
    ema_decay: Option<f64>,
}

impl<'a> GivenBatches<'a> {
    pub fn new(run: &TrainingRun<'a>) -> Result<GivenBatches<'a>, String> {
        let case = run.case;
        let rows = rows(case)?;
        let lam = if case.json["lam"].is_null() { vec![] } else { super::numbers(case, "lam")? };
        if !lam.is_empty() && lam.len() != rows.len() {
            return Err(format!("{}: {} weights for {} batches", case.id(), lam.len(), rows.len()));
        }
        Ok(GivenBatches {
            id: case.id(),
            images: run.images.clone(),
            labels: run.labels.clone(),
            rows,
            lam,
            smoothing: number(run.config, "smoothing")?,
            ema_decay: run.config["ema_decay"].as_f64(),
        })
    }

    fn mixed(&self, index: usize) -> EngineResult<(Tensor, Tensor)> {
        let of = |t: &Tensor| -> EngineResult<Tensor> {
            let rows: Vec<Tensor> =
                self.rows[index].iter().map(|row| t.narrow(0, *row, 1)).collect::<Result<_, _>>()?;
            Tensor::cat(&rows.iter().collect::<Vec<_>>(), 0)
        };
        let (x, target) = (of(&self.images)?, of(&self.labels)?);
        let Some(lam) = self.lam.get(index) else { return Ok((x, target)) };
        // The partner is the batch in reverse order.
        let x = x.mul_scalar(*lam)?.add(&x.flip(0)?.mul_scalar(1.0 - lam)?)?;
        Ok((x, mixup_target(&target, 10, *lam, self.smoothing)?))
    }
}

impl Protocol for GivenBatches<'_> {
    fn batch(&self, index: usize) -> Result<(Tensor, Tensor), String> {
        if index >= self.rows.len() {
            return Err(format!("{}: the file has {} batches", self.id, self.rows.len()));
        }
        self.mixed(index).map_err(|e| format!("{}: {e}", self.id))
    }

    /// The file was made with a constant decay, so that the first update does not copy.
    fn ema_decay(&self, _update: u64) -> Option<f64> {
        self.ema_decay
    }

    fn syncs_lookahead(&self) -> bool {
        false
    }
}

/// Dataset rows of each batch of a case.
pub fn rows(case: &super::GoldenCase) -> Result<Vec<Vec<usize>>, String> {
    let batches = case.topic.tensor(case.json["batches"].as_str().unwrap_or_default())?;
    let row = |value: &f64| *value as usize;
    Ok(batches.data.chunks(batches.shape[1]).map(|batch| batch.iter().map(row).collect()).collect())
}
