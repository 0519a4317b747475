// The entities of the shop and their relations, without decorators.
'use strict';

const { EntitySchema } = require('typeorm');

const id = { type: 'bigint', primary: true, generated: 'increment' };
const bigint = { type: 'bigint' };
const text = { type: 'text' };

const Tenant = new EntitySchema({ name: 'Tenant', tableName: 'tenants', columns: { id, name: text } });
const Country = new EntitySchema({ name: 'Country', tableName: 'countries', columns: { code: { type: 'text', primary: true }, name: text } });
const User = new EntitySchema({
  name: 'User',
  tableName: 'users',
  columns: {
    id, tenant_id: bigint, email: text, name: text, country: { type: 'text', nullable: true },
    version: { type: 'int', version: true },
  },
  relations: {
    tenant: { type: 'many-to-one', target: 'Tenant', joinColumn: { name: 'tenant_id' } },
    orders: { type: 'one-to-many', target: 'Order', inverseSide: 'user', cascade: true },
  },
});
const Order = new EntitySchema({
  name: 'Order',
  tableName: 'orders',
  columns: {
    id, tenant_id: bigint, user_id: bigint,
    status: { type: 'enum', enum: ['new', 'paid'], enumName: 'order_status', default: 'new' },
    amount: { type: 'numeric', precision: 12, scale: 2 }, created_at: { type: 'timestamptz', createDate: true },
  },
  relations: {
    user: { type: 'many-to-one', target: 'User', joinColumn: { name: 'user_id' }, inverseSide: 'orders' },
    items: { type: 'one-to-many', target: 'Item', inverseSide: 'order', cascade: true },
    notes: { type: 'one-to-many', target: 'Note', inverseSide: 'order', cascade: true },
  },
});
const Item = new EntitySchema({
  name: 'Item',
  tableName: 'order_items',
  columns: { id, tenant_id: bigint, order_id: bigint, product: text, quantity: { type: 'int' } },
  relations: { order: { type: 'many-to-one', target: 'Order', joinColumn: { name: 'order_id' }, inverseSide: 'items' } },
});
const Note = new EntitySchema({
  name: 'Note',
  tableName: 'order_notes',
  columns: { id, order_id: bigint, text },
  relations: { order: { type: 'many-to-one', target: 'Order', joinColumn: { name: 'order_id' }, inverseSide: 'notes' } },
});
const Document = new EntitySchema({
  name: 'Document',
  tableName: 'documents',
  columns: { tenant_id: { type: 'bigint', primary: true }, id: { type: 'uuid', primary: true, generated: 'uuid' }, title: text },
});

module.exports = { Tenant, Country, User, Order, Item, Note, Document };
