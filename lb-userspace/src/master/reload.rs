//! Who waits for the configuration to be read again. Pure: one reader at a time, and whoever asks while it reads is served by the next
//! one, since what it has read may be older than the question.

/// The reader, if there is one, and who waits.
#[derive(Debug, Default)]
pub struct Reloads {
    reading: Option<Reading>,
}

#[derive(Debug)]
struct Reading {
    /// The control request that it reads for; `None`: a signal.
    request: Option<u64>,
    /// Somebody asked meanwhile.
    again: Option<Option<u64>>,
    /// Those who waited were told that it takes too long.
    is_late: bool,
}

/// What to do about a wish.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// Begin to read.
    Read,
    /// Nothing: its turn comes.
    Wait,
    /// The same: it is answered when this request is.
    WaitWith(u64),
    /// Refuse: the reader hangs.
    Refuse,
}

/// What to do about what was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Done {
    /// For whom it is; `None`: for nobody any more.
    pub for_whom: Option<Option<u64>>,
    /// Begin to read again.
    pub again: bool,
}

impl Reloads {
    /// Somebody wants the configuration to be read.
    pub fn ask(&mut self, request: Option<u64>) -> Asked {
        let Some(reading) = &mut self.reading else {
            self.reading = Some(Reading { request, again: None, is_late: false });
            return Asked::Read;
        };
        if reading.is_late {
            return Asked::Refuse;
        }
        match (reading.again.flatten(), request) {
            (Some(first), Some(_)) => return Asked::WaitWith(first),
            (first, request) => reading.again = Some(first.or(request)),
        }
        Asked::Wait
    }

    /// The reader takes too long. Who is to be told.
    pub fn late(&mut self) -> Vec<u64> {
        let Some(reading) = &mut self.reading else { return Vec::new() };
        reading.is_late = true;
        let waiting = [reading.request.take(), reading.again.take().flatten()];
        waiting.into_iter().flatten().collect()
    }

    /// The reader has come back.
    pub fn done(&mut self) -> Done {
        let Some(reading) = self.reading.take() else { return Done { for_whom: None, again: false } };
        if let Some(request) = reading.again {
            self.reading = Some(Reading { request, again: None, is_late: false });
        }
        Done { for_whom: (!reading.is_late).then_some(reading.request), again: reading.again.is_some() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_while_one_reads_is_served_by_the_next() {
        let mut reloads = Reloads::default();
        assert_eq!(reloads.ask(Some(1)), Asked::Read);
        assert_eq!(reloads.ask(None), Asked::Wait);
        assert_eq!(reloads.ask(Some(2)), Asked::Wait);
        assert_eq!(reloads.ask(Some(3)), Asked::WaitWith(2));
        assert_eq!(reloads.ask(None), Asked::Wait);
        assert_eq!(reloads.done(), Done { for_whom: Some(Some(1)), again: true });
        assert_eq!(reloads.done(), Done { for_whom: Some(Some(2)), again: false });
        assert_eq!(reloads.ask(None), Asked::Read);
        assert_eq!(reloads.done(), Done { for_whom: Some(None), again: false });
    }

    #[test]
    fn hanging_reader_is_alone_and_what_it_brings_is_for_nobody() {
        let mut reloads = Reloads::default();
        reloads.ask(Some(1));
        reloads.ask(Some(2));
        assert_eq!(reloads.late(), [1, 2]);
        assert_eq!(reloads.ask(Some(3)), Asked::Refuse);
        assert_eq!(reloads.done(), Done { for_whom: None, again: false });
        assert_eq!(reloads.ask(Some(4)), Asked::Read);
    }
}
