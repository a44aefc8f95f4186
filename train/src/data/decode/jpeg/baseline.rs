//! Entropy-coded data of a baseline JPEG. All of them above the region's last row are read.
use super::ac_code::AcCode;
use super::header::Jpeg;
use super::region::RegionPixels;
use super::scan::ScanData;
use fornax_engine::ImageBox;

/// Pixels of a region of the image, 1 (grey) or 3 (RGB) bytes each. `None` if the data are damaged or truncated.
pub fn decode(jpeg: &Jpeg<'_>, region: ImageBox) -> Option<Vec<u8>> {
    let tables = &jpeg.tables;
    let quantization: Vec<&[u16; 64]> = jpeg
        .components
        .iter()
        .map(|component| tables.quantization.get(component.quantization)?.as_deref())
        .collect::<Option<_>>()?;
    let codes: Vec<_> = jpeg
        .scan
        .components
        .iter()
        .map(|choice| {
            let (dc, ac) = (tables.dc.get(choice.dc)?.as_ref()?, tables.ac.get(choice.ac)?.as_ref()?);
            Some((dc, AcCode::cached(ac)))
        })
        .collect::<Option<_>>()?;
    let mut pixels = RegionPixels::new(jpeg, region, &quantization);
    let data = ScanData::new(jpeg.scan.data);
    let mut reader = data.reader(tables.restart_interval)?;
    let mut dc = [0i32; 3];
    for mcu_row in 0..pixels.mcu_rows.end {
        for mcu_column in 0..jpeg.mcus()[1] {
            if reader.next_mcu()? {
                dc = [0; 3];
            }
            let is_needed = mcu_row >= pixels.mcu_rows.start && pixels.mcu_columns.contains(&mcu_column);
            for (k, ((dc_code, ac_code), plane)) in codes.iter().zip(&mut pixels.planes).enumerate() {
                let [down, across] = jpeg.components[k].sampling;
                for y in 0..down {
                    for x in 0..across {
                        dc[k] = dc[k].wrapping_add(reader.bits.dc(dc_code)?);
                        if is_needed {
                            let column = (mcu_column - pixels.mcu_columns.start) * across + x;
                            let place = [8 * (mcu_row * down + y), column];
                            plane.read_block(place, dc[k] as i16, &mut reader.bits, ac_code)?;
                        } else {
                            ac_code.skip(&mut reader.bits)?;
                        }
                    }
                }
            }
        }
        if reader.bits.is_past_end() {
            return None;
        }
        if mcu_row >= pixels.mcu_rows.start {
            pixels.finish_mcu_row(mcu_row);
        }
    }
    Some(pixels.into_pixels())
}
