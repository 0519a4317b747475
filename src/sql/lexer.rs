//! Exact tokens of PostgreSQL's lexical rules.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// An unquoted identifier or keyword.
    Word,
    /// `"…"`, also U&"…".
    QuotedIdent,
    /// A literal: [`Lexed::literals`] at this index.
    Literal(usize),
    /// `$n`.
    Param(u32),
    /// An operator of PostgreSQL's operator characters, the longest by its rules.
    Operator,
    /// One of `( ) [ ] , ; : .`, also `::` and `:=` and `..`.
    Punctuation,
}

/// One token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// First byte in the text.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// Kinds of literal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LiteralKind {
    /// Digits that fit no fraction or exponent, e.g. `42`.
    Integer,
    /// `4.2`, `1e9`.
    Decimal,
    /// `'…'`, `E'…'`, `$$…$$`, `U&'…'`, with continuations joined.
    String,
    /// `B'…'` and `X'…'`.
    BitString,
}

/// A literal with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Literal {
    /// Which kind.
    pub kind: LiteralKind,
    /// Digits as written, or the decoded string; bit strings keep their `b` or `x` in front.
    pub value: String,
}

/// A statement taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Lexed {
    /// Tokens without white space and comments.
    pub tokens: Vec<Token>,
    /// Literals in order of appearance.
    pub literals: Vec<Literal>,
}
