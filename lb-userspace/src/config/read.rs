//! Reads the configuration from disk: the file, what it includes, and one report about all of it. Effectful: files.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeTable;

use super::file::File;
use super::model::Model;
use super::reading::{FromToml, Located, Reading};
use super::report::{Place, Problem, Report, Severity, Source};
use super::system::{Running, System};
use super::{validate, warn};
use crate::limits::{CONFIG_BYTES_MAX, CONFIG_FILES_MAX};

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The model.
    pub model: Model,
    /// What is legal but surely not meant; holds no errors.
    pub warnings: Report,
    /// Every file that was read, the first one first.
    pub files: Vec<PathBuf>,
}

/// A file with the sections found in it.
#[derive(Debug)]
pub(super) struct Parsed {
    /// The folder that relative paths of this file start from; absolute.
    pub folder: PathBuf,
    /// Its sections.
    pub sections: File,
}

/// Reads the file at `path` and what it includes.
///
/// # Errors
/// A report of every error, with the warnings beside them.
pub fn read(path: &Path) -> Result<Loaded, Report> {
    read_for(path, &Running)
}

/// The same as [`read`] for a machine that may be another one.
///
/// # Errors
/// As [`read`].
pub fn read_for(path: &Path, system: &dyn System) -> Result<Loaded, Report> {
    let mut collection = Collection::default();
    match file_text(path) {
        Ok(text) => {
            collection.seen.extend(path.canonicalize());
            collection.files.push(path.to_owned());
            collection.add_main(&path.display().to_string(), text, path.parent().unwrap_or(Path::new("")));
            collection.warn_of_open_permissions(path);
        }
        Err(problem) => collection.problems.push(*problem),
    }
    collection.finish(system)
}

/// Reads `text`, which is called `name` in reports and whose relative paths start from `base`.
///
/// # Errors
/// As [`read`].
pub fn read_text(name: &str, text: &str, base: &Path) -> Result<Loaded, Report> {
    let mut collection = Collection::default();
    collection.add_main(name, text.to_owned(), base);
    collection.finish(&Running)
}

/// Files as they are read.
#[derive(Default)]
struct Collection {
    sources: Vec<Source>,
    parsed: Vec<Parsed>,
    problems: Vec<Problem>,
    files: Vec<PathBuf>,
    /// Canonical paths, so that a pattern that matches the including file does no harm.
    seen: BTreeSet<PathBuf>,
}

impl Collection {
    fn add_main(&mut self, name: &str, text: String, folder: &Path) {
        self.add(name, text, folder);
        let include = self.parsed.first().and_then(|main| main.sections.include.get()).cloned();
        for pattern in include.unwrap_or_default() {
            self.include(&pattern, folder);
        }
    }

    /// Parses one file. With a mistake in its syntax nothing else is said about it.
    fn add(&mut self, name: &str, text: String, folder: &Path) {
        let file = self.sources.len();
        let mut reading = Reading::new(file, &mut self.problems);
        let (table, errors) = DeTable::parse_recoverable(&text);
        for error in &errors {
            let span = error.span().unwrap_or(0..0);
            reading.syntax_error(span, error.message());
        }
        if errors.is_empty() {
            let place = reading.place(0..0);
            let document = toml::de::DeValue::Table(table.into_inner());
            if let Some(sections) = File::from_toml(&document, place, &mut reading) {
                let folder = std::path::absolute(folder).unwrap_or_else(|_| PathBuf::from("/").join(folder));
                self.parsed.push(Parsed { folder, sections });
            }
        }
        // `parsed` and `sources` go in step only where no syntax is wrong; validation does not run otherwise.
        self.sources.push(Source { name: name.to_owned(), text });
    }

    fn include(&mut self, pattern: &Located<String>, folder: &Path) {
        let paths = match matches(pattern, folder) {
            Ok(paths) => paths,
            Err(problem) => return self.problems.push(*problem),
        };
        for path in paths {
            if !self.seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())) {
                continue;
            }
            if self.files.len() >= CONFIG_FILES_MAX {
                self.problems.push(too_many(pattern.place));
                return;
            }
            self.add_included(&path, pattern.place);
        }
    }

    fn add_included(&mut self, path: &Path, place: Place) {
        let text = match file_text(path) {
            Ok(text) => text,
            Err(problem) => {
                let place = Some((place, "included here".to_owned()));
                let hint = "correct the `include`, or see that lbctl can read the file".to_owned();
                return self.problems.push(Problem { place, hint, ..*problem });
            }
        };
        self.files.push(path.to_owned());
        let before = self.parsed.len();
        self.add(&path.display().to_string(), text, path.parent().unwrap_or(Path::new("")));
        self.warn_of_open_permissions(path);
        if let Some(further) = self.parsed.get(before).and_then(|file| file.sections.include.located()) {
            let message = format!("{} is included and may not include further files", path.display());
            let hint = "name all files in the `include` of the first file";
            self.problems.push(Problem::error(further.place, message, "an include inside an include", hint));
        }
    }

    /// Whoever may write the configuration may run commands as the users in it.
    fn warn_of_open_permissions(&mut self, path: &Path) {
        const WRITABLE_BY_OTHERS: u32 = 0o002;
        if path.metadata().is_ok_and(|found| found.is_file() && found.mode() & WRITABLE_BY_OTHERS != 0) {
            let message = format!("{} can be written by every user of this machine", path.display());
            let hint = format!("every user can run commands through it: `chmod o-w {}`", path.display());
            self.problems.push(Problem { severity: Severity::Warning, ..Problem::of_file(message, hint) });
        }
    }

    fn finish(mut self, system: &dyn System) -> Result<Loaded, Report> {
        let sources = Arc::new(self.sources);
        if self.parsed.len() != sources.len() || sources.is_empty() {
            return Err(Report::new(self.problems, sources));
        }
        let model = validate::validate(&self.parsed, system, &mut self.problems);
        if self.problems.iter().all(|problem| problem.severity == Severity::Warning) {
            warn::warn(&self.parsed, &sources, &model, system, &mut self.problems);
        }
        let report = Report::new(self.problems, sources);
        if report.has_errors() {
            return Err(report);
        }
        Ok(Loaded { model, warnings: report, files: self.files })
    }
}

/// The files that `pattern` names, sorted.
fn matches(pattern: &Located<String>, folder: &Path) -> Result<Vec<PathBuf>, Box<Problem>> {
    let refuse = |message: String, label: &str, hint: &str| {
        Box::new(Problem::error(pattern.place, message, label, hint))
    };
    let (parent, last) = pattern.value.rsplit_once('/').unwrap_or(("", &pattern.value));
    if parent.contains(['*', '?', '[']) || last.contains("**") {
        let message = format!("include: \"{}\" has a pattern in its folders", pattern.value);
        return Err(refuse(message, "a pattern above the last part", "patterns stand in the file name only"));
    }
    if !last.contains(['*', '?', '[']) {
        return Ok(vec![folder.join(&pattern.value)]);
    }
    // The folder is taken literally: it may hold characters that mean something in a pattern.
    let folder = folder.join(parent);
    let escaped = glob::Pattern::escape(&folder.to_string_lossy());
    let whole = Path::new(&escaped).join(last);
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
    let found = glob::glob_with(&whole.to_string_lossy(), options).map_err(|error| {
        let message = format!("include: \"{}\" is not a pattern: {}", pattern.value, error.msg);
        refuse(message, "not a pattern", "* and ? and [abc] have a meaning in patterns")
    })?;
    let paths: Result<Vec<PathBuf>, glob::GlobError> = found.take(CONFIG_FILES_MAX + 1).collect();
    let mut paths = paths.map_err(|error| {
        let message = format!("include: {}: {}", error.path().display(), error.error());
        refuse(message, "cannot be read", "run as a user who may read that folder, or change its mode")
    })?;
    paths.sort();
    Ok(paths)
}

/// The text of a file, of which too much is not read.
fn file_text(path: &Path) -> Result<String, Box<Problem>> {
    let shown = path.display();
    let cannot_read = |error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "name the configuration with -c FILE, or create this file",
            std::io::ErrorKind::PermissionDenied => "run as a user who may read it, or change its mode",
            _ => "name a readable file with -c FILE",
        };
        Box::new(Problem::of_file(format!("{shown}: cannot be read: {error}"), hint))
    };
    // Not blocking: a pipe without a writer must not hold us up before it is refused.
    let mut options = std::fs::OpenOptions::new();
    let file = options
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)
        .map_err(cannot_read)?;
    if !file.metadata().map_err(cannot_read)?.is_file() {
        let hint = "name a file; folders, pipes and devices are not read";
        return Err(Box::new(Problem::of_file(format!("{shown}: not a regular file"), hint)));
    }
    let mut bytes = Vec::new();
    file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot_read)?;
    if bytes.len() as u64 > CONFIG_BYTES_MAX {
        let message = format!("{shown}: larger than {} MiB", CONFIG_BYTES_MAX >> 20);
        return Err(Box::new(Problem::of_file(
            message,
            "a configuration of that size is surely another file",
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1;
        let message = format!("{shown}:{line}: not UTF-8 text (byte {offset})");
        Box::new(Problem::of_file(message, "TOML is UTF-8: save the file in that encoding"))
    })
}

fn too_many(place: Place) -> Problem {
    let message = format!("include: more than {CONFIG_FILES_MAX} files");
    Problem::error(place, message, "matches too many files", "put several sections into one file")
}

#[cfg(test)]
mod tests;
