//! `lbctl capture`: frames of a VIP, with what was decided, into a pcapng file.
//!
//! Effectful: writes the file.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;

use super::pcapng::Writer;
use super::unexpected;
use crate::cli::args::Capture;
use crate::cli::exit::{CommandError, Exit};
use crate::control::client::Client;
use crate::control::protocol::{Answer, Command};

/// Captures until there are enough, the time is over, or the operator ends it. Each frame is in the file before the next comes.
///
/// # Errors
/// When the master cannot be asked or refuses, or the file cannot be written.
pub fn capture(run_dir: &Path, capture: &Capture) -> Result<Exit, CommandError> {
    let question = Command::Capture {
        vip: capture.vip.clone(),
        count: capture.count,
        every: capture.every,
        for_ms: capture.within.map(|within| within.get().as_millis() as u64),
    };
    let mut client = Client::ask(run_dir, question)?;
    // Asked first: a VIP that does not exist leaves no empty file, or destroys one.
    let mut answer = client.next_answer()?;
    if let Some(Answer::Failed { .. }) = answer {
        return Err(unexpected("capture", answer));
    }
    let mut writer = create(&capture.pcap)?;
    let mut frames = 0_u64;
    loop {
        match answer {
            Some(Answer::Frame(frame)) => {
                writer.frame(&frame).with_context(|| format!("write {}", capture.pcap.display()))?;
                frames += 1;
            }
            Some(Answer::Done { lines }) => {
                lines.iter().for_each(|line| anstream::eprintln!("{line}"));
                break;
            }
            other => return Err(unexpected("capture", other)),
        }
        answer = client.next_answer()?;
    }
    anstream::eprintln!("{frames} of {} frames in {}", capture.count, capture.pcap.display());
    Ok(if frames > 0 { Exit::Fine } else { Exit::NotRunning })
}

/// The file, readable by its owner only: it holds what clients sent. `-` is standard output.
fn create(path: &Path) -> anyhow::Result<Writer<Box<dyn Write>>> {
    let output: Box<dyn Write> = match path == Path::new("-") {
        true => Box::new(io::stdout()),
        false => {
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
            Box::new(BufWriter::new(file.with_context(|| format!("create {}", path.display()))?))
        }
    };
    Writer::new(output).with_context(|| format!("write {}", path.display()))
}
