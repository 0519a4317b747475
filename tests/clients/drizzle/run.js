// Drizzle: typed SQL, relational queries (lateral joins and JSON), nested transactions, its migrator.
'use strict';

const path = require('node:path');
const { Pool } = require('pg');
const { DrizzleQueryError, and, asc, avg, count, countDistinct, desc, eq, exists, gt, gte, inArray, like, sql, sum } = require('drizzle-orm');
const { drizzle } = require('drizzle-orm/node-postgres');
const { migrate: runMigrations } = require('drizzle-orm/node-postgres/migrator');
const schema = require('./schema.js');
const { step, sqlstate } = require('../lib/js/steps.js');

const { tenants, countries, users, orders, items, notes, documents } = schema;
const open = (max) => {
  const pool = new Pool({ connectionString: process.env.DATABASE_URL, max });
  pool.on('error', () => {});
  pool.on('connect', (client) => client.on('error', () => {}));
  return { pool, db: drizzle(pool, { schema, logger: Boolean(process.env.LOG) }) };
};
const { pool, db } = open(4);
const saved = {};

const TABLES = ['countries', 'documents', 'order_items', 'order_notes', 'orders', 'tenants', 'users'];
const emailsOf = (rows) => rows.map((row) => row.email).join(' ');
const graphOf = (rows) => rows.map((user) => `${user.email} ${user.orders.map((order) =>
  `${order.amount}:${(order.items ?? []).map((item) => item.product).sort().join('+')}`).sort().join(' ')}`).join(' | ');
const emails = async (tenant, pattern) => emailsOf(await db.select().from(users).where(and(eq(users.tenantId, tenant), like(users.email, pattern))).orderBy(users.email));
const user = (on, tenantId, email) => on.insert(users).values({ tenantId, email, name: email });
const migrateWith = (folder) => runMigrations(db, { migrationsFolder: path.join(__dirname, 'migrations', folder) });

async function migrate() {
  await migrateWith('1-first');
  const { rows } = await db.execute(sql`SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'`);
  return rows.map((row) => row.table_name).filter((name) => TABLES.includes(name)).sort().join(' ');
}

async function graph() {
  await db.insert(countries).values([['de', 'Germany'], ['fr', 'France'], ['us', 'United States']].map(([code, name]) => ({ code, name })));
  for (let t = 1; t <= 4; t++) {
    await db.transaction(async (tx) => {
      const [{ id: tenantId }] = await tx.insert(tenants).values({ name: `t${t}` }).returning({ id: tenants.id });
      saved[`t${t}`] = tenantId;
      for (let u = 1; u <= 3; u++) {
        const [{ id: userId }] = await tx.insert(users).values({ tenantId, email: `u${u}@t${t}`, name: `user ${u}`, country: ['de', 'fr', 'us'][u - 1] }).returning();
        const made = await tx.insert(orders).values([1, 2].map((o) => ({ tenantId, userId, amount: String(10 * t + u + 0.25 * o) }))).returning();
        await tx.insert(items).values(made.flatMap(({ id: orderId }) => [{ tenantId, orderId, product: 'pen', quantity: 1 }, { tenantId, orderId, product: 'ink', quantity: 2 }]));
        await tx.insert(notes).values(made.map(({ id: orderId }) => ({ orderId, text: 'note' })));
      }
    });
  }
  const counts = [];
  for (const [name, table] of Object.entries({ tenants, users, orders, items, notes })) counts.push(`${name} ${await db.$count(table)}`);
  const rows = await db.select({ email: users.email, amount: orders.amount }).from(users)
    .innerJoin(orders, and(eq(orders.userId, users.id), eq(orders.tenantId, users.tenantId))).where(eq(users.tenantId, saved.t1)).orderBy(users.email, orders.amount);
  return `${counts.join(' ')}; ${rows.map((row) => `${row.email} ${row.amount}`).join(' | ')}`;
}

async function bulkInsert() {
  const wanted = Array.from({ length: 20 }, (_, n) => `b${String(n).padStart(2, '0')}`);
  const made = await db.insert(users).values(wanted.map((email) => ({ tenantId: saved.t1, email, name: 'bulk' }))).returning({ id: users.id });
  const read = [];
  for (const { id } of made) read.push(emailsOf(await db.select().from(users).where(and(eq(users.tenantId, saved.t1), eq(users.id, id)))));
  return `${read.join() === wanted.join() ? 'order kept' : 'order lost'}: ${read.join(' ')}`;
}

async function upsertWithKey() {
  const rows = ['u1@t1', 'new@t1'].map((email) => ({ tenantId: saved.t1, email, name: email.toUpperCase() }));
  const made = await db.insert(users).values(rows).onConflictDoUpdate({ target: [users.tenantId, users.email], set: { name: sql`excluded.name` } }).returning();
  const kept = await db.insert(users).values(rows).onConflictDoNothing({ target: [users.tenantId, users.email] }).returning();
  const gone = await db.delete(users).where(and(eq(users.tenantId, saved.t1), eq(users.email, 'new@t1')));
  return `${made.map((row) => row.name).join(' ')} ${kept.length} ${gone.rowCount}`;
}

const find = async (tenantId, email) => (await db.select().from(users).where(and(eq(users.tenantId, tenantId), eq(users.email, email))))[0];

async function upsertWithoutKey() {
  const { id } = await find(saved.t1, 'u2@t1');
  await db.insert(users).values({ id, tenantId: saved.t1, email: 'u2@t1', name: 'U2' }).onConflictDoUpdate({ target: users.id, set: { name: 'U2' } });
  return (await find(saved.t1, 'u2@t1')).name;
}

async function getWithoutKey() {
  const [{ id }] = await db.select().from(orders).where(eq(orders.tenantId, saved.t2)).orderBy(orders.amount).limit(1);
  const [order] = await db.select().from(orders).where(eq(orders.id, id));
  const [owner] = await db.select().from(users).where(eq(users.id, order.userId));
  return `${order.amount} ${owner.email}`;
}

async function getUuid() {
  const [{ id }] = await db.insert(documents).values({ tenantId: saved.t1, title: 'charter' }).returning();
  const own = await db.insert(documents).values({ tenantId: saved.t1, id: crypto.randomUUID(), title: 'map' }).returning();
  const [found] = await db.select().from(documents).where(and(eq(documents.tenantId, saved.t1), eq(documents.id, id)));
  return `${found.title} ${own[0].title}`;
}

const usersOfT1 = () => db.select().from(users).where(and(eq(users.tenantId, saved.t1), like(users.email, 'u%'))).orderBy(users.email);

async function children(oneQuery) {
  const rows = await usersOfT1();
  const ordersOf = (ids) => db.select().from(orders).where(and(eq(orders.tenantId, saved.t1), inArray(orders.userId, ids))).orderBy(orders.amount);
  const itemsOf = (ids) => db.select().from(items).where(and(eq(items.tenantId, saved.t1), inArray(items.orderId, ids))).orderBy(items.product);
  const all = oneQuery ? await ordersOf(rows.map((row) => row.id)) : undefined;
  for (const row of rows) {
    row.orders = all ? all.filter((order) => order.userId === row.id) : await ordersOf([row.id]);
    for (const order of row.orders) order.items = await itemsOf([order.id]);
  }
  return graphOf(rows);
}

/** Relational queries: one statement of lateral joins and JSON aggregates. */
const eager = async () => graphOf(await db.query.users.findMany({
  where: (row) => and(eq(row.tenantId, saved.t1), like(row.email, 'u%')), orderBy: (row) => asc(row.email), with: { orders: { with: { items: true } } } }));

const eagerPage = async () => graphOf(await db.query.users.findMany({
  where: (row) => and(eq(row.tenantId, saved.t1), like(row.email, 'u%')), orderBy: (row) => desc(row.email), limit: 2, with: { orders: true } }));

/** The same with relations that contain the tenant. */
const eagerKeyed = async () => graphOf((await db.query.users.findMany({
  where: (row) => and(eq(row.tenantId, saved.t1), like(row.email, 'u%')), orderBy: (row) => asc(row.email), with: { keyedOrders: { with: { keyedItems: true } } } }))
  .map((row) => ({ ...row, orders: row.keyedOrders.map((order) => ({ ...order, items: order.keyedItems })) })));

async function leftJoin() {
  const rows = await db.select().from(users).leftJoin(orders, and(eq(orders.userId, users.id), eq(orders.tenantId, users.tenantId)))
    .where(and(eq(users.tenantId, saved.t1), like(users.email, 'u%'))).orderBy(users.email, orders.amount);
  return rows.map((row) => `${row.users.email} ${row.orders?.amount}`).join(' | ');
}

const of = (table, all) => (all ? undefined : eq(table.tenantId, saved.t1));
const joined = and(eq(orders.userId, users.id), eq(orders.tenantId, users.tenantId));

const page = async (all) => emailsOf(await db.select().from(users).where(of(users, all)).orderBy(users.email).limit(5).offset(5));
const counts = async (all) => Object.values((await db.select({ n: count(), d: countDistinct(orders.userId) }).from(orders).where(of(orders, all)))[0]).join(' ');
const average = async (all) => {
  const [row] = await db.select({ a: avg(orders.amount), s: sum(orders.amount) }).from(orders).where(of(orders, all));
  return `${Number(row.a).toFixed(2)} ${row.s}`;
};
const distinct = async (all) => (await db.selectDistinct({ country: users.country }).from(users).where(of(users, all)).orderBy(users.country)).map((row) => row.country).join(' ');
const having = async (all) => (await db.select({ email: users.email, n: count() }).from(users).innerJoin(orders, joined).where(of(users, all))
  .groupBy(users.email).having(gt(count(), 1)).orderBy(users.email)).map((row) => `${row.email} ${row.n}`).join(' | ');
const existing = async (all) => emailsOf(await db.select().from(users).where(and(of(users, all), exists(
  db.select({ one: sql`1` }).from(orders).where(and(joined, gt(orders.amount, '12.3')))))).orderBy(users.email));

async function savepoint() {
  const caught = await db.transaction(async (tx) => {
    await user(tx, saved.t4, 's1');
    let name;
    try {
      await tx.transaction((inner) => user(inner, saved.t4, 's1'));
    } catch (error) {
      if (!(error instanceof DrizzleQueryError) || sqlstate(error) === '0A000') throw error;
      name = `${error.constructor.name} ${error.cause.code} ${error.cause.constraint}`;
    }
    await user(tx, saved.t4, 's2');
    return name;
  });
  return `${caught}: ${await emails(saved.t4, 's%')}`;
}

async function nested() {
  await db.transaction(async (outer) => {
    await user(outer, saved.t4, 'n1');
    await outer.transaction(async (middle) => {
      await user(middle, saved.t4, 'n2');
      await middle.transaction((inner) => user(inner, saved.t4, 'n3'));
      middle.rollback();
    }).catch((error) => { if (error.constructor.name !== 'TransactionRollbackError') throw error; });
    await user(outer, saved.t4, 'n4');
  });
  return emails(saved.t4, 'n%');
}

async function optimistic() {
  const update = () => db.update(users).set({ name: 'x', version: sql`${users.version} + 1` })
    .where(and(eq(users.tenantId, saved.t4), eq(users.email, 'u1@t4'), eq(users.version, 1))).returning();
  return [await update(), await update()].map((rows) => (rows.length === 1 ? 'updated' : 'stale')).join(' ');
}

async function skipLocked() {
  const take = (tx) => tx.select().from(orders).where(eq(orders.tenantId, saved.t2)).orderBy(orders.amount).limit(2).for('update', { skipLocked: true });
  return db.transaction(async (one) => {
    const first = await take(one);
    const second = await db.transaction(take);
    return [first, second].map((rows) => rows.map((row) => row.amount).join()).join(' / ');
  });
}

const bulkUpdate = async (where) => (await db.update(users).set({ name: sql`upper(${users.name})` }).where(where)).rowCount;
const bulkDelete = async (where) => (await db.delete(users).where(where)).rowCount;

async function cascade() {
  const { id } = await find(saved.t3, 'u3@t3');
  await db.delete(users).where(and(eq(users.tenantId, saved.t3), eq(users.id, id)));
  return `${await db.$count(orders, and(eq(orders.tenantId, saved.t3), eq(orders.userId, id)))} orders, ${await db.$count(items, eq(items.tenantId, saved.t3))} items in all`;
}

async function serializable() {
  const options = { isolationLevel: 'serializable' };
  const work = async (tx, email, before) => {
    await tx.$count(users, and(eq(users.tenantId, saved.t3), eq(users.country, 'de')));
    await before?.();
    await tx.update(users).set({ country: 'us' }).where(and(eq(users.tenantId, saved.t3), eq(users.email, email)));
  };
  const failure = await db.transaction((one) => work(one, 'u1@t3', () => db.transaction((two) => work(two, 'u2@t3'), options)), options)
    .then(() => 'no failure', (error) => {
      if (sqlstate(error) === '0A000') throw error;
      return `${error.constructor.name} ${sqlstate(error)}`;
    });
  await db.transaction((again) => work(again, 'u1@t3'), options);
  return `${failure}, retried`;
}

async function reflection() {
  const { rows } = await db.execute(sql`SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_name IN ('users', 'orders') ORDER BY table_name, ordinal_position`);
  return rows.map((row) => Object.values(row).join(' ')).join(', ');
}

async function migrateColumn() {
  await migrateWith('2-column');
  const { rows } = await db.execute(sql`SELECT points FROM ${users} WHERE tenant_id = ${saved.t1} AND email = ${'u1@t1'}`);
  return rows[0].points;
}

/** The migrator runs in a transaction, so users send this one by hand. */
async function migrateIndex() {
  await db.execute(sql`CREATE INDEX CONCURRENTLY orders_status ON orders (status)`);
  return (await db.execute(sql`SELECT indisvalid FROM pg_index WHERE indexrelid = 'orders_status'::regclass`)).rows[0].indisvalid;
}

async function migrateEnum() {
  await migrateWith('4-enum');
  return (await db.update(orders).set({ status: 'sent' }).where(and(eq(orders.tenantId, saved.t1), gte(orders.amount, '13')))).rowCount;
}

async function migrateFails() {
  const failure = await migrateWith('5-fails').then(() => 'no failure', (error) => {
    if (sqlstate(error) === '0A000') throw error;
    return `${error.constructor.name} ${sqlstate(error)}`;
  });
  const { rows } = await db.execute(sql`SELECT count(*) AS n FROM pg_tables WHERE tablename = 'half_done'`);
  return `${failure}, left ${rows[0].n}`;
}

async function prepared() {
  const client = await pool.connect();
  try {
    const own = drizzle(client, { schema });
    const byEmail = own.select({ name: users.name }).from(users)
      .where(and(eq(users.tenantId, sql.placeholder('tenant')), eq(users.email, sql.placeholder('email')))).prepare('by_email');
    const told = [];
    for (let n = 0; n < 8; n++) told.push((await byEmail.execute({ tenant: saved[`t${n % 4 + 1}`], email: `u3@t${n % 4 + 1}` }))[0]?.name);
    return told.join();
  } finally {
    client.release();
  }
}

async function reconnect() {
  const victim = open(1);
  try {
    const error = await victim.db.transaction(async (tx) => {
      const { rows: [{ pid }] } = await tx.execute(sql`SELECT pg_backend_pid() AS pid`);
      await db.execute(sql`SELECT pg_terminate_backend(${pid}::int)`);
      await new Promise((resolve) => setTimeout(resolve, 200));
      await tx.execute(sql`SELECT pg_sleep(1)`);
    }).then(() => 'no failure', (e) => e);
    return `${error.constructor.name}, then ${(await victim.db.execute(sql`SELECT 1 + 1 AS two`)).rows[0].two}`;
  } finally {
    await victim.pool.end();
  }
}

async function truncate() {
  await db.execute(sql`TRUNCATE ${notes}, ${documents}`);
  return `${await db.$count(notes)} ${await db.$count(documents)}`;
}

async function eightTenants() {
  let [foreign, total] = [0, 0];
  await Promise.all(Array.from({ length: 8 }, async (_, n) => {
    const own = open(1);
    try {
      const [{ id: tenantId }] = await own.db.insert(tenants).values({ name: `w${n}` }).returning();
      await own.db.execute(sql.raw(`SET work_mem = '${n + 1}MB'`));
      for (let round = 0; round < 15; round++) {
        await user(own.db, tenantId, `w${n}-${round}`);
        const rows = await own.db.select().from(users).where(eq(users.tenantId, tenantId));
        foreign += rows.filter((row) => !row.email.startsWith(`w${n}-`)).length;
        total += rows.length;
        if ((await own.db.execute(sql`SHOW work_mem`)).rows[0].work_mem !== `${n + 1}MB`) foreign++;
      }
    } finally {
      await own.pool.end();
    }
  }));
  return `foreign ${foreign}, rows ${total}`;
}

async function main() {
  await step('migrate', migrate);
  await step('graph', graph, 'migrate');
  const on = (name, work) => step(name, work, 'graph');
  await on('bulk-insert-returning', bulkInsert);
  await on('upsert-with-key', upsertWithKey);
  await on('upsert-without-key', upsertWithoutKey);
  await on('get-without-key', getWithoutKey);
  await on('get-uuid', getUuid);
  await on('lazy', () => children(false));
  await on('select-in', () => children(true));
  await on('eager', eager);
  await on('eager-page', eagerPage);
  await on('eager-by-whole-key', eagerKeyed);
  await on('left-join', leftJoin);
  for (const [name, work] of Object.entries({ page, count: counts, avg: average, distinct, having, exists: existing })) {
    await on(name, () => work(false));
    await on(`${name}-all`, () => work(true));
  }
  await on('savepoint', savepoint);
  await on('nested', nested);
  await on('optimistic', optimistic);
  await on('skip-locked', skipLocked);
  await on('bulk-update', () => bulkUpdate(eq(users.tenantId, saved.t2)));
  await on('bulk-update-all', () => bulkUpdate(like(users.email, 'u1%')));
  await on('bulk-delete', () => bulkDelete(and(eq(users.tenantId, saved.t1), like(users.email, 'b0%'))));
  await on('bulk-delete-all', () => bulkDelete(like(users.email, 'b%')));
  await on('prepared', prepared);
  await on('cascade', cascade);
  await on('serializable', serializable);
  await on('reflection', reflection);
  await on('migrate-column', migrateColumn);
  await on('migrate-index-concurrently', migrateIndex);
  await on('migrate-enum-value', migrateEnum);
  await on('migrate-fails', migrateFails);
  await on('reconnect', reconnect);
  await on('truncate', truncate);
  await step('eight-tenants', eightTenants, 'migrate');
  await pool.end();
}

main();
