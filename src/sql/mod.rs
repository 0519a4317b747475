//! SQL text: exact tokens, fingerprints, and a tree that the planner can prove things about.
//!
//! What is sent to a server is always the client's text, with splices at token positions; the tree is
//! for analysis only and is never printed back. Must not know: shards, the wire, connections.

pub mod ast;
pub mod fingerprint;
pub mod lexer;
pub mod parse;
mod spliced;
mod strings;
mod text;
pub mod walk;

pub use fingerprint::{Fingerprint, fingerprint};
pub use lexer::{LexError, LexOptions, Lexed, Literal, LiteralKind, Token, TokenKind, lex, lex_with};
pub use parse::{ParseError, parse};
pub use spliced::Spliced;
pub use text::{split, split_tokens};
