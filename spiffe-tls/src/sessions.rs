//! Resumption: what is kept of a session on either side, and when it is no longer good.
//!
//! A session is bound to a namespace (bundles, terms, own SPIFFE ID and issuer) and to a time, the earlier expiry of the SVIDs that
//! its first handshake showed, which every session resumed from it inherits. Outside either, the handshake is a full
//! one; nothing fails. This is the second fence: the first is that whoever drives the handshake judges a resumed peer
//! again, by the chain that rustls keeps with the session.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use spiffe_core::snapshot::Derived;
use spiffe_core::{Clock, SpiffeId, Timestamp};

use crate::material::Ready;
use crate::namespace::{Namespace, Namespaces};
use crate::scene;

/// The most destinations of which a connector keeps sessions.
pub const MAX_DESTINATIONS: usize = 1024;

/// The most sessions that a connector keeps for one destination: TLS 1.3 tickets are used once.
pub const MAX_SESSIONS_PER_DESTINATION: usize = 16;

/// Tells the namespace and the time of now.
#[derive(Debug)]
pub(crate) struct Present {
    pub(crate) ready: Derived<Ready>,
    pub(crate) namespaces: Arc<Namespaces>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Present {
    /// The namespace of a client, which always shows the same SVID of a revision.
    fn of_client(&self) -> Namespace {
        let (_, ready) = self.ready.load();
        let own = ready.identities.first();
        self.namespaces
            .with_terms(own.map_or(&ready.anonymous, |own| &own.namespace))
    }

    /// The namespace of a server in the scene that is set: what it shows, it has chosen for this client. `None` where no
    /// acceptor of ours is polling.
    #[cfg(feature = "aws-lc-rs")]
    pub(crate) fn of_server(&self) -> Option<Namespace> {
        let own = scene::with(|scene| scene.own.as_ref().map(|own| own.namespace))?;
        let revision = own.unwrap_or_else(|| self.ready.load().1.anonymous);
        Some(self.namespaces.with_terms(&revision))
    }
}

/// A connector's sessions.
pub(crate) struct ClientSessions {
    present: Present,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// What all of it is bound to.
    namespace: Option<Namespace>,
    destinations: HashMap<ServerName<'static>, Destination>,
}

#[derive(Default)]
struct Destination {
    group: Option<NamedGroup>,
    tls12: Option<Session<Tls12ClientSessionValue>>,
    tls13: VecDeque<Session<Tls13ClientSessionValue>>,
}

#[derive(Clone)]
struct Session<V> {
    value: V,
    origin: Origin,
}

/// What a session hands on to the connection that resumes it.
#[derive(Clone)]
struct Origin {
    until: Timestamp,
    own: Option<SpiffeId>,
}

impl ClientSessions {
    pub(crate) fn new(present: Present) -> Self {
        Self {
            present,
            kept: Mutex::default(),
        }
    }

    /// What is kept, emptied first if it was kept under something else.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        let namespace = self.present.of_client();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.namespace != Some(namespace) {
            *kept = Kept {
                namespace: Some(namespace),
                ..Kept::default()
            };
        }
        kept
    }

    fn change(&self, name: ServerName<'static>, change: impl FnOnce(&mut Destination)) {
        let begun = scene::with(|scene| scene.namespace).flatten();
        let mut kept = self.kept();
        if begun.is_none() || begun != kept.namespace {
            return;
        }
        if kept.destinations.len() >= MAX_DESTINATIONS && !kept.destinations.contains_key(&name) {
            kept.destinations.clear();
        }
        change(kept.destinations.entry(name).or_default());
    }

    /// What the scene's connection gives to its sessions; none is kept where nobody knows their end.
    fn origin() -> Option<Origin> {
        scene::with(|scene| {
            Some(Origin {
                until: scene.resumable_until()?,
                own: scene.known_as(),
            })
        })?
    }

    /// What sessions of a connection that begins now are bound to.
    pub(crate) fn namespace(&self) -> Namespace {
        self.present.of_client()
    }

    /// Notes what a session that is taken hands on to the connection that resumes it.
    fn inherit<V>(&self, Session { value, origin }: Session<V>) -> Option<V> {
        if self.present.clock.now() > origin.until {
            return None;
        }
        scene::with(|scene| {
            scene.until = Some(origin.until);
            scene.resumed_as = origin.own;
        })?;
        Some(value)
    }
}

impl ClientSessionStore for ClientSessions {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.change(server_name, |kept| kept.group = Some(group));
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        let kept = self.kept();
        kept.destinations.get(server_name)?.group
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        if let Some(origin) = Self::origin() {
            self.change(server_name, |kept| {
                kept.tls12 = Some(Session { value, origin });
            });
        }
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        let session = self.kept().destinations.get(server_name)?.tls12.clone()?;
        self.inherit(session)
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        if let Some(destination) = self.kept().destinations.get_mut(server_name) {
            destination.tls12 = None;
        }
    }

    fn insert_tls13_ticket(
        &self,
        server_name: ServerName<'static>,
        value: Tls13ClientSessionValue,
    ) {
        if let Some(origin) = Self::origin() {
            self.change(server_name, |kept| {
                if kept.tls13.len() >= MAX_SESSIONS_PER_DESTINATION {
                    kept.tls13.pop_front();
                }
                kept.tls13.push_back(Session { value, origin });
            });
        }
    }

    fn take_tls13_ticket(
        &self,
        server_name: &ServerName<'static>,
    ) -> Option<Tls13ClientSessionValue> {
        loop {
            let session = self
                .kept()
                .destinations
                .get_mut(server_name)?
                .tls13
                .pop_back()?;
            if let Some(value) = self.inherit(session) {
                return Some(value);
            }
        }
    }
}

impl fmt::Debug for ClientSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Sessions are secrets.
        f.debug_struct("ClientSessions").finish_non_exhaustive()
    }
}
