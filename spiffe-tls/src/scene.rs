//! What the parts of one connection leave for each other while rustls is at work.
//!
//! rustls calls verifiers, resolvers, ticketers and session stores from inside a poll, hands none of them the
//! connection, and carries back only what fits its own types. So whoever polls sets a [`Scene`] on this thread with [`play`], the
//! parts write into it and read from it, and the same poll takes it back. Nothing stays behind, and no other connection
//! can see it: there is no await between.

use std::cell::RefCell;
use std::sync::Arc;

use spiffe_core::{SpiffeId, Timestamp};

use crate::error::Refusal;
use crate::judge::Judged;
use crate::material::Identity;
use crate::namespace::Namespace;

/// One connection's place.
#[derive(Debug, Default)]
pub(crate) struct Scene {
    /// What the verifier found, if it was asked: a resumed handshake does not ask.
    pub(crate) verdict: Option<Result<Judged, Box<Refusal>>>,
    /// The server that a request of ours would not be sent to. Apart from the verdict, which is about the connection
    /// whose place this is.
    #[cfg(feature = "reqwest")]
    pub(crate) refused_server: Option<Box<Refusal>>,
    /// What the resolver presented.
    pub(crate) own: Option<Arc<Identity>>,
    /// Whether the resolver had nothing to present.
    pub(crate) declined: bool,
    /// What sessions of a client's connection were bound to when it began. Those it is handed are kept only while they
    /// still are: what was shown since may be another SVID's.
    pub(crate) namespace: Option<Namespace>,
    /// How many tickets of the peer's were looked at.
    #[cfg(feature = "aws-lc-rs")]
    pub(crate) tickets: usize,
    /// Until when a session that is resumed, or about to be stored, may be resumed. It is inherited from one session
    /// to the next, so no chain of sessions outlives the SVIDs that its first handshake showed.
    pub(crate) until: Option<Timestamp>,
    /// As whom a client has begun the session that it resumes. A server presents itself each time.
    pub(crate) resumed_as: Option<SpiffeId>,
}

thread_local! {
    static CURRENT: RefCell<Option<Box<Scene>>> = const { RefCell::new(None) };
}

impl Scene {
    /// A scene for a connection that is open: its sessions inherit this end, and as whom they were begun.
    pub(crate) fn of_sessions(
        until: Timestamp,
        own: Option<SpiffeId>,
        namespace: Option<Namespace>,
    ) -> Box<Self> {
        Box::new(Self {
            until: Some(until),
            resumed_as: own,
            namespace,
            ..Self::default()
        })
    }

    /// Takes the verdict out, if it is a refusal.
    pub(crate) fn refusal(&mut self) -> Option<Box<Refusal>> {
        self.verdict.take_if(|verdict| verdict.is_err())?.err()
    }

    /// Until when what this connection has shown may be resumed: the earlier end of both SVIDs, or what the resumed
    /// session inherited. `None` where nothing was shown.
    pub(crate) fn resumable_until(&self) -> Option<Timestamp> {
        match &self.verdict {
            Some(Ok(judged)) => {
                let own = self.own.as_ref().map(|own| own.svid.not_after());
                let peer = judged.peer.not_after;
                Some(own.map_or(peer, |own| own.min(peer)))
            }
            Some(Err(_)) => None,
            None => self.until,
        }
    }

    /// As whom this side is known in the session, if it has shown itself at all.
    pub(crate) fn known_as(&self) -> Option<SpiffeId> {
        match &self.own {
            Some(own) => Some(own.svid.id().clone()),
            None => self.resumed_as.clone(),
        }
    }
}

/// Runs one poll in a scene.
pub(crate) fn play<T>(scene: &mut Option<Box<Scene>>, poll: impl FnOnce() -> T) -> T {
    // Nothing to set and nothing to hide, as for most reads of most connections.
    if scene.is_none() && CURRENT.with_borrow(Option::is_none) {
        return poll();
    }
    // A transport that itself speaks TLS polls one connection inside another.
    let outer = Outer(CURRENT.replace(scene.take()));
    let result = poll();
    *scene = CURRENT.take();
    drop(outer);
    result
}

/// Reads or changes the scene that is set on this thread; `None` where no acceptor or connector of ours is polling.
pub(crate) fn with<T>(act: impl FnOnce(&mut Scene) -> T) -> Option<T> {
    CURRENT.with_borrow_mut(|current| current.as_deref_mut().map(act))
}

/// What was there before, put back when dropped: also when the poll panics.
struct Outer(Option<Box<Scene>>);

impl Drop for Outer {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}
