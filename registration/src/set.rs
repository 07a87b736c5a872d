//! All entries at one moment, and which of them are a caller's.

use std::collections::{HashMap, HashSet};
use std::fmt;

use spiffe_core::Timestamp;

use crate::entry::Entry;
use crate::selector::Selector;

/// An immutable set of entries, in the order of their creation.
#[derive(Clone, Debug, Default)]
pub struct EntrySet {
    entries: Vec<Entry>,
    /// Each entry's position under one of its selectors, the rarest. A caller that has all of an entry's selectors has that
    /// one, so the work of matching follows what the caller has and not the number of entries.
    by_selector: HashMap<Selector, Vec<usize>>,
}

impl EntrySet {
    /// A set of these entries, the earlier created before the later; of the same moment in the order given.
    ///
    /// # Errors
    ///
    /// [`EntrySetError`] when two have the same ID, or say the same.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, EntrySetError> {
        entries.sort_by_key(|entry| entry.params().created_at);
        let mut ids = HashSet::new();
        let mut sayings = HashMap::new();
        let mut frequency: HashMap<&Selector, usize> = HashMap::new();
        for entry in &entries {
            if !ids.insert(entry.id()) {
                return Err(EntrySetError::SameId {
                    id: entry.id().into(),
                });
            }
            let mut selectors: Vec<_> = entry.selectors().iter().collect();
            selectors.sort();
            selectors.dedup();
            for selector in &selectors {
                *frequency.entry(selector).or_default() += 1;
            }
            let saying = (entry.spiffe_id(), &entry.params().parent_id, selectors);
            if let Some(other) = sayings.insert(saying, entry.id()) {
                return Err(EntrySetError::Similar {
                    id: entry.id().into(),
                    other: other.into(),
                    spiffe_id: entry.spiffe_id().to_string(),
                });
            }
        }
        let mut by_selector: HashMap<_, Vec<_>> = HashMap::new();
        for (position, entry) in entries.iter().enumerate() {
            if let Some(rarest) = entry
                .selectors()
                .iter()
                .min_by_key(|selector| frequency[selector])
            {
                by_selector
                    .entry(rarest.clone())
                    .or_default()
                    .push(position);
            }
        }
        Ok(Self {
            entries,
            by_selector,
        })
    }

    /// All entries, in the order of their creation.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entries that stand at `now` and whose selectors the caller all has, in the order of their creation: the first is the
    /// caller's default identity.
    pub fn matching(&self, selectors: &[Selector], now: Timestamp) -> Vec<Match<'_>> {
        let selectors: HashSet<_> = selectors.iter().collect();
        let mut positions: Vec<_> = selectors
            .iter()
            .filter_map(|selector| self.by_selector.get(*selector))
            .flatten()
            .copied()
            .filter(|position| {
                self.entries[*position].is_current(now)
                    && missing(&self.entries[*position], &selectors)
                        .next()
                        .is_none()
            })
            .collect();
        positions.sort_unstable();
        let mut hints = HashSet::new();
        positions
            .into_iter()
            .map(|position| {
                let entry = &self.entries[position];
                // SPIFFE Workload API §5.2.1: no two identities in a response have the same hint.
                let hint = entry
                    .params()
                    .hint
                    .as_deref()
                    .filter(|hint| hints.insert(*hint));
                Match { entry, hint }
            })
            .collect()
    }

    /// Which entries came nearest to matching a caller that none matches, for a log line.
    ///
    /// Looks at every entry: it is for the moment of refusal, not for each request.
    pub fn why_not(&self, selectors: &[Selector], now: Timestamp) -> WhyNot {
        let has: HashSet<_> = selectors.iter().collect();
        let mut misses: Vec<_> = self
            .entries
            .iter()
            .map(|entry| {
                let lacks = missing(entry, &has).count();
                // Of those that lack as many, the one that shares most is nearest.
                (lacks, entry.selectors().len() - lacks, entry)
            })
            .collect();
        misses.sort_by_key(|(lacks, shares, _)| (*lacks, std::cmp::Reverse(*shares)));
        let nearest = misses
            .iter()
            .take(MAX_NEAREST)
            .map(|(_, _, entry)| NearMiss {
                entry_id: entry.id().into(),
                spiffe_id: entry.spiffe_id().to_string(),
                expired: !entry.is_current(now),
                missing: missing(entry, &has).cloned().collect(),
            });
        WhyNot {
            selectors: selectors.to_vec(),
            entries: self.entries.len(),
            nearest: nearest.collect(),
        }
    }
}

fn missing<'a>(entry: &'a Entry, has: &HashSet<&Selector>) -> impl Iterator<Item = &'a Selector> {
    entry
        .selectors()
        .iter()
        .filter(|selector| !has.contains(selector))
}

/// An entry that is a caller's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Match<'a> {
    entry: &'a Entry,
    hint: Option<&'a str>,
}

impl<'a> Match<'a> {
    /// The entry.
    pub fn entry(&self) -> &'a Entry {
        self.entry
    }

    /// The hint to give the caller: the entry's, unless an older entry of the same caller has it already.
    pub fn hint(&self) -> Option<&'a str> {
        self.hint
    }
}

/// Why a caller has no identity. Displays as one line, of bounded length.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct WhyNot {
    /// What is true of the caller.
    pub selectors: Vec<Selector>,
    /// How many entries there are.
    pub entries: usize,
    /// The nearest of them, the nearest first, a few at most.
    pub nearest: Vec<NearMiss>,
}

/// An entry that a caller came near to.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct NearMiss {
    /// The entry's own ID.
    pub entry_id: String,
    /// The identity it gives.
    pub spiffe_id: String,
    /// Whether it matches nobody any more.
    pub expired: bool,
    /// What is not true of the caller; empty only when the entry is expired.
    pub missing: Vec<Selector>,
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "caller has {}", Listed(&self.selectors))?;
        let Some((first, others)) = self.nearest.split_first() else {
            return f.write_str("; there are no entries");
        };
        let noun = if self.entries == 1 {
            "entry"
        } else {
            "entries"
        };
        write!(f, "; nearest of {} {noun}: {first}", self.entries)?;
        others.iter().try_for_each(|other| write!(f, "; {other}"))
    }
}

impl fmt::Display for NearMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spiffe_id)?;
        if self.expired {
            f.write_str(" is expired")?;
        }
        match (self.missing.is_empty(), self.expired) {
            (true, _) => Ok(()),
            (false, true) => write!(f, " and lacks {}", Listed(&self.missing)),
            (false, false) => write!(f, " lacks {}", Listed(&self.missing)),
        }
    }
}

struct Listed<'a>(&'a [Selector]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no selectors");
        }
        for (position, selector) in self.0.iter().take(MAX_LISTED).enumerate() {
            let comma = if position == 0 { "" } else { ", " };
            // A value may hold anything that was in a path or a label, line ends included.
            let text: String = selector.as_str().escape_debug().take(MAX_SHOWN).collect();
            write!(f, "{comma}{text}")?;
        }
        match self.0.len().checked_sub(MAX_LISTED) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, " and {more} more"),
        }
    }
}

/// Why entries cannot stand in one set.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EntrySetError {
    /// Two have the same ID.
    #[error("two entries have the id {id:?}")]
    SameId {
        /// The ID.
        id: String,
    },

    /// Two give the same identity, under the same parent, to callers with the same selectors.
    #[error(
        "similar entry already exists: entries {other:?} and {id:?} give {spiffe_id} to the same selectors"
    )]
    Similar {
        /// The later one.
        id: String,
        /// The earlier one.
        other: String,
        /// The identity.
        spiffe_id: String,
    },
}

/// Entries named in a [`WhyNot`]: it becomes one line of a log.
const MAX_NEAREST: usize = 3;

/// Selectors shown of each list in that line, and characters of each.
const MAX_LISTED: usize = 16;
const MAX_SHOWN: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::EntryParams;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1000);

    fn selectors(text: &str) -> Vec<Selector> {
        text.split_whitespace()
            .map(|text| text.parse().unwrap())
            .collect()
    }

    fn entry_with(name: &str, text: &str, change: impl FnOnce(&mut EntryParams)) -> Entry {
        let id = format!("spiffe://example.org/{name}").parse().unwrap();
        let mut params = EntryParams::new(id, selectors(text));
        change(&mut params);
        Entry::new(params, || name.into()).unwrap()
    }

    fn entry(name: &str, text: &str) -> Entry {
        entry_with(name, text, |_| {})
    }

    fn set(entries: Vec<Entry>) -> EntrySet {
        EntrySet::new(entries).unwrap()
    }

    #[track_caller]
    fn check(set: &EntrySet, has: &str, expected: &[&str]) {
        let matches = set.matching(&selectors(has), NOW);
        let ids: Vec<_> = matches.iter().map(|found| found.entry().id()).collect();
        assert_eq!(ids, expected, "{has}");
    }

    #[test]
    fn all_selectors_of_an_entry_are_needed() {
        let set = set(vec![entry("both", "a:1 a:2"), entry("one", "a:1")]);
        check(&set, "a:1 a:2 a:3", &["both", "one"]);
        check(&set, "a:1", &["one"]);
        check(&set, "a:2", &[]);
        check(&set, "", &[]);
    }

    #[test]
    fn selectors_that_are_repeated_change_nothing() {
        let set = set(vec![entry("one", "a:1 a:1")]);
        check(&set, "a:1 a:1 a:1", &["one"]);
    }

    #[test]
    fn order_is_that_of_creation_then_of_the_list() {
        let at = |seconds| {
            move |params: &mut EntryParams| {
                params.created_at = Some(Timestamp::from_unix_seconds(seconds))
            }
        };
        let set = set(vec![
            entry_with("third", "a:1", at(20)),
            entry_with("first", "a:2", at(10)),
            entry_with("second", "a:3", at(10)),
        ]);
        check(&set, "a:3 a:2 a:1", &["first", "second", "third"]);
    }

    #[test]
    fn expired_entry_matches_nobody() {
        let until = |seconds| {
            move |params: &mut EntryParams| {
                params.expires_at = Some(Timestamp::from_unix_seconds(seconds))
            }
        };
        let set = set(vec![
            entry_with("past", "a:1", until(1000)),
            entry_with("current", "a:1", until(1001)),
        ]);
        check(&set, "a:1", &["current"]);
    }

    #[test]
    fn oldest_of_the_matching_entries_keeps_a_hint() {
        let hint = |params: &mut EntryParams| params.hint = Some("internal".into());
        let set = set(vec![
            entry_with("other", "b:1", hint),
            entry_with("old", "a:1", hint),
            entry("plain", "a:1"),
            entry_with("new", "a:1", hint),
        ]);
        let matches = set.matching(&selectors("a:1"), NOW);
        let hints: Vec<_> = matches
            .iter()
            .map(|found| (found.entry().id(), found.hint()))
            .collect();
        assert_eq!(
            hints,
            [("old", Some("internal")), ("plain", None), ("new", None)]
        );
    }

    #[test]
    fn same_id_or_same_saying_is_refused() {
        let id = |params: &mut EntryParams| params.entry_id = Some("same".into());
        let error = EntrySet::new(vec![entry_with("a", "a:1", id), entry_with("b", "a:1", id)])
            .unwrap_err();
        assert_eq!(error.to_string(), "two entries have the id \"same\"");
        let other = |params: &mut EntryParams| params.entry_id = Some("other".into());
        let error = EntrySet::new(vec![
            entry("web", "a:1 a:2"),
            entry_with("web", "a:2 a:1", other),
        ])
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "similar entry already exists: entries \"web\" and \"other\" give spiffe://example.org/web to the same selectors"
        );
        let parent = |params: &mut EntryParams| {
            other(params);
            params.parent_id = Some("spiffe://example.org/node".parse().unwrap());
        };
        assert!(EntrySet::new(vec![entry("web", "a:1"), entry_with("web", "a:1", parent)]).is_ok());
    }

    #[test]
    fn why_not_names_the_nearest_first() {
        let set = set(vec![
            entry("far", "a:1 a:2 a:3"),
            entry("stranger", "b:1"),
            entry("near", "a:1 a:4"),
            entry("middle", "a:1 a:5 a:6"),
        ]);
        assert_eq!(
            set.why_not(&selectors("a:1"), NOW).to_string(),
            "caller has a:1; nearest of 4 entries: spiffe://example.org/near lacks a:4; spiffe://example.org/stranger \
             lacks b:1; spiffe://example.org/far lacks a:2, a:3"
        );
    }

    #[test]
    fn why_not_knows_empty_sets_and_expired_entries() {
        assert_eq!(
            EntrySet::default().why_not(&[], NOW).to_string(),
            "caller has no selectors; there are no entries"
        );
        let set = set(vec![entry_with("web", "a:1", |params| {
            params.expires_at = Some(NOW)
        })]);
        assert_eq!(
            set.why_not(&selectors("a:1"), NOW).to_string(),
            "caller has a:1; nearest of 1 entry: spiffe://example.org/web is expired"
        );
        assert_eq!(
            set.why_not(&selectors("a:2"), NOW).to_string(),
            "caller has a:2; nearest of 1 entry: spiffe://example.org/web is expired and lacks a:1"
        );
    }

    #[test]
    fn why_not_is_one_line_of_bounded_length() {
        let many: Vec<_> = (0..1000)
            .map(|number| Selector::new("a", &format!("{number}\n{}", "x".repeat(1000))).unwrap())
            .collect();
        let entries = (0..100).map(|number| {
            let id = format!("spiffe://example.org/{number}").parse().unwrap();
            Entry::new(EntryParams::new(id, many.clone()), || number.to_string()).unwrap()
        });
        let text = set(entries.collect())
            .why_not(&many[1..], Timestamp::MAX)
            .to_string();
        assert!(
            text.len() < 16 * 1024 && !text.contains('\n'),
            "{} bytes",
            text.len()
        );
        assert!(text.contains("and 983 more; nearest of 100 entries"));
    }

    proptest! {
        #[test]
        fn matching_agrees_with_looking_at_every_entry(
            entries in prop::collection::vec(prop::collection::btree_set(0_u8..6, 1..4), 0..12),
            has in prop::collection::btree_set(0_u8..6, 0..6),
        ) {
            let words = |numbers: &std::collections::BTreeSet<u8>| {
                numbers.iter().map(|number| format!("a:{number} ")).collect::<String>()
            };
            let set = set(entries.iter().enumerate().map(|(at, numbers)| entry(&at.to_string(), &words(numbers))).collect());
            let expected: Vec<_> = (0..entries.len()).filter(|at| entries[*at].is_subset(&has)).map(|at| at.to_string()).collect();
            let matches = set.matching(&selectors(&words(&has)), NOW);
            let found: Vec<_> = matches.iter().map(|found| found.entry().id()).collect();
            prop_assert_eq!(&found, &expected);
        }
    }
}
