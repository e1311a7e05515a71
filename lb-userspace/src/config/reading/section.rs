//! The macros that make sections and choices of words from a list, and their JSON Schema.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::FromToml;

/// What [`section!`] knows of one key.
#[derive(Debug)]
pub struct Key {
    /// As written.
    pub name: &'static str,
    /// Whether it must be there.
    pub required: bool,
    /// Its documentation.
    pub about: &'static str,
}

/// The JSON Schema of a section.
pub fn section_schema(about: &str, keys: Vec<(Key, Schema, Option<serde_json::Value>)>) -> Schema {
    let required: Vec<&str> =
        keys.iter().filter(|(key, ..)| key.required).map(|(key, ..)| key.name).collect();
    let mut properties = serde_json::Map::new();
    for (key, mut schema, default) in keys.iter().map(|(key, schema, default)| (key, schema.clone(), default))
    {
        schema.insert("description".to_owned(), key.about.trim().into());
        if let Some(default) = default {
            schema.insert("default".to_owned(), default.clone());
        }
        properties.insert(key.name.to_owned(), schema.to_value());
    }
    let mut schema = json_schema!({
        "type": "object",
        "description": about.trim(),
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        schema.insert("required".to_owned(), required.into());
    }
    schema
}

/// A section: `must` keys are required, `may` keys are not, `later` keys are not implemented yet.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        pub struct $Name:ident {
            $( $(#[doc = $key_about:literal])+ $need:ident $key:ident: $Type:ty $(= $default:expr)?, )*
        }
        $( later $later:ident: $meanwhile:literal; )*
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug)]
        pub struct $Name {
            $( $(#[doc = $key_about])+ pub $key: $crate::config::reading::Field<$Type>, )*
        }

        impl $crate::config::reading::FromToml for $Name {
            fn from_toml(
                value: &toml::de::DeValue<'_>,
                place: $crate::config::report::Place,
                reading: &mut $crate::config::reading::Reading<'_>,
            ) -> Option<Self> {
                use $crate::config::reading::Field;
                const KEYS: &[&str] = &[$(stringify!($key)),*];
                let mut section = Self { $($key: Field::Absent),* };
                for (key, value) in $crate::config::reading::table(value, place, reading)? {
                    match key.get_ref().as_ref() {
                        $( stringify!($key) => section.$key = reading.field(stringify!($key), value), )*
                        $( stringify!($later) => reading.not_yet_key(key, $meanwhile), )*
                        _ => reading.unknown_key(key, KEYS),
                    }
                }
                $( if section!(@required $need) && section.$key.is_absent() {
                    section.$key = reading.missing_key(place, stringify!($key), concat!($($key_about),+).trim());
                } )*
                Some(section)
            }

            fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                use $crate::config::reading::{Key, section_schema};
                section_schema(concat!($($about),+), vec![$((
                    Key {
                        name: stringify!($key),
                        required: section!(@required $need),
                        about: concat!($($key_about),+),
                    },
                    <$Type as $crate::config::reading::FromToml>::schema(generator),
                    section!(@default $($default)?),
                )),*])
            }
        }
    };
    (@required must) => { true };
    (@required may) => { false };
    (@default) => { None };
    (@default $default:expr) => { Some(serde_json::json!($default)) };
}
pub(crate) use section;

/// A choice of words: `later` words are not implemented yet.
macro_rules! choice {
    ($Type:ty, $expected:literal { $($word:literal => $value:expr),+ $(,)? } $(later { $($later:literal: $meanwhile:literal),+ $(,)? })?) => {
        impl $crate::config::reading::FromText for $Type {
            const EXPECTED: &'static str = $expected;
            const EXAMPLE: &'static str = choice!(@first $($word)+);
            fn from_text(text: &str) -> Result<Self, $crate::config::reading::Refusal> {
                match text {
                    $( $word => Ok($value), )+
                    $( $( $later => Err($crate::config::reading::not_yet(text, $meanwhile)), )+ )?
                    _ => Err($crate::config::reading::unknown_word(text, $expected, &[$($word),+])),
                }
            }
            fn text_schema() -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "enum": [$($word),+] })
            }
        }
    };
    (@first $word:literal $($rest:literal)*) => { $word };
}
pub(crate) use choice;

/// Makes schemars' generator take a section as the root.
#[derive(Debug)]
pub struct Root<T>(std::marker::PhantomData<T>);

impl<T: FromToml> JsonSchema for Root<T> {
    fn schema_name() -> Cow<'static, str> {
        "lbctl configuration".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::schema(generator)
    }
}
