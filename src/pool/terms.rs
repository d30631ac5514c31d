//! What distinguishes one map from another, beside its function and inputs.

/// What a map may do beyond what it does by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// Calls in a batch, if the caller says so.
    pub(crate) batch: Option<usize>,
    /// Most calls that are sent and whose outcome has not been given out.
    pub(crate) window: usize,
    /// About as many bytes their arguments and results may have.
    pub(crate) window_bytes: usize,
    pub(crate) ordered: bool,
    /// Whether closing the pool lets it go on to its end: the pool's shutdown waits for it.
    pub(crate) whole: bool,
}

impl Terms {
    pub(crate) const WHOLE: Self = Self {
        batch: None,
        window: usize::MAX,
        window_bytes: usize::MAX,
        ordered: true,
        whole: true,
    };
}
