//! A Workload API that writes whatever it likes on the client's connection: each call ends with an answer or with one line
//! that says why not, and the client comes back and is served as soon as the other end behaves.
#![no_main]

use std::path::PathBuf;
use std::process;
use std::sync::LazyLock;
use std::{env, fs, io};

use libfuzzer_sys::fuzz_target;
use spiffe_fuzz::{AUDIENCE, World, answer, frames, preface, x509_message};
use spiffe_workload_client::{ClientError, Endpoint, WorkloadApiClient};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

/// More than the messages that fit into one input.
const MAX_MESSAGES: usize = 256;

/// The first call after may still meet the end of the old connection.
const CALLS: usize = 2;

struct Bench {
    runtime: Runtime,
    listener: UnixListener,
    path: PathBuf,
    good: Vec<u8>,
}

static BENCH: LazyLock<Bench> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime starts");
    let path = env::temp_dir().join(format!("spiffe-fuzz-{}", process::id()));
    // What a process of that number left behind.
    drop(fs::remove_file(&path));
    let listener = {
        let _guard = runtime.enter();
        // libFuzzer's main leaves SIGPIPE deadly, which Rust's does not. The handler stays when its stream is dropped.
        drop(signal(SignalKind::pipe()).expect("a handler can be set"));
        UnixListener::bind(&path).expect("a socket in the directory for such things")
    };
    let world = World::new();
    Bench {
        runtime,
        listener,
        path,
        good: answer(&x509_message(&world, &world.authorities[1])),
    }
});

fuzz_target!(|data: &[u8]| {
    let Some((&which, data)) = data.split_first() else {
        return;
    };
    let bench = &*BENCH;
    let endpoint = Endpoint::unix(&bench.path).expect("an absolute path");
    let client = WorkloadApiClient::new(endpoint);
    bench.runtime.block_on(async {
        let server = async {
            serve(&bench.listener, &frames(data)).await;
            loop {
                serve(&bench.listener, &bench.good).await;
            }
        };
        let asked = async {
            ask(&client, which).await;
            is_served(&client).await;
        };
        tokio::select! {
            () = server => {}
            () = asked => {}
        }
    });
});

/// One connection: says `what` once a request is there, then no more, and listens to the end.
async fn serve(listener: &UnixListener, what: &[u8]) {
    let (mut stream, _) = listener.accept().await.expect("a connection");
    // The client may be gone at any point.
    drop(converse(&mut stream, what).await);
}

async fn converse(stream: &mut UnixStream, what: &[u8]) -> io::Result<()> {
    const PREFACE: usize = 24;
    const HEADERS: u8 = 1;
    stream.read_exact(&mut [0; PREFACE]).await?;
    stream.write_all(&preface()).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; length as usize]).await?;
        if head[3] == HEADERS {
            break;
        }
    }
    stream.write_all(what).await?;
    stream.shutdown().await?;
    stream.read_to_end(&mut Vec::new()).await?;
    Ok(())
}

async fn ask(client: &WorkloadApiClient, which: u8) {
    let error = match which % 3 {
        0 => client.fetch_jwt_svids([AUDIENCE], None).await.err(),
        1 => client.validate_jwt_svid("a.b.c", AUDIENCE).await.err(),
        _ => follow(client).await.err(),
    };
    if let Some(error) = error {
        let line = error.to_string();
        assert!(line.len() < 32_768 && !line.contains('\n'), "{line}");
    }
}

/// Takes the updates of a stream to its end.
async fn follow(client: &WorkloadApiClient) -> Result<(), ClientError> {
    let mut updates = client.watch_x509().await?;
    for _ in 0..MAX_MESSAGES {
        match updates.next().await {
            // A message that is discarded does not end the stream.
            Ok(_) | Err(ClientError::Response(_)) => {}
            Err(error) => return Err(error),
        }
    }
    panic!("more messages than there were bytes");
}

async fn is_served(client: &WorkloadApiClient) {
    let mut last = None;
    for _ in 0..CALLS {
        match client.fetch_x509().await {
            Ok(context) => {
                assert_eq!(context.default_svid().id().path(), "/x");
                return;
            }
            Err(error) => last = Some(error),
        }
    }
    panic!("the client does not come back: {last:?}");
}
