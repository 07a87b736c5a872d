//! Binding beside what else may be at a path, and accepting through failures.

use std::os::unix::net::UnixDatagram;
use std::sync::Mutex;

use futures_util::StreamExt;
use spiffe_core::{BoxFuture, SystemClock, Timestamp};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

use super::*;

/// Time that passes by being waited for.
#[derive(Debug, Default)]
struct WaitedClock(Mutex<Vec<Duration>>);

impl Clock for WaitedClock {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn monotonic(&self) -> Duration {
        self.0.lock().unwrap().last().copied().unwrap_or_default()
    }

    fn sleep_until(&self, deadline: Duration) -> BoxFuture<'static, ()> {
        self.0.lock().unwrap().push(deadline);
        Box::pin(std::future::ready(()))
    }
}

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    (directory, path)
}

fn bind(path: &Path) -> Result<WorkloadListener, ListenError> {
    bind_with(path, ListenOptions::new())
}

fn bind_with(path: &Path, options: ListenOptions) -> Result<WorkloadListener, ListenError> {
    WorkloadListener::bind(path, options, Arc::new(SystemClock::new()))
}

/// A socket whose owner is gone without having removed it.
fn leave_stale(path: &Path) {
    drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    assert!(path.exists());
}

fn names(directory: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[track_caller]
fn refused(path: &Path, message: &str) {
    let error = bind(path).unwrap_err().to_string();
    assert_eq!(error, message.replace("PATH", path.to_str().unwrap()));
}

#[tokio::test]
async fn connections_come_with_their_caller() {
    let (_directory, path) = place();
    let listener = bind(&path).unwrap();
    let _client = UnixStream::connect(&path).await.unwrap();
    assert_eq!(listener.accept().await.caller().pid(), std::process::id());
    assert_eq!(listener.path(), path);
}

#[tokio::test]
async fn incoming_gives_every_connection_and_removes_the_file_at_its_end() {
    let (directory, path) = place();
    {
        let mut incoming = std::pin::pin!(bind(&path).unwrap().incoming());
        for _ in 0..3 {
            let _client = UnixStream::connect(&path).await.unwrap();
            incoming.next().await.unwrap().unwrap();
        }
        assert!(path.exists());
    }
    assert!(names(&directory).is_empty());
}

#[tokio::test]
async fn live_socket_is_left_alone() {
    let (_directory, path) = place();
    let message =
        "socket PATH is in use by a running process: stop that process or choose another path";
    let listener = bind(&path).unwrap();
    refused(&path, message);
    UnixStream::connect(&path).await.unwrap();
    drop(listener);
    // Programs that take no lock are known by their answer.
    let foreign = UnixListener::bind(&path).unwrap();
    refused(&path, message);
    UnixStream::connect(&path).await.unwrap();
    drop(foreign);
    assert!(bind(&path).is_ok());
}

#[tokio::test]
async fn live_socket_with_a_full_backlog_is_left_alone() {
    let (_directory, path) = place();
    let socket = UnixSocket::new_stream().unwrap();
    socket.bind(&path).unwrap();
    let _foreign = socket.listen(0).unwrap();
    let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    assert_eq!(knock(&path), Err(Errno::EAGAIN));
    assert!(matches!(bind(&path), Err(ListenError::InUse { .. })));
}

#[tokio::test]
async fn socket_of_another_kind_is_left_alone() {
    let (_directory, path) = place();
    let _foreign = UnixDatagram::bind(&path).unwrap();
    assert!(matches!(bind(&path), Err(ListenError::InUse { .. })));
}

#[tokio::test]
async fn stale_socket_is_replaced() {
    let (_directory, path) = place();
    leave_stale(&path);
    let listener = bind(&path).unwrap();
    let _client = UnixStream::connect(&path).await.unwrap();
    listener.accept().await;
}

#[tokio::test]
async fn second_start_during_the_first_is_refused_although_nobody_answers_yet() {
    let (_directory, path) = place();
    leave_stale(&path);
    let first = LockFile::take(&path).unwrap();
    assert!(matches!(bind(&path), Err(ListenError::InUse { .. })));
    drop(first);
    assert!(bind(&path).is_ok());
}

#[tokio::test]
async fn lock_file_left_by_a_killed_process_is_no_obstacle() {
    let (_directory, path) = place();
    fs::write(path.with_extension("sock.lock"), "").unwrap();
    assert!(bind(&path).is_ok());
}

#[tokio::test]
async fn what_is_not_a_socket_is_left_alone() {
    let (directory, path) = place();
    let message = "PATH exists and is not a socket: remove it or choose another path";
    fs::write(&path, "precious").unwrap();
    refused(&path, message);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("elsewhere", &path).unwrap();
    refused(&path, message);
    assert_eq!(names(&directory), ["api.sock"]);
}

#[tokio::test]
async fn path_is_as_long_as_the_kernel_lets_it_be() {
    let (directory, _) = place();
    let room = MAX_PATH - directory.path().as_os_str().len() - 1;
    assert!(bind(&directory.path().join("x".repeat(room))).is_ok());
    let path = directory.path().join("x".repeat(room + 1));
    refused(
        &path,
        "socket path of 108 bytes is too long, at most 107 are possible: choose a shorter path than PATH",
    );
}

#[tokio::test]
async fn missing_directory_is_named() {
    let (directory, _) = place();
    refused(
        &directory.path().join("missing/api.sock"),
        "directory of socket PATH does not exist: create it or choose another path",
    );
}

#[test]
fn refusals_of_the_kernel_become_errors_of_their_own() {
    let path = Path::new("/run/api.sock");
    let error = |errno: Errno| ListenError::at(path, "binding")(errno.into());
    assert_eq!(
        error(Errno::EACCES).to_string(),
        "binding socket /run/api.sock is not permitted: run as its owner or choose another path"
    );
    assert!(matches!(
        error(Errno::EPERM),
        ListenError::PermissionDenied { .. }
    ));
    assert!(matches!(
        error(Errno::EADDRINUSE),
        ListenError::InUse { .. }
    ));
    assert_eq!(
        error(Errno::EROFS).to_string(),
        "binding socket /run/api.sock is impossible, for its file system is read-only: choose a path in one that can be written"
    );
    // The cause is in the same line.
    let other = error(Errno::ENOSPC).to_string();
    assert!(other.contains("failed: No space left on device"), "{other}");
}

#[tokio::test]
async fn mode_is_open_to_all_unless_set() {
    let (_directory, path) = place();
    let mode = || fs::metadata(&path).unwrap().mode() & 0o777;
    let listener = bind(&path).unwrap();
    assert_eq!(mode(), 0o777);
    drop(listener);
    let _listener = bind_with(&path, ListenOptions::new().mode(0o660)).unwrap();
    assert_eq!(mode(), 0o660);
}

#[tokio::test]
async fn owner_is_set_where_permitted_and_refused_where_not() {
    let (directory, path) = place();
    let bound = bind_with(&path, ListenOptions::new().owner(Some(4711), Some(4712)));
    if nix::unistd::geteuid().is_root() {
        let _listener = bound.unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (4711, 4712));
    } else {
        assert!(matches!(bound, Err(ListenError::PermissionDenied { .. })));
        assert!(names(&directory).is_empty());
    }
}

#[tokio::test]
async fn dropping_removes_the_file_unless_it_is_anothers() {
    let (directory, path) = place();
    drop(bind(&path).unwrap());
    assert!(names(&directory).is_empty());
    let listener = bind(&path).unwrap();
    fs::rename(&path, directory.path().join("moved")).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(listener);
    UnixStream::connect(&path).await.unwrap();
}

#[tokio::test]
async fn connections_beyond_the_bound_are_closed_until_one_ends() {
    let (_directory, path) = place();
    let listener = bind_with(&path, ListenOptions::new().max_connections(1)).unwrap();
    let _first = UnixStream::connect(&path).await.unwrap();
    let held = listener.accept().await;
    let mut second = UnixStream::connect(&path).await.unwrap();
    let mut buffer = [0];
    tokio::select! {
        biased;
        _ = listener.accept() => panic!("accepted beyond the bound"),
        read = second.read(&mut buffer) => assert_eq!(read.unwrap(), 0),
    }
    drop(held);
    let _third = UnixStream::connect(&path).await.unwrap();
    listener.accept().await;
}

#[tokio::test]
async fn accepting_waits_longer_and_longer_while_descriptors_are_out() {
    let (_directory, path) = place();
    let clock = Arc::new(WaitedClock::default());
    let listener =
        WorkloadListener::bind(&path, ListenOptions::new(), Arc::clone(&clock) as _).unwrap();
    let (_client, server) = UnixStream::pair().unwrap();
    let mut server = Some(server);
    let mut errors = vec![Errno::EMFILE; 9];
    // A client that gave up is no reason to wait.
    errors.insert(3, Errno::ECONNABORTED);
    let mut results = errors.into_iter();
    listener
        .accept_by(|_| {
            Poll::Ready(match results.next() {
                Some(errno) => Err(errno.into()),
                None => Ok(server.take().unwrap()),
            })
        })
        .await;
    let times = clock.0.lock().unwrap().clone();
    let (deadline, waits) = times.split_last().unwrap();
    let mut past = Duration::ZERO;
    let pauses: Vec<_> = waits
        .iter()
        .map(|wait| (*wait - std::mem::replace(&mut past, *wait)).as_millis())
        .collect();
    assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    assert_eq!(*deadline - past, DEFAULT_PREFACE_TIMEOUT);
}
