//! PREPARE and EXECUTE as statements: they share their names with the protocol's own, and run as it does.

use std::sync::Arc;

use bytes::Bytes;

use super::link::failure_of;
use super::relay::{Done, FirstError};
use super::statement::Mode;
use super::told::stale;
use super::{Failure, Session, places, shard_name};
use crate::base::ShardId;
use crate::error::{ClientError, ErrorId};
use crate::net::Framed;
use crate::session::columns::FIRST_USER_TYPE;
use crate::session::prepared;
use crate::session::sql_prepare::{self, Argument};
use crate::session::{Columns, Parsed, PreparedStatement, Told};
use crate::sql::ast::{Statement, TokenRange};
use crate::wire::client_message::{self, Bind, Target};
use crate::wire::frame::Frame;
use crate::wire::server_message::{self, tag};

/// What a server says of a statement.
pub(super) struct Described {
    /// Types of its parameters.
    pub(super) types: Vec<u32>,
    /// RowDescription or NoData.
    pub(super) columns: Option<Frame>,
}

impl Described {
    fn columns(&self) -> Columns {
        self.columns
            .as_ref()
            .map_or_else(|| Columns::read(tag::NO_DATA, &[]), |frame| Columns::read(frame.tag, &frame.body()))
    }
}

impl Session {
    /// PREPARE: a server judges the text, the session keeps it.
    ///
    /// # Errors
    /// PostgreSQL's; 42P05 when the name is taken.
    pub(super) async fn run_prepare(&mut self, client: &mut Framed, parsed: &Parsed) -> Result<Done, Failure> {
        let Some(prepare) = sql_prepare::read_prepare(&parsed.text, &parsed.lexed) else {
            return Err(self.refuse(client, parsed, &[], not_understood("PREPARE")).await);
        };
        let body = self.understand(&prepare.body)?;
        if !can_be_prepared(&body) {
            return Err(self.refuse(client, parsed, &[], not_understood("PREPARE")).await);
        }
        if self.statements.get(&prepare.name).is_ok() {
            return Err(prepared::already_exists(&prepare.name).into());
        }
        let declared = self.type_numbers(client, &prepare.types).await?;
        let shard = self.any_shard();
        let start = prepare.body_start;
        let described = self.describe_text(client, shard, &body.text, &declared).await;
        let described = described.map_err(|failure| places::behind(failure, &parsed.text, start))?;
        let parameter_types = described
            .types
            .iter()
            .map(|number| if *number < FIRST_USER_TYPE { *number } else { 0 })
            .collect::<Vec<u32>>();
        let id = self.statement_id(&body, &parameter_types);
        let told = Told::default();
        told.note(described.columns(), Some(described.types), self.schema_stamp(), shard);
        let statement = PreparedStatement { id, parsed: Arc::new(body), parameter_types, told };
        self.statements.insert(&prepare.name, Arc::new(statement))?;
        Ok(Done::with_tag("PREPARE"))
    }

    /// EXECUTE: the statement runs as by the extended protocol, with values as text.
    ///
    /// # Errors
    /// 26000 for an unknown name, 42601 for a wrong number of values, 0A000 for values that are no constants.
    pub(super) async fn run_execute(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        mode: Mode<'_>,
    ) -> Result<Done, Failure> {
        let (statement, bind) = self.executed(client, parsed, mode).await?;
        let describe = match mode {
            Mode::Simple => returns_rows(&statement.parsed),
            Mode::Extended { describe, .. } => describe,
        };
        let mode = Mode::Extended { bind: &bind, types: &statement.parameter_types, describe };
        Box::pin(self.run(client, &statement.parsed, mode)).await
    }

    /// EXPLAIN of EXECUTE, `tokens`: of the statement that it names, with its values.
    ///
    /// # Errors
    /// Those of EXECUTE and of EXPLAIN.
    pub(super) async fn run_explain_execute(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        tokens: TokenRange,
        mode: Mode<'_>,
    ) -> Result<Done, Failure> {
        let (head, execute) = self.explained_execute(parsed, &tokens)?;
        let (statement, bind) = self.executed(client, &execute, mode).await?;
        let explained = self.understand(&format!("{head}{}", statement.parsed.text))?;
        let mode = Mode::Extended { bind: &bind, types: &statement.parameter_types, describe: mode.describes() };
        Box::pin(self.run(client, &explained, mode)).await
    }

    /// The text before an explained EXECUTE, and that statement by itself.
    fn explained_execute<'a>(&self, parsed: &'a Parsed, tokens: &TokenRange) -> Result<(&'a str, Parsed), ClientError> {
        let start = parsed.lexed.tokens.get(tokens.start).map_or(parsed.text.len(), |token| token.start);
        let (head, execute) = parsed.text.split_at_checked(start).unwrap_or((&parsed.text, ""));
        Ok((head, self.understand(execute)?))
    }

    /// The statement that an EXECUTE names, and the values that it gives.
    pub(super) async fn executed(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        mode: Mode<'_>,
    ) -> Result<(Arc<PreparedStatement>, Bind), Failure> {
        let Some(execute) = sql_prepare::read_execute(&parsed.text, &parsed.lexed) else {
            return Err(self.refuse(client, parsed, &[], not_understood("EXECUTE")).await);
        };
        let statement = self.statements.get(&execute.name)?;
        let expected = sql_prepare::parameter_count(&statement.parsed.lexed).max(statement.parameter_types.len());
        if expected != execute.arguments.len() {
            return Err(ClientError::new(
                ErrorId::SyntaxError,
                format!("wrong number of parameters for prepared statement \"{}\"", execute.name),
            )
            .with_detail(format!("Expected {expected} parameters but got {}.", execute.arguments.len()))
            .into());
        }
        self.look_at_text(client, &statement).await?;
        let parameters = self.values_of(client, &statement, &execute.arguments).await?;
        let result_formats = mode.bind().map(|bind| bind.result_formats.clone()).unwrap_or_default();
        let bind = Bind {
            portal: String::new(),
            statement: String::new(),
            parameter_formats: Vec::new(),
            parameters,
            result_formats,
        };
        Ok((statement, bind))
    }

    /// RowDescription or NoData of what an EXECUTE, or EXPLAIN of one, will answer.
    pub(super) async fn describe_execute(&mut self, client: &mut Framed, parsed: &Parsed) -> Result<Frame, Failure> {
        let execute;
        let (head, parsed) = match &*parsed.statement {
            Ok(Statement::Explain { tokens, .. }) => {
                let (head, inner) = self.explained_execute(parsed, tokens)?;
                execute = inner;
                (head, &execute)
            }
            _ => ("", parsed),
        };
        let name = sql_prepare::read_execute(&parsed.text, &parsed.lexed).map(|execute| execute.name);
        let statement = self.statements.get(&name.unwrap_or_default())?;
        self.look_at_text(client, &statement).await?;
        let text = format!("{head}{}", statement.parsed.text);
        let shard = self.any_shard();
        let described = self.describe_text(client, shard, &text, &statement.parameter_types).await?;
        described.columns.ok_or_else(|| ClientError::new(ErrorId::Internal, "a statement was not described").into())
    }

    async fn values_of(
        &mut self,
        client: &mut Framed,
        statement: &PreparedStatement,
        arguments: &[Argument],
    ) -> Result<Vec<Option<Bytes>>, Failure> {
        let mut values = Vec::with_capacity(arguments.len());
        for (index, argument) in arguments.iter().enumerate() {
            let value = match argument {
                Argument::Null => None,
                Argument::Value(text) if !text.is_ascii() && !self.encoding.is_utf8() => {
                    return Err(self.beyond_encoding("a value of EXECUTE").into());
                }
                Argument::Value(text) => Some(Bytes::copy_from_slice(text.as_bytes())),
                Argument::Constant(expression) => self.computed(client, statement, index, expression).await?,
                Argument::Other => {
                    return Err(ClientError::new(
                        ErrorId::FeatureNotSupported,
                        "EXECUTE with a value that is no constant is not supported through the proxy",
                    )
                    .with_hint("Give literals, or use the driver's prepared statements.")
                    .into());
                }
            };
            values.push(value);
        }
        Ok(values)
    }

    /// A constant that is more than a literal, as a server reads it for the parameter's type.
    async fn computed(
        &mut self,
        client: &mut Framed,
        statement: &PreparedStatement,
        index: usize,
        expression: &str,
    ) -> Result<Option<Bytes>, Failure> {
        let type_number = statement.parameter_types.get(index).copied().unwrap_or(0);
        let as_type = if type_number == 0 {
            String::new()
        } else {
            let name = self.ask_any(client, &format!("SELECT pg_catalog.format_type({type_number}, NULL)")).await?;
            format!("::{name}")
        };
        let sql = format!(
            "SELECT CASE WHEN v IS NULL THEN 'n' ELSE 'v' || v::pg_catalog.text END FROM (SELECT ({expression}){as_type}) s(v)"
        );
        let answer = self.ask_any(client, &sql).await?;
        Ok(answer.strip_prefix('v').map(|text| Bytes::copy_from_slice(text.as_bytes())))
    }

    /// The numbers of types by name; those of users' types differ between servers and are left open.
    async fn type_numbers(&mut self, client: &mut Framed, names: &[String]) -> Result<Vec<u32>, Failure> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let list: Vec<String> = names
            .iter()
            .map(|name| format!("'{}'::pg_catalog.regtype::pg_catalog.oid", name.replace('\'', "''")))
            .collect();
        let sql = format!("SELECT pg_catalog.array_to_string(ARRAY[{}], ',')", list.join(","));
        let answer = self.ask_any(client, &sql).await?;
        let number = |text: &str| text.parse().ok().filter(|number| *number < FIRST_USER_TYPE).unwrap_or(0);
        Ok(answer.split(',').map(number).collect())
    }

    /// A quiet question to a shard that is at hand.
    pub(super) async fn ask_any(&mut self, client: &mut Framed, sql: &str) -> Result<String, Failure> {
        self.settle(client).await?;
        let shard = self.any_shard();
        let was_at_work = self.is_at_work();
        self.settled_link(shard).await?;
        let answer = self.ask(shard, sql).await;
        self.let_go_unless(was_at_work);
        answer
    }

    /// A connection that was taken for a question only goes back.
    fn let_go_unless(&mut self, was_at_work: bool) {
        if !was_at_work && !self.transaction.is_open() {
            self.let_go();
        }
    }

    /// A statement that was prepared under another schema fails if its columns are others now, as on a server.
    async fn look_at_text(&mut self, client: &mut Framed, statement: &PreparedStatement) -> Result<(), Failure> {
        let version = self.schema_stamp();
        if !statement.told.is_before(version) {
            return Ok(());
        }
        let shard = self.shard_to_ask(statement);
        let described = self.describe_text(client, shard, &statement.parsed.text, &statement.parameter_types).await?;
        statement.told.compare(described.columns(), &described.types, version);
        if statement.told.is_before(version) { Err(stale()) } else { Ok(()) }
    }

    pub(super) async fn describe_text(
        &mut self,
        client: &mut Framed,
        shard: ShardId,
        sql: &str,
        types: &[u32],
    ) -> Result<Described, Failure> {
        self.settle(client).await?;
        let was_at_work = self.is_at_work();
        self.settled_link(shard).await?;
        let name = shard_name(&self.topology, shard);
        let link = self.held(shard)?;
        let sql = link.text(sql);
        let output = link.lease.output();
        client_message::encode_parse(output, "", &sql, types);
        client_message::encode_describe(output, &Target::Statement(String::new()));
        client_message::encode_sync(output);
        link.lease.expect_ready();
        link.unsynced = false;
        let outcome = read_described(link, &name).await;
        let outcome = self.after_exchange(shard, outcome);
        self.let_go_unless(was_at_work);
        outcome
    }
}

async fn read_described(link: &mut super::link::Link, name: &str) -> Result<Described, Failure> {
    link.lease.flush().await.map_err(|error| failure_of(error, name))?;
    let mut error = FirstError::default();
    let mut described = Described { types: Vec::new(), columns: None };
    loop {
        let frame = link.lease.next_frame().await.map_err(|error| failure_of(error, name))?;
        match frame.tag {
            tag::READY_FOR_QUERY => return error.into_result(described),
            tag::ERROR_RESPONSE => error.note(frame)?,
            tag::PARAMETER_DESCRIPTION => {
                described.types = server_message::read_parameter_description(&frame.body()).unwrap_or_default();
            }
            tag::ROW_DESCRIPTION | tag::NO_DATA => described.columns = Some(frame),
            _ => {}
        }
    }
}

fn not_understood(what: &str) -> ClientError {
    ClientError::refused(format!("this form of {what} is not understood"), "Use the driver's prepared statements.")
}

fn can_be_prepared(parsed: &Parsed) -> bool {
    matches!(
        *parsed.statement,
        Ok(Statement::Query(_)
            | Statement::Insert(_)
            | Statement::Update(_)
            | Statement::Delete(_)
            | Statement::Merge(_))
    )
}

/// The statement answers with rows.
pub(super) fn returns_rows(parsed: &Parsed) -> bool {
    match &*parsed.statement {
        Ok(Statement::Insert(insert)) => !insert.returning.is_empty(),
        Ok(Statement::Update(update)) => !update.returning.is_empty(),
        Ok(Statement::Delete(delete)) => !delete.returning.is_empty(),
        Ok(Statement::Merge(_)) => false,
        _ => true,
    }
}
