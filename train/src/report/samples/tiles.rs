//! Tiles of a mosaic with their captions, as JSON next to the PNG: the page shows them as separate images with text.
use super::grid::{CaptionTone, CaptionedImage, ImageGrid};
use crate::run_files::regular;
use serde_json::{Value, json};
use std::path::Path;

/// The tiles of a mosaic: position and size in pixels, label, and note with its tone.
pub fn tiles_json(grid: &ImageGrid, images: &[CaptionedImage]) -> String {
    let tile = |([x, y, width, height], entry): (&[usize; 4], &CaptionedImage)| {
        let tone = entry.note.as_ref().map(|note| match note.tone {
            CaptionTone::Neutral => "neutral",
            CaptionTone::Correct => "correct",
            CaptionTone::Wrong => "wrong",
        });
        let note = entry.note.as_ref().map(|note| &note.text);
        json!({ "x": x, "y": y, "width": width, "height": height, "label": entry.label, "note": note, "tone": tone })
    };
    let tiles: Vec<Value> = grid.tiles.iter().zip(images).map(tile).collect();
    format!("{}\n", Value::from(tiles))
}

/// The tiles of a mosaic, from the file next to it; an empty list if there is none.
pub fn read_tiles(mosaic: &Path) -> Value {
    let text = regular::read_to_string(&mosaic.with_extension("json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_else(|_| json!([]))
}
