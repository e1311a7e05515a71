//! `/ws`: sends back what it receives, and says goodbye at SIGTERM.

use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, frame::coding::CloseCode};

use super::Shared;
use super::answer::{AnswerBody, full, text};

/// Answers the handshake (RFC 6455, section 4.2.2) and echoes from then on.
pub(super) fn upgrade(mut request: Request<Incoming>, shared: Shared) -> Response<AnswerBody> {
    let Some(accept) = accept_value(request.headers()) else {
        return text(StatusCode::BAD_REQUEST, "not a WebSocket handshake\n");
    };
    tokio::task::spawn_local(echo(hyper::upgrade::on(&mut request), shared));
    let mut response = Response::new(full(bytes::Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// `Sec-WebSocket-Accept` for a request that is a handshake.
fn accept_value(headers: &HeaderMap) -> Option<HeaderValue> {
    let upgrade = headers.get(header::UPGRADE)?;
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    if !upgrade.as_bytes().eq_ignore_ascii_case(b"websocket") {
        return None;
    }
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()
}

/// Echoes until the client closes, or SIGTERM comes.
async fn echo(upgrade: OnUpgrade, shared: Shared) {
    let Ok(upgraded) = upgrade.await else { return };
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    let mut ending = shared.ending.clone();
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    if socket.send(message).await.is_err() { return }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            _ = ending.wait_for(|ended| *ended) => return goodbye(&mut socket).await,
        }
    }
}

/// Closes with 1001 (RFC 6455, section 7.4.1: going away).
async fn goodbye(socket: &mut WebSocketStream<TokioIo<Upgraded>>) {
    let frame = CloseFrame { code: CloseCode::Away, reason: "stopping".into() };
    let _ = socket.close(Some(frame)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_of_the_rfc_gets_the_answer_of_the_rfc() {
        let mut headers = HeaderMap::new();
        headers.insert(header::UPGRADE, HeaderValue::from_static("WebSocket"));
        assert_eq!(accept_value(&headers), None);
        headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(accept_value(&headers).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
