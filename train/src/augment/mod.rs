//! Augmentation of training images and batches.
pub mod color_jitter;
pub mod image_ops;
pub mod mixup;
pub mod policies;
pub mod random_erasing;
pub mod random_resized_crop;
pub mod resize_keep_ratio;
mod sampling;
pub mod test_time;
mod train_interpolation;
mod train_transform;
mod transform;
mod transform_options;

pub use mixup::{BatchMix, MixupMode, MixupOptions};
pub use policies::AutoAugment;
pub use random_erasing::RandomErasingOptions;
pub use sampling::RandomSource;
pub use test_time::TestTimeAugmentation;
pub use train_interpolation::TrainInterpolation;
pub use train_transform::TrainTransform;
pub use transform::ImageTransform;
pub use transform_options::{TrainCropMode, TransformOptions};
