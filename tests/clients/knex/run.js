// Knex: its query builder, nested transactions, streams; migrations under its lock table.
'use strict';

const { step, sqlstate } = require('../lib/js/steps.js');

const connect = (max) => require('knex')({ client: 'pg', connection: process.env.DATABASE_URL, pool: { min: 0, max } });
const db = connect(4);
const saved = {};

const TABLES = ['countries', 'documents', 'order_items', 'order_notes', 'orders', 'tenants', 'users'];
const list = (rows) => rows.map((row) => Object.values(row).join(' ')).join(' | ');
const emails = async (tenant_id, pattern) => (await db('users').where({ tenant_id }).whereLike('email', pattern).orderBy('email').pluck('email')).join(' ');
const user = (on, tenant_id, email) => on('users').insert({ tenant_id, email, name: email });

const migrations = {
  '1-first': async (knex) => {
    await knex.schema.createTable('tenants', (table) => { table.bigIncrements('id'); table.text('name').notNullable(); });
    await knex.schema.createTable('countries', (table) => { table.text('code').primary(); table.text('name').notNullable(); });
    await knex.schema.createTable('users', (table) => {
      table.bigIncrements('id');
      table.bigInteger('tenant_id').notNullable().references('tenants.id');
      table.text('email').notNullable();
      table.text('name').notNullable();
      table.text('country').references('countries.code');
      table.integer('version').notNullable().defaultTo(1);
      table.unique(['tenant_id', 'email']);
    });
    await knex.schema.createTable('orders', (table) => {
      table.bigIncrements('id');
      table.bigInteger('tenant_id').notNullable();
      table.bigInteger('user_id').notNullable().references('users.id').onDelete('CASCADE');
      table.enu('status', ['new', 'paid'], { useNative: true, enumName: 'order_status' }).notNullable().defaultTo('new');
      table.decimal('amount', 12, 2).notNullable();
      table.timestamp('created_at', { useTz: true }).notNullable().defaultTo(knex.fn.now());
    });
    await knex.schema.createTable('order_items', (table) => {
      table.bigIncrements('id');
      table.bigInteger('tenant_id').notNullable();
      table.bigInteger('order_id').notNullable().references('orders.id').onDelete('CASCADE');
      table.text('product').notNullable();
      table.integer('quantity').notNullable();
    });
    await knex.schema.createTable('order_notes', (table) => { table.bigIncrements('id'); table.bigInteger('order_id').notNullable().index(); table.text('text').notNullable(); });
    await knex.schema.createTable('documents', (table) => {
      table.bigInteger('tenant_id').notNullable();
      table.uuid('id').notNullable().defaultTo(knex.raw('gen_random_uuid()'));
      table.text('title').notNullable();
      table.primary(['tenant_id', 'id']);
    });
  },
  '2-column': (knex) => knex.schema.alterTable('users', (table) => table.integer('points').notNullable().defaultTo(7)),
  '3-index': (knex) => knex.raw('CREATE INDEX CONCURRENTLY orders_status ON orders (status)'),
  '4-enum': (knex) => knex.raw("ALTER TYPE order_status ADD VALUE 'sent'"),
  '5-fails': async (knex) => {
    await knex.schema.createTable('half_done', (table) => table.integer('id').primary());
    await knex.schema.alterTable('no_such_table', (table) => table.integer('x'));
  },
};

/** Runs the migrations up to the n-th, as a newer release of the application would. */
const migrateTo = (count) => db.migrate.latest({
  migrationSource: {
    getMigrations: async () => Object.keys(migrations).slice(0, count),
    getMigrationName: (name) => name,
    getMigration: async (name) => ({ up: migrations[name], down: async () => {}, config: { transaction: !['3-index', '4-enum'].includes(name) } }),
  },
});

async function migrate() {
  await migrateTo(1);
  const names = await db('information_schema.tables').where({ table_schema: 'public' }).pluck('table_name');
  return names.filter((name) => TABLES.includes(name)).sort().join(' ');
}

async function graph() {
  await db('countries').insert([['de', 'Germany'], ['fr', 'France'], ['us', 'United States']].map(([code, name]) => ({ code, name })));
  for (let t = 1; t <= 4; t++) {
    await db.transaction(async (tx) => {
      const [{ id: tenant_id }] = await tx('tenants').insert({ name: `t${t}` }).returning('id');
      saved[`t${t}`] = tenant_id;
      for (let u = 1; u <= 3; u++) {
        const [{ id: user_id }] = await tx('users').insert({ tenant_id, email: `u${u}@t${t}`, name: `user ${u}`, country: ['de', 'fr', 'us'][u - 1] }, ['id']);
        const orders = await tx('orders').insert([1, 2].map((o) => ({ tenant_id, user_id, amount: 10 * t + u + 0.25 * o }))).returning('id');
        await tx('order_items').insert(orders.flatMap(({ id: order_id }) => ['pen', 'ink'].map((product) => ({ tenant_id, order_id, product, quantity: 1 }))));
        await tx.batchInsert('order_notes', orders.map(({ id: order_id }) => ({ order_id, text: 'note' })), 1);
      }
    });
  }
  const counts = [];
  for (const table of ['tenants', 'users', 'orders', 'order_items', 'order_notes']) counts.push(`${table} ${(await db(table).count())[0].count}`);
  return `${counts.join(' ')}; ${await eager()}`;
}

async function bulkInsert() {
  const wanted = Array.from({ length: 20 }, (_, n) => `b${String(n).padStart(2, '0')}`);
  const made = await db('users').insert(wanted.map((email) => ({ tenant_id: saved.t1, email, name: 'bulk' }))).returning('id');
  const read = [];
  for (const { id } of made) read.push((await db('users').where({ tenant_id: saved.t1, id }).first()).email);
  return `${read.join() === wanted.join() ? 'order kept' : 'order lost'}: ${read.join(' ')}`;
}

async function upsertWithKey() {
  const rows = ['u1@t1', 'new@t1'].map((email) => ({ tenant_id: saved.t1, email, name: email.toUpperCase() }));
  const made = await db('users').insert(rows).onConflict(['tenant_id', 'email']).merge(['name']).returning(['email', 'name']);
  const ignored = await db('users').insert(rows).onConflict(['tenant_id', 'email']).ignore().returning('id');
  return `${list(made)} ${ignored.length} ${await db('users').where({ tenant_id: saved.t1, email: 'new@t1' }).del()}`;
}

async function upsertWithoutKey() {
  const { id } = await db('users').where({ tenant_id: saved.t1, email: 'u2@t1' }).first();
  await db('users').insert({ id, tenant_id: saved.t1, email: 'u2@t1', name: 'U2' }).onConflict('id').merge(['name']);
  return (await db('users').where({ tenant_id: saved.t1, email: 'u2@t1' }).first()).name;
}

async function getWithoutKey() {
  const { id } = await db('orders').where({ tenant_id: saved.t2 }).orderBy('amount').first();
  const order = await db('orders').where({ id }).first();
  return `${order.amount} ${(await db('users').where({ id: order.user_id }).first()).email}`;
}

async function getUuid() {
  const [{ id }] = await db('documents').insert({ tenant_id: saved.t1, title: 'charter' }).returning('id');
  return (await db('documents').where({ tenant_id: saved.t1, id }).first()).title;
}

const usersOfT1 = () => db('users').where('users.tenant_id', saved.t1).whereLike('email', 'u%').orderBy('email');

async function children(oneQuery) {
  const users = await usersOfT1();
  const ordersOf = (ids) => db('orders').where({ tenant_id: saved.t1 }).whereIn('user_id', ids).orderBy('amount').pluck('amount');
  if (oneQuery) return (await ordersOf(users.map(({ id }) => id))).join(' ');
  const lines = [];
  for (const { id, email } of users) lines.push(`${email} ${(await ordersOf([id])).join(' ')}`);
  return lines.join(' | ');
}

const joined = function on() {
  this.on('orders.user_id', 'users.id').andOn('orders.tenant_id', 'users.tenant_id');
};
const eager = async () => list(await usersOfT1().leftJoin('orders', joined).orderBy('amount').select('email', 'amount'));
const eagerPage = async () => list(await db(usersOfT1().clearOrder().orderBy('email', 'desc').limit(2).as('users'))
  .leftJoin('orders', joined).orderBy('email').orderBy('amount').select('email', 'amount'));

const of = (table, all) => (all ? db(table) : db(table).where(`${table}.tenant_id`, saved.t1));
const page = async (all) => (await of('users', all).orderBy('email').limit(5).offset(5).pluck('email')).join(' ');
const count = async (all) => `${(await of('orders', all).count())[0].count} ${(await of('orders', all).countDistinct('user_id'))[0].count}`;
const avg = async (all) => {
  const [row] = await of('orders', all).avg('amount as a').sum('amount as s');
  return `${Number(row.a).toFixed(2)} ${row.s}`;
};
const distinct = async (all) => (await of('users', all).distinct('country').orderBy('country').pluck('country')).join(' ');
const having = async (all) => list(await of('users', all).innerJoin('orders', joined).groupBy('email').havingRaw('count(*) > ?', [1]).orderBy('email').select('email').count());
const exists = async (all) => (await of('users', all).whereExists(db('orders').select(db.raw(1)).whereRaw('orders.user_id = users.id AND orders.tenant_id = users.tenant_id').where('amount', '>', 12))
  .orderBy('email').pluck('email')).join(' ');

async function savepoint() {
  const caught = await db.transaction(async (tx) => {
    await user(tx, saved.t4, 's1');
    const name = await tx.transaction((inner) => user(inner, saved.t4, 's1')).then(() => 'no failure', (error) => {
      if (error.code === '0A000') throw error;
      return `${error.code} ${error.constraint}`;
    });
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
      throw new Error('undo');
    }).catch((error) => { if (error.message !== 'undo') throw error; });
    await user(outer, saved.t4, 'n4');
  });
  return emails(saved.t4, 'n%');
}

async function optimistic() {
  const update = () => db('users').where({ tenant_id: saved.t4, email: 'u1@t4', version: 1 }).update({ version: db.raw('version + 1') });
  return [await update(), await update()].map((n) => (n === 1 ? 'updated' : 'stale')).join(' ');
}

async function skipLocked() {
  const take = (tx) => tx('orders').where({ tenant_id: saved.t2 }).orderBy('amount').limit(2).forUpdate().skipLocked().pluck('amount');
  return db.transaction(async (one) => {
    const first = await take(one);
    return `${first} / ${await db.transaction(take)}`;
  });
}

async function cascade() {
  const { id } = await db('users').where({ tenant_id: saved.t3, email: 'u3@t3' }).first();
  await db('users').where({ tenant_id: saved.t3, id }).del();
  return `${await db('orders').where({ tenant_id: saved.t3, user_id: id }).count().then(([row]) => row.count)} orders`;
}

/** Knex's streams read by a server-side cursor (pg-query-stream). */
async function cursor(all) {
  let [number, sum] = [0, 0];
  for await (const { amount } of of('orders', all).orderBy([{ column: 'amount' }, { column: 'id' }]).stream({ batchSize: 5 })) [number, sum] = [number + 1, sum + Number(amount)];
  return `${number} rows ${sum}`;
}

async function serializable() {
  const work = async (tx, email, before) => {
    await tx('users').where({ tenant_id: saved.t3, country: 'de' }).count();
    await before?.();
    await tx('users').where({ tenant_id: saved.t3, email }).update({ country: 'us' });
  };
  const options = { isolationLevel: 'serializable' };
  const failure = await db.transaction((one) => work(one, 'u1@t3', () => db.transaction((two) => work(two, 'u2@t3'), options)), options)
    .then(() => 'no failure', (error) => {
      if (error.code === '0A000') throw error;
      return `${error.constructor.name} ${error.code}`;
    });
  await db.transaction((again) => work(again, 'u1@t3'), options);
  return `${failure}, retried`;
}

async function reflection() {
  const told = [];
  for (const table of ['users', 'orders']) {
    const columns = await db(table).columnInfo();
    told.push(Object.entries(columns).map(([name, { type, nullable }]) => `${name} ${type}${nullable ? '' : ' not null'}`).sort().join(', '));
    told.push(`${await db.schema.hasTable(table)} ${await db.schema.hasColumn(table, 'nonsense')}`);
  }
  return told.join('; ');
}

async function migrateColumn() {
  await migrateTo(2);
  return (await db('users').where({ tenant_id: saved.t1, email: 'u1@t1' }).first()).points;
}

async function migrateIndex() {
  await migrateTo(3);
  return (await db.raw("SELECT indisvalid FROM pg_index WHERE indexrelid = 'orders_status'::regclass")).rows[0].indisvalid;
}

async function migrateEnum() {
  await migrateTo(4);
  return db('orders').where({ tenant_id: saved.t1 }).where('amount', '<', 12).update({ status: 'sent' });
}

async function migrateFails() {
  const failure = await migrateTo(5).then(() => 'no failure', (error) => {
    if (sqlstate(error) === '0A000') throw error;
    return `${error.constructor.name} ${sqlstate(error)}`;
  });
  return `${failure}, left ${await db.schema.hasTable('half_done')}, locked ${(await db('knex_migrations_lock').first()).is_locked}`;
}

async function reconnect() {
  const victim = connect(1);
  try {
    const failure = await victim.transaction(async (tx) => {
      const { rows: [{ pid }] } = await tx.raw('SELECT pg_backend_pid() AS pid');
      await db.raw('SELECT pg_terminate_backend(?)', [pid]);
      await new Promise((resolve) => setTimeout(resolve, 200));
      await tx.raw('SELECT pg_sleep(1)');
    }).then(() => false, () => true);
    return `failed ${failure}, then ${(await victim.raw('SELECT 2 AS n')).rows[0].n}`;
  } finally {
    await victim.destroy();
  }
}

async function truncate() {
  await db('order_notes').truncate();
  await db('documents').truncate();
  return `${(await db('order_notes').count())[0].count} ${(await db('documents').count())[0].count}`;
}

async function eightTenants() {
  let [foreign, sum] = [0, 0];
  await Promise.all(Array.from({ length: 8 }, async (_, n) => {
    const own = connect(1);
    try {
      const [{ id: tenant_id }] = await own('tenants').insert({ name: `w${n}` }).returning('id');
      await own.raw(`SET work_mem = '${n + 1}MB'`);
      for (let round = 0; round < 15; round++) {
        await user(own, tenant_id, `w${n}-${round}`);
        const rows = await own('users').where({ tenant_id });
        foreign += rows.filter((row) => !row.email.startsWith(`w${n}-`)).length;
        sum += rows.length;
        if ((await own.raw('SHOW work_mem')).rows[0].work_mem !== `${n + 1}MB`) foreign++;
      }
    } finally {
      await own.destroy();
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
  await on('lazy', () => children(false));
  await on('select-in', () => children(true));
  await on('eager', eager);
  await on('eager-page', eagerPage);
  for (const [name, work] of Object.entries({ page, count, avg, distinct, having, exists, cursor })) {
    await on(name, () => work(false));
    await on(`${name}-all`, () => work(true));
  }
  await on('savepoint', savepoint);
  await on('nested', nested);
  await on('optimistic', optimistic);
  await on('skip-locked', skipLocked);
  const upper = { name: db.raw('upper(name)') };
  await on('bulk-update', () => db('users').where({ tenant_id: saved.t2 }).update(upper));
  await on('bulk-update-all', () => db('users').whereLike('email', 'u1%').update(upper));
  await on('bulk-delete', () => db('users').where({ tenant_id: saved.t1 }).whereLike('email', 'b0%').del());
  await on('bulk-delete-all', () => db('users').whereLike('email', 'b%').del());
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
  await db.destroy();
}

main();
