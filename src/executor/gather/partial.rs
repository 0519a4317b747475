//! Partial aggregates: what one PostgreSQL makes of the shards' own results.

use super::check::{self, Described};
use super::{fetch_bind, finish_bind};
use crate::base::ShardId;
use crate::executor::exchange::Show;
use crate::executor::relay::Done;
use crate::executor::scatter::set_formats;
use crate::executor::statement::Mode;
use crate::executor::{Failure, Session, places, shard_name};
use crate::net::Framed;
use crate::plan::{GatherColumn, GatherPlan, GatherSource, Partial, PartialPlan};
use crate::planner::rewrite;
use crate::session::Parsed;
use crate::topology::TableName;
use crate::wire::server_message::{self, Field};

impl Session {
    /// Runs a query of which the shards aggregate their parts. `None`: nothing was fetched, since the two texts would not
    /// give the same columns.
    ///
    /// # Errors
    /// As [`Session::run_gather`].
    pub(super) async fn run_partial(
        &mut self,
        client: &mut Framed,
        parsed: &Parsed,
        shards: &[ShardId],
        finish: ShardId,
        plan: &PartialPlan,
        mode: Mode<'_>,
    ) -> Result<Option<Done>, Failure> {
        let own = plan.params as usize;
        let declared: Vec<u32> = mode.types().iter().take(own).copied().collect();
        let asked = self.describe_on(finish, &parsed.text, &declared).await?;
        let Described { types: own_types, mut fields, .. } = match asked {
            Ok(described) => described,
            Err(error) => return Err(Failure::Postgres(error)),
        };
        if own_types.len() != own {
            return Ok(None);
        }
        let fetch = rewrite::render(&parsed.text, &parsed.lexed, &plan.fetch);
        let Ok(parts) = self.describe_on(finish, &fetch, &own_types).await? else { return Ok(None) };
        let parts = parts.fields.get(1..).unwrap_or_default().to_vec();
        let Some((combined, rows)) = combinations(plan, &parts) else { return Ok(None) };
        let sql = rewrite::apply_combined(&parsed.text, &parsed.lexed, &plan.splices, &combined, &rows);
        let ours = match self.describe_on(finish, sql.text(), &own_types).await? {
            Ok(ours)
                if check::is_same(&fields, &ours.fields) && ours.types.get(..own) == Some(own_types.as_slice()) =>
            {
                ours
            }
            _ => return Ok(None),
        };
        let texts: Vec<(ShardId, String)> = shards.iter().map(|shard| (*shard, fetch.clone())).collect();
        let element_types: Vec<u32> = parts.iter().map(|field| field.type_oid).collect();
        let fetched =
            self.fetch(&texts, &as_source(&parts), &element_types, fetch_bind(mode, &plan.used, &own_types)).await;
        let fetched = fetched.map_err(places::without)?;
        let bind = finish_bind(mode, own, fetched);
        let finish_mode = Mode::Extended { bind: &bind, types: &ours.types, describe: false };
        if mode.describes() {
            set_formats(&mut fields, finish_mode);
            server_message::write_row_description(client.output(), &fields);
        }
        let show = Show { header: false, rows: true, notices: true };
        let done = self.exchange(client, finish, sql.text(), finish_mode, show).await;
        done.map(Some).map_err(|failure| places::in_source(failure, &sql, &parsed.text))
    }

    /// What a server says of a text; its error is given back.
    async fn describe_on(
        &mut self,
        shard: ShardId,
        sql: &str,
        types: &[u32],
    ) -> Result<Result<Described, crate::wire::frame::Frame>, Failure> {
        let name = shard_name(&self.topology, shard);
        let link = self.held(shard)?;
        let outcome = check::describe(link, &name, &[(sql, types)]).await;
        let (described, error) = self.after_exchange(shard, outcome)?;
        Ok(match (described.into_iter().next(), error) {
            (Some(described), None) => Ok(described),
            (_, Some(error)) => Err(error),
            (None, None) => Ok(Described::default()),
        })
    }
}

/// The parts as the rows of one table.
fn as_source(parts: &[Field]) -> GatherPlan {
    let columns = parts
        .iter()
        .map(|field| GatherColumn {
            name: String::new(),
            expression: String::new(),
            element: String::new(),
            type_oid: field.type_oid,
        })
        .collect();
    let source = GatherSource {
        table: TableName { schema: String::new(), name: String::new() },
        shard: None,
        columns,
        from: Vec::new(),
        is_filtered: false,
        params: Vec::new(),
    };
    GatherPlan { sources: vec![source], finish: None, splices: Vec::new(), params: 0, partial: None }
}

/// How each column is combined, and the rows to combine; `None`: a column's type is not known here.
fn combinations(plan: &PartialPlan, parts: &[Field]) -> Option<(Vec<String>, String)> {
    if parts.len() != plan.columns.len() {
        return None;
    }
    let types: Vec<&str> = parts.iter().map(|field| type_name(field.type_oid)).collect::<Option<_>>()?;
    let mut combined = Vec::new();
    for (index, column) in plan.columns.iter().enumerate() {
        let (type_name, field) = (types.get(index)?, parts.get(index)?);
        combined.push(match &column.kind {
            Partial::Group => format!("ostrakon_g.ostrakon_{index}{}", modifier(field)?),
            Partial::Count => format!("coalesce(pg_catalog.sum(ostrakon_g.ostrakon_{index}), 0)::pg_catalog.int8"),
            Partial::Sum => match *type_name {
                "int8" | "numeric" | "float4" | "float8" | "money" | "interval" => {
                    format!("pg_catalog.sum(ostrakon_g.ostrakon_{index})::pg_catalog.{type_name}")
                }
                _ => return None,
            },
            Partial::Average { count } => {
                let divisor = match *type_name {
                    "int8" | "numeric" => "numeric",
                    "float8" | "interval" => "float8",
                    _ => return None,
                };
                format!("(pg_catalog.sum(ostrakon_g.ostrakon_{index}) / nullif(pg_catalog.sum(ostrakon_g.ostrakon_{count}), 0)::pg_catalog.{divisor})")
            }
            Partial::Same(name) => format!("pg_catalog.{name}(ostrakon_g.ostrakon_{index})"),
        });
    }
    let first = plan.params as usize + 1;
    let arrays: Vec<String> =
        types.iter().enumerate().map(|(index, name)| format!("${}::pg_catalog.{name}[]", first + index)).collect();
    let names: Vec<String> = (0..types.len()).map(|index| format!("ostrakon_{index}")).collect();
    let function = if types.len() == 1 { "pg_catalog.unnest" } else { "unnest" };
    Some((combined, format!("{function}({}) AS ostrakon_g({})", arrays.join(", "), names.join(", "))))
}

/// A cast to the modifier that a column had before its values became elements of an array.
fn modifier(field: &Field) -> Option<String> {
    let length = field.type_modifier - 4;
    match (field.type_oid, field.type_modifier) {
        (_, -1) => Some(String::new()),
        (1042, _) => Some(format!("::pg_catalog.bpchar({length})")),
        (1043, _) => Some(format!("::pg_catalog.varchar({length})")),
        (1700, _) if length & 0x8000 == 0 => {
            Some(format!("::pg_catalog.numeric({}, {})", (length >> 16) & 0xffff, length & 0x7ff))
        }
        _ => None,
    }
}

/// PostgreSQL's own types that may be in an array, by their OIDs.
fn type_name(oid: u32) -> Option<&'static str> {
    Some(match oid {
        16 => "bool",
        17 => "bytea",
        20 => "int8",
        21 => "int2",
        23 => "int4",
        25 => "text",
        650 => "cidr",
        700 => "float4",
        701 => "float8",
        790 => "money",
        869 => "inet",
        1042 => "bpchar",
        1043 => "varchar",
        1082 => "date",
        1083 => "time",
        1114 => "timestamp",
        1184 => "timestamptz",
        1186 => "interval",
        1266 => "timetz",
        1700 => "numeric",
        2950 => "uuid",
        3802 => "jsonb",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::PartialColumn;

    fn field(type_oid: u32, type_modifier: i32) -> Field {
        Field { type_oid, type_modifier, ..Field::text("a") }
    }

    fn combined(kinds: Vec<Partial>, fields: &[Field]) -> Option<Vec<String>> {
        let columns = kinds.into_iter().map(|kind| PartialColumn { select: Vec::new(), kind }).collect();
        let plan = PartialPlan { columns, fetch: Vec::new(), splices: Vec::new(), params: 2, used: Vec::new() };
        combinations(&plan, fields).map(|(combined, _)| combined)
    }

    #[test]
    fn sums_keep_the_type_of_the_parts() {
        let sum = combined(vec![Partial::Sum], &[field(20, -1)]).unwrap();
        assert_eq!(sum, ["pg_catalog.sum(ostrakon_g.ostrakon_0)::pg_catalog.int8"]);
        assert_eq!(combined(vec![Partial::Sum], &[field(16_500, -1)]), None);
    }

    #[test]
    fn averages_divide_as_the_argument_does() {
        let parts =
            |oid| combined(vec![Partial::Count, Partial::Average { count: 0 }], &[field(20, -1), field(oid, -1)]);
        assert!(parts(20).unwrap()[1].ends_with("::pg_catalog.numeric)"));
        assert!(parts(701).unwrap()[1].ends_with("::pg_catalog.float8)"));
        assert_eq!(parts(700), None, "a sum of float4 has lost what the average keeps");
    }

    #[test]
    fn groups_keep_their_modifiers() {
        assert_eq!(
            combined(vec![Partial::Group], &[field(1043, 24)]).unwrap(),
            ["ostrakon_g.ostrakon_0::pg_catalog.varchar(20)"]
        );
        assert_eq!(
            combined(vec![Partial::Group], &[field(1700, ((12 << 16) | 2) + 4)]).unwrap(),
            ["ostrakon_g.ostrakon_0::pg_catalog.numeric(12, 2)"]
        );
    }
}
