// TypeORM 0.3: repositories, query builders, relations, nested transactions, migrations.
'use strict';

require('reflect-metadata');
const { DataSource, Like, In, QueryFailedError, OptimisticLockVersionMismatchError } = require('typeorm');
const entities = require('./entities.js');
const migrations = require('./migrations.js');
const { step, sqlstate } = require('../lib/js/steps.js');

const { Tenant, Country, User, Order, Item, Note, Document } = entities;
const source = (max, until) => new DataSource({
  type: 'postgres', url: process.env.DATABASE_URL, entities: Object.values(entities), poolSize: max,
  migrations: migrations.slice(0, until), logging: Boolean(process.env.LOG), migrationsTransactionMode: 'each' });
const db = source(4, 1);
const saved = {};

const TABLES = ['countries', 'documents', 'order_items', 'order_notes', 'orders', 'tenants', 'users'];
const repository = (entity) => db.getRepository(entity);
const emailsOf = (users) => users.map((user) => user.email).join(' ');
const graphOf = (users) => users.map((user) => `${user.email} ${user.orders.map((order) =>
  `${order.amount}:${(order.items ?? []).map((item) => item.product).sort().join('+')}`).sort().join(' ')}`).join(' | ');
const emails = async (tenant_id, like) => emailsOf(await repository(User).find({ where: { tenant_id, email: Like(like) }, order: { email: 'ASC' } }));
const user = (manager, tenant_id, email) => manager.insert(User, { tenant_id, email, name: email });

/** Runs the migrations up to the n-th, as a newer release of the application would. */
async function migrateTo(until) {
  const release = await source(1, until).initialize();
  try {
    await release.runMigrations();
  } finally {
    await release.destroy();
  }
}

async function migrate() {
  await migrateTo(1);
  const rows = await db.query("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'");
  return rows.map((row) => row.table_name).filter((name) => TABLES.includes(name)).sort().join(' ');
}

async function graph() {
  await repository(Country).insert([['de', 'Germany'], ['fr', 'France'], ['us', 'United States']].map(([code, name]) => ({ code, name })));
  for (let t = 1; t <= 4; t++) {
    await db.transaction(async (manager) => {
      const tenant = await manager.save(Tenant, { name: `t${t}` });
      const tenant_id = (saved[`t${t}`] = tenant.id);
      for (let u = 1; u <= 3; u++) {
        const orders = [1, 2].map((o) => ({
          tenant_id,
          amount: 10 * t + u + 0.25 * o,
          items: [{ tenant_id, product: 'pen', quantity: 1 }, { tenant_id, product: 'ink', quantity: 2 }],
          notes: [{ text: `note ${o}` }],
        }));
        await manager.save(User, { tenant_id, email: `u${u}@t${t}`, name: `user ${u}`, country: ['de', 'fr', 'us'][u - 1], orders });
      }
    });
  }
  const counts = [];
  for (const entity of [Tenant, User, Order, Item, Note]) counts.push(`${entity.options.tableName} ${await repository(entity).count()}`);
  const users = await repository(User).find({ where: { tenant_id: saved.t1, orders: { tenant_id: saved.t1 } }, relations: { orders: true }, order: { email: 'ASC' } });
  return `${counts.join(' ')}; ${graphOf(users)}`;
}

async function bulkInsert() {
  const wanted = Array.from({ length: 20 }, (_, n) => `b${String(n).padStart(2, '0')}`);
  const made = await repository(User).insert(wanted.map((email) => ({ tenant_id: saved.t1, email, name: 'bulk' })));
  const read = [];
  for (const { id } of made.identifiers) read.push((await repository(User).findOneBy({ tenant_id: saved.t1, id })).email);
  return `${read.join() === wanted.join() ? 'order kept' : 'order lost'}: ${read.join(' ')}`;
}

async function upsertWithKey() {
  const rows = ['u1@t1', 'new@t1'].map((email) => ({ tenant_id: saved.t1, email, name: email.toUpperCase() }));
  await db.createQueryBuilder().insert().into(User).values(rows).orUpdate(['name'], ['tenant_id', 'email']).execute();
  const names = await repository(User).find({ where: { tenant_id: saved.t1, email: In(['u1@t1', 'new@t1']) }, order: { email: 'ASC' } });
  const gone = await repository(User).delete({ tenant_id: saved.t1, email: 'new@t1' });
  return `${names.map((one) => one.name).join(' ')} ${gone.affected}`;
}

async function upsert() {
  await repository(User).upsert({ tenant_id: saved.t1, email: 'u3@t1', name: 'U3' }, ['tenant_id', 'email']);
  return (await repository(User).findOneBy({ tenant_id: saved.t1, email: 'u3@t1' })).name;
}

async function upsertWithoutKey() {
  const one = await repository(User).findOneBy({ tenant_id: saved.t1, email: 'u2@t1' });
  await repository(User).save({ id: one.id, name: 'U2' });
  return (await repository(User).findOneBy({ tenant_id: saved.t1, email: 'u2@t1' })).name;
}

async function getWithoutKey() {
  const [{ id }] = await repository(Order).find({ where: { tenant_id: saved.t2 }, order: { amount: 'ASC' }, take: 1 });
  const order = await repository(Order).findOneBy({ id });
  return `${order.amount} ${(await repository(User).findOneBy({ id: order.user_id })).email}`;
}

async function getWithoutKeyJoined() {
  const [{ id }] = await repository(Order).find({ where: { tenant_id: saved.t2 }, order: { amount: 'ASC' }, take: 1 });
  return (await repository(Order).findOne({ where: { id }, relations: { user: true } })).user.email;
}

async function getUuid() {
  const { id } = await repository(Document).save({ tenant_id: saved.t1, title: 'charter' });
  return (await repository(Document).findOneBy({ tenant_id: saved.t1, id })).title;
}

const ofT1 = () => ({ where: { tenant_id: saved.t1, email: Like('u%') }, order: { email: 'ASC' } });

async function lazy() {
  const lines = [];
  for (const one of await repository(User).find(ofT1())) {
    const orders = await repository(Order).find({ where: { tenant_id: saved.t1, user_id: one.id }, order: { amount: 'ASC' } });
    for (const order of orders) {
      const items = await repository(Item).find({ where: { tenant_id: saved.t1, order_id: order.id }, order: { product: 'ASC' } });
      lines.push(`${one.email} ${order.amount} ${items.map((item) => item.product).join('+')}`);
    }
  }
  return lines.join(' | ');
}

const selectIn = async () => graphOf(await repository(User).find({ ...ofT1(), relations: { orders: { items: true } }, relationLoadStrategy: 'query' }));

const joined = () => repository(User).createQueryBuilder('u')
  .where('u.tenant_id = :tenant', { tenant: saved.t1 }).andWhere("u.email LIKE 'u%'");

const eager = async () => graphOf(await joined().innerJoinAndSelect('u.orders', 'o', 'o.tenant_id = u.tenant_id')
  .leftJoinAndSelect('o.items', 'i', 'i.tenant_id = o.tenant_id').orderBy('u.email').addOrderBy('o.amount').getMany());

const eagerPage = async () => graphOf(await joined().leftJoinAndSelect('u.orders', 'o', 'o.tenant_id = u.tenant_id')
  .orderBy('u.email', 'DESC').take(2).getMany());

const tenantOnly = (all) => (all ? {} : { tenant_id: saved.t1 });
const builder = (entity, all) => {
  const query = repository(entity).createQueryBuilder('e');
  return all ? query : query.where('e.tenant_id = :tenant', { tenant: saved.t1 });
};

const page = async (all) => emailsOf(await repository(User).find({ where: tenantOnly(all), order: { email: 'ASC' }, take: 5, skip: 5 }));

const findAndCount = async () => {
  const [rows, count] = await repository(User).findAndCount({ where: tenantOnly(), order: { email: 'ASC' }, take: 2, skip: 1 });
  return `${count}: ${emailsOf(rows)}`;
};

const count = async (all) => `${await repository(Order).count({ where: tenantOnly(all) })} ${(await builder(Order, all).select('count(DISTINCT e.user_id)', 'n').getRawOne()).n}`;
const avg = async (all) => `${(await repository(Order).average('amount', tenantOnly(all))).toFixed(2)} ${await repository(Order).sum('amount', tenantOnly(all))}`;
const distinct = async (all) => (await builder(User, all).select('e.country', 'country').distinct(true).orderBy('e.country').getRawMany()).map((row) => row.country).join(' ');
const having = async (all) => (await builder(User, all).innerJoin('e.orders', 'o', 'o.tenant_id = e.tenant_id').select('e.email', 'email').addSelect('count(*)', 'n')
  .groupBy('e.email').having('count(*) > 1').orderBy('e.email').getRawMany()).map((row) => `${row.email} ${row.n}`).join(' | ');
const exists = async (all) => emailsOf(await builder(User, all).andWhereExists(
  repository(Order).createQueryBuilder('o').where('o.tenant_id = e.tenant_id AND o.user_id = e.id AND o.amount > 12.3')).orderBy('e.email').getMany());

async function savepoint() {
  const caught = await db.transaction(async (manager) => {
    await user(manager, saved.t4, 's1');
    let name;
    try {
      await manager.transaction((inner) => user(inner, saved.t4, 's1'));
    } catch (error) {
      if (!(error instanceof QueryFailedError) || error.code === '0A000') throw error;
      name = `${error.name} ${error.code} ${error.driverError.constraint}`;
    }
    await user(manager, saved.t4, 's2');
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
      throw new Error('undo');
    }).catch((error) => { if (error.message !== 'undo') throw error; });
    await user(outer, saved.t4, 'n4');
  });
  return emails(saved.t4, 'n%');
}

async function optimistic() {
  const where = { tenant_id: saved.t4, email: 'u1@t4' };
  const { version } = await repository(User).findOneBy(where);
  const update = () => repository(User).update({ ...where, version }, { name: 'first' });
  const told = [await update(), await update()].map(({ affected }) => (affected === 1 ? 'updated' : 'stale'));
  const failure = await repository(User).findOne({ where, lock: { mode: 'optimistic', version } }).then(() => 'no failure', (error) => {
    if (!(error instanceof OptimisticLockVersionMismatchError)) throw error;
    return error.name;
  });
  return `${told.join(' ')} ${failure}`;
}

async function skipLocked() {
  const take = (manager) => manager.find(Order, { where: { tenant_id: saved.t2 }, order: { amount: 'ASC' }, take: 2, lock: { mode: 'pessimistic_write', onLocked: 'skip_locked' } });
  return db.transaction(async (one) => {
    const first = await take(one);
    const second = await db.transaction((two) => take(two));
    return [first, second].map((orders) => orders.map((order) => order.amount).join()).join(' / ');
  });
}

const bulkUpdate = async (where) => (await repository(User).update(where, { name: () => 'upper(name)' })).affected;
const bulkDelete = async (where) => (await repository(User).delete(where)).affected;

async function cascade() {
  const one = await repository(User).findOneBy({ tenant_id: saved.t3, email: 'u3@t3' });
  await repository(User).remove({ ...one });
  const orders = await repository(Order).countBy({ tenant_id: saved.t3, user_id: one.id });
  return `${orders} orders, ${await repository(Item).countBy({ tenant_id: saved.t3 })} items in all`;
}

async function serializable() {
  const work = async (manager, email, before) => {
    await manager.countBy(User, { tenant_id: saved.t3, country: 'de' });
    await before?.();
    await manager.update(User, { tenant_id: saved.t3, email }, { country: 'us' });
  };
  const failure = await db.transaction('SERIALIZABLE', (one) => work(one, 'u1@t3', () =>
    db.transaction('SERIALIZABLE', (two) => work(two, 'u2@t3')))).then(() => 'no failure', (error) => {
    if (sqlstate(error) === '0A000') throw error;
    return `${error.name} ${sqlstate(error)}`;
  });
  await db.transaction('SERIALIZABLE', (again) => work(again, 'u1@t3'));
  return `${failure}, retried`;
}

async function reflection() {
  const query = db.createQueryRunner();
  try {
    const told = [];
    for (const name of ['users', 'orders']) {
      const table = await query.getTable(name);
      told.push(table.columns.map((c) => `${c.name} ${c.type}${c.isNullable ? '' : ' not null'}${c.isPrimary ? ' key' : ''}${c.isGenerated ? ' generated' : ''}${(c.enum ?? []).join('+')}`).sort().join(', '));
      told.push(table.uniques.map((unique) => `${unique.name} ${unique.columnNames.sort().join('+')}`).join(', '));
      told.push(table.foreignKeys.map((key) => `${key.columnNames} -> ${key.referencedTableName} ${key.onDelete}`).sort().join(', '));
    }
    return told.join('; ');
  } finally {
    await query.release();
  }
}

/** What a synchronising application would change: nothing, if the catalogs are read right. */
async function schemaLog() {
  const log = await db.driver.createSchemaBuilder().log();
  return log.upQueries.map(({ query }) => query).sort().join('; ');
}

async function migrateColumn() {
  await migrateTo(2);
  return (await db.query('SELECT points FROM users WHERE tenant_id = $1 AND email = $2', [saved.t1, 'u1@t1']))[0].points;
}

async function migrateIndex() {
  await migrateTo(3);
  return (await db.query("SELECT indisvalid FROM pg_index WHERE indexrelid = 'orders_status'::regclass"))[0].indisvalid;
}

async function migrateEnum() {
  await migrateTo(4);
  return (await db.query("UPDATE orders SET status = 'sent' WHERE tenant_id = $1 AND amount < 12", [saved.t1]))[1];
}

async function migrateFails() {
  const failure = await migrateTo(5).then(() => 'no failure', (error) => {
    if (sqlstate(error) === '0A000') throw error;
    return `${error.name} ${sqlstate(error)}`;
  });
  const [{ n }] = await db.query("SELECT count(*) AS n FROM pg_tables WHERE tablename = 'half_done'");
  return `${failure}, left ${n}`;
}

async function cursor(all) {
  const query = db.createQueryRunner();
  await query.startTransaction();
  try {
    const stream = await builder(Order, all).select('e.amount', 'amount').orderBy('e.amount').addOrderBy('e.id').setQueryRunner(query).stream();
    let [number, sum] = [0, 0];
    for await (const { amount } of stream) [number, sum] = [number + 1, sum + Number(amount)];
    await query.commitTransaction();
    return `${number} rows ${sum}`;
  } finally {
    if (query.isTransactionActive) await query.rollbackTransaction();
    await query.release();
  }
}

async function reconnect() {
  const victim = await source(1, 1).initialize();
  victim.driver.master.on('error', () => {});
  try {
    const query = victim.createQueryRunner();
    await query.startTransaction();
    const [{ pid }] = await query.query('SELECT pg_backend_pid() AS pid');
    await db.query('SELECT pg_terminate_backend($1)', [pid]);
    await new Promise((resolve) => setTimeout(resolve, 200));
    const error = await query.query('SELECT pg_sleep(1)').then(() => 'no failure', (e) => e);
    await query.rollbackTransaction().catch(() => {});
    await query.release();
    return `${error.name}, then ${(await victim.query('SELECT 1 + 1 AS two'))[0].two}`;
  } finally {
    await victim.destroy();
  }
}

async function truncate() {
  await repository(Note).clear();
  await repository(Document).clear();
  return `${await repository(Note).count()} ${await repository(Document).count()}`;
}

async function eightTenants() {
  let [foreign, sum] = [0, 0];
  await Promise.all(Array.from({ length: 8 }, async (_, n) => {
    const own = await source(1, 1).initialize();
    try {
      const { id: tenant_id } = await own.getRepository(Tenant).save({ name: `w${n}` });
      await own.query(`SET work_mem = '${n + 1}MB'`);
      for (let round = 0; round < 15; round++) {
        await own.getRepository(User).save({ tenant_id, email: `w${n}-${round}`, name: 'w' });
        const rows = await own.getRepository(User).findBy({ tenant_id });
        foreign += rows.filter((row) => !row.email.startsWith(`w${n}-`)).length;
        sum += rows.length;
        if ((await own.query('SHOW work_mem'))[0].work_mem !== `${n + 1}MB`) foreign++;
      }
    } finally {
      await own.destroy();
    }
  }));
  return `foreign ${foreign}, rows ${sum}`;
}

async function main() {
  await db.initialize();
  await step('migrate', migrate);
  await step('graph', graph, 'migrate');
  const on = (name, work) => step(name, work, 'graph');
  await on('bulk-insert-returning', bulkInsert);
  await on('upsert-with-key', upsertWithKey);
  await on('upsert-repository', upsert);
  await on('upsert-without-key', upsertWithoutKey);
  await on('get-without-key', getWithoutKey);
  await on('get-without-key-joined', getWithoutKeyJoined);
  await on('get-uuid', getUuid);
  await on('lazy', lazy);
  await on('select-in', selectIn);
  await on('eager', eager);
  await on('eager-page', eagerPage);
  await on('page', () => page(false));
  await on('page-all', () => page(true));
  await on('find-and-count', findAndCount);
  for (const [name, work] of Object.entries({ count, avg, distinct, having, exists, cursor })) {
    await on(name, () => work(false));
    await on(`${name}-all`, () => work(true));
  }
  await on('savepoint', savepoint);
  await on('nested', nested);
  await on('optimistic', optimistic);
  await on('skip-locked', skipLocked);
  await on('bulk-update', () => bulkUpdate({ tenant_id: saved.t2 }));
  await on('bulk-update-all', () => bulkUpdate({ email: Like('u1%') }));
  await on('bulk-delete', () => bulkDelete({ tenant_id: saved.t1, email: Like('b0%') }));
  await on('bulk-delete-all', () => bulkDelete({ email: Like('b%') }));
  await on('cascade', cascade);
  await on('serializable', serializable);
  await on('reflection', reflection);
  await on('schema-log', schemaLog);
  await on('migrate-column', migrateColumn);
  await on('migrate-index-concurrently', migrateIndex);
  await on('migrate-enum-value', migrateEnum);
  await on('migrate-fails', migrateFails);
  await on('reconnect', reconnect);
  await on('truncate', truncate);
  await step('eight-tenants', eightTenants, 'migrate');
  await db.destroy();
}

main();
