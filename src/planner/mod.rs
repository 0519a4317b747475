//! Statement + topology + schema -> plan or refusal; plan + values -> shards.
//!
//! A statement goes to one shard only when every row source that holds sharded rows is shown to be restricted to that
//! shard's keys; it goes to several only when their answers can be put together to what one PostgreSQL would say.
//! Everything else is refused, with what to do instead. With one shard in the topology every statement is forwarded
//! as it is, and PostgreSQL's own sequences serve; a second shard turns on the proxy's.
//!
//! A plan is made for a fingerprint: making it reads no value of a lifted literal, only its place (see
//! [`crate::sql::fingerprint`]). Must not know: connections, the protocol's state, how rows are merged.

mod arrays;
pub mod bind;
mod builtins;
mod calls;
mod copy;
mod ddl;
mod do_block;
mod env;
mod forward;
mod functions;
mod gather;
mod gather_filter;
mod gather_groups;
mod gather_partial;
mod insert;
mod insert_rows;
mod insert_select;
mod merge_aggregate;
mod merge_expr;
mod merge_into;
mod merge_rows;
mod move_rows;
mod names;
mod place;
mod predicate;
mod queries_first;
mod reads;
mod relocate;
pub mod rewrite;
mod route;
mod schema_check;
mod scope;
mod select;
mod select_facts;
pub mod sequences;
mod temporary;
mod touch;
mod views;
mod visit;
mod walk;
mod walk_finish;
mod walk_from;
mod write;

use crate::error::{ClientError, ErrorId};
use crate::plan::{Class, KeyTuple, Plan, Route, Several};
use crate::sql::Lexed;
use crate::sql::ast::{ObjectName, Query, Statement};
use crate::topology::Topology;
use crate::topology::schema::Schema;

pub use arrays::array_type_of;
pub use bind::{
    BindError, Bound, BoundShards, ParamValue, Unreadable, Values, bind, is_stored_as_given, missing_key, read_filled,
    read_param,
};
pub use ddl::indexed_relation as indexed_table;
pub use functions::may_leave_something;
pub use queries_first::splices as inner_query_splices;
pub use reads::only_reads;
pub use schema_check::{check_placed, check_schema, names_unknown_relation, read_by_position};
pub use touch::{fills_key, touch, writes_by_itself};

/// Names of statements that PostgreSQL takes in transaction blocks only, as its error says them.
const LOCK: &str = "LOCK TABLE";
const DECLARE: &str = "DECLARE CURSOR";

/// What a plan is made from, beside the statement.
#[derive(Clone, Copy, Debug)]
pub struct Context<'c> {
    /// The cluster.
    pub topology: &'c Topology,
    /// The servers' catalog.
    pub schema: &'c Schema,
    /// Schemas of the session's `search_path` in order, `"$user"` already replaced.
    pub search_path: &'c [String],
    /// The text that the tokens are of.
    pub text: &'c str,
}

/// A [`Context`] with the statement's tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'c> {
    topology: &'c Topology,
    schema: &'c Schema,
    search_path: &'c [String],
    text: &'c str,
    lexed: &'c Lexed,
}

impl<'c> Subject<'c> {
    fn new(context: &Context<'c>, lexed: &'c Lexed) -> Self {
        let Context { topology, schema, search_path, text } = *context;
        Self { topology, schema, search_path, text, lexed }
    }

    /// The text of one token.
    fn token(&self, index: usize) -> &'c str {
        self.lexed.tokens.get(index).and_then(|token| self.text.get(token.start..token.end)).unwrap_or_default()
    }

    /// True when some text column anywhere compares otherwise than by its bytes' equality.
    fn has_nondeterministic_collation(&self) -> bool {
        self.schema
            .relations
            .values()
            .any(|relation| relation.columns.iter().any(|column| !column.collation_is_deterministic))
    }
}

/// Plans one statement. Transaction control, SET, SHOW, PREPARE and their like are the executor's own.
///
/// # Errors
/// A refusal (0A000) that says what to do, or a sharding key that is missing (22004). Nothing has run.
pub fn plan(context: &Context<'_>, lexed: &Lexed, statement: &Statement) -> Result<Plan, ClientError> {
    let subject = Subject::new(context, lexed);
    if context.topology.shards.len() <= 1 {
        return Ok(forward::plan(&subject, statement));
    }
    let mut plan = plan_across(context, &subject, lexed, statement)?;
    plan.sequences = sequences::used_by(&subject, statement, &plan);
    Ok(plan)
}

/// As [`plan`], with several shards.
fn plan_across(
    context: &Context<'_>,
    subject: &Subject<'_>,
    lexed: &Lexed,
    statement: &Statement,
) -> Result<Plan, ClientError> {
    let Some(expanded) = views::expand(subject, statement)? else {
        return plan_tables(context, subject, lexed, statement);
    };
    let inner = Context { text: &expanded.text, ..*context };
    let plan = plan_tables(&inner, &Subject::new(&inner, &expanded.lexed), &expanded.lexed, &expanded.statement)?;
    let relocation = relocate::Relocation {
        text: &expanded.text,
        lexed: &expanded.lexed,
        literals: lexed.literals.len(),
        expansions: &expanded.expansions,
    };
    let plan = relocation.plan(expanded.check(plan)?);
    plan.ok_or_else(|| {
        ClientError::refused(
            "this use of a view over sharded tables is not supported across shards",
            "Write the view's query into the statement.",
        )
    })
}

/// As [`plan_across`], of tables and of views that are each on one shard or everywhere.
fn plan_tables(
    context: &Context<'_>,
    subject: &Subject<'_>,
    lexed: &Lexed,
    statement: &Statement,
) -> Result<Plan, ClientError> {
    match statement {
        Statement::Query(query) => match temporary::plan_into(subject, statement, query) {
            Some(plan) => plan,
            None => select::plan(subject, statement, query),
        },
        Statement::Insert(insert) => {
            queries_first::or_plan(subject, statement, insert::plan(subject, statement, insert))
        }
        Statement::Update(update) => {
            queries_first::or_plan(subject, statement, write::plan_update(subject, statement, update))
        }
        Statement::Delete(delete) => {
            queries_first::or_plan(subject, statement, write::plan_delete(subject, statement, delete))
        }
        Statement::Merge(merge) => write::plan_merge(subject, statement, merge),
        Statement::Copy(copy) => copy::plan(subject, statement, copy),
        Statement::Truncate(tables) => match temporary::plan_tables(subject, tables) {
            Some(plan) => plan,
            None => ddl::plan_truncate(subject, tables),
        },
        Statement::Lock(tables) => match temporary::plan_tables(subject, tables) {
            Some(plan) => plan.map(|plan| Plan { inside_transaction: Some(LOCK), ..plan }),
            None => ddl::plan_lock(subject, tables),
        },
        Statement::Ddl(ddl) => match temporary::plan_ddl(subject, statement, ddl) {
            Some(plan) => plan,
            None => ddl::plan(subject, ddl),
        },
        Statement::Declare { query, hold } => plan_declare(subject, statement, query, *hold),
        Statement::Explain { analyze, statement, tokens, .. } => {
            plan_explain(context, lexed, *analyze, statement, tokens.start)
        }
        Statement::Call(_) => Err(refuse_code("CALL")),
        Statement::Do => do_block::plan(subject),
        Statement::Other(word) => Err(ClientError::refused(
            format!("{word} is not supported across shards"),
            "Connect to a shard directly to run it there.",
        )),
        _ => Err(ClientError::new(ErrorId::Internal, "the planner was asked for a statement of the session")),
    }
}

/// Plans a statement that has no tree.
///
/// # Errors
/// With several shards: nothing can be proved about it.
pub fn plan_unparsed(context: &Context<'_>, lexed: &Lexed) -> Result<Plan, ClientError> {
    if context.topology.shards.len() <= 1 {
        return Ok(forward::unparsed(&Subject::new(context, lexed)));
    }
    Err(ClientError::refused(
        "statement is not understood well enough to route it",
        "Use simpler syntax for this statement; with one shard it would be sent as it is.",
    ))
}

/// One of PostgreSQL's own functions that depends on its arguments or the clock only.
pub fn is_plain_function(name: &str) -> bool {
    let name = ObjectName { schema: Some("pg_catalog".to_owned()), name: name.to_owned() };
    let kind = functions::kind(&Schema::default(), &name);
    matches!(kind, functions::Kind::Plain | functions::Kind::Time | functions::Kind::RowLocal)
}

fn refuse_code(what: &str) -> ClientError {
    ClientError::refused(
        format!("{what} is not supported across shards"),
        "The code may read or write any table: send its statements from the application.",
    )
}

/// A cursor stays on the shard that has it; over several shards it is one over gathered rows.
fn plan_declare(subject: &Subject<'_>, statement: &Statement, query: &Query, hold: bool) -> Result<Plan, ClientError> {
    let mut plan = select::plan(subject, statement, query)?;
    plan.inside_transaction = (!hold).then_some(DECLARE);
    if let Several::Gather(gather) | Several::Merge { otherwise: Some(gather), .. } = plan.several {
        plan.several = Several::Gather(gather);
        return Ok(plan);
    }
    only_one_shard(
        plan,
        ClientError::refused(
            "a cursor over several shards is not supported",
            "Restrict the cursor's query to one sharding key, or page through it with ORDER BY and LIMIT.",
        ),
    )
}

fn plan_explain(
    context: &Context<'_>,
    lexed: &Lexed,
    analyze: bool,
    statement: &Statement,
    start: usize,
) -> Result<Plan, ClientError> {
    let refusal = ClientError::refused(
        "EXPLAIN of a statement that needs several shards is not supported",
        "Use EXPLAIN (OSTRAKON) to see the shards and the plan.",
    );
    if !matches!(
        statement,
        Statement::Query(_)
            | Statement::Insert(_)
            | Statement::Update(_)
            | Statement::Delete(_)
            | Statement::Merge(_)
            | Statement::Declare { .. }
            | Statement::Ddl(_)
    ) {
        // Whatever else PostgreSQL has no EXPLAIN of is the session's, and has no plan.
        return Err(ClientError::refused(
            "EXPLAIN of this kind of statement is not supported across shards",
            "Explain a SELECT, INSERT, UPDATE or DELETE.",
        ));
    }
    let mut plan = plan(context, lexed, statement)?;
    plan.inside_transaction = None;
    if let Some(insert) = plan.insert.take() {
        let keys: Vec<_> = insert.rows.iter().map(|row| crate::plan::KeyTuple { parts: row.key.clone() }).collect();
        let has_key = keys.iter().all(|key| !key.parts.is_empty());
        if analyze || !insert.fills.is_empty() || plan.route == Route::ByRow && !has_key {
            return Err(refusal);
        }
        if plan.route == Route::ByRow {
            plan.route = Route::Keys(keys);
        }
    }
    if !analyze {
        plan.class = Class::Read;
        plan.changes_schema = false;
    }
    match plan.several {
        Several::Merge { splices, merge, .. } if plan.class == Class::Read => {
            plan.several = Several::ExplainMerge { splices, merge };
            if (0..start).any(|at| is_other_format(context.text, lexed, at)) {
                let refusal = ClientError::refused(
                    "EXPLAIN of a statement that needs several shards is shown as text only",
                    "Leave FORMAT out.",
                );
                return only_one_shard(plan, refusal);
            }
            Ok(plan)
        }
        _ => only_one_shard(plan, refusal),
    }
}

/// FORMAT of something else than text.
fn is_other_format(text: &str, lexed: &Lexed, at: usize) -> bool {
    lexed.is_keyword(text, at, "format") && !lexed.is_keyword(text, at + 1, "text")
}

/// A plan that says where one key belongs.
pub fn plan_of_key(key: KeyTuple) -> Plan {
    let refusal = ClientError::new(ErrorId::Internal, "one key has one shard");
    write::write_plan(Route::Keys(vec![key]), Several::Refuse(refusal), "one key".to_owned())
}

/// Keeps a plan only if it needs one shard; several keys may still turn out to be of one shard.
fn only_one_shard(mut plan: Plan, refusal: ClientError) -> Result<Plan, ClientError> {
    match plan.route {
        Route::Any | Route::Shard(_) | Route::Keys(_) => {
            plan.several = Several::Refuse(refusal);
            Ok(plan)
        }
        Route::All | Route::ByRow => Err(refusal),
    }
}
