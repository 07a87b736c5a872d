//! The issuance log: one line of JSON for everything that was signed, each chained to the one before by its SHA-256.
//!
//! A record is written before what it tells of is released, so whatever is in use is in the log. A killed process
//! loses none; a machine that loses power may lose those since the last fsync, at most
//! [`LogLimits::unsynced_records`] and those of one tick. It holds no secrets: tokens and certificates are named by
//! their digests. The chain shows any change but the loss of its newest records; who keeps the head elsewhere, sees
//! that too. The journal knows how far the log had come when authorities last changed, so that a log that was removed or
//! cut is no new beginning.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use spiffe_core::Timestamp;
use spiffe_core::crypto::CryptoProvider;

use crate::error::LogError;
use crate::issuer::hex;
use crate::storage::{Storage, told};

/// The file that is written. Full ones are renamed to `issuance-<number of the first record>.log`.
pub const LOG_FILE: &str = "issuance.log";

/// The most bytes of a record; a SPIFFE ID has at most 2048 and a reason [`MAX_REASON_BYTES`].
pub const MAX_RECORD_BYTES: usize = 16 * 1024;

/// The most bytes of a reason; what is longer is cut.
pub const MAX_REASON_BYTES: usize = 1024;

/// The hash before the first record.
const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// How large the log grows, and how much of it a loss of power may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogLimits {
    /// The most bytes of a file: 16 MiB, some 30,000 records.
    pub file_bytes: u64,
    /// How many full files are kept: 64. The oldest are deleted.
    pub closed_files: usize,
    /// After so many records the file is synced, 256, as it is at every tick. Until then they are in memory too.
    pub unsynced_records: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            file_bytes: 16 * 1024 * 1024,
            closed_files: 64,
            unsynced_records: 256,
        }
    }
}

/// What was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum What {
    /// An authority's own certificate, by itself.
    Authority,
    /// An intermediate authority's certificate.
    Intermediate,
    /// A JWT-SVID.
    Jwt,
    /// An X.509-SVID.
    X509,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Record {
    /// Counts from 1, through all files.
    pub number: u64,
    /// SHA-256 of the line before, in hexadecimal; zeros before the first.
    pub previous: String,
    /// When it was signed.
    pub time: String,
    /// What was signed.
    pub what: What,
    /// For whom: the SPIFFE ID that it proves.
    pub id: String,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Under which authority.
    pub authority: String,
    /// Until when it is valid.
    pub expires: String,
    /// A certificate's serial number in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub serial: Option<String>,
    /// SHA-256 of the certificate in DER, or of the token, in hexadecimal.
    pub sha256: String,
}

/// What is to be recorded.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "the parts of a record")]
pub struct Entry<'a> {
    /// What was signed.
    pub what: What,
    /// For whom.
    pub id: &'a str,
    /// Why.
    pub reason: Option<&'a str>,
    /// Under which authority.
    pub authority: &'a str,
    /// Until when.
    pub expires: Timestamp,
    /// The serial number, big-endian.
    pub serial: Option<&'a [u8]>,
    /// The certificate or the token, of which the digest is recorded.
    pub signed: &'a [u8],
}

/// How far a log has come: what the journal knows of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LogMark {
    /// The number of the last record.
    pub records: u64,
    /// Its hash.
    pub head: String,
}

/// An issuance log that is being written.
pub struct IssuanceLog {
    storage: Arc<dyn Storage>,
    crypto: Arc<dyn CryptoProvider>,
    limits: LogLimits,
    /// What the last record says, when the log was opened.
    last_time: Option<Timestamp>,
    end: Mutex<End>,
}

/// Where the log ends.
struct End {
    head: String,
    next: u64,
    /// Of the first record in the file that is written.
    first: u64,
    length: u64,
    unsynced: u32,
    /// The records that are not synced, as they were written.
    pending: Vec<u8>,
    /// How much of the file is synced, and the hash of its last record.
    synced: u64,
    synced_head: String,
    /// A write failed and may have left half a record behind.
    torn: bool,
    /// A sync failed: the system may have let go of what was pending, and asking again would hide that.
    lost: bool,
}

impl IssuanceLog {
    /// Continues the log in `storage`, or begins it. Half a record at the end, which a crash left and which nothing
    /// was released for, is cut off.
    ///
    /// # Errors
    ///
    /// [`LogError`].
    pub fn open(
        storage: Arc<dyn Storage>,
        crypto: Arc<dyn CryptoProvider>,
        limits: LogLimits,
    ) -> Result<Self, LogError> {
        let mut end = End {
            head: NOTHING.into(),
            next: 1,
            first: 1,
            length: 0,
            unsynced: 0,
            pending: Vec::new(),
            synced: 0,
            synced_head: NOTHING.into(),
            torn: false,
            lost: false,
        };
        let mut last_time = None;
        let log = Reading {
            storage: &*storage,
            crypto: &*crypto,
        };
        let whole = log.cut_torn_tail(LOG_FILE)?;
        if whole > 0 {
            let (last, hash) = log.last_record(LOG_FILE, whole)?;
            end.first = log.first_record(LOG_FILE)?.number;
            (end.next, end.head, end.length) = (log.next_number(LOG_FILE, &last)?, hash, whole);
            // An earlier process may have left records unsynced, and no mark may be ahead of what survives.
            storage
                .sync(LOG_FILE)
                .and_then(|()| storage.sync_directory())
                .map_err(|error| LogError::Io {
                    path: storage.path(LOG_FILE),
                    action: "synced",
                    reason: told(&error),
                })?;
            (end.synced, end.synced_head) = (whole, end.head.clone());
            last_time = last.time.parse().ok();
        } else if let Some(closed) = log.closed_files()?.last() {
            // A crash between closing a file and the first record of the next.
            let whole = log.length(closed)?;
            let (last, hash) = log.last_record(closed, whole)?;
            end.next = log.next_number(closed, &last)?;
            (end.first, end.head) = (end.next, hash);
            last_time = last.time.parse().ok();
        }
        Ok(Self {
            storage,
            crypto,
            limits,
            last_time,
            end: Mutex::new(end),
        })
    }

    /// Records something that was signed; to be called before it is released. Returns the record's number.
    ///
    /// # Errors
    ///
    /// [`LogError`]; what was signed must not be released then.
    pub fn append(&self, entry: &Entry<'_>, now: Timestamp) -> Result<u64, LogError> {
        let mut end = self.end();
        if end.lost {
            return Err(LogError::Lost {
                path: self.storage.path(LOG_FILE),
            });
        }
        let failed = |error: &std::io::Error| LogError::Io {
            path: self.storage.path(LOG_FILE),
            action: "written",
            reason: told(error),
        };
        if end.torn {
            self.storage
                .truncate(LOG_FILE, end.length)
                .map_err(|error| failed(&error))?;
            end.torn = false;
        }
        let number = end.next;
        let record = Record {
            number,
            previous: end.head.clone(),
            time: now.to_string(),
            what: entry.what,
            id: entry.id.into(),
            reason: entry.reason.map(shortened),
            authority: entry.authority.into(),
            expires: entry.expires.to_string(),
            serial: entry.serial.map(hex),
            sha256: hex(&self.crypto.sha256(entry.signed)),
        };
        // Strings and numbers have a JSON form whatever they hold.
        let mut line = serde_json::to_vec(&record).expect("a record has a JSON form");
        let head = hex(&self.crypto.sha256(&line));
        line.push(b'\n');
        if end.length > 0 && end.length + line.len() as u64 > self.limits.file_bytes {
            self.close(&mut end)?;
        }
        if let Err(error) = self.storage.append(LOG_FILE, &line) {
            end.torn = true;
            return Err(failed(&error));
        }
        end.length += line.len() as u64;
        end.pending.extend_from_slice(&line);
        end.head = head;
        end.next += 1;
        end.unsynced += 1;
        if end.unsynced >= self.limits.unsynced_records {
            self.sync_end(&mut end)?;
        }
        Ok(number)
    }

    /// Makes all records survive a loss of power. Where that failed before, those that may be lost are written once more:
    /// the log takes records again once this succeeds.
    ///
    /// # Errors
    ///
    /// [`LogError::Io`]; the log takes no more records until a later sync succeeds. [`LogError::Damaged`], when what was
    /// synced earlier is not there any more.
    pub fn sync(&self) -> Result<(), LogError> {
        self.sync_end(&mut self.end())
    }

    /// As [`Self::sync`]; says how far the log has come, all of which survives.
    ///
    /// # Errors
    ///
    /// As [`Self::sync`].
    pub fn synced_mark(&self) -> Result<LogMark, LogError> {
        let mut end = self.end();
        self.sync_end(&mut end)?;
        Ok(LogMark {
            records: end.next - 1,
            head: end.head.clone(),
        })
    }

    /// Whether this is the log that had come as far as `mark`, or at least as long a one.
    ///
    /// # Errors
    ///
    /// [`LogError::Behind`].
    pub fn continues(&self, mark: &LogMark) -> Result<(), LogError> {
        let end = self.end();
        let records = end.next - 1;
        if records > mark.records || (records == mark.records && end.head == mark.head) {
            return Ok(());
        }
        Err(LogError::Behind {
            path: self.storage.path(LOG_FILE),
            records,
            mark: mark.clone(),
        })
    }

    /// When the last record was made that the log held when it was opened.
    pub fn last_time(&self) -> Option<Timestamp> {
        self.last_time
    }

    /// The hash of the last record, for safe-keeping elsewhere.
    pub fn head(&self) -> String {
        self.end().head.clone()
    }

    fn sync_end(&self, end: &mut End) -> Result<(), LogError> {
        if end.unsynced == 0 {
            return Ok(());
        }
        if end.lost {
            self.rewrite(end)?;
        }
        let synced = self
            .storage
            .sync(LOG_FILE)
            // The name of a new file must survive as well.
            .and_then(|()| self.storage.sync_directory());
        synced.map_err(|error| {
            end.lost = true;
            LogError::Io {
                path: self.storage.path(LOG_FILE),
                action: "synced",
                reason: told(&error),
            }
        })?;
        if std::mem::take(&mut end.lost) {
            tracing::warn!(records = end.unsynced, path = ?self.storage.path(LOG_FILE), "records of the issuance log were written again, and are safe now");
        }
        end.unsynced = 0;
        end.pending.clear();
        end.synced = end.length;
        end.synced_head.clone_from(&end.head);
        Ok(())
    }

    /// Puts the pending records behind those that are safe, whatever is there of them.
    fn rewrite(&self, end: &mut End) -> Result<(), LogError> {
        let reading = Reading {
            storage: &*self.storage,
            crypto: &*self.crypto,
        };
        let there = reading.length(LOG_FILE)?;
        let is_whole = there >= end.synced
            && (end.synced == 0 || reading.last_record(LOG_FILE, end.synced)?.1 == end.synced_head);
        if !is_whole {
            return Err(reading.damaged(LOG_FILE));
        }
        // Whatever of it fails, it begins from there again.
        end.torn = true;
        let cut = match there > end.synced {
            true => self.storage.truncate(LOG_FILE, end.synced),
            false => Ok(()),
        };
        cut.and_then(|()| self.storage.append(LOG_FILE, &end.pending))
            .map_err(|error| LogError::Io {
                path: self.storage.path(LOG_FILE),
                action: "written",
                reason: told(&error),
            })?;
        end.torn = false;
        Ok(())
    }

    /// Closes a full file and deletes the oldest ones.
    fn close(&self, end: &mut End) -> Result<(), LogError> {
        self.sync_end(end)?;
        let name = closed_name(end.first);
        let failed = |error: std::io::Error| LogError::Io {
            path: self.storage.path(&name),
            action: "written",
            reason: told(&error),
        };
        self.storage.rename(LOG_FILE, &name).map_err(failed)?;
        (end.length, end.synced) = (0, 0);
        end.first = end.next;
        self.storage.sync_directory().map_err(failed)?;
        let reading = Reading {
            storage: &*self.storage,
            crypto: &*self.crypto,
        };
        let closed = reading.closed_files()?;
        let surplus = closed.len().saturating_sub(self.limits.closed_files);
        for oldest in &closed[..surplus] {
            self.storage.remove(oldest).map_err(failed)?;
        }
        Ok(())
    }

    fn end(&self) -> MutexGuard<'_, End> {
        // Every change is whole or marked as torn, so a panic elsewhere leaves it usable.
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for IssuanceLog {
    fn drop(&mut self) {
        if let Err(error) = self.sync() {
            tracing::error!(%error, "the last records may not survive a loss of power");
        }
    }
}

impl fmt::Debug for IssuanceLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.end();
        f.debug_struct("IssuanceLog")
            .field("next", &end.next)
            .field("head", &end.head)
            .finish_non_exhaustive()
    }
}

/// What a look at the whole log showed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// How many records there are.
    pub records: u64,
    /// The number of the first; above 1 where older files were deleted.
    pub first: u64,
    /// The hash of the last: zeros for an empty log.
    pub head: String,
    /// Whether half a record follows, which a crash leaves and the next start cuts off.
    pub torn: bool,
}

/// Reads the whole log in `storage`, oldest file first, checks every link, and hands each record to `look`. It needs
/// neither keys nor the CA, and as much memory as one record.
///
/// # Errors
///
/// [`LogError::Broken`] names the first line that does not follow from the one before.
pub fn verify(
    storage: &dyn Storage,
    crypto: &dyn CryptoProvider,
    mut look: impl FnMut(&Record),
) -> Result<Verified, LogError> {
    let reading = Reading { storage, crypto };
    let mut files = reading.closed_files()?;
    files.push(LOG_FILE.into());
    let mut verified = Verified {
        records: 0,
        first: 1,
        head: NOTHING.into(),
        torn: false,
    };
    for file in &files {
        let mut line_number = 0;
        let torn = reading.lines(file, |line| {
            line_number += 1;
            let broken = |reason: String| LogError::Broken {
                path: storage.path(file),
                line: line_number,
                reason,
            };
            let record: Record =
                serde_json::from_slice(line).map_err(|error| broken(error.to_string()))?;
            if verified.records == 0 {
                if record.number == 1 && record.previous != NOTHING {
                    return Err(broken("the first record follows another".into()));
                }
                verified.first = record.number;
            } else if record.previous != verified.head {
                return Err(broken(
                    "it does not follow from the record before: one of them was changed, or some are missing".into(),
                ));
            }
            if verified.first.checked_add(verified.records) != Some(record.number) {
                return Err(broken(format!("its number is {}", record.number)));
            }
            if *file != LOG_FILE && line_number == 1 && *file != closed_name(record.number) {
                return Err(broken("the file has another's name".into()));
            }
            verified.records += 1;
            verified.head = hex(&crypto.sha256(line));
            look(&record);
            Ok(())
        })?;
        if torn && file != LOG_FILE {
            return Err(LogError::Broken {
                path: storage.path(file),
                line: line_number + 1,
                reason: "the file ends within a record".into(),
            });
        }
        verified.torn = torn;
    }
    Ok(verified)
}

/// The longest beginning that is not too long.
fn shortened(reason: &str) -> String {
    let mut end = reason.len().min(MAX_REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].to_owned()
}

fn closed_name(first: u64) -> String {
    format!("issuance-{first:020}.log")
}

/// A log that is read.
struct Reading<'a> {
    storage: &'a dyn Storage,
    crypto: &'a dyn CryptoProvider,
}

impl Reading<'_> {
    /// The closed files, oldest first.
    fn closed_files(&self) -> Result<Vec<String>, LogError> {
        let names = self.storage.list().map_err(|error| LogError::Io {
            path: self.storage.path(LOG_FILE),
            action: "looked for",
            reason: told(&error),
        })?;
        let mut closed: Vec<_> = names
            .into_iter()
            .filter(|name| {
                let number = name
                    .strip_prefix("issuance-")
                    .and_then(|rest| rest.strip_suffix(".log"));
                number.is_some_and(|number| {
                    number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit())
                })
            })
            .collect();
        closed.sort();
        Ok(closed)
    }

    fn length(&self, file: &str) -> Result<u64, LogError> {
        let length = self.storage.length(file);
        Ok(length
            .map_err(|error| self.failed(file, &error))?
            .unwrap_or(0))
    }

    fn read_at(&self, file: &str, offset: u64, limit: usize) -> Result<Vec<u8>, LogError> {
        self.storage
            .read_at(file, offset, limit)
            .map_err(|error| self.failed(file, &error))
    }

    fn failed(&self, file: &str, error: &std::io::Error) -> LogError {
        LogError::Io {
            path: self.storage.path(file),
            action: "read",
            reason: told(error),
        }
    }

    fn damaged(&self, file: &str) -> LogError {
        LogError::Damaged {
            path: self.storage.path(file),
        }
    }

    /// The length of the whole records, to which the file is cut.
    fn cut_torn_tail(&self, file: &str) -> Result<u64, LogError> {
        let length = self.length(file)?;
        let from = length.saturating_sub(MAX_RECORD_BYTES as u64);
        let tail = self.read_at(file, from, MAX_RECORD_BYTES)?;
        let whole = match tail.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => from + at as u64 + 1,
            None if from == 0 => 0,
            None => return Err(self.damaged(file)),
        };
        if whole < length {
            tracing::warn!(file, bytes = length - whole, "half a record was cut off");
            self.storage
                .truncate(file, whole)
                .map_err(|error| self.failed(file, &error))?;
        }
        Ok(whole)
    }

    /// The last of the records in the first `whole` bytes of a file, and its hash.
    fn last_record(&self, file: &str, whole: u64) -> Result<(Record, String), LogError> {
        let length = whole.min(MAX_RECORD_BYTES as u64);
        let tail = self.read_at(file, whole - length, length as usize)?;
        let lines = tail.strip_suffix(b"\n").unwrap_or(&tail);
        let start = lines.iter().rposition(|byte| *byte == b'\n');
        let line = &lines[start.map_or(0, |at| at + 1)..];
        let record = serde_json::from_slice(line).map_err(|_| self.damaged(file))?;
        Ok((record, hex(&self.crypto.sha256(line))))
    }

    /// The number of the record after the last one.
    fn next_number(&self, file: &str, last: &Record) -> Result<u64, LogError> {
        last.number.checked_add(1).ok_or_else(|| self.damaged(file))
    }

    fn first_record(&self, file: &str) -> Result<Record, LogError> {
        let head = self.read_at(file, 0, MAX_RECORD_BYTES)?;
        let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
        serde_json::from_slice(line).map_err(|_| self.damaged(file))
    }

    /// Hands out the whole lines; whether something follows the last.
    fn lines(
        &self,
        file: &str,
        mut look: impl FnMut(&[u8]) -> Result<(), LogError>,
    ) -> Result<bool, LogError> {
        let length = self.length(file)?;
        let mut offset = 0;
        let mut pending = Vec::new();
        while offset < length {
            let chunk = self.read_at(file, offset, 4 * MAX_RECORD_BYTES)?;
            if chunk.is_empty() {
                break;
            }
            offset += chunk.len() as u64;
            pending.extend_from_slice(&chunk);
            let mut start = 0;
            while let Some(at) = pending[start..].iter().position(|byte| *byte == b'\n') {
                look(&pending[start..start + at])?;
                start += at + 1;
            }
            pending.drain(..start);
            if pending.len() > MAX_RECORD_BYTES {
                return Err(self.damaged(file));
            }
        }
        Ok(!pending.is_empty())
    }
}
