//! A reader of JSON that is as lenient as the Go plugins', because configurations
//! in the field rely on it: keys in any case, `null` for "not set", the last of
//! duplicate keys, unknown keys ignored.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

use crate::error::{Error, ErrorCode, Result};

/// Reads any value leniently.
///
/// # Errors
/// Code 6; `what` begins the message, the details name the key.
pub fn read_value<T: DeserializeOwned>(value: &Value, what: &str) -> Result<T> {
    serde_path_to_error::deserialize(Lenient(value))
        .map_err(|cause| Error::new(ErrorCode::DECODING, what).with_details(cause.to_string()))
}

/// The value of `key`, in upper or lower case; the last one of several.
pub fn find<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let folded = map.iter().rev().find(|(k, _)| k.eq_ignore_ascii_case(key));
    folded.map(|(_, value)| value)
}

/// A deserializer over a JSON value with the leniency of Go's `encoding/json`.
#[derive(Clone, Copy)]
struct Lenient<'de>(&'de Value);

impl<'de> IntoDeserializer<'de, serde_json::Error> for Lenient<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Lenient<'de> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Array(items) => {
                visitor.visit_seq(SeqDeserializer::new(items.iter().map(Lenient)))
            }
            Value::Object(map) => {
                let pairs = map
                    .iter()
                    .map(|(key, value)| (key.as_str(), Lenient(value)));
                visitor.visit_map(MapDeserializer::new(pairs))
            }
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    /// Only this function gets the names of the expected keys, so it matches them without
    /// regard to case. A key that is `null` is left out and gets its default.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        let map = match self.0 {
            Value::Object(map) => map,
            Value::Null => {
                return visitor.visit_map(MapDeserializer::new(std::iter::empty::<(&str, Self)>()));
            }
            other => return Err(de::Error::invalid_type(unexpected(other), &visitor)),
        };
        let known = fields.iter().filter_map(|field| {
            let value = find(map, field).filter(|v| !v.is_null())?;
            Some((*field, Lenient(value)))
        });
        visitor.visit_map(MapDeserializer::new(known))
    }

    /// `null` inside a list is an empty text, as in Go.
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Null => visitor.visit_borrowed_str(""),
            _ => self.deserialize_any(visitor),
        }
    }

    /// `null` inside a list is an empty list, as in Go.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Null => visitor.visit_seq(SeqDeserializer::new(std::iter::empty::<Self>())),
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str bytes byte_buf
        unit unit_struct tuple tuple_struct map enum identifier ignored_any
    }
}

fn unexpected(value: &Value) -> de::Unexpected<'_> {
    match value {
        Value::Null => de::Unexpected::Unit,
        Value::Bool(b) => de::Unexpected::Bool(*b),
        Value::Number(_) => de::Unexpected::Other("a number"),
        Value::String(s) => de::Unexpected::Str(s),
        Value::Array(_) => de::Unexpected::Seq,
        Value::Object(_) => de::Unexpected::Map,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Sample {
        mtu: u32,
        data_dir: String,
        list: Vec<String>,
        inner: Option<Box<Sample>>,
    }

    fn sample(text: &str) -> Result<Sample> {
        read_value(
            &serde_json::from_str(text).unwrap(),
            "failed to load netconf",
        )
    }

    #[test]
    fn keys_are_matched_in_any_case_and_the_last_duplicate_wins() {
        assert_eq!(
            sample(r#"{"MTU":1,"DATADIR":"/a","dataDir":"/b"}"#)
                .unwrap()
                .data_dir,
            "/b"
        );
        assert_eq!(sample(r#"{"mtu":1,"mtu":2}"#).unwrap().mtu, 2);
        assert_eq!(
            sample(r#"{"inner":{"Mtu":7}}"#).unwrap().inner.unwrap().mtu,
            7
        );
    }

    #[test]
    fn null_anywhere_means_not_set() {
        assert_eq!(
            sample(r#"{"mtu":null,"dataDir":null,"list":null,"inner":null}"#).unwrap(),
            Sample::default()
        );
        assert_eq!(sample(r#"{"list":["a",null]}"#).unwrap().list, ["a", ""]);
        assert_eq!(sample("null").unwrap(), Sample::default());
    }

    #[test]
    fn a_number_must_be_written_as_an_integer() {
        for wrong in ["1500.0", "\"1500\"", "1.5e3", "-1", "true", "[]", "{}"] {
            assert!(sample(&format!("{{\"mtu\":{wrong}}}")).is_err(), "{wrong}");
        }
    }
}
