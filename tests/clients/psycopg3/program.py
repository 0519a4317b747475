"""psycopg 3: the conformance steps, and what is its own: pipelines, binary, prepared statements, COPY, async."""

import asyncio
import threading
from decimal import Decimal
from enum import Enum

import psycopg
from psycopg.rows import class_row, dict_row
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import Jsonb

from dbapi import Driver
from steps import URL, class_of, walk


class Psycopg(Driver):
    """With the driver's own nested transactions."""

    def nested(self):
        with self.conn.transaction():
            self.user(self.conn, "n1@t1")
            try:
                with self.conn.transaction():
                    self.user(self.conn, "n2@t1")
                    with self.conn.transaction():
                        self.user(self.conn, "n3@t1")
                    raise psycopg.Rollback()
            except psycopg.Rollback:
                pass
            self.user(self.conn, "n4@t1")
        return self.emails("n%@t1")

    def savepoint(self):
        caught = None
        with self.conn.transaction():
            self.user(self.conn, "s1@t1")
            try:
                with self.conn.transaction("before"):
                    self.user(self.conn, "s1@t1")
            except psycopg.errors.UniqueViolation as error:
                caught = f"{class_of(error)} {error.diag.constraint_name}"
            self.user(self.conn, "s2@t1")
        return [caught, *self.emails("s%@t1")]


driver = Psycopg(
    lambda **options: psycopg.connect(URL, **options), psycopg.errors.UniqueViolation, psycopg.errors.SerializationFailure
)


def pipeline():
    with driver.conn.pipeline(), driver.tx() as cursor:
        found = []
        cursor.execute("SELECT count(*) FROM users WHERE tenant_id = %s", (driver.t1,))
        found.append(cursor.fetchone()[0])
        for n in range(10):
            cursor.execute(
                "INSERT INTO users (tenant_id, email, name) VALUES (%s, %s, 'piped')", (driver.t1, f"pipe{n}@t1")
            )
        cursor.execute("SELECT count(*) FROM users WHERE tenant_id = %s AND name = 'piped'", (driver.t1,))
        found.append(cursor.fetchone()[0])
    return found[1]


def pipeline_shards():
    """Many statements to many shards in one pipeline; results in order."""
    conn = driver.connect(autocommit=True)
    try:
        with conn.pipeline():
            cursors = [
                conn.execute("SELECT %s::text, count(*) FROM orders WHERE tenant_id = %s", (str(n), tenant))
                for n, tenant in enumerate(driver.tenants * 8)
            ]
            return [cursor.fetchone() for cursor in cursors]
    finally:
        conn.close()


def pipeline_error():
    """An error ends its pipeline up to the Sync; the connection goes on. Where it is raised is a matter of time."""
    conn = driver.connect(autocommit=True)
    caught = None
    try:
        try:
            with conn.pipeline() as pipe:
                conn.execute("SELECT 1")
                conn.execute("SELECT 1 / %s::int", (0,))
                conn.execute("INSERT INTO countries VALUES ('xx', 'not there')")
                pipe.sync()
        except psycopg.errors.DivisionByZero as error:
            caught = class_of(error)
        return caught, conn.execute("SELECT count(*) FROM countries").fetchone()[0]
    finally:
        conn.close()


def executemany_returning():
    with driver.tx() as cursor:
        cursor.executemany(
            "INSERT INTO users (tenant_id, email, name) VALUES (%s, %s, 'many') RETURNING email",
            [(tenant, f"m{n}") for n, tenant in enumerate(driver.tenants * 3)],
            returning=True,
        )
        emails = []
        while True:
            emails.append(cursor.fetchone()[0])
            if not cursor.nextset():
                return emails


def binary():
    with driver.conn.cursor(binary=True) as cursor:
        rows = cursor.execute(
            "SELECT email, version, tenant_id = %b FROM users WHERE tenant_id = %b ORDER BY email LIMIT 3",
            (driver.t1, driver.t1),
        ).fetchall()
        rows += cursor.execute(
            "SELECT amount, status, created_at > '2020-01-01' FROM orders WHERE tenant_id = %b ORDER BY amount",
            (driver.tenants[1],),
        ).fetchall()
        rows += cursor.execute("SELECT count(*), sum(amount), max(created_at) IS NULL FROM orders").fetchall()
    driver.conn.commit()
    return rows


def prepared():
    """One statement 20 times is prepared at the fifth; another connection too."""
    other = driver.connect()
    try:
        found = []
        for n in range(20):
            for conn in (driver.conn, other):
                tenant = driver.tenants[n % 4]
                found.append(driver.one("SELECT name FROM tenants WHERE id = %s", tenant, conn=conn))
        found.append(driver.one("SELECT count(*) > 0 FROM pg_prepared_statements WHERE statement LIKE '%%FROM tenants WHERE id%%'"))
        return found[-8:]
    finally:
        other.close()


def prepared_after_ddl():
    """A prepared statement whose result type changes."""
    conn = driver.connect(autocommit=True, prepare_threshold=0)
    try:
        conn.execute("CREATE TABLE changing (id int)")
        conn.execute("INSERT INTO changing VALUES (1)")
        first = conn.execute("SELECT * FROM changing").fetchall()
        conn.execute("SELECT * FROM changing").fetchall()
        driver.run("ALTER TABLE changing ADD COLUMN b text DEFAULT 'x'")
        return first, conn.execute("SELECT id FROM changing").fetchall()
    finally:
        conn.close()
        driver.run("DROP TABLE changing")


def copy_rows():
    with driver.conn.cursor() as cursor, cursor.copy("COPY users (tenant_id, email, name) FROM STDIN") as copy:
        for n in range(200):
            copy.write_row((driver.tenants[n % 4], f"c{n}@copy", "copied"))
    driver.conn.commit()
    return driver.one("SELECT count(*) FROM users WHERE name = 'copied'")


def copy_binary():
    orders_of = {
        tenant: driver.query("SELECT id FROM orders WHERE tenant_id = %s ORDER BY amount LIMIT 1", tenant)[0][0]
        for tenant in driver.tenants
    }
    with driver.conn.cursor() as cursor:
        with cursor.copy("COPY order_items (tenant_id, order_id, product, quantity) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["int8", "int8", "text", "int4"])
            for n, tenant in enumerate(driver.tenants):
                copy.write_row((tenant, orders_of[tenant], "binary", n))
        with cursor.copy("COPY order_items (product, quantity) TO STDOUT (FORMAT BINARY)") as copy:
            copy.set_types(["text", "int4"])
            rows = [row for row in copy.rows() if row[0] == "binary"]
    driver.conn.commit()
    return sorted(rows)


def copy_out():
    with driver.conn.cursor() as cursor, cursor.copy(
        "COPY (SELECT name, country FROM users WHERE email LIKE 'u%@t_') TO STDOUT"
    ) as copy:
        rows = sorted(copy.rows())
    driver.conn.commit()
    return rows


def copy_broken_off():
    caught = None
    try:
        with driver.conn.cursor() as cursor, cursor.copy("COPY users (tenant_id, email, name) FROM STDIN") as copy:
            copy.write_row((driver.t1, "half@copy", "half"))
            raise ValueError("the client changes its mind")
    except ValueError as error:
        caught = class_of(error)
    driver.conn.rollback()
    return caught, driver.one("SELECT count(*) FROM users WHERE name = 'half'")


def copy_bad_row():
    caught = None
    try:
        with driver.conn.cursor() as cursor, cursor.copy("COPY orders (tenant_id, user_id, amount) FROM STDIN") as copy:
            copy.write(f"{driver.t1}\t1\tmuch\n")
    except psycopg.errors.InvalidTextRepresentation as error:
        caught = class_of(error)
    driver.conn.rollback()
    return caught, driver.one("SELECT 1")


def scrolled():
    with driver.conn.cursor("scrolled", scrollable=True) as cursor:
        cursor.execute("SELECT email FROM users WHERE tenant_id = %s AND name LIKE 'u_' ORDER BY email", (driver.tenants[1],))
        last = cursor.fetchall()[-1]
        cursor.scroll(0, mode="absolute")
        first = cursor.fetchone()
    driver.conn.commit()
    return last, first


def with_hold():
    with driver.conn.cursor("held", withhold=True) as cursor:
        cursor.execute("SELECT email FROM users WHERE tenant_id = %s AND name LIKE 'u_' ORDER BY email", (driver.tenants[1],))
        driver.conn.commit()
        rows = cursor.fetchall()
    driver.conn.commit()
    return rows


def stream():
    with driver.conn.cursor() as cursor:
        rows = [row[0] for row in cursor.stream("SELECT email FROM users WHERE tenant_id = %s ORDER BY 1 LIMIT 4", (driver.t1,))]
    driver.conn.commit()
    return rows


def row_factories():
    class User:
        def __init__(self, email, country):
            self.email, self.country = email, country

    sql = "SELECT email, country FROM users WHERE tenant_id = %s AND email = 'u1@t2'"
    with driver.conn.cursor(row_factory=dict_row) as cursor:
        by_name = cursor.execute(sql, (driver.tenants[1],)).fetchone()
    with driver.conn.cursor(row_factory=class_row(User)) as cursor:
        user = cursor.execute(sql, (driver.tenants[1],)).fetchone()
    driver.conn.commit()
    return by_name, user.email, user.country


def enum_type():
    """The type's OID is asked of the catalog and then expected in results and sent with parameters."""

    class Status(Enum):
        new = "new"
        paid = "paid"
        sent = "sent"

    conn = driver.connect()
    try:
        register_enum(EnumInfo.fetch(conn, "order_status"), conn, Status)
        rows = driver.query(
            "SELECT amount, status FROM orders WHERE tenant_id = %s AND status = %s ORDER BY amount",
            driver.tenants[1], Status.new, conn=conn,
        )
        everywhere = driver.query("SELECT DISTINCT status FROM orders WHERE status = %s", Status.paid, conn=conn)
        return rows + everywhere
    finally:
        conn.close()


def types():
    with driver.tx() as cursor:
        cursor.execute("CREATE TABLE kinds (tenant_id bigint, j jsonb, a int[], n numeric, b bytea, r int4range, i interval)")
        cursor.execute(
            "INSERT INTO kinds VALUES (%s, %s, %s, %s, %s, '[1,5)', '1 day 2 hours')",
            (driver.t1, Jsonb({"a": [1, None]}), [1, 2], Decimal("1.50"), b"\x00\xff"),
        )
        cursor.execute("SELECT j, a, n, b, r, i FROM kinds WHERE tenant_id = %s", (driver.t1,))
        row = cursor.fetchone()
        cursor.execute("SELECT j, a, n, b, r, i FROM kinds", binary=True)
        return row == cursor.fetchone(), *row


def notices():
    heard = []
    driver.conn.add_notice_handler(lambda diag: heard.append((diag.sqlstate, diag.message_primary)))
    driver.run("DROP TABLE IF EXISTS nosuch")
    driver.run("DO $$ BEGIN RAISE WARNING 'from do'; END $$")
    return heard


def listen():
    conn = driver.connect(autocommit=True)
    try:
        conn.execute("LISTEN news")
        driver.run("NOTIFY news, 'hello'")
        return [(notify.channel, notify.payload) for notify in conn.notifies(timeout=10, stop_after=1)]
    finally:
        conn.close()


def cancel():
    timer = threading.Timer(0.5, driver.conn.cancel_safe)
    timer.start()
    try:
        driver.one("SELECT pg_sleep(20)")
    except psycopg.errors.QueryCanceled as error:
        return class_of(error), driver.one("SELECT 1")


def startup_options():
    conn = driver.connect(options="-c statement_timeout=4321 -c search_path=public,pg_catalog", application_name="three")
    try:
        names = ("statement_timeout", "search_path", "application_name")
        told = [driver.one(f"SHOW {name}", conn=conn) for name in names]
        driver.run("SET statement_timeout = 1000", conn=conn)
        driver.run("RESET statement_timeout", conn=conn)
        return [*told, driver.one("SHOW statement_timeout", conn=conn), conn.info.parameter_status("application_name")]
    finally:
        conn.close()


def facts():
    conn = driver.conn
    return (
        conn.info.server_version // 10000, conn.info.encoding, conn.info.timezone, conn.info.dbname,
        conn.info.backend_pid == driver.one("SELECT pg_backend_pid()"), conn.info.parameter_status("TimeZone"),
    )


def advisory_locks():
    other = driver.connect()
    try:
        took = driver.one("SELECT pg_try_advisory_lock(42)"), driver.one("SELECT pg_try_advisory_lock(42)", conn=other)
        return *took, driver.one("SELECT pg_advisory_unlock(42)"), driver.one("SELECT pg_try_advisory_lock(42)", conn=other)
    finally:
        other.close()


def temp_table():
    """A temporary table lives as long as its session, whoever used the connections meanwhile."""
    conn, other = driver.connect(autocommit=True), driver.connect(autocommit=True)
    try:
        conn.execute("CREATE TEMP TABLE kept (n int)")
        for n in range(5):
            conn.execute("INSERT INTO kept VALUES (%s)", (n,))
            other.execute("SELECT count(*) FROM users WHERE tenant_id = %s", (driver.t1,))
        seen = other.execute("SELECT to_regclass('kept')").fetchone()[0]
        return conn.execute("SELECT sum(n) FROM kept").fetchone()[0], seen
    finally:
        conn.close()
        other.close()


async def with_asyncio():
    """Eight connections of the async API at once, in a pipeline each."""

    async def one(n):
        async with await psycopg.AsyncConnection.connect(URL) as conn, conn.pipeline():
            cursors = [
                await conn.execute("SELECT %s::int, count(*) FROM orders WHERE tenant_id = %s", (n * 10 + turn, tenant))
                for turn, tenant in enumerate(driver.tenants)
            ]
            return [await cursor.fetchone() for cursor in cursors]

    return [row for rows in await asyncio.gather(*[one(n) for n in range(8)]) for row in rows]


steps = driver.steps(lambda: driver.conn.info.backend_pid)
walk(
    steps[:-3]
    + [
        ("pipeline", pipeline),
        ("pipeline over shards", pipeline_shards),
        ("pipeline error", pipeline_error),
        ("executemany returning", executemany_returning),
        ("binary", binary),
        ("prepared", prepared),
        ("prepared after ddl", prepared_after_ddl),
        ("copy rows", copy_rows),
        ("copy binary", copy_binary),
        ("copy out", copy_out),
        ("copy broken off", copy_broken_off),
        ("copy bad row", copy_bad_row),
        ("cursor scrolled", scrolled),
        ("cursor with hold", with_hold),
        ("stream", stream),
        ("row factories", row_factories),
        ("enum type", enum_type),
        ("types", types),
        ("notices", notices),
        ("listen", listen),
        ("cancel", cancel),
        ("startup options", startup_options),
        ("facts", facts),
        ("advisory locks", advisory_locks),
        ("temp table", temp_table),
        ("asyncio", lambda: asyncio.run(with_asyncio())),
    ]
    + steps[-3:],
    driver.recover,
)
