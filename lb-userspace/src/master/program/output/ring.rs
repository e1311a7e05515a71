//! The last lines of an instance in memory, bounded in bytes for each stream.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::limits::OUTPUT_RING_BYTES;

/// What a line costs beside its text.
const LINE_OVERHEAD_BYTES: usize = 48;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// As in `Answer::Line`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A captured line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Grows over both streams.
    pub number: u64,
    /// Which stream.
    pub stream: Stream,
    /// Without line end.
    pub text: Arc<str>,
}

/// The last lines of both streams.
#[derive(Default)]
pub struct Ring {
    kept: [VecDeque<Line>; 2],
    bytes: [usize; 2],
    next: u64,
    /// The last line that this life wrote to stderr.
    pub last_error_line: Option<String>,
}

impl Ring {
    /// Adds a line; the oldest of its stream go where it does not fit.
    pub fn push(&mut self, stream: Stream, text: &Arc<str>) {
        if stream == Stream::Stderr && !text.trim().is_empty() {
            self.last_error_line = Some(text.to_string());
        }
        let (kept, bytes) = (&mut self.kept[stream as usize], &mut self.bytes[stream as usize]);
        *bytes += text.len() + LINE_OVERHEAD_BYTES;
        kept.push_back(Line { number: self.next, stream, text: text.clone() });
        self.next += 1;
        while *bytes > OUTPUT_RING_BYTES {
            let Some(oldest) = kept.pop_front() else { break };
            *bytes -= oldest.text.len() + LINE_OVERHEAD_BYTES;
        }
    }

    /// The last `count` lines of both streams, in the order in which they came.
    pub fn last(&self, count: usize) -> Vec<Line> {
        let mut lines = self.kept.iter().flatten().cloned().collect::<Vec<_>>();
        lines.sort_unstable_by_key(|line| line.number);
        lines.split_off(lines.len().saturating_sub(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_lines_go_and_the_other_stream_stays() {
        let mut ring = Ring::default();
        ring.push(Stream::Stderr, &"only error".into());
        for number in 0..10_000 {
            ring.push(Stream::Stdout, &format!("line {number}").into());
        }
        let lines = ring.last(usize::MAX);
        assert_eq!(lines[0].text.as_ref(), "only error");
        assert_eq!(lines.last().unwrap().text.as_ref(), "line 9999");
        assert!(lines.len() < 10_000);
        assert!(ring.bytes[0] <= OUTPUT_RING_BYTES);
        assert_eq!(ring.last(2).len(), 2);
        assert_eq!(ring.last_error_line.as_deref(), Some("only error"));
    }
}
