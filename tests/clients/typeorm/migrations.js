// The schema by TypeORM's migrations: tables by its own schema API, the rest in SQL.
'use strict';

const { Table, TableColumn } = require('typeorm');

const id = { name: 'id', type: 'bigint', isPrimary: true, isGenerated: true, generationStrategy: 'increment' };
const column = (name, type, more) => ({ name, type, ...more });
const to = (table, from, more) => ({ columnNames: [from], referencedTableName: table, referencedColumnNames: ['id'], ...more });

class First1700000000001 {
  async up(query) {
    const create = (name, columns, more) => query.createTable(new Table({ name, columns, ...more }));
    await create('tenants', [id, column('name', 'text')]);
    await create('countries', [column('code', 'text', { isPrimary: true }), column('name', 'text')]);
    await create('users', [
      id, column('tenant_id', 'bigint'), column('email', 'text'), column('name', 'text'),
      column('country', 'text', { isNullable: true }), column('version', 'int', { default: 1 }),
    ], {
      uniques: [{ name: 'users_email', columnNames: ['tenant_id', 'email'] }],
      foreignKeys: [to('tenants', 'tenant_id'), { columnNames: ['country'], referencedTableName: 'countries', referencedColumnNames: ['code'] }],
    });
    await create('orders', [
      id, column('tenant_id', 'bigint'), column('user_id', 'bigint'),
      column('status', 'enum', { enum: ['new', 'paid'], enumName: 'order_status', default: "'new'" }),
      column('amount', 'numeric', { precision: 12, scale: 2 }), column('created_at', 'timestamptz', { default: 'now()' }),
    ], { foreignKeys: [to('users', 'user_id', { onDelete: 'CASCADE' })] });
    await create('order_items', [
      id, column('tenant_id', 'bigint'), column('order_id', 'bigint'), column('product', 'text'), column('quantity', 'int'),
    ], { foreignKeys: [to('orders', 'order_id', { onDelete: 'CASCADE' })] });
    await create('order_notes', [id, column('order_id', 'bigint'), column('text', 'text')], { indices: [{ columnNames: ['order_id'] }] });
    await create('documents', [
      column('tenant_id', 'bigint', { isPrimary: true }),
      column('id', 'uuid', { isPrimary: true, default: 'gen_random_uuid()' }), column('title', 'text'),
    ]);
  }
  async down() {}
}

class Column1700000000002 {
  async up(query) {
    await query.addColumn('users', new TableColumn({ name: 'points', type: 'int', default: 7 }));
  }
  async down() {}
}

class StatusIndex1700000000003 {
  transaction = false;
  async up(query) {
    await query.query('CREATE INDEX CONCURRENTLY orders_status ON orders (status)');
  }
  async down() {}
}

class EnumValue1700000000004 {
  transaction = false;
  async up(query) {
    await query.query("ALTER TYPE order_status ADD VALUE 'sent'");
  }
  async down() {}
}

class Fails1700000000005 {
  async up(query) {
    await query.createTable(new Table({ name: 'half_done', columns: [id] }));
    await query.query('ALTER TABLE no_such_table ADD COLUMN x int');
  }
  async down() {}
}

module.exports = [First1700000000001, Column1700000000002, StatusIndex1700000000003, EnumValue1700000000004, Fails1700000000005];
