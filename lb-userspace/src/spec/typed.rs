//! JSON to the types of one kind, with every error and every unknown field placed by its path.

use std::cell::RefCell;

use serde::{
    Deserializer,
    de::{DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor, value::StrDeserializer},
    forward_to_deserialize_any,
};
use serde_ignored::Path;
use serde_path_to_error::{Segment, Track};

use super::node::{push_field, push_index};

/// The outcome of [`typed`].
pub struct Typed<T> {
    pub value: Result<T, WrongType>,
    pub unknown: Vec<UnknownField>,
}

/// A value that does not fit its field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongType {
    pub path: String,
    pub message: String,
    pub remedy: &'static str,
}

/// A field the type does not have, and the field it has whose name is nearest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownField {
    pub path: String,
    pub nearest: Option<&'static str>,
}

/// Reads `json`, which stands at `prefix` in its object, as a `T`.
pub fn typed<T: DeserializeOwned>(json: serde_json::Value, prefix: &str) -> Typed<T> {
    let mut ignored: Vec<Vec<Step>> = Vec::new();
    let mut track = Track::new();
    let tracked = serde_path_to_error::Deserializer::new(json, &mut track);
    let mut note = |path: Path<'_>| ignored.push(steps(&path));
    let result = read::<T>(serde_ignored::Deserializer::new(tracked, &mut note));
    let value = result.map_err(|error| {
        let mut path = prefix.to_owned();
        for segment in track.path().iter() {
            match segment {
                Segment::Seq { index } => push_index(&mut path, *index),
                Segment::Map { key } => push_field(&mut path, key),
                Segment::Enum { .. } | Segment::Unknown => {}
            }
        }
        wrong_type(path, &error.to_string())
    });
    let unknown = ignored.iter().map(|steps| unknown_field::<T>(prefix, steps)).collect();
    Typed { value, unknown }
}

/// Behind one `dyn` the reading of a type is compiled once, not once for each way of reading: that halves the build.
fn read<'de, T: DeserializeOwned>(from: impl Deserializer<'de>) -> Result<T, erased_serde::Error> {
    erased_serde::deserialize(&mut <dyn erased_serde::Deserializer>::erase(from))
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(usize),
}

fn steps(path: &Path<'_>) -> Vec<Step> {
    let (parent, step) = match path {
        Path::Root => return Vec::new(),
        Path::Seq { parent, index } => (parent, Some(Step::Index(*index))),
        Path::Map { parent, key } => (parent, Some(Step::Field(key.clone()))),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => (parent, None),
    };
    let mut out = steps(parent);
    out.extend(step);
    out
}

fn unknown_field<T: DeserializeOwned>(prefix: &str, steps: &[Step]) -> UnknownField {
    let mut path = prefix.to_owned();
    for step in steps {
        match step {
            Step::Field(key) => push_field(&mut path, key),
            Step::Index(index) => push_index(&mut path, *index),
        }
    }
    let nearest = match steps.split_last() {
        Some((Step::Field(key), parents)) => nearest(key, fields_at::<T>(parents)),
        _ => None,
    };
    UnknownField { path, nearest }
}

/// Says what serde found in the words of someone who writes YAML.
fn wrong_type(path: String, error: &str) -> WrongType {
    let Some((found, expected)) = error.split_once(", expected ") else {
        return WrongType { path, message: error.to_owned(), remedy: "Correct the value." };
    };
    let found = found.trim_start_matches("invalid type: ").trim_start_matches("invalid value: ");
    let expected = match expected {
        "a string" => "text",
        "a boolean" => "true or false",
        "a map" => "a mapping",
        "a sequence" => "a list",
        other if other.starts_with("struct ") => "a mapping",
        "u16" | "u32" | "u64" => "a whole number, zero or more",
        "i32" | "i64" => "a whole number",
        other => other,
    };
    let remedy = match (expected, found) {
        ("text", found) if found.starts_with("boolean") => {
            "Put the value in quotes: without, YAML reads true, yes, on, y and their opposites as booleans."
        }
        ("text", found) if !found.starts_with("map") && !found.starts_with("sequence") => "Put the value in quotes.",
        ("a whole number, zero or more" | "a whole number" | "true or false", found) if found.starts_with("string") => {
            "Write the value without quotes."
        }
        _ => "Correct the value.",
    };
    let found = found.replace("floating point ", "number ").replace("sequence", "a list").replace("map", "a mapping");
    WrongType { path, message: format!("expected {expected}, found {found}"), remedy }
}

/// The candidate at most two edits away from `key`, or equal to it but for case and `_`.
pub fn nearest(key: &str, candidates: &[&'static str]) -> Option<&'static str> {
    let plain = |text: &str| text.replace(['_', '-'], "").to_lowercase();
    let key = plain(key);
    if key.len() > 64 {
        return None;
    }
    let scored = candidates.iter().map(|candidate| (edits(&key, &plain(candidate)), *candidate));
    scored
        .filter(|(edits, candidate)| *edits <= 2 && *edits * 2 < candidate.len())
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The fields of the struct that stands at `steps` inside a `T`, learned by asking `T` to read exactly that path.
fn fields_at<T: DeserializeOwned>(steps: &[Step]) -> &'static [&'static str] {
    let found = RefCell::new(None);
    // The probe ends every reading with an error; what it learned is in `found`.
    let _ = read::<T>(Probe { steps, found: &found });
    found.into_inner().unwrap_or(&[])
}

#[derive(Clone, Copy)]
struct Probe<'p> {
    steps: &'p [Step],
    found: &'p RefCell<Option<&'static [&'static str]>>,
}

type ProbeError = serde::de::value::Error;

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = ProbeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ProbeError> {
        match self.steps.first() {
            Some(Step::Field(_)) => visitor.visit_map(self),
            Some(Step::Index(_)) => visitor.visit_seq(self),
            None => Err(serde::de::Error::custom("the probe has arrived")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ProbeError> {
        visitor.visit_some(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ProbeError> {
        if self.steps.is_empty() {
            *self.found.borrow_mut() = Some(fields);
        }
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for Probe<'_> {
    type Error = ProbeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ProbeError> {
        match self.steps.first() {
            Some(Step::Field(key)) => seed.deserialize(StrDeserializer::new(key)).map(Some),
            _ => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ProbeError> {
        seed.deserialize(Probe { steps: self.steps.get(1..).unwrap_or(&[]), found: self.found })
    }
}

impl<'de> SeqAccess<'de> for Probe<'_> {
    type Error = ProbeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, ProbeError> {
        seed.deserialize(Probe { steps: self.steps.get(1..).unwrap_or(&[]), found: self.found }).map(Some)
    }
}
