//! Views over sharded tables: a statement is proved with their definitions in their places, and sent with their names.
//!
//! The definitions stand in a copy of the text, so that everything that is proved, spliced or gathered sees the tables;
//! [`relocate`](super::relocate) brings the plan back to the client's text. A materialized view holds on each shard
//! what that shard's rows make, so that the same proof holds for it; its tables are never read in its place.

use std::sync::Arc;

use super::Subject;
use super::calls::Calls;
use super::env::Env;
use super::place::{self, Place};
use super::relocate::Expansion;
use super::rewrite::quoted;
use super::visit;
use super::walk::{Mode, Walk};
use crate::error::ClientError;
use crate::plan::{Plan, Several, Steps};
use crate::sql::ast::{
    Distinct, Expr, Insert, ObjectName, Query, SelectItemKind, SetExpr, Statement, TableRef, TokenRange,
};
use crate::sql::walk::{self, Visitor};
use crate::sql::{Lexed, Token, TokenKind, lexer, parse};
use crate::topology::schema::{Relation, RelationKind, Schema, ViewDefinition};
use crate::topology::{Placement, Topology};

/// A statement with definitions in the places of views.
pub struct Expanded {
    /// Its text.
    pub text: String,
    /// Its tokens; the client's literals come first, with the numbers that they have there.
    pub lexed: Lexed,
    /// The statement.
    pub statement: Statement,
    /// What stands where, in order.
    pub expansions: Vec<Expansion>,
    /// Rows of the tables may not be read in the place of a view's.
    keeps_rows: bool,
    /// The view that is written to.
    target: Option<Arc<Relation>>,
}

/// Definitions within definitions, at most.
const DEPTH_MAX: usize = 16;

/// A name in the text and what takes its place.
struct Replacement {
    tokens: TokenRange,
    text: String,
}

/// Names of row sources and of WITH queries.
#[derive(Default)]
struct Seen {
    tables: Vec<(ObjectName, bool, TokenRange)>,
    ctes: Vec<String>,
}

impl Visitor for Seen {
    fn table(&mut self, table: &TableRef) {
        if let TableRef::Table { name, alias, sample: false, tokens } = table
            && !tokens.is_empty()
        {
            self.tables.push((name.clone(), alias.is_some(), tokens.clone()));
        }
    }

    fn query(&mut self, query: &Query) {
        self.ctes.extend(query.with.iter().map(|cte| cte.name.clone()));
    }
}

/// The statement with the definitions of the views over sharded tables that it names; `None`: it names none.
///
/// # Errors
/// A view that cannot be written to.
pub fn expand(subject: &Subject<'_>, statement: &Statement) -> Result<Option<Expanded>, ClientError> {
    let is_read = matches!(
        statement,
        Statement::Query(_)
            | Statement::Insert(_)
            | Statement::Update(_)
            | Statement::Delete(_)
            | Statement::Merge(_)
            | Statement::Copy(_)
            | Statement::Declare { .. }
            | Statement::Explain { .. }
    );
    if !is_read || !subject.schema.relations.values().any(|relation| relation.view.is_some()) {
        return Ok(None);
    }
    let mut keeps_rows = false;
    let mut replacements = replacements(subject, statement, &mut keeps_rows, 0);
    let mut target = None;
    if let Some((view, replacement)) = written(subject, statement)? {
        target = Some(view);
        replacements.push(replacement);
    }
    replacements.sort_by_key(|replacement| replacement.tokens.start);
    if replacements.is_empty() {
        return Ok(None);
    }
    let Some((text, lexed, expansions)) = replaced(subject, &replacements) else { return Ok(None) };
    let Ok(statement) = parse(&text, &lexed) else { return Ok(None) };
    Ok(Some(Expanded { text, lexed, statement, expansions, keeps_rows, target }))
}

impl Expanded {
    /// What the plan may not do because of the views.
    ///
    /// # Errors
    /// A refusal.
    pub fn check(&self, plan: Plan) -> Result<Plan, ClientError> {
        if let Some(target) = &self.target {
            check_written(target, &plan)?;
        }
        let Plan { several, .. } = plan;
        let several = match several {
            Several::Gather(_) if self.keeps_rows => return Err(refuse_gather()),
            Several::Merge { splices, merge, .. } if self.keeps_rows => {
                Several::Merge { splices, merge, otherwise: None }
            }
            several => several,
        };
        Ok(Plan { several, ..plan })
    }
}

fn refuse_gather() -> ClientError {
    ClientError::refused(
        "a materialized view, or a view of a table with row security, whose rows must be put together is not supported across shards",
        "Restrict it to one sharding key, or write the query over the tables themselves.",
    )
}

fn check_written(view: &Relation, plan: &Plan) -> Result<(), ClientError> {
    let is_moved = matches!(&plan.several, Several::Steps(steps) if !matches!(**steps, Steps::QueriesFirst(_)));
    let fills = plan.insert.iter().flat_map(|insert| &insert.fills);
    match fills.into_iter().find(|fill| view.column(&fill.column).is_none()) {
        _ if is_moved => Err(refuse_write(view, "this write needs several steps")),
        Some(fill) => {
            Err(refuse_write(view, &format!("it has no column \"{}\", which has to be filled in", fill.column)))
        }
        None => Ok(()),
    }
}

fn refuse_write(view: &Relation, why: &str) -> ClientError {
    ClientError::refused(
        format!("writing through view \"{}\" this way is not supported across shards: {why}", view.name.name),
        "Write to the view's table itself.",
    )
}

/// True when a query names a sharded table, or a view that reads one.
pub fn reads_sharded(subject: &Subject<'_>, query: &Query) -> bool {
    let mut seen = Seen::default();
    walk::walk_query(&mut seen, query);
    seen.tables.iter().any(|(name, ..)| {
        resolve(subject, name).is_some_and(|relation| {
            definition(subject, relation).is_some() || matches!(place::place(subject, relation), Ok(Place::Sharded(..)))
        })
    })
}

/// The view's definition, when what it reads is sharded.
fn definition<'s>(subject: &Subject<'s>, relation: &'s Relation) -> Option<&'s ViewDefinition> {
    let view = relation.view.as_ref()?;
    let is_sharded = |read: &Arc<Relation>| {
        matches!(read.kind, RelationKind::Table | RelationKind::Partitioned)
            && matches!(subject.schema.placement(subject.topology, read), Placement::Sharded { .. })
    };
    relation.view_reads.iter().filter_map(|read| subject.schema.relations.get(read)).any(is_sharded).then_some(view)
}

fn resolve<'s>(subject: &Subject<'s>, name: &ObjectName) -> Option<&'s Arc<Relation>> {
    if place::is_catalog(subject, name) {
        return None;
    }
    subject.schema.resolve(name.schema.as_deref(), &name.name, subject.search_path)
}

/// What takes the places of the views that are read.
fn replacements(subject: &Subject<'_>, statement: &Statement, keeps_rows: &mut bool, depth: usize) -> Vec<Replacement> {
    let mut seen = Seen::default();
    walk::walk_statement(&mut seen, statement);
    let mut replacements = Vec::new();
    for (name, has_alias, tokens) in seen.tables {
        if name.schema.is_none() && seen.ctes.contains(&name.name) {
            continue;
        }
        let Some(relation) = resolve(subject, &name) else { continue };
        let Some(view) = definition(subject, relation) else { continue };
        let Some(sql) = nested(subject, view, keeps_rows, depth) else { continue };
        *keeps_rows |= view.has_row_security || relation.kind == RelationKind::MaterializedView;
        let mut text = format!("({sql})");
        if !has_alias {
            let columns: Vec<String> = relation.columns.iter().map(|column| quoted(&column.name)).collect();
            text.push_str(&format!(" AS {}({})", quoted(&relation.name.name), columns.join(", ")));
        }
        replacements.push(Replacement { tokens, text });
    }
    replacements
}

/// A definition with those of the views within it.
fn nested(subject: &Subject<'_>, view: &ViewDefinition, keeps_rows: &mut bool, depth: usize) -> Option<String> {
    if depth >= DEPTH_MAX {
        return None;
    }
    let sql = view.sql.trim_end().trim_end_matches(';');
    let lexed = lexer::lex(sql).ok()?;
    let statement = parse(sql, &lexed).ok()?;
    // Names in it are written with their schemas.
    let inner = Subject { text: sql, lexed: &lexed, search_path: &[], ..*subject };
    let mut replacements = replacements(&inner, &statement, keeps_rows, depth + 1);
    replacements.sort_by_key(|replacement| replacement.tokens.start);
    replaced(&inner, &replacements).map(|(text, ..)| text)
}

/// The text with its replacements, its tokens, and where the replacements stand.
fn replaced(subject: &Subject<'_>, replacements: &[Replacement]) -> Option<(String, Lexed, Vec<Expansion>)> {
    let old = subject.lexed;
    let mut text = String::with_capacity(subject.text.len() * 2);
    let mut lexed = Lexed { tokens: Vec::new(), literals: old.literals.clone() };
    let mut expansions = Vec::new();
    let (mut at, mut byte) = (0, 0);
    for Replacement { tokens, text: with } in replacements {
        if tokens.start < at {
            return None;
        }
        let (first, last) = (old.tokens.get(tokens.start)?, old.tokens.get(tokens.end.checked_sub(1)?)?);
        shift(old.tokens.get(at..tokens.start)?, byte, text.len(), 0, &mut lexed.tokens);
        text.push_str(subject.text.get(byte..first.start)?);
        let start = lexed.tokens.len();
        let own = lexer::lex(with).ok()?;
        shift(&own.tokens, 0, text.len(), lexed.literals.len(), &mut lexed.tokens);
        lexed.literals.extend(own.literals);
        text.push_str(with);
        expansions.push(Expansion { new: start..lexed.tokens.len(), old: tokens.clone() });
        (at, byte) = (tokens.end, last.end);
    }
    shift(old.tokens.get(at..)?, byte, text.len(), 0, &mut lexed.tokens);
    text.push_str(subject.text.get(byte..)?);
    Some((text, lexed, expansions))
}

/// Tokens that begin at another byte, and whose literals have other numbers.
fn shift(tokens: &[Token], from: usize, to: usize, literals: usize, shifted: &mut Vec<Token>) {
    shifted.extend(tokens.iter().map(|token| Token {
        kind: match token.kind {
            TokenKind::Literal(index) => TokenKind::Literal(index + literals),
            kind => kind,
        },
        start: token.start + to - from,
        end: token.end + to - from,
    }));
}

/// The view that the statement writes to, and its table in its place.
fn written(subject: &Subject<'_>, statement: &Statement) -> Result<Option<(Arc<Relation>, Replacement)>, ClientError> {
    let (name, has_alias, at) = match statement {
        Statement::Insert(insert) => (&insert.table, insert.alias.is_some(), insert.insert_token + 2),
        Statement::Update(update) => {
            (&update.table, update.alias.is_some(), update.tokens.update + 1 + usize::from(update.tokens.only))
        }
        Statement::Delete(delete) => match delete_target(subject, &delete.table) {
            Some(at) => (&delete.table, delete.alias.is_some(), at),
            None => return Ok(None),
        },
        Statement::Explain { statement, .. } => return written(subject, statement),
        _ => return Ok(None),
    };
    let Some(view) = resolve(subject, name).filter(|relation| relation.kind == RelationKind::View) else {
        return Ok(None);
    };
    let is_single = matches!(place::resolve(subject, name), Ok(Place::Single(..)));
    if view.view.is_none() || is_single {
        return Ok(None);
    }
    let table = table_of(subject, view, 0)?;
    if let Statement::Insert(insert) = statement {
        check_columns(view, &table, insert)?;
    }
    let mut end = at + 1;
    while subject.token(end) == "." {
        end += 2;
    }
    if subject.lexed.identifier(subject.text, end - 1).as_deref() != Some(name.name.as_str()) {
        return Err(refuse_write(view, "its name is not where it is looked for"));
    }
    let mut text = format!("{}.{}", quoted(&table.name.schema), quoted(&table.name.name));
    if !has_alias {
        text.push_str(&format!(" AS {}", quoted(&view.name.name)));
    }
    Ok(Some((Arc::clone(view), Replacement { tokens: at..end, text })))
}

/// Where the name of a DELETE's target stands: behind the first DELETE FROM that is in no parentheses.
fn delete_target(subject: &Subject<'_>, name: &ObjectName) -> Option<usize> {
    let mut depth = 0usize;
    for at in 0..subject.lexed.tokens.len() {
        match subject.token(at) {
            "(" => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            _ if depth == 0 && subject.lexed.are_keywords(subject.text, at, &["delete", "from"]) => {
                let only = usize::from(subject.lexed.is_keyword(subject.text, at + 2, "only") && name.name != "only");
                return Some(at + 2 + only);
            }
            _ => {}
        }
    }
    None
}

/// Without a list, values go to the view's columns in their order.
fn check_columns(view: &Relation, table: &Relation, insert: &Insert) -> Result<(), ClientError> {
    let is_same = view.columns.iter().zip(&table.columns).all(|(view, table)| view.name == table.name);
    if insert.columns.is_empty() && (!is_same || view.columns.len() > table.columns.len()) {
        return Err(ClientError::refused(
            format!("INSERT into view \"{}\" without a column list is not supported across shards", view.name.name),
            "Name the columns.",
        ));
    }
    Ok(())
}

/// The table that rows of an updatable view are in, when each of its columns is the table's of that name.
fn table_of(subject: &Subject<'_>, view: &Arc<Relation>, depth: usize) -> Result<Arc<Relation>, ClientError> {
    let refuse = |why: &str| refuse_write(view, why);
    if view.kind != RelationKind::View {
        return Ok(Arc::clone(view));
    }
    if view.has_triggers {
        return Err(refuse("it has triggers or rules"));
    }
    let unknown = || refuse("its definition is not known");
    let sql =
        view.view.as_ref().filter(|_| depth < DEPTH_MAX).ok_or_else(unknown)?.sql.trim_end().trim_end_matches(';');
    let lexed = lexer::lex(sql).map_err(|_| unknown())?;
    let statement = parse(sql, &lexed).map_err(|_| unknown())?;
    let inner = Subject { text: sql, lexed: &lexed, search_path: &[], ..*subject };
    let Statement::Query(query) = &statement else { return Err(unknown()) };
    let SetExpr::Select(select) = &query.body else {
        return Err(refuse("it is no plain selection of one table's rows"));
    };
    let is_plain = query.with.is_empty()
        && query.limit.is_none()
        && query.offset.is_none()
        && select.distinct == Distinct::No
        && select.group_by.is_empty()
        && select.having.is_none();
    let [TableRef::Table { name, alias, sample: false, .. }] = select.from.as_slice() else {
        return Err(refuse("it is no plain selection of one table's rows"));
    };
    if !is_plain || alias.as_ref().is_some_and(|alias| !alias.columns.is_empty()) {
        return Err(refuse("it is no plain selection of one table's rows"));
    }
    let table = match resolve(&inner, name) {
        Some(relation) => table_of(&inner, relation, depth + 1)?,
        None => return Err(unknown()),
    };
    for (item, column) in select.items.iter().zip(&view.columns) {
        let is_own =
            matches!(&item.kind, SelectItemKind::Expr { expr: Expr::Column { name, .. }, .. } if *name == column.name);
        if !is_own && table.column(&column.name).is_some() {
            return Err(refuse(&format!("its column \"{}\" is another than the table's", column.name)));
        }
    }
    let calls = Calls::of(&inner, &statement);
    let is_open = calls.user.or(calls.by_text).or(calls.sequence).or(calls.remembered).or(calls.node_local);
    if is_open.is_some() || select.selection.as_ref().is_some_and(visit::has_query) {
        return Err(refuse("its condition asks for more than the row"));
    }
    Ok(table)
}

/// Checks that each shard's part of a materialized view is made of that shard's rows.
///
/// # Errors
/// A refusal that says what to do.
pub fn check_materialized(topology: &Topology, schema: &Schema, relation: &Relation) -> Result<(), ClientError> {
    let refuse = |why: &str| {
        Err(ClientError::refused(
            format!("materialized view \"{}\" is not what each shard makes of its own rows: {why}", relation.name.name),
            "Select the sharding key and group by it, or use a table that the application fills.",
        ))
    };
    let mut keeps_rows = false;
    let outer = Lexed::default();
    let subject = Subject { topology, schema, search_path: &[], text: "", lexed: &outer };
    let Some(sql) = relation.view.as_ref().and_then(|view| nested(&subject, view, &mut keeps_rows, 0)) else {
        return refuse("its definition is not known");
    };
    let Ok(lexed) = lexer::lex(&sql) else { return refuse("its definition is not understood") };
    let Ok(statement) = parse(&sql, &lexed) else { return refuse("its definition is not understood") };
    let Statement::Query(query) = &statement else { return refuse("its definition is not understood") };
    let subject = Subject { text: &sql, lexed: &lexed, ..subject };
    let mut walk = Walk::new(&subject);
    Calls::of(&subject, &statement).apply(&subject, &mut walk)?;
    walk.query(query, None, &Env::default(), Mode::Plain, &Default::default());
    match walk.route() {
        Err(refusal) => refuse(&refusal.message),
        Ok(_) => match walk.trouble {
            Some(trouble) => refuse(&trouble.message),
            None => Ok(()),
        },
    }
}
