//! The `unix` attestor: users, groups and the program, from `/proc`, as SPIRE's attestor of that name defines them.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User};
use spiffe_registration::Selector;

use super::{AttestError, WorkloadAttestor};
use crate::caller::Caller;

/// Gives `unix:uid`, `unix:user`, `unix:gid`, `unix:group`, `unix:supplementary_gid`, `unix:supplementary_group`,
/// `unix:path` and `unix:sha256` (lower-case hexadecimal).
///
/// IDs are the effective ones. Names are left out where the machine knows none. `path` is where the program's file is as
/// the kernel has it, with symbolic links resolved; when the file was replaced since, it ends in ` (deleted)`. `path` and
/// `sha256` are left out of callers whose program may not be read, which takes root or the same user.
///
/// A process may connect and then run another program, a setuid one for instance, while a child of its keeps the
/// connection. The credentials of the moment of connecting must therefore still hold, else the caller is refused. `path`
/// and `sha256` cannot be guarded like that: whoever may run a program may, as the same user, also have it stand in. Put
/// `unix:uid` beside them.
pub struct UnixAttestor {
    path: bool,
    sha256: Option<Box<Sha256>>,
    size_limit: u64,
}

impl UnixAttestor {
    /// An attestor of everything but `unix:sha256`.
    pub fn new() -> Self {
        Self {
            path: true,
            sha256: None,
            size_limit: DEFAULT_SIZE_LIMIT,
        }
    }

    /// Also gives `unix:sha256`, by this SHA-256.
    #[must_use]
    pub fn with_sha256(
        mut self,
        sha256: impl Fn(&[u8]) -> [u8; 32] + Send + Sync + 'static,
    ) -> Self {
        self.sha256 = Some(Box::new(sha256));
        self
    }

    /// Leaves out `unix:path`.
    #[must_use]
    pub fn without_path(mut self) -> Self {
        self.path = false;
        self
    }

    /// The size in bytes up to which a program is read for `unix:sha256`, which is left out of larger ones.
    /// [`DEFAULT_SIZE_LIMIT`] unless set.
    #[must_use]
    pub fn with_size_limit(mut self, bytes: u64) -> Self {
        self.size_limit = bytes;
        self
    }

    /// Why no caller has `selector`, in one line, as users and groups of this machine are now; `None` when one may. An
    /// entry with such a selector matches nobody, and says so to nobody unless somebody asks here.
    pub fn never_gives(selector: &Selector) -> Option<&'static str> {
        if selector.kind() != "unix" {
            return Some("the unix attestor gives selectors of the type 'unix' only");
        }
        let (name, value) = selector.value().split_once(':')?;
        match name {
            "uid" | "gid" | "supplementary_gid" if value.parse::<u32>().is_err() => {
                Some("it takes a number; names go with user, group and supplementary_group")
            }
            "path" if !value.starts_with('/') => Some("it takes an absolute path"),
            "sha256"
                if value.len() != 64
                    || !value
                        .bytes()
                        .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) =>
            {
                Some("it takes 64 lower-case hexadecimal digits")
            }
            // Where the system cannot say, it may be asked again.
            "user" if matches!(User::from_name(value), Ok(None)) => {
                Some("this machine has no such user")
            }
            "group" | "supplementary_group" if matches!(Group::from_name(value), Ok(None)) => {
                Some("this machine has no such group")
            }
            "uid"
            | "gid"
            | "supplementary_gid"
            | "user"
            | "group"
            | "supplementary_group"
            | "path"
            | "sha256" => None,
            _ => Some(
                "the unix attestor knows uid, gid, supplementary_gid, user, group, supplementary_group, path and sha256",
            ),
        }
    }

    fn read(&self, caller: &Caller, proc: &Path) -> Result<Vec<Selector>, AttestError> {
        let status = Status::read(proc)?;
        let connected = (caller.uid(), caller.gid());
        if (status.uid, status.gid) != connected {
            return Err(AttestError::CredentialsChanged {
                connected,
                now: (status.uid, status.gid),
            });
        }
        let mut selectors = vec![selector("uid", status.uid)];
        selectors.extend(user_name(status.uid).map(|name| selector("user", name)));
        selectors.push(selector("gid", status.gid));
        selectors.extend(group_name(status.gid).map(|name| selector("group", name)));
        for gid in status.supplementary {
            selectors.push(selector("supplementary_gid", gid));
            selectors.extend(group_name(gid).map(|name| selector("supplementary_group", name)));
        }
        if let Err(error) = self.program(&proc.join("exe"), &mut selectors) {
            tracing::debug!(%caller, %error, "program of the caller cannot be read: no unix:path and unix:sha256 for it");
        }
        Ok(selectors)
    }

    fn program(&self, exe: &Path, selectors: &mut Vec<Selector>) -> io::Result<()> {
        if !self.path && self.sha256.is_none() {
            return Ok(());
        }
        let path = fs::read_link(exe)?;
        let digest = self
            .sha256
            .as_ref()
            .map(|sha256| self.digest(exe, sha256))
            .transpose()?;
        if fs::read_link(exe)? != path {
            return Err(io::Error::other("another program was started meanwhile"));
        }
        // A path that is not UTF-8 has no exact text form, and an inexact one might be another's.
        if let Some(path) = path.to_str().filter(|_| self.path) {
            selectors.push(selector("path", path));
        }
        selectors.extend(
            digest
                .flatten()
                .map(|digest| selector("sha256", Hex(digest))),
        );
        Ok(())
    }

    fn digest(&self, exe: &Path, sha256: &Sha256) -> io::Result<Option<[u8; 32]>> {
        let file = File::open(exe)?;
        let size = file.metadata()?.len();
        let mut program = Vec::new();
        if size <= self.size_limit {
            // The file may grow while it is read.
            file.take(self.size_limit.saturating_add(1))
                .read_to_end(&mut program)?;
        }
        if size > self.size_limit || program.len() as u64 > self.size_limit {
            tracing::debug!(
                size,
                limit = self.size_limit,
                "program exceeds the size limit: no unix:sha256 for it"
            );
            return Ok(None);
        }
        Ok(Some(sha256(&program)))
    }
}

impl WorkloadAttestor for UnixAttestor {
    fn attest(&self, caller: &Caller) -> Result<Vec<Selector>, AttestError> {
        caller.read_proc(|proc| self.read(caller, proc))
    }
}

impl Default for UnixAttestor {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for UnixAttestor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnixAttestor")
            .field("path", &self.path)
            .field("sha256", &self.sha256.is_some())
            .field("size_limit", &self.size_limit)
            .finish()
    }
}

/// The largest program that is read for `unix:sha256` unless set: it is held in memory meanwhile, once for each caller that
/// is being attested.
pub const DEFAULT_SIZE_LIMIT: u64 = 64 * 1024 * 1024;

type Sha256 = dyn Fn(&[u8]) -> [u8; 32] + Send + Sync;

/// What `/proc/PID/status` says of the process's credentials, proc(5).
#[derive(Debug, Eq, PartialEq)]
struct Status {
    uid: u32,
    gid: u32,
    supplementary: Vec<u32>,
}

impl Status {
    fn read(proc: &Path) -> Result<Self, AttestError> {
        let path = proc.join("status");
        match fs::read(&path) {
            Ok(bytes) => Self::parse(&bytes).map_err(|field| AttestError::Status { path, field }),
            Err(source) => Err(AttestError::Read { path, source }),
        }
    }

    /// The error is the name of the line that is missing or odd.
    fn parse(status: &[u8]) -> Result<Self, &'static str> {
        // The program's name need not be UTF-8, but its line is not read; the kernel escapes line ends in it.
        let status = String::from_utf8_lossy(status);
        let numbers = |field: &'static str| -> Result<Vec<u32>, &'static str> {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(field))
                .ok_or(field)?;
            line.split_ascii_whitespace()
                .map(|number| number.parse().map_err(|_| field))
                .collect()
        };
        // Each line is: real, effective, saved, file system.
        let effective = |field| numbers(field)?.get(1).copied().ok_or(field);
        Ok(Self {
            uid: effective("Uid:")?,
            gid: effective("Gid:")?,
            supplementary: numbers("Groups:")?,
        })
    }
}

struct Hex([u8; 32]);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn selector(name: &str, value: impl fmt::Display) -> Selector {
    Selector::new("unix", &format!("{name}:{value}"))
        .expect("the type has no colon and neither part is empty")
}

fn user_name(uid: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(uid))
        .ok()
        .flatten()
        .map(|user| user.name)
}

fn group_name(gid: u32) -> Option<String> {
    Group::from_gid(Gid::from_raw(gid))
        .ok()
        .flatten()
        .map(|group| group.name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::caller::CallerError;

    fn myself() -> Caller {
        Caller::of(&UnixStream::pair().unwrap().0).unwrap()
    }

    #[test]
    fn what_no_caller_has_is_known_beforehand() {
        let never = |text: &str| UnixAttestor::never_gives(&text.parse().unwrap()).is_some();
        let hash = "ab".repeat(32);
        for good in [
            "unix:uid:0",
            "unix:user:root",
            "unix:group:root",
            "unix:path:/bin/sh",
            &format!("unix:sha256:{hash}"),
        ] {
            assert!(!never(good), "{good}");
        }
        for bad in [
            "unix:uid:root",
            "unix:user:no such user",
            "unix:group:no such group",
            "unix:supplementary_group:no such group",
            "unix:gid:-1",
            "unix:uuid:0",
            "unix:path:sh",
            "unix:sha256:AB",
            "k8s:ns:x",
        ] {
            assert!(never(bad), "{bad}");
        }
    }

    fn texts(attestor: &UnixAttestor, caller: &Caller) -> Vec<String> {
        let selectors = attestor.attest(caller).unwrap();
        selectors.iter().map(ToString::to_string).collect()
    }

    /// A stand-in that tells the length and the first bytes.
    fn fake_sha256(program: &[u8]) -> [u8; 32] {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&(program.len() as u64).to_be_bytes());
        digest[8..12].copy_from_slice(&program[..4]);
        digest
    }

    fn expected_sha256() -> String {
        let program = fs::read(std::env::current_exe().unwrap()).unwrap();
        format!("unix:sha256:{}", Hex(fake_sha256(&program)))
    }

    fn cat() -> Child {
        Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    #[test]
    fn own_process_has_its_ids_and_program() {
        let selectors = texts(&UnixAttestor::new().with_sha256(fake_sha256), &myself());
        let path = std::env::current_exe().unwrap().canonicalize().unwrap();
        for expected in [
            format!("unix:uid:{}", nix::unistd::geteuid()),
            format!("unix:gid:{}", nix::unistd::getegid()),
            format!("unix:path:{}", path.display()),
            expected_sha256(),
        ] {
            assert!(
                selectors.contains(&expected),
                "{expected} is not in {selectors:?}"
            );
        }
    }

    #[test]
    fn root_has_its_names() {
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert_eq!(group_name(0).as_deref(), Some("root"));
    }

    #[test]
    fn path_and_digest_can_be_left_out() {
        let has = |selectors: &[String], prefix: &str| {
            selectors.iter().any(|text| text.starts_with(prefix))
        };
        let selectors = texts(&UnixAttestor::new().without_path(), &myself());
        assert!(!has(&selectors, "unix:path:") && !has(&selectors, "unix:sha256:"));
        let selectors = texts(
            &UnixAttestor::new().without_path().with_sha256(fake_sha256),
            &myself(),
        );
        assert!(!has(&selectors, "unix:path:") && has(&selectors, "unix:sha256:"));
        let selectors = texts(&UnixAttestor::new(), &myself());
        assert!(has(&selectors, "unix:path:") && !has(&selectors, "unix:sha256:"));
    }

    #[test]
    fn program_above_the_size_limit_has_a_path_but_no_digest() {
        let size = fs::metadata(std::env::current_exe().unwrap())
            .unwrap()
            .len();
        let digests = |limit| {
            let attestor = UnixAttestor::new()
                .with_sha256(fake_sha256)
                .with_size_limit(limit);
            let selectors = texts(&attestor, &myself());
            assert!(selectors.iter().any(|text| text.starts_with("unix:path:")));
            selectors.contains(&expected_sha256())
        };
        assert!(digests(size));
        assert!(!digests(size - 1));
    }

    #[test]
    fn other_process_has_its_own_program() {
        let mut child = cat();
        let me = myself();
        let caller = Caller::with_open_process(me.uid(), me.gid(), child.id()).unwrap();
        let program = fs::read_link(format!("/proc/{}/exe", child.id())).unwrap();
        let selectors = texts(&UnixAttestor::new(), &caller);
        assert!(selectors.contains(&format!("unix:path:{}", program.display())));
        assert_ne!(program, std::env::current_exe().unwrap());
        drop(child.stdin.take());
        child.wait().unwrap();
        let error = UnixAttestor::new().attest(&caller).unwrap_err();
        assert!(matches!(
            error,
            AttestError::Caller(CallerError::Gone { .. })
        ));
    }

    #[test]
    fn credentials_other_than_at_the_time_of_connecting_are_refused() {
        let me = myself();
        let pid = std::process::id();
        let caller = Caller::with_open_process(me.uid(), me.gid(), pid).unwrap();
        assert!(UnixAttestor::new().attest(&caller).is_ok());
        for (uid, gid) in [(me.uid() + 1, me.gid()), (me.uid(), me.gid() + 1)] {
            let caller = Caller::with_open_process(uid, gid, pid).unwrap();
            let error = UnixAttestor::new().attest(&caller).unwrap_err();
            assert!(
                matches!(error, AttestError::CredentialsChanged { connected, .. } if connected == (uid, gid))
            );
        }
    }

    #[test]
    fn status_gives_effective_ids_and_all_groups() {
        let status = b"Name:\tUid: 0\nUmask:\t0022\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \nSeccomp:\t0\n";
        let expected = Status {
            uid: 2,
            gid: 6,
            supplementary: vec![9, 10],
        };
        assert_eq!(Status::parse(status), Ok(expected));
    }

    #[test]
    fn status_without_a_line_or_with_an_odd_one_is_refused() {
        assert!(Status::parse(b"Uid:\t1\t2\nGid:\t5\t6\nGroups:\t\n").is_ok());
        assert_eq!(Status::parse(b"Gid:\t5\t6\nGroups:\t\n"), Err("Uid:"));
        assert_eq!(
            Status::parse(b"Uid:\t1\t2\nGid:\t5\nGroups:\t\n"),
            Err("Gid:")
        );
        assert_eq!(
            Status::parse(b"Uid:\t1\t2\nGid:\t5\t6\nGroups:\tx\n"),
            Err("Groups:")
        );
    }
}
