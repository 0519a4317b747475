//! Text to tree. The only file that names the parser crate.
