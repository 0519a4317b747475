//! One table of everything Ostrakon itself can say went wrong.
//!
//! PostgreSQL's own errors never come through here: they pass byte for byte. Each id has one
//! SQLSTATE, one party to blame and one retry verdict, in one exhaustive match.

use std::fmt;

/// Who has to act for the error to go away. A metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The application sent something that cannot be served.
    Client,
    /// A PostgreSQL server refused or failed.
    Postgres,
    /// A connection broke or was not possible.
    Network,
    /// The configuration or the machine is not as it must be.
    Operator,
    /// A defect of Ostrakon.
    Ostrakon,
}

/// Whether the statement may be sent again by the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Nothing ran: sending it again is safe.
    Safe,
    /// It may have run: only the application can know.
    Unknown,
    /// It would fail again.
    Useless,
}

/// Every error of Ostrakon's own that a client can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorId {
    /// A message is malformed or comes out of order.
    ProtocolViolation,
    /// A shard cannot be reached and nothing ran.
    ShardUnreachable,
    /// A connection broke after the statement was sent.
    StatementCompletionUnknown,
    /// A connection broke while a commit was in flight.
    CommitOutcomeUnknown,
    /// The statement cannot be proved right, or not yet merged, across shards.
    NotSupportedAcrossShards,
    /// A feature that Ostrakon does not offer.
    FeatureNotSupported,
    /// The sharding key is missing or NULL on insert.
    ShardingKeyMissing,
    /// The topology moved and nothing ran.
    TopologyMoved,
    /// Several shards could not commit together; all were rolled back.
    DistributedCommitFailed,
    /// The primary was lost under a transaction; nothing of it was committed.
    PrimaryReplaced,
    /// Sessions wait for each other over several shards.
    DeadlockDetected,
    /// A failover is in progress and the buffer window is over.
    FailoverInProgress,
    /// The wait for a connection took too long.
    PoolTimeout,
    /// There are too many clients.
    TooManyClients,
    /// A merge or gather went over its budget.
    MergeBudgetExceeded,
    /// A size limit was exceeded.
    LimitExceeded,
    /// The transaction is aborted; only ROLLBACK is accepted.
    InFailedTransaction,
    /// A transaction was left idle for too long.
    IdleInTransaction,
    /// The statement needs a transaction block.
    NoActiveTransaction,
    /// The statement cannot run inside a transaction block.
    ActiveTransaction,
    /// A prepared statement does not exist.
    UndefinedPreparedStatement,
    /// A prepared statement exists already.
    DuplicatePreparedStatement,
    /// A portal does not exist.
    UndefinedPortal,
    /// A savepoint does not exist.
    UndefinedSavepoint,
    /// The database is not served.
    UndefinedDatabase,
    /// The client may not connect.
    InvalidAuthorization,
    /// The client could not prove who it is.
    InvalidPassword,
    /// The role may not do this.
    InsufficientPrivilege,
    /// Text is not valid in its encoding.
    InvalidEncoding,
    /// The text cannot be read as a value of its type.
    InvalidTextRepresentation,
    /// A number does not fit its type.
    NumericOutOfRange,
    /// LIMIT is negative.
    InvalidRowCountInLimit,
    /// OFFSET is negative.
    InvalidRowCountInOffset,
    /// A COPY row or a Bind message has the wrong number of fields.
    BadCopyFormat,
    /// A sequence has no more values.
    SequenceExhausted,
    /// The statement is not understood.
    SyntaxError,
    /// A table, setting or other thing named in an admin command does not exist.
    UndefinedObject,
    /// A parameter or setting has a wrong value.
    InvalidParameterValue,
    /// The operation waits for something else to be done first.
    PrerequisiteMissing,
    /// The proxy is shutting down.
    ShuttingDown,
    /// The statement was cancelled on the client's request.
    QueryCanceled,
    /// A defect of Ostrakon.
    Internal,
}

/// What the table says of one [`ErrorId`].
#[derive(Clone, Copy, Debug)]
pub struct ErrorSpec {
    /// Stable name, for logs and documentation.
    pub name: &'static str,
    /// Five characters, PostgreSQL's or SQL's own.
    pub sqlstate: &'static str,
    /// Who has to act.
    pub blame: Blame,
    /// Whether to send it again.
    pub retry: Retry,
}

impl ErrorId {
    /// The row of the table.
    pub fn spec(self) -> ErrorSpec {
        use Blame::{Client, Network, Operator, Ostrakon, Postgres};
        use Retry::{Safe, Unknown, Useless};
        let (name, sqlstate, blame, retry) = match self {
            Self::ProtocolViolation => ("protocol_violation", "08P01", Client, Useless),
            Self::ShardUnreachable => ("shard_unreachable", "08006", Network, Safe),
            Self::StatementCompletionUnknown => ("statement_completion_unknown", "40003", Network, Unknown),
            Self::CommitOutcomeUnknown => ("commit_outcome_unknown", "08007", Network, Unknown),
            Self::NotSupportedAcrossShards => ("not_supported_across_shards", "0A000", Client, Useless),
            Self::FeatureNotSupported => ("feature_not_supported", "0A000", Client, Useless),
            Self::ShardingKeyMissing => ("sharding_key_missing", "22004", Client, Useless),
            Self::TopologyMoved => ("topology_moved", "40001", Ostrakon, Safe),
            Self::DistributedCommitFailed => ("distributed_commit_failed", "40001", Postgres, Safe),
            Self::PrimaryReplaced => ("primary_replaced", "40001", Postgres, Safe),
            Self::DeadlockDetected => ("deadlock_detected", "40P01", Client, Safe),
            Self::FailoverInProgress => ("failover_in_progress", "57P03", Postgres, Safe),
            Self::PoolTimeout => ("pool_timeout", "53300", Operator, Safe),
            Self::TooManyClients => ("too_many_clients", "53300", Operator, Safe),
            Self::MergeBudgetExceeded => ("merge_budget_exceeded", "53200", Client, Useless),
            Self::LimitExceeded => ("limit_exceeded", "54000", Client, Useless),
            Self::InFailedTransaction => ("in_failed_transaction", "25P02", Client, Useless),
            Self::IdleInTransaction => ("idle_in_transaction", "25P03", Client, Safe),
            Self::NoActiveTransaction => ("no_active_transaction", "25P01", Client, Useless),
            Self::ActiveTransaction => ("active_transaction", "25001", Client, Useless),
            Self::UndefinedPreparedStatement => ("undefined_prepared_statement", "26000", Client, Useless),
            Self::DuplicatePreparedStatement => ("duplicate_prepared_statement", "42P05", Client, Useless),
            Self::UndefinedPortal => ("undefined_portal", "34000", Client, Useless),
            Self::UndefinedSavepoint => ("undefined_savepoint", "3B001", Client, Useless),
            Self::UndefinedDatabase => ("undefined_database", "3D000", Client, Useless),
            Self::InvalidAuthorization => ("invalid_authorization", "28000", Client, Useless),
            Self::InvalidPassword => ("invalid_password", "28P01", Client, Useless),
            Self::InsufficientPrivilege => ("insufficient_privilege", "42501", Client, Useless),
            Self::InvalidEncoding => ("invalid_encoding", "22021", Client, Useless),
            Self::InvalidTextRepresentation => ("invalid_text_representation", "22P02", Client, Useless),
            Self::NumericOutOfRange => ("numeric_out_of_range", "22003", Client, Useless),
            Self::InvalidRowCountInLimit => ("invalid_row_count_in_limit", "2201W", Client, Useless),
            Self::InvalidRowCountInOffset => ("invalid_row_count_in_offset", "2201X", Client, Useless),
            Self::BadCopyFormat => ("bad_copy_format", "22P04", Client, Useless),
            Self::SequenceExhausted => ("sequence_generator_limit_exceeded", "2200H", Client, Useless),
            Self::SyntaxError => ("syntax_error", "42601", Client, Useless),
            Self::UndefinedObject => ("undefined_object", "42704", Client, Useless),
            Self::InvalidParameterValue => ("invalid_parameter_value", "22023", Client, Useless),
            Self::PrerequisiteMissing => ("prerequisite_missing", "55000", Operator, Safe),
            Self::ShuttingDown => ("shutting_down", "57P01", Operator, Safe),
            Self::QueryCanceled => ("query_canceled", "57014", Client, Safe),
            Self::Internal => ("internal", "XX000", Ostrakon, Unknown),
        };
        ErrorSpec { name, sqlstate, blame, retry }
    }
}

/// An error of Ostrakon's own as the client sees it: PostgreSQL's fields, PostgreSQL's style.
///
/// # Invariants
/// The text holds no SQL literals and no secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientError {
    /// The row of the table.
    pub id: ErrorId,
    /// Primary text: lower case, no full stop.
    pub message: String,
    /// A sentence.
    pub detail: Option<String>,
    /// An action.
    pub hint: Option<String>,
}

impl ClientError {
    /// An error with its primary text only.
    pub fn new(id: ErrorId, message: impl Into<String>) -> Self {
        Self { id, message: message.into(), detail: None, hint: None }
    }

    /// A refusal: the statement cannot be proved right across shards; the hint says what to do.
    pub fn refused(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(ErrorId::NotSupportedAcrossShards, message).with_hint(hint)
    }

    /// Adds DETAIL.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds HINT.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The SQLSTATE of the error's id.
    pub fn sqlstate(&self) -> &'static str {
        self.id.spec().sqlstate
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.message, self.sqlstate())
    }
}

impl std::error::Error for ClientError {}
