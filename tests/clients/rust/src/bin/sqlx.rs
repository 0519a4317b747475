//! sqlx: queries described and cached by the driver, its pool, migrations, streams, COPY, notifications.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Mutex;

use anyhow::{Context as _, Result};
use clients::{Param, Statement, Steps, script, statements};
use futures_util::TryStreamExt as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions, PgRow};
use sqlx::types::{BigDecimal, Uuid};
use sqlx::{
    Acquire as _, Column as _, ConnectOptions as _, Connection as _, Executor as _, PgConnection, Row as _,
    TypeInfo as _,
};

type Saved = Mutex<HashMap<String, i64>>;

struct Shop {
    pool: PgPool,
    saved: Saved,
    list: HashMap<String, Vec<Statement>>,
    steps: Steps,
}

fn fault(error: &anyhow::Error) -> Option<(String, String)> {
    let database =
        error.chain().find_map(|cause| cause.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error))?;
    Some((database.code()?.into_owned(), database.message().to_owned()))
}

fn options() -> PgConnectOptions {
    std::env::var("DATABASE_URL").unwrap().parse::<PgConnectOptions>().unwrap().disable_statement_logging()
}

/// A value as PostgreSQL would print it.
fn cell(row: &PgRow, at: usize) -> Result<String> {
    let text = match row.column(at).type_info().name() {
        "INT8" => row.try_get::<Option<i64>, _>(at)?.map(|value| value.to_string()),
        "INT4" => row.try_get::<Option<i32>, _>(at)?.map(|value| value.to_string()),
        "NUMERIC" => row.try_get::<Option<BigDecimal>, _>(at)?.map(|value| value.with_scale(2).to_plain_string()),
        "BOOL" => row.try_get::<Option<bool>, _>(at)?.map(|value| value.to_string()),
        "UUID" => row.try_get::<Option<Uuid>, _>(at)?.map(|value| value.to_string()),
        _ => row.try_get_unchecked::<Option<String>, _>(at)?,
    };
    Ok(text.unwrap_or_default())
}

fn show(rows: &[PgRow]) -> Result<String> {
    let line = |row: &PgRow| Ok((0..row.len()).map(|at| cell(row, at)).collect::<Result<Vec<_>>>()?.join(","));
    Ok(rows.iter().map(line).collect::<Result<Vec<_>>>()?.join(" | "))
}

async fn insert_user(connection: &mut PgConnection, tenant: i64, email: &str) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO users (tenant_id, email, name) VALUES ($1, $2, $2)")
        .bind(tenant)
        .bind(email)
        .execute(connection)
        .await?;
    Ok(())
}

impl Shop {
    fn id(&self, name: &str) -> i64 {
        self.saved.lock().unwrap()[name]
    }

    async fn run(&self, step: &str) -> Result<String> {
        let mut results = Vec::new();
        for statement in &self.list[step] {
            let mut query = sqlx::query(&statement.text);
            for param in &statement.params {
                query = match param {
                    Param::Saved(name) => query.bind(self.id(name)),
                    Param::Text(text) => query.bind(text),
                    Param::Number(number) => query.bind(number),
                };
            }
            if let Some(name) = &statement.save {
                let id = query.fetch_one(&self.pool).await?.try_get(0)?;
                self.saved.lock().unwrap().insert(name.clone(), id);
            } else if statement.text.starts_with("SELECT") {
                results.push(show(&query.fetch_all(&self.pool).await?)?);
            } else {
                let touched = query.execute(&self.pool).await?.rows_affected();
                if ["INSERT", "UPDATE", "DELETE"].iter().any(|verb| statement.text.starts_with(verb)) {
                    results.push(format!("{touched} rows"));
                }
            }
        }
        Ok(results.join("; "))
    }

    /// Migrations up to the n-th, by sqlx's migrator under its advisory lock.
    async fn migrate_to(&self, version: usize) -> Result<()> {
        let texts = [
            (script("migrate"), false),
            (script("migrate-column"), false),
            (script("migrate-index-concurrently"), true),
            (script("migrate-enum-value"), true),
            (
                "CREATE TABLE half_done (id int PRIMARY KEY); ALTER TABLE no_such_table ADD COLUMN x int".to_owned(),
                false,
            ),
        ];
        let migrations = texts.into_iter().take(version).enumerate().map(|(n, (text, no_tx))| {
            Migration::new(
                n as i64 + 1,
                Cow::Owned(format!("step {n}")),
                MigrationType::Simple,
                Cow::Owned(text),
                no_tx,
            )
        });
        Migrator { migrations: migrations.collect::<Vec<_>>().into(), ..Migrator::DEFAULT }.run(&self.pool).await?;
        Ok(())
    }

    /// Migrates, then asks what the step's SELECTs ask.
    async fn migrated(&self, version: usize, step: &str) -> Result<String> {
        self.migrate_to(version).await?;
        let mut asked = Vec::new();
        let asks =
            |statement: &&Statement| statement.text.starts_with("SELECT") || statement.text.starts_with("UPDATE");
        for statement in self.list[step].iter().filter(asks) {
            let mut query = sqlx::query(&statement.text);
            for param in &statement.params {
                let Param::Saved(name) = param else {
                    if let Param::Text(text) = param {
                        query = query.bind(text);
                    }
                    continue;
                };
                query = query.bind(self.id(name));
            }
            asked.push(show(&query.fetch_all(&self.pool).await?)?);
        }
        Ok(asked.join("; ").replace("_sqlx_migrations | ", ""))
    }

    async fn graph(&self) -> Result<String> {
        sqlx::query("INSERT INTO countries VALUES ('de', 'Germany'), ('fr', 'France'), ('us', 'United States')")
            .execute(&self.pool)
            .await?;
        for t in 1..=4 {
            let mut tx = self.pool.begin().await?;
            let tenant: i64 = sqlx::query_scalar("INSERT INTO tenants (name) VALUES ($1) RETURNING id")
                .bind(format!("t{t}"))
                .fetch_one(&mut *tx)
                .await?;
            self.saved.lock().unwrap().insert(format!("t{t}"), tenant);
            for u in 1..=3 {
                let user: i64 = sqlx::query_scalar(
                    "INSERT INTO users (tenant_id, email, name, country) VALUES ($1, $2, $3, $4) RETURNING id",
                )
                .bind(tenant)
                .bind(format!("u{u}@t{t}"))
                .bind(format!("user {u}"))
                .bind(["de", "fr", "us"][u - 1])
                .fetch_one(&mut *tx)
                .await?;
                for o in 1..=2 {
                    let amount: BigDecimal =
                        format!("{}", 10.0 * f64::from(t) + u as f64 + 0.25 * f64::from(o)).parse()?;
                    let order: i64 = sqlx::query_scalar(
                        "INSERT INTO orders (tenant_id, user_id, amount) VALUES ($1, $2, $3) RETURNING id",
                    )
                    .bind(tenant)
                    .bind(user)
                    .bind(amount)
                    .fetch_one(&mut *tx)
                    .await?;
                    sqlx::query("INSERT INTO order_items (tenant_id, order_id, product, quantity) VALUES ($1, $2, 'pen', 1), ($1, $2, 'ink', 2)")
                        .bind(tenant).bind(order).execute(&mut *tx).await?;
                    sqlx::query("INSERT INTO order_notes (order_id, text) VALUES ($1, 'note')")
                        .bind(order)
                        .execute(&mut *tx)
                        .await?;
                }
            }
            tx.commit().await?;
        }
        let mut counts = String::new();
        for table in ["tenants", "users", "orders", "order_items", "order_notes"] {
            let count: i64 = sqlx::query_scalar(&format!("SELECT count(*) FROM {table}")).fetch_one(&self.pool).await?;
            counts += &format!("{table} {count} ");
        }
        let rows = sqlx::query(
            "SELECT u.name, o.amount FROM users u JOIN orders o ON o.user_id = u.id AND o.tenant_id = u.tenant_id
            WHERE u.tenant_id = $1 ORDER BY u.name, o.amount",
        )
        .bind(self.id("t1"))
        .fetch_all(&self.pool)
        .await?;
        Ok(counts + &show(&rows)?)
    }

    async fn bulk_insert(&self) -> Result<String> {
        let wanted: Vec<String> = (0..20).map(|n| format!("b{n:02}")).collect();
        let mut builder = sqlx::QueryBuilder::new("INSERT INTO users (tenant_id, email, name) ");
        builder.push_values(&wanted, |mut row, email| {
            row.push_bind(self.id("t1")).push_bind(email).push_bind("bulk");
        });
        builder.push(" RETURNING id");
        let ids: Vec<i64> = builder.build_query_scalar().fetch_all(&self.pool).await?;
        let mut read: Vec<String> = Vec::new();
        for id in ids {
            read.push(
                sqlx::query_scalar("SELECT email FROM users WHERE tenant_id = $1 AND id = $2")
                    .bind(self.id("t1"))
                    .bind(id)
                    .fetch_one(&self.pool)
                    .await?,
            );
        }
        Ok(format!("{}: {}", if read == wanted { "order kept" } else { "order lost" }, read.join(" ")))
    }

    async fn uuid(&self) -> Result<String> {
        let id = Uuid::new_v4();
        sqlx::query("INSERT INTO documents (tenant_id, id, title) VALUES ($1, $2, 'charter')")
            .bind(self.id("t1"))
            .bind(id)
            .execute(&self.pool)
            .await?;
        let query = sqlx::query_scalar("SELECT title FROM documents WHERE tenant_id = $1 AND id = $2");
        Ok(query.bind(self.id("t1")).bind(id).fetch_one(&self.pool).await?)
    }

    async fn children(&self, one_query: bool) -> Result<String> {
        let text = "SELECT id FROM users WHERE tenant_id = $1 AND email LIKE 'u%' ORDER BY email";
        let users: Vec<i64> = sqlx::query_scalar(text).bind(self.id("t1")).fetch_all(&self.pool).await?;
        let text = "SELECT amount FROM orders WHERE tenant_id = $1 AND user_id = ANY ($2) ORDER BY amount";
        let mut lines = Vec::new();
        for ids in users.chunks(if one_query { users.len() } else { 1 }) {
            lines.push(show(&sqlx::query(text).bind(self.id("t1")).bind(ids).fetch_all(&self.pool).await?)?);
        }
        Ok(lines.join(" / "))
    }

    async fn emails(&self, like: &str) -> Result<String> {
        let query = sqlx::query("SELECT email FROM users WHERE tenant_id = $1 AND email LIKE $2 ORDER BY email");
        show(&query.bind(self.id("t4")).bind(like).fetch_all(&self.pool).await?)
    }

    async fn savepoint(&self) -> Result<String> {
        let mut tx = self.pool.begin().await?;
        insert_user(&mut tx, self.id("t4"), "s1").await?;
        let mut inner = tx.begin().await?;
        let failure = insert_user(&mut inner, self.id("t4"), "s1").await;
        let unique = failure
            .as_ref()
            .err()
            .and_then(sqlx::Error::as_database_error)
            .is_some_and(|error| error.is_unique_violation());
        let caught = self.steps.expected(failure)?;
        inner.rollback().await?;
        insert_user(&mut tx, self.id("t4"), "s2").await?;
        tx.commit().await?;
        Ok(format!("{caught} unique {unique}: {}", self.emails("s%").await?))
    }

    async fn nested(&self) -> Result<String> {
        let mut outer = self.pool.begin().await?;
        insert_user(&mut outer, self.id("t4"), "n1").await?;
        let mut middle = outer.begin().await?;
        insert_user(&mut middle, self.id("t4"), "n2").await?;
        let mut inner = middle.begin().await?;
        insert_user(&mut inner, self.id("t4"), "n3").await?;
        inner.commit().await?;
        // Dropped, not rolled back: the driver owes the ROLLBACK with the next statement.
        drop(middle);
        insert_user(&mut outer, self.id("t4"), "n4").await?;
        outer.commit().await?;
        self.emails("n%").await
    }

    async fn optimistic(&self) -> Result<String> {
        let mut told = Vec::new();
        for _ in 0..2 {
            let query = sqlx::query(
                "UPDATE users SET name = 'x', version = version + 1 WHERE tenant_id = $1 AND email = 'u1@t4' AND version = $2",
            );
            let touched = query.bind(self.id("t4")).bind(1).execute(&self.pool).await?.rows_affected();
            told.push(if touched == 1 { "updated" } else { "stale" });
        }
        Ok(told.join(" "))
    }

    async fn skip_locked(&self) -> Result<String> {
        let text = "SELECT amount FROM orders WHERE tenant_id = $1 ORDER BY amount LIMIT 2 FOR UPDATE SKIP LOCKED";
        let mut one = self.pool.begin().await?;
        let first = sqlx::query(text).bind(self.id("t2")).fetch_all(&mut *one).await?;
        let mut two = self.pool.begin().await?;
        let second = sqlx::query(text).bind(self.id("t2")).fetch_all(&mut *two).await?;
        two.commit().await?;
        one.commit().await?;
        Ok(format!("{} / {}", show(&first)?, show(&second)?))
    }

    async fn cursor(&self, query: &str) -> Result<String> {
        let mut tx = self.pool.begin().await?;
        tx.execute(&*format!("DECLARE c NO SCROLL CURSOR FOR {query}")).await?;
        let (mut count, mut sum) = (0, BigDecimal::from(0));
        loop {
            let amounts: Vec<BigDecimal> = sqlx::query_scalar("FETCH 5 FROM c").fetch_all(&mut *tx).await?;
            if amounts.is_empty() {
                break;
            }
            count += amounts.len();
            sum = amounts.into_iter().fold(sum, |sum, amount| sum + amount);
        }
        tx.commit().await?;
        Ok(format!("{count} rows {}", sum.to_plain_string()))
    }

    async fn serializable(&self) -> Result<String> {
        let (mut one, mut two) = (self.pool.acquire().await?, self.pool.acquire().await?);
        let text = "SELECT count(*) FROM users WHERE tenant_id = $1 AND country = 'de'";
        let (mut first, mut second) = (
            one.begin_with("BEGIN ISOLATION LEVEL SERIALIZABLE").await?,
            two.begin_with("BEGIN ISOLATION LEVEL SERIALIZABLE").await?,
        );
        sqlx::query(text).bind(self.id("t3")).fetch_one(&mut *first).await?;
        sqlx::query(text).bind(self.id("t3")).fetch_one(&mut *second).await?;
        let write = "UPDATE users SET country = 'us' WHERE tenant_id = $1 AND email = $2";
        sqlx::query(write).bind(self.id("t3")).bind("u1@t3").execute(&mut *first).await?;
        first.commit().await?;
        let late = async {
            sqlx::query(write).bind(self.id("t3")).bind("u2@t3").execute(&mut *second).await?;
            second.commit().await
        };
        let failure = self.steps.expected(late.await)?;
        sqlx::query(write).bind(self.id("t3")).bind("u2@t3").execute(&mut *two).await?;
        Ok(format!("{failure}, retried"))
    }

    async fn migrate_fails(&self) -> Result<String> {
        let failure = self.steps.expected(self.migrate_to(5).await)?;
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE tablename = 'half_done'")
            .fetch_one(&self.pool)
            .await?;
        Ok(format!("{failure}, left {left}"))
    }

    async fn reconnect(&self) -> Result<String> {
        let victims = PgPoolOptions::new().max_connections(1).connect_with(options()).await?;
        let mut tx = victims.begin().await?;
        let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *tx).await?;
        sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(&self.pool).await?;
        let failure = self.steps.expected(sqlx::query("SELECT pg_sleep(1)").execute(&mut *tx).await)?;
        drop(tx);
        let two: i32 = sqlx::query_scalar("SELECT 2").fetch_one(&victims).await?;
        Ok(format!("{failure}, then {two}"))
    }

    async fn eight_tenants(&self) -> Result<String> {
        let workers = (0..8).map(|n| tokio::spawn(worker(n)));
        let (mut foreign, mut rows) = (0, 0);
        for worker in workers.collect::<Vec<_>>() {
            let (bad, good) = worker.await??;
            (foreign, rows) = (foreign + bad, rows + good);
        }
        Ok(format!("foreign {foreign}, rows {rows}"))
    }

    // Beyond the common steps: what only this driver has.

    async fn describe(&self) -> Result<String> {
        let described = self.pool.describe("SELECT u.id, u.country, o.amount FROM users u LEFT JOIN orders o ON o.user_id = u.id AND o.tenant_id = u.tenant_id WHERE u.tenant_id = $1").await?;
        let columns = described.columns().iter().enumerate();
        let told: Vec<String> = columns
            .map(|(at, column)| format!("{} {} {:?}", column.name(), column.type_info(), described.nullable(at)))
            .collect();
        Ok(format!("{} of {:?}", told.join(", "), described.parameters()))
    }

    /// What sqlx's own guide recommends for many rows: arrays.
    async fn unnest(&self) -> Result<String> {
        let tenants: Vec<i64> = (0..12).map(|n| self.id(&format!("t{}", n % 4 + 1))).collect();
        let titles: Vec<String> = (0..12).map(|n| format!("array {n}")).collect();
        let text =
            "INSERT INTO documents (tenant_id, id, title) SELECT * FROM UNNEST($1::int8[], $2::uuid[], $3::text[])";
        let ids: Vec<Uuid> = titles.iter().map(|_| Uuid::new_v4()).collect();
        let made = sqlx::query(text).bind(tenants).bind(ids).bind(titles).execute(&self.pool).await?.rows_affected();
        let gone =
            sqlx::query("DELETE FROM documents WHERE title LIKE 'array%'").execute(&self.pool).await?.rows_affected();
        Ok(format!("{made} {gone}"))
    }

    /// More statements than the driver's cache holds: it closes the oldest.
    async fn small_cache(&self) -> Result<String> {
        let mut own = PgConnection::connect_with(&options().statement_cache_capacity(3)).await?;
        let mut sum = 0;
        for round in 0..3 {
            for n in 0..8 {
                let value: i64 = sqlx::query_scalar(&format!("SELECT count(*) + {n} FROM orders WHERE tenant_id = $1"))
                    .bind(self.id("t2"))
                    .fetch_one(&mut own)
                    .await?;
                sum += value * (round + 1);
            }
        }
        let kept = own.cached_statements_size();
        own.clear_cached_statements().await?;
        let again: i64 = sqlx::query_scalar("SELECT count(*) FROM orders WHERE tenant_id = $1")
            .bind(self.id("t2"))
            .fetch_one(&mut own)
            .await?;
        Ok(format!("{sum}, {kept} kept, {again}"))
    }

    async fn copy(&self) -> Result<String> {
        let mut own = self.pool.acquire().await?;
        let mut into = own.copy_in_raw("COPY documents (tenant_id, title) FROM STDIN (FORMAT csv)").await?;
        for n in 0..200 {
            into.send(format!("{},copied {n}\n", self.id(&format!("t{}", n % 4 + 1))).into_bytes()).await?;
        }
        let sent = into.finish().await?;
        let mut given_up = own.copy_in_raw("COPY documents (tenant_id, title) FROM STDIN").await?;
        given_up.send(format!("{}\tnever\n", self.id("t1")).into_bytes()).await?;
        given_up.abort("changed my mind").await?;
        let text = format!("COPY (SELECT title FROM documents WHERE tenant_id = {}) TO STDOUT", self.id("t3"));
        let chunks: Vec<_> = own.copy_out_raw(&text).await?.try_collect().await?;
        let lines: usize = chunks.iter().map(|chunk| chunk.iter().filter(|byte| **byte == b'\n').count()).sum();
        let gone =
            sqlx::query("DELETE FROM documents WHERE title LIKE 'copied%'").execute(&mut *own).await?.rows_affected();
        Ok(format!("{sent} in, {lines} out, {gone} removed"))
    }

    async fn stream(&self) -> Result<String> {
        let mut rows = sqlx::query_scalar::<_, i32>("SELECT n FROM generate_series(1, 3000) AS n").fetch(&self.pool);
        let mut sum = 0_i64;
        while let Some(n) = rows.try_next().await? {
            sum += i64::from(n);
        }
        drop(rows);
        let mut early = sqlx::query_scalar::<_, i32>("SELECT n FROM generate_series(1, 3000) AS n").fetch(&self.pool);
        let first = early.try_next().await?.context("a row")?;
        drop(early);
        let after: i32 = sqlx::query_scalar("SELECT 7").fetch_one(&self.pool).await?;
        Ok(format!("{sum}, {first}, {after}"))
    }

    async fn listen(&self) -> Result<String> {
        let mut listener = PgListener::connect_with(&PgPoolOptions::new().connect_with(options()).await?).await?;
        listener.listen("news").await?;
        sqlx::query("SELECT pg_notify('news', 'hello')").execute(&self.pool).await?;
        let heard = tokio::time::timeout(std::time::Duration::from_secs(5), listener.recv()).await??;
        Ok(format!("{} {}", heard.channel(), heard.payload()))
    }

    async fn settings(&self) -> Result<String> {
        let options =
            options().options([("statement_timeout", "200ms"), ("search_path", "public")]).application_name("shop");
        let mut own = PgConnection::connect_with(&options).await?;
        let failure = self.steps.expected(sqlx::query("SELECT pg_sleep(5)").execute(&mut own).await)?;
        let name: String = sqlx::query_scalar("SHOW application_name").fetch_one(&mut own).await?;
        own.close().await?;
        Ok(format!("{failure} {name}"))
    }

    async fn multi(&self) -> Result<String> {
        let text = "CREATE TABLE many (a int PRIMARY KEY); INSERT INTO many VALUES (1), (2); SELECT a FROM many; DROP TABLE many";
        let rows = sqlx::raw_sql(text).fetch_all(&self.pool).await?;
        Ok(format!("{} rows", rows.len()))
    }
}

async fn worker(n: i64) -> Result<(usize, usize)> {
    let mut own = PgConnection::connect_with(&options().application_name(&format!("worker{n}"))).await?;
    let tenant: i64 = sqlx::query_scalar("INSERT INTO tenants (name) VALUES ($1) RETURNING id")
        .bind(format!("w{n}"))
        .fetch_one(&mut own)
        .await?;
    own.execute(&*format!("SET work_mem = '{}MB'", n + 1)).await?;
    let (mut foreign, mut rows) = (0, 0);
    for round in 0..15 {
        insert_user(&mut own, tenant, &format!("w{n}-{round}")).await?;
        let emails: Vec<String> =
            sqlx::query_scalar("SELECT email FROM users WHERE tenant_id = $1").bind(tenant).fetch_all(&mut own).await?;
        foreign += emails.iter().filter(|email| !email.starts_with(&format!("w{n}-"))).count();
        rows += emails.len();
        for (setting, wanted) in [("work_mem", format!("{}MB", n + 1)), ("application_name", format!("worker{n}"))] {
            let value: String = sqlx::query_scalar(&format!("SHOW {setting}")).fetch_one(&mut own).await?;
            foreign += usize::from(value != wanted);
        }
    }
    Ok((foreign, rows))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let pool = PgPoolOptions::new().max_connections(4).connect_with(options()).await?;
    let shop = Shop { pool, saved: Mutex::default(), list: statements(), steps: Steps::new(fault) };
    macro_rules! step {
        ($name:expr, $after:expr, $work:expr) => {
            if shop.steps.may_run($name, $after) {
                shop.steps.ended($name, $work.await);
            }
        };
    }
    macro_rules! sql {
        ($($name:literal)*) => { $(step!($name, "graph", shop.run($name));)* };
    }
    step!("migrate", "", shop.migrated(1, "migrate"));
    step!("graph", "migrate", shop.graph());
    step!("bulk-insert-returning", "graph", shop.bulk_insert());
    sql!("upsert-with-key" "upsert-without-key" "get-without-key");
    step!("get-uuid", "graph", shop.uuid());
    step!("lazy", "graph", shop.children(false));
    step!("select-in", "graph", shop.children(true));
    sql!("eager" "eager-page" "page" "page-all" "count" "count-all" "avg" "avg-all" "distinct" "distinct-all" "having" "having-all" "exists" "exists-all");
    step!("savepoint", "graph", shop.savepoint());
    step!("nested", "graph", shop.nested());
    step!("optimistic", "graph", shop.optimistic());
    step!("skip-locked", "graph", shop.skip_locked());
    sql!("bulk-update" "bulk-update-all" "bulk-delete" "bulk-delete-all" "cascade");
    step!(
        "cursor",
        "graph",
        shop.cursor(&format!("SELECT amount FROM orders WHERE tenant_id = {} ORDER BY amount, id", shop.id("t1")))
    );
    step!("cursor-all", "graph", shop.cursor("SELECT amount FROM orders ORDER BY amount, id"));
    step!("serializable", "graph", shop.serializable());
    sql!("reflection");
    step!("migrate-column", "graph", shop.migrated(2, "migrate-column"));
    step!("migrate-index-concurrently", "graph", shop.migrated(3, "migrate-index-concurrently"));
    step!("migrate-enum-value", "graph", shop.migrated(4, "migrate-enum-value"));
    step!("migrate-fails", "graph", shop.migrate_fails());
    step!("bulk-insert-unnest", "graph", shop.unnest());
    step!("describe", "graph", shop.describe());
    step!("small-statement-cache", "graph", shop.small_cache());
    step!("copy", "graph", shop.copy());
    step!("stream", "", shop.stream());
    step!("multi-statement", "", shop.multi());
    step!("settings", "", shop.settings());
    step!("listen-notify", "", shop.listen());
    step!("reconnect", "", shop.reconnect());
    sql!("truncate");
    step!("eight-tenants", "migrate", shop.eight_tenants());
    Ok(())
}
