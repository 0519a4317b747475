// The tables of the shop as Drizzle knows them, and their relations.
'use strict';

const { relations } = require('drizzle-orm');
const { bigint, bigserial, integer, numeric, pgEnum, pgTable, primaryKey, text, timestamp, unique, uuid } = require('drizzle-orm/pg-core');

const number = { mode: 'number' };
const id = () => bigserial('id', number).primaryKey();

const tenants = pgTable('tenants', { id: id(), name: text('name').notNull() });
const countries = pgTable('countries', { code: text('code').primaryKey(), name: text('name').notNull() });
const status = pgEnum('order_status', ['new', 'paid', 'sent']);
const users = pgTable('users', {
  id: id(),
  tenantId: bigint('tenant_id', number).notNull().references(() => tenants.id),
  email: text('email').notNull(),
  name: text('name').notNull(),
  country: text('country').references(() => countries.code),
  version: integer('version').notNull().default(1),
}, (table) => [unique('users_tenant_email').on(table.tenantId, table.email)]);
const orders = pgTable('orders', {
  id: bigint('id', number).primaryKey().generatedAlwaysAsIdentity(),
  tenantId: bigint('tenant_id', number).notNull(),
  userId: bigint('user_id', number).notNull().references(() => users.id, { onDelete: 'cascade' }),
  status: status('status').notNull().default('new'),
  amount: numeric('amount', { precision: 12, scale: 2 }).notNull(),
  createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
});
const items = pgTable('order_items', {
  id: id(),
  tenantId: bigint('tenant_id', number).notNull(),
  orderId: bigint('order_id', number).notNull().references(() => orders.id, { onDelete: 'cascade' }),
  product: text('product').notNull(),
  quantity: integer('quantity').notNull(),
});
const notes = pgTable('order_notes', { id: id(), orderId: bigint('order_id', number).notNull(), text: text('text').notNull() });
const documents = pgTable('documents', {
  tenantId: bigint('tenant_id', number).notNull(),
  id: uuid('id').notNull().defaultRandom(),
  title: text('title').notNull(),
}, (table) => [primaryKey({ columns: [table.tenantId, table.id] })]);

// Each relation twice: by the parent's id alone, and by the whole key with the tenant in it.
const usersRelations = relations(users, ({ many }) => ({
  orders: many(orders, { relationName: 'orders' }), keyedOrders: many(orders, { relationName: 'keyedOrders' }) }));
const ordersRelations = relations(orders, ({ one, many }) => ({
  user: one(users, { relationName: 'orders', fields: [orders.userId], references: [users.id] }),
  keyedUser: one(users, { relationName: 'keyedOrders', fields: [orders.tenantId, orders.userId], references: [users.tenantId, users.id] }),
  items: many(items, { relationName: 'items' }), keyedItems: many(items, { relationName: 'keyedItems' }) }));
const itemsRelations = relations(items, ({ one }) => ({
  order: one(orders, { relationName: 'items', fields: [items.orderId], references: [orders.id] }),
  keyedOrder: one(orders, { relationName: 'keyedItems', fields: [items.tenantId, items.orderId], references: [orders.tenantId, orders.id] }) }));

module.exports = { tenants, countries, users, orders, items, notes, documents, usersRelations, ordersRelations, itemsRelations };
