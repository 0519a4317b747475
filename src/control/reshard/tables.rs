//! The tables whose rows move, read from a shard's catalogs.

use std::hash::BuildHasher;

use super::bucket_sql::{bucket_sql, pinned_sql};
use crate::backend::schema::read_schema;
use crate::backend::{ConnectTarget, Connection};
use crate::base::BucketId;
use crate::control::client::{quote_identifier, quote_literal};
use crate::topology::hash::StableHash;
use crate::topology::pin::{hashes_of, is_pinned};
use crate::topology::schema::{ColumnDefault, Relation, RelationKind, Schema, Travel};
use crate::topology::{KeyType, Pin, Placement, TableName, Topology};

/// Changes whenever a table, a column of one, or a trigger does, or what a role or database sets.
///
/// `xmin` is the transaction that last wrote a row of a catalog; VACUUM and ANALYZE write theirs in place.
pub(super) const STAMP_SQL: &str = "SELECT pg_catalog.md5(coalesce(pg_catalog.string_agg(t.stamp, ',' ORDER BY t.stamp), '')) FROM ( \
    SELECT pg_catalog.concat(c.oid, ':', c.relkind, c.relnatts, c.relhastriggers, c.relhasrules, ':', c.relfilenode) || ':' || \
      (SELECT pg_catalog.max(a.xmin::text::bigint) FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid) AS stamp \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND pg_catalog.left(n.nspname, 3) <> 'pg_' \
      AND n.nspname NOT IN ('information_schema', 'ostrakon') \
    UNION ALL SELECT pg_catalog.concat(s.setdatabase, ':', s.setrole, ':', pg_catalog.array_to_string(s.setconfig, ',')) \
      FROM pg_catalog.pg_db_role_setting s) t";

/// A table whose rows move, partitions included.
#[derive(Clone, Debug)]
pub struct MovedTable {
    /// Its name.
    pub name: TableName,
    /// As it stands in FROM.
    pub from: String,
    /// As it is written to.
    pub into: String,
    /// The hash slot of a row.
    pub bucket: String,
    /// Keys that have buckets of their own.
    pub pinned: Vec<PinnedRows>,
    /// Columns that are written, quoted and separated by commas.
    pub columns: String,
    /// The key's columns, the same way.
    pub key: String,
    /// What is hashed of a row: all that is written.
    pub record: String,
    /// COPY in binary.
    pub is_binary: bool,
    /// Where rows lie: itself, or its partitions.
    pub leaves: Vec<TableName>,
}

/// A pinned key's rows in a table.
#[derive(Clone, Debug)]
pub struct PinnedRows {
    /// Its bucket.
    pub bucket: BucketId,
    /// The hash slot that the rows would be in.
    pub slot: BucketId,
    /// The condition among the rows of the slot.
    pub condition: String,
    /// A condition on the columns themselves, when it is known to say the same.
    pub equals: Option<String>,
}

impl MovedTable {
    /// The condition for rows of some buckets. Rows of pinned keys are found among those of their slots, which have an
    /// index.
    pub fn within(&self, buckets: &[BucketId]) -> String {
        let slots: Vec<BucketId> = buckets.iter().copied().filter(|bucket| !is_pinned(*bucket)).collect();
        let mut parts = Vec::new();
        if !slots.is_empty() {
            let list: Vec<String> = slots.iter().map(|bucket| bucket.0.to_string()).collect();
            let mut part = format!("{} = ANY ('{{{}}}'::bigint[])", self.bucket, list.join(","));
            for pinned in self.pinned.iter().filter(|pinned| slots.contains(&pinned.slot)) {
                part.push_str(&format!(" AND NOT ({})", pinned.condition));
            }
            parts.push(part);
        }
        for pinned in self.pinned.iter().filter(|pinned| buckets.contains(&pinned.bucket)) {
            parts.push(format!("({} = {} AND {})", self.bucket, pinned.slot.0, pinned.condition));
        }
        match parts.len() {
            0 => "false".to_owned(),
            1 => parts.concat(),
            _ => format!("({})", parts.join(" OR ")),
        }
    }

    /// The bucket of a row, pinned keys' included.
    pub fn placed(&self) -> String {
        if self.pinned.is_empty() {
            return self.bucket.clone();
        }
        let cases = self.pinned.iter().map(|pinned| {
            format!(" WHEN {} = {} AND {} THEN {}", self.bucket, pinned.slot.0, pinned.condition, pinned.bucket.0)
        });
        format!("(CASE{} ELSE {} END)", cases.collect::<String>(), self.bucket)
    }

    /// How a table's index by bucket is called, on every shard alike.
    pub fn index_name(leaf: &TableName) -> String {
        format!("{INDEX_PREFIX}{:016x}", StableHash.hash_one((leaf.schema.as_str(), leaf.name.as_str())))
    }
}

/// How the names of indexes by bucket begin.
pub(super) const INDEX_PREFIX: &str = "ostrakon_reshard_";

/// The tables as of one moment.
#[derive(Clone, Debug)]
pub struct Tables {
    /// Those whose rows move.
    pub moved: Vec<MovedTable>,
    /// Copies on every shard.
    pub reference: Vec<MovedTable>,
}

/// A name in SQL.
pub(super) fn quoted(name: &TableName) -> String {
    format!("{}.{}", quote_identifier(&name.schema), quote_identifier(&name.name))
}

/// Reads the tables from one shard; every shard has the same.
///
/// # Errors
/// Why, in words.
pub(super) async fn read_tables(target: &ConnectTarget, topology: &Topology) -> Result<Tables, String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let mut connection = Connection::connect(target).await.map_err(|error| words(&error))?;
    let schema = read_schema(&mut connection).await.map_err(|error| words(&error))?;
    connection.close().await;
    let mut tables = Tables { moved: Vec::new(), reference: Vec::new() };
    let mut relations: Vec<&Relation> = schema.relations.values().map(AsRef::as_ref).collect();
    relations.sort_by(|a, b| a.name.cmp(&b.name));
    for relation in relations {
        if !is_root(&schema, relation) {
            continue;
        }
        match schema.placement(topology, relation) {
            Placement::Sharded { key } => {
                let typed = typed_key(&schema, relation, &key);
                let bucket = typed.as_deref().and_then(bucket_sql).ok_or_else(|| {
                    let name = &relation.name.name;
                    format!("the key of table {name} cannot be computed in SQL, so its rows cannot be moved")
                })?;
                let mut table = moved_table(&schema, relation, &key, bucket)?;
                table.pinned = pinned_rows(topology, &typed.unwrap_or_default());
                tables.moved.push(table);
            }
            Placement::Reference => tables.reference.push(moved_table(&schema, relation, &[], String::new())?),
            Placement::Single { .. } => {}
        }
    }
    Ok(tables)
}

/// Rows of a partition are those of its root; every other table has its own.
fn is_root(schema: &Schema, relation: &Relation) -> bool {
    let is_partition = || {
        let parent = relation.parent.as_ref().and_then(|parent| schema.relations.get(parent));
        parent.is_some_and(|parent| parent.kind == RelationKind::Partitioned)
    };
    matches!(relation.kind, RelationKind::Table | RelationKind::Partitioned) && !is_partition()
}

fn typed_key(schema: &Schema, relation: &Relation, key: &[String]) -> Option<Vec<(String, KeyType)>> {
    let types = schema.key_types(relation, key)?;
    Some(key.iter().cloned().zip(types).collect())
}

fn pinned_rows(topology: &Topology, key: &[(String, KeyType)]) -> Vec<PinnedRows> {
    let pinned = topology.pins.iter().filter_map(|(bucket, pin)| {
        let condition = pinned_sql(key, &pin.hashes)?;
        Some(PinnedRows { bucket, slot: pin.slot(), condition, equals: equals_sql(key, pin) })
    });
    pinned.collect()
}

/// The pinned key's values in a table's own types, when they are the same key.
fn equals_sql(key: &[(String, KeyType)], pin: &Pin) -> Option<String> {
    let pairs = || key.iter().zip(&pin.values);
    let read: Option<Vec<_>> = pairs().map(|((_, kind), value)| kind.read_text(value.as_bytes())).collect();
    if hashes_of(&read?) != pin.hashes {
        return None;
    }
    let equals = pairs().map(|((name, _), value)| format!("{} = {}", quote_identifier(name), quote_literal(value)));
    Some(equals.collect::<Vec<_>>().join(" AND "))
}

/// Types whose own hash is the same on every server.
const HASHED: &[u32] = &[16, 20, 21, 23, 25, 700, 701, 1042, 1043, 1082, 1083, 1114, 1184, 1700, 2950];

fn moved_table(schema: &Schema, relation: &Relation, key: &[String], bucket: String) -> Result<MovedTable, String> {
    let written = || relation.columns.iter().filter(|column| column.default != ColumnDefault::Generated);
    let columns: Vec<String> = written().map(|column| quote_identifier(&column.name)).collect();
    if columns.is_empty() {
        return Err(format!("table {} has no columns, so its rows cannot be told apart", relation.name.name));
    }
    let hashed = written().map(|column| {
        let name = quote_identifier(&column.name);
        if HASHED.contains(&column.type_oid) { name } else { format!("{name}::text") }
    });
    let leaves = leaves_of(schema, relation)?;
    let name = quoted(&relation.name);
    let from = if relation.kind == RelationKind::Table { format!("ONLY {name}") } else { name.clone() };
    Ok(MovedTable {
        name: relation.name.clone(),
        from,
        into: name,
        bucket,
        pinned: Vec::new(),
        record: format!("ROW({})", hashed.collect::<Vec<_>>().join(", ")),
        columns: columns.join(", "),
        key: key.iter().map(|column| quote_identifier(column)).collect::<Vec<_>>().join(", "),
        is_binary: written().all(|column| column.written.travel == Travel::Binary),
        leaves,
    })
}

fn leaves_of(schema: &Schema, root: &Relation) -> Result<Vec<TableName>, String> {
    let mut leaves = Vec::new();
    let mut open = vec![root];
    while let Some(relation) = open.pop() {
        match relation.kind {
            RelationKind::Table => leaves.push(relation.name.clone()),
            RelationKind::Partitioned => open.extend(
                schema
                    .relations
                    .values()
                    .map(AsRef::as_ref)
                    .filter(|child| child.parent.as_ref() == Some(&relation.name)),
            ),
            _ => {
                return Err(format!(
                    "table {} has a partition {} that is not a table",
                    root.name.name, relation.name.name
                ));
            }
        }
    }
    leaves.sort();
    Ok(leaves)
}
