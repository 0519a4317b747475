// Sequelize 6: models, relations, managed transactions; migrations by Umzug.
'use strict';

const Sequelize = require('sequelize');
const { Op, fn, col, literal } = Sequelize;
const { Umzug, SequelizeStorage } = require('umzug');
const define = require('./models.js');
const migrations = require('./migrations.js');
const { step, sqlstate } = require('../lib/js/steps.js');

const connect = (max) => new Sequelize.Sequelize(process.env.DATABASE_URL, { logging: process.env.LOG ? console.error : false, pool: { max } });
const db = connect(4);
const { Tenant, Country, User, Order, Item, Note, Document } = define(db);
const query = db.getQueryInterface();
const umzug = new Umzug({
  migrations, context: query, storage: new SequelizeStorage({ sequelize: db }), logger: undefined });
const saved = {};

const TABLES = ['countries', 'documents', 'order_items', 'order_notes', 'orders', 'tenants', 'users'];
const graphOf = (users) => users.map((user) =>
  `${user.email} ${user.orders.map((order) => `${order.amount}:${(order.items ?? []).map((item) => item.product).join('+')}`).join(' ')}`).join(' | ');
const emailsOf = (users) => users.map((user) => user.email).join(' ');
const emails = async (tenant_id, like) => emailsOf(await User.findAll({ where: { tenant_id, email: { [Op.like]: like } }, order: ['email'] }));
const user = (tenant_id, email, transaction) => User.create({ tenant_id, email, name: email }, { transaction });

async function migrate() {
  await umzug.up({ to: '1-first' });
  return (await query.showAllTables()).filter((table) => TABLES.includes(table)).sort().join(' ');
}

async function graph() {
  await Country.bulkCreate([['de', 'Germany'], ['fr', 'France'], ['us', 'United States']].map(([code, name]) => ({ code, name })));
  for (let t = 1; t <= 4; t++) {
    await db.transaction(async (transaction) => {
      const tenant = await Tenant.create({ name: `t${t}` }, { transaction });
      const tenant_id = (saved[`t${t}`] = tenant.id);
      for (let u = 1; u <= 3; u++) {
        const orders = [1, 2].map((o) => ({
          tenant_id,
          amount: 10 * t + u + 0.25 * o,
          items: [{ tenant_id, product: 'pen', quantity: 1 }, { tenant_id, product: 'ink', quantity: 2 }],
          notes: [{ text: `note ${o}` }],
        }));
        await tenant.createUser(
          { email: `u${u}@t${t}`, name: `user ${u}`, country: ['de', 'fr', 'us'][u - 1], orders },
          { include: [{ association: User.associations.orders, include: [Order.associations.items, Order.associations.notes] }], transaction });
      }
    });
  }
  const counts = [];
  for (const model of [Tenant, User, Order, Item, Note]) counts.push(`${model.tableName} ${await model.count()}`);
  const users = await User.findAll({ where: { tenant_id: saved.t1 }, include: { association: 'orders', where: { tenant_id: saved.t1 } }, order: ['email', ['orders', 'amount', 'ASC']] });
  return `${counts.join(' ')}; ${graphOf(users)}`;
}

async function bulkInsert() {
  const wanted = Array.from({ length: 20 }, (_, n) => `b${String(n).padStart(2, '0')}`);
  const made = await User.bulkCreate(wanted.map((email) => ({ tenant_id: saved.t1, email, name: 'bulk' })));
  const read = [];
  for (const { id } of made) read.push((await User.findOne({ where: { tenant_id: saved.t1, id } })).email);
  return `${read.join() === wanted.join() ? 'order kept' : 'order lost'}: ${read.join(' ')}`;
}

async function upsertWithKey() {
  const options = { conflictFields: ['tenant_id', 'email'], fields: ['tenant_id', 'email', 'name', 'country'] };
  const [old] = await User.upsert({ tenant_id: saved.t1, email: 'u1@t1', name: 'U1', country: 'de' }, options);
  const [fresh] = await User.upsert({ tenant_id: saved.t1, email: 'new@t1', name: 'New', country: 'de' }, options);
  const many = await User.bulkCreate(['u1@t1', 'new@t1'].map((email) => ({ tenant_id: saved.t1, email, name: 'Many' })),
    { updateOnDuplicate: ['name'], conflictAttributes: ['tenant_id', 'email'] });
  const gone = await User.destroy({ where: { tenant_id: saved.t1, email: 'new@t1' } });
  const left = await User.findOne({ where: { tenant_id: saved.t1, email: 'u1@t1' } });
  return `${old.name} ${fresh.name} ${many.length} ${gone} ${left.name}`;
}

async function upsertWithoutKey() {
  const { id } = await User.findOne({ where: { tenant_id: saved.t1, email: 'u2@t1' } });
  await User.upsert({ id, tenant_id: saved.t1, email: 'u2@t1', name: 'U2' });
  return (await User.findOne({ where: { tenant_id: saved.t1, email: 'u2@t1' } })).name;
}

async function getWithoutKey() {
  const { id } = await Order.findOne({ where: { tenant_id: saved.t2 }, order: ['amount'] });
  const order = await Order.findByPk(id);
  return `${order.amount} ${(await order.getUser()).email}`;
}

async function getUuid() {
  const { id } = await Document.create({ tenant_id: saved.t1, title: 'charter' });
  return (await Document.findOne({ where: { tenant_id: saved.t1, id } })).title;
}

const ofT1 = () => ({ where: { tenant_id: saved.t1, email: { [Op.like]: 'u%' } }, order: ['email'] });

async function lazy() {
  const lines = [];
  for (const one of await User.findAll(ofT1())) {
    for (const order of await one.getOrders({ where: { tenant_id: saved.t1 }, order: ['amount'] })) {
      const items = await order.getItems({ where: { tenant_id: saved.t1 }, order: ['product'] });
      lines.push(`${one.email} ${order.amount} ${items.map((item) => item.product).join('+')}`);
    }
  }
  return lines.join(' | ');
}

const selectIn = async () => graphOf(await User.findAll({ ...ofT1(), include: {
  association: 'orders', separate: true, where: { tenant_id: saved.t1 }, order: ['amount'],
  include: { association: 'items', separate: true, where: { tenant_id: saved.t1 }, order: ['product'] } } }));

const ordersOf = (tenant_id, more) => ({ association: 'orders', where: { tenant_id }, ...more });

const eager = async () => graphOf(await User.findAll({ ...ofT1(),
  include: ordersOf(saved.t1, { include: { association: 'items', where: { tenant_id: saved.t1 } } }),
  order: ['email', ['orders', 'amount', 'ASC'], ['orders', 'items', 'product', 'ASC']] }));

const eagerPage = async () => graphOf(await User.findAll({ ...ofT1(), limit: 2, include: ordersOf(saved.t1, { required: false }), order: [['email', 'DESC'], ['orders', 'amount', 'ASC']] }));

const tenantOnly = (all) => (all ? {} : { tenant_id: saved.t1 });

const page = async (all) => emailsOf(await User.findAll({ where: tenantOnly(all), order: ['email'], limit: 5, offset: 5 }));

const pageAndCount = async () => {
  const { count, rows } = await User.findAndCountAll({ where: tenantOnly(), order: ['email'], limit: 2, offset: 1 });
  return `${count}: ${emailsOf(rows)}`;
};

const count = async (all) => `${await Order.count({ where: tenantOnly(all) })} ${await Order.count({ where: tenantOnly(all), distinct: true, col: 'user_id' })}`;

async function avg(all) {
  const { average, total } = await Order.findOne({ where: tenantOnly(all), raw: true, attributes: [[fn('avg', col('amount')), 'average'], [fn('sum', col('amount')), 'total']] });
  return `${Number(average).toFixed(2)} ${total} ${await Order.sum('amount', { where: tenantOnly(all) })}`;
}

const distinct = async (all) => (await User.findAll({ where: tenantOnly(all), raw: true, attributes: [[fn('DISTINCT', col('country')), 'country']], order: ['country'] })).map((row) => row.country).join(' ');

async function having(all) {
  const rows = await User.findAll({
    where: tenantOnly(all), raw: true, attributes: ['email', [fn('count', col('orders.id')), 'n']],
    include: { association: 'orders', attributes: [], on: { user_id: { [Op.col]: 'User.id' }, tenant_id: { [Op.col]: 'User.tenant_id' } }, required: true },
    group: ['User.email'], having: literal('count(orders.id) > 1'), order: ['email'],
  });
  return rows.map((row) => `${row.email} ${row.n}`).join(' | ');
}

const exists = async (all) => emailsOf(await User.findAll({ order: ['email'], where: { ...tenantOnly(all), [Op.and]: literal(
  `EXISTS (SELECT 1 FROM orders o WHERE o.tenant_id = "User".tenant_id AND o.user_id = "User".id AND o.amount > ${all ? 22 : 12})`) } }));

async function savepoint() {
  const caught = await db.transaction(async (transaction) => {
    await user(saved.t4, 's1', transaction);
    let name;
    try {
      await db.transaction({ transaction }, (inner) => user(saved.t4, 's1', inner));
    } catch (error) {
      if (!(error instanceof Sequelize.UniqueConstraintError)) throw error;
      name = `${error.name} ${Object.keys(error.fields).join()}`;
    }
    await user(saved.t4, 's2', transaction);
    return name;
  });
  return `${caught}: ${await emails(saved.t4, 's%')}`;
}

async function nested() {
  await db.transaction(async (outer) => {
    await user(saved.t4, 'n1', outer);
    await db.transaction({ transaction: outer }, async (middle) => {
      await user(saved.t4, 'n2', middle);
      await db.transaction({ transaction: middle }, (inner) => user(saved.t4, 'n3', inner));
      throw new Error('undo');
    }).catch((error) => { if (error.message !== 'undo') throw error; });
    await user(saved.t4, 'n4', outer);
  });
  return emails(saved.t4, 'n%');
}

async function optimistic() {
  const find = () => User.findOne({ where: { tenant_id: saved.t4, email: 'u1@t4' } });
  const [one, two] = [await find(), await find()];
  await one.update({ name: 'first' });
  const failure = await two.update({ name: 'second' }).then(() => 'updated', (error) => {
    if (!(error instanceof Sequelize.OptimisticLockError)) throw error;
    return `stale ${error.name}`;
  });
  return `updated, ${failure}`;
}

async function skipLocked() {
  const take = (transaction) => Order.findAll({ where: { tenant_id: saved.t2 }, order: ['amount'], limit: 2, lock: true, skipLocked: true, transaction });
  return db.transaction(async (one) => {
    const first = await take(one);
    const second = await db.transaction((two) => take(two));
    return [first, second].map((orders) => orders.map((order) => order.amount).join()).join(' / ');
  });
}

const bulkUpdate = async (where) => (await User.update({ name: fn('upper', col('name')) }, { where }))[0];

async function cascade() {
  const one = await User.findOne({ where: { tenant_id: saved.t3, email: 'u3@t3' } });
  await one.destroy();
  const orders = await Order.count({ where: { tenant_id: saved.t3, user_id: one.id } });
  return `${orders} orders, ${await Item.count({ where: { tenant_id: saved.t3 } })} items in all`;
}

async function serializable() {
  const isolationLevel = Sequelize.Transaction.ISOLATION_LEVELS.SERIALIZABLE;
  const work = async (transaction, email) => {
    await User.count({ where: { tenant_id: saved.t3, country: 'de' }, transaction });
    return (write) => User.update({ country: 'us' }, { where: { tenant_id: saved.t3, email }, transaction: write ?? transaction });
  };
  const [one, two] = [await db.transaction({ isolationLevel }), await db.transaction({ isolationLevel })];
  let failure = 'no failure';
  try {
    const first = await work(one, 'u1@t3');
    const second = await work(two, 'u2@t3');
    await first();
    await one.commit();
    await second();
    await two.commit();
  } catch (error) {
    if (sqlstate(error) === '0A000') throw error;
    failure = `${error.name} ${sqlstate(error)}`;
  } finally {
    for (const open of [one, two]) if (!open.finished) await open.rollback();
  }
  await db.transaction({ isolationLevel }, async (again) => (await work(again, 'u2@t3'))());
  return `${failure}, retried`;
}

async function reflection() {
  const told = [];
  for (const table of ['users', 'orders']) {
    const columns = await query.describeTable(table);
    told.push(Object.entries(columns).map(([name, { type, allowNull, primaryKey, special }]) => `${name} ${type}${allowNull ? '' : ' not null'}${primaryKey ? ' key' : ''}${special.join('+')}`).sort().join(', '));
    told.push((await query.showIndex(table)).map((index) => `${index.name} ${index.unique} ${index.fields.map((field) => field.attribute).join('+')}`).sort().join(', '));
    told.push((await query.getForeignKeyReferencesForTable(table)).map((key) => `${key.columnName} -> ${key.referencedTableName}.${key.referencedColumnName}`).sort().join(', '));
  }
  return told.join('; ');
}

async function migrateColumn() {
  await umzug.up({ to: '2-column' });
  const [rows] = await db.query('SELECT points FROM users WHERE tenant_id = :tenant AND email = :email', { replacements: { tenant: saved.t1, email: 'u1@t1' } });
  return rows[0].points;
}

async function migrateIndex() {
  await umzug.up({ to: '3-index' });
  const [rows] = await db.query("SELECT indisvalid FROM pg_index WHERE indexrelid = 'orders_status'::regclass");
  return rows[0].indisvalid;
}

async function migrateEnum() {
  await umzug.up({ to: '4-enum' });
  const [, result] = await db.query("UPDATE orders SET status = 'sent' WHERE tenant_id = $1 AND amount < 12", { bind: [saved.t1] });
  return result.rowCount;
}

async function migrateFails() {
  const failure = await umzug.up({ to: '5-fails' }).then(() => 'no failure', (error) => {
    if (sqlstate(error) === '0A000') throw error;
    return `${error.name} ${sqlstate(error)}`;
  });
  return `${failure}, left ${(await query.showAllTables()).includes('half_done')}, done ${(await umzug.executed()).length}`;
}

async function reconnect() {
  const victim = connect(1);
  const transaction = await victim.transaction();
  const [[{ pid }]] = await victim.query('SELECT pg_backend_pid() AS pid', { transaction });
  await db.query('SELECT pg_terminate_backend(:pid)', { replacements: { pid } });
  const error = await victim.query('SELECT pg_sleep(1)', { transaction }).then(() => 'no failure', (e) => e);
  await transaction.rollback().catch(() => {});
  const [[{ two }]] = await victim.query('SELECT 1 + 1 AS two');
  await victim.close();
  return `${error.name}, then ${two}`;
}

const truncate = async () => {
  await Note.truncate();
  await Document.truncate();
  return `${await Note.count()} ${await Document.count()}`;
};

async function eightTenants() {
  let [foreign, sum] = [0, 0];
  await Promise.all(Array.from({ length: 8 }, async (_, n) => {
    const own = connect(1);
    const { Tenant: Tenants, User: Users } = define(own);
    try {
      const { id: tenant_id } = await Tenants.create({ name: `w${n}` });
      await own.query(`SET work_mem = '${n + 1}MB'`);
      for (let round = 0; round < 15; round++) {
        const email = `w${n}-${round}`;
        await Users.findOrCreate({ where: { tenant_id, email }, defaults: { name: email } });
        const rows = await Users.findAll({ where: { tenant_id } });
        foreign += rows.filter((row) => !row.email.startsWith(`w${n}-`)).length;
        sum += rows.length;
        const [{ work_mem }] = await own.query('SHOW work_mem', { type: Sequelize.QueryTypes.SELECT });
        if (work_mem !== `${n + 1}MB`) foreign++;
      }
    } finally {
      await own.close();
    }
  }));
  return `foreign ${foreign}, rows ${sum}`;
}

async function findOrCreate() {
  const where = { tenant_id: saved.t2, email: 'found' };
  const [, created] = await User.findOrCreate({ where, defaults: { name: 'x' } });
  const [one, again] = await User.findOrCreate({ where, defaults: { name: 'y' } });
  const [, third] = await User.findCreateFind({ where, defaults: { name: 'z' } });
  const removed = await User.destroy({ where: { tenant_id: saved.t2, email: 'found' } });
  return `${created} ${again} ${third} ${one.name} ${removed}`;
}

async function increment() {
  const where = { tenant_id: saved.t4, product: 'pen' };
  await Item.increment({ quantity: 5 }, { where });
  return Item.sum('quantity', { where });
}

/** Children that are written by their parents' ids or their own, without the tenant key. */
async function childrenByParent() {
  const orders = await Order.findAll({ where: { tenant_id: saved.t4 }, order: ['amount', 'id'], limit: 2 });
  const where = { order_id: orders.map((order) => order.id) };
  const item = await Item.findOne({ where: { order_id: orders[0].id, product: 'pen' } });
  item.quantity = 9;
  await item.save();
  const [updated] = await Item.update({ quantity: Sequelize.literal('quantity + 1') }, { where });
  const [notes] = await Note.update({ text: 'again' }, { where });
  const quantities = (await Item.findAll({ where })).map((row) => row.quantity).sort((a, b) => a - b);
  return `${updated} ${notes} ${await Note.destroy({ where })} ${quantities} ${await Item.destroy({ where })} ${await Item.count({ where })}`;
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
  await on('eager', eager);
  await on('eager-page', eagerPage);
  await on('page', () => page(false));
  await on('page-all', () => page(true));
  await on('page-and-count', pageAndCount);
  for (const [name, work] of Object.entries({ count, avg, distinct, having, exists })) {
    await on(name, () => work(false));
    await on(`${name}-all`, () => work(true));
  }
  await on('savepoint', savepoint);
  await on('nested', nested);
  await on('optimistic', optimistic);
  await on('skip-locked', skipLocked);
  await on('bulk-update', () => bulkUpdate({ tenant_id: saved.t2 }));
  await on('bulk-update-all', () => bulkUpdate({ email: { [Op.like]: 'u1%' } }));
  await on('bulk-delete', () => User.destroy({ where: { tenant_id: saved.t1, email: { [Op.like]: 'b0%' } } }));
  await on('bulk-delete-all', () => User.destroy({ where: { email: { [Op.like]: 'b%' } } }));
  await on('cascade', cascade);
  await on('find-or-create', findOrCreate);
  await on('increment', increment);
  await on('serializable', serializable);
  await on('reflection', reflection);
  await on('migrate-column', migrateColumn);
  await on('migrate-index-concurrently', migrateIndex);
  await on('migrate-enum-value', migrateEnum);
  await on('migrate-fails', migrateFails);
  await on('reconnect', reconnect);
  await on('children-by-parent', childrenByParent);
  await on('truncate', truncate);
  await step('eight-tenants', eightTenants, 'migrate');
  await db.close();
}

main();
