//! What the example programs share: the two lines of the hello protocol, and how they say that something failed.
//!
//! The protocol: the client sends `hello`, the server answers `hello, <the client's SPIFFE ID>` and closes.
#![forbid(unsafe_code)]

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use spiffe_tls::TlsStream;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

/// How policies are written, for the programs' help.
pub const POLICY_FORMS: &str =
    "any, id:<ID>, ids:<ID>,<ID>, domain:<name>, prefix:<ID>/ or pattern:<ID with *>, joined by |";

/// The longest line that either side reads: a greeting and an ID of 2048 bytes.
const MAX_LINE_BYTES: u64 = 4096;

/// The client's part: greets, and returns the answer without its line end.
///
/// # Errors
///
/// As the connection says; a server that refused this client shows here.
pub async fn greet(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<String> {
    stream.write_all(b"hello\n").await?;
    stream.flush().await?;
    let answer = read_line(stream).await?;
    // Tells the server that the end is meant; it may have closed already.
    let _ = stream.shutdown().await;
    Ok(answer)
}

/// The server's part: reads the greeting, answers with the client's ID, and closes.
///
/// # Errors
///
/// As the connection says.
pub async fn answer<IO>(stream: &mut TlsStream<IO>) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let client = stream.peer().id().to_string();
    answer_to(stream, &client).await
}

/// The same for a client that is known by this name, over whatever there is between.
///
/// # Errors
///
/// As the connection says.
pub async fn answer_to(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    client: &str,
) -> io::Result<()> {
    read_line(stream).await?;
    let answer = format!("hello, {client}\n");
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// One answer to one HTTP/1.1 request, whatever it asks for: for curl and browsers.
///
/// # Errors
///
/// As the connection says.
pub async fn answer_http<IO>(stream: &mut TlsStream<IO>) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    while !read_line(stream).await?.is_empty() {}
    let text = format!("hello, {}\n", stream.peer().id());
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        text.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

/// One line without its end, read byte by byte so that nothing behind it is taken.
async fn read_line(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut line = String::new();
    let read = BufReader::with_capacity(1, &mut *stream)
        .take(MAX_LINE_BYTES)
        .read_line(&mut line)
        .await?;
    if read == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

/// Sends the library's events to standard error; `RUST_LOG` chooses which.
pub fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

/// Exit status 0, or 1 with the error in one line.
pub fn exit<E: std::fmt::Display>(outcome: Result<(), E>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Resolves at Ctrl-C or SIGTERM.
///
/// # Errors
///
/// When the system refuses to have signals handled.
pub async fn interrupted() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt,
        _ = terminate.recv() => Ok(()),
    }
}
