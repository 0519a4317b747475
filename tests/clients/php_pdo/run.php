<?php
// PHP's PDO: prepared on the server or emulated in the client, lastInsertId, scrollable cursors, COPY, notifications.
declare(strict_types=1);

require __DIR__ . '/steps.php';

const EMULATED = [PDO::ATTR_EMULATE_PREPARES => true];

function connect(array $options = [], string $more = ''): PDO
{
    $dsn = 'pgsql:host=' . getenv('PGHOST') . ';port=' . getenv('PGPORT') . ";dbname=app;user=app$more";
    return new PDO($dsn, null, null, $options + [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
}

function transaction(PDO $pdo, callable $work): mixed
{
    $pdo->beginTransaction();
    try {
        $result = $work();
        $pdo->commit();
        return $result;
    } catch (Throwable $error) {
        if ($pdo->inTransaction()) {
            $pdo->rollBack();
        }
        throw $error;
    }
}

function insertUser(PDO $pdo, $tenant, string $email): void
{
    ask($pdo, 'INSERT INTO users (tenant_id, email, name) VALUES (?, ?, ?)', [$tenant, $email, $email]);
}

function emails(PDO $pdo, $tenant, string $like): string
{
    return show(ask($pdo, 'SELECT email FROM users WHERE tenant_id = ? AND email LIKE ? ORDER BY email', [$tenant, $like]));
}

function graph(PDO $pdo): string
{
    global $saved;
    $pdo->exec("INSERT INTO countries VALUES ('de', 'Germany'), ('fr', 'France'), ('us', 'United States')");
    foreach ([1, 2, 3, 4] as $t) {
        transaction($pdo, function () use ($pdo, $t, &$saved) {
            $tenant = $saved["t$t"] = ask($pdo, 'INSERT INTO tenants (name) VALUES (?) RETURNING id', ["t$t"])->fetchColumn();
            foreach ([1, 2, 3] as $u) {
                $user = ask($pdo, 'INSERT INTO users (tenant_id, email, name, country) VALUES (?, ?, ?, ?) RETURNING id',
                    [$tenant, "u$u@t$t", "user $u", ['de', 'fr', 'us'][$u - 1]])->fetchColumn();
                foreach ([1, 2] as $o) {
                    $order = ask($pdo, 'INSERT INTO orders (tenant_id, user_id, amount) VALUES (?, ?, ?) RETURNING id',
                        [$tenant, $user, (string) (10 * $t + $u + 0.25 * $o)])->fetchColumn();
                    $item = $pdo->prepare('INSERT INTO order_items (tenant_id, order_id, product, quantity) VALUES (:tenant, :order, :product, :quantity)');
                    foreach (['pen' => 1, 'ink' => 2] as $product => $quantity) {
                        $item->execute(compact('tenant', 'order', 'product', 'quantity'));
                    }
                    ask($pdo, 'INSERT INTO order_notes (order_id, text) VALUES (?, ?)', [$order, 'note']);
                }
            }
        });
    }
    $counts = array_map(fn ($table) => "$table " . $pdo->query("SELECT count(*) FROM $table")->fetchColumn(), ['tenants', 'users', 'orders', 'order_items', 'order_notes']);
    return implode(' ', $counts) . '; ' . show(ask($pdo, 'SELECT u.name, o.amount FROM users u JOIN orders o ON o.user_id = u.id AND o.tenant_id = u.tenant_id
        WHERE u.tenant_id = ? ORDER BY u.name, o.amount', [$saved['t1']]));
}

function bulkInsert(PDO $pdo): string
{
    global $saved;
    $wanted = array_map(fn ($n) => sprintf('b%02d', $n), range(0, 19));
    $values = implode(', ', array_fill(0, 20, "(?, ?, 'bulk')"));
    $params = array_merge(...array_map(fn ($email) => [$saved['t1'], $email], $wanted));
    $ids = ask($pdo, "INSERT INTO users (tenant_id, email, name) VALUES $values RETURNING id", $params)->fetchAll(PDO::FETCH_COLUMN);
    $read = array_map(fn ($id) => ask($pdo, 'SELECT email FROM users WHERE tenant_id = ? AND id = ?', [$saved['t1'], $id])->fetchColumn(), $ids);
    return ($read === $wanted ? 'order kept: ' : 'order lost: ') . implode(' ', $read);
}

/** lastInsertId() asks lastval() in a statement of its own. */
function lastId(PDO $pdo): string
{
    global $saved;
    return transaction($pdo, function () use ($pdo, $saved) {
        insertUser($pdo, $saved['t2'], 'last');
        $last = $pdo->lastInsertId();
        $named = $pdo->lastInsertId('users_id_seq');
        $email = ask($pdo, 'DELETE FROM users WHERE tenant_id = ? AND id = ? RETURNING email', [$saved['t2'], $last])->fetchColumn();
        return "$email " . ($last === $named ? 'same' : 'different');
    });
}

function lastIdAlone(PDO $pdo): string
{
    global $saved;
    insertUser($pdo, $saved['t2'], 'alone');
    $last = $pdo->lastInsertId();
    return ask($pdo, 'DELETE FROM users WHERE tenant_id = ? AND id = ? RETURNING email', [$saved['t2'], $last])->fetchColumn();
}

function uuid(PDO $pdo): string
{
    global $saved;
    $id = ask($pdo, "INSERT INTO documents (tenant_id, title) VALUES (?, 'charter') RETURNING id", [$saved['t1']])->fetchColumn();
    return ask($pdo, 'SELECT title FROM documents WHERE tenant_id = ? AND id = ?', [$saved['t1'], $id])->fetchColumn();
}

function children(PDO $pdo, bool $oneQuery): string
{
    global $saved;
    $users = ask($pdo, "SELECT id FROM users WHERE tenant_id = ? AND email LIKE 'u%' ORDER BY email", [$saved['t1']])->fetchAll(PDO::FETCH_COLUMN);
    $orders = fn (array $ids) => show(ask($pdo, 'SELECT amount FROM orders WHERE tenant_id = ? AND user_id IN ('
        . implode(', ', array_fill(0, count($ids), '?')) . ') ORDER BY amount', [$saved['t1'], ...$ids]));
    return $oneQuery ? $orders($users) : implode(' / ', array_map(fn ($id) => $orders([$id]), $users));
}

function savepoint(PDO $pdo): string
{
    global $saved;
    $caught = transaction($pdo, function () use ($pdo, $saved) {
        insertUser($pdo, $saved['t4'], 's1');
        $pdo->exec('SAVEPOINT one');
        $caught = expected(fn () => insertUser($pdo, $saved['t4'], 's1'));
        $pdo->exec('ROLLBACK TO SAVEPOINT one');
        insertUser($pdo, $saved['t4'], 's2');
        return $caught;
    });
    return "$caught: " . emails($pdo, $saved['t4'], 's%');
}

function nested(PDO $pdo): string
{
    global $saved;
    transaction($pdo, function () use ($pdo, $saved) {
        foreach (['n1', 'SAVEPOINT one', 'n2', 'SAVEPOINT two', 'n3', 'RELEASE SAVEPOINT two', 'ROLLBACK TO SAVEPOINT one', 'n4'] as $each) {
            strlen($each) === 2 ? insertUser($pdo, $saved['t4'], $each) : $pdo->exec($each);
        }
    });
    return emails($pdo, $saved['t4'], 'n%');
}

function optimistic(PDO $pdo): string
{
    global $saved;
    $update = fn () => ask($pdo, "UPDATE users SET name = 'x', version = version + 1 WHERE tenant_id = ? AND email = 'u1@t4' AND version = ?", [$saved['t4'], 1])->rowCount();
    return implode(' ', array_map(fn ($n) => $n === 1 ? 'updated' : 'stale', [$update(), $update()]));
}

function skipLocked(PDO $one): string
{
    global $saved;
    $take = fn (PDO $pdo) => show(ask($pdo, 'SELECT amount FROM orders WHERE tenant_id = ? ORDER BY amount LIMIT 2 FOR UPDATE SKIP LOCKED', [$saved['t2']]));
    return transaction($one, fn () => $take($one) . ' / ' . $take(connect()));
}

/** A scrollable statement is DECLARE … SCROLL CURSOR WITH HOLD and FETCH on the server. */
function cursor(PDO $pdo, string $where, array $values): string
{
    $statement = $pdo->prepare("SELECT amount FROM orders $where ORDER BY amount, id", [PDO::ATTR_CURSOR => PDO::CURSOR_SCROLL]);
    return transaction($pdo, function () use ($statement, $values) {
        $statement->execute($values);
        [$count, $sum] = [0, 0.0];
        while (($row = $statement->fetch(PDO::FETCH_NUM, PDO::FETCH_ORI_NEXT)) !== false) {
            $count++;
            $sum += (float) $row[0];
        }
        $first = $statement->fetch(PDO::FETCH_NUM, PDO::FETCH_ORI_FIRST)[0];
        $statement->closeCursor();
        return "$count rows $sum, first $first";
    });
}

function serializable(): string
{
    global $saved;
    [$one, $two] = [connect(), connect()];
    foreach ([$one, $two] as $pdo) {
        $pdo->exec('BEGIN ISOLATION LEVEL SERIALIZABLE');
        ask($pdo, "SELECT count(*) FROM users WHERE tenant_id = ? AND country = 'de'", [$saved['t3']])->fetchAll();
    }
    $write = fn (PDO $pdo, string $email) => ask($pdo, "UPDATE users SET country = 'us' WHERE tenant_id = ? AND email = ?", [$saved['t3'], $email]);
    $write($one, 'u1@t3');
    $one->exec('COMMIT');
    $failure = expected(function () use ($write, $two) {
        $write($two, 'u2@t3');
        $two->exec('COMMIT');
    });
    $two->exec('ROLLBACK');
    $write($two, 'u2@t3');
    return "$failure, retried";
}

function migrateFails(PDO $pdo): string
{
    $failure = expected(fn () => transaction($pdo, function () use ($pdo) {
        $pdo->exec('CREATE TABLE half_done (id int PRIMARY KEY)');
        $pdo->exec('ALTER TABLE no_such_table ADD COLUMN x int');
    }));
    return "$failure, left " . $pdo->query("SELECT count(*) FROM pg_tables WHERE tablename = 'half_done'")->fetchColumn();
}

function reconnect(): string
{
    [$victim, $other] = [connect(), connect()];
    $victim->beginTransaction();
    $pid = $victim->query('SELECT pg_backend_pid()')->fetchColumn();
    ask($other, 'SELECT pg_terminate_backend(?)', [(int) $pid]);
    $failure = expected(fn () => $victim->query('SELECT pg_sleep(1)'));
    $victim = null;
    return "$failure, then " . connect()->query('SELECT 2')->fetchColumn();
}

/** One process per tenant: PDO has one thread. */
function eightTenants(): string
{
    $workers = [];
    foreach (range(0, 7) as $n) {
        $pipes = [];
        $workers[] = [proc_open([PHP_BINARY, __FILE__, (string) $n], [1 => ['pipe', 'w'], 2 => STDERR], $pipes), $pipes[1]];
    }
    [$foreign, $rows] = [0, 0];
    foreach ($workers as [$process, $output]) {
        $line = stream_get_contents($output);
        proc_close($process);
        if (!preg_match('/^(\d+) (\d+)$/', trim($line), $found)) {
            $error = new PDOException($line);
            $error->errorInfo = [substr($line, 0, 5)];
            throw $error;
        }
        [$foreign, $rows] = [$foreign + $found[1], $rows + $found[2]];
    }
    return "foreign $foreign, rows $rows";
}

function worker(int $n): string
{
    [$foreign, $rows] = [0, 0];
    $pdo = connect(more: ";application_name=worker$n");
    $tenant = ask($pdo, 'INSERT INTO tenants (name) VALUES (?) RETURNING id', ["w$n"])->fetchColumn();
    $pdo->exec('SET work_mem = \'' . ($n + 1) . 'MB\'');
    foreach (range(0, 14) as $round) {
        insertUser($pdo, $tenant, "w$n-$round");
        foreach (ask($pdo, 'SELECT email FROM users WHERE tenant_id = ?', [$tenant])->fetchAll(PDO::FETCH_COLUMN) as $email) {
            $rows++;
            $foreign += str_starts_with($email, "w$n-") ? 0 : 1;
        }
        $foreign += $pdo->query('SHOW work_mem')->fetchColumn() === ($n + 1) . 'MB' ? 0 : 1;
    }
    return "$foreign $rows";
}

// Beyond the common steps: what only this driver has.

function reused(PDO $pdo): string
{
    global $saved;
    $statement = $pdo->prepare('SELECT country, :email::text FROM users WHERE tenant_id = :tenant AND email = :email');
    $told = [];
    foreach (range(0, 7) as $n) {
        $t = $n % 4 + 1;
        $statement->execute(['tenant' => $saved["t$t"], 'email' => "u2@t$t"]);
        $told[] = show($statement);
    }
    return implode(' ', $told);
}

function copyIn(PDO $pdo): string
{
    global $saved;
    $rows = array_map(fn ($n) => $saved['t' . ($n % 4 + 1)] . "\tcopied $n", range(0, 199));
    $pdo->pgsqlCopyFromArray('documents', $rows, "\t", '\\\\N', 'tenant_id, title');
    $out = $pdo->pgsqlCopyToArray("(SELECT title FROM documents WHERE tenant_id = {$saved['t2']} AND title LIKE 'copied%')");
    return count($out) . ' out, ' . $pdo->exec("DELETE FROM documents WHERE title LIKE 'copied%'") . ' removed';
}

function listen(PDO $pdo): string
{
    $pdo->exec('LISTEN news');
    connect()->query("SELECT pg_notify('news', 'hello')");
    $heard = $pdo->pgsqlGetNotify(PDO::FETCH_ASSOC, 5000);
    return "{$heard['message']} {$heard['payload']}";
}

function multi(PDO $pdo): string
{
    $changed = $pdo->exec("SET TIME ZONE 'UTC'; UPDATE documents SET title = 'y' WHERE tenant_id = -1; SET TIME ZONE DEFAULT");
    return "$changed " . $pdo->getAttribute(PDO::ATTR_SERVER_VERSION);
}

function settings(): string
{
    $pdo = connect([], ";options='-c statement_timeout=9s -c search_path=pg_catalog'");
    $persistent = connect([PDO::ATTR_PERSISTENT => true]);
    return show($pdo->query('SHOW statement_timeout')) . ' ' . show($pdo->query('SHOW search_path')) . ' ' . show($persistent->query('SELECT 3'));
}

function main(): void
{
    $list = statements();
    $pdo = connect();
    $on = fn (string $name, callable $work) => step($name, 'graph', fn () => $work(connect()));
    $sql = function (string ...$names) use ($list) {
        foreach ($names as $name) {
            step($name, $name === 'migrate' ? null : 'graph', fn () => run(connect(), $list[$name]));
        }
    };
    $sql('migrate');
    step('graph', 'migrate', fn () => graph($pdo));
    $on('bulk-insert-returning', bulkInsert(...));
    $sql('upsert-with-key', 'upsert-without-key', 'get-without-key');
    $on('get-uuid', uuid(...));
    $on('lazy', fn ($own) => children($own, false));
    $on('select-in', fn ($own) => children($own, true));
    $queries = ['eager', 'eager-page', 'page', 'page-all', 'count', 'count-all', 'avg', 'avg-all', 'distinct', 'distinct-all', 'having', 'having-all', 'exists', 'exists-all'];
    $sql(...$queries);
    foreach ($queries as $name) {
        step("emulated-$name", 'graph', fn () => run(connect(EMULATED), $list[$name]));
    }
    $on('savepoint', savepoint(...));
    $on('nested', nested(...));
    $on('optimistic', optimistic(...));
    $on('skip-locked', skipLocked(...));
    $sql('bulk-update', 'bulk-update-all', 'bulk-delete', 'bulk-delete-all', 'cascade');
    global $saved;
    $on('cursor', fn ($own) => cursor($own, 'WHERE tenant_id = ?', [$saved['t1']]));
    $on('cursor-all', fn ($own) => cursor($own, '', []));
    step('serializable', 'graph', serializable(...));
    $sql('reflection', 'migrate-column', 'migrate-index-concurrently', 'migrate-enum-value');
    $on('migrate-fails', migrateFails(...));
    $on('reused-statement', reused(...));
    step('reused-statement-emulated', 'graph', fn () => reused(connect(EMULATED)));
    $on('last-insert-id', lastId(...));
    $on('last-insert-id-alone', lastIdAlone(...));
    $on('copy', copyIn(...));
    $on('multi-statement', multi(...));
    step('settings', null, settings(...));
    $on('listen-notify', listen(...));
    step('reconnect', null, reconnect(...));
    $sql('truncate');
    step('eight-tenants', 'migrate', eightTenants(...));
}

if (isset($argv[1])) {
    try {
        echo worker((int) $argv[1]);
    } catch (PDOException $error) {
        echo sqlstate($error), ' ', $error->getMessage();
    }
} else {
    main();
}
