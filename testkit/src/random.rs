//! Random bytes that a seed decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use spiffe_core::crypto::{CryptoProvider, aws_lc_rs};
use spiffe_core::{Random, RandomError};

/// The same bytes for the same seed and the same order of calls; never for use outside tests.
#[derive(Debug)]
pub struct SeededRandom {
    crypto: Arc<dyn CryptoProvider>,
    seed: u64,
    blocks: AtomicU64,
}

impl SeededRandom {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            crypto: aws_lc_rs(),
            seed,
            blocks: AtomicU64::new(0),
        }
    }
}

impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RandomError> {
        for chunk in bytes.chunks_mut(32) {
            let block = self.blocks.fetch_add(1, Ordering::Relaxed);
            let input = [self.seed.to_be_bytes(), block.to_be_bytes()].concat();
            chunk.copy_from_slice(&self.crypto.sha256(&input)[..chunk.len()]);
        }
        Ok(())
    }
}
