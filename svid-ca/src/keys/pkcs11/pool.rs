//! Sessions with a token, each on a thread of its own: calls of a module block, and a session serves one at a time.
//!
//! No async runtime is asked for: a job goes to whichever thread is free, and its answer comes back through a channel
//! that the caller awaits. Threads end with the pool, which waits for them: a module must not be in use any more when the
//! program ends.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use futures_channel::oneshot;
use zeroize::Zeroizing;

use super::uri::{Pin, TokenUri};
use crate::storage::told;

/// How many sessions are held, and so how many signatures are made at once. Four is what keeps a software token busy;
/// tokens allow more, but few sign faster for it.
pub const TOKEN_SESSIONS: usize = 4;

/// The most bytes of a file with a PIN; tokens take at most 255.
const MAX_PIN_BYTES: usize = 256;

type Job = Box<dyn FnOnce(&mut Worker) + Send>;

/// Threads with sessions.
pub(super) struct Pool {
    /// `None` while it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

/// Why a job was not done.
pub(super) struct Failure {
    pub(super) reason: String,
    /// The session or a handle is no longer good; a new one may be.
    stale: bool,
}

impl Failure {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            stale: false,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (reason, stale) = match &error {
            Error::Pkcs11(answer, function) => (
                format!("{function} answers {answer:?}"),
                matches!(
                    answer,
                    RvError::CryptokiNotInitialized
                        | RvError::DeviceError
                        | RvError::DeviceRemoved
                        | RvError::KeyHandleInvalid
                        | RvError::ObjectHandleInvalid
                        | RvError::SessionClosed
                        | RvError::SessionHandleInvalid
                        | RvError::TokenNotPresent
                        | RvError::UserNotLoggedIn
                ),
            ),
            other => (other.to_string(), false),
        };
        Self { reason, stale }
    }
}

impl Pool {
    /// Starts the threads; the module is loaded and the token logged into by the first job.
    pub(super) fn start(uri: TokenUri) -> std::io::Result<Self> {
        let (jobs, waiting) = mpsc::channel::<Job>();
        let waiting = Arc::new(Mutex::new(waiting));
        let shared = Arc::new(Shared {
            uri,
            module: Mutex::default(),
            pin_refused: AtomicBool::new(false),
        });
        let mut pool = Self {
            jobs: Some(jobs),
            threads: Vec::with_capacity(TOKEN_SESSIONS),
        };
        for number in 0..TOKEN_SESSIONS {
            let mut worker = Worker {
                shared: shared.clone(),
                session: None,
            };
            let waiting = waiting.clone();
            let thread = thread::Builder::new()
                .name(format!("pkcs11-{number}"))
                .spawn(move || {
                    loop {
                        let next = waiting
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .recv();
                        match next {
                            Ok(job) => job(&mut worker),
                            Err(mpsc::RecvError) => return,
                        }
                    }
                })?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Has a session do something. Where it turns out to be stale it is done once more in a new one, so it must be such
    /// that beginning it twice does no harm. Nothing is begun for a caller that has gone by then.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Fn(&Session) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, String> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |worker| {
            if !answer.is_canceled() {
                // A caller that goes meanwhile wants no answer.
                let _ = answer.send(worker.perform(&work));
            }
        });
        let gone = || "its threads have ended".to_owned();
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(job).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // One that panicked has ended as well.
            let _ = thread.join();
        }
    }
}

struct Worker {
    shared: Arc<Shared>,
    session: Option<Session>,
}

impl Worker {
    fn perform<T>(&mut self, work: &dyn Fn(&Session) -> Result<T, Failure>) -> Result<T, String> {
        let outcome = match self.attempt(work) {
            Err(failure) if failure.stale => self.attempt(work),
            outcome => outcome,
        };
        outcome.map_err(|failure| failure.reason)
    }

    fn attempt<T>(&mut self, work: &dyn Fn(&Session) -> Result<T, Failure>) -> Result<T, Failure> {
        let session = match self.session.take() {
            Some(session) => session,
            None => self.shared.session()?,
        };
        let outcome = work(&session);
        if !matches!(&outcome, Err(failure) if failure.stale) {
            self.session = Some(session);
        }
        outcome
    }
}

/// What the threads share.
struct Shared {
    uri: TokenUri,
    module: Mutex<Option<Pkcs11>>,
    /// Tokens lock themselves after a few wrong PINs, so a refused one is never tried again.
    pin_refused: AtomicBool,
}

impl Shared {
    fn session(&self) -> Result<Session, Failure> {
        // One at a time, so that a wrong PIN is tried once and not by every thread.
        let mut module = self.module.lock().unwrap_or_else(PoisonError::into_inner);
        if self.pin_refused.load(Ordering::Relaxed) {
            return Err(pin_refused());
        }
        let module = match &*module {
            Some(module) => module.clone(),
            None => module.insert(self.load()?).clone(),
        };
        let session = module.open_rw_session(self.slot(&module)?)?;
        let pin = self.pin()?;
        match session.login(UserType::User, pin.as_ref()) {
            // Logging in is the program's, not the session's.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(Error::Pkcs11(
                RvError::PinIncorrect | RvError::PinLocked | RvError::PinExpired,
                _,
            )) => {
                self.pin_refused.store(true, Ordering::Relaxed);
                Err(pin_refused())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn load(&self) -> Result<Pkcs11, Failure> {
        let named = |failure: Failure| {
            Failure::new(format!(
                "the module {} cannot be used: {}; see to module-path",
                self.uri.module.display(),
                failure.reason
            ))
        };
        let module = Pkcs11::new(&self.uri.module).map_err(|error| named(error.into()))?;
        match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            // Somebody else in this program uses it as well.
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {
                // Never unloaded: few modules survive that, and others may be using it.
                std::mem::forget(module.clone());
                Ok(module)
            }
            Err(error) => Err(named(error.into())),
        }
    }

    fn slot(&self, module: &Pkcs11) -> Result<Slot, Failure> {
        let mut found = None;
        for slot in module.get_slots_with_initialized_token()? {
            let token = module.get_token_info(slot)?;
            let is = |wanted: &Option<String>, value: &str| {
                wanted
                    .as_ref()
                    .is_none_or(|wanted| wanted == value.trim_end())
            };
            if is(&self.uri.token, token.label()) && is(&self.uri.serial, token.serial_number()) {
                if found.is_some() {
                    return Err(Failure::new(
                        "the module has several such tokens; name one by its serial",
                    ));
                }
                found = Some(slot);
            }
        }
        found.ok_or_else(|| Failure::new("the module has no such token; see to token and serial"))
    }

    fn pin(&self) -> Result<Option<AuthPin>, Failure> {
        let source = match &self.uri.pin {
            Pin::Keypad => return Ok(None),
            Pin::Value(pin) => return Ok(Some(AuthPin::from(pin.as_str()))),
            Pin::Source(source) => TokenUri::pin_file(source),
        };
        let pin = read_pin(&source).map_err(|reason| {
            Failure::new(format!(
                "the PIN cannot be read from {}: {reason}",
                source.display()
            ))
        })?;
        // The end of the line is the editor's.
        let pin = pin.trim_end_matches(['\n', '\r']);
        Ok(Some(AuthPin::from(pin)))
    }
}

fn read_pin(path: &Path) -> Result<Zeroizing<String>, String> {
    let file = File::open(path).map_err(|error| told(&error))?;
    let mode = file
        .metadata()
        .map_err(|error| told(&error))?
        .permissions()
        .mode()
        & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "others may read it (mode {mode:03o}); run: chmod 600 {}",
            path.display()
        ));
    }
    // Of its final size at once, so that no copy of the secret is left behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_PIN_BYTES + 1));
    file.take(MAX_PIN_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| told(&error))?;
    if bytes.len() > MAX_PIN_BYTES {
        return Err(format!("it has more than {MAX_PIN_BYTES} bytes"));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err("it is not UTF-8".into()),
    }
}

fn pin_refused() -> Failure {
    Failure::new(
        "it refuses the PIN, which is not tried again lest the token lock itself; correct it and start again",
    )
}
