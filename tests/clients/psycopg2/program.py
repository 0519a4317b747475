"""psycopg2: the conformance steps, and what is its own: COPY, execute_values, notices, notifications, large results."""

import io

import psycopg2
import psycopg2.errorcodes
import psycopg2.errors
import psycopg2.extras

import graph
from dbapi import Driver
from steps import URL, class_of, walk

driver = Driver(
    lambda **options: psycopg2.connect(URL, **options), psycopg2.errors.UniqueViolation, psycopg2.errors.SerializationFailure
)


def copy_in():
    rows = "".join(f"{tenant}\tc{n}\tcopied\n" for n, tenant in enumerate(driver.tenants * 5))
    with driver.tx() as cursor:
        cursor.copy_expert("COPY users (tenant_id, email, name) FROM STDIN", io.StringIO(rows))
        told = cursor.rowcount
    return told, driver.one("SELECT count(*) FROM users WHERE name = 'copied'")


def copy_out():
    out = io.StringIO()
    with driver.tx() as cursor:
        cursor.copy_expert("COPY (SELECT email, country FROM users WHERE name LIKE 'u_') TO STDOUT CSV", out)
    return sorted(out.getvalue().split())


def copy_fails():
    caught = None
    try:
        with driver.tx() as cursor:
            cursor.copy_expert("COPY orders (tenant_id, user_id, amount) FROM STDIN", io.StringIO("1\t1\tx\n"))
    except psycopg2.DataError as error:
        caught = class_of(error)
    return caught, driver.one("SELECT 1")


def execute_values():
    rows = [(driver.t1, f"v{n}@t1", f"v{n}") for n in range(7)]
    with driver.tx() as cursor:
        given = psycopg2.extras.execute_values(
            cursor, "INSERT INTO users (tenant_id, email, name) VALUES %s RETURNING email", rows, page_size=3, fetch=True
        )
    return given


def execute_batch():
    with driver.tx() as cursor:
        psycopg2.extras.execute_batch(
            cursor,
            "UPDATE users SET name = %s WHERE tenant_id = %s AND email = %s",
            [(f"w{n}", driver.t1, f"v{n}@t1") for n in range(7)],
        )
    return driver.query("SELECT name FROM users WHERE tenant_id = %s AND email LIKE 'v%%' ORDER BY 1", driver.t1)


def notices():
    del driver.conn.notices[:]
    driver.run("DROP TABLE IF EXISTS nosuch")
    return [notice.strip() for notice in driver.conn.notices]


def startup_options():
    conn = driver.connect(options="-c statement_timeout=4321 -c search_path=public,pg_catalog", application_name="two")
    try:
        told = [driver.one(f"SHOW {name}", conn=conn) for name in ("statement_timeout", "search_path", "application_name")]
        driver.run("SET statement_timeout = 1", conn=conn)
        driver.run("RESET statement_timeout", conn=conn)
        return [*told, driver.one("SHOW statement_timeout", conn=conn)]
    finally:
        conn.close()


def statement_timeout():
    conn = driver.connect(options="-c statement_timeout=200")
    try:
        driver.one("SELECT pg_sleep(20)", conn=conn)
    except psycopg2.errors.QueryCanceled as error:
        return class_of(error), driver.one("SELECT 1", conn=conn)
    finally:
        conn.close()


def cancel():
    import threading

    timer = threading.Timer(0.5, driver.conn.cancel)
    timer.start()
    try:
        driver.one("SELECT pg_sleep(20)")
    except psycopg2.errors.QueryCanceled as error:
        return class_of(error), driver.one("SELECT 1")


def listen():
    conn = driver.connect()
    try:
        conn.autocommit = True
        conn.cursor().execute("LISTEN news")
        driver.run("NOTIFY news, 'hello'")
        for _ in range(100):
            conn.cursor().execute("SELECT pg_sleep(0.02)")
            if conn.notifies:
                break
        return [(notice.channel, notice.payload) for notice in conn.notifies]
    finally:
        conn.close()


def with_hold():
    with driver.conn.cursor("held", withhold=True) as cursor:
        cursor.execute("SELECT name FROM users WHERE tenant_id = %s ORDER BY email", (driver.tenants[1],))
        driver.conn.commit()
        first = cursor.fetchmany(2)
        return first + cursor.fetchall()


def scroll():
    with driver.conn.cursor("scrolled", scrollable=True) as cursor:
        cursor.execute("SELECT name FROM users WHERE tenant_id = %s ORDER BY email", (driver.tenants[1],))
        last = cursor.fetchall()[-1]
        cursor.scroll(0, mode="absolute")
        first = cursor.fetchone()
    driver.conn.commit()
    return last, first


def large_object():
    big = driver.conn.lobject(0, "wb")
    oid = big.oid
    big.write(b"x" * 10_000)
    big.close()
    driver.conn.commit()
    read = len(driver.conn.lobject(oid, "rb").read())
    driver.conn.lobject(oid, "wb").unlink()
    driver.conn.commit()
    return read


def types():
    return driver.query(
        "SELECT 1::int2, 2::int8, 1.50::numeric, 'a'::text, true, '2026-01-02'::date, '2026-01-02 03:04+00'::timestamptz,"
        " '{1,2}'::int[], '{\"a\": [1]}'::jsonb, '[1,5)'::int4range, '\\x00ff'::bytea::text, 'NaN'::float8, NULL"
    )


walk(
    driver.steps(lambda: driver.conn.info.backend_pid)[:-3]
    + [
        ("copy in", copy_in),
        ("copy out", copy_out),
        ("copy fails", copy_fails),
        ("execute_values", execute_values),
        ("execute_batch", execute_batch),
        ("notices", notices),
        ("startup options", startup_options),
        ("statement_timeout", statement_timeout),
        ("cancel", cancel),
        ("listen", listen),
        ("cursor with hold", with_hold),
        ("cursor scrolled", scroll),
        ("large object", large_object),
        ("types", types),
    ]
    + driver.steps(lambda: 0)[-3:],
    driver.recover,
)
