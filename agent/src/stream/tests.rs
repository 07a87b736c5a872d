//! A real gRPC server behind the stream, and a client that writes its bytes by hand.

use std::future::ready;

use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tonic::body::Body;
use tonic::transport::Server;

use super::*;
use crate::hpack::encode_literal;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

fn request(authority: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/x"),
        (":authority", authority),
    ] {
        encode_literal(&mut block, name.as_bytes(), value.as_bytes());
    }
    let mut bytes = PREFACE.to_vec();
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    bytes.extend([0, 0, block.len() as u8, HEADERS, 0x5, 0, 0, 0, 1]);
    bytes.extend(block);
    bytes
}

/// The kind of the first frame that is an answer.
async fn answer(client: &mut UnixStream) -> u8 {
    loop {
        let mut head = [0; 9];
        client.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        client.read_exact(&mut payload).await.unwrap();
        if matches!(head[3], HEADERS | RST_STREAM | GOAWAY) {
            return head[3];
        }
    }
}

/// Sends a request with `authority` to a server behind `wrap`: the kind of answer, and what the server saw.
async fn exchange<IO>(
    authority: &str,
    wrap: impl FnOnce(UnixStream) -> IO,
) -> (u8, Option<(String, Option<u32>)>)
where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (mut client, server) = UnixStream::pair().unwrap();
    let (seen, mut sees) = mpsc::unbounded_channel();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let caller = request.extensions().get::<Caller>().map(Caller::pid);
        let authority = request.uri().authority().map(ToString::to_string);
        seen.send((authority.unwrap_or_default(), caller)).unwrap();
        ready(Ok::<_, std::convert::Infallible>(http::Response::new(
            Body::empty(),
        )))
    });
    let incoming = stream::iter([io::Result::Ok(wrap(server))]);
    let server = tokio::spawn(Server::builder().serve_with_incoming(service, incoming));
    client.write_all(&request(authority)).await.unwrap();
    let kind = answer(&mut client).await;
    server.abort();
    (kind, sees.try_recv().ok())
}

#[tokio::test]
async fn server_sees_localhost_for_a_socket_path_and_the_caller() {
    let (kind, seen) = exchange("%2Ftmp%2Fapi.sock", |io| CallerStream::new(io).unwrap()).await;
    assert_eq!(kind, HEADERS);
    assert_eq!(seen, Some(("localhost".into(), Some(std::process::id()))));
}

#[tokio::test]
async fn server_sees_a_valid_authority_as_sent() {
    let (kind, seen) = exchange("example.org", |io| CallerStream::new(io).unwrap()).await;
    assert_eq!(kind, HEADERS);
    assert_eq!(seen, Some(("example.org".into(), Some(std::process::id()))));
}

#[tokio::test]
async fn without_the_stream_the_server_refuses_a_socket_path() {
    let (kind, seen) = exchange("%2Ftmp%2Fapi.sock", |io| io).await;
    assert_ne!(kind, HEADERS);
    assert_eq!(seen, None);
}

#[tokio::test]
async fn small_reads_give_the_same_bytes() {
    let (mut client, server) = UnixStream::pair().unwrap();
    let mut server = CallerStream::new(server).unwrap();
    let sent = [request("localhost"), b"and all that follows".to_vec()].concat();
    client.write_all(&sent).await.unwrap();
    drop(client);
    let mut received = Vec::new();
    let mut byte = [0];
    while server.read(&mut byte).await.unwrap() == 1 {
        received.push(byte[0]);
    }
    assert_eq!(received, sent);
    assert!(server.repair.is_none());
}

#[tokio::test]
async fn broken_frames_end_the_connection() {
    let (mut client, server) = UnixStream::pair().unwrap();
    let mut server = CallerStream::new(server).unwrap();
    client
        .write_all(&[PREFACE, &[0xff; 9]].concat())
        .await
        .unwrap();
    let error = server.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn silent_client_is_cut_off_at_the_deadline() {
    let (_client, server) = UnixStream::pair().unwrap();
    let mut server = CallerStream::new(server)
        .unwrap()
        .with_deadline(Box::pin(ready(())));
    let error = server.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn client_that_sent_its_preface_may_be_idle() {
    let (mut client, server) = UnixStream::pair().unwrap();
    let (pass, passed) = oneshot::channel::<()>();
    let deadline = Box::pin(async { passed.await.unwrap_or_default() });
    let mut server = CallerStream::new(server).unwrap().with_deadline(deadline);
    client.write_all(PREFACE).await.unwrap();
    server.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
    // Nobody waits for it any more.
    assert!(pass.send(()).is_err());
    client
        .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    server.read_exact(&mut [0; 9]).await.unwrap();
}

#[tokio::test]
async fn blocks_that_grow_arrive_whole() {
    let (mut client, server) = UnixStream::pair().unwrap();
    let mut server = CallerStream::new(server).unwrap();
    let mut sent = request("%2Frun%2Fapi.sock");
    // Each block puts 4,000 bytes into the table once and names them 60 times.
    let mut block = vec![0x40, 1, b'a', 0x7f, 0xa1, 0x1e];
    block.extend([b'x'; 4000]);
    block.extend([0xbe; 60]);
    let blocks = 3;
    for stream in 0..blocks {
        sent.extend_from_slice(&(block.len() as u32).to_be_bytes()[1..]);
        sent.extend([HEADERS, 0x5, 0, 0, 0, 3 + 2 * stream]);
        sent.extend_from_slice(&block);
    }
    client.write_all(&sent).await.unwrap();
    drop(client);
    let mut received = Vec::new();
    server.read_to_end(&mut received).await.unwrap();
    let mut frames = &received[PREFACE.len()..];
    let mut copied = 0;
    while let [a, b, c, ..] = *frames {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let (frame, rest) = frames.split_at(9 + length);
        copied += frame[9..].iter().filter(|byte| **byte == b'x').count();
        frames = rest;
    }
    // The first request's path has one more.
    assert_eq!(copied, 61 * 4000 * usize::from(blocks) + 1);
}

#[tokio::test]
async fn writes_reach_the_client() {
    let (mut client, server) = UnixStream::pair().unwrap();
    let mut server = CallerStream::new(server).unwrap();
    assert_eq!(server.caller().pid(), std::process::id());
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    let mut received = Vec::new();
    client.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"answer");
}
