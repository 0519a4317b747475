//! Diesel: its query builder, associations, nested transactions, migrations from files.

use std::fs;
use std::sync::Mutex;

use anyhow::Result;
use bigdecimal::BigDecimal;
use clients::{Steps, script};
use diesel::dsl::{avg, count, count_star, exists, sum};
use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error};
use diesel::sql_types::{BigInt, Bool, Integer, Text};
use diesel::upsert::excluded;
use diesel_migrations::{FileBasedMigrations, MigrationHarness as _};
use uuid::Uuid;

diesel::table! {
    tenants (id) { id -> BigInt, name -> Text, }
}
diesel::table! {
    countries (code) { code -> Text, name -> Text, }
}
diesel::table! {
    users (id) { id -> BigInt, tenant_id -> BigInt, email -> Text, name -> Text, country -> Nullable<Text>, version -> Integer, }
}
diesel::table! {
    orders (id) { id -> BigInt, tenant_id -> BigInt, user_id -> BigInt, amount -> Numeric, }
}
diesel::table! {
    order_items (id) { id -> BigInt, tenant_id -> BigInt, order_id -> BigInt, product -> Text, quantity -> Integer, }
}
diesel::table! {
    order_notes (id) { id -> BigInt, order_id -> BigInt, text -> Text, }
}
diesel::table! {
    documents (tenant_id, id) { tenant_id -> BigInt, id -> Uuid, title -> Text, }
}
diesel::joinable!(orders -> users (user_id));
diesel::allow_tables_to_appear_in_same_query!(users, orders);

#[derive(Queryable, Selectable, Identifiable)]
#[diesel(table_name = users)]
struct User {
    id: i64,
    email: String,
}

#[derive(Queryable, Selectable, Identifiable, Associations)]
#[diesel(table_name = orders, belongs_to(User))]
struct Order {
    id: i64,
    user_id: i64,
    amount: BigDecimal,
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = Integer)]
    n: i32,
}

#[derive(QueryableByName)]
struct Claim {
    #[diesel(sql_type = Bool)]
    claim: bool,
}

/// Diesel keeps no SQLSTATE: its kind of error, and for a refusal the words, have to do.
fn fault(error: &anyhow::Error) -> Option<(String, String)> {
    let Some(Error::DatabaseError(kind, information)) = error.downcast_ref::<Error>() else {
        let text = format!("{error:#}");
        return is_refusal(&text)
            .then(|| ("0A000".to_owned(), text.rsplit(": ").next().unwrap_or_default().to_owned()));
    };
    let message = information.message().to_owned();
    let code = match kind {
        DatabaseErrorKind::UniqueViolation => "23505",
        DatabaseErrorKind::SerializationFailure => "40001",
        DatabaseErrorKind::ClosedConnection => "57P01",
        _ if is_refusal(&message) => "0A000",
        _ => "-----",
    };
    Some((code.to_owned(), message))
}

fn is_refusal(message: &str) -> bool {
    message.contains("not supported") || message.contains("cannot be used in transaction pooling")
}

fn connect() -> Result<PgConnection> {
    Ok(PgConnection::establish(&std::env::var("DATABASE_URL")?)?)
}

struct Shop {
    tenants: Mutex<Vec<i64>>,
    steps: Steps,
}

fn insert_user(connection: &mut PgConnection, tenant: i64, email: &str) -> QueryResult<usize> {
    let row = (users::tenant_id.eq(tenant), users::email.eq(email), users::name.eq(email));
    diesel::insert_into(users::table).values(row).execute(connection)
}

/// The migrations of a release, as files, and how many of them are run.
fn migrate_to(count: usize) -> Result<()> {
    let fails = "CREATE TABLE half_done (id int PRIMARY KEY); ALTER TABLE no_such_table ADD COLUMN x int".to_owned();
    let texts = [
        script("migrate"),
        script("migrate-column"),
        script("migrate-index-concurrently"),
        script("migrate-enum-value"),
        fails,
    ];
    for (n, text) in texts.into_iter().enumerate().take(count) {
        let folder = format!("migrations/2024-01-0{}-000000_step", n + 1);
        fs::create_dir_all(&folder)?;
        fs::write(format!("{folder}/up.sql"), text)?;
        fs::write(format!("{folder}/down.sql"), "SELECT 1;")?;
        fs::write(format!("{folder}/metadata.toml"), format!("run_in_transaction = {}", n != 2 && n != 3))?;
    }
    let migrations = FileBasedMigrations::from_path("migrations")?;
    connect()?.run_pending_migrations(migrations).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(())
}

impl Shop {
    fn id(&self, tenant: usize) -> i64 {
        self.tenants.lock().unwrap()[tenant - 1]
    }

    fn emails(&self, like: &str) -> Result<String> {
        let query = users::table.filter(users::tenant_id.eq(self.id(4)).and(users::email.like(like)));
        Ok(query.order(users::email).select(users::email).load::<String>(&mut connect()?)?.join(" "))
    }

    fn migrate(&self) -> Result<String> {
        migrate_to(1)?;
        let text = "SELECT count(*)::int AS n FROM pg_tables WHERE schemaname = 'public' AND tablename IN
            ('tenants', 'countries', 'users', 'orders', 'order_items', 'order_notes', 'documents')";
        Ok(format!("{} tables", diesel::sql_query(text).get_result::<Number>(&mut connect()?)?.n))
    }

    fn graph(&self) -> Result<String> {
        let own = &mut connect()?;
        let rows = [("de", "Germany"), ("fr", "France"), ("us", "United States")];
        let rows: Vec<_> =
            rows.iter().map(|(code, name)| (countries::code.eq(code), countries::name.eq(name))).collect();
        diesel::insert_into(countries::table).values(&rows).execute(own)?;
        for t in 1..=4_i64 {
            let tenant = own.transaction(|own| graph_of(own, t))?;
            self.tenants.lock().unwrap().push(tenant);
        }
        let counts = (
            tenants::table.count().get_result::<i64>(own)?,
            users::table.count().get_result::<i64>(own)?,
            orders::table.count().get_result::<i64>(own)?,
            order_items::table.count().get_result::<i64>(own)?,
            order_notes::table.count().get_result::<i64>(own)?,
        );
        let rows: Vec<(String, BigDecimal)> = users::table
            .inner_join(orders::table.on(orders::user_id.eq(users::id).and(orders::tenant_id.eq(users::tenant_id))))
            .filter(users::tenant_id.eq(self.id(1)))
            .order((users::email, orders::amount))
            .select((users::email, orders::amount))
            .load(own)?;
        Ok(format!("{counts:?} {}", pairs(&rows)))
    }

    fn bulk_insert(&self) -> Result<String> {
        let wanted: Vec<String> = (0..20).map(|n| format!("b{n:02}")).collect();
        let rows: Vec<_> = wanted
            .iter()
            .map(|email| (users::tenant_id.eq(self.id(1)), users::email.eq(email), users::name.eq("bulk")))
            .collect();
        let own = &mut connect()?;
        let ids: Vec<i64> = diesel::insert_into(users::table).values(&rows).returning(users::id).get_results(own)?;
        let email = |id: &i64| {
            users::table
                .filter(users::tenant_id.eq(self.id(1)).and(users::id.eq(id)))
                .select(users::email)
                .first::<String>(&mut connect()?)
                .map_err(anyhow::Error::from)
        };
        let read = ids.iter().map(email).collect::<Result<Vec<_>>>()?;
        Ok(format!("{}: {}", if read == wanted { "order kept" } else { "order lost" }, read.join(" ")))
    }

    fn upsert_with_key(&self) -> Result<String> {
        let rows: Vec<_> = ["u1@t1", "new@t1"]
            .iter()
            .map(|email| (users::tenant_id.eq(self.id(1)), users::email.eq(email), users::name.eq("U")))
            .collect();
        let own = &mut connect()?;
        let names: Vec<(String, String)> = diesel::insert_into(users::table)
            .values(&rows)
            .on_conflict((users::tenant_id, users::email))
            .do_update()
            .set(users::name.eq(excluded(users::name)))
            .returning((users::email, users::name))
            .get_results(own)?;
        let gone = diesel::delete(users::table.filter(users::tenant_id.eq(self.id(1)).and(users::email.eq("new@t1"))))
            .execute(own)?;
        Ok(format!("{names:?} {gone}"))
    }

    fn upsert_without_key(&self) -> Result<String> {
        let own = &mut connect()?;
        let one = users::table.filter(users::tenant_id.eq(self.id(1)).and(users::email.eq("u2@t1")));
        let id: i64 = one.select(users::id).first(own)?;
        let row = (users::id.eq(id), users::tenant_id.eq(self.id(1)), users::email.eq("u2@t1"), users::name.eq("U2"));
        diesel::insert_into(users::table)
            .values(row)
            .on_conflict(users::id)
            .do_update()
            .set(users::name.eq("U2"))
            .execute(own)?;
        Ok(one.select(users::name).first(own)?)
    }

    fn get_without_key(&self) -> Result<String> {
        let own = &mut connect()?;
        let id: i64 = orders::table
            .filter(orders::tenant_id.eq(self.id(2)))
            .order(orders::amount)
            .select(orders::id)
            .first(own)?;
        let order = orders::table.find(id).select(Order::as_select()).first(own)?;
        let user = users::table.find(order.user_id).select(User::as_select()).first(own)?;
        Ok(format!("{} {}", order.amount, user.email))
    }

    fn get_uuid(&self) -> Result<String> {
        let (id, own) = (Uuid::new_v4(), &mut connect()?);
        diesel::insert_into(documents::table)
            .values((documents::tenant_id.eq(self.id(1)), documents::id.eq(id), documents::title.eq("charter")))
            .execute(own)?;
        Ok(documents::table.find((self.id(1), id)).select(documents::title).first(own)?)
    }

    /// By `belonging_to`: one parent at a time, or all at once and grouped.
    fn children(&self, at_once: bool) -> Result<String> {
        let own = &mut connect()?;
        let parents = users::table
            .filter(users::tenant_id.eq(self.id(1)).and(users::email.like("u%")))
            .order(users::email)
            .select(User::as_select())
            .load(own)?;
        let mut grouped: Vec<Vec<Order>> = Vec::new();
        if at_once {
            let all = Order::belonging_to(&parents)
                .filter(orders::tenant_id.eq(self.id(1)))
                .order(orders::amount)
                .select(Order::as_select())
                .load(own)?;
            grouped = all.grouped_by(&parents);
        } else {
            for parent in &parents {
                grouped.push(
                    Order::belonging_to(parent)
                        .filter(orders::tenant_id.eq(self.id(1)))
                        .order(orders::amount)
                        .select(Order::as_select())
                        .load(own)?,
                );
            }
        }
        let mut lines = Vec::new();
        for (parent, children) in parents.iter().zip(grouped) {
            for order in children {
                let products: Vec<String> = order_items::table
                    .filter(order_items::tenant_id.eq(self.id(1)).and(order_items::order_id.eq(order.id)))
                    .order(order_items::product)
                    .select(order_items::product)
                    .load(own)?;
                lines.push(format!("{} {} {}", parent.email, order.amount, products.join("+")));
            }
        }
        Ok(lines.join(" | "))
    }

    fn eager(&self) -> Result<String> {
        let rows: Vec<(User, Option<Order>)> = users::table
            .left_join(orders::table.on(orders::user_id.eq(users::id).and(orders::tenant_id.eq(users::tenant_id))))
            .filter(users::tenant_id.eq(self.id(1)).and(users::email.like("u%")))
            .order((users::email, orders::amount))
            .select((User::as_select(), Option::<Order>::as_select()))
            .load(&mut connect()?)?;
        let line = |(user, order): &(User, Option<Order>)| {
            format!("{} {:?}", user.email, order.as_ref().map(|order| order.amount.to_string()))
        };
        Ok(rows.iter().map(line).collect::<Vec<_>>().join(" | "))
    }

    /// Over one tenant, or over all.
    fn of_users(&self, all: bool) -> users::BoxedQuery<'static, diesel::pg::Pg> {
        let query = users::table.into_boxed();
        if all { query } else { query.filter(users::tenant_id.eq(self.id(1))) }
    }

    fn of_orders(&self, all: bool) -> orders::BoxedQuery<'static, diesel::pg::Pg> {
        let query = orders::table.into_boxed();
        if all { query } else { query.filter(orders::tenant_id.eq(self.id(1))) }
    }

    fn page(&self, all: bool) -> Result<String> {
        Ok(self
            .of_users(all)
            .order(users::email)
            .limit(5)
            .offset(5)
            .select(users::email)
            .load::<String>(&mut connect()?)?
            .join(" "))
    }

    fn count(&self, all: bool) -> Result<String> {
        let own = &mut connect()?;
        let number: i64 = self.of_orders(all).count().get_result(own)?;
        let owners: i64 = self.of_orders(all).select(count(orders::user_id).aggregate_distinct()).get_result(own)?;
        Ok(format!("{number} {owners}"))
    }

    fn avg(&self, all: bool) -> Result<String> {
        let (average, total): (Option<BigDecimal>, Option<BigDecimal>) =
            self.of_orders(all).select((avg(orders::amount), sum(orders::amount))).get_result(&mut connect()?)?;
        Ok(format!(
            "{:?} {:?}",
            average.map(|value| value.with_scale(2).to_string()),
            total.map(|value| value.to_string())
        ))
    }

    fn distinct(&self, all: bool) -> Result<String> {
        Ok(format!(
            "{:?}",
            self.of_users(all)
                .select(users::country)
                .distinct()
                .order(users::country)
                .load::<Option<String>>(&mut connect()?)?
        ))
    }

    fn having(&self, all: bool) -> Result<String> {
        let query = users::table
            .inner_join(orders::table.on(orders::user_id.eq(users::id).and(orders::tenant_id.eq(users::tenant_id))));
        let own = &mut connect()?;
        let rows: Vec<(String, i64)> = if all {
            query
                .group_by(users::email)
                .having(count_star().gt(1))
                .order(users::email)
                .select((users::email, count_star()))
                .load(own)?
        } else {
            query
                .filter(users::tenant_id.eq(self.id(1)))
                .group_by(users::email)
                .having(count_star().gt(1))
                .order(users::email)
                .select((users::email, count_star()))
                .load(own)?
        };
        Ok(pairs(&rows))
    }

    fn exists(&self, all: bool) -> Result<String> {
        let big = orders::table.filter(
            orders::tenant_id
                .eq(users::tenant_id)
                .and(orders::user_id.eq(users::id))
                .and(orders::amount.gt(BigDecimal::from(12))),
        );
        Ok(self
            .of_users(all)
            .filter(exists(big))
            .order(users::email)
            .select(users::email)
            .load::<String>(&mut connect()?)?
            .join(" "))
    }

    fn savepoint(&self) -> Result<String> {
        let caught = connect()?.transaction::<_, anyhow::Error, _>(|own| {
            insert_user(own, self.id(4), "s1")?;
            let caught = self.steps.expected(own.transaction(|own| insert_user(own, self.id(4), "s1")))?;
            insert_user(own, self.id(4), "s2")?;
            Ok(caught)
        })?;
        Ok(format!("{caught}: {}", self.emails("s%")?))
    }

    fn nested(&self) -> Result<String> {
        connect()?.transaction::<_, anyhow::Error, _>(|own| {
            insert_user(own, self.id(4), "n1")?;
            let undone = own.transaction::<(), Error, _>(|own| {
                insert_user(own, self.id(4), "n2")?;
                own.transaction(|own| insert_user(own, self.id(4), "n3"))?;
                Err(Error::RollbackTransaction)
            });
            anyhow::ensure!(undone == Err(Error::RollbackTransaction), "{undone:?}");
            insert_user(own, self.id(4), "n4")?;
            Ok(())
        })?;
        self.emails("n%")
    }

    fn optimistic(&self) -> Result<String> {
        let own = &mut connect()?;
        let mut told = Vec::new();
        for _ in 0..2 {
            let row = users::table
                .filter(users::tenant_id.eq(self.id(4)).and(users::email.eq("u1@t4")).and(users::version.eq(1)));
            let touched =
                diesel::update(row).set((users::name.eq("x"), users::version.eq(users::version + 1))).execute(own)?;
            told.push(if touched == 1 { "updated" } else { "stale" });
        }
        Ok(told.join(" "))
    }

    fn skip_locked(&self) -> Result<String> {
        let take = |own: &mut PgConnection| {
            orders::table
                .filter(orders::tenant_id.eq(self.id(2)))
                .order(orders::amount)
                .limit(2)
                .select(orders::amount)
                .for_update()
                .skip_locked()
                .load::<BigDecimal>(own)
        };
        let text = |amounts: Vec<BigDecimal>| amounts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        connect()?.transaction::<_, anyhow::Error, _>(|one| {
            let first = take(one)?;
            let second = connect()?.transaction(take)?;
            Ok(format!("{} / {}", text(first), text(second)))
        })
    }

    fn bulk_update(&self, all: bool) -> Result<String> {
        let own = &mut connect()?;
        let touched = if all {
            diesel::update(users::table.filter(users::email.like("u1%"))).set(users::name.eq("one")).execute(own)?
        } else {
            diesel::update(users::table.filter(users::tenant_id.eq(self.id(2))))
                .set(users::name.eq("two"))
                .execute(own)?
        };
        Ok(touched.to_string())
    }

    fn bulk_delete(&self, all: bool) -> Result<String> {
        let own = &mut connect()?;
        let touched = if all {
            diesel::delete(users::table.filter(users::email.like("b%"))).execute(own)?
        } else {
            diesel::delete(users::table.filter(users::tenant_id.eq(self.id(1)).and(users::email.like("b0%"))))
                .execute(own)?
        };
        Ok(touched.to_string())
    }

    fn cascade(&self) -> Result<String> {
        let own = &mut connect()?;
        let one = users::table
            .filter(users::tenant_id.eq(self.id(3)).and(users::email.eq("u3@t3")))
            .select(User::as_select())
            .first(own)?;
        diesel::delete(&one).execute(own)?;
        let left: i64 = orders::table
            .filter(orders::tenant_id.eq(self.id(3)).and(orders::user_id.eq(one.id)))
            .count()
            .get_result(own)?;
        let items: i64 = order_items::table.filter(order_items::tenant_id.eq(self.id(3))).count().get_result(own)?;
        Ok(format!("{left} orders, {items} items in all"))
    }

    fn serializable(&self) -> Result<String> {
        let work = |own: &mut PgConnection, email: &str, before: &dyn Fn() -> QueryResult<()>| -> QueryResult<usize> {
            own.build_transaction().serializable().run(|own| {
                users::table
                    .filter(users::tenant_id.eq(self.id(3)).and(users::country.eq("de")))
                    .count()
                    .get_result::<i64>(own)?;
                before()?;
                diesel::update(users::table.filter(users::tenant_id.eq(self.id(3)).and(users::email.eq(email))))
                    .set(users::country.eq("us"))
                    .execute(own)
            })
        };
        let (one, two) = (&mut connect()?, Mutex::new(connect()?));
        let late = work(one, "u1@t3", &|| work(&mut two.lock().unwrap(), "u2@t3", &|| Ok(())).map(|_| ()));
        let failure = self.steps.expected(late)?;
        work(one, "u1@t3", &|| Ok(()))?;
        Ok(format!("{failure}, retried"))
    }

    /// Rows as they come, without keeping all of them.
    fn row_by_row(&self) -> Result<String> {
        let own = &mut connect()?;
        let rows = orders::table
            .filter(orders::tenant_id.eq(self.id(1)))
            .order(orders::amount)
            .select(orders::amount)
            .load_iter::<BigDecimal, diesel::pg::PgRowByRowLoadingMode>(own)?;
        let amounts = rows.collect::<QueryResult<Vec<_>>>()?;
        Ok(format!("{} rows", amounts.len()))
    }

    fn migrate_column(&self) -> Result<String> {
        migrate_to(2)?;
        let query = diesel::sql_query("SELECT points AS n FROM users WHERE tenant_id = $1 AND email = $2")
            .bind::<BigInt, _>(self.id(1))
            .bind::<Text, _>("u1@t1");
        Ok(query.get_result::<Number>(&mut connect()?)?.n.to_string())
    }

    fn migrate_index(&self) -> Result<String> {
        migrate_to(3)?;
        let query =
            diesel::sql_query("SELECT indisvalid AS claim FROM pg_index WHERE indexrelid = 'orders_status'::regclass");
        Ok(query.get_result::<Claim>(&mut connect()?)?.claim.to_string())
    }

    fn migrate_enum(&self) -> Result<String> {
        migrate_to(4)?;
        let query = diesel::sql_query("UPDATE orders SET status = 'sent' WHERE tenant_id = $1 AND amount < 12")
            .bind::<BigInt, _>(self.id(1));
        Ok(query.execute(&mut connect()?)?.to_string())
    }

    fn migrate_fails(&self) -> Result<String> {
        let Err(failure) = migrate_to(5) else { return Ok("no failure".to_owned()) };
        if fault(&failure).is_some_and(|(code, _)| code == "0A000") {
            return Err(failure);
        }
        let left = diesel::sql_query("SELECT count(*)::int AS n FROM pg_tables WHERE tablename = 'half_done'")
            .get_result::<Number>(&mut connect()?)?
            .n;
        Ok(format!("{}, left {left}", failure.to_string().contains("no_such_table")))
    }

    fn reconnect(&self) -> Result<String> {
        let (victim, other) = (&mut connect()?, &mut connect()?);
        let failure = victim.transaction::<(), anyhow::Error, _>(|victim| {
            let pid = diesel::sql_query("SELECT pg_backend_pid() AS n").get_result::<Number>(victim)?.n;
            diesel::sql_query("SELECT pg_terminate_backend($1)").bind::<Integer, _>(pid).execute(other)?;
            diesel::sql_query("SELECT pg_sleep(1)").execute(victim)?;
            Ok(())
        });
        let failed = failure.is_err();
        let again = diesel::sql_query("SELECT 2 AS n").get_result::<Number>(&mut connect()?)?.n;
        Ok(format!("failed {failed}, then {again}"))
    }

    fn truncate(&self) -> Result<String> {
        let own = &mut connect()?;
        diesel::sql_query("TRUNCATE order_notes, documents").execute(own)?;
        Ok(format!(
            "{} {}",
            order_notes::table.count().get_result::<i64>(own)?,
            documents::table.count().get_result::<i64>(own)?
        ))
    }

    fn eight_tenants(&self) -> Result<String> {
        let workers: Vec<_> = (0..8).map(|n| std::thread::spawn(move || worker(n))).collect();
        let (mut foreign, mut rows) = (0, 0);
        for worker in workers {
            let (bad, good) = worker.join().expect("a worker ends")?;
            (foreign, rows) = (foreign + bad, rows + good);
        }
        Ok(format!("foreign {foreign}, rows {rows}"))
    }
}

fn pairs<A: std::fmt::Display, B: std::fmt::Display>(rows: &[(A, B)]) -> String {
    rows.iter().map(|(a, b)| format!("{a} {b}")).collect::<Vec<_>>().join(" | ")
}

fn graph_of(own: &mut PgConnection, t: i64) -> Result<i64> {
    let tenant: i64 = diesel::insert_into(tenants::table)
        .values(tenants::name.eq(format!("t{t}")))
        .returning(tenants::id)
        .get_result(own)?;
    for u in 1..=3_i64 {
        let row = (
            users::tenant_id.eq(tenant),
            users::email.eq(format!("u{u}@t{t}")),
            users::name.eq(format!("user {u}")),
            users::country.eq(["de", "fr", "us"][usize::try_from(u - 1)?]),
        );
        let user: i64 = diesel::insert_into(users::table).values(row).returning(users::id).get_result(own)?;
        for o in 1..=2_i64 {
            let amount = BigDecimal::new((1000 * t + 100 * u + 25 * o).into(), 2);
            let order: i64 = diesel::insert_into(orders::table)
                .values((orders::tenant_id.eq(tenant), orders::user_id.eq(user), orders::amount.eq(amount)))
                .returning(orders::id)
                .get_result(own)?;
            let items: Vec<_> = ["pen", "ink"]
                .iter()
                .map(|product| {
                    (
                        order_items::tenant_id.eq(tenant),
                        order_items::order_id.eq(order),
                        order_items::product.eq(product),
                        order_items::quantity.eq(1),
                    )
                })
                .collect();
            diesel::insert_into(order_items::table).values(&items).execute(own)?;
            diesel::insert_into(order_notes::table)
                .values((order_notes::order_id.eq(order), order_notes::text.eq("note")))
                .execute(own)?;
        }
    }
    Ok(tenant)
}

fn worker(n: i32) -> Result<(usize, usize)> {
    let own = &mut connect()?;
    let tenant: i64 = diesel::insert_into(tenants::table)
        .values(tenants::name.eq(format!("w{n}")))
        .returning(tenants::id)
        .get_result(own)?;
    diesel::sql_query(format!("SET work_mem = '{}MB'", n + 1)).execute(own)?;
    let (mut foreign, mut rows) = (0, 0);
    for round in 0..15 {
        insert_user(own, tenant, &format!("w{n}-{round}"))?;
        let emails: Vec<String> = users::table.filter(users::tenant_id.eq(tenant)).select(users::email).load(own)?;
        foreign += emails.iter().filter(|email| !email.starts_with(&format!("w{n}-"))).count();
        rows += emails.len();
        let setting = diesel::sql_query("SELECT (current_setting('work_mem') = $1) AS claim")
            .bind::<Text, _>(format!("{}MB", n + 1));
        foreign += usize::from(!setting.get_result::<Claim>(own)?.claim);
    }
    Ok((foreign, rows))
}

fn main() {
    let shop = Shop { tenants: Mutex::default(), steps: Steps::new(fault) };
    let step = |name: &str, after: &str, work: &dyn Fn() -> Result<String>| {
        if shop.steps.may_run(name, after) {
            shop.steps.ended(name, work());
        }
    };
    step("migrate", "", &|| shop.migrate());
    step("graph", "migrate", &|| shop.graph());
    let on = |name: &str, work: &dyn Fn() -> Result<String>| step(name, "graph", work);
    on("bulk-insert-returning", &|| shop.bulk_insert());
    on("upsert-with-key", &|| shop.upsert_with_key());
    on("upsert-without-key", &|| shop.upsert_without_key());
    on("get-without-key", &|| shop.get_without_key());
    on("get-uuid", &|| shop.get_uuid());
    on("lazy", &|| shop.children(false));
    on("select-in", &|| shop.children(true));
    on("eager", &|| shop.eager());
    let both: [(&str, fn(&Shop, bool) -> Result<String>); 6] = [
        ("page", Shop::page),
        ("count", Shop::count),
        ("avg", Shop::avg),
        ("distinct", Shop::distinct),
        ("having", Shop::having),
        ("exists", Shop::exists),
    ];
    for (name, work) in both {
        on(name, &|| work(&shop, false));
        on(&format!("{name}-all"), &|| work(&shop, true));
    }
    on("savepoint", &|| shop.savepoint());
    on("nested", &|| shop.nested());
    on("optimistic", &|| shop.optimistic());
    on("skip-locked", &|| shop.skip_locked());
    on("bulk-update", &|| shop.bulk_update(false));
    on("bulk-update-all", &|| shop.bulk_update(true));
    on("bulk-delete", &|| shop.bulk_delete(false));
    on("bulk-delete-all", &|| shop.bulk_delete(true));
    on("cascade", &|| shop.cascade());
    on("row-by-row", &|| shop.row_by_row());
    on("serializable", &|| shop.serializable());
    on("migrate-column", &|| shop.migrate_column());
    on("migrate-index-concurrently", &|| shop.migrate_index());
    on("migrate-enum-value", &|| shop.migrate_enum());
    on("migrate-fails", &|| shop.migrate_fails());
    step("reconnect", "", &|| shop.reconnect());
    on("truncate", &|| shop.truncate());
    step("eight-tenants", "migrate", &|| shop.eight_tenants());
}
