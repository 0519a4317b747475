//! PostgreSQL's numeric, exact. (in work)

/// An exact decimal number, NaN or an infinity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numeric;
