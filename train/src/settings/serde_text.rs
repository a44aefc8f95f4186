//! Serialization of optional settings as the text of their flag.
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// For types with flag values by [`clap::ValueEnum`].
pub mod value_enum {
    use super::*;
    use clap::ValueEnum;

    /// Serializes the name of the value.
    pub fn serialize<T: ValueEnum, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let name = |value: &T| Some(value.to_possible_value()?.get_name().to_string());
        value.as_ref().and_then(name).serialize(serializer)
    }

    /// Deserializes a value from its name.
    pub fn deserialize<'de, T: ValueEnum, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        let name: Option<String> = Deserialize::deserialize(deserializer)?;
        let parse = |name: String| {
            T::from_str(&name, false).map_err(|_| {
                let names: Vec<String> = T::value_variants()
                    .iter()
                    .filter_map(|value| Some(value.to_possible_value()?.get_name().to_string()))
                    .collect();
                D::Error::custom(format!("{name:?} is not one of {}", names.join(", ")))
            })
        };
        name.map(parse).transpose()
    }
}

/// For types that are parsed from and printed as text.
pub mod parsed {
    use super::*;
    use std::fmt::Display;
    use std::str::FromStr;

    /// Serializes the text of the value.
    pub fn serialize<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(T::to_string).serialize(serializer)
    }

    /// Deserializes a value from its text.
    pub fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        let text: Option<String> = Deserialize::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}
