//! Reads a database's schema from the catalogs.
//!
//! The statements go out as one simple query, over a data connection or a control connection, inside an
//! open transaction too: DDL that is not committed yet is then seen. Building the schema from the rows
//! is pure. The SQL has no backslashes and no escapes, so it means the same under every
//! `standard_conforming_strings`, and names every catalog with its schema.
//!
//! # Source
//! <https://www.postgresql.org/docs/current/catalogs.html>

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::backend::connection::Rows;
use crate::backend::{BackendError, Connection, defaults};
use crate::topology::TableName;
use crate::topology::schema::{
    Column, ColumnDefault, ForeignKey, Relation, RelationKind, Schema, TEMPORARY_SCHEMA, Travel, UniqueKey,
    ViewDefinition, Volatility, WrittenType,
};
use crate::wire::frame::Frame;

/// The database's default collation. `to_jsonb`, since the columns' names differ between versions.
const DATABASE_SQL: &str = "SELECT pg_catalog.to_jsonb(d) ->> 'datlocprovider', d.datcollate, \
    COALESCE(pg_catalog.to_jsonb(d) ->> 'datlocale', pg_catalog.to_jsonb(d) ->> 'daticulocale') \
    FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()";

/// Relations; temporary ones belong to one connection and our own table is not the client's.
const RELATIONS_SQL: &str = "SELECT c.oid, n.nspname, c.relname, c.relkind, \
    EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal) \
      OR EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN'), \
    i.inhparent \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid AND i.inhseqno = 1 \
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relpersistence <> 't' \
    AND pg_catalog.left(n.nspname::text, 3) <> 'pg_' AND n.nspname NOT IN ('information_schema', 'ostrakon')";

/// Columns. A domain has its base type on the wire and for hashing, its own default and NOT NULL.
const COLUMNS_SQL: &str = "WITH RECURSIVE base (oid, type_oid, has_default, not_null) AS (\
      SELECT t.oid, t.typbasetype, t.typdefault IS NOT NULL, t.typnotnull \
        FROM pg_catalog.pg_type t WHERE t.typtype = 'd' \
      UNION ALL \
      SELECT b.oid, t.typbasetype, b.has_default OR t.typdefault IS NOT NULL, b.not_null OR t.typnotnull \
        FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.type_oid WHERE t.typtype = 'd'), \
    domain (oid, type_oid, has_default, not_null) AS (\
      SELECT b.oid, b.type_oid, b.has_default, b.not_null FROM base b \
        JOIN pg_catalog.pg_type t ON t.oid = b.type_oid WHERE t.typtype <> 'd') \
    SELECT a.attrelid, a.attname, COALESCE(m.type_oid, a.atttypid), a.attcollation, \
      COALESCE(l.collprovider, ''), COALESCE(l.collcollate, pg_catalog.to_jsonb(l) ->> 'colllocale', ''), \
      COALESCE(l.collisdeterministic, true), a.attnotnull OR COALESCE(m.not_null, false), \
      CASE WHEN a.attgenerated <> '' THEN 'generated' WHEN a.attidentity <> '' THEN 'identity' \
        WHEN d.oid IS NOT NULL THEN 'default' WHEN COALESCE(m.has_default, false) THEN 'domain' ELSE '' END, \
      a.attidentity = 'a', \
      CASE WHEN a.attgenerated = '' THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid) END, \
      CASE WHEN a.attidentity <> '' THEN (SELECT p.objid FROM pg_catalog.pg_depend p \
          JOIN pg_catalog.pg_class s ON s.oid = p.objid AND s.relkind = 'S' \
          WHERE p.classid = 1259 AND p.refclassid = 1259 AND p.refobjid = a.attrelid \
          AND p.refobjsubid = a.attnum AND p.deptype = 'i' LIMIT 1) \
        WHEN d.oid IS NOT NULL THEN (SELECT p.refobjid FROM pg_catalog.pg_depend p \
          JOIN pg_catalog.pg_class s ON s.oid = p.refobjid AND s.relkind = 'S' \
          WHERE p.classid = 2604 AND p.objid = d.oid AND p.refclassid = 1259 LIMIT 1) END, \
      a.atttypmod <> -1 OR m.oid IS NOT NULL, \
      EXISTS (SELECT FROM pg_catalog.pg_type y WHERE y.oid = a.atttypid AND y.typtype = 'e'), \
      CASE WHEN w.typnamespace = 11 THEN pg_catalog.format_type(a.atttypid, a.atttypmod) \
        ELSE pg_catalog.quote_ident(v.nspname) || '.' || pg_catalog.quote_ident(w.typname) END, \
      pg_catalog.quote_ident(u.nspname) || '.' || pg_catalog.quote_ident(y.typname), \
      CASE WHEN a.attcollation <> w.typcollation THEN (SELECT pg_catalog.quote_ident(e.nspname) || '.' \
        || pg_catalog.quote_ident(l.collname) FROM pg_catalog.pg_namespace e WHERE e.oid = l.collnamespace) END, \
      CASE WHEN y.typtype = 'e' OR y.typtype IN ('r', 'm') AND y.typnamespace = 11 THEN 'binary' \
        WHEN y.typtype <> 'b' THEN 'no' \
        WHEN y.typelem <> 0 AND y.typlen = -1 THEN CASE WHEN y.typelem IN (16, 17, 20, 21, 23, 25, 114, 650, 869, \
          1042, 1043, 1082, 1114, 1700, 2950, 3802) OR EXISTS (SELECT FROM pg_catalog.pg_type z \
          WHERE z.oid = y.typelem AND z.typtype = 'e') THEN 'text' ELSE 'no' END \
        WHEN y.typnamespace = 11 AND y.oid NOT IN (16, 17, 18, 19, 20, 21, 23, 25, 114, 600, 601, 602, 603, 604, \
          628, 650, 700, 701, 718, 774, 790, 829, 869, 1042, 1043, 1082, 1083, 1114, 1184, 1186, 1266, 1560, 1562, \
          1700, 2950, 3220, 3614, 3615, 3802) THEN 'no' \
        WHEN y.typsend::pg_catalog.oid = 0 OR y.typreceive::pg_catalog.oid = 0 THEN 'no' ELSE 'binary' END \
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_catalog.pg_type w ON w.oid = a.atttypid JOIN pg_catalog.pg_namespace v ON v.oid = w.typnamespace \
    LEFT JOIN domain m ON m.oid = a.atttypid \
    JOIN pg_catalog.pg_type y ON y.oid = COALESCE(m.type_oid, a.atttypid) \
    JOIN pg_catalog.pg_namespace u ON u.oid = y.typnamespace \
    LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation \
    LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
    WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f') \
    AND c.relpersistence <> 't' \
    AND pg_catalog.left(n.nspname::text, 3) <> 'pg_' AND n.nspname NOT IN ('information_schema', 'ostrakon') \
    ORDER BY a.attrelid, a.attnum";

/// Unique indexes and exclusion constraints, a row for each plain column (or one without column). Of an
/// exclusion constraint only the columns compared by `=` count: equal rows are then on one shard.
const UNIQUE_SQL: &str = "SELECT i.indrelid, x.relname, i.indisprimary, a.attname \
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid \
    JOIN pg_catalog.pg_class c ON c.oid = i.indrelid \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    LEFT JOIN pg_catalog.pg_constraint o ON o.conindid = i.indexrelid AND o.contype = 'x' \
    LEFT JOIN LATERAL pg_catalog.unnest(i.indkey::smallint[]) WITH ORDINALITY k (attnum, place) \
      ON k.attnum > 0 AND k.place <= i.indnkeyatts AND (o.oid IS NULL OR EXISTS (\
        SELECT FROM pg_catalog.pg_operator p WHERE p.oid = o.conexclop[k.place] AND p.oprname = '=')) \
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
    WHERE (i.indisunique OR i.indisexclusion) AND c.relpersistence <> 't' \
    AND pg_catalog.left(n.nspname::text, 3) <> 'pg_' AND n.nspname NOT IN ('information_schema', 'ostrakon') \
    ORDER BY i.indrelid, i.indisprimary DESC, x.relname, k.place";

/// Foreign keys, a row for each pair of columns; those that PostgreSQL makes for partitions are their parents'.
const FOREIGN_KEYS_SQL: &str = "SELECT o.conrelid, o.conname, o.confrelid, a.attname, f.attname \
    FROM pg_catalog.pg_constraint o JOIN pg_catalog.pg_class c ON c.oid = o.conrelid \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace, \
    LATERAL ROWS FROM (pg_catalog.unnest(o.conkey), pg_catalog.unnest(o.confkey)) \
      WITH ORDINALITY k (own, target, place), \
    pg_catalog.pg_attribute a, pg_catalog.pg_attribute f \
    WHERE o.contype = 'f' AND o.conparentid = 0 AND a.attrelid = o.conrelid AND a.attnum = k.own \
    AND f.attrelid = o.confrelid AND f.attnum = k.target AND c.relpersistence <> 't' \
    AND pg_catalog.left(n.nspname::text, 3) <> 'pg_' AND n.nspname NOT IN ('information_schema', 'ostrakon') \
    ORDER BY o.conrelid, o.conname, k.place";

/// What views read directly.
const VIEWS_SQL: &str = "SELECT DISTINCT r.ev_class, d.refobjid \
    FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_depend d ON d.classid = 2618 AND d.objid = r.oid \
    JOIN pg_catalog.pg_class c ON c.oid = d.refobjid AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') \
    WHERE r.rulename = '_RETURN' AND d.refclassid = 1259 AND d.refobjid <> r.ev_class";

/// What views select. Names are printed without their schema when the search path leads to them: it is emptied
/// meanwhile. Printing takes locks on the tables, so that a view of a table that someone else is changing is left out
/// until the change is done.
const DEFINITIONS_SQL: &str = "WITH kept AS MATERIALIZED (\
      SELECT pg_catalog.current_setting('search_path') AS path), \
    emptied AS MATERIALIZED (SELECT k.path, pg_catalog.set_config('search_path', '', true) AS empty FROM kept k), \
    changing AS MATERIALIZED (SELECT l.relation FROM pg_catalog.pg_locks l \
      WHERE l.mode = 'AccessExclusiveLock' AND l.granted AND l.relation IS NOT NULL \
      AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()), \
    view AS MATERIALIZED (SELECT c.oid, r.oid AS rule FROM pg_catalog.pg_class c \
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
      JOIN pg_catalog.pg_rewrite r ON r.ev_class = c.oid AND r.rulename = '_RETURN' \
      WHERE c.relkind IN ('v', 'm') AND c.relpersistence <> 't' \
      AND pg_catalog.left(n.nspname::text, 3) <> 'pg_' AND n.nspname NOT IN ('information_schema', 'ostrakon') \
      AND c.oid NOT IN (SELECT relation FROM changing) AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d \
        WHERE d.classid = 2618 AND d.objid = r.oid AND d.refclassid = 1259 \
        AND d.refobjid IN (SELECT relation FROM changing))), \
    definition AS MATERIALIZED (SELECT v.oid, pg_catalog.pg_get_viewdef(v.oid) AS sql, \
        EXISTS (SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class t ON t.oid = d.refobjid \
          WHERE d.classid = 2618 AND d.objid = v.rule AND d.refclassid = 1259 AND t.relrowsecurity) AS secured \
      FROM emptied e, view v WHERE e.empty IS NOT NULL), \
    restored AS MATERIALIZED (SELECT pg_catalog.set_config('search_path', e.path, true) AS path \
      FROM (SELECT pg_catalog.count(*) AS definitions FROM definition) d, emptied e WHERE d.definitions >= 0) \
    SELECT d.oid, d.sql, d.secured FROM restored r LEFT JOIN definition d ON true";

/// User functions.
const FUNCTIONS_SQL: &str = "SELECT p.proname, \
    pg_catalog.max(CASE p.provolatile WHEN 'i' THEN 0 WHEN 's' THEN 1 ELSE 2 END), \
    pg_catalog.bool_or(p.prokind IN ('a', 'w') OR p.proretset) \
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') GROUP BY p.proname";

/// Settings of applications that user functions set: no view of PostgreSQL's lists them once they are set.
const FUNCTION_SETTINGS_SQL: &str = "SELECT DISTINCT pg_catalog.lower(m[1]) AS name \
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace, \
    LATERAL pg_catalog.regexp_matches(p.prosrc, \
      '(?:set_config[[:space:]]*[(][[:space:]]*''+|set[[:space:]]+(?:session[[:space:]]+)?)' || \
      '([[:alpha:]_][[:alnum:]_$]*(?:[.][[:alpha:]_][[:alnum:]_$]*)+)', 'gi') m \
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY name";

const QUERIES: &[&str] = &[
    DATABASE_SQL,
    RELATIONS_SQL,
    COLUMNS_SQL,
    UNIQUE_SQL,
    FOREIGN_KEYS_SQL,
    VIEWS_SQL,
    DEFINITIONS_SQL,
    FUNCTIONS_SQL,
    FUNCTION_SETTINGS_SQL,
];

/// `pg_collation.oid` of "default".
const DEFAULT_COLLATION: &str = "100";

/// Why there is no schema.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// PostgreSQL refused, here byte for byte.
    #[error("the catalogs cannot be read")]
    Postgres(Frame),
    /// The connection is of no more use.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The rows are not what was asked for.
    #[error("the catalogs' rows are not understood: {0}")]
    Malformed(&'static str),
}

/// The statements whose results [`build_schema`] wants, in order.
pub fn schema_queries() -> &'static [&'static str] {
    QUERIES
}

/// Reads the schema, also inside an open transaction, in one round trip.
///
/// # Errors
/// The connection broke, or PostgreSQL refused: the transaction block is then a failed one.
///
/// # Cancel safety
/// That of [`Connection::simple`].
pub async fn read_schema(connection: &mut Connection) -> Result<Schema, SchemaError> {
    let results = connection.simple_several(&QUERIES.join(";")).await?;
    if let Some(error) = results.error {
        return Err(SchemaError::Postgres(error));
    }
    build_schema(results.statements.into_iter().map(|(rows, _)| rows).collect())
}

/// What holds for relations that all sessions see, in the queries above.
const PERMANENT: &str = "c.relpersistence <> 't' AND pg_catalog.left(n.nspname::text, 3) <> 'pg_' \
    AND n.nspname NOT IN ('information_schema', 'ostrakon')";

/// Reads the temporary tables of a connection, under [`TEMPORARY_SCHEMA`].
///
/// # Errors
/// As [`read_schema`].
///
/// # Cancel safety
/// That of [`Connection::simple`].
pub async fn read_temporary(connection: &mut Connection) -> Result<Vec<Arc<Relation>>, SchemaError> {
    let own = "c.relnamespace = pg_catalog.pg_my_temp_schema()";
    let queries = [RELATIONS_SQL, COLUMNS_SQL].map(|query| query.replace(PERMANENT, own));
    let results = connection.simple_several(&queries.join(";")).await?;
    if let Some(error) = results.error {
        return Err(SchemaError::Postgres(error));
    }
    let rows: Vec<Rows> = results.statements.into_iter().map(|(rows, _)| rows).collect();
    let [relations, columns]: [Rows; 2] = rows.try_into().map_err(|_| SchemaError::Malformed("number of results"))?;
    let mut builder = Builder::read_relations(&relations)?;
    builder.add_columns(&columns, false)?;
    let tables = builder
        .relations
        .into_values()
        .filter(|relation| !matches!(relation.kind, RelationKind::MaterializedView | RelationKind::Foreign));
    Ok(tables
        .map(|mut relation| {
            TEMPORARY_SCHEMA.clone_into(&mut relation.name.schema);
            relation.parent = None;
            Arc::new(relation)
        })
        .collect())
}

/// Builds the schema from the rows of [`schema_queries`]; its version is 0, the caller counts.
///
/// # Errors
/// The rows are not those of the statements.
pub fn build_schema(results: Vec<Rows>) -> Result<Schema, SchemaError> {
    let [database, relations, columns, unique, foreign_keys, views, definitions, functions, settings]: [Rows; 9] =
        results.try_into().map_err(|_| SchemaError::Malformed("number of results"))?;
    let default_is_bytewise = database.first().is_some_and(|row| {
        let locale = text(row, 2).or(text(row, 1)).unwrap_or_default();
        match text(row, 0).unwrap_or("c") {
            // libc's locale stays in datcollate, whatever the other columns say.
            "c" => is_bytewise_locale(text(row, 1).unwrap_or_default()),
            "b" => is_bytewise_locale(locale),
            _ => false,
        }
    });
    let mut builder = Builder::read_relations(&relations)?;
    builder.add_columns(&columns, default_is_bytewise)?;
    builder.add_unique(&unique)?;
    builder.add_foreign_keys(&foreign_keys)?;
    builder.add_views(&views)?;
    builder.add_definitions(&definitions)?;
    Ok(Schema {
        version: 0,
        relations: builder.finish(),
        functions: read_functions(&functions)?,
        many_rows: read_many_rows(&functions)?,
        function_settings: settings.iter().map(|row| required(row, 0).map(str::to_owned)).collect::<Result<_, _>>()?,
        collation_is_bytewise: default_is_bytewise,
    })
}

/// Locales of libc and of PostgreSQL's builtin provider that compare UTF-8 by bytes.
fn is_bytewise_locale(locale: &str) -> bool {
    matches!(locale.to_ascii_lowercase().replace('-', "").as_str(), "c" | "posix" | "c.utf8" | "pg_unicode_fast")
}

struct Builder {
    names: HashMap<u32, TableName>,
    relations: HashMap<u32, Relation>,
    parents: HashMap<u32, u32>,
}

impl Builder {
    fn read_relations(rows: &Rows) -> Result<Self, SchemaError> {
        let mut builder = Self { names: HashMap::new(), relations: HashMap::new(), parents: HashMap::new() };
        for row in rows {
            let oid = number(row, 0)?;
            let name = TableName { schema: required(row, 1)?.to_owned(), name: required(row, 2)?.to_owned() };
            let kind = match required(row, 3)? {
                "r" => RelationKind::Table,
                "p" => RelationKind::Partitioned,
                "v" => RelationKind::View,
                "m" => RelationKind::MaterializedView,
                "S" => RelationKind::Sequence,
                "f" => RelationKind::Foreign,
                _ => return Err(SchemaError::Malformed("relkind")),
            };
            if text(row, 5).is_some() {
                builder.parents.insert(oid, number(row, 5)?);
            }
            builder.names.insert(oid, name.clone());
            let relation = Relation {
                name,
                oid,
                kind,
                columns: Vec::new(),
                unique: Vec::new(),
                foreign_keys: Vec::new(),
                view_reads: Vec::new(),
                view: None,
                parent: None,
                has_triggers: boolean(row, 4)?,
            };
            builder.relations.insert(oid, relation);
        }
        for (child, parent) in &builder.parents {
            if let Some(relation) = builder.relations.get_mut(child) {
                relation.parent = builder.names.get(parent).cloned();
            }
        }
        Ok(builder)
    }

    fn add_columns(&mut self, rows: &Rows, default_is_bytewise: bool) -> Result<(), SchemaError> {
        for row in rows {
            let Some(relation) = self.relations.get_mut(&number(row, 0)?) else { continue };
            let is_deterministic = boolean(row, 6)?;
            let is_bytewise = match (required(row, 3)?, text(row, 4).unwrap_or_default()) {
                ("0", _) => true,
                (DEFAULT_COLLATION, _) | (_, "d") => default_is_bytewise,
                (_, "c" | "b") => is_bytewise_locale(text(row, 5).unwrap_or_default()),
                _ => false,
            };
            relation.columns.push(Column {
                name: required(row, 1)?.to_owned(),
                type_oid: number(row, 2)?,
                has_type_modifier: boolean(row, 12)?,
                collation_is_bytewise: is_bytewise && is_deterministic,
                collation_is_deterministic: is_deterministic,
                not_null: boolean(row, 7)?,
                default: read_default(row, &self.names)?,
                written: read_written(row)?,
            });
        }
        Ok(())
    }

    fn add_unique(&mut self, rows: &Rows) -> Result<(), SchemaError> {
        for row in rows {
            let Some(relation) = self.relations.get_mut(&number(row, 0)?) else { continue };
            let name = required(row, 1)?;
            if relation.unique.last().is_none_or(|key| key.name != name) {
                let primary = boolean(row, 2)?;
                relation.unique.push(UniqueKey { name: name.to_owned(), primary, columns: Vec::new() });
            }
            if let (Some(key), Some(column)) = (relation.unique.last_mut(), text(row, 3)) {
                key.columns.push(column.to_owned());
            }
        }
        Ok(())
    }

    fn add_foreign_keys(&mut self, rows: &Rows) -> Result<(), SchemaError> {
        for row in rows {
            let Some(target) = self.names.get(&number(row, 2)?).cloned() else { continue };
            let Some(relation) = self.relations.get_mut(&number(row, 0)?) else { continue };
            let name = required(row, 1)?;
            if relation.foreign_keys.last().is_none_or(|key| key.name != name) {
                relation.foreign_keys.push(ForeignKey { name: name.to_owned(), target, columns: Vec::new() });
            }
            if let Some(key) = relation.foreign_keys.last_mut() {
                key.columns.push((required(row, 3)?.to_owned(), required(row, 4)?.to_owned()));
            }
        }
        Ok(())
    }

    fn add_views(&mut self, rows: &Rows) -> Result<(), SchemaError> {
        let mut direct: HashMap<u32, Vec<u32>> = HashMap::new();
        for row in rows {
            direct.entry(number(row, 0)?).or_default().push(number(row, 1)?);
        }
        for (view, relation) in &mut self.relations {
            let mut seen = HashSet::new();
            let mut open: Vec<u32> = direct.get(view).cloned().unwrap_or_default();
            let mut reads = BTreeSet::new();
            while let Some(oid) = open.pop() {
                if seen.insert(oid) {
                    reads.extend(self.names.get(&oid).cloned());
                    open.extend(direct.get(&oid).into_iter().flatten());
                }
            }
            relation.view_reads = reads.into_iter().collect();
        }
        Ok(())
    }

    fn add_definitions(&mut self, rows: &Rows) -> Result<(), SchemaError> {
        // Without views there is one row of NULLs.
        for row in rows.iter().filter(|row| text(row, 0).is_some()) {
            let Some(relation) = self.relations.get_mut(&number(row, 0)?) else { continue };
            let sql = required(row, 1)?.to_owned();
            relation.view = Some(ViewDefinition { sql, has_row_security: boolean(row, 2)? });
        }
        Ok(())
    }

    fn finish(self) -> HashMap<TableName, Arc<Relation>> {
        self.relations.into_values().map(|relation| (relation.name.clone(), Arc::new(relation))).collect()
    }
}

fn read_written(row: &[Option<String>]) -> Result<WrittenType, SchemaError> {
    Ok(WrittenType {
        full: required(row, 14)?.to_owned(),
        base: required(row, 15)?.to_owned(),
        collation: text(row, 16).map(str::to_owned),
        travel: match required(row, 17)? {
            "binary" => Travel::Binary,
            "text" => Travel::Text,
            _ => Travel::No,
        },
    })
}

fn read_default(row: &[Option<String>], names: &HashMap<u32, TableName>) -> Result<ColumnDefault, SchemaError> {
    let sequence = match text(row, 11) {
        Some(_) => names.get(&number(row, 11)?).cloned(),
        None => None,
    };
    Ok(match (required(row, 8)?, sequence) {
        ("", _) => ColumnDefault::None,
        ("generated", _) => ColumnDefault::Generated,
        ("identity", Some(sequence)) => ColumnDefault::Sequence { sequence, always: boolean(row, 9)? },
        ("default", Some(sequence)) if is_plain_nextval(text(row, 10).unwrap_or_default()) => {
            ColumnDefault::Sequence { sequence, always: false }
        }
        ("default", Some(_)) => ColumnDefault::Numbered,
        ("default", _) if text(row, 10).is_some_and(is_null_constant) => ColumnDefault::None,
        ("default", None) if defaults::is_constant(text(row, 10).unwrap_or_default(), boolean(row, 13)?) => {
            ColumnDefault::Constant
        }
        _ => ColumnDefault::Expression,
    })
}

/// The whole expression is `nextval('…'::regclass)`, as PostgreSQL prints it.
fn is_plain_nextval(expression: &str) -> bool {
    expression
        .strip_prefix("nextval('")
        .and_then(|rest| rest.strip_suffix("'::regclass)"))
        .is_some_and(|name| !name.contains("'::regclass"))
}

/// `DEFAULT NULL`, which PostgreSQL prints with its type.
fn is_null_constant(expression: &str) -> bool {
    expression == "NULL" || expression.starts_with("NULL::")
}

fn read_functions(rows: &Rows) -> Result<HashMap<String, Volatility>, SchemaError> {
    rows.iter()
        .map(|row| {
            let volatility = match required(row, 1)? {
                "0" => Volatility::Immutable,
                "1" => Volatility::Stable,
                _ => Volatility::Volatile,
            };
            Ok((required(row, 0)?.to_owned(), volatility))
        })
        .collect()
}

fn read_many_rows(rows: &Rows) -> Result<HashSet<String>, SchemaError> {
    let mut names = HashSet::new();
    for row in rows {
        if boolean(row, 2)? {
            names.insert(required(row, 0)?.to_owned());
        }
    }
    Ok(names)
}

fn text(row: &[Option<String>], index: usize) -> Option<&str> {
    row.get(index).and_then(|value| value.as_deref())
}

fn required(row: &[Option<String>], index: usize) -> Result<&str, SchemaError> {
    text(row, index).ok_or(SchemaError::Malformed("NULL or missing column"))
}

fn number(row: &[Option<String>], index: usize) -> Result<u32, SchemaError> {
    required(row, index)?.parse().map_err(|_| SchemaError::Malformed("number"))
}

fn boolean(row: &[Option<String>], index: usize) -> Result<bool, SchemaError> {
    match required(row, index)? {
        "t" => Ok(true),
        "f" => Ok(false),
        _ => Err(SchemaError::Malformed("boolean")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bare_nextval_is_a_sequence() {
        assert!(is_plain_nextval("nextval('t_id_seq'::regclass)"));
        assert!(is_plain_nextval("nextval('\"It''s\".s'::regclass)"));
        assert!(!is_plain_nextval("nextval('a'::regclass) + nextval('b'::regclass)"));
        assert!(!is_plain_nextval("('x'::text || nextval('a'::regclass))"));
        assert!(!is_plain_nextval("(nextval('a'::regclass) * 2)"));
    }

    #[test]
    fn locales_that_compare_by_bytes_are_known() {
        for locale in ["C", "POSIX", "C.UTF-8", "C.utf8", "PG_UNICODE_FAST"] {
            assert!(is_bytewise_locale(locale), "{locale}");
        }
        for locale in ["en_US.UTF-8", "und", "", "C.ISO-8859-1"] {
            assert!(!is_bytewise_locale(locale), "{locale}");
        }
    }

    #[test]
    fn the_queries_hold_the_words_that_temporary_tables_replace() {
        for query in [RELATIONS_SQL, COLUMNS_SQL] {
            assert!(query.contains(PERMANENT), "{query}");
        }
    }

    #[test]
    fn rows_of_another_shape_are_refused() {
        assert!(matches!(build_schema(vec![]), Err(SchemaError::Malformed(_))));
        let short = vec![vec![], vec![vec![Some("1".into())]], vec![], vec![], vec![], vec![], vec![], vec![]];
        assert!(matches!(build_schema(short), Err(SchemaError::Malformed(_))));
    }
}
