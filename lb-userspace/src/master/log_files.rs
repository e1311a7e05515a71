//! The access and error logs that workers write: opened here, because workers may not, and opened again when they were moved.
//!
//! Effectful: opens files.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::append;
use crate::config::model::Log;
use crate::link::Attachment;

/// The open logs by what they are for.
#[derive(Default)]
pub struct LogFiles {
    access: Option<(PathBuf, Arc<OwnedFd>)>,
    error: Option<(PathBuf, Arc<OwnedFd>)>,
}

impl LogFiles {
    /// Opens what a configuration names.
    ///
    /// # Errors
    /// The file that cannot be opened, and why.
    pub fn open(log: &Log) -> Result<Self, String> {
        Ok(Self { access: opened(log.access.as_deref())?, error: opened(log.error.as_deref())? })
    }

    /// Whether it is what `log` names.
    pub fn matches(&self, log: &Log) -> bool {
        let path = |open: &Option<(PathBuf, Arc<OwnedFd>)>| open.as_ref().map(|(path, _)| path.clone());
        path(&self.access) == log.access && path(&self.error) == log.error
    }

    /// What workers are given.
    pub fn attachments(&self) -> Vec<(Attachment, Arc<OwnedFd>)> {
        let access = self.access.iter().map(|(_, file)| (Attachment::AccessLog, file.clone()));
        let error = self.error.iter().map(|(_, file)| (Attachment::ErrorLog, file.clone()));
        access.chain(error).collect()
    }
}

fn opened(path: Option<&Path>) -> Result<Option<(PathBuf, Arc<OwnedFd>)>, String> {
    let Some(path) = path else { return Ok(None) };
    let file = append::open(path).map_err(|error| format!("open log {}: {error}", path.display()))?;
    Ok(Some((path.to_owned(), Arc::new(file.into()))))
}
