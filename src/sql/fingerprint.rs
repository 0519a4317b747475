//! The key of the plan cache: a statement's tokens with literals lifted out.
