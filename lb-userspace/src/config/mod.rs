//! The configuration: file as written → validated model.
//!
//! [`read()`] is the way in. It collects the files, `reading` turns TOML into the sections of `file`, `validate` turns
//! those into the model, and `warn` looks for what is legal but surely not meant. Every problem goes into one [`Report`].

mod defaults;
mod file;
mod leaf;
pub mod model;
mod read;
pub(crate) mod reading;
mod report;
pub mod route_path;
mod system;
pub(crate) mod units;
mod validate;
mod warn;

pub use read::{Loaded, read, read_text};
pub use report::{Entry, Place, Problem, Report, Severity, Source};
pub use system::{Running, System};
pub use units::{ByteSize, Percentage, Timespan, UnitError};

/// The JSON Schema of the file, for editors.
pub fn schema() -> String {
    let settings = schemars::generate::SchemaSettings::draft2020_12();
    let schema = settings.into_generator().into_root_schema_for::<reading::Root<file::File>>();
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is plain JSON");
    text.push('\n');
    text
}
