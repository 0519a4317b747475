# frozen_string_literal: true

# ActiveRecord: models, relations, nested transactions, its own migrations under its advisory lock.
require 'active_record'
require 'securerandom'
require_relative '../lib/ruby/steps'

ActiveRecord::Base.establish_connection(
  adapter: 'postgresql', host: ENV['PGHOST'], port: ENV['PGPORT'], username: 'app', database: 'app', pool: 10
)
ActiveRecord::Base.logger = Logger.new($stderr) if ENV['LOG']
ActiveRecord::Migration.verbose = false

class Tenant < ActiveRecord::Base
  has_many :users
end

class Country < ActiveRecord::Base
  self.primary_key = 'code'
end

class User < ActiveRecord::Base
  self.locking_column = :version
  belongs_to :tenant
  has_many :orders
  scope :of, ->(tenant) { where(tenant_id: tenant) }
end

class Order < ActiveRecord::Base
  belongs_to :user
  has_many :items
  has_many :notes
  scope :of, ->(tenant) { where(tenant_id: tenant) }
end

class Item < ActiveRecord::Base
  self.table_name = 'order_items'
  belongs_to :order
end

class Note < ActiveRecord::Base
  self.table_name = 'order_notes'
end

class Document < ActiveRecord::Base
  self.primary_key = 'id'
end

T = {} # tenants by number
TABLES = %w[countries documents order_items order_notes orders tenants users].freeze

def migrate(version)
  ActiveRecord::MigrationContext.new(File.join(__dir__, 'migrations'), ActiveRecord::SchemaMigration).migrate(version)
  ActiveRecord::Base.descendants.each(&:reset_column_information)
end

def graph_of(users)
  users.map { |user| "#{user.email} #{user.orders.map { |o| "#{o.amount.to_f}:#{o.items.map(&:product).sort.join('+')}" }.join(' ')}" }.join(' | ')
end

def emails(tenant, like)
  User.of(tenant).where('email LIKE ?', like).order(:email).pluck(:email).join(' ')
end

def user(tenant, email)
  User.create!(tenant_id: tenant, email: email, name: email)
end

# Runs a block in another thread, on another connection of the pool.
def elsewhere(&block)
  Thread.new { ActiveRecord::Base.connection_pool.with_connection(&block) }.tap { |t| t.report_on_exception = false }.value
end

def on(name, &block)
  Steps.step(name, 'graph', &block)
end

def both(name, tenant, &block)
  on(name) { block.call(of_tenant(tenant)) }
  on("#{name}-all") { block.call(->(model) { model.all }) }
end

def of_tenant(tenant)
  ->(model) { model.of(T[tenant]) }
end

Steps.step('migrate') do
  migrate(1)
  (ActiveRecord::Base.connection.tables & TABLES).sort.join(' ')
end

Steps.step('graph', 'migrate') do
  Country.insert_all!([%w[de Germany], %w[fr France], %w[us America]].map { |code, name| { code: code, name: name } })
  (1..4).each do |t|
    Tenant.transaction do
      tenant = Tenant.create!(name: "t#{t}")
      T[t] = tenant.id
      (1..3).each do |u|
        user = tenant.users.create!(email: "u#{u}@t#{t}", name: "user #{u}", country: %w[de fr us][u - 1])
        (1..2).each do |o|
          order = user.orders.build(tenant_id: tenant.id, amount: 10 * t + u + 0.25 * o)
          %w[pen ink].each_with_index { |product, n| order.items.build(tenant_id: tenant.id, product: product, quantity: n + 1) }
          order.notes.build(text: "note #{o}")
          order.save!
        end
      end
    end
  end
  counts = [Tenant, User, Order, Item, Note].map { |model| "#{model.table_name} #{model.count}" }.join(' ')
  "#{counts}; #{graph_of(User.of(T[1]).order(:email).includes(orders: :items).references(:orders).where(orders: { tenant_id: T[1] }, order_items: { tenant_id: T[1] }).order('orders.amount'))}"
end

on('bulk-insert-returning') do
  wanted = (0...20).map { |n| format('b%02d', n) }
  made = User.insert_all!(wanted.map { |email| { tenant_id: T[1], email: email, name: 'bulk' } }, returning: %w[id])
  read = made.rows.flatten.map { |id| User.of(T[1]).find(id).email }
  "#{read == wanted ? 'order kept' : 'order lost'}: #{read.join(' ')}"
end

on('upsert-with-key') do
  User.upsert_all(%w[u1@t1 new@t1].map { |email| { tenant_id: T[1], email: email, name: email.upcase } }, unique_by: %i[tenant_id email])
  names = User.of(T[1]).where("email NOT LIKE 'b%'").order(:email).pluck(:name)
  User.of(T[1]).where(email: 'new@t1').delete_all
  names.join(' ')
end

on('upsert-without-key') do
  id = User.of(T[1]).find_by!(email: 'u2@t1').id
  User.upsert({ id: id, tenant_id: T[1], email: 'u2@t1', name: 'U2' })
  User.of(T[1]).find_by!(email: 'u2@t1').name
end

on('get-without-key') do
  order = Order.find(Order.of(T[2]).order(:amount).first.id)
  "#{order.amount.to_f} #{order.user.email}"
end

on('get-uuid') do
  made = Document.create!(id: SecureRandom.uuid, tenant_id: T[1], title: 'charter')
  Document.find_by!(tenant_id: T[1], id: made.id).title
end

def users_of_t1
  User.of(T[1]).where("users.email LIKE 'u%'").order(:email)
end

on('lazy') do
  users_of_t1.flat_map do |user|
    user.orders.of(T[1]).order(:amount).map { |o| "#{user.email} #{o.amount.to_f} #{o.items.where(tenant_id: T[1]).order(:product).pluck(:product).join('+')}" }
  end.join(' | ')
end
on('select-in') { users_of_t1.preload(orders: :items).map { |user| "#{user.email} #{user.orders.map { |o| [o.amount.to_f, o.items.map(&:product).sort] }.sort}" }.join(' | ') }
on('eager') { graph_of(users_of_t1.eager_load(orders: :items).where(orders: { tenant_id: T[1] }, order_items: { tenant_id: T[1] }).order('orders.amount')) }
on('eager-page') { users_of_t1.eager_load(:orders).where(orders: { tenant_id: T[1] }).order('orders.amount').limit(2).map { |u| "#{u.email} #{u.orders.map { |o| o.amount.to_f }.join(' ')}" }.join(' | ') }

both('page', 1) { |scope| scope.call(User).order(:email).limit(5).offset(5).pluck(:email).join(' ') }
both('count', 1) { |scope| "#{scope.call(Order).count} #{scope.call(Order).distinct.count(:user_id)}" }
both('avg', 1) { |scope| "#{scope.call(Order).average(:amount).round(2).to_s('F')} #{scope.call(Order).sum(:amount).to_s('F')}" }
both('distinct', 1) { |scope| scope.call(User).distinct.order(:country).pluck(:country).map(&:to_s).join(' ') }
both('having', 1) do |scope|
  scope.call(User).joins('JOIN orders ON orders.user_id = users.id AND orders.tenant_id = users.tenant_id')
       .group(:email).having('count(*) > 1').order(:email).count.map { |email, n| "#{email} #{n}" }.join(' | ')
end
both('exists', 1) do |scope|
  orders = Order.where('orders.user_id = users.id AND orders.tenant_id = users.tenant_id AND orders.amount > 12.3')
  scope.call(User).where(orders.arel.exists).order(:email).pluck(:email).join(' ')
end
on('any') { "#{User.of(T[1]).exists?(email: 'u1@t1')} #{User.exists?(email: 'nobody')} #{Order.of(T[1]).any?}" }

on('savepoint') do
  caught = nil
  User.transaction do
    user(T[4], 's1')
    begin
      User.transaction(requires_new: true) { user(T[4], 's1') }
    rescue ActiveRecord::RecordNotUnique => error
      caught = error.class
    end
    user(T[4], 's2')
  end
  "#{caught}: #{emails(T[4], 's%')}"
end

on('nested') do
  User.transaction do
    user(T[4], 'n1')
    User.transaction(requires_new: true) do
      user(T[4], 'n2')
      User.transaction(requires_new: true) { user(T[4], 'n3') }
      raise ActiveRecord::Rollback
    end
    user(T[4], 'n4')
  end
  emails(T[4], 'n%')
end

on('create-or-find') { [1, 2].map { User.create_or_find_by!(tenant_id: T[4], email: 'found') { |u| u.name = 'x' }.name }.join(' ') }

on('optimistic') do
  one, two = [1, 2].map { User.of(T[4]).find_by!(email: 'u1@t4') }
  one.update!(name: 'first')
  "updated, stale #{Steps.expected { two.update!(name: 'second') }}"
end

on('skip-locked') do
  take = -> { Order.of(T[2]).order(:amount).limit(2).lock('FOR UPDATE SKIP LOCKED').map { |o| o.amount.to_f } }
  Order.transaction { [take.call, elsewhere { Order.transaction { take.call } }].map(&:to_s).join(' / ') }
end

on('bulk-update') { User.of(T[2]).update_all('name = upper(name)') }
on('bulk-update-all') { User.where("email LIKE 'u1%'").update_all(name: 'one') }
on('update-limited') { Order.of(T[2]).order(:amount).limit(2).update_all(amount: 1) }
on('bulk-delete') { User.of(T[1]).where("email LIKE 'b0%'").delete_all }
on('bulk-delete-all') { User.where("email LIKE 'b%'").delete_all }
on('cascade') do
  one = User.of(T[3]).find_by!(email: 'u3@t3')
  one.destroy!
  "#{Order.of(T[3]).where(user_id: one.id).count} orders, #{Item.where(tenant_id: T[3]).count} items in all"
end
on('find-each') { Order.of(T[1]).find_each(batch_size: 4).map { |o| o.amount.to_f }.sum }
on('find-each-all') { Order.where('amount > 0').find_each(batch_size: 5).count }

on('serializable') do
  work = lambda do |email, &before|
    User.transaction(isolation: :serializable) do
      User.of(T[3]).where(country: 'de').count
      before&.call
      User.of(T[3]).where(email: email).update_all(country: 'us')
    end
  end
  failure = Steps.expected { work.call('u1@t3') { elsewhere { work.call('u2@t3') } } }
  work.call('u1@t3')
  "#{failure}, retried"
end

on('reflection') do
  connection = ActiveRecord::Base.connection
  %w[users orders].map do |table|
    [connection.columns(table).map { |c| "#{c.name} #{c.sql_type}#{c.null ? '' : ' not null'} #{c.default}".strip }.join(', '),
     connection.primary_keys(table).join(', '),
     connection.indexes(table).map { |i| "#{i.name} #{i.unique}" }.sort.join(', '),
     connection.foreign_keys(table).map { |k| "#{k.column} -> #{k.to_table} #{k.on_delete}" }.sort.join(', ')].join('; ')
  end.join('; ')
end

on('migrate-column') do
  migrate(2)
  User.of(T[1]).find_by!(email: 'u1@t1').points
end
on('migrate-index-concurrently') do
  migrate(3)
  ActiveRecord::Base.connection.select_value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'orders_status'::regclass")
end
on('migrate-enum-value') do
  migrate(4)
  Order.of(T[1]).where('amount < 12').update_all(status: 'sent')
end
on('migrate-fails') do
  failure = Steps.expected { migrate(5) }
  "#{failure}, left #{ActiveRecord::Base.connection.table_exists?('half_done')}, version #{ActiveRecord::Base.connection.migration_context.current_version}"
end

# Deallocating all statements under the pool's connections, as ActiveRecord does after a schema change.
on('clear-cache') do
  User.of(T[1]).first
  ActiveRecord::Base.connection.clear_cache!
  User.of(T[1]).order(:email).first.email
end

on('advisory-lock') do
  connection = ActiveRecord::Base.connection
  got = connection.get_advisory_lock(4711)
  other = elsewhere { ActiveRecord::Base.connection.get_advisory_lock(4711) }
  "#{got} #{other} #{connection.release_advisory_lock(4711)}"
end

on('reconnect') do
  failure = Steps.expected do
    User.transaction do
      pid = User.connection.select_value('SELECT pg_backend_pid()')
      elsewhere { ActiveRecord::Base.connection.select_value("SELECT pg_terminate_backend(#{pid})") }
      User.connection.select_value('SELECT pg_sleep(1)')
    end
  end
  User.connection.verify!
  "#{failure}, then #{User.connection.select_value('SELECT 2')}"
end

# Children that are written by their parents' ids or their own, without the tenant key.
on('children-by-parent') do
  orders = Order.of(T[2]).order(:amount, :id).limit(2).to_a
  ids = orders.map(&:id)
  orders[0].items.min_by(&:product).update!(quantity: 9)
  counts = [orders[0].notes.update_all(text: 'again'), Item.where(order_id: ids).update_all('quantity = quantity + 1'), Note.where(order_id: ids).delete_all]
  quantities = Item.where(order_id: ids).pluck(:quantity).sort
  orders[1].items.destroy_all
  "#{counts} #{quantities} #{Item.where(order_id: ids).delete_all} #{Item.where(order_id: ids).count}"
end

on('truncate') do
  ActiveRecord::Base.connection.truncate_tables('order_notes', 'documents')
  "#{Note.count} #{Document.count}"
end

# What eight threads give, each with a connection of its own.
def eight
  threads = (0...8).map do |n|
    Thread.new do
      Thread.current.report_on_exception = false
      ActiveRecord::Base.connection_pool.with_connection { |connection| yield n, connection }
    end
  end
  threads.map(&:value)
end

Steps.step('eight-tenants', 'migrate') do
  found = eight do |n, connection|
    foreign = seen = 0
    tenant = Tenant.create!(name: "w#{n}").id
    connection.execute("SET work_mem = '#{n + 1}MB'")
    15.times do |round|
      user(tenant, "w#{n}-#{round}")
      found = User.of(tenant).pluck(:email)
      foreign += found.count { |email| !email.start_with?("w#{n}-") }
      seen += found.size
      foreign += 1 if connection.select_value('SHOW work_mem') != "#{n + 1}MB"
    end
    [foreign, seen]
  end
  foreign, seen = found.transpose.map(&:sum)
  "foreign #{foreign}, rows #{seen}"
end

Steps.step('eight-temps', 'migrate') do
  found = eight do |n, connection|
    wrong = (0...5).count do |round|
      connection.transaction do
        connection.create_table(:scratch, id: false, temporary: true, options: 'ON COMMIT DROP') { |t| t.integer :n }
        connection.execute("INSERT INTO scratch VALUES (#{n}), (#{round})")
        connection.select_values('SELECT n FROM scratch') != [n, round]
      end
    end
    wrong + (connection.select_value("SELECT to_regclass('pg_temp.scratch') IS NOT NULL") ? 1 : 0)
  end
  "foreign #{found.sum}"
end
