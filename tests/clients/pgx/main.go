// pgx: SQL by hand, and what this driver does its own way: statement caches, batches, CopyFrom, long pipelines, LISTEN, cancel.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgconn/stmtcache"
	"github.com/jackc/pgx/v4"
)

// connected runs work on a connection of its own.
func connected(options string, work func(*pgx.Conn) (string, error)) (string, error) {
	return configured(options, func(*pgx.ConnConfig) {}, work)
}

func configured(options string, set func(*pgx.ConnConfig), work func(*pgx.Conn) (string, error)) (string, error) {
	config, err := pgx.ParseConfig(os.Getenv("DATABASE_URL") + "?" + options)
	if err != nil {
		return "", err
	}
	set(config)
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	return work(conn)
}

// modes are the ways in which pgx sends a statement.
var modes = []struct {
	name string
	set  func(*pgx.ConnConfig)
}{
	{"cache-statement", func(*pgx.ConnConfig) {}},
	{"cache-of-two", func(config *pgx.ConnConfig) {
		config.BuildStatementCache = func(conn *pgconn.PgConn) stmtcache.Cache { return stmtcache.New(conn, stmtcache.ModePrepare, 2) }
	}},
	{"cache-describe", func(config *pgx.ConnConfig) {
		config.BuildStatementCache = func(conn *pgconn.PgConn) stmtcache.Cache { return stmtcache.New(conn, stmtcache.ModeDescribe, 512) }
	}},
	{"no-cache", func(config *pgx.ConnConfig) { config.BuildStatementCache = nil }},
	{"simple-protocol", func(config *pgx.ConnConfig) { config.PreferSimpleProtocol = true }},
}

// mode asks by key, over all tenants, with errors between, and in a transaction.
func mode(conn *pgx.Conn) (string, error) {
	var told []string
	for n := 0; n < 12; n++ {
		t := n%4 + 1
		var country string
		if err := conn.QueryRow(ctx, "SELECT country FROM users WHERE tenant_id = $1 AND email = $2", saved[fmt.Sprintf("t%d", t)], fmt.Sprintf("u2@t%d", t)).Scan(&country); err != nil {
			return "", err
		}
		var count int64
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM orders WHERE amount > $1", 20+n).Scan(&count); err != nil {
			return "", err
		}
		_, failure := conn.Exec(ctx, "INSERT INTO users (tenant_id, email, name) VALUES ($1, $2, 'twice')", saved["t2"], "u2@t2")
		if err := unless(failure); err != nil {
			return "", err
		}
		told = append(told, fmt.Sprintf("%s %d %s", country, count, sqlstate(failure)))
	}
	return strings.Join(told, ", "), nil
}

func batch(conn *pgx.Conn) (string, error) {
	batch := &pgx.Batch{}
	for n := 0; n < 500; n++ {
		batch.Queue("SELECT $1::int + 1", n)
		batch.Queue("SELECT count(*) FROM orders WHERE tenant_id = $1", saved[fmt.Sprintf("t%d", n%4+1)])
	}
	results := conn.SendBatch(ctx, batch)
	defer results.Close()
	wrong, orders := 0, int64(0)
	for n := 0; n < 500; n++ {
		var next int
		var count int64
		if err := results.QueryRow().Scan(&next); err != nil {
			return "", err
		}
		if err := results.QueryRow().Scan(&count); err != nil {
			return "", err
		}
		if next != n+1 {
			wrong++
		}
		orders += count
	}
	return fmt.Sprintf("wrong %d, orders %d", wrong, orders), results.Close()
}

// batchFails: a batch is one implicit transaction, so nothing of it is left.
func batchFails(conn *pgx.Conn) (string, error) {
	batch := &pgx.Batch{}
	for _, email := range []string{"f1", "f2", "f1", "f3"} {
		batch.Queue("INSERT INTO users (tenant_id, email, name) VALUES ($1, $2, 'batch')", saved["t2"], email)
	}
	results := conn.SendBatch(ctx, batch)
	var told []string
	for n := 0; n < 4; n++ {
		_, err := results.Exec()
		if err := unless(err); err != nil {
			results.Close()
			return "", err
		}
		told = append(told, sqlstate(err))
	}
	results.Close()
	left, err := texts(conn, "SELECT count(*) FROM users WHERE tenant_id = $1 AND name = 'batch'", saved["t2"])
	return strings.Join(told, ", ") + "; left " + left, err
}

func copyFrom(conn *pgx.Conn) (string, error) {
	var rows [][]interface{}
	for n := 0; n < 1000; n++ {
		rows = append(rows, []interface{}{saved[fmt.Sprintf("t%d", n%4+1)], fmt.Sprintf("copied%d", n), "x"})
	}
	in, err := conn.CopyFrom(ctx, pgx.Identifier{"users"}, []string{"tenant_id", "email", "name"}, pgx.CopyFromRows(rows))
	if err != nil {
		return "", err
	}
	var out strings.Builder
	tag, err := conn.PgConn().CopyTo(ctx, &out, fmt.Sprintf("COPY (SELECT email FROM users WHERE tenant_id = %d AND email LIKE 'copied%%') TO STDOUT", saved["t3"]))
	if err != nil {
		return "", err
	}
	gone, err := conn.Exec(ctx, "DELETE FROM users WHERE email LIKE 'copied%'")
	return fmt.Sprintf("%d in, %d out, %d lines, %d removed", in, tag.RowsAffected(), strings.Count(out.String(), "\n"), gone.RowsAffected()), err
}

func copyTwice(conn *pgx.Conn) (string, error) {
	row := []interface{}{saved["t1"], "doubled", "x"}
	_, failure := conn.CopyFrom(ctx, pgx.Identifier{"users"}, []string{"tenant_id", "email", "name"}, pgx.CopyFromRows([][]interface{}{row, row}))
	if err := unless(failure); err != nil {
		return "", err
	}
	left, err := texts(conn, "SELECT count(*) FROM users WHERE tenant_id = $1 AND email = 'doubled'", saved["t1"])
	return fmt.Sprintf("%s, left %s", sqlstate(failure), left), err
}

func listen(conn *pgx.Conn) (string, error) {
	if _, err := conn.Exec(ctx, "LISTEN news"); err != nil {
		return "", err
	}
	_, err := connected("", func(other *pgx.Conn) (string, error) { return texts(other, "SELECT pg_notify('news', 'hello')") })
	if err != nil {
		return "", err
	}
	soon, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	heard, err := conn.WaitForNotification(soon)
	if err != nil {
		return "", err
	}
	return heard.Channel + " " + heard.Payload, nil
}

func cancel(conn *pgx.Conn) (string, error) {
	go func() {
		time.Sleep(300 * time.Millisecond)
		conn.PgConn().CancelRequest(ctx)
	}()
	_, failure := conn.Exec(ctx, "SELECT pg_sleep(20)")
	after, err := texts(conn, "SELECT 7")
	return sqlstate(failure) + ", then " + after, err
}

// deadline: pgx closes a connection whose context ended in the middle of an answer.
func deadline(conn *pgx.Conn) (string, error) {
	soon, stop := context.WithTimeout(ctx, 200*time.Millisecond)
	defer stop()
	_, failure := conn.Exec(soon, "SELECT pg_sleep(20)")
	after, err := connected("", func(again *pgx.Conn) (string, error) { return texts(again, "SELECT 7") })
	return fmt.Sprintf("timeout %t, closed %t, then %s", pgconn.Timeout(failure), conn.IsClosed(), after), err
}

// afterDdl: a column changes its type under a cached statement, whose description the client goes by. PostgreSQL
// refuses the next use once; a proxy may hide that where it can, but must not hand out bytes of another type.
func afterDdl(conn *pgx.Conn) (string, error) {
	ddl := func(text string) error {
		_, err := connected("", func(other *pgx.Conn) (string, error) {
			_, err := other.Exec(ctx, text)
			return "", err
		})
		return err
	}
	if err := ddl("CREATE TABLE wide (id int PRIMARY KEY, a bigint)"); err != nil {
		return "", err
	}
	defer ddl("DROP TABLE wide")
	if _, err := conn.Exec(ctx, "INSERT INTO wide VALUES (1, 2)"); err != nil {
		return "", err
	}
	var told []string
	for n := 0; n < 5; n++ {
		if n == 2 {
			if err := ddl("ALTER TABLE wide ALTER COLUMN a TYPE float8"); err != nil {
				return "", err
			}
		}
		var value interface{}
		err := conn.QueryRow(ctx, "SELECT a FROM wide").Scan(&value)
		switch {
		case n == 2 && (err == nil && fmt.Sprint(value) == "2" || sqlstate(err) == "0A000"):
		case err != nil:
			return "", err
		default:
			told = append(told, fmt.Sprint(value))
		}
	}
	return strings.Join(told, " "), nil
}

func multi(conn *pgx.Conn) (string, error) {
	results, err := conn.PgConn().Exec(ctx, "BEGIN; INSERT INTO countries VALUES ('xx', 'Nowhere'); SELECT count(*) FROM countries; ROLLBACK; SELECT 3").ReadAll()
	var told []string
	for _, result := range results {
		told = append(told, fmt.Sprintf("%s %d", result.CommandTag, len(result.Rows)))
	}
	return strings.Join(told, ", "), err
}

func main() {
	list := statements()
	on := func(name string, work func(*pgx.Conn) (string, error)) {
		step(name, "graph", func() (string, error) { return connected("", work) })
	}
	plain := func(names ...string) {
		for _, name := range names {
			name := name
			on(name, func(conn *pgx.Conn) (string, error) { return run(conn, list[name]) })
		}
	}
	plain("migrate")
	step("graph", "migrate", graph)
	on("bulk-insert-returning", bulkInsert)
	plain("upsert-with-key", "upsert-without-key", "get-without-key")
	on("get-uuid", uuid)
	on("lazy", func(conn *pgx.Conn) (string, error) { return children(conn, false) })
	on("select-in", func(conn *pgx.Conn) (string, error) { return children(conn, true) })
	plain("eager", "eager-page", "page", "page-all", "count", "count-all", "avg", "avg-all", "distinct", "distinct-all",
		"having", "having-all", "exists", "exists-all")
	on("savepoint", savepoint)
	on("nested", nested)
	on("optimistic", optimistic)
	on("skip-locked", skipLocked)
	plain("bulk-update", "bulk-update-all", "bulk-delete", "bulk-delete-all", "cascade")
	on("cursor", func(conn *pgx.Conn) (string, error) {
		return cursor(conn, fmt.Sprintf("SELECT amount::float8 FROM orders WHERE tenant_id = %d ORDER BY amount, id", saved["t1"]))
	})
	on("cursor-all", func(conn *pgx.Conn) (string, error) {
		return cursor(conn, "SELECT amount::float8 FROM orders ORDER BY orders.amount, id")
	})
	on("serializable", serializable)
	plain("reflection", "migrate-column", "migrate-index-concurrently", "migrate-enum-value")
	on("migrate-fails", migrateFails)
	for _, each := range modes {
		each := each
		step("mode-"+each.name, "graph", func() (string, error) { return configured("", each.set, mode) })
		step("batch-"+each.name, "graph", func() (string, error) { return configured("", each.set, batch) })
		step("after-ddl-"+each.name, "graph", func() (string, error) { return configured("", each.set, afterDdl) })
	}
	on("batch-fails", batchFails)
	on("copy-from", copyFrom)
	on("copy-twice", copyTwice)
	on("multi-statement", multi)
	on("listen-notify", listen)
	on("cancel", cancel)
	on("deadline", deadline)
	on("reconnect", reconnect)
	plain("truncate")
	step("eight-tenants", "migrate", eightTenants)
}
