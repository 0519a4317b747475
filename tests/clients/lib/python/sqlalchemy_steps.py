"""The conformance steps by SQLAlchemy's ORM and Alembic. The asyncio engine runs them too, by `run_sync`."""

import os
import threading
import uuid

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import exc, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, joinedload, selectinload
from sqlalchemy.orm.exc import StaleDataError

import graph
from models import Country, Document, Item, Note, Order, Tenant, User
from steps import class_of, otherwise, sqlstate


def tree(users):
    return [
        (user.name, order.amount, *[item.product for item in order.items]) for user in users for order in user.orders
    ]


class Program:
    """The steps over `engine`. `row_by_row` is one that inserts each object by itself: where bulk inserts are refused."""

    def __init__(self, engine, row_by_row):
        self.engine = engine
        self.row_by_row = row_by_row
        self.tenants = []

    def by_rows(self, function):
        """What a refused step is replaced by."""

        def step():
            engine, self.engine = self.engine, self.row_by_row
            try:
                return function()
            finally:
                self.engine = engine

        return otherwise(function, step)

    def settle(self):
        """Lets the driver notice what the server said meanwhile."""

    @property
    def t1(self):
        return self.tenants[0]

    def session(self):
        return Session(self.engine)

    def upgrade(self, revision):
        config = Config()
        config.set_main_option("script_location", os.path.join(os.path.dirname(__file__), "migrations"))
        with self.engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
            connection.commit()

    def recover(self, _is_stuck=False):
        self.engine.dispose(close=False)

    # The schema and the rows.

    def migrate(self):
        self.upgrade("1")
        return sorted(set(sa.inspect(self.engine).get_table_names()) & set(graph.TABLES))

    def graph(self):
        with self.session() as session:
            for code, name in graph.COUNTRIES:
                session.merge(Country(code=code, name=name))
            session.commit()
        for number, name in enumerate(graph.TENANTS, 1):
            with self.session() as session:
                tenant = Tenant(name=name)
                session.add(tenant)
                session.flush()
                session.add_all(self.user(tenant.id, user, *row) for user, row in enumerate(graph.users(number), 1))
                session.commit()
                self.tenants.append(tenant.id)
        models = (Country, Document, Item, Note, Order, Tenant, User)
        with self.session() as session:
            counts = [(model.__tablename__, session.scalar(select(func.count()).select_from(model))) for model in models]
            return counts + tree(session.scalars(self.users_of(2)))

    def user(self, tenant, number, email, name, country, amounts):
        return User(
            tenant_id=tenant, email=email, name=name, country=country,
            orders=[
                Order(
                    tenant_id=tenant, amount=amount, notes=[Note(text=f"n{order}")],
                    items=[
                        Item(tenant_id=tenant, product=product, quantity=quantity)
                        for product, quantity in graph.products(number, order)
                    ],
                )
                for order, amount in enumerate(amounts, 1)
            ],
        )

    def users_of(self, number):
        return select(User).where(User.tenant_id == self.tenants[number - 1]).order_by(User.email)

    def bulk_insert(self):
        emails = [f"b{n:02}" for n in range(20)]
        users = [User(tenant_id=self.t1, email=email, name=email) for email in emails]
        with self.session() as session:
            session.add_all(users)
            session.flush()
            ids = [user.id for user in users]
            session.commit()
            read = [
                session.scalar(select(User.email).where(User.tenant_id == self.t1, User.id == user)) for user in ids
            ]
        return ["order kept" if read == emails else "order lost", *read]

    def insertmanyvalues(self):
        rows = [{"tenant_id": tenant, "email": f"z{n}", "name": "i"} for n, tenant in enumerate(self.tenants * 3)]
        with self.session() as session:
            given = session.execute(
                sa.insert(User).returning(User.email, User.version, sort_by_parameter_order=True), rows
            ).all()
            session.commit()
        return [tuple(row) for row in given]

    def insert_each(self):
        with Session(self.row_by_row) as session:
            session.add_all(User(tenant_id=tenant, email=f"z{n}", name="i") for n, tenant in enumerate(self.tenants * 3))
            session.commit()

    def upsert_with_key(self):
        def upsert(session, email, name):
            statement = insert(User).values(tenant_id=self.t1, email=email, name=name)
            return session.execute(
                statement.on_conflict_do_update(
                    index_elements=["tenant_id", "email"],
                    set_={"name": statement.excluded.name, "version": User.version + 1},
                ).returning(User.name, User.version)
            ).one()

        with self.session() as session:
            rows = [tuple(upsert(session, *row)) for row in (("u1@t1", "upserted"), ("up@t1", "new"))]
            session.commit()
        return rows

    def upsert_without_key(self):
        """`merge` reads by the primary key and writes what differs; then ON CONFLICT (id)."""
        with self.session() as session:
            user = session.scalar(select(User.id).where(User.tenant_id == self.t1, User.email == "u2@t1"))
            statement = insert(User).values(id=user, tenant_id=self.t1, email="u2@t1", name="u2")
            name = session.scalar(
                statement.on_conflict_do_update(index_elements=["id"], set_={"name": "u2"}).returning(User.name)
            )
            session.commit()
        return name

    def merge(self):
        with self.session() as session:
            user = session.scalar(select(User.id).where(User.tenant_id == self.t1, User.email == "u2@t1"))
            version = session.scalar(select(User.version).where(User.tenant_id == self.t1, User.email == "u2@t1"))
            session.expunge_all()
            merged = session.merge(User(id=user, tenant_id=self.t1, email="u2@t1", name="merged", version=version))
            session.commit()
            return merged.name

    # Reading.

    def get_without_key(self):
        with self.session() as session:
            order = session.scalar(select(Order.id).where(Order.tenant_id == self.t1, Order.amount == graph.amount(1, 1, 1)))
            session.expunge_all()
            found = session.get(Order, order)
            return found.amount, found.user.email

    def get_uuid(self):
        with self.session() as session:
            session.add(Document(tenant_id=self.t1, id=uuid.UUID(int=7), title="given"))
            made = Document(tenant_id=self.t1, title="made")
            session.add(made)
            session.commit()
            key = made.id
            session.expunge_all()
            return [session.get(Document, (self.t1, id)).title for id in (uuid.UUID(int=7), key)]

    def loaded(self, *options):
        def step():
            with self.session() as session:
                return tree(session.scalars(self.users_of(2).options(*options)).unique())

        return step

    def notes(self):
        """Children that carry no tenant key."""
        with self.session() as session:
            orders = session.scalars(
                select(Order).where(Order.tenant_id == self.tenants[1]).options(selectinload(Order.notes)).order_by(Order.amount)
            )
            return [(order.amount, *[note.text for note in order.notes]) for order in orders]

    def children_by_parent(self):
        """Children that are written by their parents' ids or their own, without the tenant key."""
        with self.session() as session:
            orders = session.scalars(
                select(Order).where(Order.tenant_id == self.tenants[1]).order_by(Order.amount).limit(2)
            ).all()
            ids = [order.id for order in orders]
            item = sorted(orders[0].items, key=lambda item: item.product)[0]
            item.quantity = 9
            session.flush()
            counts = [
                session.execute(sa.update(Note).where(Note.order_id == ids[0]).values(text="again")).rowcount,
                session.execute(
                    sa.update(Item).where(Item.order_id.in_(ids)).values(quantity=Item.quantity + 1)
                ).rowcount,
                session.execute(sa.delete(Note).where(Note.order_id.in_(ids))).rowcount,
            ]
            quantities = sorted(session.scalars(select(Item.quantity).where(Item.order_id.in_(ids))))
            gone = session.execute(sa.delete(Item).where(Item.order_id.in_(ids))).rowcount
            session.commit()
            left = session.scalar(select(func.count()).select_from(Item).where(Item.order_id.in_(ids)))
        return [*counts, quantities, gone, left]

    def eager_page(self):
        with self.session() as session:
            users = session.scalars(self.users_of(2).options(joinedload(User.orders)).limit(2)).unique()
            return [(user.name, *[order.amount for order in user.orders]) for user in users]

    def both(self, make, model):
        """A query inside one tenant and over all."""

        def rows(is_all):
            statement = make() if is_all else make().where(model.tenant_id == self.t1)
            with self.session() as session:
                return [tuple(row) for row in session.execute(statement)]

        return (lambda: rows(False)), (lambda: rows(True))

    # Transactions.

    def new(self, email):
        return User(tenant_id=self.t1, email=email, name="x")

    def emails(self, like):
        with self.session() as session:
            return list(session.scalars(
                select(User.email).where(User.tenant_id == self.t1, User.email.like(like)).order_by(User.email)
            ))

    def savepoint(self):
        caught = None
        with self.session() as session:
            session.add(self.new("s1@t1"))
            session.flush()
            try:
                with session.begin_nested():
                    session.add(self.new("s1@t1"))
                    session.flush()
            except exc.IntegrityError as error:
                caught = f"{class_of(error)} {sqlstate(error)}"
            session.add(self.new("s2@t1"))
            session.commit()
        return [caught, *self.emails("s%@t1")]

    def nested(self):
        with self.session() as session, session.begin():
            session.add(self.new("n1@t1"))
            middle = session.begin_nested()
            session.add(self.new("n2@t1"))
            with session.begin_nested():
                session.add(self.new("n3@t1"))
            middle.rollback()
            session.add(self.new("n4@t1"))
        return self.emails("n%@t1")

    def optimistic(self):
        """Two sessions change what both have read; the second finds no row of the version it read."""
        with self.session() as one, self.session() as two:
            mine, theirs = (session.scalars(self.users_of(1).where(User.email == "u3@t1")).one() for session in (one, two))
            mine.name = "one"
            one.commit()
            theirs.name = "two"
            try:
                two.commit()
            except StaleDataError as error:
                return "updated", "stale", class_of(error)
            return "updated", "overwritten"

    def skip_locked(self):
        jobs = (
            select(Order.amount).where(Order.tenant_id == self.tenants[1]).order_by(Order.amount).limit(2)
            .with_for_update(skip_locked=True)
        )
        with self.session() as one, self.session() as two:
            return list(one.scalars(jobs)) + list(two.scalars(jobs))

    def serializable(self):
        tenant, caught = self.tenants[2], None
        engine = self.engine.execution_options(isolation_level="SERIALIZABLE")
        on_duty = select(func.count()).select_from(User).where(User.tenant_id == tenant, User.name == "duty")

        def leave(session, email):
            session.execute(sa.update(User).where(User.tenant_id == tenant, User.email == email).values(name="off"))

        with self.session() as session:
            session.execute(sa.update(User).where(User.tenant_id == tenant).values(name="duty"))
            session.commit()
        with Session(engine) as one, Session(engine) as two:
            one.scalar(on_duty), two.scalar(on_duty)
            leave(one, "u1@t3")
            try:
                leave(two, "u2@t3")
                one.commit()
                two.commit()
            except exc.DBAPIError as error:
                caught = f"{class_of(error)} {sqlstate(error)}"
            two.rollback()
            left = two.scalar(on_duty)
            leave(two, "u2@t3")
            two.commit()
            return caught, left, two.scalar(on_duty)

    # Writing many rows.

    def many(self, statement):
        def step():
            with self.session() as session:
                count = session.execute(statement()).rowcount
                session.commit()
                return count

        return step

    def cascade(self):
        tenant = self.tenants[3]
        with self.session() as session:
            session.delete(session.scalars(self.users_of(4).where(User.email == "u1@t4")).one())
            session.commit()
            return [
                session.scalar(select(func.count()).select_from(model).where(model.tenant_id == tenant))
                for model in (User, Order, Item)
            ]

    # Cursors, catalogs, migrations.

    def cursor(self, *conditions):
        def step():
            statement = select(Order.amount).where(*[condition() for condition in conditions]).order_by(Order.amount, Order.id)
            with self.engine.connect() as connection:
                result = connection.execution_options(yield_per=5).execute(statement)
                parts = [[row[0] for row in part] for part in result.partitions()]
            return [*[len(part) for part in parts], sum(sum(part) for part in parts)]

        return step

    def reflection(self):
        inspector, told = sa.inspect(self.engine), []
        for table in ("users", "orders", "documents"):
            told += [(column["name"], column["type"], column["nullable"]) for column in inspector.get_columns(table)]
            told.append(inspector.get_pk_constraint(table)["constrained_columns"])
            told += sorted(
                (key["constrained_columns"], key["referred_table"], str(key["options"]))
                for key in inspector.get_foreign_keys(table)
            )
            told += [(key["name"], key["column_names"]) for key in inspector.get_unique_constraints(table)]
            told += [(key["name"], key["column_names"]) for key in inspector.get_indexes(table)]
        told += [(enum["name"], enum["labels"]) for enum in inspector.get_enums()]
        metadata = sa.MetaData()
        metadata.reflect(self.engine)
        return told + [sorted(set(metadata.tables) & set(graph.TABLES))]

    def migrate_column(self):
        self.upgrade("2")
        with self.session() as session:
            return session.scalar(
                sa.text("SELECT note FROM users WHERE tenant_id = :t AND email = 'u1@t1'"), {"t": self.t1}
            )

    def migrate_index(self):
        self.upgrade("3")
        return [index["name"] for index in sa.inspect(self.engine).get_indexes("orders")]

    def migrate_enum(self):
        self.upgrade("4")
        with self.session() as session:
            order = session.scalars(
                select(Order).where(Order.tenant_id == self.t1, Order.amount == graph.amount(1, 1, 1))
            ).one()
            order.status = "sent"
            session.commit()
            return order.status

    def migrate_fails(self):
        caught = None
        try:
            self.upgrade("5")
        except exc.ProgrammingError as error:
            if sqlstate(error) == "0A000":
                raise
            caught = f"{class_of(error)} {sqlstate(error)}"
        columns = [column["name"] for column in sa.inspect(self.engine).get_columns("users")]
        with self.engine.connect() as connection:
            return caught, "half" in columns, connection.scalar(sa.text("SELECT version_num FROM alembic_version"))

    def reconnect(self):
        """A connection of the pool is ended between two uses; `pool_pre_ping` is off, as by default."""
        caught = None
        connection = self.engine.connect()
        pid = connection.scalar(sa.text("SELECT pg_backend_pid()"))
        connection.commit()
        with self.engine.connect() as other:
            other.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            other.commit()
        self.settle()
        try:
            connection.scalar(sa.text("SELECT 1"))
        except exc.DBAPIError as error:
            caught = class_of(error)
            invalidated = error.connection_invalidated
        connection.rollback()
        try:
            return caught, invalidated, connection.scalar(sa.text("SELECT 1"))
        finally:
            connection.close()

    def truncate(self):
        with self.engine.begin() as connection:
            connection.execute(sa.text("TRUNCATE order_notes, documents"))
            return [connection.scalar(select(func.count()).select_from(model)) for model in (Note, Document)]

    # Eight sessions at once.

    def tenant_session(self, number):
        foreign = 0
        with self.engine.connect() as connection, Session(connection) as session:
            tenant = Tenant(name=f"e{number}")
            session.add(tenant)
            session.commit()
            key = tenant.id
            for turn in range(15):
                session.execute(sa.text(f"SET application_name = 'session {number} {turn}'"))
                session.add(User(tenant_id=key, email=f"e{turn}@{number}", name=f"session {number}"))
                session.commit()
                rows = session.execute(select(User.name).where(User.tenant_id == key)).all()
                foreign += sum(row[0] != f"session {number}" for row in rows) + abs(len(rows) - turn - 1)
                foreign += session.scalar(sa.text("SHOW application_name")) != f"session {number} {turn}"
                session.commit()
            return foreign, session.scalar(select(func.count()).select_from(User).where(User.tenant_id == key))

    def temp_session(self, number):
        foreign = 0
        with self.engine.connect() as connection:
            scratch = sa.Table("scratch", sa.MetaData(), sa.Column("n", sa.Integer), prefixes=["TEMPORARY"],
                               postgresql_on_commit="DROP")
            for turn in range(5):
                with connection.begin():
                    scratch.create(connection, checkfirst=False)
                    connection.execute(scratch.insert(), [{"n": number}, {"n": turn}])
                    foreign += list(connection.scalars(select(scratch.c.n))) != [number, turn]
            return foreign + connection.scalar(sa.text("SELECT to_regclass('pg_temp.scratch') IS NOT NULL"))

    def eight_temps(self):
        return f"foreign {sum(self.eight(self.temp_session))}"

    def eight_tenants(self):
        results = self.eight(self.tenant_session)
        return f"foreign {sum(result[0] for result in results)}", sum(result[1] for result in results)

    def eight(self, session):
        results, errors = [], []

        def work(number):
            try:
                results.append(session(number))
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results

    def steps(self):
        page, page_all = self.both(lambda: select(User.email).order_by(User.email).limit(5).offset(5), User)
        count, count_all = self.both(lambda: select(func.count(), func.count(Order.user_id.distinct())), Order)
        average, average_all = self.both(lambda: select(func.avg(Order.amount), func.sum(Order.amount)), Order)
        distinct, distinct_all = self.both(lambda: select(User.country).distinct().order_by(User.country), User)
        having, having_all = self.both(
            lambda: select(User.email, func.count(Order.id)).join(User.orders).group_by(User.tenant_id, User.email)
            .having(func.count(Order.id) > 1).order_by(User.email), User,
        )
        exists, exists_all = self.both(
            lambda: select(User.email).where(User.orders.any(Order.amount > 12)).order_by(User.email), User
        )
        return [
            ("migrate", self.migrate),
            ("graph", self.by_rows(self.graph), "migrate"),
            ("bulk-insert-returning", self.by_rows(self.bulk_insert)),
            ("insertmanyvalues", otherwise(self.insertmanyvalues, self.insert_each)),
            ("upsert-with-key", self.upsert_with_key),
            ("upsert-without-key", self.upsert_without_key),
            ("merge", self.merge),
            ("get-without-key", self.get_without_key),
            ("get-uuid", self.get_uuid),
            ("lazy", self.loaded()),
            ("select-in", self.loaded(selectinload(User.orders).selectinload(Order.items))),
            ("eager", self.loaded(joinedload(User.orders).joinedload(Order.items))),
            ("children without key", self.notes),
            ("eager-page", self.eager_page),
            ("page", page),
            ("page-all", page_all),
            ("count", count),
            ("count-all", count_all),
            ("avg", average),
            ("avg-all", average_all),
            ("distinct", distinct),
            ("distinct-all", distinct_all),
            ("having", having),
            ("having-all", having_all),
            ("exists", exists),
            ("exists-all", exists_all),
            ("savepoint", self.savepoint),
            ("nested", self.nested),
            ("optimistic", self.optimistic),
            ("skip-locked", self.skip_locked),
            ("bulk-update", self.many(
                lambda: sa.update(User).where(User.tenant_id == self.t1).values(version=User.version + 1))),
            ("bulk-update-all", self.many(lambda: sa.update(Order).where(Order.amount > 30).values(status="paid"))),
            ("bulk-delete", self.many(
                lambda: sa.delete(User).where(User.tenant_id == self.t1, User.email.like("b0%")))),
            ("bulk-delete-all", self.many(lambda: sa.delete(User).where(User.email.like("b1%")))),
            ("cascade", self.cascade),
            ("cursor", self.cursor(lambda: Order.tenant_id == self.tenants[1])),
            ("cursor-all", self.cursor()),
            ("serializable", self.serializable),
            ("reflection", self.reflection),
            ("migrate-column", self.migrate_column),
            ("migrate-index-concurrently", self.migrate_index),
            ("migrate-enum-value", self.migrate_enum),
            ("migrate-fails", self.migrate_fails),
            ("reconnect", self.reconnect),
            ("children by parent", self.children_by_parent),
            ("truncate", self.truncate),
            ("eight-tenants", self.eight_tenants),
            ("eight-temps", self.eight_temps),
        ]
