//! A plan as a value: where a statement goes, what is sent, how the answers become one.
//!
//! A plan is made once for a fingerprint and bound for each execution: [`Route`] names the literals
//! and parameters that decide, binding turns their values into shards. Must not know: connections,
//! how frames look, how rows are merged.

pub mod gather;
pub mod steps;
pub mod text;

use std::sync::Arc;

use crate::base::ShardId;
use crate::error::ClientError;
use crate::sql::ast::{CopyOptions, TokenRange};
use crate::topology::{KeyType, KeyValue, TableName};

pub use gather::{GatherColumn, GatherPlan, GatherSource, Partial, PartialColumn, PartialPlan};
pub use steps::Steps;

/// What a statement does to rows; decides two-phase commit, and later who may answer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Proved to only read.
    Read,
    /// Reads and locks rows, or calls functions that may do more.
    ReadLock,
    /// Writes rows.
    Write,
    /// Changes the schema.
    Ddl,
}

/// A plan for all statements of one fingerprint.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What it does.
    pub class: Class,
    /// Which shards.
    pub route: Route,
    /// What happens when the route has more than one shard. With exactly one shard (and no fills) the
    /// client's own text goes there unchanged.
    pub several: Several,
    /// Ids to fill in before anything is sent (INSERT and COPY FROM only; also with one shard).
    pub insert: Option<InsertPlan>,
    /// COPY.
    pub copy: Option<CopyPlan>,
    /// It cannot run in a transaction block.
    pub outside_transaction: bool,
    /// It is of no use outside a transaction block, and PostgreSQL refuses it there: by this name.
    pub inside_transaction: Option<&'static str>,
    /// The schema must be read again afterwards.
    pub changes_schema: bool,
    /// What it does to PostgreSQL's own sequences.
    pub sequences: SequenceUse,
    /// One line for EXPLAIN: why this route.
    pub reason: String,
}

/// What a statement does to PostgreSQL's own sequences without the proxy seeing the numbers: what `lastval` and
/// `currval` say afterwards only the server knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SequenceUse {
    /// Nothing.
    #[default]
    Nothing,
    /// Defaults or triggers of the tables that it writes may.
    Implied,
    /// It calls `nextval`, `setval` or their like.
    Called,
}

/// Which shards a statement needs.
#[derive(Clone, Debug, PartialEq)]
pub enum Route {
    /// Any one shard answers alike: no tables, or reference tables only.
    Any,
    /// One shard, known from the topology: a single table's home, or the home shard for the catalog.
    Shard(ShardId),
    /// The owners of these keys. An alternative with a NULL matches no row and adds no shard; when
    /// none is left, any one shard gives the (empty) answer.
    Keys(Vec<KeyTuple>),
    /// Every shard.
    All,
    /// By row: INSERT of VALUES, see [`Plan::insert`]; COPY FROM, see [`Plan::copy`].
    ByRow,
}

/// One value for each key column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTuple {
    /// In order of the key columns.
    pub parts: Vec<KeyPart>,
}

/// One key column's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPart {
    /// Where the value is.
    pub slot: Slot,
    /// Type of the key column: it decides how the value is read.
    pub key_type: KeyType,
    /// The value is an array, and the column is one of its elements.
    pub is_array: bool,
}

/// A place that holds a value at bind time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Index into the statement's literals.
    Literal {
        /// Index.
        index: usize,
        /// A minus sign stands before it.
        negative: bool,
    },
    /// `$n`, from 1.
    Param(u32),
    /// NULL.
    Null,
    /// This value, which a view's definition gives.
    Known(Box<KeyValue>),
    /// The value that the proxy fills in for this row: index into [`InsertPlan::fills`].
    Fill(usize),
}

/// What to do when a route has several shards.
#[derive(Clone, Debug, PartialEq)]
pub enum Several {
    /// Rows are read from all and merged.
    Merge {
        /// What is spliced into the client's text for the shards.
        splices: Vec<Splice>,
        /// How rows become one result.
        merge: MergeSpec,
        /// What is done instead when the columns' types turn out not to be comparable in the proxy.
        otherwise: Option<Arc<GatherPlan>>,
    },
    /// EXPLAIN of such a read: every shard tells how it would do its part.
    ExplainMerge {
        /// As for the read.
        splices: Vec<Splice>,
        /// As for the read.
        merge: MergeSpec,
    },
    /// One PostgreSQL computes the answer from rows of all.
    Gather(Arc<GatherPlan>),
    /// Every shard does its part; counts are added, RETURNING rows are concatenated.
    Sum,
    /// Every shard does the same (reference tables, DDL); the first answer is the client's.
    Same,
    /// It takes several statements.
    Steps(Box<Steps>),
    /// Not possible.
    Refuse(ClientError),
}

/// Replaces tokens of the client's text. An empty range inserts before the token with that index
/// (or at the end of the text). Splices do not overlap and are in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Splice {
    /// What is replaced.
    pub tokens: TokenRange,
    /// With what; pieces are joined as they are (they bring their own spaces).
    pub with: Vec<Piece>,
}

/// A piece of spliced text.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Fixed text.
    Text(String),
    /// The client's own text of these tokens.
    Tokens(TokenRange),
    /// The number LIMIT + OFFSET at bind time, as digits.
    LimitPlusOffset,
    /// A column of partial results, combined: see [`PartialPlan`].
    Combined(usize),
    /// The partial results as a row source.
    Rows,
}

/// How the rows of several shards become one result. The shards' columns are the client's columns
/// followed by `hidden` columns that the client does not see.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct MergeSpec {
    /// Number of trailing columns added by splices.
    pub hidden: usize,
    /// Sorted by these on every shard, and in the result; empty: any order.
    pub order: Vec<OrderKey>,
    /// Duplicates are removed over all visible columns.
    pub distinct: bool,
    /// Partial aggregates are combined.
    pub aggregate: Option<AggregateSpec>,
    /// LIMIT.
    pub limit: Option<Slot>,
    /// OFFSET.
    pub offset: Option<Slot>,
}

/// A column of the shards' rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ColumnRef {
    /// From the left, from 0, among the client's columns.
    Visible(usize),
    /// From 0, among the hidden columns.
    Hidden(usize),
}

/// One sort key of a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderKey {
    /// Where the value is.
    pub column: ColumnRef,
    /// DESC.
    pub descending: bool,
    /// NULLs come first.
    pub nulls_first: bool,
    /// If the value is text: it may be compared by bytes. When false and the type turns out to be
    /// text, the merge refuses before the first row.
    pub text_is_bytewise: bool,
}

/// Partial aggregates, one row a group and shard.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct AggregateSpec {
    /// Columns that identify a group; empty: one group in all (an empty input still gives one row).
    pub groups: Vec<ColumnRef>,
    /// Columns that are combined; every other visible column is taken from the group's first row.
    pub outputs: Vec<AggregateOutput>,
    /// HAVING over the combined row.
    pub having: Option<Condition>,
    /// ORDER BY of the result: sorted after combining (the shards are not asked to sort).
    pub order: Vec<OrderKey>,
}

/// One aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AggregateOutput {
    /// Where the shards put their partial result, and where the combined one goes.
    pub column: ColumnRef,
    /// How partial results combine.
    pub function: AggregateFunction,
}

/// How partial results combine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregateFunction {
    /// Counts are added.
    Count,
    /// Sums are added; NULL when all are.
    Sum,
    /// The least.
    Min {
        /// If the value is text: it may be compared by bytes.
        text_is_bytewise: bool,
    },
    /// The greatest.
    Max {
        /// If the value is text: it may be compared by bytes.
        text_is_bytewise: bool,
    },
    /// From the partial sum and count; `column` holds the shard's own average, which gives the type.
    Avg {
        /// Column with the shard's sum.
        sum: ColumnRef,
        /// Column with the shard's count.
        count: ColumnRef,
    },
    /// bool_and, every.
    BoolAnd,
    /// bool_or.
    BoolOr,
    /// bit_and on integers.
    BitAnd,
    /// bit_or on integers.
    BitOr,
}

/// A condition over combined rows, with SQL's three-valued logic.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// All hold.
    And(Vec<Condition>),
    /// One holds.
    Or(Vec<Condition>),
    /// Does not hold.
    Not(Box<Condition>),
    /// column operator constant; operator is one of = <> < <= > >=.
    Compare {
        /// Left side.
        column: ColumnRef,
        /// Operator.
        operator: CompareOperator,
        /// Right side.
        value: Slot,
        /// If the value is text: it may be compared by bytes (only needed for order operators).
        text_is_bytewise: bool,
    },
    /// IS NULL.
    IsNull {
        /// Operand.
        column: ColumnRef,
        /// IS NOT NULL.
        negated: bool,
    },
}

/// Comparison operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CompareOperator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// INSERT … VALUES into a sharded table, row by row, and ids that the proxy fills in.
#[derive(Clone, Debug, PartialEq)]
pub struct InsertPlan {
    /// The table.
    pub table: TableName,
    /// Ids that the proxy gives, one for each row and fill.
    pub fills: Vec<Fill>,
    /// What is changed once in the statement: column list, OVERRIDING clause. Applied to every copy.
    pub splices: Vec<Splice>,
    /// The rows. Empty for INSERT … SELECT that is routed as a whole.
    pub rows: Vec<InsertRow>,
    /// From the first row's opening parenthesis to the last row's closing one.
    pub rows_tokens: TokenRange,
    /// RETURNING is present.
    pub returning: bool,
    /// ON CONFLICT is present: a shard may return fewer rows than it was given.
    pub may_skip_rows: bool,
    /// Key columns are NOT NULL and no trigger can change that: any shard refuses a row without a key,
    /// in PostgreSQL's own words.
    pub key_is_not_null: bool,
    /// Every row goes to every shard (reference table with ids to fill in).
    pub everywhere: bool,
}

/// A column whose value is known before the row is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Where the value comes from.
    pub source: FillSource,
    /// The column.
    pub column: String,
    /// Type OID of the column: int2, int4, int8 …
    pub type_oid: u32,
}

/// Where the value of a [`Fill`] comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FillSource {
    /// A cluster-wide sequence.
    Sequence(TableName),
    /// The column's default, which a server evaluates once for each row.
    Default,
    /// The row's own expression, which a server evaluates.
    Expression,
}

/// The value of a [`Fill`] for one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filled {
    /// From a sequence.
    Id(i64),
    /// As a server printed it; `None` is NULL.
    Text(Option<String>),
}

/// One row of VALUES.
#[derive(Clone, Debug, PartialEq)]
pub struct InsertRow {
    /// `( … )` with its parentheses.
    pub tokens: TokenRange,
    /// The key, one part a key column; empty for tables that are not sharded.
    pub key: Vec<KeyPart>,
    /// Changes inside the row: a DEFAULT replaced or a value appended, for each fill.
    pub fills: Vec<RowFill>,
}

/// Where a filled value goes in a row.
#[derive(Clone, Debug, PartialEq)]
pub struct RowFill {
    /// Index into [`InsertPlan::fills`].
    pub fill: usize,
    /// The tokens replaced by the number (a DEFAULT); empty range: `, number` is inserted before
    /// the token (the closing parenthesis).
    pub tokens: TokenRange,
}

/// COPY.
#[derive(Clone, Debug, PartialEq)]
pub struct CopyPlan {
    /// The table; `None` for COPY (query) TO.
    pub table: Option<TableName>,
    /// FROM STDIN.
    pub from: bool,
    /// Format and delimiters.
    pub options: CopyOptions,
    /// Number of fields a row has as the client sends it (0 when unknown, COPY TO).
    pub columns: usize,
    /// Field index and type of each key column, for COPY FROM a sharded table; empty: no split.
    /// A key column that is filled in has the index `columns + fill index`.
    pub key: Vec<(usize, KeyType)>,
    /// As [`InsertPlan::key_is_not_null`].
    pub key_is_not_null: bool,
    /// Ids appended to every row.
    pub fills: Vec<Fill>,
    /// Changes of the statement's text (column list) when there are fills.
    pub splices: Vec<Splice>,
}
