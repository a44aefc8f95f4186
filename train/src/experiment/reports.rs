//! Reports of a run in its folder: samples, plots, TensorBoard events, logs and `report.html`.
use super::{Experiment, RunPlan, build};
use crate::Result;
use crate::callbacks::CallbackList;
use crate::report::{PageWriter, PlotWriter, RunFolder, SampleWriter, TensorBoard};

/// Adds the callbacks of the reports. Later ones show the files of earlier ones.
pub(super) fn push(
    list: &mut CallbackList<'static>,
    experiment: &Experiment,
    folder: RunFolder,
) -> Result<()> {
    let (config, data) = (&experiment.config, experiment.data.as_ref().expect("built"));
    let path = folder.path().to_path_buf();
    list.push(SampleWriter::new(
        &path.join("samples"),
        &data.splits.classes,
        build::preparation(config, data),
        experiment.validation_loader.clone().expect("built"),
        config.save_images.then_some(experiment.log_interval),
    ));
    let schedule = experiment.scheduler.clone().expect("built");
    list.push(PlotWriter::new(&path.join("plots"), schedule, &config.loss_name, &data.splits.classes));
    let model = experiment.model.as_deref().expect("built");
    let plan = RunPlan::new(config, data, model, experiment.device, experiment.weights_source.as_deref())
        .to_string();
    let (interval, update) = (experiment.log_interval, experiment.state.update);
    list.push(TensorBoard::create(&path, interval, update, &config.settings, &plan)?);
    list.push(folder);
    list.push(PageWriter::new(&path));
    Ok(())
}
