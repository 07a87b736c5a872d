//! `spiffe ca` killed by strace as it enters a system call that writes, at each such call of each kind and verb; then
//! started again: the same trust domain, no authority lost, no serial number twice, nothing unreadable.
//!
//! That the order of writes, syncs and renames is right is another matter, which a kill cannot show: the storage model
//! in `svid-ca/tests/faults.rs` does.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::Check;
use crate::lab::{Lab, program, short_temporary_folder};
use crate::openssl;
use crate::outcome::{Trouble, ensure};
use crate::process::{Finished, Process};
use crate::world::SOON;

pub(crate) const CASES: &[(&str, Check)] = &[("ca-killed", |lab| killed(lab, SPREAD))];

/// Run when they are named.
pub(crate) const LONG: &[(&str, Check)] = &[("ca-killed-everywhere", |lab| killed(lab, 1))];

/// In the short form every so manieth call; no divisor of what one verb does again and again.
const SPREAD: usize = 5;

/// SIGKILL, by which strace ends itself as well when its child was.
const KILL: i32 = 9;

/// What writes, or makes what was written last. Opening is among them, since it makes files.
const WRITES: [&str; 12] = [
    "openat",
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "ftruncate",
    "rename",
    "unlink",
    "link",
    "mkdir",
    "chmod",
    "fchmod",
];

/// Each verb that writes, with what comes before it.
const VERBS: [&[&str]; 6] = [
    &["init", "example.org"],
    &["issue", "spiffe://example.org/killed", "--out", "killed"],
    &["rotate"],
    &["rotate", "--acknowledged"],
    &["intermediate", "--out", "below"],
    &["jwt", "spiffe://example.org/killed", "--audience", "db"],
];

fn killed(lab: &Lab, spread: usize) -> Result<(), Trouble> {
    let strace = program("strace", "strace")?;
    let place = short_temporary_folder()?;
    // Where the verbs before have led to, as the next one finds it.
    let before = Desk::new(lab, place.path().join("before"))?;
    let (mut kills, mut position) = (0, 0);
    for verb in VERBS {
        let seen = before.seen()?;
        for call in WRITES {
            for number in 1.. {
                position += 1;
                if position % spread != 0 && number > 1 {
                    continue;
                }
                let desk = before.copy(place.path().join("killed"))?;
                let mut command = Command::new(&strace);
                let inject = format!("--inject={call}:signal=KILL:when={number}");
                command.args(["-f", "-qq", "--output=/dev/null", &inject, "--"]);
                let spiffe = desk.command(verb)?;
                command
                    .arg(spiffe.get_program())
                    .args(spiffe.get_args())
                    .env("SPIFFE_CA_STATE", desk.state())
                    .current_dir(&desk.folder);
                let ended = Process::run("strace", command, SOON)?;
                if ended.status.success() {
                    // Fewer such calls than that.
                    break;
                }
                ensure(ended.status.signal() == Some(KILL), || {
                    ended.describe("should have been killed, and ended with")
                })?;
                kills += 1;
                let case = format!("{} killed at {call} number {number}", verb.join(" "));
                desk.check(&seen).map_err(|trouble| trouble.during(&case))?;
            }
        }
        before.run(verb)?.expect_success()?;
        // What is handed out now must stay good whatever happens later.
        before
            .run(&[
                "issue",
                "spiffe://example.org/held",
                "--out",
                "held",
                "--force",
            ])?
            .expect_success()?;
    }
    println!("     {kills} kills");
    ensure(kills > 6 * VERBS.len(), || format!("only {kills} kills"))
}

/// A folder with the state of a CA, and what it handed out.
struct Desk<'a> {
    lab: &'a Lab,
    folder: PathBuf,
}

/// What the world has seen of a CA.
struct Seen {
    authorities: BTreeSet<String>,
    serials: usize,
}

impl<'a> Desk<'a> {
    fn new(lab: &'a Lab, folder: PathBuf) -> Result<Self, Trouble> {
        fs::create_dir(&folder)?;
        Ok(Self { lab, folder })
    }

    fn copy(&self, folder: PathBuf) -> Result<Self, Trouble> {
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(&self.folder).arg(&folder);
        Process::run("cp", copy, SOON)?.expect_success()?;
        Ok(Self {
            lab: self.lab,
            folder,
        })
    }

    fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    fn command(&self, verb: &[&str]) -> Result<Command, Trouble> {
        let mut command = self.lab.ours()?.ca(&self.state(), verb);
        command.current_dir(&self.folder);
        Ok(command)
    }

    fn run(&self, verb: &[&str]) -> Result<Finished, Trouble> {
        Process::run("spiffe ca", self.command(verb)?, SOON)
    }

    fn seen(&self) -> Result<Seen, Trouble> {
        if !self.state().exists() {
            return Ok(Seen {
                authorities: BTreeSet::new(),
                serials: 0,
            });
        }
        let status = self
            .run(&["status", "--output", "json"])?
            .expect_success()?;
        let status = &json(&status.stdout.join("\n"))?["value"];
        ensure(status["trust_domain"] == "example.org", || {
            format!("it is another trust domain: {status}")
        })?;
        let mut authorities = BTreeSet::new();
        for authority in status["authorities"].as_array().into_iter().flatten() {
            authorities.insert(authority["id"].to_string());
        }
        let mut serials = BTreeSet::new();
        let shown = self.run(&["log", "show"])?.expect_success()?;
        for line in shown.lines() {
            let serial = json(line)?["serial"].to_string();
            ensure(serial == "null" || serials.insert(serial.clone()), || {
                format!("the serial number {serial} is in the log twice")
            })?;
        }
        Ok(Seen {
            authorities,
            serials: serials.len(),
        })
    }

    /// After the kill it goes on as if nothing had been.
    fn check(&self, before: &Seen) -> Result<(), Trouble> {
        let released = self.folder.join("killed/svid.pem");
        let released = released.exists().then(|| fs::read(&released)).transpose()?;
        if self.run(&["status"])?.status.success() {
            self.run(&["log", "verify"])?.expect_success()?;
        } else {
            // Killed before there was a journal: nothing was made, and nothing is in the way.
            ensure(before.authorities.is_empty(), || {
                "its journal is gone".into()
            })?;
            self.run(&["init", "example.org"])?.expect_success()?;
        }
        self.run(&[
            "issue",
            "spiffe://example.org/after",
            "--out",
            "after",
            "--force",
        ])?
        .expect_success()?;
        openssl::verify_strictly(
            &self.folder.join("after/bundle.pem"),
            &self.folder.join("after/svid.pem"),
        )?;
        let after = self.seen()?;
        ensure(after.authorities.is_superset(&before.authorities), || {
            format!(
                "of {:?} only {:?} are left",
                before.authorities, after.authorities
            )
        })?;
        ensure(after.serials > before.serials, || {
            "records of the log are gone".into()
        })?;
        let held = self.folder.join("held/svid.pem");
        if held.exists() {
            openssl::verify_strictly(&self.folder.join("after/bundle.pem"), &held)?;
        }
        if released.is_some() {
            let released = self.folder.join("killed/svid.pem");
            openssl::verify_strictly(&self.folder.join("after/bundle.pem"), &released)?;
        }
        self.check_files()
    }

    /// Every file is whole, and its owner's alone.
    fn check_files(&self) -> Result<(), Trouble> {
        for entry in fs::read_dir(self.state())? {
            let path = entry?.path();
            let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
            ensure(mode == 0o600, || {
                format!("{} has the mode {mode:o}", path.display())
            })?;
        }
        let keys = json(&fs::read_to_string(self.state().join("keys.json"))?)?;
        ensure(
            keys["keys"].as_object().is_some_and(|keys| keys.len() >= 2),
            || "the file of keys has lost some".into(),
        )?;
        for name in ["killed/key.pem", "below/ca-key.pem"] {
            let path = self.folder.join(name);
            if path.exists() {
                ensure(is_whole_private_file(&path)?, || {
                    format!("{} is cut off, or open to others", path.display())
                })?;
            }
        }
        Ok(())
    }
}

fn is_whole_private_file(path: &Path) -> Result<bool, Trouble> {
    let text = fs::read_to_string(path)?;
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    Ok(mode == 0o600 && text.ends_with("-----END PRIVATE KEY-----\n"))
}

fn json(text: &str) -> Result<Value, Trouble> {
    serde_json::from_str(text).map_err(|error| Trouble::Failed(format!("`{text}`: {error}")))
}
