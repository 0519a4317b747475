//! OFFSET and LIMIT.

/// Which rows of the merged result the client gets.
#[derive(Debug)]
pub(super) struct Window {
    to_skip: u64,
    /// `None`: no limit.
    left: Option<u64>,
}

impl Window {
    pub(super) fn new(limit: Option<u64>, offset: u64) -> Self {
        Self { to_skip: offset, left: limit }
    }

    /// Counts a row; whether the client gets it.
    pub(super) fn admit(&mut self) -> bool {
        if self.to_skip > 0 {
            self.to_skip -= 1;
            return false;
        }
        match &mut self.left {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    /// No row is held back, now or later.
    pub(super) fn admits_all(&self) -> bool {
        self.to_skip == 0 && self.left.is_none()
    }

    /// LIMIT is satisfied.
    pub(super) fn is_over(&self) -> bool {
        self.left == Some(0)
    }
}
