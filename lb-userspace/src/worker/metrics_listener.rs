//! Answers `/metrics`, `/healthz` and `/readyz` on the worker's main thread.
//!
//! Effectful: owns a listening socket.
#![expect(clippy::disallowed_types, reason = "accepts connections")]
#![expect(clippy::disallowed_methods, reason = "waits when the process is out of descriptors")]

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::metered::{Metered, Meters, Stream};
use super::metrics::{CONTENT_TYPE as METRICS_TYPE, LogsDropped, Metrics};
use super::served::Served;
use super::shared::Shared;
use super::timer::Timer;
use crate::control::protocol::StatusReport;
use crate::limits::{
    METRICS_CONNECTIONS_MAX, METRICS_HEAD_TIMEOUT, METRICS_PAGES_MAX, METRICS_WRITE_TIMEOUT,
};
use crate::link::FromWorker;
use crate::state::event::Slot;
use crate::time::Time;

/// Wait after an accept error.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);
/// What the master said so recently is told as it is.
const STATUS_AGE_MAX: Duration = Duration::from_millis(200);
/// Time for the master to say what it knows now.
const STATUS_WITHIN: Duration = Duration::from_millis(500);

/// What the listener tells about.
#[derive(Default)]
pub struct Told {
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What the master knew, and when it said so.
    pub status: Option<(StatusReport, Time)>,
    /// Where the master is asked for it.
    pub master: Option<mpsc::Sender<FromWorker>>,
    /// Told when it came.
    pub status_came: Rc<Notify>,
    /// What is served.
    pub served: Option<Arc<Served>>,
    /// The tables.
    pub shared: Option<Arc<Shared>>,
}

/// The listener; what it tells about may be changed at any time.
#[derive(Default)]
pub struct MetricsListener {
    /// What it tells about.
    pub told: Rc<RefCell<Told>>,
    accepting: Option<JoinHandle<()>>,
}

impl MetricsListener {
    /// Begins to accept on `socket`, instead of the one before.
    ///
    /// # Errors
    /// When the socket cannot be watched.
    pub fn listen(&mut self, socket: OwnedFd) -> io::Result<()> {
        let socket = std::net::TcpListener::from(socket);
        socket.set_nonblocking(true)?;
        let accepting = tokio::task::spawn_local(accept(TcpListener::from_std(socket)?, self.told.clone()));
        if let Some(before) = self.accepting.replace(accepting) {
            before.abort();
        }
        Ok(())
    }

    /// Accepts no more.
    pub fn close(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
    }
}

async fn accept(listener: TcpListener, told: Rc<RefCell<Told>>) {
    let places = Arc::new(Semaphore::new(METRICS_CONNECTIONS_MAX));
    let pages = Arc::new(Semaphore::new(METRICS_PAGES_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_BACK_OFF).await;
            continue;
        };
        let (told, pages) = (told.clone(), pages.clone());
        tokio::task::spawn_local(async move {
            serve(stream, told, pages).await;
            drop(place);
        });
    }
}

/// One request and its answer.
async fn serve(stream: TcpStream, told: Rc<RefCell<Told>>, pages: Arc<Semaphore>) {
    let page = RefCell::new(None);
    let service = service_fn(|request| {
        let (told, pages, page) = (told.clone(), pages.clone(), &page);
        async move {
            if request.uri().path() == "/metrics" {
                // It is given back with the connection.
                let Ok(permit) = pages.try_acquire_owned() else {
                    return Ok::<_, Infallible>(text(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "too many ask\n".into(),
                    ));
                };
                page.replace(Some(permit));
                refresh(&told).await;
            }
            Ok(answer(&request, &told.borrow()))
        }
    });
    let (metered, meters) = Metered::new(Stream::Tcp(stream));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(METRICS_HEAD_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(metered), service);
    unless_blocked(serving, &meters, METRICS_WRITE_TIMEOUT).await;
}

/// Runs `serving` to its end, or until its peer has not taken for so long all that there was.
async fn unless_blocked(serving: impl Future, meters: &Meters, patience: Duration) {
    let mut serving = pin!(serving);
    let (mut timer, mut since) = (Timer::default(), None);
    poll_fn(|cx| {
        if serving.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if !meters.write_blocked.get() {
            since = None;
            return Poll::Pending;
        }
        let since = *since.get_or_insert_with(Instant::now);
        timer.poll_until(since + patience, cx)
    })
    .await;
}

/// Asks the master for what it knows now. One that does not answer costs freshness only.
async fn refresh(told: &Rc<RefCell<Told>>) {
    let (master, came) = {
        let told = told.borrow();
        let is_fresh = told.status.as_ref().is_some_and(|(_, at)| Time::now().since(*at) <= STATUS_AGE_MAX);
        match &told.master {
            Some(master) if !is_fresh => (master.clone(), told.status_came.clone()),
            _ => return,
        }
    };
    let came = came.notified();
    if master.try_send(FromWorker::StatusWanted).is_ok() {
        let _ = tokio::time::timeout(STATUS_WITHIN, came).await;
    }
}

fn answer(request: &Request<Incoming>, told: &Told) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n".into());
    }
    match request.uri().path() {
        "/metrics" => metrics(told),
        "/healthz" => text(StatusCode::OK, "ok\n".into()),
        "/readyz" => match unready(told) {
            None => text(StatusCode::OK, "ready\n".into()),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
        },
        _ => text(StatusCode::NOT_FOUND, "/metrics /healthz /readyz\n".into()),
    }
}

fn metrics(told: &Told) -> Response<Full<Bytes>> {
    let dropped = told.served.as_ref().map_or_else(LogsDropped::default, |served| served.logs.dropped());
    let now = Time::now();
    // What is up has aged since the master reported it.
    let report = told.status.as_ref().map(|(report, at)| Arc::new(report.clone().aged(now.since(*at))));
    let mut response = text(StatusCode::OK, told.metrics.render(report.as_ref(), dropped));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE));
    response
}

/// Why requests could not be served now; `None` where they could.
fn unready(told: &Told) -> Option<String> {
    let (Some(served), Some(shared)) = (&told.served, &told.shared) else {
        return Some("no snapshot is served yet\n".into());
    };
    let waiting: Vec<&str> = served
        .upstreams()
        .map(|upstream| &upstream.served)
        .filter(|upstream| {
            !upstream.backends.iter().any(|backend| shared.table.traffic(Slot(backend.slot)).takes_new())
        })
        .map(|upstream| upstream.name.as_str())
        .collect();
    (!waiting.is_empty()).then(|| format!("no backend is in: {}\n", waiting.join(", ")))
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reader_that_takes_too_long_is_given_up_though_it_takes_something() {
        let meters = Rc::new(Meters::default());
        let (patience, began) = (Duration::from_millis(50), Instant::now());
        let dribbles = async {
            loop {
                meters.written.set(meters.written.get() + 1);
                meters.write_blocked.set(true);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        unless_blocked(dribbles, &meters, patience).await;
        assert!(began.elapsed() >= patience, "{:?}", began.elapsed());
        let began = Instant::now();
        let writes = async {
            for blocked in [true, false].repeat(10) {
                meters.write_blocked.set(blocked);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        unless_blocked(writes, &meters, patience).await;
        assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    }
}
