//! A device described in words, to plan for one that is not there.
use super::api::Api;
use super::descriptor::{Descriptor, Kind, Name};
use crate::cuda::library::LibraryError;

/// Properties of a device: enough for heuristics and plans, not to run them.
pub struct DeviceProperties(pub(super) Descriptor);

impl DeviceProperties {
    /// Reads cuDNN's JSON text of device properties (cuDNN 9.8 and later).
    pub fn from_json(json: &str) -> Result<DeviceProperties, LibraryError> {
        let api = Api::get()?;
        let mut text = json.as_bytes().to_vec();
        text.push(0);
        let properties = Descriptor::new(api, Kind::CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR)?
            .set(Name::CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, &text)?
            .finish()?;
        Ok(DeviceProperties(properties))
    }
}
