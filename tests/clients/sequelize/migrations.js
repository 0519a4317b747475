// The schema by Umzug and Sequelize's query interface. One migration is a group: its name and what it does.
'use strict';

const { DataTypes } = require('sequelize');

const id = { type: DataTypes.BIGINT, primaryKey: true, autoIncrement: true };
const bigint = { type: DataTypes.BIGINT, allowNull: false };
const text = { type: DataTypes.TEXT, allowNull: false };
const to = (table, more) => ({ references: { model: table, key: 'id' }, ...more });

async function first({ context: query }) {
  await query.createTable('tenants', { id, name: text });
  await query.createTable('countries', { code: { type: DataTypes.TEXT, primaryKey: true }, name: text });
  await query.createTable('users', {
    id,
    tenant_id: { ...bigint, ...to('tenants') },
    email: text,
    name: text,
    country: { type: DataTypes.TEXT, references: { model: 'countries', key: 'code' } },
    version: { type: DataTypes.INTEGER, allowNull: false, defaultValue: 1 },
  }, { uniqueKeys: { users_tenant_id_email: { fields: ['tenant_id', 'email'] } } });
  await query.sequelize.query("CREATE TYPE order_status AS ENUM ('new', 'paid')");
  await query.createTable('orders', {
    id,
    tenant_id: bigint,
    user_id: { ...bigint, ...to('users', { onDelete: 'CASCADE' }) },
    status: { type: 'order_status', allowNull: false, defaultValue: 'new' },
    amount: { type: DataTypes.DECIMAL(12, 2), allowNull: false },
    created_at: { type: DataTypes.DATE, allowNull: false, defaultValue: query.sequelize.fn('now') },
  });
  await query.createTable('order_items', {
    id,
    tenant_id: bigint,
    order_id: { ...bigint, ...to('orders', { onDelete: 'CASCADE' }) },
    product: text,
    quantity: { type: DataTypes.INTEGER, allowNull: false },
  });
  await query.createTable('order_notes', { id, order_id: bigint, text });
  await query.addIndex('order_notes', ['order_id']);
  await query.createTable('documents', {
    tenant_id: { ...bigint, primaryKey: true },
    id: { type: DataTypes.UUID, primaryKey: true, defaultValue: query.sequelize.fn('gen_random_uuid') },
    title: text,
  });
}

async function column({ context: query }) {
  await query.addColumn('users', 'points', { type: DataTypes.INTEGER, allowNull: false, defaultValue: 7 });
}

async function index({ context: query }) {
  await query.addIndex('orders', ['status'], { name: 'orders_status', concurrently: true });
}

async function enumValue({ context: query }) {
  await query.sequelize.query("ALTER TYPE order_status ADD VALUE 'sent'");
}

async function fails({ context: query }) {
  await query.sequelize.transaction(async (transaction) => {
    await query.createTable('half_done', { id }, { transaction });
    await query.addColumn('no_such_table', 'x', { type: DataTypes.INTEGER }, { transaction });
  });
}

module.exports = Object.entries({ '1-first': first, '2-column': column, '3-index': index, '4-enum': enumValue, '5-fails': fails })
  .map(([name, up]) => ({ name, up, down: async () => {} }));
