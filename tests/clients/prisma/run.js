// Prisma 7: its query compiler (no native engine) over the pg driver. The schema is made by SQL: see install.
'use strict';

const path = require('node:path');
const { PrismaClient, Prisma } = require(path.join(process.env.CLIENT_HOME, 'generated'));
const { PrismaPg } = require('@prisma/adapter-pg');
const { step, statements, sqlstate } = require('../lib/js/steps.js');

const connect = (max) => new PrismaClient({ adapter: new PrismaPg({ connectionString: process.env.DATABASE_URL, max }), log: [] });
const db = connect(4);
const saved = {};
const list = statements();

const emailsOf = (users) => users.map((user) => user.email).join(' ');
const graphOf = (users) => users.map((user) => `${user.email} ${user.orders.map((order) =>
  `${order.amount}:${(order.items ?? []).map((item) => item.product).sort().join('+')}`).sort().join(' ')}`).join(' | ');
const find = (tenant_id, email) => db.user.findUnique({ where: { tenant_email: { tenant_id, email } } });

async function sql(name) {
  for (const { text, params } of list.get(name)) if (params.length === 0 && !text.startsWith('SELECT')) await db.$executeRawUnsafe(text);
}

async function migrate() {
  await sql('migrate');
  const rows = await db.$queryRaw`SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1`;
  return rows.map((row) => row.table_name).join(' ');
}

async function graph() {
  await db.country.createMany({ data: [['de', 'Germany'], ['fr', 'France'], ['us', 'United States']].map(([code, name]) => ({ code, name })) });
  for (let t = 1; t <= 4; t++) {
    await db.$transaction(async (tx) => {
      const { id: tenant_id } = await tx.tenant.create({ data: { name: `t${t}` } });
      saved[`t${t}`] = tenant_id;
      for (let u = 1; u <= 3; u++) {
        const orders = [1, 2].map((o) => ({ tenant_id, amount: 10 * t + u + 0.25 * o,
          items: { create: ['pen', 'ink'].map((product) => ({ tenant_id, product, quantity: 1 })) } }));
        const made = await tx.user.create({
          data: { tenant_id, email: `u${u}@t${t}`, name: `user ${u}`, country: ['de', 'fr', 'us'][u - 1], orders: { create: orders } }, include: { orders: true } });
        await tx.note.createMany({ data: made.orders.map(({ id: order_id }) => ({ order_id, text: 'note' })) });
      }
    });
  }
  const counts = [];
  for (const table of ['tenants', 'users', 'orders', 'order_items', 'order_notes']) counts.push(`${table} ${(await db.$queryRawUnsafe(`SELECT count(*) AS n FROM ${table}`))[0].n}`);
  return counts.join(' ');
}

async function bulkInsert() {
  const wanted = Array.from({ length: 20 }, (_, n) => `b${String(n).padStart(2, '0')}`);
  const made = await db.user.createManyAndReturn({ data: wanted.map((email) => ({ tenant_id: saved.t1, email, name: 'bulk' })) });
  const read = [];
  for (const { id } of made) read.push((await db.user.findFirst({ where: { tenant_id: saved.t1, id } })).email);
  return `${read.join() === wanted.join() ? 'order kept' : 'order lost'}: ${read.join(' ')}`;
}

async function upsertWithKey() {
  const upsert = (email) => db.user.upsert({ where: { tenant_email: { tenant_id: saved.t1, email } }, update: { name: 'U' }, create: { tenant_id: saved.t1, email, name: 'New' } });
  const names = [(await upsert('u1@t1')).name, (await upsert('new@t1')).name];
  const skipped = await db.user.createMany({ data: [{ tenant_id: saved.t1, email: 'new@t1', name: 'x' }], skipDuplicates: true });
  await db.user.delete({ where: { tenant_email: { tenant_id: saved.t1, email: 'new@t1' } } });
  return `${names.join(' ')} ${skipped.count}`;
}

async function upsertWithoutKey() {
  const { id } = await find(saved.t1, 'u2@t1');
  return (await db.user.upsert({ where: { id }, update: { name: 'U2' }, create: { tenant_id: saved.t1, email: 'u2@t1', name: 'x' } })).name;
}

async function getWithoutKey() {
  const { id } = await db.order.findFirst({ where: { tenant_id: saved.t2 }, orderBy: { amount: 'asc' } });
  const order = await db.order.findUnique({ where: { id }, include: { user: true } });
  return `${order.amount} ${order.user.email}`;
}

async function getUuid() {
  const { id } = await db.document.create({ data: { tenant_id: saved.t1, title: 'charter' } });
  return (await db.document.findUnique({ where: { tenant_id_id: { tenant_id: saved.t1, id } } })).title;
}

const ofT1 = () => ({ where: { tenant_id: saved.t1, email: { startsWith: 'u' } }, orderBy: { email: 'asc' } });

async function lazy() {
  const lines = [];
  for (const { id, email } of await db.user.findMany(ofT1())) {
    const orders = await db.user.findUnique({ where: { id } }).orders({ where: { tenant_id: saved.t1 }, orderBy: { amount: 'asc' } });
    lines.push(`${email} ${orders.map((order) => order.amount).join(' ')}`);
  }
  return lines.join(' | ');
}

const selectIn = async () => graphOf(await db.user.findMany({ ...ofT1(), include: { orders: { include: { items: true } } } }));
const eagerPage = async () => graphOf(await db.user.findMany({ ...ofT1(), take: 2, include: { orders: true } }));

const of = (all) => (all ? {} : { tenant_id: saved.t1 });
const page = async (all) => emailsOf(await db.user.findMany({ where: of(all), orderBy: { email: 'asc' }, take: 5, skip: 5 }));
const count = async (all) => `${await db.order.count({ where: of(all) })} ${(await db.order.findMany({ where: of(all), distinct: ['user_id'] })).length}`;
const avg = async (all) => {
  const { _avg, _sum } = await db.order.aggregate({ where: of(all), _avg: { amount: true }, _sum: { amount: true } });
  return `${_avg.amount.toFixed(2)} ${_sum.amount}`;
};
const distinct = async (all) => (await db.user.findMany({ where: of(all), distinct: ['country'], orderBy: { country: 'asc' }, select: { country: true } })).map((row) => row.country).join(' ');
const exists = async (all) => emailsOf(await db.user.findMany({ where: { ...of(all), orders: { some: { amount: { gt: 12 } } } }, orderBy: { email: 'asc' } }));
const having = async () => (await db.order.groupBy({ by: ['user_id'], where: of(false), _count: true, having: { user_id: { _count: { gt: 1 } } } })).map((row) => row._count).join(' ');

async function unique() {
  const error = await db.user.create({ data: { tenant_id: saved.t4, email: 'u1@t4', name: 'x' } }).then(() => 'no failure', (e) => e);
  if (!(error instanceof Prisma.PrismaClientKnownRequestError)) throw error;
  return `${error.name} ${error.code}`;
}

async function optimistic() {
  const update = () => db.user.updateMany({ where: { tenant_id: saved.t4, email: 'u1@t4', version: 1 }, data: { version: { increment: 1 } } });
  return [await update(), await update()].map((done) => (done.count === 1 ? 'updated' : 'stale')).join(' ');
}

async function batched() {
  const data = (email) => ({ data: { tenant_id: saved.t4, email, name: 'x' } });
  const failure = await db.$transaction([db.user.create(data('x1')), db.user.create(data('x1'))]).then(() => 'no failure', (error) => error.code);
  await db.$transaction([db.user.create(data('x2')), db.user.create(data('x3'))]);
  return `${failure} ${emailsOf(await db.user.findMany({ where: { tenant_id: saved.t4, email: { startsWith: 'x' } }, orderBy: { email: 'asc' } }))}`;
}

async function cascade() {
  const { id } = await find(saved.t3, 'u3@t3');
  await db.user.delete({ where: { id } });
  return `${await db.order.count({ where: { tenant_id: saved.t3, user_id: id } })} orders, ${await db.item.count({ where: { tenant_id: saved.t3 } })} items in all`;
}

async function serializable() {
  const options = { isolationLevel: 'Serializable' };
  const work = async (tx, email, before) => {
    await tx.user.count({ where: { tenant_id: saved.t3, country: 'de' } });
    await before?.();
    await tx.user.updateMany({ where: { tenant_id: saved.t3, email }, data: { country: 'us' } });
  };
  const failure = await db.$transaction((one) => work(one, 'u1@t3', () => db.$transaction((two) => work(two, 'u2@t3'), options)), options)
    .then(() => 'no failure', (error) => {
      if (sqlstate(error) === '0A000') throw error;
      return `${error.name} ${error.code}`;
    });
  await db.$transaction((again) => work(again, 'u1@t3'), options);
  return `${failure}, retried`;
}

async function migrated(name, asked) {
  await sql(name);
  return Object.values((await asked())[0]).join();
}

async function migrateFails() {
  const failure = await db.$transaction(async (tx) => {
    await tx.$executeRaw`CREATE TABLE half_done (id int PRIMARY KEY)`;
    await tx.$executeRaw`ALTER TABLE no_such_table ADD COLUMN x int`;
  }).then(() => 'no failure', (error) => {
    if (sqlstate(error) === '0A000') throw error;
    return `${error.name} ${error.code}`;
  });
  const rows = await db.$queryRaw`SELECT count(*) AS n FROM pg_tables WHERE tablename = 'half_done'`;
  return `${failure}, left ${rows[0].n}`;
}

async function reconnect() {
  const victim = connect(1);
  try {
    const failure = await victim.$transaction(async (tx) => {
      const [{ pid }] = await tx.$queryRaw`SELECT pg_backend_pid() AS pid`;
      await db.$queryRaw`SELECT pg_terminate_backend(${pid}::int)`;
      await new Promise((resolve) => setTimeout(resolve, 200));
      await tx.$queryRaw`SELECT 1 AS one`;
    }).then(() => false, () => true);
    return `failed ${failure}, then ${(await victim.$queryRaw`SELECT 2 AS n`)[0].n}`;
  } finally {
    await victim.$disconnect();
  }
}

async function truncate() {
  await db.$executeRaw`TRUNCATE order_notes, documents`;
  return `${(await db.note.findMany()).length} ${(await db.document.findMany()).length}`;
}

async function eightTenants() {
  let [foreign, sum] = [0, 0];
  await Promise.all(Array.from({ length: 8 }, async (_, n) => {
    const own = connect(1);
    try {
      const { id: tenant_id } = await own.tenant.create({ data: { name: `w${n}` } });
      await own.$executeRawUnsafe(`SET work_mem = '${n + 1}MB'`);
      for (let round = 0; round < 15; round++) {
        await own.user.create({ data: { tenant_id, email: `w${n}-${round}`, name: 'w' } });
        const rows = await own.user.findMany({ where: { tenant_id } });
        foreign += rows.filter((row) => !row.email.startsWith(`w${n}-`)).length;
        sum += rows.length;
        if ((await own.$queryRaw`SELECT current_setting('work_mem') AS value`)[0].value !== `${n + 1}MB`) foreign++;
      }
    } finally {
      await own.$disconnect();
    }
  }));
  return `foreign ${foreign}, rows ${sum}`;
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
  await on('lazy', lazy);
  await on('select-in', selectIn);
  await on('eager-page', eagerPage);
  for (const [name, work] of Object.entries({ page, count, avg, distinct, exists })) {
    await on(name, () => work(false));
    await on(`${name}-all`, () => work(true));
  }
  await on('having', having);
  await on('unique-violation', unique);
  await on('optimistic', optimistic);
  await on('batched-transaction', batched);
  await on('bulk-update', async () => (await db.user.updateMany({ where: { tenant_id: saved.t2 }, data: { name: 'two' } })).count);
  await on('bulk-update-all', async () => (await db.user.updateMany({ where: { email: { startsWith: 'u1' } }, data: { name: 'one' } })).count);
  await on('bulk-delete', async () => (await db.user.deleteMany({ where: { tenant_id: saved.t1, email: { startsWith: 'b0' } } })).count);
  await on('bulk-delete-all', async () => (await db.user.deleteMany({ where: { email: { startsWith: 'b' } } })).count);
  await on('cascade', cascade);
  await on('serializable', serializable);
  await on('migrate-column', () => migrated('migrate-column', () => db.$queryRaw`SELECT points FROM users WHERE tenant_id = ${saved.t1} AND email = 'u1@t1'`));
  await on('migrate-index-concurrently', () => migrated('migrate-index-concurrently', () => db.$queryRaw`SELECT indisvalid FROM pg_index WHERE indexrelid = 'orders_status'::regclass`));
  await on('migrate-enum-value', async () => {
    await sql('migrate-enum-value');
    return db.$executeRaw`UPDATE orders SET status = 'sent' WHERE tenant_id = ${saved.t1} AND amount < 12`;
  });
  await on('migrate-fails', migrateFails);
  await on('reconnect', reconnect);
  await on('truncate', truncate);
  await step('eight-tenants', eightTenants, 'migrate');
  await db.$disconnect();
}

main();
