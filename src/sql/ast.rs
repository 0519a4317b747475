//! The statement as the planner sees it: a small tree, positions given as token indexes.
//!
//! Identifiers are folded as PostgreSQL folds them (unquoted to lower case, 63 bytes at most).
//! Whatever the tree has no word for is kept as `Other` with its children, so that a walk over the
//! tree always meets every column, table and function of the statement.

use std::ops::Range;

/// Token indexes of one statement, end exclusive. Stable among statements of one fingerprint.
pub type TokenRange = Range<usize>;

/// A possibly schema-qualified name. A catalog part is dropped.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    /// Schema, when written.
    pub schema: Option<String>,
    /// The name itself.
    pub name: String,
}

/// One statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// SELECT, VALUES, TABLE, each with or without WITH.
    Query(Box<Query>),
    /// INSERT.
    Insert(Box<Insert>),
    /// UPDATE.
    Update(Box<Update>),
    /// DELETE.
    Delete(Box<Delete>),
    /// MERGE; only its parts are known.
    Merge(Box<Merge>),
    /// COPY.
    Copy(Box<Copy>),
    /// BEGIN or START TRANSACTION. The text of the modes is sent as it is.
    Begin,
    /// COMMIT or END.
    Commit {
        /// AND CHAIN.
        chain: bool,
    },
    /// ROLLBACK or ABORT.
    Rollback {
        /// AND CHAIN.
        chain: bool,
    },
    /// SAVEPOINT name.
    Savepoint(String),
    /// RELEASE name.
    Release(String),
    /// ROLLBACK TO name.
    RollbackTo(String),
    /// PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED.
    TwoPhase,
    /// SET name = value, SET TIME ZONE, SET NAMES, SET ROLE …
    Set {
        /// SET LOCAL.
        local: bool,
        /// Folded name; `timezone` for TIME ZONE, `client_encoding` for NAMES.
        name: String,
        /// The value as written, tokens after `=` or TO; empty range for DEFAULT.
        value: TokenRange,
    },
    /// SET TRANSACTION …: modes of the current transaction.
    SetTransaction,
    /// SET SESSION CHARACTERISTICS AS TRANSACTION …
    SetSessionCharacteristics,
    /// SET CONSTRAINTS …
    SetConstraints,
    /// RESET name; `None` for ALL.
    Reset(Option<String>),
    /// SHOW name; `all` for SHOW ALL. Several words are joined by one space.
    Show(String),
    /// PREPARE name AS …
    Prepare {
        /// The statement's name.
        name: String,
    },
    /// EXECUTE name (…)
    Execute {
        /// The statement's name.
        name: String,
    },
    /// DEALLOCATE name; `None` for ALL.
    Deallocate(Option<String>),
    /// DISCARD ALL | PLANS | SEQUENCES | TEMP, folded.
    Discard(String),
    /// DECLARE name CURSOR.
    Declare {
        /// WITH HOLD.
        hold: bool,
        /// The cursor's query.
        query: Box<Query>,
    },
    /// FETCH or MOVE.
    Fetch,
    /// CLOSE name; `None` for ALL.
    Close(Option<String>),
    /// LISTEN, UNLISTEN or NOTIFY.
    Notification,
    /// LOCK TABLE.
    Lock(Vec<ObjectName>),
    /// TRUNCATE.
    Truncate(Vec<ObjectName>),
    /// EXPLAIN of something.
    Explain {
        /// `EXPLAIN (OSTRAKON)`: the proxy's own plan is asked for.
        ostrakon: bool,
        /// ANALYZE: the statement runs.
        analyze: bool,
        /// Tokens of the explained statement.
        tokens: TokenRange,
        /// The explained statement.
        statement: Box<Statement>,
    },
    /// CREATE, ALTER, DROP, COMMENT, GRANT, REVOKE, SECURITY LABEL, REFRESH, REINDEX, VACUUM, ANALYZE,
    /// CLUSTER … : whatever belongs on every shard.
    Ddl(Ddl),
    /// CALL of a procedure.
    Call(ObjectName),
    /// DO: an anonymous block.
    Do,
    /// No tokens, or comments only.
    Empty,
    /// Known to the lexer by its first word only; the word in upper case.
    Other(String),
}

/// A statement that changes the schema or maintains tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Ddl {
    /// First word, upper case: `CREATE`, `ALTER`, `VACUUM` …
    pub verb: String,
    /// Kind of object, upper case: `TABLE`, `INDEX`, `TYPE`, `DATABASE`, `ROLE` …; empty if none.
    pub object: String,
    /// Names of the objects, as far as they are plain to see.
    pub names: Vec<ObjectName>,
    /// It cannot run in a transaction block (VACUUM, CREATE INDEX CONCURRENTLY, CREATE DATABASE …).
    pub outside_transaction: bool,
    /// CREATE TEMP …, or a name in `pg_temp`.
    pub temporary: bool,
    /// CREATE TABLE AS, CREATE MATERIALIZED VIEW AS: the query that is stored.
    pub query: Option<Box<Query>>,
}

/// SELECT with everything round it.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// WITH RECURSIVE.
    pub recursive: bool,
    /// WITH.
    pub with: Vec<Cte>,
    /// The body.
    pub body: SetExpr,
    /// ORDER BY of the whole.
    pub order_by: Vec<OrderItem>,
    /// LIMIT or FETCH FIRST. `LIMIT ALL` is `None`.
    pub limit: Option<Expr>,
    /// FETCH FIRST … WITH TIES.
    pub with_ties: bool,
    /// OFFSET.
    pub offset: Option<Expr>,
    /// FOR UPDATE, FOR SHARE …
    pub locks: bool,
    /// All tokens of the query, without the parentheses round it.
    pub tokens: TokenRange,
    /// `ORDER BY …`, keywords included.
    pub order_by_tokens: Option<TokenRange>,
    /// Everything from the first of LIMIT, OFFSET, FETCH to the end of these clauses.
    pub limit_tokens: Option<TokenRange>,
}

/// One WITH query.
#[derive(Clone, Debug, PartialEq)]
pub struct Cte {
    /// Its name.
    pub name: String,
    /// Column names, when given.
    pub columns: Vec<String>,
    /// A query, or a data-modifying statement.
    pub statement: Statement,
}

/// The body of a query.
#[derive(Clone, Debug, PartialEq)]
pub enum SetExpr {
    /// SELECT …
    Select(Box<Select>),
    /// VALUES (…), (…)
    Values(Vec<Vec<Expr>>),
    /// A query in parentheses.
    Nested(Box<Query>),
    /// UNION, INTERSECT, EXCEPT.
    SetOperation {
        /// Upper case.
        operator: String,
        /// ALL.
        all: bool,
        /// Left arm.
        left: Box<SetExpr>,
        /// Right arm.
        right: Box<SetExpr>,
    },
}

/// SELECT … FROM … WHERE … GROUP BY … HAVING.
#[derive(Clone, Debug, PartialEq)]
pub struct Select {
    /// DISTINCT, or `DISTINCT ON`.
    pub distinct: Distinct,
    /// The target list.
    pub items: Vec<SelectItem>,
    /// SELECT INTO: creates a table.
    pub into: bool,
    /// FROM; an implied cross join of its members.
    pub from: Vec<TableRef>,
    /// WHERE.
    pub selection: Option<Expr>,
    /// GROUP BY, plain expressions.
    pub group_by: Vec<GroupItem>,
    /// GROUPING SETS, ROLLUP, CUBE or GROUP BY DISTINCT is used; `group_by` then lists what is inside.
    pub grouping_sets: bool,
    /// HAVING.
    pub having: Option<Expr>,
    /// A WINDOW clause is present (its expressions are in `window_exprs`).
    pub window_exprs: Vec<Expr>,
    /// The target list's tokens, without SELECT and DISTINCT.
    pub items_tokens: TokenRange,
    /// `FROM …`, keyword included.
    pub from_tokens: Option<TokenRange>,
    /// `WHERE …`, keyword included.
    pub where_tokens: Option<TokenRange>,
    /// `GROUP BY …`, keywords included.
    pub group_by_tokens: Option<TokenRange>,
    /// `HAVING …`, keyword included.
    pub having_tokens: Option<TokenRange>,
}

/// SELECT [ALL | DISTINCT [ON (…)]].
#[derive(Clone, Debug, PartialEq)]
pub enum Distinct {
    /// All rows.
    No,
    /// DISTINCT.
    Rows,
    /// DISTINCT ON (…).
    On(Vec<Expr>),
}

/// One entry of a target list.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectItem {
    /// What it is.
    pub kind: SelectItemKind,
    /// Tokens of the whole entry, alias included.
    pub tokens: TokenRange,
    /// Tokens of the expression alone.
    pub expr_tokens: TokenRange,
}

/// What a target list entry is.
#[derive(Clone, Debug, PartialEq)]
pub enum SelectItemKind {
    /// `*`
    Wildcard,
    /// `t.*`
    QualifiedWildcard(String),
    /// An expression.
    Expr {
        /// The expression.
        expr: Expr,
        /// AS name.
        alias: Option<String>,
    },
}

/// One GROUP BY expression.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupItem {
    /// The expression; an integer literal is an ordinal of the target list.
    pub expr: Expr,
    /// Its tokens.
    pub tokens: TokenRange,
}

/// One ORDER BY expression.
#[derive(Clone, Debug, PartialEq)]
pub struct OrderItem {
    /// The expression; an integer literal is an ordinal of the target list.
    pub expr: Expr,
    /// DESC.
    pub descending: bool,
    /// NULLS FIRST or LAST, when written.
    pub nulls_first: Option<bool>,
    /// ORDER BY … USING operator.
    pub using: bool,
    /// Tokens of the expression alone.
    pub tokens: TokenRange,
}

/// One row source.
#[derive(Clone, Debug, PartialEq)]
pub enum TableRef {
    /// A table, view or WITH query by name.
    Table {
        /// Its name.
        name: ObjectName,
        /// AS name.
        alias: Option<TableAlias>,
        /// TABLESAMPLE is used.
        sample: bool,
        /// `ONLY name *`, without AS; empty for `TABLE name`.
        tokens: TokenRange,
    },
    /// (SELECT …)
    Subquery {
        /// The query.
        query: Box<Query>,
        /// AS name.
        alias: Option<TableAlias>,
        /// LATERAL.
        lateral: bool,
    },
    /// A function in FROM, also ROWS FROM and UNNEST.
    Function {
        /// The calls.
        calls: Vec<Expr>,
        /// AS name.
        alias: Option<TableAlias>,
    },
    /// A join.
    Join {
        /// Left side.
        left: Box<TableRef>,
        /// Right side.
        right: Box<TableRef>,
        /// Which kind.
        kind: JoinKind,
        /// Its condition.
        condition: JoinCondition,
    },
    /// Something else; the planner refuses it unless nothing sharded is meant.
    Other(String),
}

/// Kinds of join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    /// INNER or plain JOIN.
    Inner,
    /// LEFT.
    Left,
    /// RIGHT.
    Right,
    /// FULL.
    Full,
    /// CROSS.
    Cross,
}

/// Conditions of a join.
#[derive(Clone, Debug, PartialEq)]
pub enum JoinCondition {
    /// ON expression.
    On(Expr),
    /// USING (columns).
    Using(Vec<String>),
    /// NATURAL.
    Natural,
    /// None (CROSS).
    None,
}

/// AS name (columns).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableAlias {
    /// The name.
    pub name: String,
    /// Column names, when given.
    pub columns: Vec<String>,
}

/// INSERT.
#[derive(Clone, Debug, PartialEq)]
pub struct Insert {
    /// WITH.
    pub with: Vec<Cte>,
    /// The token INSERT; WITH stands before it.
    pub insert_token: usize,
    /// Target.
    pub table: ObjectName,
    /// AS name.
    pub alias: Option<String>,
    /// Column list; empty when not written.
    pub columns: Vec<String>,
    /// `(a, b)` with its parentheses.
    pub columns_tokens: Option<TokenRange>,
    /// Where to insert a column list or OVERRIDING clause when there is none: just before this token.
    pub source_token: usize,
    /// What is inserted.
    pub source: InsertSource,
    /// ON CONFLICT.
    pub on_conflict: Option<OnConflict>,
    /// OVERRIDING … VALUE is written.
    pub overriding: bool,
    /// RETURNING.
    pub returning: Vec<SelectItem>,
    /// From `ON CONFLICT` or `RETURNING` to the end; empty range at the end when neither is written.
    pub tail_tokens: TokenRange,
}

/// What an INSERT inserts.
#[derive(Clone, Debug, PartialEq)]
pub enum InsertSource {
    /// VALUES, a row each.
    Values(Vec<ValuesRow>),
    /// DEFAULT VALUES.
    DefaultValues,
    /// A query.
    Query(Box<Query>),
}

/// One row of VALUES.
#[derive(Clone, Debug, PartialEq)]
pub struct ValuesRow {
    /// The expressions.
    pub values: Vec<Expr>,
    /// Tokens of each expression.
    pub value_tokens: Vec<TokenRange>,
    /// `( … )` with its parentheses.
    pub tokens: TokenRange,
}

/// ON CONFLICT.
#[derive(Clone, Debug, PartialEq)]
pub struct OnConflict {
    /// Columns of the conflict target, when it is a list of plain columns.
    pub target_columns: Vec<String>,
    /// DO UPDATE: columns assigned and the expressions; empty for DO NOTHING.
    pub assignments: Vec<Assignment>,
    /// DO UPDATE … WHERE.
    pub selection: Option<Expr>,
    /// DO NOTHING.
    pub do_nothing: bool,
}

/// SET column = expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// Columns assigned; several for `(a, b) = …`.
    pub columns: Vec<String>,
    /// The value.
    pub value: Expr,
    /// Tokens of the value.
    pub value_tokens: TokenRange,
}

/// UPDATE.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// WITH.
    pub with: Vec<Cte>,
    /// Target.
    pub table: ObjectName,
    /// AS name.
    pub alias: Option<String>,
    /// SET.
    pub assignments: Vec<Assignment>,
    /// Where its parts stand.
    pub tokens: UpdateTokens,
    /// FROM.
    pub from: Vec<TableRef>,
    /// WHERE.
    pub selection: Option<Expr>,
    /// WHERE CURRENT OF.
    pub current_of: bool,
    /// RETURNING.
    pub returning: Vec<SelectItem>,
}

/// Where the parts of an UPDATE stand.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct UpdateTokens {
    /// The token UPDATE; WITH stands before it.
    pub update: usize,
    /// The target's name and alias, with ONLY and `*`.
    pub target: TokenRange,
    /// ONLY is written.
    pub only: bool,
    /// What follows FROM; empty when not written.
    pub from: TokenRange,
    /// `WHERE …`, keyword included; empty when not written.
    pub selection: TokenRange,
    /// `RETURNING …`, keyword included; empty when not written.
    pub returning: TokenRange,
}

/// DELETE.
#[derive(Clone, Debug, PartialEq)]
pub struct Delete {
    /// WITH.
    pub with: Vec<Cte>,
    /// Target.
    pub table: ObjectName,
    /// AS name.
    pub alias: Option<String>,
    /// USING.
    pub using: Vec<TableRef>,
    /// WHERE.
    pub selection: Option<Expr>,
    /// WHERE CURRENT OF.
    pub current_of: bool,
    /// RETURNING.
    pub returning: Vec<SelectItem>,
}

/// MERGE.
#[derive(Clone, Debug, PartialEq)]
pub struct Merge {
    /// WITH.
    pub with: Vec<Cte>,
    /// Target.
    pub table: ObjectName,
    /// AS name.
    pub alias: Option<String>,
    /// USING.
    pub source: TableRef,
    /// ON.
    pub on: Expr,
    /// Every other expression of the statement.
    pub others: Vec<Expr>,
    /// Columns that WHEN MATCHED THEN UPDATE assigns.
    pub assigned: Vec<String>,
    /// WHEN NOT MATCHED THEN INSERT.
    pub inserts: Vec<MergeInsert>,
    /// WHEN NOT MATCHED BY SOURCE is used.
    pub by_source: bool,
}

/// What a MERGE inserts.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeInsert {
    /// Column list; empty when not written.
    pub columns: Vec<String>,
    /// The row; empty for DEFAULT VALUES.
    pub values: Vec<Expr>,
}

/// COPY.
#[derive(Clone, Debug, PartialEq)]
pub struct Copy {
    /// Table or query.
    pub source: CopySource,
    /// FROM (into the table) or TO.
    pub from: bool,
    /// STDIN or STDOUT; a file or program otherwise.
    pub is_client: bool,
    /// WHERE of COPY FROM is present.
    pub has_where: bool,
    /// Options.
    pub options: CopyOptions,
}

/// What is copied.
#[derive(Clone, Debug, PartialEq)]
pub enum CopySource {
    /// table (columns)
    Table {
        /// Its name.
        name: ObjectName,
        /// Columns; empty when not written.
        columns: Vec<String>,
        /// `(a, b)` with its parentheses.
        columns_tokens: Option<TokenRange>,
        /// Tokens of the table's name.
        name_tokens: TokenRange,
    },
    /// (query)
    Query(Box<Statement>),
}

/// Options of COPY that decide how bytes become rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyOptions {
    /// Text, CSV or binary.
    pub format: CopyFormat,
    /// DELIMITER; tab for text and comma for CSV when not written.
    pub delimiter: u8,
    /// NULL; `\N` for text and empty for CSV when not written.
    pub null: String,
    /// HEADER (also MATCH).
    pub header: bool,
    /// QUOTE.
    pub quote: u8,
    /// ESCAPE; the quote when not written.
    pub escape: u8,
    /// FREEZE.
    pub freeze: bool,
    /// FORCE_NULL or FORCE_NOT_NULL is used.
    pub force_null: bool,
    /// ENCODING is given.
    pub encoding: bool,
}

/// Formats of COPY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    /// PostgreSQL's text format.
    Text,
    /// Comma-separated values.
    Csv,
    /// PostgreSQL's binary format.
    Binary,
}

/// A scalar expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// A column, possibly qualified by a table, alias or schema and table.
    Column {
        /// `t` of `t.c`, `[s, t]` of `s.t.c`.
        qualifier: Vec<String>,
        /// The column.
        name: String,
    },
    /// `$n`, from 1.
    Param(u32),
    /// A literal: index into [`crate::sql::Lexed::literals`].
    Literal(usize),
    /// TRUE or FALSE.
    Bool(bool),
    /// NULL.
    Null,
    /// DEFAULT, in VALUES and SET.
    Default,
    /// Conjunction, two or more terms.
    And(Vec<Expr>),
    /// Disjunction, two or more terms.
    Or(Vec<Expr>),
    /// NOT.
    Not(Box<Expr>),
    /// `-x`, `+x` and other prefix operators.
    Unary {
        /// As written.
        operator: String,
        /// Operand.
        expr: Box<Expr>,
    },
    /// An infix operator: `=`, `<>`, `<`, `+`, `||`, `->>`, `OPERATOR(s.=)` …
    Binary {
        /// As written; `<>` for `!=`.
        operator: String,
        /// Left operand.
        left: Box<Expr>,
        /// Right operand.
        right: Box<Expr>,
    },
    /// IS NULL and IS NOT NULL.
    IsNull {
        /// Operand.
        expr: Box<Expr>,
        /// IS NOT NULL.
        negated: bool,
    },
    /// IN (list).
    InList {
        /// Operand.
        expr: Box<Expr>,
        /// Members.
        list: Vec<Expr>,
        /// NOT IN.
        negated: bool,
    },
    /// IN (query).
    InSubquery {
        /// Operand.
        expr: Box<Expr>,
        /// The query.
        query: Box<Query>,
        /// NOT IN.
        negated: bool,
    },
    /// `left op ANY (right)`, `left op ALL (right)`; right is an array.
    AnyAll {
        /// Operand.
        left: Box<Expr>,
        /// Operator.
        operator: String,
        /// The array.
        right: Box<Expr>,
        /// ALL instead of ANY.
        all: bool,
    },
    /// EXISTS (query).
    Exists {
        /// The query.
        query: Box<Query>,
        /// NOT EXISTS.
        negated: bool,
    },
    /// (query) as a value, ARRAY(query), and op ANY (query).
    Subquery(Box<Query>),
    /// ROW(…) or (a, b).
    Row(Vec<Expr>),
    /// CAST, `::` and `type 'literal'`.
    Cast {
        /// Operand.
        expr: Box<Expr>,
        /// The type as folded text, e.g. `bigint`, `varchar(10)`, `public.mood`.
        type_name: String,
    },
    /// COLLATE.
    Collate {
        /// Operand.
        expr: Box<Expr>,
        /// The collation.
        collation: ObjectName,
    },
    /// A function or aggregate; also CURRENT_TIMESTAMP and its like, EXTRACT, SUBSTRING, TRIM … by
    /// their lower-case names.
    Function(Box<Call>),
    /// CASE, BETWEEN, LIKE, IS DISTINCT FROM, ARRAY[…], subscripts, field access …
    Other {
        /// For refusals and EXPLAIN: what it is, e.g. `case`.
        what: &'static str,
        /// Every operand.
        children: Vec<Expr>,
    },
}

/// A call of a function or aggregate.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Name.
    pub name: ObjectName,
    /// Arguments; empty for `count(*)`.
    pub args: Vec<Expr>,
    /// `(*)`.
    pub star: bool,
    /// DISTINCT inside the parentheses.
    pub distinct: bool,
    /// ORDER BY inside the parentheses, and WITHIN GROUP.
    pub order_by: Vec<OrderItem>,
    /// WITHIN GROUP is used.
    pub within_group: bool,
    /// FILTER (WHERE …).
    pub filter: Option<Expr>,
    /// OVER: a window function.
    pub over: Option<Window>,
}

/// OVER (…).
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// OVER name, or `(name …)`.
    pub name: Option<String>,
    /// PARTITION BY.
    pub partition_by: Vec<Expr>,
    /// ORDER BY and frame bounds: every other expression.
    pub others: Vec<Expr>,
}
