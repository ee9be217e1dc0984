//! Reads the proto3 JSON mapping piece by piece, so that one bad value costs its own message and no other.
//!
//! `serde_json` quotes bad values in its errors, so they end here: what leaves is a field name, or a line and a column.
//! A value stays raw until its type is known, and raw values are skipped without recursion, so depth costs no stack.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Why a text is no object of the expected kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ObjectError {
    /// It is not JSON, or not an object.
    Malformed {
        /// Line, counted from 1.
        line: usize,
        /// Column in bytes, counted from 1; 0 at the end of a line.
        column: usize,
    },
    /// A field occurs twice, under either of its names.
    Twice(&'static str),
}

/// Reads an object and hands out the named fields, each given as its lowerCamelCase and its original name. Unknown fields are
/// skipped; a field that is absent or `null` is `None`, which stands for its default.
pub(super) fn object<'a, const N: usize>(
    text: &'a str,
    names: [(&'static str, &'static str); N],
) -> Result<[Option<&'a RawValue>; N], ObjectError> {
    let mut twice = None;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = Fields { names, twice: &mut twice }.deserialize(&mut deserializer).and_then(|fields| deserializer.end().map(|()| fields));
    read.map_err(|error| match twice {
        Some(field) => ObjectError::Twice(field),
        None => ObjectError::Malformed { line: error.line(), column: error.column() },
    })
}

/// Why a raw value is no list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListError {
    /// It is something else.
    NotAList,
    /// It has more elements than allowed.
    TooLong,
}

/// The elements of a list, at most `limit` of them.
pub(super) fn list(value: &RawValue, limit: usize) -> Result<Vec<&RawValue>, ListError> {
    let mut too_long = false;
    let mut deserializer = serde_json::Deserializer::from_str(value.get());
    Elements { limit, too_long: &mut too_long }.deserialize(&mut deserializer).map_err(|_| match too_long {
        true => ListError::TooLong,
        false => ListError::NotAList,
    })
}

/// A string; `None` for anything else, lone surrogates included.
pub(super) fn string(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// A bool; `None` for anything else.
pub(super) fn boolean(value: &RawValue) -> Option<bool> {
    serde_json::from_str(value.get()).ok()
}

/// `bytes` from their base64 text: the standard or the URL-safe alphabet, padded or not.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    let engine = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    engine.decode(text).ok()
}

struct Fields<'s, const N: usize> {
    names: [(&'static str, &'static str); N],
    twice: &'s mut Option<&'static str>,
}

impl<'de, const N: usize> DeserializeSeed<'de> for Fields<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Fields<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let Some(index) = self.names.iter().position(|(camel, snake)| key == *camel || key == *snake) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if found[index].replace(map.next_value::<&'de RawValue>()?).is_some() {
                *self.twice = Some(self.names[index].0);
                return Err(A::Error::custom("a field occurs twice"));
            }
        }
        Ok(found.map(|value| value.filter(|value| value.get() != "null")))
    }
}

struct Elements<'s> {
    limit: usize,
    too_long: &'s mut bool,
}

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = Vec<&'de RawValue>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element()? {
            if elements.len() == self.limit {
                *self.too_long = true;
                return Err(A::Error::custom("too many elements"));
            }
            elements.push(element);
        }
        Ok(elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [(&str, &str); 2] = [("scmId", "scm_id"), ("pat", "pat")];

    #[test]
    fn both_spellings_of_a_name_are_read_and_null_counts_as_absent() {
        for text in [r#"{"scmId":"x","more":[1]}"#, r#"{"scm_id":"x"}"#, r#"{"scm\u0049d":"x","pat":null}"#] {
            let [scm_id, pat] = object(text, NAMES).unwrap();
            assert_eq!(string(scm_id.unwrap()).unwrap(), "x");
            assert!(pat.is_none());
        }
    }

    #[test]
    fn a_field_that_occurs_twice_under_either_name_is_named() {
        for text in [r#"{"scmId":"x","scm_id":"y"}"#, r#"{"scmId":null,"scmId":"y"}"#] {
            assert_eq!(object(text, NAMES).unwrap_err(), ObjectError::Twice("scmId"));
        }
    }

    #[test]
    fn what_is_not_one_object_is_malformed() {
        for text in ["", "[]", "null", "\"a\"", "{}{}", "{", "\u{feff}{}", "{\"pat\":NaN}", "{\"pat\":\"a\nb\"}"] {
            assert!(matches!(object(text, NAMES), Err(ObjectError::Malformed { .. })), "{text:?}");
        }
        assert_eq!(object("{\n \"pat\": ?}", NAMES).unwrap_err(), ObjectError::Malformed { line: 2, column: 9 });
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep =
            format!("{{\"more\":{}{},\"pat\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000), "[".repeat(100_000), "]".repeat(100_000));
        let [_, pat] = object(&deep, NAMES).unwrap();
        assert!(boolean(pat.unwrap()).is_none() && string(pat.unwrap()).is_none());
        assert_eq!(list(pat.unwrap(), 9).unwrap().len(), 1);
    }

    #[test]
    fn a_list_is_cut_off_at_its_limit() {
        let raw = RawValue::from_string("[1,2,3]".into()).unwrap();
        assert_eq!(list(&raw, 3).unwrap().len(), 3);
        assert_eq!(list(&raw, 2).unwrap_err(), ListError::TooLong);
        assert_eq!(list(&RawValue::from_string("{}".into()).unwrap(), 2).unwrap_err(), ListError::NotAList);
    }

    #[test]
    fn bytes_are_read_in_both_alphabets_padded_or_not() {
        for text in ["+/8=", "+/8", "-_8=", "-_8"] {
            assert_eq!(base64(text).unwrap(), [0xfb, 0xff], "{text}");
        }
        for text in ["+_8=", "a", "+/8==", "+/8 ", "+/8\n", "ä"] {
            assert!(base64(text).is_none(), "{text:?}");
        }
        assert!(base64("").unwrap().is_empty());
    }

    #[test]
    fn a_lone_surrogate_is_no_text() {
        assert!(string(&RawValue::from_string(r#""\ud800""#.into()).unwrap()).is_none());
    }
}
