//! What is known of who has which bundle: what a rollover waits for.

/// How far a consumer's acknowledgement reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Grade {
    /// Nothing is known.
    Unknown,
    /// The message with the bundle was written to the consumer's stream.
    Delivered,
    /// The consumer verifies with the bundle.
    Applied,
}

/// One consumer of the bundle and the last that it acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Consumer {
    /// Who it is, for messages.
    pub name: String,
    /// The sequence number of the bundle.
    pub sequence: u64,
    /// How it was acknowledged.
    pub grade: Grade,
    /// The IDs of the X.509 authorities that signed what it presents, as far as is known.
    pub presents: Vec<String>,
}

impl Consumer {
    /// A consumer that has acknowledged the bundle with this sequence number.
    pub fn new(name: impl Into<String>, sequence: u64, grade: Grade) -> Self {
        Self {
            name: name.into(),
            sequence,
            grade,
            presents: Vec::new(),
        }
    }

    /// The same, and what it presents was signed by the authorities with these IDs.
    #[must_use]
    pub fn presenting(mut self, authorities: impl IntoIterator<Item = String>) -> Self {
        self.presents = authorities.into_iter().collect();
        self
    }
}

/// What is known of all consumers of a trust domain's bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    consumers: Option<Vec<Consumer>>,
}

impl Evidence {
    /// Nobody was asked: no gate opens before its deadline.
    pub const fn unknown() -> Self {
        Self { consumers: None }
    }

    /// These are all consumers; with none there is nobody to wait for.
    pub fn complete(consumers: impl IntoIterator<Item = Consumer>) -> Self {
        Self {
            consumers: Some(consumers.into_iter().collect()),
        }
    }

    /// Who has not acknowledged, at least as `grade` says, the bundle with this sequence number or a later one. Empty
    /// when everybody has.
    pub fn laggards(&self, sequence: u64, grade: Grade) -> Vec<String> {
        match &self.consumers {
            None => vec!["consumers that nobody asked".into()],
            Some(consumers) => consumers
                .iter()
                .filter(|consumer| consumer.sequence < sequence || consumer.grade < grade)
                .map(|consumer| consumer.name.clone())
                .collect(),
        }
    }

    /// Who is known to present what the authority with this ID signed; `None` when nobody was asked.
    pub fn holders(&self, id: &str) -> Option<Vec<String>> {
        let holds = |consumer: &&Consumer| consumer.presents.iter().any(|own| own == id);
        let consumers = self.consumers.as_ref()?.iter();
        Some(
            consumers
                .filter(holds)
                .map(|holder| holder.name.clone())
                .collect(),
        )
    }
}
