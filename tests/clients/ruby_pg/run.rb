# frozen_string_literal: true

# Ruby's pg: SQL by hand, and what libpq gives it: prepared statements, pipeline mode, COPY, single rows, LISTEN, cancel.
require 'pg'
require 'securerandom'
require_relative '../lib/ruby/steps'

SAVED = {}
LIST = Steps.statements

def connect(**more)
  PG.connect(ENV.fetch('DATABASE_URL'), **more)
end

# Runs a block on a connection of its own.
def connected(**more)
  own = connect(**more)
  yield own
ensure
  own&.close
end

def show(result)
  result.values.map { |row| row.join(',') }.join(' | ')
end

def run(list)
  connected do |own|
    results = list.filter_map do |statement|
      values = statement.params.map { |p| p.start_with?('@') ? SAVED[p[1..]] : p.delete_prefix("'").delete_suffix("'") }
      result = own.exec_params(statement.text, values)
      if statement.save
        SAVED[statement.save] = result.getvalue(0, 0)
        nil
      elsif result.nfields.positive?
        show(result)
      elsif statement.text.match?(/\A(INSERT|UPDATE|DELETE)/)
        "#{result.cmd_tuples} rows"
      end
    end
    results.join('; ')
  end
end

def sql(*names)
  names.each { |name| Steps.step(name, name == 'migrate' ? nil : 'graph') { run(LIST[name]) } }
end

def on(name, **more, &block)
  Steps.step(name, 'graph') { connected(**more, &block) }
end

def user(own, tenant, email)
  own.exec_params('INSERT INTO users (tenant_id, email, name) VALUES ($1, $2, $2)', [tenant, email])
end

def emails(own, like)
  own.exec_params('SELECT email FROM users WHERE tenant_id = $1 AND email LIKE $2 ORDER BY email', [SAVED['t4'], like]).column_values(0).join(' ')
end

def graph_of(own, t)
  tenant = SAVED["t#{t}"] = own.exec_params('INSERT INTO tenants (name) VALUES ($1) RETURNING id', ["t#{t}"]).getvalue(0, 0)
  (1..3).each do |u|
    user = own.exec_params('INSERT INTO users (tenant_id, email, name, country) VALUES ($1, $2, $3, $4) RETURNING id',
                           [tenant, "u#{u}@t#{t}", "user #{u}", %w[de fr us][u - 1]]).getvalue(0, 0)
    (1..2).each do |o|
      order = own.exec_params('INSERT INTO orders (tenant_id, user_id, amount) VALUES ($1, $2, $3) RETURNING id', [tenant, user, 10 * t + u + 0.25 * o]).getvalue(0, 0)
      own.exec_params("INSERT INTO order_items (tenant_id, order_id, product, quantity) VALUES ($1, $2, 'pen', 1), ($1, $2, 'ink', 2)", [tenant, order])
      own.exec_params("INSERT INTO order_notes (order_id, text) VALUES ($1, 'note')", [order])
    end
  end
end

sql 'migrate'
Steps.step('graph', 'migrate') do
  connected do |own|
    own.exec("INSERT INTO countries VALUES ('de', 'Germany'), ('fr', 'France'), ('us', 'United States')")
    (1..4).each { |t| own.transaction { graph_of(own, t) } }
    counts = %w[tenants users orders order_items order_notes].map { |table| "#{table} #{own.exec("SELECT count(*) FROM #{table}").getvalue(0, 0)}" }
    "#{counts.join(' ')}; #{show(own.exec_params('SELECT u.name, o.amount FROM users u JOIN orders o ON o.user_id = u.id AND o.tenant_id = u.tenant_id
      WHERE u.tenant_id = $1 ORDER BY u.name, o.amount', [SAVED['t1']]))}"
  end
end
on('bulk-insert-returning') do |own|
  wanted = (0...20).map { |n| format('b%02d', n) }
  values = wanted.each_index.map { |n| "($1, $#{n + 2}, 'bulk')" }.join(', ')
  ids = own.exec_params("INSERT INTO users (tenant_id, email, name) VALUES #{values} RETURNING id", [SAVED['t1'], *wanted]).column_values(0)
  read = ids.map { |id| own.exec_params('SELECT email FROM users WHERE tenant_id = $1 AND id = $2', [SAVED['t1'], id]).getvalue(0, 0) }
  "#{read == wanted ? 'order kept' : 'order lost'}: #{read.join(' ')}"
end
sql 'upsert-with-key', 'upsert-without-key', 'get-without-key'
on('get-uuid') do |own|
  id = SecureRandom.uuid
  own.exec_params("INSERT INTO documents (tenant_id, id, title) VALUES ($1, $2, 'charter')", [SAVED['t1'], id])
  own.exec_params('SELECT title FROM documents WHERE tenant_id = $1 AND id = $2', [SAVED['t1'], id]).getvalue(0, 0)
end
CHILDREN = 'SELECT amount FROM orders WHERE tenant_id = $1 AND user_id = ANY ($2) ORDER BY amount'
USERS = "SELECT id FROM users WHERE tenant_id = $1 AND email LIKE 'u%' ORDER BY email"
on('lazy') { |own| own.exec_params(USERS, [SAVED['t1']]).column_values(0).map { |id| show(own.exec_params(CHILDREN, [SAVED['t1'], "{#{id}}"])) }.join(' / ') }
on('select-in') { |own| show(own.exec_params(CHILDREN, [SAVED['t1'], "{#{own.exec_params(USERS, [SAVED['t1']]).column_values(0).join(',')}}"])) }
sql 'eager', 'eager-page', 'page', 'page-all', 'count', 'count-all', 'avg', 'avg-all', 'distinct', 'distinct-all', 'having', 'having-all', 'exists', 'exists-all'

on('savepoint') do |own|
  caught = own.transaction do
    user(own, SAVED['t4'], 's1')
    own.exec('SAVEPOINT one')
    name = Steps.expected { user(own, SAVED['t4'], 's1') }
    own.exec('ROLLBACK TO SAVEPOINT one')
    user(own, SAVED['t4'], 's2')
    name
  end
  "#{caught}: #{emails(own, 's%')}"
end
on('nested') do |own|
  own.transaction do
    ['n1', 'SAVEPOINT one', 'n2', 'SAVEPOINT two', 'n3', 'RELEASE SAVEPOINT two', 'ROLLBACK TO SAVEPOINT one', 'n4'].each do |each|
      each.size == 2 ? user(own, SAVED['t4'], each) : own.exec(each)
    end
  end
  emails(own, 'n%')
end
on('optimistic') do |own|
  text = "UPDATE users SET version = version + 1 WHERE tenant_id = $1 AND email = 'u1@t4' AND version = $2"
  [1, 2].map { own.exec_params(text, [SAVED['t4'], 1]).cmd_tuples == 1 ? 'updated' : 'stale' }.join(' ')
end
on('skip-locked') do |one|
  text = 'SELECT amount FROM orders WHERE tenant_id = $1 ORDER BY amount LIMIT 2 FOR UPDATE SKIP LOCKED'
  one.transaction { "#{show(one.exec_params(text, [SAVED['t2']]))} / #{connected { |two| show(two.exec_params(text, [SAVED['t2']])) }}" }
end
sql 'bulk-update', 'bulk-update-all', 'bulk-delete', 'bulk-delete-all', 'cascade'

def cursor(own, query)
  own.transaction do
    own.exec("DECLARE c CURSOR FOR #{query}")
    count = sum = 0
    until (rows = own.exec('FETCH 5 FROM c')).ntuples.zero?
      count += rows.ntuples
      sum += rows.column_values(0).sum(&:to_f)
    end
    own.exec('CLOSE c')
    "#{count} rows #{sum}"
  end
end
on('cursor') { |own| cursor(own, "SELECT amount FROM orders WHERE tenant_id = #{SAVED['t1']} ORDER BY amount, id") }
on('cursor-all') { |own| cursor(own, 'SELECT amount FROM orders ORDER BY amount, id') }

on('serializable') do |one|
  connected do |two|
    write = ->(own, email) { own.exec_params("UPDATE users SET country = 'us' WHERE tenant_id = $1 AND email = $2", [SAVED['t3'], email]) }
    [one, two].each do |own|
      own.exec('BEGIN ISOLATION LEVEL SERIALIZABLE')
      own.exec_params("SELECT count(*) FROM users WHERE tenant_id = $1 AND country = 'de'", [SAVED['t3']])
    end
    write.call(one, 'u1@t3')
    one.exec('COMMIT')
    failure = Steps.expected do
      write.call(two, 'u2@t3')
      two.exec('COMMIT')
    end
    two.exec('ROLLBACK')
    write.call(two, 'u2@t3')
    "#{failure}, retried"
  end
end
sql 'reflection', 'migrate-column', 'migrate-index-concurrently', 'migrate-enum-value'
on('migrate-fails') do |own|
  failure = Steps.expected do
    own.transaction do
      own.exec('CREATE TABLE half_done (id int PRIMARY KEY)')
      own.exec('ALTER TABLE no_such_table ADD COLUMN x int')
    end
  end
  "#{failure}, left #{own.exec("SELECT count(*) FROM pg_tables WHERE tablename = 'half_done'").getvalue(0, 0)}"
end

# Beyond the common steps: what only this driver has.

on('prepare') do |own|
  own.prepare('by_email', 'SELECT country FROM users WHERE tenant_id = $1 AND email = $2')
  told = (0...8).map { |n| own.exec_prepared('by_email', [SAVED["t#{n % 4 + 1}"], "u2@t#{n % 4 + 1}"]).getvalue(0, 0) }
  described = own.describe_prepared('by_email')
  twice = Steps.expected { own.prepare('by_email', 'SELECT 1') }
  own.exec('DEALLOCATE by_email')
  "#{told.join(' ')}; #{described.nparams} params, #{described.fields.join}; #{twice}; #{Steps.expected { own.exec_prepared('by_email', [1, 'x']) }}"
end
on('sql-level-prepare') do |own|
  own.exec('PREPARE counted (bigint) AS SELECT count(*) FROM orders WHERE tenant_id = $1')
  told = %w[t1 t2].map { |t| own.exec("EXECUTE counted (#{SAVED[t]})").getvalue(0, 0) }
  own.exec('DEALLOCATE ALL')
  "#{told.join(' ')}; #{Steps.expected { own.exec('EXECUTE counted (1)') }}"
end
on('binary-results') { |own| own.exec_params('SELECT $1::int4, $2::bytea', [7, { value: "\x00\xff".b, format: 1 }], 1).values.inspect }
on('pipeline') do |own|
  own.enter_pipeline_mode
  40.times { |n| own.send_query_params('SELECT count(*) + $2 FROM orders WHERE tenant_id = $1', [SAVED["t#{n % 4 + 1}"], n]) }
  own.pipeline_sync
  sums = 40.times.map { own.get_result.getvalue(0, 0).to_i.tap { own.get_result } }
  synced = own.get_result.result_status == PG::PGRES_PIPELINE_SYNC
  own.exit_pipeline_mode
  "#{sums.sum} #{synced}"
end
on('pipeline-fails') do |own|
  own.enter_pipeline_mode
  [1, 0, 1].each { |n| own.send_query_params('SELECT 1 / $1::int', [n]) }
  own.pipeline_sync
  own.send_query_params('SELECT 5', [])
  own.pipeline_sync
  told = 3.times.map do
    result = own.get_result
    own.get_result
    result.error_field(PG::Result::PG_DIAG_SQLSTATE) || result.res_status(result.result_status)
  end
  own.get_result
  told << own.get_result.getvalue(0, 0)
  own.get_result
  own.get_result
  own.exit_pipeline_mode
  told.join(' ')
end
on('single-row-mode') do |own|
  own.send_query('SELECT n FROM generate_series(1, 1000) AS n')
  own.set_single_row_mode
  sum = 0
  own.get_result.stream_each { |row| sum += row['n'].to_i }
  sum
end
on('copy') do |own|
  own.copy_data('COPY documents (tenant_id, title) FROM STDIN') { 200.times { |n| own.put_copy_data("#{SAVED["t#{n % 4 + 1}"]}\tcopied #{n}\n") } }
  lines = 0
  own.copy_data("COPY (SELECT title FROM documents WHERE tenant_id = #{SAVED['t2']} AND title LIKE 'copied%') TO STDOUT") { lines += 1 while own.get_copy_data }
  broken = Steps.expected { own.copy_data('COPY documents (tenant_id, title) FROM STDIN') { raise 'given up' } } rescue $!.message
  "#{lines} out, #{broken}, #{own.exec("DELETE FROM documents WHERE title LIKE 'copied%'").cmd_tuples} removed"
end
on('async') do |own|
  own.send_query('SELECT pg_sleep(0.1), 5')
  own.consume_input while own.is_busy
  show(own.get_last_result)
end
on('listen-notify') do |own|
  own.exec('LISTEN news')
  connected { |other| other.exec("SELECT pg_notify('news', 'hello')") }
  heard = nil
  own.wait_for_notify(5) { |channel, _, payload| heard = "#{channel} #{payload}" }
  own.exec('UNLISTEN *')
  heard
end
on('cancel') do |own|
  own.send_query('SELECT pg_sleep(20)')
  sleep 0.2
  own.cancel
  "#{Steps.expected { own.get_last_result }}, then #{own.exec('SELECT 7').getvalue(0, 0)}"
end
on('settings', options: '-c statement_timeout=200 -c search_path=pg_catalog', application_name: 'shop') do |own|
  "#{Steps.expected { own.exec('SELECT pg_sleep(5)') }} #{own.exec('SHOW search_path').getvalue(0, 0)} #{own.exec('SHOW application_name').getvalue(0, 0)}"
end
on('reset') do |own|
  own.exec("SET work_mem = '9MB'")
  own.reset
  own.exec('SHOW work_mem').getvalue(0, 0)
end
on('temporary-table') do |own|
  own.exec('CREATE TEMP TABLE mine (a int)')
  own.exec('INSERT INTO mine VALUES (1), (2)')
  "#{own.exec('SELECT sum(a) FROM mine').getvalue(0, 0)}, others #{connected { |other| Steps.expected { other.exec('SELECT * FROM mine') } }}"
end

on('reconnect') do |victim|
  pid = victim.exec('BEGIN; SELECT pg_backend_pid()').getvalue(0, 0)
  connected { |other| other.exec_params('SELECT pg_terminate_backend($1)', [pid]) }
  sleep 0.2
  failure = Steps.expected { victim.exec('SELECT 1') }
  victim.reset
  "#{failure}, then #{victim.exec('SELECT 2').getvalue(0, 0)}"
end
sql 'truncate'
Steps.step('eight-tenants', 'migrate') do
  threads = (0...8).map do |n|
    Thread.new do
      Thread.current.report_on_exception = false
      connected(application_name: "worker#{n}") do |own|
        foreign = seen = 0
        tenant = own.exec_params('INSERT INTO tenants (name) VALUES ($1) RETURNING id', ["w#{n}"]).getvalue(0, 0)
        own.exec("SET work_mem = '#{n + 1}MB'")
        own.prepare('own', 'SELECT email FROM users WHERE tenant_id = $1')
        15.times do |round|
          user(own, tenant, "w#{n}-#{round}")
          found = own.exec_prepared('own', [tenant]).column_values(0)
          foreign += found.count { |email| !email.start_with?("w#{n}-") }
          seen += found.size
          foreign += 1 if own.exec('SHOW work_mem').getvalue(0, 0) != "#{n + 1}MB"
          foreign += 1 if own.exec('SHOW application_name').getvalue(0, 0) != "worker#{n}"
        end
        [foreign, seen]
      end
    end
  end
  foreign, seen = threads.map(&:value).transpose.map(&:sum)
  "foreign #{foreign}, rows #{seen}"
end
