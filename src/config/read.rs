//! The document -> [`Config`], section by section.

use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeTable;

use super::auth;
use super::error::{Report, nearest};
use super::failover;
use super::reader::{At, Section};
use super::store;
use super::tls;
use super::{
    Config, ControlConfig, HttpConfig, MergeConfig, NodeConfig, PoolConfig, ProxyConfig, ReplicasConfig, ShardConfig,
    TableConfig, TablePlacement, UserConfig,
};
use crate::session::{PoolMode, ReadFrom};
use crate::topology::ring::WEIGHT_NORMAL;
use crate::topology::{Role, TableName};
use crate::wire::limits::MESSAGE_BYTES_MAX;

/// Milliseconds of a day: no timeout is longer.
const TIMEOUT_MS_MAX: u64 = 86_400_000;
/// No proxy holds more clients.
const CLIENTS_MAX: u64 = 1_000_000;
/// No machine has more processors.
const WORKERS_MAX: u64 = 1_024;
/// No server takes more connections.
const POOL_SIZE_MAX: u64 = 10_000;
/// Less would refuse nearly everything.
const BUDGET_BYTES_MIN: u64 = 1 << 20;
/// A terabyte is no bound any more.
const BUDGET_BYTES_MAX: u64 = 1 << 40;
/// Gathered rows travel in one message, and PostgreSQL takes none over a gigabyte.
const GATHER_BYTES_MAX: u64 = 512 << 20;
/// A shard may be this much larger than the smallest.
const WEIGHT_MAX: u64 = 10_000;

/// Reads what can be read; `None` when the text is not TOML. Mistakes go to the report.
pub(super) fn read(text: &str, report: &mut Report) -> Option<Config> {
    let (document, mistakes) = DeTable::parse_recoverable(text);
    if !mistakes.is_empty() {
        for mistake in mistakes {
            let offset = mistake.span().map_or(0, |span| span.start);
            report.at_offset(offset, mistake.message().to_owned(), None);
        }
        return None;
    }
    let mut root = Section::new("", document.get_ref(), 0);
    let proxy = read_proxy(root.section("proxy", report), report);
    let store = store::read(root.section("store", report), report);
    let failover = failover::read(root.section("failover", report), report);
    let http = read_http(root.section("http", report), report);
    let pool = read_pool(root.section("pool", report), report);
    let replicas = read_replicas(root.section("replicas", report), report);
    let merge = read_merge(root.section("merge", report), report);
    let control = read_control(root.section("control", report), report);
    let auth = auth::read(&mut root, report);
    let tls = tls::read_tls(root.section("tls", report), report);
    let servers_tls = tls::read_servers_tls(root.section("servers_tls", report), report);
    let users = root.sections("users", "users", report).into_iter().filter_map(|section| read_user(section, report));
    let users = users.collect();
    let key_columns = root.section("keyspace", report).map(|section| read_keyspace(section, report));
    let shards = root.sections("shards", "shards", report).into_iter().map(|section| read_shard(section, report));
    let shards: Vec<ShardConfig> = shards.collect();
    let tables =
        root.sections("tables", "tables", report).into_iter().filter_map(|section| read_table(section, report));
    let tables = tables.collect();
    root.finish(report);
    Some(Config {
        file_name: report.file_name().to_owned(),
        proxy,
        store,
        failover,
        http,
        pool,
        replicas,
        merge,
        control,
        auth,
        tls,
        servers_tls,
        users,
        key_columns: key_columns.unwrap_or_default(),
        shards,
        tables,
    })
}

fn read_proxy(section: Option<Section>, report: &mut Report) -> ProxyConfig {
    let mut proxy = ProxyConfig {
        listen: "127.0.0.1:6432".to_owned(),
        unix_socket_dir: None,
        data: PathBuf::new(),
        database: String::new(),
        other_databases: false,
        clients_max: 1_000,
        clients_max_per_user: CLIENTS_MAX as usize,
        clients_reserved: 3,
        logins_max: 1_000,
        login_timeout: Duration::from_secs(60),
        message_bytes_max: MESSAGE_BYTES_MAX,
        idle_transaction_timeout: None,
        workers: None,
    };
    let Some(mut section) = section else {
        let hint = "add a section [proxy] with data and database".to_owned();
        report.at_offset(0, "the section [proxy] is missing", Some(hint));
        return proxy;
    };
    if let Some(listen) = read_address(&mut section, "127.0.0.1:6432", report) {
        proxy.listen = listen;
    }
    if let Some(directory) = section.text("unix_socket_dir", report) {
        if !directory.value.starts_with('/') {
            let hint = "write an absolute path: \"/var/run/postgresql\"".to_owned();
            report.at_offset(directory.offset, "unix_socket_dir is no absolute path", Some(hint));
        }
        proxy.unix_socket_dir = Some(PathBuf::from(directory.value));
    }
    if let Some(data) = section.required_text("data", "/var/lib/ostrakon", report) {
        proxy.data = PathBuf::from(data.value);
    }
    if let Some(database) = section.required_text("database", "app", report) {
        proxy.database = database.value;
    }
    proxy.other_databases = section.flag("other_databases", report).is_some_and(|flag| flag.value);
    let mut number = |key, bounds, default| section.integer(key, bounds, default, report) as usize;
    proxy.clients_max = number("clients_max", 1..=CLIENTS_MAX, 1_000);
    proxy.clients_max_per_user = number("clients_max_per_user", 1..=CLIENTS_MAX, CLIENTS_MAX);
    proxy.clients_reserved = number("clients_reserved", 0..=1_000, 3);
    proxy.logins_max = number("logins_max", 1..=CLIENTS_MAX, 1_000);
    proxy.message_bytes_max = number("message_bytes_max", 65_536..=MESSAGE_BYTES_MAX as u64, MESSAGE_BYTES_MAX as u64);
    let workers = number("workers", 0..=WORKERS_MAX, 0);
    proxy.workers = (workers > 0).then_some(workers);
    proxy.login_timeout =
        Duration::from_millis(section.integer("login_timeout_ms", 100..=TIMEOUT_MS_MAX, 60_000, report));
    let idle = section.integer("idle_transaction_timeout_ms", 0..=TIMEOUT_MS_MAX, 0, report);
    proxy.idle_transaction_timeout = (idle > 0).then(|| Duration::from_millis(idle));
    section.finish(report);
    proxy
}

fn read_address(section: &mut Section, example: &str, report: &mut Report) -> Option<String> {
    let listen = section.text("listen", report)?;
    let port = listen.value.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        let hint = format!("write an address and a port: {example:?}");
        report.at_offset(listen.offset, format!("listen is no address: {:?}", listen.value), Some(hint));
    }
    Some(listen.value)
}

fn read_http(section: Option<Section>, report: &mut Report) -> HttpConfig {
    let Some(mut section) = section else { return HttpConfig::default() };
    let listen = read_address(&mut section, "127.0.0.1:6480", report);
    section.finish(report);
    HttpConfig { listen }
}

fn read_pool(section: Option<Section>, report: &mut Report) -> PoolConfig {
    // Without the section an empty one gives the defaults, so that they are written once.
    let empty = DeTable::new();
    let mut section = section.unwrap_or_else(|| Section::new("[pool]", &empty, 0));
    let mut timeout = |key, default| Duration::from_millis(section.integer(key, 1..=TIMEOUT_MS_MAX, default, report));
    let checkout_timeout = timeout("checkout_timeout_ms", 5_000);
    let connect_timeout = timeout("connect_timeout_ms", 5_000);
    let idle_timeout = timeout("idle_timeout_ms", 600_000);
    let lifetime = timeout("lifetime_ms", 3_600_000);
    let mut number = |key, bounds, default| section.integer(key, bounds, default, report) as usize;
    let size = number("size", 1..=POOL_SIZE_MAX, 20);
    let size_min = number("size_min", 0..=size as u64, 0);
    let connects_max = number("connects_max", 1..=POOL_SIZE_MAX, 8);
    let connects_per_s = number("connects_per_s", 1..=100_000, 100);
    let mode = read_mode(&mut section, "mode", report).unwrap_or_default();
    section.finish(report);
    PoolConfig {
        mode,
        size,
        size_min,
        checkout_timeout,
        connect_timeout,
        idle_timeout,
        lifetime,
        connects_max,
        connects_per_s,
    }
}

fn read_replicas(section: Option<Section>, report: &mut Report) -> ReplicasConfig {
    let empty = DeTable::new();
    let mut section = section.unwrap_or_else(|| Section::new("[replicas]", &empty, 0));
    let read_from = read_read_from(&mut section, report).unwrap_or_default();
    let zone = section.text("zone", report).map(|zone| zone.value).unwrap_or_default();
    let mut time = |key, bounds, default| Duration::from_millis(section.integer(key, bounds, default, report));
    let lag_max = time("lag_max_ms", 1..=TIMEOUT_MS_MAX, 10_000);
    let wait_max = time("wait_max_ms", 0..=10_000, 10);
    let sample_pause = time("sample_pause_ms", 2..=10_000, 50);
    section.finish(report);
    ReplicasConfig { read_from, zone, lag_max, wait_max, sample_pause }
}

fn read_read_from(section: &mut Section, report: &mut Report) -> Option<ReadFrom> {
    section.word("read_from", &ReadFrom::ALL.map(ReadFrom::as_str), ReadFrom::from_word, report)
}

fn read_merge(section: Option<Section>, report: &mut Report) -> MergeConfig {
    let empty = DeTable::new();
    let mut section = section.unwrap_or_else(|| Section::new("[merge]", &empty, 0));
    let mut number = |key, bounds, default| section.integer(key, bounds, default, report) as usize;
    let rows_max = number("rows_max", 1..=1_000_000_000, 1_000_000);
    let bytes_max = number("bytes_max", BUDGET_BYTES_MIN..=BUDGET_BYTES_MAX, 256 << 20);
    let gather_bytes_max = number("gather_bytes_max", BUDGET_BYTES_MIN..=GATHER_BYTES_MAX, 64 << 20);
    section.finish(report);
    MergeConfig { rows_max, bytes_max, gather_bytes_max }
}

fn read_mode(section: &mut Section, key: &'static str, report: &mut Report) -> Option<PoolMode> {
    section.word(key, &PoolMode::ALL.map(PoolMode::as_str), PoolMode::from_word, report)
}

fn read_control(section: Option<Section>, report: &mut Report) -> ControlConfig {
    let mut control = ControlConfig { user: "postgres".to_owned(), password: None };
    let Some(mut section) = section else { return control };
    if let Some(user) = section.text("user", report) {
        control.user = user.value;
    }
    control.password = auth::read_password(&mut section, report);
    section.finish(report);
    control
}

fn read_user(mut section: Section, report: &mut Report) -> Option<UserConfig> {
    let position = section.position(report);
    let name = section.required_text("name", "app", report);
    let password = auth::read_password(&mut section, report);
    let pool_mode = read_mode(&mut section, "pool_mode", report);
    let read_from = read_read_from(&mut section, report);
    let pool_size = section.optional_integer("pool_size", 1..=POOL_SIZE_MAX, report).map(|size| size as usize);
    let clients_max = section.optional_integer("clients_max", 1..=CLIENTS_MAX, report).map(|max| max as usize);
    section.finish(report);
    Some(UserConfig { name: name?.value, password, pool_mode, read_from, pool_size, clients_max, position })
}

fn read_keyspace(mut section: Section, report: &mut Report) -> Vec<Vec<String>> {
    let mut rules: Vec<Vec<String>> = Vec::new();
    for rule in section.text_lists("key_columns", report) {
        check_columns("key_columns", &rule, report);
        if rules.contains(&rule.value) {
            report.at_offset(rule.offset, format!("({}) is there twice", rule.value.join(", ")), None);
        }
        rules.push(rule.value);
    }
    section.finish(report);
    rules
}

fn check_columns(key: &str, columns: &At<Vec<String>>, report: &mut Report) {
    let mut seen: Vec<&String> = Vec::new();
    if columns.value.is_empty() || columns.value.iter().any(String::is_empty) {
        let hint = format!("write {key} = [\"tenant_id\"]");
        report.at_offset(columns.offset, format!("{key} names no column"), Some(hint));
    }
    for column in &columns.value {
        if seen.contains(&column) {
            report.at_offset(columns.offset, format!("{key} has the column {column} twice"), None);
        }
        seen.push(column);
    }
}

/// A shard without a readable name is kept, so that its nodes are checked too; the missing name has
/// been reported.
fn read_shard(mut section: Section, report: &mut Report) -> ShardConfig {
    let position = section.position(report);
    let name = section.required_text("name", "s1", report).map(|name| name.value).unwrap_or_default();
    let weight = section.integer("weight", 0..=WEIGHT_MAX, u64::from(WEIGHT_NORMAL), report) as u32;
    let mut nodes = Vec::new();
    for node in section.sections("nodes", "shards.nodes", report) {
        nodes.push(read_node(node, nodes.is_empty(), report));
    }
    section.finish(report);
    ShardConfig { name, weight, nodes, position }
}

fn read_node(mut section: Section, first: bool, report: &mut Report) -> NodeConfig {
    let position = section.position(report);
    let mut text = |key, example| {
        section.required_text(key, example, report).map(|text: At<String>| text.value).unwrap_or_default()
    };
    let name = text("name", "s1a");
    let host = text("host", "10.0.0.1");
    let port = section.integer("port", 1..=65_535, 5_432, report) as u16;
    let zone = section.text("zone", report).map(|zone| zone.value).unwrap_or_default();
    let default = if first { Role::Primary } else { Role::Replica };
    let role = section.text("role", report).map_or(default, |role| match role.value.as_str() {
        "primary" => Role::Primary,
        "replica" => Role::Replica,
        other => {
            let hint = match nearest(other, ["primary", "replica"]) {
                Some(near) => format!("did you mean {near}?"),
                None => "primary and replica are known".to_owned(),
            };
            report.at_offset(role.offset, format!("unknown role {other}"), Some(hint));
            default
        }
    });
    let tls = tls::read_mode(&mut section, "tls", report);
    section.finish(report);
    NodeConfig { name, host, port, zone, role, tls, position }
}

fn read_table(mut section: Section, report: &mut Report) -> Option<TableConfig> {
    let position = section.position(report);
    let name = section.required_text("name", "public.users", report);
    let key = section.texts("key", report);
    let reference = section.flag("reference", report).is_some_and(|flag| flag.value);
    let single = section.flag("single", report).is_some_and(|flag| flag.value);
    let home = section.text("home", report);
    section.finish(report);
    let name = read_table_name(&name?, report)?;
    if let Some(home) = home.as_ref().filter(|_| !single) {
        let hint = "add single = true, or remove home".to_owned();
        report.at_offset(home.offset, "home is for single tables only", Some(hint));
    }
    let placement = match (key, reference, single) {
        (Some(key), false, false) => {
            check_columns("key", &key, report);
            TablePlacement::Sharded { key: key.value }
        }
        (None, true, false) => TablePlacement::Reference,
        (None, false, true) => TablePlacement::Single { home: home.map(|home| home.value) },
        (None, false, false) => {
            let hint = "add key = [\"id\"], reference = true or single = true".to_owned();
            report.at(position, "the table has no placement", Some(hint));
            return None;
        }
        _ => {
            let hint = "keep one of key, reference and single".to_owned();
            report.at(position, "the table has more than one placement", Some(hint));
            return None;
        }
    };
    Some(TableConfig { name, placement, position })
}

/// `name` or `schema.name`, as the catalog spells them.
fn read_table_name(name: &At<String>, report: &mut Report) -> Option<TableName> {
    let (schema, table) = name.value.split_once('.').unwrap_or(("public", &name.value));
    if schema.is_empty() || table.is_empty() || table.contains('.') {
        let hint = "write \"users\" or \"public.users\"".to_owned();
        report.at_offset(name.offset, format!("{:?} is no table name", name.value), Some(hint));
        return None;
    }
    Some(TableName { schema: schema.to_owned(), name: table.to_owned() })
}
