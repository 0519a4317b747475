"""The conformance steps with plain SQL over a DB-API driver (psycopg 3, psycopg2)."""

import threading
import uuid
from contextlib import contextmanager

import graph
from steps import class_of

USER_ORDERS = """
SELECT u.name, o.amount, i.product FROM users u
JOIN orders o ON o.tenant_id = u.tenant_id AND o.user_id = u.id
JOIN order_items i ON i.tenant_id = o.tenant_id AND i.order_id = o.id
WHERE u.tenant_id = %s ORDER BY u.name, o.amount, i.product
"""


class Driver:
    """Steps over one connection; `connect` makes further ones."""

    def __init__(self, connect, unique_violation, serialization_failure):
        self.connect = connect
        self.conn = connect()
        self.unique_violation = unique_violation
        self.serialization_failure = serialization_failure
        self.tenants = []

    def recover(self, is_stuck=False):
        try:
            if is_stuck:
                raise TimeoutError
            self.conn.rollback()
        except Exception:
            self.conn = self.connect()
        if self.conn.closed:
            self.conn = self.connect()

    @contextmanager
    def tx(self, conn=None):
        conn = conn or self.conn
        try:
            with conn.cursor() as cursor:
                yield cursor
            conn.commit()
        except BaseException:
            if not conn.closed:
                conn.rollback()
            raise

    def query(self, sql, *params, conn=None):
        with self.tx(conn) as cursor:
            cursor.execute(sql, params or None)
            return cursor.fetchall()

    def one(self, sql, *params, conn=None):
        return self.query(sql, *params, conn=conn)[0][0]

    def run(self, sql, *params, conn=None):
        with self.tx(conn) as cursor:
            cursor.execute(sql, params or None)
            return cursor.rowcount

    @property
    def t1(self):
        return self.tenants[0]

    # The schema and the rows.

    def migrate(self):
        with self.tx() as cursor:
            cursor.execute(graph.SCHEMA)
        return self.query(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1"
        )

    def graph(self):
        with self.tx() as cursor:
            cursor.executemany("INSERT INTO countries (code, name) VALUES (%s, %s)", graph.COUNTRIES)
        for number, name in enumerate(graph.TENANTS, 1):
            with self.tx() as cursor:
                cursor.execute("INSERT INTO tenants (name) VALUES (%s) RETURNING id", (name,))
                tenant = cursor.fetchone()[0]
                self.tenants.append(tenant)
                for user, (email, user_name, country, amounts) in enumerate(graph.users(number), 1):
                    cursor.execute(
                        "INSERT INTO users (tenant_id, email, name, country) VALUES (%s, %s, %s, %s) RETURNING id",
                        (tenant, email, user_name, country),
                    )
                    self.orders(cursor, tenant, cursor.fetchone()[0], user, amounts)
        counts = [(table, self.one(f"SELECT count(*) FROM {table}")) for table in graph.TABLES]
        return counts + self.query(USER_ORDERS, self.tenants[1])

    def orders(self, cursor, tenant, user_id, user, amounts):
        for number, amount in enumerate(amounts, 1):
            cursor.execute(
                "INSERT INTO orders (tenant_id, user_id, amount) VALUES (%s, %s, %s) RETURNING id, status",
                (tenant, user_id, amount),
            )
            order = cursor.fetchone()[0]
            cursor.executemany(
                "INSERT INTO order_items (tenant_id, order_id, product, quantity) VALUES (%s, %s, %s, %s)",
                [(tenant, order, product, quantity) for product, quantity in graph.products(user, number)],
            )
            cursor.execute("INSERT INTO order_notes (order_id, text) VALUES (%s, %s)", (order, f"n{number}"))

    def bulk_insert(self):
        emails = [f"b{n:02}" for n in range(20)]
        values = ", ".join(["(%s, %s, %s)"] * len(emails))
        params = [value for email in emails for value in (self.t1, email, email)]
        rows = self.query(f"INSERT INTO users (tenant_id, email, name) VALUES {values} RETURNING id, email", *params)
        read = [self.one("SELECT email FROM users WHERE tenant_id = %s AND id = %s", self.t1, row[0]) for row in rows]
        return ["order kept" if read == emails else "order lost", *read]

    def upsert_with_key(self):
        sql = (
            "INSERT INTO users (tenant_id, email, name) VALUES (%s, %s, %s)"
            " ON CONFLICT (tenant_id, email) DO UPDATE SET name = excluded.name, version = users.version + 1"
            " RETURNING name, version"
        )
        return [self.query(sql, self.t1, "u1@t1", "upserted")[0], self.query(sql, self.t1, "up@t1", "new")[0]]

    def upsert_without_key(self):
        user = self.one("SELECT id FROM users WHERE tenant_id = %s AND email = 'u2@t1'", self.t1)
        sql = (
            "INSERT INTO users (id, tenant_id, email, name) VALUES (%s, %s, 'u2@t1', 'u2')"
            " ON CONFLICT (id) DO UPDATE SET name = excluded.name RETURNING name"
        )
        return self.one(sql, user, self.t1)

    # Reading.

    def get_without_key(self):
        order = self.one("SELECT id FROM orders WHERE tenant_id = %s AND amount = 11.25", self.t1)
        amount, user = self.query("SELECT amount, user_id FROM orders WHERE id = %s", order)[0]
        return amount, self.one("SELECT email FROM users WHERE id = %s", user)

    def get_uuid(self):
        made = uuid.UUID(int=7)
        self.run("INSERT INTO documents (tenant_id, id, title) VALUES (%s, %s, 'given')", self.t1, str(made))
        by_server = self.one("INSERT INTO documents (tenant_id, title) VALUES (%s, 'made') RETURNING id", self.t1)
        sql = "SELECT title FROM documents WHERE tenant_id = %s AND id = %s"
        return self.one(sql, self.t1, str(made)), self.one(sql, self.t1, str(by_server))

    def lazy(self):
        found = []
        for user, name in self.query("SELECT id, name FROM users WHERE tenant_id = %s ORDER BY email", self.tenants[1]):
            for order, amount in self.query("SELECT id, amount FROM orders WHERE user_id = %s ORDER BY amount", user):
                items = self.query("SELECT product FROM order_items WHERE order_id = %s ORDER BY 1", order)
                found.append((name, amount, *[item[0] for item in items]))
        return found

    def select_in(self):
        tenant = self.tenants[1]
        users = dict(self.query("SELECT id, name FROM users WHERE tenant_id = %s", tenant))
        orders = self.query(
            "SELECT id, user_id, amount FROM orders WHERE tenant_id = %s AND user_id = ANY(%s)", tenant, list(users)
        )
        items = self.query(
            "SELECT order_id, product FROM order_items WHERE tenant_id = %s AND order_id = ANY(%s)",
            tenant,
            [order[0] for order in orders],
        )
        return sorted(
            (users[user], amount, *sorted(product for of, product in items if of == order))
            for order, user, amount in orders
        )

    def eager(self):
        return self.query(USER_ORDERS, self.tenants[1])

    def eager_page(self):
        return self.query(
            "SELECT u.name, o.amount FROM (SELECT id, tenant_id, name FROM users WHERE tenant_id = %s"
            " ORDER BY email LIMIT 2) u LEFT JOIN orders o ON o.tenant_id = u.tenant_id AND o.user_id = u.id"
            " ORDER BY u.name, o.amount",
            self.tenants[1],
        )

    def both(self, sql, order=""):
        """A step inside one tenant and over all: `{}` is where the condition stands."""
        return (
            lambda: self.query(sql.format("WHERE tenant_id = %s") + order, self.t1),
            lambda: self.query(sql.format("") + order),
        )

    # Transactions.

    def user(self, cursor, email, name="x"):
        cursor.execute(
            "INSERT INTO users (tenant_id, email, name) VALUES (%s, %s, %s)", (self.t1, email, name)
        )

    def emails(self, like):
        return self.query(
            "SELECT email FROM users WHERE tenant_id = %s AND email LIKE %s ORDER BY 1", self.t1, like
        )

    def savepoint(self):
        caught = None
        with self.tx() as cursor:
            self.user(cursor, "s1@t1")
            cursor.execute("SAVEPOINT before")
            try:
                self.user(cursor, "s1@t1")
            except self.unique_violation as error:
                caught = class_of(error)
                cursor.execute("ROLLBACK TO SAVEPOINT before")
            self.user(cursor, "s2@t1")
            cursor.execute("RELEASE SAVEPOINT before")
        return [caught, *self.emails("s%@t1")]

    def nested(self):
        with self.tx() as cursor:
            self.user(cursor, "n1@t1")
            cursor.execute('SAVEPOINT "outer-1"')
            self.user(cursor, "n2@t1")
            cursor.execute('SAVEPOINT "inner-2"')
            self.user(cursor, "n3@t1")
            cursor.execute('RELEASE SAVEPOINT "inner-2"')
            cursor.execute('ROLLBACK TO SAVEPOINT "outer-1"')
            self.user(cursor, "n4@t1")
        return self.emails("n%@t1")

    def optimistic(self):
        sql = "UPDATE users SET version = version + 1, name = %s WHERE tenant_id = %s AND email = 'u3@t1' AND version = %s"
        version = self.one("SELECT version FROM users WHERE tenant_id = %s AND email = 'u3@t1'", self.t1)
        first, second = (self.run(sql, name, self.t1, version) for name in ("one", "two"))
        return "updated" if first == 1 else "lost", "stale" if second == 0 else "overwritten"

    def skip_locked(self):
        sql = "SELECT amount FROM orders WHERE tenant_id = %s ORDER BY amount LIMIT 2 FOR UPDATE SKIP LOCKED"
        other = self.connect()
        try:
            with self.tx() as one, self.tx(other) as two:
                one.execute(sql, (self.tenants[1],))
                first = one.fetchall()
                two.execute(sql, (self.tenants[1],))
                return first + two.fetchall()
        finally:
            other.close()

    def serializable(self):
        read = "SELECT count(*) FROM users WHERE tenant_id = %s AND name = 'duty'"
        write = "UPDATE users SET name = 'off' WHERE tenant_id = %s AND email = %s"
        tenant = self.tenants[2]
        self.run("UPDATE users SET name = 'duty' WHERE tenant_id = %s", tenant)
        other = self.connect()
        caught = None
        try:
            with self.tx() as one:
                one.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
                one.execute(read, (tenant,))
                try:
                    with self.tx(other) as two:
                        two.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
                        two.execute(read, (tenant,))
                        one.execute(write, (tenant, "u1@t3"))
                        two.execute(write, (tenant, "u2@t3"))
                        self.conn.commit()
                except self.serialization_failure as error:
                    caught = class_of(error)
            left = self.one(read, tenant, conn=other)
            self.run(write, tenant, "u2@t3", conn=other)
        finally:
            other.close()
        return caught, left, self.one(read, tenant)

    # Writing many rows.

    def bulk_update(self):
        return self.run("UPDATE users SET version = version + 1 WHERE tenant_id = %s", self.t1)

    def bulk_update_all(self):
        return self.run("UPDATE orders SET status = 'paid' WHERE amount > 30")

    def bulk_delete(self):
        return self.run("DELETE FROM users WHERE tenant_id = %s AND email LIKE 'b0%%'", self.t1)

    def bulk_delete_all(self):
        return self.run("DELETE FROM users WHERE email LIKE 'b1%%'")

    def cascade(self):
        tenant = self.tenants[3]
        user = self.one("SELECT id FROM users WHERE tenant_id = %s AND email = 'u1@t4'", tenant)
        self.run("DELETE FROM users WHERE tenant_id = %s AND id = %s", tenant, user)
        tables = ("users", "orders", "order_items")
        return [self.one(f"SELECT count(*) FROM {table} WHERE tenant_id = %s", tenant) for table in tables]

    # Cursors, catalogs, migrations.

    def cursor(self, sql, *params):
        chunks, total = [], 0
        try:
            with self.conn.cursor(name="reader") as cursor:
                cursor.execute(sql, params or None)
                while rows := cursor.fetchmany(5):
                    chunks.append(len(rows))
                    total += sum(row[0] for row in rows)
            self.conn.commit()
        except BaseException:
            self.conn.rollback()
            raise
        return [*chunks, total]

    def reflection(self):
        told = []
        for table in ("users", "orders"):
            oid = self.one("SELECT c.oid FROM pg_class c WHERE c.relname = %s AND c.relkind = 'r'", table)
            told += self.query(
                "SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull FROM pg_attribute a"
                " WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
                oid,
            )
            told += self.query(
                "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s ORDER BY 1", oid
            )
            told += self.query("SELECT indexname, indexdef FROM pg_indexes WHERE tablename = %s ORDER BY 1", table)
        return told

    def migrate_column(self):
        self.run("ALTER TABLE users ADD COLUMN note text NOT NULL DEFAULT 'none'")
        return self.one("SELECT note FROM users WHERE tenant_id = %s AND email = 'u1@t1'", self.t1)

    def autocommit(self, sql):
        self.conn.autocommit = True
        try:
            with self.conn.cursor() as cursor:
                cursor.execute(sql)
        finally:
            if not self.conn.closed:
                self.conn.autocommit = False

    def migrate_index(self):
        self.autocommit("CREATE INDEX CONCURRENTLY orders_by_status ON orders (status)")
        return self.query(
            "SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            " WHERE c.relname = 'orders_by_status'"
        )

    def migrate_enum(self):
        self.autocommit("ALTER TYPE order_status ADD VALUE 'sent'")
        return self.query(
            "UPDATE orders SET status = 'sent' WHERE tenant_id = %s AND amount = 11.25 RETURNING status", self.t1
        )

    def migrate_fails(self):
        caught = None
        try:
            with self.tx() as cursor:
                cursor.execute("ALTER TABLE users ADD COLUMN half int")
                cursor.execute("ALTER TABLE users ADD COLUMN half int")
        except Exception as error:
            if getattr(error, "sqlstate", None) == "0A000" or getattr(error, "pgcode", None) == "0A000":
                raise
            caught = class_of(error)
        columns = self.one(
            "SELECT count(*) FROM information_schema.columns WHERE table_name = 'users' AND column_name = 'half'"
        )
        return caught, columns

    def reconnect(self, pid):
        other = self.connect()
        try:
            caught = None
            self.one("SELECT pg_terminate_backend(%s)", pid, conn=other)
            try:
                self.one("SELECT 1")
            except Exception as error:
                caught = class_of(error)
            closed = bool(self.conn.closed)
            self.recover()
            return caught, closed, self.one("SELECT 1")
        finally:
            other.close()

    def truncate(self):
        self.run("TRUNCATE order_notes, documents")
        return [self.one(f"SELECT count(*) FROM {table}") for table in ("order_notes", "documents")]

    # Eight sessions at once.

    def eight(self, work):
        """Runs `work(number, connection)` in eight threads; gives what they return, or raises what one raised."""
        results, errors = [None] * 8, []

        def session(number):
            try:
                conn = self.connect()
                try:
                    results[number] = work(number, conn)
                finally:
                    conn.close()
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=session, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results

    def tenant_session(self, number, conn):
        foreign = 0
        tenant = self.one("INSERT INTO tenants (name) VALUES (%s) RETURNING id", f"e{number}", conn=conn)
        for turn in range(15):
            self.run(f"SET application_name = 'session {number} {turn}'", conn=conn)
            with self.tx(conn) as cursor:
                cursor.execute(
                    "INSERT INTO users (tenant_id, email, name) VALUES (%s, %s, %s)",
                    (tenant, f"e{turn}@{number}", f"session {number}"),
                )
            rows = self.query("SELECT email, name FROM users WHERE tenant_id = %s", tenant, conn=conn)
            foreign += sum(name != f"session {number}" for _, name in rows) + abs(len(rows) - turn - 1)
            foreign += self.one("SHOW application_name", conn=conn) != f"session {number} {turn}"
        return foreign, self.one("SELECT count(*) FROM users WHERE tenant_id = %s", tenant, conn=conn)

    def eight_tenants(self):
        results = self.eight(self.tenant_session)
        return f"foreign {sum(result[0] for result in results)}", sum(result[1] for result in results)

    def temp_session(self, number, conn):
        foreign = 0
        for turn in range(5):
            with self.tx(conn) as cursor:
                cursor.execute("CREATE TEMP TABLE scratch (n int) ON COMMIT DROP")
                cursor.execute("INSERT INTO scratch VALUES (%s), (%s)", (number, turn))
                cursor.execute("SELECT n FROM scratch")
                foreign += [row[0] for row in cursor.fetchall()] != [number, turn]
        foreign += self.one("SELECT to_regclass('pg_temp.scratch') IS NOT NULL", conn=conn)
        return foreign

    def eight_temps(self):
        return f"foreign {sum(self.eight(self.temp_session))}"

    def steps(self, pid):
        """The list for `walk`; `pid` gives the pid of the driver's connection."""
        page, page_all = self.both("SELECT email FROM users {}", " ORDER BY email LIMIT 5 OFFSET 5")
        count, count_all = self.both("SELECT count(*) FROM orders {}")
        average, average_all = self.both("SELECT round(avg(amount), 2), sum(amount) FROM orders {}")
        distinct, distinct_all = self.both("SELECT DISTINCT country FROM users {}", " ORDER BY country")
        having = (
            "SELECT u.email, count(*) FROM users u JOIN orders o ON o.tenant_id = u.tenant_id AND o.user_id = u.id"
            " {} GROUP BY u.tenant_id, u.email HAVING count(*) > 1 ORDER BY u.email"
        )
        exists = (
            "SELECT email FROM users u WHERE EXISTS (SELECT 1 FROM orders o WHERE o.tenant_id = u.tenant_id"
            " AND o.user_id = u.id AND o.amount > 12) {} ORDER BY email"
        )
        orders = "SELECT amount FROM orders {} ORDER BY amount, id"
        return [
            ("migrate", self.migrate),
            ("graph", self.graph, "migrate"),
            ("bulk-insert-returning", self.bulk_insert),
            ("upsert-with-key", self.upsert_with_key),
            ("upsert-without-key", self.upsert_without_key),
            ("get-without-key", self.get_without_key),
            ("get-uuid", self.get_uuid),
            ("lazy", self.lazy),
            ("select-in", self.select_in),
            ("eager", self.eager),
            ("eager-page", self.eager_page),
            ("page", page),
            ("page-all", page_all),
            ("count", count),
            ("count-all", count_all),
            ("count-distinct", lambda: self.one("SELECT count(DISTINCT user_id) FROM orders WHERE tenant_id = %s", self.t1)),
            ("count-distinct-all", lambda: self.one("SELECT count(DISTINCT user_id) FROM orders")),
            ("avg", average),
            ("avg-all", average_all),
            ("distinct", distinct),
            ("distinct-all", distinct_all),
            ("having", lambda: self.query(having.format("WHERE u.tenant_id = %s"), self.t1)),
            ("having-all", lambda: self.query(having.format(""))),
            ("exists", lambda: self.query(exists.format("AND u.tenant_id = %s"), self.t1)),
            ("exists-all", lambda: self.query(exists.format(""))),
            ("savepoint", self.savepoint),
            ("nested", self.nested),
            ("optimistic", self.optimistic),
            ("skip-locked", self.skip_locked),
            ("bulk-update", self.bulk_update),
            ("bulk-update-all", self.bulk_update_all),
            ("bulk-delete", self.bulk_delete),
            ("bulk-delete-all", self.bulk_delete_all),
            ("cascade", self.cascade),
            ("cursor", lambda: self.cursor(orders.format("WHERE tenant_id = %s"), self.tenants[1])),
            ("cursor-all", lambda: self.cursor(orders.format(""))),
            ("serializable", self.serializable),
            ("reflection", self.reflection),
            ("migrate-column", self.migrate_column),
            ("migrate-index-concurrently", self.migrate_index),
            ("migrate-enum-value", self.migrate_enum),
            ("migrate-fails", self.migrate_fails),
            ("reconnect", lambda: self.reconnect(pid())),
            ("truncate", self.truncate),
            ("eight-tenants", self.eight_tenants),
            ("eight-temps", self.eight_temps),
        ]
