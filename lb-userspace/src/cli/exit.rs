//! Exit codes, and the errors that lead to them.
//!
//! The numbers are those of Supervisor's `supervisorctl`, which follow the LSB's for init scripts.

use crate::control::client::ClientError;
use crate::control::protocol::FailureKind;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, and for `status`: everything runs.
    Fine = 0,
    /// It failed; the message says what and why.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// `status`: at least one instance does not run; `vip`, `flow lookup`: nobody gets new flows, or this one; `capture`: no frame came.
    NotRunning = 3,
    /// The master cannot be reached or refuses us; `status`: there is no such name.
    Unreachable = 4,
}

/// The table of `lbctl --help`.
pub const TABLE: &str = "\
Exit codes, as Supervisor's:
  0  done; status: everything that was asked about is RUNNING; vip: each has a backend for new flows
  1  failed; the message says what and why
  2  wrong command line
  3  status: at least one instance is not RUNNING; vip: one has no backend for new flows;
     flow lookup: it goes to nobody; capture: no frame came
  4  the master cannot be reached, refuses this user or speaks another version; status, vip: no such name
130  ended by Ctrl-C";

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The master could not be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The master said no.
    #[error("{message}")]
    Refused {
        /// The kind of failure.
        kind: FailureKind,
        /// What the master said.
        message: String,
    },
    /// Something on this side went wrong.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
    /// Standard output could not be written.
    #[error("write to standard output: {0}")]
    Output(#[from] std::io::Error),
}

impl CommandError {
    /// The exit code. A reader that went away (`lbctl logs | head`) is no failure.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Client(ClientError::Ended | ClientError::Broken(_) | ClientError::Malformed(_)) => {
                Exit::Failed
            }
            Self::Client(_) => Exit::Unreachable,
            Self::Refused { kind: FailureKind::Denied | FailureKind::Version, .. } => Exit::Unreachable,
            Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Fine,
            Self::Refused { .. } | Self::Other(_) | Self::Output(_) => Exit::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_code() {
        let refused = |kind| CommandError::Refused { kind, message: String::new() }.exit();
        assert_eq!(refused(FailureKind::Failed), Exit::Failed);
        assert_eq!(refused(FailureKind::NoSuchName), Exit::Failed);
        assert_eq!(refused(FailureKind::InvalidConfiguration), Exit::Failed);
        assert_eq!(refused(FailureKind::Denied), Exit::Unreachable);
        assert_eq!(refused(FailureKind::Version), Exit::Unreachable);
        assert_eq!(CommandError::from(ClientError::Ended).exit(), Exit::Failed);
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let error = CommandError::Output(std::io::ErrorKind::BrokenPipe.into());
        assert_eq!(error.exit(), Exit::Fine);
    }
}
