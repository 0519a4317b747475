// The models of the shop and their relations.
'use strict';

const { DataTypes } = require('sequelize');

const id = { type: DataTypes.BIGINT, primaryKey: true, autoIncrement: true };

/** Defines the models on a connection pool. */
module.exports = function define(sequelize) {
  const options = { timestamps: false };
  const Tenant = sequelize.define('Tenant', { id, name: DataTypes.TEXT }, { ...options, tableName: 'tenants' });
  const Country = sequelize.define('Country', {
    code: { type: DataTypes.TEXT, primaryKey: true }, name: DataTypes.TEXT,
  }, { ...options, tableName: 'countries' });
  const User = sequelize.define('User', {
    id, tenant_id: DataTypes.BIGINT, email: DataTypes.TEXT, name: DataTypes.TEXT, country: DataTypes.TEXT,
  }, { ...options, tableName: 'users', version: 'version' });
  const Order = sequelize.define('Order', {
    id, tenant_id: DataTypes.BIGINT, user_id: DataTypes.BIGINT, status: DataTypes.TEXT,
    amount: DataTypes.DECIMAL(12, 2), created_at: { type: DataTypes.DATE, defaultValue: sequelize.literal('DEFAULT') },
  }, { ...options, tableName: 'orders' });
  Order.removeAttribute('created_at');
  Order.removeAttribute('status');
  const Item = sequelize.define('Item', {
    id, tenant_id: DataTypes.BIGINT, order_id: DataTypes.BIGINT, product: DataTypes.TEXT, quantity: DataTypes.INTEGER,
  }, { ...options, tableName: 'order_items' });
  const Note = sequelize.define('Note', { id, order_id: DataTypes.BIGINT, text: DataTypes.TEXT }, { ...options, tableName: 'order_notes' });
  const Document = sequelize.define('Document', {
    tenant_id: { type: DataTypes.BIGINT, primaryKey: true },
    id: { type: DataTypes.UUID, primaryKey: true, defaultValue: DataTypes.UUIDV4 },
    title: DataTypes.TEXT,
  }, { ...options, tableName: 'documents' });
  Tenant.hasMany(User, { foreignKey: 'tenant_id', as: 'users' });
  User.belongsTo(Tenant, { foreignKey: 'tenant_id', as: 'tenant' });
  User.hasMany(Order, { foreignKey: 'user_id', as: 'orders' });
  Order.belongsTo(User, { foreignKey: 'user_id', as: 'user' });
  Order.hasMany(Item, { foreignKey: 'order_id', as: 'items' });
  Order.hasMany(Note, { foreignKey: 'order_id', as: 'notes' });
  return { Tenant, Country, User, Order, Item, Note, Document };
};
