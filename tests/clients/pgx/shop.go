// The common steps that are more than SQL.
package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
)

func graph() (string, error) {
	return connected("", func(conn *pgx.Conn) (string, error) {
		if _, err := conn.Exec(ctx, "INSERT INTO countries VALUES ('de', 'Germany'), ('fr', 'France'), ('us', 'United States')"); err != nil {
			return "", err
		}
		for t := int64(1); t <= 4; t++ {
			if err := conn.BeginFunc(ctx, func(tx pgx.Tx) error { return tenant(tx, t) }); err != nil {
				return "", err
			}
		}
		var counts []string
		for _, table := range []string{"tenants", "users", "orders", "order_items", "order_notes"} {
			count, err := texts(conn, "SELECT count(*) FROM "+table)
			if err != nil {
				return "", err
			}
			counts = append(counts, table+" "+count)
		}
		rows, err := texts(conn, `SELECT u.name, o.amount FROM users u JOIN orders o ON o.user_id = u.id AND o.tenant_id = u.tenant_id
			WHERE u.tenant_id = $1 ORDER BY u.name, o.amount`, saved["t1"])
		return strings.Join(counts, " ") + "; " + rows, err
	})
}

func tenant(tx pgx.Tx, t int64) error {
	var id, user, order int64
	if err := tx.QueryRow(ctx, "INSERT INTO tenants (name) VALUES ($1) RETURNING id", fmt.Sprintf("t%d", t)).Scan(&id); err != nil {
		return err
	}
	saved[fmt.Sprintf("t%d", t)] = id
	for u := int64(1); u <= 3; u++ {
		country := []string{"de", "fr", "us"}[u-1]
		err := tx.QueryRow(ctx, "INSERT INTO users (tenant_id, email, name, country) VALUES ($1, $2, $3, $4) RETURNING id",
			id, fmt.Sprintf("u%d@t%d", u, t), fmt.Sprintf("user %d", u), country).Scan(&user)
		if err != nil {
			return err
		}
		for o := int64(1); o <= 2; o++ {
			err := tx.QueryRow(ctx, "INSERT INTO orders (tenant_id, user_id, amount) VALUES ($1, $2, $3) RETURNING id",
				id, user, 10*float64(t)+float64(u)+0.25*float64(o)).Scan(&order)
			if err != nil {
				return err
			}
			batch := &pgx.Batch{}
			for _, product := range []string{"pen", "ink"} {
				batch.Queue("INSERT INTO order_items (tenant_id, order_id, product, quantity) VALUES ($1, $2, $3, $4)", id, order, product, 1)
			}
			batch.Queue("INSERT INTO order_notes (order_id, text) VALUES ($1, $2)", order, "note")
			if err := tx.SendBatch(ctx, batch).Close(); err != nil {
				return err
			}
		}
	}
	return nil
}

func bulkInsert(conn *pgx.Conn) (string, error) {
	var wanted, read []string
	for n := 0; n < 20; n++ {
		wanted = append(wanted, fmt.Sprintf("b%02d", n))
	}
	values := make([]string, 20)
	args := []interface{}{saved["t1"]}
	for n, email := range wanted {
		values[n] = fmt.Sprintf("($1, $%d, 'bulk')", n+2)
		args = append(args, email)
	}
	rows, err := conn.Query(ctx, "INSERT INTO users (tenant_id, email, name) VALUES "+strings.Join(values, ", ")+" RETURNING id", args...)
	if err != nil {
		return "", err
	}
	var ids []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return "", err
		}
		ids = append(ids, id)
	}
	if rows.Err() != nil {
		return "", rows.Err()
	}
	for _, id := range ids {
		email, err := texts(conn, "SELECT email FROM users WHERE tenant_id = $1 AND id = $2", saved["t1"], id)
		if err != nil {
			return "", err
		}
		read = append(read, email)
	}
	if strings.Join(read, " ") != strings.Join(wanted, " ") {
		return "order lost: " + strings.Join(read, " "), nil
	}
	return "order kept: " + strings.Join(read, " "), nil
}

func uuid(conn *pgx.Conn) (string, error) {
	id := "9f3c2b1a-0000-4000-8000-000000000001"
	if _, err := conn.Exec(ctx, "INSERT INTO documents (tenant_id, id, title) VALUES ($1, $2, 'charter')", saved["t1"], id); err != nil {
		return "", err
	}
	return texts(conn, "SELECT title, id FROM documents WHERE tenant_id = $1 AND id = $2", saved["t1"], id)
}

func children(conn *pgx.Conn, oneQuery bool) (string, error) {
	rows, err := conn.Query(ctx, "SELECT id FROM users WHERE tenant_id = $1 AND email LIKE 'u%' ORDER BY email", saved["t1"])
	if err != nil {
		return "", err
	}
	var ids []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return "", err
		}
		ids = append(ids, id)
	}
	text := "SELECT amount FROM orders WHERE tenant_id = $1 AND user_id = ANY ($2) ORDER BY amount"
	if oneQuery {
		return texts(conn, text, saved["t1"], ids)
	}
	var lines []string
	for _, id := range ids {
		line, err := texts(conn, text, saved["t1"], []int64{id})
		if err != nil {
			return "", err
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, " / "), nil
}

func user(on querier, tenant int64, email string) error {
	_, err := on.Exec(ctx, "INSERT INTO users (tenant_id, email, name) VALUES ($1, $2, $2)", tenant, email)
	return err
}

func emails(on querier, like string) (string, error) {
	return texts(on, "SELECT email FROM users WHERE tenant_id = $1 AND email LIKE $2 ORDER BY email", saved["t4"], like)
}

// savepoint uses pgx's nested transactions, which are savepoints.
func savepoint(conn *pgx.Conn) (string, error) {
	var caught string
	err := conn.BeginFunc(ctx, func(tx pgx.Tx) error {
		if err := user(tx, saved["t4"], "s1"); err != nil {
			return err
		}
		err := tx.BeginFunc(ctx, func(inner pgx.Tx) error { return user(inner, saved["t4"], "s1") })
		var own *pgconn.PgError
		if !errors.As(err, &own) || own.Code == "0A000" {
			return fmt.Errorf("not the duplicate: %w", err)
		}
		caught = own.Code + " " + own.ConstraintName
		return user(tx, saved["t4"], "s2")
	})
	if err != nil {
		return "", err
	}
	left, err := emails(conn, "s%")
	return caught + ": " + left, err
}

func nested(conn *pgx.Conn) (string, error) {
	undo := errors.New("undo")
	err := conn.BeginFunc(ctx, func(outer pgx.Tx) error {
		if err := user(outer, saved["t4"], "n1"); err != nil {
			return err
		}
		err := outer.BeginFunc(ctx, func(middle pgx.Tx) error {
			if err := user(middle, saved["t4"], "n2"); err != nil {
				return err
			}
			if err := middle.BeginFunc(ctx, func(inner pgx.Tx) error { return user(inner, saved["t4"], "n3") }); err != nil {
				return err
			}
			return undo
		})
		if err != undo {
			return err
		}
		return user(outer, saved["t4"], "n4")
	})
	if err != nil {
		return "", err
	}
	return emails(conn, "n%")
}

func optimistic(conn *pgx.Conn) (string, error) {
	var told []string
	for i := 0; i < 2; i++ {
		tag, err := conn.Exec(ctx, "UPDATE users SET name = 'x', version = version + 1 WHERE tenant_id = $1 AND email = 'u1@t4' AND version = $2", saved["t4"], 1)
		if err != nil {
			return "", err
		}
		told = append(told, map[int64]string{0: "stale", 1: "updated"}[tag.RowsAffected()])
	}
	return strings.Join(told, " "), nil
}

func skipLocked(one *pgx.Conn) (string, error) {
	text := "SELECT amount FROM orders WHERE tenant_id = $1 ORDER BY amount LIMIT 2 FOR UPDATE SKIP LOCKED"
	var first, second string
	err := one.BeginFunc(ctx, func(tx pgx.Tx) (err error) {
		if first, err = texts(tx, text, saved["t2"]); err != nil {
			return err
		}
		second, err = connected("", func(two *pgx.Conn) (string, error) { return texts(two, text, saved["t2"]) })
		return err
	})
	return first + " / " + second, err
}

// cursor is SQL's own: pgx has no portals of its own.
func cursor(conn *pgx.Conn, query string) (string, error) {
	count, sum := 0, 0.0
	err := conn.BeginFunc(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "DECLARE c CURSOR FOR "+query); err != nil {
			return err
		}
		for {
			rows, err := tx.Query(ctx, "FETCH 5 FROM c")
			if err != nil {
				return err
			}
			got := 0
			for rows.Next() {
				var amount float64
				if err := rows.Scan(&amount); err != nil {
					return err
				}
				sum += amount
				got++
			}
			if rows.Err() != nil || got == 0 {
				return rows.Err()
			}
			count += got
		}
	})
	return fmt.Sprintf("%d rows %.2f", count, sum), err
}

func serializable(one *pgx.Conn) (string, error) {
	return connected("", func(two *pgx.Conn) (string, error) {
		options := pgx.TxOptions{IsoLevel: pgx.Serializable}
		work := func(tx pgx.Tx, email string) (func() error, error) {
			_, err := texts(tx, "SELECT count(*) FROM users WHERE tenant_id = $1 AND country = 'de'", saved["t3"])
			return func() error {
				if _, err := tx.Exec(ctx, "UPDATE users SET country = 'us' WHERE tenant_id = $1 AND email = $2", saved["t3"], email); err != nil {
					return err
				}
				return tx.Commit(ctx)
			}, err
		}
		var writes []func() error
		for n, conn := range []*pgx.Conn{one, two} {
			tx, err := conn.BeginTx(ctx, options)
			if err != nil {
				return "", err
			}
			defer tx.Rollback(ctx)
			write, err := work(tx, fmt.Sprintf("u%d@t3", n+1))
			if err != nil {
				return "", err
			}
			writes = append(writes, write)
		}
		if err := writes[0](); err != nil {
			return "", err
		}
		failure := writes[1]()
		if err := unless(failure); err != nil {
			return "", err
		}
		again, err := connected("", func(three *pgx.Conn) (string, error) {
			return "retried", three.BeginTxFunc(ctx, options, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, "UPDATE users SET country = 'us' WHERE tenant_id = $1 AND email = 'u2@t3'", saved["t3"])
				return err
			})
		})
		return fmt.Sprintf("%T %s, %s", failure, sqlstate(failure), again), err
	})
}

func migrateFails(conn *pgx.Conn) (string, error) {
	failure := conn.BeginFunc(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "CREATE TABLE half_done (id int PRIMARY KEY)"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "ALTER TABLE no_such_table ADD COLUMN x int")
		return err
	})
	if err := unless(failure); err != nil {
		return "", err
	}
	left, err := texts(conn, "SELECT count(*) FROM pg_tables WHERE tablename = 'half_done'")
	return fmt.Sprintf("%T %s, left %s", failure, sqlstate(failure), left), err
}

func reconnect(victim *pgx.Conn) (string, error) {
	tx, err := victim.Begin(ctx)
	if err != nil {
		return "", err
	}
	var pid int32
	if err := tx.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		return "", err
	}
	_, err = connected("", func(other *pgx.Conn) (string, error) { return texts(other, "SELECT pg_terminate_backend($1)", pid) })
	if err != nil {
		return "", err
	}
	_, failure := texts(tx, "SELECT pg_sleep(1)")
	after, err := connected("", func(again *pgx.Conn) (string, error) { return texts(again, "SELECT 2") })
	return fmt.Sprintf("%s closed %t, then %s", sqlstate(failure), victim.IsClosed(), after), err
}

func eightTenants() (string, error) {
	var together sync.WaitGroup
	var guard sync.Mutex
	var failure error
	foreign, sum := 0, 0
	for n := 0; n < 8; n++ {
		together.Add(1)
		go func(n int) {
			defer together.Done()
			_, err := connected(fmt.Sprintf("application_name=worker%d", n), func(own *pgx.Conn) (string, error) {
				bad, good, err := worker(own, n)
				guard.Lock()
				defer guard.Unlock()
				foreign, sum = foreign+bad, sum+good
				return "", err
			})
			if err != nil {
				guard.Lock()
				failure = err
				guard.Unlock()
			}
		}(n)
	}
	together.Wait()
	return fmt.Sprintf("foreign %d, rows %d", foreign, sum), failure
}

func worker(own *pgx.Conn, n int) (foreign, sum int, err error) {
	var id int64
	if err = own.QueryRow(ctx, "INSERT INTO tenants (name) VALUES ($1) RETURNING id", fmt.Sprintf("w%d", n)).Scan(&id); err != nil {
		return
	}
	if _, err = own.Exec(ctx, fmt.Sprintf("SET work_mem = '%dMB'", n+1)); err != nil {
		return
	}
	for round := 0; round < 15; round++ {
		if err = user(own, id, fmt.Sprintf("w%d-%d", n, round)); err != nil {
			return
		}
		var found string
		if found, err = texts(own, "SELECT email FROM users WHERE tenant_id = $1", id); err != nil {
			return
		}
		for _, email := range strings.Split(found, " | ") {
			sum++
			if !strings.HasPrefix(email, fmt.Sprintf("w%d-", n)) {
				foreign++
			}
		}
		for setting, wanted := range map[string]string{"work_mem": fmt.Sprintf("%dMB", n+1), "application_name": fmt.Sprintf("worker%d", n)} {
			var value string
			if value, err = texts(own, "SHOW "+setting); err != nil {
				return
			}
			if value != wanted {
				foreign++
			}
		}
	}
	return
}

var ctx = context.Background()
