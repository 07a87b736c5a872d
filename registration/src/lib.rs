//! Registration entries, selectors and matching, with an answer to "why not".
#![forbid(unsafe_code)]

mod selector;

pub use selector::{Selector, SelectorError};
