//! Notes on a run that will not do what its command line lets expect.
use super::TrainArgs;
use crate::Result;
use crate::data::header_check::has_image_files;
use crate::experiment::Experiment;
use crate::message::count;
use fornax_engine::Device;

/// Epochs from which training a large model from scratch takes days on a CPU.
const MANY_EPOCHS: u32 = 100;

/// Adds the notes on a run whose parts are built.
pub fn add(args: &TrainArgs, experiment: &mut Experiment) -> Result<()> {
    let given = args.recipe.settings()?;
    let train = experiment.train_loader.as_ref().expect("built").dataset();
    let has_files = has_image_files(train);
    let (epochs, model) = (experiment.config.schedule.total_epochs(), experiment.config.model.name.clone());
    let has_weights = given.pretrained == Some(true)
        || given.pretrained_path.is_some()
        || given.initial_checkpoint.is_some();
    let is_default = given.model.is_none() && given.epochs.is_none() && !has_weights && args.resume.is_none();
    if !has_files && (given.bad_image.is_some() || given.max_bad.is_some()) {
        experiment.add_note("note: --bad-image and --max-bad have no effect: the dataset has no image files");
    }
    if experiment.device == Device::Cpu
        && has_files
        && is_default
        && epochs >= MANY_EPOCHS
        && args.fast_dev_run.is_none()
    {
        let epochs = count(epochs.into(), "epoch");
        experiment.add_note(format!(
            "note: {epochs} of {model} from scratch take long on a CPU; --pretrained --epochs 10, or --model resnet18 --epochs 30, take less"
        ));
    }
    Ok(())
}
