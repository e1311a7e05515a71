//! The commands that the loop answers itself: what it knows and `step` does not.
//!
//! Effectful: reads the configuration in a thread of its own.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::ConfigSource;
use super::inbox::{ControlRequest, Input};
use super::log_files::LogFiles;
use super::node::{Master, Phase, worker_identity};
use super::reload::Asked;
use super::steer::capture::Order;
use crate::config;
use crate::config::model::Model;
use crate::control::protocol::steering::VipReport;
use crate::control::protocol::{Answer, Command, FailureKind, KernelCounts, StatusReport};
use crate::limits::RELOAD_WITHIN;
use crate::state::event::Event;
use crate::state::report;
use crate::steer::flow_lookup::Question;
use crate::steer::plan::Capture;
use crate::time::Time;

/// Columns of a rendered report where it is not for a terminal of known width.
const REPORT_COLUMNS: usize = 100;

/// Whom the report is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Whoever started us: in colours where that is a terminal.
    Starter,
    /// The log, or a client that we know nothing of.
    Anybody,
}

/// Reads a configuration.
///
/// # Errors
/// The rendered report.
pub fn read(source: &ConfigSource, reader: Reader) -> Result<Model, String> {
    let loaded = match source {
        ConfigSource::File(path) => config::read(path),
        ConfigSource::Embedded { name, text } => config::read_text(name, text, Path::new("/")),
    };
    let color = reader == Reader::Starter && std::io::stderr().is_terminal();
    let loaded = loaded.map_err(|report| report.render(color, REPORT_COLUMNS))?;
    if !loaded.warnings.is_empty() {
        log::warn!("configuration warnings\n{}", loaded.warnings.render(color, REPORT_COLUMNS));
    }
    Ok(loaded.model)
}

impl Master<'_> {
    /// A command came in.
    pub fn command(&mut self, request: ControlRequest) {
        let ControlRequest { command, actor, answers } = request;
        let number = self.next_request;
        self.next_request += 1;
        self.requests.insert(number, vec![answers.clone()]);
        if self.phase != Phase::Running && command.acts() && command != Command::Shutdown {
            self.refuse(number, FailureKind::Failed, "lbctl is ending".to_owned());
            return;
        }
        match command {
            Command::Status { names } => {
                let answer = match report::select(self.report(), &names) {
                    Ok(report) => Answer::Status(report),
                    Err(unknown) => no_such_name(&unknown),
                };
                self.answer(number, answer);
            }
            Command::Doctor => {
                let capabilities = self.capabilities();
                self.answer(number, Answer::Doctor(capabilities));
            }
            Command::Vips { names } => {
                let answer = self.vips(&names);
                self.answer(number, answer);
            }
            Command::FlowLookup { client, vip, transport } => {
                let report = self.steer.flow(Question { client, vip, transport }, self.kernel.table());
                let answer = report.map_or_else(not_steered, |report| Answer::Flow(Box::new(report)));
                self.answer(number, answer);
            }
            Command::Capture { vip, count, every, for_ms } => {
                self.requests.remove(&number);
                let within = for_ms.map(Duration::from_millis);
                if let Err(refusal) = self.capture(&vip, every, count, within, answers.clone()) {
                    let _ = answers.try_send(*refusal);
                }
            }
            Command::Events { last, follow } => {
                self.requests.remove(&number);
                self.tell_events(last, follow, answers);
            }
            Command::Logs { names, lines, follow } => {
                self.requests.remove(&number);
                self.tell_output(names, lines, follow, answers);
            }
            Command::Reload => {
                self.note("master", "reload asked", "", &actor);
                self.reload(Some(number));
            }
            Command::Shutdown => {
                self.requests.remove(&number);
                self.farewells.push(answers);
                self.terminate(&actor);
            }
            command => self.event(Event::Command { request: number, command, actor }),
        }
    }

    /// What is, with what only the loop knows.
    pub fn report(&self) -> StatusReport {
        let now = Time::now();
        let activity = |slot| self.workers.activity(slot);
        let traffic = |slot| self.kernel.table().traffic(slot);
        let mut report = self.state.report(now, &activity, &traffic);
        report.workers = self.workers.report(now);
        report.uptime_ms = now.since(self.began).as_millis() as u64;
        report.snapshot = self.workers.lowest_served();
        report.listeners =
            self.listeners.all().map(|open| format!("{} {}", open.name, open.address)).collect();
        report
    }

    /// [`Self::report`] with what only `/metrics` tells.
    pub fn report_in_full(&self) -> StatusReport {
        let counters = self.kernel.counters();
        let kernel = KernelCounts {
            exits: counters.exits,
            notices_lost: counters.notices_lost,
            enrolled: counters.enrolled,
            refused: counters.refused,
            redirected: counters.redirected,
            redirected_bytes: counters.redirected_bytes,
            passed: counters.passed,
            repeated_lost: counters.repeated_lost,
        };
        let steering = self.steer.report(self.kernel.table());
        StatusReport { kernel, capabilities: self.capabilities(), steering, ..self.report() }
    }

    /// The VIPs that are called so; all for none.
    fn vips(&self, names: &[String]) -> Answer {
        let report = self.steer.report(self.kernel.table());
        let known = vip_names(&report);
        match report.select(names) {
            Ok(report) => Answer::Vips(report),
            Err(unknown) => no_such_vip(&unknown, &known),
        }
    }

    /// Begins a capture; its frames go to `answers`.
    ///
    /// # Errors
    /// The answer that says why not.
    fn capture(
        &mut self,
        vip: &str,
        every: u32,
        count: u64,
        within: Option<Duration>,
        answers: mpsc::Sender<Answer>,
    ) -> Result<(), Box<Answer>> {
        let refuse = |message: String| Box::new(Answer::Failed { kind: FailureKind::Failed, message });
        let report = self.steer.report(self.kernel.table());
        let Some(vip) = report.find(vip) else { return Err(Box::new(no_such_vip(vip, &vip_names(&report)))) };
        if vip.forward == "local" {
            let why = "packets of \"{}\" go up the stack of this host: capture them with tcpdump";
            return Err(refuse(why.replace("{}", &vip.name)));
        }
        if count == 0 || !every.is_power_of_two() {
            return Err(refuse("capture: at least one frame, one in a power of two".to_owned()));
        }
        let ring = self.steer.ring().ok_or_else(|| Box::new(not_steered()))?;
        let ring =
            ring.take().ok_or_else(|| refuse("another capture is running: end it first".to_owned()))?;
        let backends =
            self.report().backends.into_iter().map(|backend| (backend.slot, backend.name)).collect();
        self.steer.capture(Some(Capture { vip: vip.name.clone(), mask: every - 1 }));
        let (inbox, order) = (self.inbox.clone(), Order { count, within, backends });
        tokio::spawn(async move {
            ring.relay(&order, &answers).await;
            let _ = inbox.send(Input::CaptureEnded).await;
        });
        Ok(())
    }

    /// SIGHUP, or a command: the configuration is to be read again.
    pub fn reload(&mut self, request: Option<u64>) {
        if self.phase != Phase::Running {
            log::info!("not reloaded: lbctl is ending");
            return;
        }
        match self.reloads.ask(request) {
            Asked::Read => self.read_again(),
            Asked::Wait => {}
            Asked::WaitWith(first) => {
                let joining = request.and_then(|request| self.requests.remove(&request));
                self.requests.entry(first).or_default().extend(joining.into_iter().flatten());
            }
            Asked::Refuse => {
                self.not_loaded(request, "the configuration is still being read for an earlier reload");
            }
        }
    }

    /// In a thread: a user database in the network must not stop the loop.
    fn read_again(&self) {
        let (source, inbox) = (self.config.clone(), self.inbox.clone());
        tokio::spawn(async move {
            let mut reader =
                tokio::task::spawn_blocking(move || read(&source, Reader::Anybody).map(Arc::new));
            let read = match tokio::time::timeout(RELOAD_WITHIN, &mut reader).await {
                Ok(read) => read,
                Err(_) => {
                    let _ = inbox.send(Input::LoadLate).await;
                    reader.await
                }
            };
            let result =
                read.unwrap_or_else(|error| Err(format!("reading the configuration failed: {error}")));
            let _ = inbox.send(Input::Loaded(result)).await;
        });
    }

    /// It hangs, on a file system or a user database. Nobody waits for it any longer.
    pub fn load_late(&mut self) {
        let why = format!("reading the configuration takes longer than {} s", RELOAD_WITHIN.as_secs());
        log::error!("configuration not reloaded reason=\"{why}\"");
        for request in self.reloads.late() {
            self.not_loaded(Some(request), &why);
        }
    }

    fn not_loaded(&mut self, request: Option<u64>, why: &str) {
        match request {
            Some(request) => self.refuse(request, FailureKind::Failed, why.to_owned()),
            None => log::error!("configuration not reloaded reason=\"{why}\""),
        }
    }

    /// A configuration was read.
    pub fn loaded(&mut self, result: Result<Arc<Model>, String>) {
        let done = self.reloads.done();
        match done.for_whom {
            Some(request) if self.phase == Phase::Running => self.take_up(request, result),
            Some(request) => self.not_loaded(request, "lbctl is ending"),
            None => log::warn!("configuration read too late, and not applied"),
        }
        if done.again {
            self.read_again();
        }
    }

    /// What can be refused is refused here, before anything has changed.
    fn take_up(&mut self, request: Option<u64>, result: Result<Arc<Model>, String>) {
        let accepted = result
            .map_err(|report| (FailureKind::InvalidConfiguration, report))
            .and_then(|model| self.accept(&model).map(|()| model).map_err(|why| (FailureKind::Failed, why)));
        match accepted {
            Ok(model) => self.event(Event::Apply { model, request }),
            Err((kind, why)) => {
                let first =
                    why.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned();
                self.note("master", "configuration refused", &first, "configuration");
                match request {
                    Some(request) => self.refuse(request, kind, why),
                    None => log::error!("configuration refused\n{why}"),
                }
            }
        }
    }

    /// Opens sockets and files that a new configuration needs.
    fn accept(&mut self, model: &Model) -> Result<(), String> {
        let files = match self.log_files.matches(&model.log) {
            true => None,
            false => Some(LogFiles::open(&model.log)?),
        };
        let audit = self.audit.elsewhere(&self.run_dir.audit_log(&model.log));
        let audit = audit.map_err(|error| error.to_string())?;
        // The last that may be refused: sockets that are open listen.
        self.listeners.prepare(model)?;
        if let Some(audit) = audit {
            self.audit.go_on_in(audit);
        }
        if let Some(files) = files {
            self.replace_logs(files);
        }
        if model.node.worker_threads != self.workers.threads() {
            log::warn!("worker_threads = {} counts from the next start of lbctl", model.node.worker_threads);
        }
        if worker_identity(model).as_ref() != self.workers.user().0 {
            log::warn!("[node] user counts from the next start of lbctl");
        }
        let (to, from) = (&model.steering, &self.model.steering);
        let steering_waits = (to.flows, to.xdp_mode) != (from.flows, from.xdp_mode) && self.steer.is_loaded();
        if model.kernel != self.model.kernel || steering_waits {
            log::warn!("changes of [kernel] count from the next start of lbctl");
        }
        Ok(())
    }

    /// SIGUSR1: log files were moved away.
    pub fn reopen_logs(&mut self) {
        self.programs.outputs.reopen();
        if let Err(error) = self.audit.reopen() {
            log::error!("{error}");
        }
        match LogFiles::open(&self.model.log) {
            Ok(files) => self.replace_logs(files),
            Err(error) => log::error!("logs not reopened reason=\"{error}\""),
        }
    }

    fn replace_logs(&mut self, files: LogFiles) {
        for (what, descriptor) in files.attachments() {
            self.workers.attach(&what, &descriptor);
        }
        self.log_files = files;
    }

    fn tell_events(&self, last: usize, follow: bool, answers: mpsc::Sender<Answer>) {
        let kept = self.events.last(last);
        let mut followed = follow.then(|| self.events.follow());
        tokio::spawn(async move {
            for record in kept {
                let _ = answers.send(Answer::Event(record)).await;
            }
            while let Some(events) = &mut followed {
                let told = tokio::select! {
                    event = events.recv() => match event {
                        Ok(record) => answers.send(Answer::Event(record)).await.is_ok(),
                        Err(RecvError::Lagged(lost)) => {
                            answers.send(line("", "", format!("{lost} events lost: too slow"))).await.is_ok()
                        }
                        Err(RecvError::Closed) => false,
                    },
                    () = answers.closed() => return,
                };
                if !told {
                    break;
                }
            }
            let _ = answers.send(Answer::Done { lines: Vec::new() }).await;
        });
    }

    fn tell_output(&self, names: Vec<String>, lines: usize, follow: bool, answers: mpsc::Sender<Answer>) {
        let known = self.report().instances;
        let is_known = |name: &String| known.iter().any(|one| one.name == *name || one.program == *name);
        if let Some(unknown) = names.iter().find(|name| !is_known(name)) {
            let _ = answers.try_send(no_such_name(unknown));
            return;
        }
        let wanted = move |instance: &str| {
            let program = instance.rsplit_once(':').map_or(instance, |(program, _)| program);
            names.is_empty() || names.iter().any(|name| name == instance || name == program)
        };
        // Followed first, copied second: a line in between comes once or twice, never not at all.
        let mut followed = follow.then(|| self.programs.outputs.follow());
        let kept = self.programs.outputs.last(&wanted, lines);
        tokio::spawn(async move {
            for (instance, kept) in kept {
                let _ = answers.send(line(&instance, kept.stream.name(), kept.text.to_string())).await;
            }
            while let Some(output) = &mut followed {
                let told = tokio::select! {
                    line_of = output.recv() => match line_of {
                        Ok(one) if !wanted(&one.instance) => true,
                        Ok(one) => {
                            answers.send(line(&one.instance, one.stream.name(), one.text.to_string())).await.is_ok()
                        }
                        Err(RecvError::Lagged(lost)) => {
                            answers.send(line("lbctl", "stderr", format!("{lost} lines lost: too slow"))).await.is_ok()
                        }
                        Err(RecvError::Closed) => false,
                    },
                    () = answers.closed() => return,
                };
                if !told {
                    break;
                }
            }
            let _ = answers.send(Answer::Done { lines: Vec::new() }).await;
        });
    }

    /// Everything has ended: those who asked for it are told.
    pub fn say_farewell(&mut self) {
        for answers in self.farewells.drain(..) {
            let _ = answers.try_send(Answer::Done { lines: vec!["everything has ended".into()] });
        }
    }
}

fn line(instance: &str, stream: &str, text: String) -> Answer {
    Answer::Line { instance: instance.to_owned(), stream: stream.to_owned(), text }
}

fn not_steered() -> Answer {
    let message = "no VIP is answered here: none is configured, or see `lbctl doctor`".to_owned();
    Answer::Failed { kind: FailureKind::Failed, message }
}

/// The names of all VIPs, for who named another.
fn vip_names(report: &VipReport) -> Vec<String> {
    report.vips.iter().map(|vip| vip.name.clone()).collect()
}

fn no_such_vip(name: &str, known: &[String]) -> Answer {
    let message = match known {
        [] => format!("no VIP is called \"{name}\": none is configured"),
        known => format!("no VIP is called \"{name}\"; there are {}", known.join(", ")),
    };
    Answer::Failed { kind: FailureKind::NoSuchName, message }
}

fn no_such_name(name: &str) -> Answer {
    let message = format!("no program, instance or backend is called \"{name}\"");
    Answer::Failed { kind: FailureKind::NoSuchName, message }
}
