//! The server's side of resumption: encrypted tickets, and the keys that several processes may share.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use rustls::crypto::CryptoProvider;
use rustls::server::ProducesTickets;
use spiffe_core::Timestamp;
use zeroize::{Zeroize, Zeroizing};

use crate::namespace::Namespace;
use crate::scene;
use crate::sessions::Present;

/// How long a derived key encrypts, in seconds; it decrypts for as long again. Both are the same in all processes.
const EPOCH_SECONDS: i64 = 6 * 3600;

/// The most tickets of one hello that are looked at; clients offer one or two. Each may take four derivations of a key.
pub const MAX_TICKETS_TRIED: usize = 4;

/// Before each ticket: which key, then the nonce.
const NAME_LEN: usize = 8;

/// The first bytes of a ticket's content: until when it is good, in Unix seconds.
const UNTIL_LEN: usize = 8;

/// The secret from which a server derives the keys of its session tickets; clones share it.
///
/// Several processes that serve the same SPIFFE ID, issued by the same authority, under the same policy and bundles
/// resume each other's sessions when they are given the same secret: 32 bytes of randomness, handed out as other secrets
/// are. The keys are derived from it
/// for each state of trust and each period of six hours, so a change of trust, terms or own ID makes all tickets
/// worthless, whoever holds them, and nothing has to be told to anybody.
#[derive(Clone)]
pub struct TicketKeys {
    secrets: Arc<ArcSwap<Secrets>>,
}

/// Encrypts under the first, decrypts under all.
struct Secrets(Vec<Zeroizing<[u8; 32]>>);

impl TicketKeys {
    /// Takes a shared secret out of the array, which is wiped.
    pub fn new(secret: &mut [u8; 32]) -> Self {
        let secrets = Secrets(vec![taken(secret)]);
        Self {
            secrets: Arc::new(ArcSwap::from_pointee(secrets)),
        }
    }

    /// Encrypts under another secret from now on and accepts tickets of the one before: first tell every process, then
    /// drop the old one by rotating again. The secret that is in use changes nothing. The array is wiped.
    ///
    /// Of two calls at once one is the later, which accepts tickets of the other's secret.
    pub fn rotate(&self, secret: &mut [u8; 32]) {
        let next = taken(secret);
        self.secrets.rcu(|before| {
            if before.0.first().is_some_and(|now| **now == *next) {
                return Secrets(before.0.clone());
            }
            let kept = std::iter::once(&next).chain(before.0.first());
            Secrets(kept.cloned().collect())
        });
    }

    /// A secret of this process alone.
    pub(crate) fn random(
        provider: &CryptoProvider,
    ) -> Result<Self, rustls::crypto::GetRandomFailed> {
        let mut secret = Zeroizing::new([0; 32]);
        provider.secure_random.fill(&mut *secret)?;
        Ok(Self::new(&mut secret))
    }
}

/// What was in the array, which is wiped.
fn taken(secret: &mut [u8; 32]) -> Zeroizing<[u8; 32]> {
    let mut kept = Zeroizing::new([0; 32]);
    kept.copy_from_slice(secret);
    secret.zeroize();
    kept
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKeys([secret elided])")
    }
}

/// Makes and opens tickets in the namespace of now.
pub(crate) struct Ticketer {
    keys: TicketKeys,
    present: Present,
    provider: Arc<CryptoProvider>,
    /// The key in use, since deriving one takes longer than using it.
    last: Mutex<Option<Arc<Key>>>,
}

/// A derived key with what it was derived for.
struct Key {
    namespace: Namespace,
    epoch: i64,
    /// The secrets it was derived from; held, so that the address is nobody else's.
    secrets: Arc<Secrets>,
    name: [u8; NAME_LEN],
    key: LessSafeKey,
}

impl Ticketer {
    pub(crate) fn new(keys: TicketKeys, present: Present, provider: Arc<CryptoProvider>) -> Self {
        Self {
            keys,
            present,
            provider,
            last: Mutex::default(),
        }
    }

    fn epoch(&self) -> i64 {
        self.present
            .clock
            .now()
            .unix_seconds()
            .div_euclid(EPOCH_SECONDS)
    }

    /// The key that encrypts now.
    fn current(&self) -> Option<Arc<Key>> {
        let (namespace, epoch) = (self.present.of_server()?, self.epoch());
        let secrets = self.keys.secrets.load_full();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = &*last
            && key.namespace == namespace
            && key.epoch == epoch
            && Arc::ptr_eq(&key.secrets, &secrets)
        {
            return Some(key.clone());
        }
        let secret = secrets.0.first()?;
        let key = Arc::new(Key::derive(&secrets, secret, namespace, epoch)?);
        *last = Some(key.clone());
        Some(key)
    }

    /// The key of that name, if it still decrypts.
    fn named(&self, name: &[u8]) -> Option<Arc<Key>> {
        let current = self.current()?;
        if current.name == name {
            return Some(current);
        }
        let secrets = self.keys.secrets.load_full();
        let epochs = [current.epoch, current.epoch - 1];
        secrets
            .0
            .iter()
            .flat_map(|secret| epochs.map(|epoch| (secret, epoch)))
            .filter_map(|(secret, epoch)| Key::derive(&secrets, secret, current.namespace, epoch))
            .find(|key| key.name == name)
            .map(Arc::new)
    }

    fn open(&self, ticket: &[u8]) -> Option<(Timestamp, Vec<u8>)> {
        let (name, rest) = ticket.split_at_checked(NAME_LEN)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let key = self.named(name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let content = key
            .key
            .open_in_place(nonce, Aad::from(name), &mut sealed)
            .ok()?;
        let (until, session) = content.split_at_checked(UNTIL_LEN)?;
        let until = i64::from_be_bytes(until.try_into().ok()?);
        let session = session.to_vec();
        sealed.zeroize();
        Some((Timestamp::from_unix_seconds(until), session))
    }
}

impl Key {
    fn derive(
        secrets: &Arc<Secrets>,
        secret: &Zeroizing<[u8; 32]>,
        namespace: Namespace,
        epoch: i64,
    ) -> Option<Self> {
        let epoch_bytes = epoch.to_be_bytes();
        let info: [&[u8]; 4] = [
            b"spiffe-tls session ticket 1",
            &namespace.revision,
            &namespace.terms,
            &epoch_bytes,
        ];
        let secret = Salt::new(HKDF_SHA256, &[]).extract(&secret[..]);
        let mut bytes = Zeroizing::new([0; NAME_LEN + 32]);
        secret
            .expand(&info, Length(bytes.len()))
            .and_then(|okm| okm.fill(&mut *bytes))
            .ok()?;
        let (name, key) = bytes.split_at(NAME_LEN);
        Some(Self {
            namespace,
            epoch,
            secrets: secrets.clone(),
            name: name.try_into().ok()?,
            key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?),
        })
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        EPOCH_SECONDS as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        // Without knowing how long the session may live none is handed out. The last second is not used up: a ticket
        // is good until a whole second.
        let until = scene::with(|scene| scene.resumable_until()).flatten()?;
        let key = self.current()?;
        let mut nonce = [0; NONCE_LEN];
        self.provider.secure_random.fill(&mut nonce).ok()?;
        let mut content = Vec::with_capacity(UNTIL_LEN + plain.len());
        content.extend(until.unix_seconds().to_be_bytes());
        content.extend(plain);
        let tag = key
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(&key.name[..]),
                &mut content,
            )
            .ok()?;
        Some([&key.name[..], &nonce, &content, tag.as_ref()].concat())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        // A hello has room for a thousand tickets, and nobody has proven anything yet.
        scene::with(|scene| scene.tickets += 1)?;
        if scene::with(|scene| scene.tickets)? > MAX_TICKETS_TRIED {
            return None;
        }
        let (until, session) = self.open(cipher)?;
        if self.present.clock.now() > until {
            return None;
        }
        scene::with(|scene| scene.until = Some(until))?;
        Some(session)
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticketer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(keys: &TicketKeys) -> Vec<[u8; 32]> {
        let secrets = keys.secrets.load();
        secrets.0.iter().map(|secret| **secret).collect()
    }

    #[test]
    fn what_was_given_is_wiped_and_the_one_before_is_kept() {
        let (mut first, mut second, mut third) = ([1; 32], [2; 32], [3; 32]);
        let keys = TicketKeys::new(&mut first);
        assert_eq!(held(&keys), [[1; 32]]);
        keys.rotate(&mut second);
        assert_eq!(held(&keys), [[2; 32], [1; 32]]);
        keys.rotate(&mut third);
        assert_eq!(held(&keys), [[3; 32], [2; 32]]);
        assert_eq!([first, second, third], [[0; 32]; 3]);
    }

    #[test]
    fn of_two_rotations_at_once_none_is_lost() {
        for _ in 0..500 {
            let keys = TicketKeys::new(&mut [1; 32]);
            let both = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                for secret in [2, 3] {
                    let (keys, both) = (&keys, &both);
                    scope.spawn(move || {
                        both.wait();
                        keys.rotate(&mut [secret; 32]);
                    });
                }
            });
            let mut held = held(&keys);
            held.sort_unstable();
            assert_eq!(held, [[2; 32], [3; 32]]);
        }
    }
}
