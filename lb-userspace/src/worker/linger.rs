//! The end of a connection whose client still sends: what comes is read and thrown away for a while. Closing at once would reset the
//! connection, and the reset may overtake the answer in the client's kernel (RFC 9112 §9.6).
//!
//! Effectful: reads sockets, waits.
#![expect(clippy::disallowed_types, reason = "closes accepted sockets")]

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::place::Place;
use super::timer::Timer;
use crate::limits::{LINGER_BYTES_MAX, LINGER_IDLE, LINGER_TIME_MAX, LINGERING_MAX, REFUSED_MAX};

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// Whether more is known to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// The client is in the middle of a message.
    Expected,
    /// It may have begun another: only what has come already is waited for.
    Possible,
}

/// How much is read away at most.
struct Bounds {
    time: Duration,
    /// Between two reads.
    idle: Duration,
    bytes: u64,
}

const BOUNDS: Bounds = Bounds { time: LINGER_TIME_MAX, idle: LINGER_IDLE, bytes: LINGER_BYTES_MAX };

/// Reads away what the client still sends, unless that is done with [`LINGERING_MAX`] already. The connection must have been shut down for
/// writing.
pub async fn linger(socket: &mut (impl AsyncRead + Unpin), lingering: &Arc<AtomicUsize>, rest: Rest) {
    if let Some(_place) = Place::take(lingering, LINGERING_MAX) {
        read_away(socket, &BOUNDS, rest).await;
    }
}

/// Writes the last words to a client, whatever it sends, and closes; at once where [`REFUSED_MAX`] are being told already.
pub async fn dismiss(mut socket: TcpStream, refused: &Arc<AtomicUsize>, words: &[u8]) {
    if let Some(_place) = Place::take(refused, REFUSED_MAX)
        && socket.try_write(words).is_ok()
        && socket.shutdown().await.is_ok()
    {
        read_away(&mut socket, &BOUNDS, Rest::Expected).await;
    }
}

async fn read_away(socket: &mut (impl AsyncRead + Unpin), bounds: &Bounds, mut rest: Rest) {
    let mut timer = Timer::default();
    let end = Instant::now() + bounds.time;
    let (mut last, mut bytes) = (Instant::now(), 0);
    poll_fn(|cx| {
        while bytes < bounds.bytes && last < end {
            match discard(socket, cx) {
                Poll::Ready(0) => return Poll::Ready(()),
                Poll::Ready(count) => {
                    bytes += count as u64;
                    (last, rest) = (Instant::now(), Rest::Expected);
                }
                Poll::Pending if rest == Rest::Possible => return Poll::Ready(()),
                Poll::Pending => return timer.poll_until((last + bounds.idle).min(end), cx),
            }
        }
        Poll::Ready(())
    })
    .await;
}

/// How many bytes came; none at the end.
fn discard(socket: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>) -> Poll<usize> {
    let mut space = [MaybeUninit::<u8>::uninit(); READ_BYTES];
    let mut read = ReadBuf::uninit(&mut space);
    Pin::new(socket)
        .poll_read(cx, &mut read)
        .map(|result| if result.is_ok() { read.filled().len() } else { 0 })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    const SHORT: Bounds =
        Bounds { time: Duration::from_millis(200), idle: Duration::from_millis(50), bytes: 1000 };

    #[tokio::test]
    async fn ends_when_nothing_comes_any_more() {
        let (client, mut socket) = duplex(64);
        let began = Instant::now();
        read_away(&mut socket, &SHORT, Rest::Expected).await;
        assert!(began.elapsed() >= SHORT.idle, "{:?}", began.elapsed());
        let began = Instant::now();
        read_away(&mut socket, &SHORT, Rest::Possible).await;
        drop(client);
        read_away(&mut socket, &SHORT, Rest::Expected).await;
        assert!(began.elapsed() < SHORT.idle, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn ends_at_its_bounds_however_much_comes() {
        let (mut client, mut socket) = duplex(64);
        let sends = async {
            loop {
                client.write_all(&[7]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let many = Bounds { bytes: u64::MAX, ..SHORT };
        let began = Instant::now();
        tokio::select! {
            () = sends => {}
            () = read_away(&mut socket, &many, Rest::Expected) => {}
        }
        assert!(began.elapsed() >= SHORT.time, "{:?}", began.elapsed());

        let (mut client, mut socket) = duplex(2000);
        client.write_all(&[7; 1500]).await.unwrap();
        read_away(&mut socket, &SHORT, Rest::Possible).await;
        client.write_all(&[7; 600]).await.unwrap();
    }

    #[tokio::test]
    async fn nobody_lingers_where_too_many_do() {
        let lingering = Arc::new(AtomicUsize::new(LINGERING_MAX));
        let (_client, mut socket) = duplex(64);
        linger(&mut socket, &lingering, Rest::Expected).await;
        assert_eq!(lingering.load(Ordering::Relaxed), LINGERING_MAX);
    }
}
