//! Videos as folders of frames: `class/clip/frame.jpg`.
use super::folder::{dropped_note, no_images};
use crate::data::dataset::{Dataset, ImageHead, SampleImage};
use crate::data::decode::EXTENSIONS;
use crate::data::files::{read_image_file, read_image_head};
use crate::data::labels::ClassOrder;
use crate::data::listing;
use crate::data::natural;
use crate::data::notes::hidden_note;
use crate::data::paths::{PathList, parent, parent_name};
use crate::{Error, Result};
use clap::ValueEnum;
use fornax_engine::random::RngStream;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Choice of the frames of a clip.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClipSampling {
    /// One frame from each of T equal parts of the video
    #[default]
    Sparse,
    /// T consecutive frames
    Dense,
}

/// Number and choice of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClipOptions {
    /// Frames per clip.
    pub length: usize,
    /// Choice of the frames.
    pub sampling: ClipSampling,
}

impl ClipOptions {
    /// Indices of the frames of a video of `frames` frames: random with `rng`, else the middle of each part or of the video. A video
    /// that is too short repeats frames.
    pub fn frames(&self, frames: usize, rng: Option<&mut RngStream>) -> Vec<usize> {
        let length = self.length;
        let pick = |from: usize, until: usize, rng: &mut Option<&mut RngStream>| match rng {
            Some(rng) => from + rng.below((until - from) as u32) as usize,
            None => from + (until - from - 1) / 2,
        };
        let mut rng = rng;
        match self.sampling {
            _ if frames <= length => (0..length).map(|i| i * frames / length).collect(),
            ClipSampling::Sparse => {
                (0..length).map(|i| pick(i * frames / length, (i + 1) * frames / length, &mut rng)).collect()
            }
            ClipSampling::Dense => {
                let start = pick(0, frames - length + 1, &mut rng);
                (start..start + length).collect()
            }
        }
    }
}

/// Dataset of videos as folders of frames. A sample is a clip.
#[derive(Debug)]
pub struct VideoDataset {
    folder: PathBuf,
    /// All frames, those of a video one after the other in natural order.
    frames: PathList,
    /// Range of each video in `frames`.
    videos: Vec<[usize; 2]>,
    targets: Vec<u32>,
    classes: Arc<[String]>,
    options: ClipOptions,
}

impl VideoDataset {
    /// Opens the videos of a folder. Returns the dataset and notes about videos that are ignored.
    pub fn open(
        folder: &Path,
        options: ClipOptions,
        order: &ClassOrder,
    ) -> Result<(VideoDataset, Vec<String>)> {
        let listing = listing::list(folder, &EXTENSIONS)?;
        let frames = listing.files;
        if frames.is_empty() {
            return Err(no_images(
                folder,
                format!("no file in it or its subfolders ends in .{}", EXTENSIONS.join(", .")),
            ));
        }
        // By video first: names that differ only in leading zeros or case would alternate in the order of whole paths.
        let mut order_of_frames: Vec<usize> = (0..frames.len()).collect();
        order_of_frames.sort_by(|a, b| natural::compare(parent(frames.get(*a)), parent(frames.get(*b))));
        let frames = frames.select(&order_of_frames);
        let mut videos: Vec<[usize; 2]> = vec![];
        for index in 0..frames.len() {
            match videos.last_mut() {
                Some([first, end]) if parent(frames.get(*first)) == parent(frames.get(index)) => {
                    *end = index + 1
                }
                _ => videos.push([index, index + 1]),
            }
        }
        let class = |video: &[usize; 2]| parent_name(parent(frames.get(video[0])));
        if let Some(video) = videos.iter().find(|video| class(video).is_empty()) {
            return Err(Error::data("a video is not in the folder of a class")
                .at_path(&folder.join(frames.get(video[0])))
                .because("with --clip-len the frames of a video are class/video/frame.jpg")
                .remedy("put the folder of each video into the folder of its class"));
        }
        let labels = order.label(videos.iter().map(class), folder)?;
        let (kept, targets) = labels.kept();
        let notes =
            [listing.ignored.note(), hidden_note(&listing.hidden), dropped_note(videos.len() - kept.len())];
        let notes = notes.into_iter().flatten().collect();
        let videos = kept.into_iter().map(|i| videos[i]).collect();
        let dataset =
            VideoDataset { folder: folder.into(), frames, videos, targets, classes: labels.classes, options };
        Ok((dataset, notes))
    }

    fn frame(&self, index: usize) -> Result<SampleImage<'_>> {
        let path = self.folder.join(self.frames.get(index));
        Ok(SampleImage::Encoded(Cow::Owned(read_image_file(&path)?)))
    }
}

impl Dataset for VideoDataset {
    fn len(&self) -> usize {
        self.videos.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn target(&self, index: usize) -> u32 {
        self.targets[index]
    }

    fn image(&self, index: usize) -> Result<SampleImage<'_>> {
        let [first, end] = self.videos[index];
        self.frame(first + (end - first - 1) / 2)
    }

    fn image_heads(&self, index: usize, limit: usize) -> Result<Vec<ImageHead<'_>>> {
        let [first, end] = self.videos[index];
        (first..end).map(|frame| read_image_head(&self.folder.join(self.frames.get(frame)), limit)).collect()
    }

    fn location(&self, index: usize) -> String {
        self.folder.join(parent(self.frames.get(self.videos[index][0]))).display().to_string()
    }

    fn crc32c(&self) -> u32 {
        let append = |sum, target: &u32| crc32c::crc32c_append(sum, &target.to_le_bytes());
        self.targets.iter().fold(self.frames.crc32c(), append)
    }

    fn clip_len(&self) -> usize {
        self.options.length
    }

    fn clip(&self, index: usize, rng: Option<&mut RngStream>) -> Result<Vec<SampleImage<'_>>> {
        let [first, end] = self.videos[index];
        self.options.frames(end - first, rng).into_iter().map(|frame| self.frame(first + frame)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_engine::random::RngKey;

    #[test]
    fn frames_are_chosen_sparsely_and_densely() {
        let options = |length, sampling| ClipOptions { length, sampling };
        let sparse = options(4, ClipSampling::Sparse);
        let dense = options(4, ClipSampling::Dense);
        assert_eq!(sparse.frames(20, None), [2, 7, 12, 17]);
        assert_eq!(dense.frames(20, None), [8, 9, 10, 11]);
        assert_eq!(sparse.frames(4, None), [0, 1, 2, 3]);
        assert_eq!(dense.frames(2, None), [0, 0, 1, 1], "a short video repeats frames");
        let mut seen = [[false; 20]; 2];
        for sample in 0..500 {
            let mut rng = RngStream::new(RngKey::new(1, "clip"), 0, sample);
            let chosen = sparse.frames(20, Some(&mut rng));
            assert!((0..4).all(|i| (5 * i..5 * i + 5).contains(&chosen[i])), "{chosen:?}");
            chosen.iter().for_each(|frame| seen[0][*frame] = true);
            let chosen = dense.frames(20, Some(&mut rng));
            assert!(chosen.windows(2).all(|pair| pair[1] == pair[0] + 1), "{chosen:?}");
            chosen.iter().for_each(|frame| seen[1][*frame] = true);
        }
        assert_eq!(seen, [[true; 20]; 2], "every frame can be chosen");
    }

    #[test]
    fn clips_hold_the_frames_of_one_video() {
        let folder = tempfile::tempdir().expect("a folder");
        for video in ["run/v1", "run/v2", "jump/v10"] {
            std::fs::create_dir_all(folder.path().join(video)).expect("creates");
            for frame in 0..12 {
                std::fs::write(
                    folder.path().join(format!("{video}/{frame}.jpg")),
                    format!("{video} {frame}"),
                )
                .expect("writes");
            }
        }
        let options = ClipOptions { length: 3, sampling: ClipSampling::Sparse };
        let (dataset, notes) = VideoDataset::open(folder.path(), options, &ClassOrder::Found).expect("opens");
        assert_eq!((dataset.len(), dataset.clip_len(), notes.len()), (3, 3, 0));
        assert_eq!(
            (dataset.classes(), dataset.target(0), dataset.target(1)),
            (&["jump".into(), "run".into()][..], 0, 1)
        );
        let text = |image: &SampleImage| match image {
            SampleImage::Encoded(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            SampleImage::Decoded(_) => String::new(),
        };
        let clip = dataset.clip(2, None).expect("reads");
        assert_eq!(clip.iter().map(text).collect::<Vec<_>>(), ["run/v2 1", "run/v2 5", "run/v2 9"]);
        assert_eq!(text(&dataset.image(2).expect("reads")), "run/v2 5");
        std::fs::write(folder.path().join("run/stray.jpg"), "").expect("writes");
        let error =
            VideoDataset::open(folder.path(), options, &ClassOrder::Found).map(drop).expect_err("no video");
        assert!(error.to_string().contains("class/video/frame.jpg"), "{error}");
    }
}
