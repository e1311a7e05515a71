//! The program's own log: one compact line per record on standard error. Reads the environment.

use std::io::{self, Write};
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use env_logger::fmt::{Target, WriteStyle};
use env_logger::{Builder, Logger};
use log::{Level, Log, Metadata, Record};

use crate::worker::log_queue::LogQueue;

/// Time for what is queued to be written when it is asked for: a reader that has stopped does not come back.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// Starts it for a command: each record is written before the command goes on. The level comes from `LBCTL_LOG`, else
/// `RUST_LOG`, else it is `info`.
pub fn start() {
    builder().init();
}

/// Starts it for master and workers, which must not wait for whoever reads: a terminal that is stopped, a pipe that is full. A thread
/// writes; what does not fit into its queue is lost and counted. `log::logger().flush()` waits for it, for a second at most.
pub fn start_queued() {
    let error = io::stderr();
    let colours = AutoStream::choice(&error) != ColorChoice::Never;
    let queue = rustix::io::fcntl_dupfd_cloexec(&error, 3).map_err(io::Error::from);
    let Ok(queue) = queue.and_then(|descriptor| LogQueue::start("log", descriptor)) else { return start() };
    let style = if colours { WriteStyle::Always } else { WriteStyle::Never };
    let into_queue = IntoQueue { queue: queue.clone(), told_lost: 0 };
    let logger = builder().target(Target::Pipe(Box::new(into_queue))).write_style(style).build();
    log::set_max_level(logger.filter());
    // An error says that there is one already: there is not.
    let _ = log::set_boxed_logger(Box::new(Queued { logger, queue }));
}

fn builder() -> Builder {
    let levels = std::env::var("LBCTL_LOG").or_else(|_| std::env::var("RUST_LOG"));
    let mut builder = Builder::new();
    builder.parse_filters(levels.as_deref().unwrap_or("info")).format(|line, record| {
        let style = line.default_level_style(record.level());
        let level = name(record.level());
        writeln!(line, "{} {style}{level}{style:#} {}", line.timestamp_millis(), record.args())
    });
    builder
}

/// The level, all of one width.
const fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn ",
        Level::Info => "info ",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// The logger, and the queue that it writes into.
struct Queued {
    logger: Logger,
    queue: LogQueue,
}

impl Log for Queued {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.logger.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        self.logger.log(record);
    }

    fn flush(&self) {
        self.queue.flush(FLUSH_WITHIN);
    }
}

/// What a record is written to.
struct IntoQueue {
    queue: LogQueue,
    told_lost: u64,
}

impl Write for IntoQueue {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let lost = self.queue.dropped();
        if lost > self.told_lost {
            let told = format!("warn  {} log records lost: nobody read them\n", lost - self.told_lost);
            self.queue.push(told.as_bytes());
            // Lost itself, it is told with the next.
            if self.queue.dropped() == lost {
                self.told_lost = lost;
            }
        }
        self.queue.push(record);
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::limits::LOG_QUEUE_BYTES;

    #[test]
    fn reader_that_stopped_is_not_waited_for_and_told_of_what_it_lost() {
        let (mut reader, writer) = io::pipe().unwrap();
        let queue = LogQueue::start("test", writer.into()).unwrap();
        let mut log = IntoQueue { queue: queue.clone(), told_lost: 0 };
        let record = [&[b'x'; 4095][..], b"\n"].concat();
        for _ in 0..2 * LOG_QUEUE_BYTES / record.len() + 100 {
            log.write_all(&record).unwrap();
        }
        let lost = queue.dropped();
        assert!(lost > 0);
        let read = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        assert!(queue.flush(Duration::from_secs(10)));
        log.write_all(b"again\n").unwrap();
        drop((log, queue));
        let text = read.join().unwrap();
        let told = text.lines().filter(|line| line.contains("log records lost")).collect::<Vec<_>>();
        assert_eq!(told, [format!("warn  {lost} log records lost: nobody read them")]);
        assert!(text.ends_with("again\n"));
    }
}
