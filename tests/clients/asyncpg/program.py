"""asyncpg: the conformance steps, and what is its own: its statement cache, cursors, COPY, pool, types by introspection."""

import asyncio
import datetime
import io
import uuid

import asyncpg

import graph
from steps import URL, class_of, walk_async

USER_ORDERS = """
SELECT u.name, o.amount, i.product FROM users u
JOIN orders o ON o.tenant_id = u.tenant_id AND o.user_id = u.id
JOIN order_items i ON i.tenant_id = o.tenant_id AND i.order_id = o.id
WHERE u.tenant_id = $1 ORDER BY u.name, o.amount, i.product
"""


def rows(records):
    return [tuple(record) for record in records]


class Program:
    """The steps over one connection."""

    def __init__(self):
        self.conn = None
        self.tenants = []

    @property
    def t1(self):
        return self.tenants[0]

    async def connect(self, **options):
        return await asyncpg.connect(URL, **options)

    async def recover(self, is_stuck=False):
        if is_stuck:
            self.conn.terminate()
        if self.conn.is_closed():
            self.conn = await self.connect()
        elif self.conn.is_in_transaction():
            await self.conn.execute("ROLLBACK")

    # The schema and the rows.

    async def migrate(self):
        async with self.conn.transaction():
            await self.conn.execute(graph.SCHEMA)
        return rows(await self.conn.fetch(
            "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1"
        ))

    async def graph(self):
        conn = self.conn
        await conn.executemany("INSERT INTO countries (code, name) VALUES ($1, $2)", graph.COUNTRIES)
        for number, name in enumerate(graph.TENANTS, 1):
            async with conn.transaction():
                tenant = await conn.fetchval("INSERT INTO tenants (name) VALUES ($1) RETURNING id", name)
                self.tenants.append(tenant)
                for user, (email, user_name, country, amounts) in enumerate(graph.users(number), 1):
                    user_id = await conn.fetchval(
                        "INSERT INTO users (tenant_id, email, name, country) VALUES ($1, $2, $3, $4) RETURNING id",
                        tenant, email, user_name, country,
                    )
                    for order, amount in enumerate(amounts, 1):
                        order_id = await conn.fetchval(
                            "INSERT INTO orders (tenant_id, user_id, amount) VALUES ($1, $2, $3) RETURNING id",
                            tenant, user_id, amount,
                        )
                        await conn.executemany(
                            "INSERT INTO order_items (tenant_id, order_id, product, quantity) VALUES ($1, $2, $3, $4)",
                            [(tenant, order_id, *product) for product in graph.products(user, order)],
                        )
                        await conn.execute("INSERT INTO order_notes (order_id, text) VALUES ($1, 'n')", order_id)
        counts = [(table, await conn.fetchval(f"SELECT count(*) FROM {table}")) for table in graph.TABLES]
        return counts + rows(await conn.fetch(USER_ORDERS, self.tenants[1]))

    async def bulk_insert(self):
        emails = [f"b{n:02}" for n in range(20)]
        values = ", ".join(f"(${3 * n + 1}, ${3 * n + 2}, ${3 * n + 3})" for n in range(20))
        given = await self.conn.fetch(
            f"INSERT INTO users (tenant_id, email, name) VALUES {values} RETURNING id",
            *[value for email in emails for value in (self.t1, email, email)],
        )
        read = [
            await self.conn.fetchval("SELECT email FROM users WHERE tenant_id = $1 AND id = $2", self.t1, row["id"])
            for row in given
        ]
        return ["order kept" if read == emails else "order lost", *read]

    async def insert_unnest(self):
        given = await self.conn.fetch(
            "INSERT INTO users (tenant_id, email, name) SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[])"
            " RETURNING email",
            [tenant for tenant in self.tenants], [f"un{n}" for n in range(4)], ["unnested"] * 4,
        )
        return sorted(row[0] for row in given)

    async def upsert_with_key(self):
        sql = (
            "INSERT INTO users (tenant_id, email, name) VALUES ($1, $2, $3)"
            " ON CONFLICT (tenant_id, email) DO UPDATE SET name = excluded.name, version = users.version + 1"
            " RETURNING name, version"
        )
        old, new = [await self.conn.fetchrow(sql, self.t1, *user) for user in (("u1@t1", "upserted"), ("up@t1", "new"))]
        return rows([old, new])

    async def upsert_without_key(self):
        user = await self.conn.fetchval("SELECT id FROM users WHERE tenant_id = $1 AND email = 'u2@t1'", self.t1)
        return await self.conn.fetchval(
            "INSERT INTO users (id, tenant_id, email, name) VALUES ($1, $2, 'u2@t1', 'u2')"
            " ON CONFLICT (id) DO UPDATE SET name = excluded.name RETURNING name",
            user, self.t1,
        )

    # Reading.

    async def get_without_key(self):
        order = await self.conn.fetchval("SELECT id FROM orders WHERE tenant_id = $1 AND amount = 11.25", self.t1)
        amount, user = await self.conn.fetchrow("SELECT amount, user_id FROM orders WHERE id = $1", order)
        return amount, await self.conn.fetchval("SELECT email FROM users WHERE id = $1", user)

    async def get_uuid(self):
        made = uuid.UUID(int=7)
        await self.conn.execute("INSERT INTO documents (tenant_id, id, title) VALUES ($1, $2, 'given')", self.t1, made)
        server = await self.conn.fetchval(
            "INSERT INTO documents (tenant_id, title) VALUES ($1, 'made') RETURNING id", self.t1
        )
        sql = "SELECT title FROM documents WHERE tenant_id = $1 AND id = $2"
        return await self.conn.fetchval(sql, self.t1, made), await self.conn.fetchval(sql, self.t1, server)

    async def lazy(self):
        found = []
        for user in await self.conn.fetch("SELECT id, name FROM users WHERE tenant_id = $1 ORDER BY email", self.tenants[1]):
            for order in await self.conn.fetch(
                "SELECT id, amount FROM orders WHERE user_id = $1 ORDER BY amount", user["id"]
            ):
                items = await self.conn.fetch("SELECT product FROM order_items WHERE order_id = $1 ORDER BY 1", order["id"])
                found.append((user["name"], order["amount"], *[item[0] for item in items]))
        return found

    async def select_in(self):
        tenant = self.tenants[1]
        users = dict(rows(await self.conn.fetch("SELECT id, name FROM users WHERE tenant_id = $1", tenant)))
        orders = await self.conn.fetch(
            "SELECT id, user_id, amount FROM orders WHERE tenant_id = $1 AND user_id = ANY($2)", tenant, list(users)
        )
        items = await self.conn.fetch(
            "SELECT order_id, product FROM order_items WHERE tenant_id = $1 AND order_id = ANY($2)",
            tenant, [order["id"] for order in orders],
        )
        return sorted(
            (users[user], amount, *sorted(product for of, product in items if of == order))
            for order, user, amount in orders
        )

    def fetch(self, sql, *args):
        async def step():
            return rows(await self.conn.fetch(sql, *[arg(self) if callable(arg) else arg for arg in args]))

        return step

    # Transactions.

    async def user(self, email):
        await self.conn.execute("INSERT INTO users (tenant_id, email, name) VALUES ($1, $2, 'x')", self.t1, email)

    async def emails(self, like):
        return rows(await self.conn.fetch(
            "SELECT email FROM users WHERE tenant_id = $1 AND email LIKE $2 ORDER BY 1", self.t1, like
        ))

    async def savepoint(self):
        caught = None
        async with self.conn.transaction():
            await self.user("s1@t1")
            try:
                async with self.conn.transaction():
                    await self.user("s1@t1")
            except asyncpg.UniqueViolationError as error:
                caught = f"{class_of(error)} {error.constraint_name}"
            await self.user("s2@t1")
        return [caught, *await self.emails("s%@t1")]

    async def nested(self):
        async with self.conn.transaction():
            await self.user("n1@t1")
            middle = self.conn.transaction()
            await middle.start()
            await self.user("n2@t1")
            async with self.conn.transaction():
                await self.user("n3@t1")
            await middle.rollback()
            await self.user("n4@t1")
        return await self.emails("n%@t1")

    async def optimistic(self):
        sql = "UPDATE users SET version = version + 1, name = $1 WHERE tenant_id = $2 AND email = 'u3@t1' AND version = $3"
        version = await self.conn.fetchval("SELECT version FROM users WHERE tenant_id = $1 AND email = 'u3@t1'", self.t1)
        return [await self.conn.execute(sql, name, self.t1, version) for name in ("one", "two")]

    async def skip_locked(self):
        sql = "SELECT amount FROM orders WHERE tenant_id = $1 ORDER BY amount LIMIT 2 FOR UPDATE SKIP LOCKED"
        other = await self.connect()
        try:
            async with self.conn.transaction(), other.transaction():
                first = await self.conn.fetch(sql, self.tenants[1])
                return rows(first + await other.fetch(sql, self.tenants[1]))
        finally:
            await other.close()

    async def serializable(self):
        read = "SELECT count(*) FROM users WHERE tenant_id = $1 AND name = 'duty'"
        write = "UPDATE users SET name = 'off' WHERE tenant_id = $1 AND email = $2"
        tenant = self.tenants[2]
        await self.conn.execute("UPDATE users SET name = 'duty' WHERE tenant_id = $1", tenant)
        other = await self.connect()
        caught = None
        try:
            one, two = (conn.transaction(isolation="serializable") for conn in (self.conn, other))
            await one.start()
            await two.start()
            await self.conn.fetchval(read, tenant)
            await other.fetchval(read, tenant)
            await self.conn.execute(write, tenant, "u1@t3")
            try:
                await other.execute(write, tenant, "u2@t3")
                await one.commit()
                await two.commit()
            except asyncpg.SerializationError as error:
                caught = class_of(error)
            if other.is_in_transaction():
                await other.execute("ROLLBACK")
            left = await other.fetchval(read, tenant)
            await other.execute(write, tenant, "u2@t3")
            return caught, left, await self.conn.fetchval(read, tenant)
        finally:
            await other.close()

    # Writing many rows.

    def execute(self, sql, *args):
        async def step():
            return await self.conn.execute(sql, *[arg(self) for arg in args])

        return step

    async def cascade(self):
        tenant = self.tenants[3]
        user = await self.conn.fetchval("SELECT id FROM users WHERE tenant_id = $1 AND email = 'u1@t4'", tenant)
        await self.conn.execute("DELETE FROM users WHERE tenant_id = $1 AND id = $2", tenant, user)
        tables = ("users", "orders", "order_items")
        return [await self.conn.fetchval(f"SELECT count(*) FROM {table} WHERE tenant_id = $1", tenant) for table in tables]

    # Cursors, catalogs, migrations.

    def cursor(self, sql, *args):
        async def step():
            chunks, total = [], 0
            async with self.conn.transaction():
                cursor = await self.conn.cursor(sql, *[arg(self) for arg in args])
                while part := await cursor.fetch(5):
                    chunks.append(len(part))
                    total += sum(row[0] for row in part)
            return [*chunks, total]

        return step

    async def cursor_iterated(self):
        async with self.conn.transaction():
            sql = "SELECT amount FROM orders WHERE tenant_id = $1 ORDER BY amount"
            return [row[0] async for row in self.conn.cursor(sql, self.tenants[1], prefetch=2)]

    async def cursor_forward(self):
        async with self.conn.transaction():
            cursor = await self.conn.cursor("SELECT amount FROM orders WHERE tenant_id = $1 ORDER BY amount", self.tenants[1])
            return await cursor.forward(3), (await cursor.fetchrow())[0]

    async def reflection(self):
        told = []
        for table in ("users", "orders"):
            oid = await self.conn.fetchval("SELECT c.oid FROM pg_class c WHERE c.relname = $1 AND c.relkind = 'r'", table)
            told += rows(await self.conn.fetch(
                "SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull FROM pg_attribute a"
                " WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum", oid
            ))
            told += rows(await self.conn.fetch(
                "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = $1 ORDER BY 1", oid
            ))
        statement = await self.conn.prepare("SELECT id, amount, status, created_at FROM orders WHERE tenant_id = $1")
        told += [(a.name, a.type.name, a.type.kind) for a in statement.get_attributes()]
        return told + [(p.name,) for p in statement.get_parameters()]

    async def migrate_column(self):
        sql = "SELECT * FROM users WHERE tenant_id = $1 AND email = 'u1@t1'"
        before = await self.conn.fetchrow(sql, self.t1)
        await self.conn.execute("ALTER TABLE users ADD COLUMN note text NOT NULL DEFAULT 'none'")
        after = await self.conn.fetchrow(sql, self.t1)
        return len(before), len(after), after["note"]

    async def migrate_index(self):
        await self.conn.execute("CREATE INDEX CONCURRENTLY orders_by_status ON orders (status)")
        return rows(await self.conn.fetch(
            "SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            " WHERE c.relname = 'orders_by_status'"
        ))

    async def migrate_enum(self):
        await self.conn.execute("ALTER TYPE order_status ADD VALUE 'sent'")
        return await self.conn.fetchval(
            "UPDATE orders SET status = 'sent' WHERE tenant_id = $1 AND amount = 11.25 RETURNING status", self.t1
        )

    async def migrate_fails(self):
        caught = None
        try:
            async with self.conn.transaction():
                await self.conn.execute("ALTER TABLE users ADD COLUMN half int")
                await self.conn.execute("ALTER TABLE users ADD COLUMN half int")
        except asyncpg.DuplicateColumnError as error:
            caught = class_of(error)
        return caught, await self.conn.fetchval(
            "SELECT count(*) FROM information_schema.columns WHERE table_name = 'users' AND column_name = 'half'"
        )

    async def reconnect(self):
        other = await self.connect()
        caught = None
        try:
            await other.fetchval("SELECT pg_terminate_backend($1)", self.conn.get_server_pid())
            for _ in range(100):
                if self.conn.is_closed():
                    break
                await asyncio.sleep(0.02)
            try:
                await self.conn.fetchval("SELECT 1")
            except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                caught = class_of(error)
            closed = self.conn.is_closed()
            await self.recover()
            return caught, closed, await self.conn.fetchval("SELECT 1")
        finally:
            await other.close()

    async def truncate(self):
        await self.conn.execute("TRUNCATE order_notes, documents")
        return [await self.conn.fetchval(f"SELECT count(*) FROM {table}") for table in ("order_notes", "documents")]

    # The driver's own.

    async def statement_cache(self):
        """The same statements on several connections; each is prepared under the driver's own name."""
        others = [await self.connect() for _ in range(3)]
        try:
            found = []
            for n in range(24):
                conn = others[n % 3]
                found.append(await conn.fetchval("SELECT name FROM tenants WHERE id = $1", self.tenants[n % 4]))
            return found
        finally:
            for conn in others:
                await conn.close()

    async def schema_change(self):
        """Statements cached before a change of their table; the driver retries by itself."""
        conn = await self.connect()
        try:
            await conn.execute("CREATE TABLE changing (id int)")
            await conn.execute("INSERT INTO changing VALUES (1)")
            before = tuple(await conn.fetchrow("SELECT * FROM changing"))
            await self.conn.execute("ALTER TABLE changing ALTER COLUMN id TYPE text")
            after = tuple(await conn.fetchrow("SELECT * FROM changing"))
            await self.conn.execute("DROP TABLE changing")
            return [before, after]
        finally:
            await conn.close()

    async def copy_records(self):
        records = [(self.tenants[n % 4], f"c{n}@copy", "copied") for n in range(200)]
        told = await self.conn.copy_records_to_table("users", records=records, columns=["tenant_id", "email", "name"])
        return told, await self.conn.fetchval("SELECT count(*) FROM users WHERE name = 'copied'")

    async def copy_csv(self):
        text = "".join(f"{self.tenants[n % 4]},d{n}@copy,csv\n" for n in range(20))
        told = await self.conn.copy_to_table(
            "users", source=io.BytesIO(text.encode()), columns=["tenant_id", "email", "name"], format="csv"
        )
        return told, await self.conn.fetchval("SELECT count(*) FROM users WHERE name = 'csv'")

    async def copy_out(self):
        out = io.BytesIO()
        told = await self.conn.copy_from_query("SELECT email FROM users WHERE name = 'csv'", output=out, format="csv")
        one = io.BytesIO()
        await self.conn.copy_from_query("SELECT email FROM users WHERE tenant_id = $1 AND name = 'csv' ORDER BY 1",
                                        self.t1, output=one, format="csv")
        return told, sorted(out.getvalue().decode().split())[:3], one.getvalue().decode()

    async def copy_error(self):
        try:
            await self.conn.copy_records_to_table(
                "users", records=[(self.t1, "u1@t1", "again")], columns=["tenant_id", "email", "name"]
            )
        except asyncpg.UniqueViolationError as error:
            return class_of(error), await self.conn.fetchval("SELECT 1")

    async def executemany(self):
        await self.conn.executemany(
            "INSERT INTO users (tenant_id, email, name) VALUES ($1, $2, 'many')",
            [(self.tenants[n % 4], f"m{n}") for n in range(40)],
        )
        return await self.conn.fetchval("SELECT count(*) FROM users WHERE name = 'many'")

    async def executemany_error(self):
        """Everything of a failed executemany is undone."""
        try:
            await self.conn.executemany(
                "INSERT INTO users (tenant_id, email, name) VALUES ($1, $2, 'twice')", [(self.t1, "t"), (self.t1, "t")]
            )
        except asyncpg.UniqueViolationError as error:
            return class_of(error), await self.conn.fetchval("SELECT count(*) FROM users WHERE name = 'twice'")

    async def types(self):
        values = [
            1, 2**40, graph.amount(1, 1, 1), "täxt", True, datetime.date(2026, 1, 2), [1, 2], b"\x00\xff",
            uuid.UUID(int=3), datetime.timedelta(days=1, hours=2), asyncpg.Range(1, 5),
        ]
        row = await self.conn.fetchrow(
            "SELECT $1::int2, $2::int8, $3::numeric, $4::text, $5::bool, $6::date, $7::int[], $8::bytea, $9::uuid,"
            " $10::interval, $11::int4range", *values
        )
        return [tuple(row) == tuple(values), row]

    async def custom_types(self):
        """Types the driver looks up in the catalog by the OIDs of RowDescription."""
        await self.conn.execute("CREATE TYPE pair AS (a int, b text); CREATE TABLE pairs (p pair, many pair[])")
        await self.conn.execute("INSERT INTO pairs VALUES (ROW(1, 'x'), ARRAY[ROW(2, 'y')::pair])")
        row = await self.conn.fetchrow("SELECT p, many FROM pairs")
        status = await self.conn.fetch("SELECT DISTINCT status FROM orders WHERE status = $1", "paid")
        many = await self.conn.fetchval("SELECT array_agg(status ORDER BY amount) FROM orders WHERE tenant_id = $1", self.tenants[1])
        return [tuple(row["p"]), tuple(row["many"][0]), *rows(status), many]

    async def codec(self):
        import json

        conn = await self.connect()
        try:
            await conn.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
            return await conn.fetchval("SELECT $1::jsonb", {"a": [1, None]})
        finally:
            await conn.close()

    async def pool(self):
        """Twelve tasks on a pool of four, each connection reset on return."""
        async with asyncpg.create_pool(URL, min_size=2, max_size=4) as pool:
            async def task(n):
                async with pool.acquire() as conn, conn.transaction():
                    await conn.execute(f"SET LOCAL work_mem = '{n + 1}MB'")
                    name = await conn.fetchval("SELECT name FROM tenants WHERE id = $1", self.tenants[n % 4])
                    return name, await conn.fetchval("SHOW work_mem")

            return await asyncio.gather(*[task(n) for n in range(12)])

    async def pool_reset(self):
        """What a borrower leaves behind (settings, a listener, a lock, an open cursor) is gone for the next."""
        async with asyncpg.create_pool(URL, min_size=1, max_size=1) as pool:
            async with pool.acquire() as conn:
                await conn.execute("SET search_path = pg_catalog")
                await conn.fetchval("SELECT pg_advisory_lock(7)")
            async with pool.acquire() as conn:
                held = await self.conn.fetchval("SELECT pg_try_advisory_lock(7)")
                await self.conn.fetchval("SELECT pg_advisory_unlock(7)")
                return await conn.fetchval("SHOW search_path"), held

    async def listen(self):
        conn = await self.connect()
        heard = asyncio.get_running_loop().create_future()
        try:
            pid = self.conn.get_server_pid()
            await conn.add_listener("news", lambda _, sender, channel, payload: heard.set_result((sender == pid, channel, payload)))
            await self.conn.execute("NOTIFY news, 'hello'")
            return await asyncio.wait_for(heard, 10)
        finally:
            await conn.close()

    async def notices(self):
        heard = []
        self.conn.add_log_listener(lambda _, notice: heard.append((notice.sqlstate, notice.message)))
        await self.conn.execute("DROP TABLE IF EXISTS nosuch")
        await asyncio.sleep(0)
        return heard

    async def timeout(self):
        """The driver cancels by its key when its own time is over."""
        try:
            await self.conn.fetchval("SELECT pg_sleep(20)", timeout=0.4)
        except asyncio.TimeoutError as error:
            return type(error).__name__, await self.conn.fetchval("SELECT 1")

    async def server_settings(self):
        conn = await self.connect(server_settings={"application_name": "four", "search_path": "public", "jit": "off"})
        try:
            told = [await conn.fetchval(f"SHOW {name}") for name in ("application_name", "search_path", "jit")]
            await conn.execute("SET application_name = 'five'")
            await conn.reset()
            return [*told, await conn.fetchval("SHOW application_name"), conn.get_settings().application_name]
        finally:
            await conn.close()

    # Eight sessions at once.

    async def eight(self, work):
        async def session(number):
            conn = await self.connect()
            try:
                return await work(number, conn)
            finally:
                await conn.close()

        return await asyncio.gather(*[session(number) for number in range(8)])

    async def tenant_session(self, number, conn):
        foreign = 0
        tenant = await conn.fetchval("INSERT INTO tenants (name) VALUES ($1) RETURNING id", f"e{number}")
        for turn in range(15):
            await conn.execute(f"SET application_name = 'session {number} {turn}'")
            async with conn.transaction():
                await conn.execute(
                    "INSERT INTO users (tenant_id, email, name) VALUES ($1, $2, $3)",
                    tenant, f"e{turn}@{number}", f"session {number}",
                )
            found = await conn.fetch("SELECT email, name FROM users WHERE tenant_id = $1", tenant)
            foreign += sum(row["name"] != f"session {number}" for row in found) + abs(len(found) - turn - 1)
            foreign += await conn.fetchval("SHOW application_name") != f"session {number} {turn}"
        return foreign, await conn.fetchval("SELECT count(*) FROM users WHERE tenant_id = $1", tenant)

    async def eight_tenants(self):
        results = await self.eight(self.tenant_session)
        return f"foreign {sum(result[0] for result in results)}", sum(result[1] for result in results)

    async def temp_session(self, number, conn):
        foreign = 0
        for turn in range(5):
            async with conn.transaction():
                await conn.execute("CREATE TEMP TABLE scratch (n int) ON COMMIT DROP")
                await conn.execute("INSERT INTO scratch VALUES ($1), ($2)", number, turn)
                foreign += [row[0] for row in await conn.fetch("SELECT n FROM scratch")] != [number, turn]
        return foreign

    async def eight_temps(self):
        return f"foreign {sum(await self.eight(self.temp_session))}"

    def steps(self):
        def t1(program):
            return program.tenants[0]

        def t2(program):
            return program.tenants[1]

        mine, page = "WHERE tenant_id = $1", "SELECT email FROM users {} ORDER BY email LIMIT 5 OFFSET 5"
        count, average = "SELECT count(*) FROM orders {}", "SELECT round(avg(amount), 2), sum(amount) FROM orders {}"
        distinct = "SELECT DISTINCT country FROM users {} ORDER BY country"
        having = (
            "SELECT u.email, count(*) FROM users u JOIN orders o ON o.tenant_id = u.tenant_id AND o.user_id = u.id"
            " {} GROUP BY u.tenant_id, u.email HAVING count(*) > 1 ORDER BY u.email"
        )
        exists = (
            "SELECT email FROM users u WHERE EXISTS (SELECT 1 FROM orders o WHERE o.tenant_id = u.tenant_id"
            " AND o.user_id = u.id AND o.amount > 12) {} ORDER BY email"
        )
        eager_page = (
            "SELECT u.name, o.amount FROM (SELECT id, tenant_id, name FROM users WHERE tenant_id = $1"
            " ORDER BY email LIMIT 2) u LEFT JOIN orders o ON o.tenant_id = u.tenant_id AND o.user_id = u.id"
            " ORDER BY u.name, o.amount"
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
            ("eager", self.fetch(USER_ORDERS, t2)),
            ("eager-page", self.fetch(eager_page, t2)),
            ("page", self.fetch(page.format(mine), t1)),
            ("page-all", self.fetch(page.format(""))),
            ("count", self.fetch(count.format(mine), t1)),
            ("count-all", self.fetch(count.format(""))),
            ("avg", self.fetch(average.format(mine), t1)),
            ("avg-all", self.fetch(average.format(""))),
            ("distinct", self.fetch(distinct.format(mine), t1)),
            ("distinct-all", self.fetch(distinct.format(""))),
            ("having", self.fetch(having.format("WHERE u.tenant_id = $1"), t1)),
            ("having-all", self.fetch(having.format(""))),
            ("exists", self.fetch(exists.format("AND u.tenant_id = $1"), t1)),
            ("exists-all", self.fetch(exists.format(""))),
            ("savepoint", self.savepoint),
            ("nested", self.nested),
            ("optimistic", self.optimistic),
            ("skip-locked", self.skip_locked),
            ("bulk-update", self.execute("UPDATE users SET version = version + 1 WHERE tenant_id = $1", t1)),
            ("bulk-update-all", self.execute("UPDATE orders SET status = 'paid' WHERE amount > 30")),
            ("bulk-delete", self.execute("DELETE FROM users WHERE tenant_id = $1 AND email LIKE 'b0%'", t1)),
            ("bulk-delete-all", self.execute("DELETE FROM users WHERE email LIKE 'b1%'")),
            ("cascade", self.cascade),
            ("cursor", self.cursor(orders.format(mine), t2)),
            ("cursor-all", self.cursor(orders.format(""))),
            ("cursor iterated", self.cursor_iterated),
            ("cursor forward", self.cursor_forward),
            ("serializable", self.serializable),
            ("reflection", self.reflection),
            ("migrate-column", self.migrate_column),
            ("migrate-index-concurrently", self.migrate_index),
            ("migrate-enum-value", self.migrate_enum),
            ("migrate-fails", self.migrate_fails),
            ("reconnect", self.reconnect),
            ("insert unnest", self.insert_unnest),
            ("statement cache", self.statement_cache),
            ("schema change", self.schema_change),
            ("copy records", self.copy_records),
            ("copy csv", self.copy_csv),
            ("copy out", self.copy_out),
            ("copy error", self.copy_error),
            ("executemany", self.executemany),
            ("executemany error", self.executemany_error),
            ("types", self.types),
            ("custom types", self.custom_types),
            ("codec", self.codec),
            ("pool", self.pool),
            ("pool reset", self.pool_reset),
            ("listen", self.listen),
            ("notices", self.notices),
            ("timeout", self.timeout),
            ("server settings", self.server_settings),
            ("truncate", self.truncate),
            ("eight-tenants", self.eight_tenants),
            ("eight-temps", self.eight_temps),
        ]


async def main():
    program = Program()
    program.conn = await program.connect()
    await walk_async(program.steps(), program.recover)


asyncio.run(main())
