//! A verb on a terminal: what it draws, and what keys do to it.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use nix::pty::{Winsize, openpty};
use nix::sys::termios::{Termios, tcgetattr};

use super::PATIENCE;

/// Where the screen is begun anew.
const CLEAR: &str = "\x1b[H\x1b[J";

/// What is shown behind all else.
const MARK: &str = "(the end)";

pub struct Terminal {
    child: Child,
    keys: File,
    own_end: File,
    before: Termios,
    output: Receiver<Vec<u8>>,
    shown: Vec<u8>,
}

impl Terminal {
    /// Runs a command in front of a terminal of its own, of 24 lines with 100 columns.
    pub fn run(command: &Command) -> Self {
        let size = Winsize {
            ws_row: 24,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        // The leader of a session that the terminal belongs to: its keys then become signals.
        let mut session = Command::new("setsid");
        session
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(end())
            .stdout(end())
            .stderr(end());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        let child = session.spawn().unwrap();
        let keys = File::from(pty.master);
        let mut screen = keys.try_clone().unwrap();
        let (to, output) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = screen.read(&mut bytes) {
                if to.send(bytes[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            keys,
            before: tcgetattr(&pty.slave).unwrap(),
            own_end: File::from(pty.slave),
            output,
            shown: Vec::new(),
        }
    }

    /// Waits until what was shown so far is as it should be, and returns it. A character that came half is none yet.
    pub fn until(&mut self, is_good: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let shown = String::from_utf8_lossy(&self.shown);
            if is_good(&shown) {
                return shown.into_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.shown.extend(bytes),
                Err(_) => panic!("it did not come; what came: {shown:#?}"),
            }
        }
    }

    /// Waits until a whole screen holds each of these texts, and returns it.
    pub fn screen(&mut self, texts: &[&str]) -> String {
        let find = |shown: &str| -> Option<String> {
            let screens: Vec<_> = shown.split(CLEAR).skip(1).collect();
            // The last one may be half drawn.
            let (_, whole) = screens.split_last()?;
            let good = |screen: &&&str| texts.iter().all(|text| screen.contains(text));
            whole.iter().rfind(good).map(|screen| (*screen).to_owned())
        };
        find(&self.until(|shown| find(shown).is_some())).unwrap()
    }

    pub fn shows(&mut self, text: &str) {
        self.until(|shown| shown.contains(text));
    }

    pub fn press(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end, and for all that was shown until then, which is returned; the terminal must be as it was before.
    pub fn end(mut self) -> (ExitStatus, String) {
        let ended = self.child.wait().unwrap();
        assert!(tcgetattr(&self.own_end).unwrap() == self.before);
        // What comes before this was there at the end.
        self.own_end.write_all(MARK.as_bytes()).unwrap();
        let shown = self.until(|shown| shown.ends_with(MARK));
        (ended, shown.strip_suffix(MARK).unwrap().to_owned())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What Ctrl-C sends.
pub const CTRL_C: &[u8] = b"\x03";

/// What Ctrl-\ sends.
pub const CTRL_BACKSLASH: &[u8] = b"\x1c";
