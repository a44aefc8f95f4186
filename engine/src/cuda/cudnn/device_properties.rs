//! Device properties, for planning without a device.
use super::api::CudnnApi;
use super::descriptor::{AttributeName, Descriptor, DescriptorType};
use crate::cuda::LibraryError;

/// Properties of a device, which suffice for heuristics and plans without the device.
pub struct DeviceProperties(pub(super) Descriptor);

impl DeviceProperties {
    /// Parses cuDNN's JSON format of device properties (cuDNN 9.8 and later).
    pub fn from_json(json: &str) -> Result<DeviceProperties, LibraryError> {
        let api = CudnnApi::get()?;
        let mut text = json.as_bytes().to_vec();
        text.push(0);
        let properties = Descriptor::new(api, DescriptorType::CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR)?
            .set(AttributeName::CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, &text)?
            .finalize()?;
        Ok(DeviceProperties(properties))
    }
}
