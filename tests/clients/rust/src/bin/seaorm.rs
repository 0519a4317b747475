//! SeaORM: entities, loaders, nested transactions, migrations by sea-orm-migration.

use std::sync::Mutex;

use anyhow::{Context as _, Result};
use bigdecimal::BigDecimal;
use clients::{Steps, script};
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{Expr, Func, LockBehavior, LockType, OnConflict, Query};
use sea_orm::{
    AccessMode, ActiveValue::NotSet, ActiveValue::Set, Condition, ConnectOptions, ConnectionTrait, Database,
    DatabaseConnection, DbBackend, FromQueryResult, IsolationLevel, JoinType, QueryOrder as _, QuerySelect as _,
    SqlErr, Statement, TransactionTrait as _,
};
use sea_orm_migration::prelude::{MigrationTrait, MigratorTrait, SchemaManager};

mod tenant {
    use sea_orm::entity::prelude::*;
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "tenants")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub name: String,
    }
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

mod country {
    use sea_orm::entity::prelude::*;
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "countries")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub code: String,
        pub name: String,
    }
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

mod user {
    use sea_orm::entity::prelude::*;
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "users")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub tenant_id: i64,
        pub email: String,
        pub name: String,
        pub country: Option<String>,
        pub version: i32,
    }
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {
        #[sea_orm(has_many = "super::order::Entity")]
        Order,
    }
    impl Related<super::order::Entity> for Entity {
        fn to() -> RelationDef {
            Relation::Order.def()
        }
    }
    impl ActiveModelBehavior for ActiveModel {}
}

mod order {
    use sea_orm::entity::prelude::*;
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "orders")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub tenant_id: i64,
        pub user_id: i64,
        #[sea_orm(column_type = "Decimal(Some((12, 2)))")]
        pub amount: BigDecimal,
    }
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {
        #[sea_orm(belongs_to = "super::user::Entity", from = "Column::UserId", to = "super::user::Column::Id")]
        User,
        #[sea_orm(has_many = "super::item::Entity")]
        Item,
    }
    impl Related<super::user::Entity> for Entity {
        fn to() -> RelationDef {
            Relation::User.def()
        }
    }
    impl Related<super::item::Entity> for Entity {
        fn to() -> RelationDef {
            Relation::Item.def()
        }
    }
    impl ActiveModelBehavior for ActiveModel {}
}

mod item {
    use sea_orm::entity::prelude::*;
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "order_items")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub tenant_id: i64,
        pub order_id: i64,
        pub product: String,
        pub quantity: i32,
    }
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {
        #[sea_orm(belongs_to = "super::order::Entity", from = "Column::OrderId", to = "super::order::Column::Id")]
        Order,
    }
    impl Related<super::order::Entity> for Entity {
        fn to() -> RelationDef {
            Relation::Order.def()
        }
    }
    impl ActiveModelBehavior for ActiveModel {}
}

mod note {
    use sea_orm::entity::prelude::*;
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "order_notes")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub order_id: i64,
        pub text: String,
    }
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

mod document {
    use sea_orm::entity::prelude::*;
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "documents")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub tenant_id: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub title: String,
    }
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

use {
    country::Entity as Countries, document::Entity as Documents, item::Entity as Items, note::Entity as Notes,
    order::Entity as Orders, tenant::Entity as Tenants, user::Entity as Users,
};

/// One migration: a script. The n-th has the n-th name.
struct Script {
    name: &'static str,
    text: String,
}

impl sea_orm_migration::MigrationName for Script {
    fn name(&self) -> &str {
        self.name
    }
}

#[sea_orm_migration::async_trait::async_trait]
impl MigrationTrait for Script {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(&self.text).await.map(|_| ())
    }
}

struct Migrator;

#[sea_orm_migration::async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let fails =
            "CREATE TABLE half_done (id int PRIMARY KEY); ALTER TABLE no_such_table ADD COLUMN x int".to_owned();
        let texts = [
            ("m1", script("migrate")),
            ("m2", script("migrate-column")),
            ("m3", script("migrate-enum-value")),
            ("m4", fails),
        ];
        texts.into_iter().map(|(name, text)| Box::new(Script { name, text }) as Box<dyn MigrationTrait>).collect()
    }
}

fn fault(error: &anyhow::Error) -> Option<(String, String)> {
    let failure = error.downcast_ref::<DbErr>()?;
    let (DbErr::Exec(RuntimeErr::SqlxError(inner))
    | DbErr::Query(RuntimeErr::SqlxError(inner))
    | DbErr::Conn(RuntimeErr::SqlxError(inner))) = failure
    else {
        return None;
    };
    let database = inner.as_database_error()?;
    Some((database.code()?.into_owned(), database.message().to_owned()))
}

async fn connect(connections: u32) -> Result<DatabaseConnection> {
    let mut options = ConnectOptions::new(std::env::var("DATABASE_URL")?);
    options.max_connections(connections).sqlx_logging(false);
    Ok(Database::connect(options).await?)
}

#[derive(FromQueryResult)]
struct Pair {
    email: String,
    n: i64,
}

struct Shop {
    db: DatabaseConnection,
    tenants: Mutex<Vec<i64>>,
    steps: Steps,
}

fn new_user(tenant: i64, email: &str, name: &str) -> user::ActiveModel {
    user::ActiveModel {
        tenant_id: Set(tenant),
        email: Set(email.to_owned()),
        name: Set(name.to_owned()),
        version: Set(1),
        ..Default::default()
    }
}

async fn insert_user(on: &impl ConnectionTrait, tenant: i64, email: &str) -> Result<(), DbErr> {
    Users::insert(new_user(tenant, email, email)).exec(on).await.map(|_| ())
}

fn emails_of(users: &[user::Model]) -> String {
    users.iter().map(|user| user.email.as_str()).collect::<Vec<_>>().join(" ")
}

async fn ask<T: sea_orm::TryGetable>(on: &impl ConnectionTrait, text: &str, values: Vec<sea_orm::Value>) -> Result<T> {
    let row =
        on.query_one(Statement::from_sql_and_values(DbBackend::Postgres, text, values)).await?.context("a row")?;
    Ok(row.try_get_by_index(0)?)
}

impl Shop {
    fn id(&self, tenant: usize) -> i64 {
        self.tenants.lock().unwrap()[tenant - 1]
    }

    fn of_users(&self, all: bool) -> Select<Users> {
        if all { Users::find() } else { Users::find().filter(user::Column::TenantId.eq(self.id(1))) }
    }

    fn of_orders(&self, all: bool) -> Select<Orders> {
        if all { Orders::find() } else { Orders::find().filter(order::Column::TenantId.eq(self.id(1))) }
    }

    fn of_email(&self, tenant: usize, email: &str) -> Condition {
        Condition::all().add(user::Column::TenantId.eq(self.id(tenant))).add(user::Column::Email.eq(email))
    }

    async fn emails(&self, like: &str) -> Result<String> {
        let query = Users::find().filter(user::Column::TenantId.eq(self.id(4))).filter(user::Column::Email.like(like));
        Ok(emails_of(&query.order_by_asc(user::Column::Email).all(&self.db).await?))
    }

    async fn migrate(&self) -> Result<String> {
        Migrator::up(&self.db, Some(1)).await?;
        let text = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename IN
            ('tenants', 'countries', 'users', 'orders', 'order_items', 'order_notes', 'documents')";
        Ok(format!("{} tables", ask::<i64>(&self.db, text, vec![]).await?))
    }

    async fn graph(&self) -> Result<String> {
        let rows = [("de", "Germany"), ("fr", "France"), ("us", "United States")];
        Countries::insert_many(
            rows.map(|(code, name)| country::ActiveModel { code: Set(code.to_owned()), name: Set(name.to_owned()) }),
        )
        .exec(&self.db)
        .await?;
        for t in 1..=4_i64 {
            let tx = self.db.begin().await?;
            let tenant = tenant::ActiveModel { id: NotSet, name: Set(format!("t{t}")) }.insert(&tx).await?.id;
            for u in 1..=3_i64 {
                let mut row = new_user(tenant, &format!("u{u}@t{t}"), &format!("user {u}"));
                row.country = Set(Some(["de", "fr", "us"][usize::try_from(u - 1)?].to_owned()));
                let user = row.insert(&tx).await?.id;
                for o in 1..=2_i64 {
                    let amount = BigDecimal::new((1000 * t + 100 * u + 25 * o).into(), 2);
                    let order = order::ActiveModel {
                        id: NotSet,
                        tenant_id: Set(tenant),
                        user_id: Set(user),
                        amount: Set(amount),
                    }
                    .insert(&tx)
                    .await?
                    .id;
                    let items = ["pen", "ink"].map(|product| item::ActiveModel {
                        id: NotSet,
                        tenant_id: Set(tenant),
                        order_id: Set(order),
                        product: Set(product.to_owned()),
                        quantity: Set(1),
                    });
                    Items::insert_many(items).exec(&tx).await?;
                    note::ActiveModel { id: NotSet, order_id: Set(order), text: Set("note".to_owned()) }
                        .insert(&tx)
                        .await?;
                }
            }
            tx.commit().await?;
            self.tenants.lock().unwrap().push(tenant);
        }
        let counts = [
            Tenants::find().count(&self.db).await?,
            Users::find().count(&self.db).await?,
            Orders::find().count(&self.db).await?,
            Items::find().count(&self.db).await?,
            Notes::find().count(&self.db).await?,
        ];
        Ok(format!("{counts:?} {}", self.eager().await?))
    }

    async fn bulk_insert(&self) -> Result<String> {
        let wanted: Vec<String> = (0..20).map(|n| format!("b{n:02}")).collect();
        let rows = wanted.iter().map(|email| new_user(self.id(1), email, "bulk"));
        let made = Users::insert_many(rows).exec_with_returning_many(&self.db).await?;
        let mut read = Vec::new();
        for row in made {
            read.push(
                Users::find_by_id(row.id)
                    .filter(user::Column::TenantId.eq(self.id(1)))
                    .one(&self.db)
                    .await?
                    .context("the user")?
                    .email,
            );
        }
        Ok(format!("{}: {}", if read == wanted { "order kept" } else { "order lost" }, read.join(" ")))
    }

    async fn upsert_with_key(&self) -> Result<String> {
        let rows = ["u1@t1", "new@t1"].map(|email| new_user(self.id(1), email, "U"));
        let conflict = OnConflict::columns([user::Column::TenantId, user::Column::Email])
            .update_column(user::Column::Name)
            .to_owned();
        let made = Users::insert_many(rows).on_conflict(conflict).exec_with_returning_many(&self.db).await?;
        let gone = Users::delete_many().filter(self.of_email(1, "new@t1")).exec(&self.db).await?.rows_affected;
        Ok(format!(
            "{} {gone}",
            made.iter().map(|row| format!("{} {}", row.email, row.name)).collect::<Vec<_>>().join(", ")
        ))
    }

    async fn upsert_without_key(&self) -> Result<String> {
        let one = Users::find().filter(self.of_email(1, "u2@t1")).one(&self.db).await?.context("the user")?;
        let row = user::ActiveModel { id: Set(one.id), ..new_user(self.id(1), "u2@t1", "U2") };
        let conflict = OnConflict::column(user::Column::Id).update_column(user::Column::Name).to_owned();
        Users::insert(row).on_conflict(conflict).exec(&self.db).await?;
        Ok(Users::find().filter(self.of_email(1, "u2@t1")).one(&self.db).await?.context("the user")?.name)
    }

    /// `update` of a model goes by its primary key alone.
    async fn save(&self) -> Result<String> {
        let one = Users::find().filter(self.of_email(2, "u2@t2")).one(&self.db).await?.context("the user")?;
        let saved = user::ActiveModel { id: Set(one.id), name: Set("saved".to_owned()), ..Default::default() }
            .update(&self.db)
            .await?;
        Ok(format!("{} {}", saved.email, saved.name))
    }

    async fn get_without_key(&self) -> Result<String> {
        let first = Orders::find()
            .filter(order::Column::TenantId.eq(self.id(2)))
            .order_by_asc(order::Column::Amount)
            .one(&self.db)
            .await?
            .context("an order")?;
        let order = Orders::find_by_id(first.id).one(&self.db).await?.context("the order")?;
        let owner = order.find_related(Users).one(&self.db).await?.context("its user")?;
        Ok(format!("{} {}", order.amount, owner.email))
    }

    async fn get_uuid(&self) -> Result<String> {
        let id = Uuid::new_v4();
        document::ActiveModel { tenant_id: Set(self.id(1)), id: Set(id), title: Set("charter".to_owned()) }
            .insert(&self.db)
            .await?;
        Ok(Documents::find_by_id((self.id(1), id)).one(&self.db).await?.context("the document")?.title)
    }

    async fn users_of_t1(&self) -> Result<Vec<user::Model>> {
        Ok(self
            .of_users(false)
            .filter(user::Column::Email.like("u%"))
            .order_by_asc(user::Column::Email)
            .all(&self.db)
            .await?)
    }

    async fn lazy(&self) -> Result<String> {
        let mut lines = Vec::new();
        for user in self.users_of_t1().await? {
            for order in user
                .find_related(Orders)
                .filter(order::Column::TenantId.eq(self.id(1)))
                .order_by_asc(order::Column::Amount)
                .all(&self.db)
                .await?
            {
                let items = order
                    .find_related(Items)
                    .filter(item::Column::TenantId.eq(self.id(1)))
                    .order_by_asc(item::Column::Product)
                    .all(&self.db)
                    .await?;
                lines.push(format!(
                    "{} {} {}",
                    user.email,
                    order.amount,
                    items.iter().map(|item| item.product.as_str()).collect::<Vec<_>>().join("+")
                ));
            }
        }
        Ok(lines.join(" | "))
    }

    async fn select_in(&self) -> Result<String> {
        let users = self.users_of_t1().await?;
        let orders = users
            .load_many(
                Orders::find().filter(order::Column::TenantId.eq(self.id(1))).order_by_asc(order::Column::Amount),
                &self.db,
            )
            .await?;
        let text = |orders: &Vec<order::Model>| {
            orders.iter().map(|order| order.amount.to_string()).collect::<Vec<_>>().join(" ")
        };
        Ok(users
            .iter()
            .zip(&orders)
            .map(|(user, orders)| format!("{} {}", user.email, text(orders)))
            .collect::<Vec<_>>()
            .join(" | "))
    }

    async fn eager(&self) -> Result<String> {
        let query = self.of_users(false).filter(user::Column::Email.like("u%")).find_with_related(Orders);
        let rows = query
            .filter(order::Column::TenantId.eq(self.id(1)))
            .order_by_asc(user::Column::Email)
            .order_by_asc(order::Column::Amount)
            .all(&self.db)
            .await?;
        let text = |orders: &Vec<order::Model>| {
            orders.iter().map(|order| order.amount.to_string()).collect::<Vec<_>>().join(" ")
        };
        Ok(rows.iter().map(|(user, orders)| format!("{} {}", user.email, text(orders))).collect::<Vec<_>>().join(" | "))
    }

    async fn page(&self, all: bool) -> Result<String> {
        let pages = self.of_users(all).order_by_asc(user::Column::Email).paginate(&self.db, 5);
        let numbers = pages.num_items_and_pages().await?;
        Ok(format!(
            "{} of {} in {}",
            emails_of(&pages.fetch_page(1).await?),
            numbers.number_of_items,
            numbers.number_of_pages
        ))
    }

    async fn count(&self, all: bool) -> Result<String> {
        let number = self.of_orders(all).count(&self.db).await?;
        let distinct = self
            .of_orders(all)
            .select_only()
            .column_as(Expr::col(order::Column::UserId).count_distinct(), "n")
            .into_tuple::<i64>()
            .one(&self.db)
            .await?;
        Ok(format!("{number} {distinct:?}"))
    }

    async fn avg(&self, all: bool) -> Result<String> {
        let query = self
            .of_orders(all)
            .select_only()
            .column_as(Expr::expr(Func::avg(Expr::col(order::Column::Amount))), "a")
            .column_as(order::Column::Amount.sum(), "s");
        let (average, total) = query.into_tuple::<(BigDecimal, BigDecimal)>().one(&self.db).await?.context("a row")?;
        Ok(format!("{} {total}", average.with_scale(2)))
    }

    async fn distinct(&self, all: bool) -> Result<String> {
        let query = self
            .of_users(all)
            .select_only()
            .column(user::Column::Country)
            .distinct()
            .order_by_asc(user::Column::Country);
        Ok(format!("{:?}", query.into_tuple::<Option<String>>().all(&self.db).await?))
    }

    async fn having(&self, all: bool) -> Result<String> {
        let joined = user::Relation::Order.def().on_condition(|_, _| {
            Condition::all()
                .add(Expr::col((user::Entity, user::Column::TenantId)).equals((order::Entity, order::Column::TenantId)))
        });
        let query = self
            .of_users(all)
            .select_only()
            .column(user::Column::Email)
            .column_as(Expr::cust("count(*)"), "n")
            .join(JoinType::InnerJoin, joined)
            .group_by(user::Column::Email)
            .having(Expr::cust("count(*) > 1"))
            .order_by_asc(user::Column::Email);
        let rows = query.into_model::<Pair>().all(&self.db).await?;
        Ok(rows.iter().map(|row| format!("{} {}", row.email, row.n)).collect::<Vec<_>>().join(" | "))
    }

    async fn exists(&self, all: bool) -> Result<String> {
        let big = Query::select()
            .expr(Expr::val(1))
            .from(order::Entity)
            .and_where(
                Expr::col((order::Entity, order::Column::TenantId)).equals((user::Entity, user::Column::TenantId)),
            )
            .and_where(Expr::col((order::Entity, order::Column::UserId)).equals((user::Entity, user::Column::Id)))
            .and_where(Expr::col((order::Entity, order::Column::Amount)).gt(12))
            .take();
        Ok(emails_of(
            &self.of_users(all).filter(Expr::exists(big)).order_by_asc(user::Column::Email).all(&self.db).await?,
        ))
    }

    async fn savepoint(&self) -> Result<String> {
        let tx = self.db.begin().await?;
        insert_user(&tx, self.id(4), "s1").await?;
        let inner = tx.begin().await?;
        let failure = insert_user(&inner, self.id(4), "s1").await;
        let unique =
            matches!(failure.as_ref().err().and_then(DbErr::sql_err), Some(SqlErr::UniqueConstraintViolation(_)));
        let caught = self.steps.expected(failure)?;
        inner.rollback().await?;
        insert_user(&tx, self.id(4), "s2").await?;
        tx.commit().await?;
        Ok(format!("{caught} unique {unique}: {}", self.emails("s%").await?))
    }

    async fn nested(&self) -> Result<String> {
        let outer = self.db.begin().await?;
        insert_user(&outer, self.id(4), "n1").await?;
        let middle = outer.begin().await?;
        insert_user(&middle, self.id(4), "n2").await?;
        let inner = middle.begin().await?;
        insert_user(&inner, self.id(4), "n3").await?;
        inner.commit().await?;
        middle.rollback().await?;
        insert_user(&outer, self.id(4), "n4").await?;
        outer.commit().await?;
        self.emails("n%").await
    }

    async fn optimistic(&self) -> Result<String> {
        let mut told = Vec::new();
        for _ in 0..2 {
            let query = Users::update_many()
                .col_expr(user::Column::Version, Expr::col(user::Column::Version).add(1))
                .filter(self.of_email(4, "u1@t4"))
                .filter(user::Column::Version.eq(1));
            told.push(if query.exec(&self.db).await?.rows_affected == 1 { "updated" } else { "stale" });
        }
        Ok(told.join(" "))
    }

    async fn skip_locked(&self) -> Result<String> {
        let take = || {
            Orders::find()
                .filter(order::Column::TenantId.eq(self.id(2)))
                .order_by_asc(order::Column::Amount)
                .limit(2)
                .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
        };
        let text =
            |orders: &[order::Model]| orders.iter().map(|order| order.amount.to_string()).collect::<Vec<_>>().join(" ");
        let one = self.db.begin().await?;
        let first = take().all(&one).await?;
        let two = self.db.begin().await?;
        let second = take().all(&two).await?;
        two.commit().await?;
        one.commit().await?;
        Ok(format!("{} / {}", text(&first), text(&second)))
    }

    async fn bulk_update(&self, filter: Condition) -> Result<String> {
        let name = Func::upper(Expr::col(user::Column::Name));
        Ok(Users::update_many()
            .col_expr(user::Column::Name, name.into())
            .filter(filter)
            .exec(&self.db)
            .await?
            .rows_affected
            .to_string())
    }

    async fn bulk_delete(&self, filter: Condition) -> Result<String> {
        Ok(Users::delete_many().filter(filter).exec(&self.db).await?.rows_affected.to_string())
    }

    async fn cascade(&self) -> Result<String> {
        let one = Users::find().filter(self.of_email(3, "u3@t3")).one(&self.db).await?.context("the user")?;
        let id = one.id;
        one.delete(&self.db).await?;
        let orders = Orders::find()
            .filter(order::Column::TenantId.eq(self.id(3)))
            .filter(order::Column::UserId.eq(id))
            .count(&self.db)
            .await?;
        let items = Items::find().filter(item::Column::TenantId.eq(self.id(3))).count(&self.db).await?;
        Ok(format!("{orders} orders, {items} items in all"))
    }

    /// Pages by key, which SeaORM calls a cursor.
    async fn pages_by_key(&self) -> Result<String> {
        let mut cursor = Users::find().filter(user::Column::TenantId.eq(self.id(1))).cursor_by(user::Column::Email);
        let first = cursor.first(2).all(&self.db).await?;
        let next = cursor.after(first.last().context("a user")?.email.clone()).first(2).all(&self.db).await?;
        Ok(format!("{} / {}", emails_of(&first), emails_of(&next)))
    }

    async fn serializable(&self) -> Result<String> {
        let begin = || self.db.begin_with_config(Some(IsolationLevel::Serializable), Some(AccessMode::ReadWrite));
        let germans =
            || Users::find().filter(user::Column::TenantId.eq(self.id(3))).filter(user::Column::Country.eq("de"));
        let write = |email: &str| {
            Users::update_many().col_expr(user::Column::Country, Expr::value("us")).filter(self.of_email(3, email))
        };
        let (one, two) = (begin().await?, begin().await?);
        germans().count(&one).await?;
        germans().count(&two).await?;
        write("u1@t3").exec(&one).await?;
        one.commit().await?;
        let late = async {
            write("u2@t3").exec(&two).await?;
            two.commit().await
        };
        let failure = self.steps.expected(late.await)?;
        let again = begin().await?;
        write("u2@t3").exec(&again).await?;
        again.commit().await?;
        Ok(format!("{failure}, retried"))
    }

    async fn migrate_column(&self) -> Result<String> {
        Migrator::up(&self.db, Some(1)).await?;
        let points: i32 =
            ask(&self.db, "SELECT points FROM users WHERE tenant_id = $1 AND email = 'u1@t1'", vec![self.id(1).into()])
                .await?;
        Ok(points.to_string())
    }

    /// Migrations run in a transaction, so users send this one by hand.
    async fn migrate_index(&self) -> Result<String> {
        self.db.execute_unprepared("CREATE INDEX CONCURRENTLY orders_status ON orders (status)").await?;
        let valid: bool =
            ask(&self.db, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'orders_status'::regclass", vec![])
                .await?;
        Ok(valid.to_string())
    }

    async fn migrate_enum(&self) -> Result<String> {
        Migrator::up(&self.db, Some(1)).await?;
        let text = "UPDATE orders SET status = 'sent' WHERE tenant_id = $1 AND amount < 12";
        let done =
            self.db.execute(Statement::from_sql_and_values(DbBackend::Postgres, text, [self.id(1).into()])).await?;
        Ok(done.rows_affected().to_string())
    }

    async fn migrate_fails(&self) -> Result<String> {
        let failure = self.steps.expected(Migrator::up(&self.db, Some(1)).await)?;
        let left: i64 = ask(&self.db, "SELECT count(*) FROM pg_tables WHERE tablename = 'half_done'", vec![]).await?;
        Ok(format!("{failure}, left {left}"))
    }

    async fn reconnect(&self) -> Result<String> {
        let victims = connect(1).await?;
        let tx = victims.begin().await?;
        let pid: i32 = ask(&tx, "SELECT pg_backend_pid()", vec![]).await?;
        ask::<bool>(&self.db, "SELECT pg_terminate_backend($1)", vec![pid.into()]).await?;
        let failure = self.steps.expected(tx.execute_unprepared("SELECT pg_sleep(1)").await)?;
        drop(tx);
        Ok(format!("{failure}, then {}", ask::<i32>(&victims, "SELECT 2", vec![]).await?))
    }

    async fn truncate(&self) -> Result<String> {
        self.db.execute_unprepared("TRUNCATE order_notes, documents").await?;
        Ok(format!("{} {}", Notes::find().count(&self.db).await?, Documents::find().count(&self.db).await?))
    }

    async fn eight_tenants(&self) -> Result<String> {
        let workers: Vec<_> = (0..8).map(|n| tokio::spawn(worker(n))).collect();
        let (mut foreign, mut rows) = (0, 0);
        for worker in workers {
            let (bad, good) = worker.await??;
            (foreign, rows) = (foreign + bad, rows + good);
        }
        Ok(format!("foreign {foreign}, rows {rows}"))
    }
}

async fn worker(n: i64) -> Result<(usize, usize)> {
    let own = connect(1).await?;
    let tenant = tenant::ActiveModel { id: NotSet, name: Set(format!("w{n}")) }.insert(&own).await?.id;
    own.execute_unprepared(&format!("SET work_mem = '{}MB'", n + 1)).await?;
    let (mut foreign, mut rows) = (0, 0);
    for round in 0..15 {
        insert_user(&own, tenant, &format!("w{n}-{round}")).await?;
        let found = Users::find().filter(user::Column::TenantId.eq(tenant)).all(&own).await?;
        foreign += found.iter().filter(|user| !user.email.starts_with(&format!("w{n}-"))).count();
        rows += found.len();
        let setting: String = ask(&own, "SHOW work_mem", vec![]).await?;
        foreign += usize::from(setting != format!("{}MB", n + 1));
    }
    Ok((foreign, rows))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let shop = Shop { db: connect(4).await?, tenants: Mutex::default(), steps: Steps::new(fault) };
    macro_rules! step {
        ($name:expr, $after:expr, $work:expr) => {
            if shop.steps.may_run($name, $after) {
                shop.steps.ended($name, $work.await);
            }
        };
    }
    macro_rules! both {
        ($($name:ident)*) => { $(
            step!(stringify!($name), "graph", shop.$name(false));
            step!(concat!(stringify!($name), "-all"), "graph", shop.$name(true));
        )* };
    }
    let like = |pattern: &str| Condition::all().add(user::Column::Email.like(pattern));
    step!("migrate", "", shop.migrate());
    step!("graph", "migrate", shop.graph());
    step!("bulk-insert-returning", "graph", shop.bulk_insert());
    step!("upsert-with-key", "graph", shop.upsert_with_key());
    step!("upsert-without-key", "graph", shop.upsert_without_key());
    step!("save", "graph", shop.save());
    step!("get-without-key", "graph", shop.get_without_key());
    step!("get-uuid", "graph", shop.get_uuid());
    step!("lazy", "graph", shop.lazy());
    step!("select-in", "graph", shop.select_in());
    step!("eager", "graph", shop.eager());
    both!(page count avg distinct having exists);
    step!("savepoint", "graph", shop.savepoint());
    step!("nested", "graph", shop.nested());
    step!("optimistic", "graph", shop.optimistic());
    step!("skip-locked", "graph", shop.skip_locked());
    step!("bulk-update", "graph", shop.bulk_update(Condition::all().add(user::Column::TenantId.eq(shop.id(2)))));
    step!("bulk-update-all", "graph", shop.bulk_update(like("u1%")));
    step!("bulk-delete", "graph", shop.bulk_delete(like("b0%").add(user::Column::TenantId.eq(shop.id(1)))));
    step!("bulk-delete-all", "graph", shop.bulk_delete(like("b%")));
    step!("cascade", "graph", shop.cascade());
    step!("pages-by-key", "graph", shop.pages_by_key());
    step!("serializable", "graph", shop.serializable());
    step!("migrate-column", "graph", shop.migrate_column());
    step!("migrate-index-concurrently", "graph", shop.migrate_index());
    step!("migrate-enum-value", "graph", shop.migrate_enum());
    step!("migrate-fails", "graph", shop.migrate_fails());
    step!("reconnect", "", shop.reconnect());
    step!("truncate", "graph", shop.truncate());
    step!("eight-tenants", "migrate", shop.eight_tenants());
    Ok(())
}
