// node-postgres: SQL by hand, pools, named statements, cursors, streams, pipelined queries, LISTEN, cancel.
'use strict';

const net = require('node:net');
const { Client, Pool, DatabaseError } = require('pg');
const Cursor = require('pg-cursor');
const QueryStream = require('pg-query-stream');
const { step, statements } = require('../lib/js/steps.js');

const url = process.env.DATABASE_URL;
const pool = new Pool({ connectionString: url, max: 4 });
pool.on('error', () => {});
const saved = {};

const show = (rows) => rows.map((row) => Object.values(row).join(',')).join(' | ');

/** Runs the statements of a step that is only SQL. */
async function run(list) {
  const results = [];
  for (const { text, params, save } of list) {
    const values = params.map((p) => (p.startsWith('@') ? saved[p.slice(1)] : p.replace(/^'|'$/g, '')));
    const result = await pool.query(text, values);
    if (save) saved[save] = result.rows[0].id ?? Object.values(result.rows[0])[0];
    else if (result.rows.length > 0) results.push(show(result.rows));
    else if (/^(INSERT|UPDATE|DELETE)$/.test(result.command)) results.push(`${result.rowCount} rows`);
  }
  return results.join('; ');
}

/** Runs work in a transaction on a connection of its own. */
async function transaction(work, begin = 'BEGIN') {
  const client = await pool.connect();
  try {
    await client.query(begin);
    const result = await work(client);
    await client.query('COMMIT');
    return result;
  } catch (error) {
    await client.query('ROLLBACK').catch(() => {});
    throw error;
  } finally {
    client.release();
  }
}

async function graph() {
  await pool.query("INSERT INTO countries VALUES ('de', 'Germany'), ('fr', 'France'), ('us', 'United States')");
  for (let t = 1; t <= 4; t++) {
    await transaction(async (client) => {
      const tenant = await client.query('INSERT INTO tenants (name) VALUES ($1) RETURNING id', [`t${t}`]);
      saved[`t${t}`] = tenant.rows[0].id;
      for (let u = 1; u <= 3; u++) {
        const user = await client.query(
          'INSERT INTO users (tenant_id, email, name, country) VALUES ($1, $2, $3, $4) RETURNING id',
          [saved[`t${t}`], `u${u}@t${t}`, `user ${u}`, ['de', 'fr', 'us'][u - 1]]);
        for (let o = 1; o <= 2; o++) await order(client, saved[`t${t}`], user.rows[0].id, 10 * t + u + 0.25 * o);
      }
    });
  }
  const counts = [];
  for (const table of ['tenants', 'users', 'orders', 'order_items', 'order_notes']) {
    counts.push(`${table} ${(await pool.query(`SELECT count(*) FROM ${table}`)).rows[0].count}`);
  }
  const { rows } = await pool.query(
    `SELECT u.name, o.amount FROM users u JOIN orders o ON o.user_id = u.id AND o.tenant_id = u.tenant_id
     WHERE u.tenant_id = $1 ORDER BY u.name, o.amount`, [saved.t1]);
  return `${counts.join(' ')}; ${show(rows)}`;
}

async function order(client, tenant, user, amount) {
  const { rows } = await client.query(
    'INSERT INTO orders (tenant_id, user_id, amount) VALUES ($1, $2, $3) RETURNING id', [tenant, user, amount]);
  await client.query(
    "INSERT INTO order_items (tenant_id, order_id, product, quantity) VALUES ($1, $2, 'pen', 1), ($1, $2, 'ink', 2)",
    [tenant, rows[0].id]);
  await client.query('INSERT INTO order_notes (order_id, text) VALUES ($1, $2)', [rows[0].id, `note ${amount}`]);
}

async function bulkInsert() {
  const emails = Array.from({ length: 20 }, (_, n) => `b${String(n).padStart(2, '0')}`);
  const rows = emails.map((_, n) => `($1, $${n + 2}, 'bulk')`).join(', ');
  const inserted = await pool.query(
    `INSERT INTO users (tenant_id, email, name) VALUES ${rows} RETURNING id`, [saved.t1, ...emails]);
  const read = [];
  for (const { id } of inserted.rows) {
    read.push((await pool.query('SELECT email FROM users WHERE tenant_id = $1 AND id = $2', [saved.t1, id])).rows[0].email);
  }
  return `${read.join() === emails.join() ? 'order kept' : 'order lost'}: ${read.join(' ')}`;
}

async function uuid() {
  const text = 'INSERT INTO documents (tenant_id, id, title) VALUES ($1, $2, $3) RETURNING id';
  const { rows } = await pool.query(text, [saved.t1, crypto.randomUUID(), 'charter']);
  const found = await pool.query('SELECT title FROM documents WHERE tenant_id = $1 AND id = $2', [saved.t1, rows[0].id]);
  return show(found.rows);
}

async function children(oneQuery) {
  const lines = [];
  const users = await pool.query("SELECT id, email FROM users WHERE tenant_id = $1 AND email LIKE 'u%' ORDER BY email", [saved.t1]);
  const text = 'SELECT id, user_id, amount FROM orders WHERE tenant_id = $1 AND user_id = ANY ($2) ORDER BY amount';
  const all = oneQuery ? (await pool.query(text, [saved.t1, users.rows.map((user) => user.id)])).rows : undefined;
  for (const user of users.rows) {
    const orders = all ? all.filter((o) => o.user_id === user.id) : (await pool.query(text, [saved.t1, [user.id]])).rows;
    for (const { id, amount } of orders) {
      const items = await pool.query(
        'SELECT product FROM order_items WHERE tenant_id = $1 AND order_id = $2 ORDER BY product', [saved.t1, id]);
      lines.push(`${user.email} ${amount} ${items.rows.map((item) => item.product).join('+')}`);
    }
  }
  return lines.join(' | ');
}

const insertUser = (client, tenant, email) =>
  client.query('INSERT INTO users (tenant_id, email, name) VALUES ($1, $2, $2)', [tenant, email]);

async function emails(tenant, like) {
  const text = 'SELECT email FROM users WHERE tenant_id = $1 AND email LIKE $2 ORDER BY email';
  return (await pool.query(text, [tenant, like])).rows.map((row) => row.email).join(' ');
}

async function savepoint() {
  const caught = await transaction(async (client) => {
    await insertUser(client, saved.t4, 's1');
    await client.query('SAVEPOINT before_duplicate');
    let name;
    try {
      await insertUser(client, saved.t4, 's1');
    } catch (error) {
      name = `${error instanceof DatabaseError} ${error.code} ${error.constraint}`;
    }
    await client.query('ROLLBACK TO SAVEPOINT before_duplicate');
    await insertUser(client, saved.t4, 's2');
    return name;
  });
  return `${caught}: ${await emails(saved.t4, 's%')}`;
}

async function nested() {
  await transaction(async (client) => {
    await insertUser(client, saved.t4, 'n1');
    await client.query('SAVEPOINT outer_one');
    await insertUser(client, saved.t4, 'n2');
    await client.query('SAVEPOINT inner_one');
    await insertUser(client, saved.t4, 'n3');
    await client.query('RELEASE SAVEPOINT inner_one');
    await client.query('ROLLBACK TO SAVEPOINT outer_one');
    await client.query('RELEASE SAVEPOINT outer_one');
    await insertUser(client, saved.t4, 'n4');
  });
  return emails(saved.t4, 'n%');
}

async function optimistic() {
  const text = `UPDATE users SET name = $3, version = version + 1
                WHERE tenant_id = $1 AND email = 'u1@t4' AND version = $2`;
  const first = await pool.query(text, [saved.t4, 1, 'first']);
  const second = await pool.query(text, [saved.t4, 1, 'second']);
  return [first, second].map((result) => (result.rowCount === 1 ? 'updated' : 'stale')).join(' ');
}

async function skipLocked() {
  const text = 'SELECT amount FROM orders WHERE tenant_id = $1 ORDER BY amount FOR UPDATE SKIP LOCKED LIMIT 2';
  return transaction(async (one) => {
    const first = await one.query(text, [saved.t2]);
    const second = await transaction((two) => two.query(text, [saved.t2]));
    return `${show(first.rows)} / ${show(second.rows)}`;
  });
}

async function cursor(where, values) {
  return transaction(async (client) => {
    const open = client.query(new Cursor(`SELECT amount FROM orders ${where} ORDER BY amount, id`, values));
    let [count, sum, rows] = [0, 0];
    do {
      rows = await open.read(5);
      count += rows.length;
      sum += rows.reduce((total, row) => total + Number(row.amount), 0);
    } while (rows.length > 0);
    await open.close();
    return `${count} rows ${sum}`;
  });
}

async function serializable() {
  const sum = 'SELECT count(*) FROM users WHERE tenant_id = $1 AND version = 1';
  const write = 'UPDATE users SET version = 2 WHERE tenant_id = $1 AND email = $2';
  const begin = 'BEGIN ISOLATION LEVEL SERIALIZABLE';
  const attempt = () => transaction(async (two) => {
    await two.query(sum, [saved.t3]);
    await two.query(write, [saved.t3, 'u2@t3']);
  }, begin);
  let failure = 'no failure';
  const one = await pool.connect();
  try {
    await one.query(begin);
    await one.query(sum, [saved.t3]);
    const two = await pool.connect();
    try {
      await two.query(begin);
      await two.query(sum, [saved.t3]);
      await one.query(write, [saved.t3, 'u1@t3']);
      await one.query('COMMIT');
      await two.query(write, [saved.t3, 'u2@t3']);
      await two.query('COMMIT');
    } catch (error) {
      if (error.code === '0A000') throw error;
      failure = `${error.constructor.name} ${error.code}`;
      await two.query('ROLLBACK');
    } finally {
      two.release();
    }
  } finally {
    await one.query('ROLLBACK').catch(() => {});
    one.release();
  }
  await attempt();
  return `${failure}, retried`;
}

async function migrateFails() {
  let failure;
  try {
    await transaction(async (client) => {
      await client.query('CREATE TABLE half_done (id int PRIMARY KEY)');
      await client.query('ALTER TABLE no_such_table ADD COLUMN x int');
    });
  } catch (error) {
    if (error.code === '0A000') throw error;
    failure = `${error.constructor.name} ${error.code}`;
  }
  const left = await pool.query("SELECT count(*) FROM pg_tables WHERE tablename = 'half_done'");
  return `${failure}, left ${left.rows[0].count}`;
}

async function reconnect() {
  const victim = new Pool({ connectionString: url, max: 1 });
  victim.on('error', () => {});
  const client = await victim.connect();
  const ended = new Promise((resolve) => client.on('error', resolve));
  await client.query('BEGIN');
  const { pid } = (await client.query('SELECT pg_backend_pid() AS pid')).rows[0];
  const asked = await pool.query('SELECT pg_terminate_backend($1) AS done', [pid]);
  const error = await Promise.race([ended, client.query('SELECT pg_sleep(5)').then(() => ended, (e) => e)]);
  client.release(true);
  const after = await victim.query('SELECT 1 + 1 AS two');
  await victim.end();
  return `${asked.rows[0].done} ${error.code}, then ${after.rows[0].two}`;
}

async function eightTenants() {
  let [foreign, sum] = [0, 0];
  await Promise.all(Array.from({ length: 8 }, async (_, n) => {
    await connected({ application_name: `worker ${n}` }, async (client) => {
      const tenant = (await client.query('INSERT INTO tenants (name) VALUES ($1) RETURNING id', [`w${n}`])).rows[0].id;
      await client.query(`SET work_mem = '${n + 1}MB'`);
      for (let round = 0; round < 15; round++) {
        await insertUser(client, tenant, `w${n}-${round}`);
        const rows = await client.query({
          name: 'own', text: 'SELECT email FROM users WHERE tenant_id = $1 ORDER BY id', values: [tenant] });
        foreign += rows.rows.filter((row) => !row.email.startsWith(`w${n}-`)).length;
        sum += rows.rows.length;
        const setting = await client.query('SHOW work_mem');
        if (setting.rows[0].work_mem !== `${n + 1}MB`) foreign++;
        const name = await client.query('SHOW application_name');
        if (name.rows[0].application_name !== `worker ${n}`) foreign++;
      }
    });
  }));
  return `foreign ${foreign}, rows ${sum}`;
}

// Beyond the common steps: what only this driver has.

async function named() {
  const client = await pool.connect();
  try {
    const ask = { name: 'by-email', text: 'SELECT name FROM users WHERE tenant_id = $1 AND email = $2' };
    const seen = [];
    for (const tenant of ['t1', 't2', 't3']) {
      const { rows } = await client.query({ ...ask, values: [saved[tenant], `u1@${tenant}`] });
      seen.push(rows[0].name);
    }
    const clash = await client.query({ ...ask, text: 'SELECT 1', values: [] }).catch((error) => error.message);
    return `${seen.join()}; ${clash}`;
  } finally {
    client.release();
  }
}

async function namedAfterDdl() {
  const client = await pool.connect();
  try {
    const ask = { name: 'star', text: 'SELECT * FROM countries ORDER BY code' };
    const before = Object.keys((await client.query(ask)).rows[0]).length;
    await pool.query('CREATE TABLE extra (id int PRIMARY KEY)');
    await pool.query('DROP TABLE extra');
    const after = Object.keys((await client.query(ask)).rows[0]).length;
    return `${before} ${after}`;
  } finally {
    client.release();
  }
}

/** Runs work on a client of its own, which is closed afterwards. */
async function connected(options, work) {
  const client = new Client({ connectionString: url, ...options });
  client.on('error', () => {});
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** All queries are on their way before the first is answered; each has its own Sync, so one error is one error. */
async function pipelined(client) {
  const answers = await Promise.allSettled(Array.from({ length: 60 }, (_, n) => {
    if (n === 20) return client.query('SELECT 1 / 0 AS n');
    if (n % 3 === 1) return client.query({ text: 'SELECT count(*)::int AS n FROM orders WHERE tenant_id = $1', values: [saved[`t${1 + n % 4}`]] });
    if (n % 3 === 2) return client.query({ name: 'sum', text: 'SELECT $1::int + 1000 AS n', values: [n] });
    return client.query(`SELECT ${n} AS n`);
  }));
  return answers.map((answer) => answer.value?.rows[0].n ?? answer.reason.code).join(' ');
}

async function pipelinedTransaction(client) {
  const texts = ['BEGIN', "INSERT INTO documents (tenant_id, title) VALUES ($1, 'piped')", 'COMMIT',
    "SELECT count(*)::int AS n FROM documents WHERE tenant_id = $1 AND title = 'piped'", 'BEGIN', 'SELECT nonsense', 'SELECT 1 AS n', 'ROLLBACK'];
  const answers = await Promise.allSettled(
    texts.map((text) => client.query({ text, values: text.includes('$1') ? [saved.t2] : [] })));
  return answers.map(({ value, reason }) => value?.rows[0]?.n ?? value?.command ?? reason.code).join(' ');
}

async function stream() {
  const client = await pool.connect();
  try {
    const rows = client.query(new QueryStream('SELECT n FROM generate_series(1, 2000) AS n', [], { batchSize: 100 }));
    let [count, sum] = [0, 0];
    for await (const row of rows) {
      count++;
      sum += row.n;
    }
    const early = client.query(new QueryStream('SELECT n FROM generate_series(1, 100000) AS n', [], { batchSize: 10 }));
    for await (const row of early) if (row.n === 25) break;
    const after = await client.query('SELECT 42 AS n');
    return `${count} ${sum}, after an early end ${after.rows[0].n}`;
  } finally {
    client.release();
  }
}

async function cancel(client) {
  const sleeping = client.query('SELECT pg_sleep(20)').catch((error) => error.code);
  await new Promise((resolve) => setTimeout(resolve, 300));
  const message = Buffer.alloc(16);
  [16, 80877102, client.processID, client.secretKey].forEach((value, n) => message.writeInt32BE(value, 4 * n));
  await new Promise((resolve, reject) => {
    const socket = net.connect(Number(process.env.PGPORT), process.env.PGHOST, () => socket.end(message));
    socket.on('close', resolve).on('error', reject);
  });
  const code = await sleeping;
  const after = await client.query('SELECT 7 AS n');
  return `${code}, then ${after.rows[0].n}`;
}

async function queryTimeout(client) {
  const code = await client.query('SELECT pg_sleep(5)').catch((error) => error.code);
  const { rows } = await client.query('SHOW statement_timeout');
  return `${code} ${rows[0].statement_timeout}`;
}

async function listen(client) {
  await client.query('LISTEN news');
  const heard = new Promise((resolve) => client.on('notification', resolve));
  await pool.query("SELECT pg_notify('news', 'hello')");
  const { channel, payload } = await heard;
  await client.query('UNLISTEN news');
  return `${channel} ${payload}`;
}

async function multi() {
  const results = await pool.query("SET TIME ZONE 'UTC'; SELECT 1 AS a; SELECT 2 AS a, 3 AS b");
  return results.map((result) => `${result.command} ${show(result.rows)}`).join(', ');
}

async function types() {
  const { rows } = await pool.query({
    text: `SELECT $1::int8 AS a, $2::numeric AS b, $3::jsonb AS c, $4::timestamptz AS d, $5::text[] AS e,
           $6::bytea AS f, $7::bool AS g, NULL::int AS h`,
    values: ['9007199254740993', '1.50', { k: [1, null] }, new Date(0), ['x', 'y"', null], Buffer.from([0, 255]), true],
  });
  return JSON.stringify(rows[0]);
}

async function main() {
  const sql = statements();
  const plain = (name, ...after) => step(name, () => run(sql.get(name)), ...after);
  await plain('migrate');
  await step('graph', graph, 'migrate');
  await step('bulk-insert-returning', bulkInsert, 'graph');
  for (const name of ['upsert-with-key', 'upsert-without-key', 'get-without-key']) await plain(name, 'graph');
  await step('get-uuid', uuid, 'graph');
  await step('lazy', () => children(false), 'graph');
  await step('select-in', () => children(true), 'graph');
  for (const name of ['eager', 'eager-page', 'page', 'page-all', 'count', 'count-all', 'avg', 'avg-all', 'distinct',
    'distinct-all', 'having', 'having-all', 'exists', 'exists-all']) await plain(name, 'graph');
  await step('savepoint', savepoint, 'graph');
  await step('nested', nested, 'graph');
  await step('optimistic', optimistic, 'graph');
  await step('skip-locked', skipLocked, 'graph');
  for (const name of ['bulk-update', 'bulk-update-all', 'bulk-delete', 'bulk-delete-all', 'cascade']) await plain(name, 'graph');
  await step('cursor', () => cursor('WHERE tenant_id = $1', [saved.t1]), 'graph');
  await step('cursor-all', () => cursor('', []), 'graph');
  await step('serializable', serializable, 'graph');
  for (const name of ['reflection', 'migrate-column', 'migrate-index-concurrently', 'migrate-enum-value']) await plain(name, 'graph');
  await step('migrate-fails', migrateFails);
  await step('named-statements', named, 'graph');
  await step('named-statement-after-ddl', namedAfterDdl, 'graph');
  await step('pipelined-queries', () => connected({ pipeline: true }, pipelined), 'graph');
  await step('pipelined-transaction', () => connected({ pipeline: true }, pipelinedTransaction), 'graph');
  await step('query-stream', stream);
  await step('multi-statement', multi);
  await step('types', types);
  await step('statement-timeout', () => connected({ statement_timeout: 200 }, queryTimeout));
  await step('cancel', () => connected({}, cancel));
  await step('listen-notify', () => connected({}, listen));
  await step('reconnect', reconnect);
  await plain('truncate', 'graph');
  await step('eight-tenants', eightTenants, 'migrate');
  await pool.end();
}

main();
