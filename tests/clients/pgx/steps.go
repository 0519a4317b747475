// Prints steps as tests/clients/README.md asks, and runs those of lib/sql/steps.sql. Knows no step by name.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
)

type statement struct {
	text, save string
	params     []string
}

var (
	saved   = map[string]int64{}
	refused = map[string]bool{}
	spaces  = regexp.MustCompile(`\s+`)
)

// querier is a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...interface{}) (pgx.Rows, error)
	Exec(ctx context.Context, sql string, args ...interface{}) (pgconn.CommandTag, error)
}

func step(name, after string, work func() (string, error)) {
	if after != "" && refused[after] {
		refused[name] = true
		fmt.Printf("%s\tSKIPPED after %s\n", name, after)
		return
	}
	result, err := work()
	if err != nil {
		refused[name] = true
		var own *pgconn.PgError
		code, words := "-----", err.Error()
		if errors.As(err, &own) {
			code, words = own.Code, own.Message
		}
		words = strings.SplitN(words, "\n", 2)[0]
		if code == "0A000" {
			result = "REFUSED 0A000 " + words
		} else {
			result = fmt.Sprintf("ERROR %s %T %s", code, err, words)
		}
	}
	fmt.Printf("%s\t%s\n", name, strings.TrimSpace(spaces.ReplaceAllString(result, " ")))
}

// sqlstate is the code of the server's error, or what the driver says.
func sqlstate(err error) string {
	var own *pgconn.PgError
	if errors.As(err, &own) {
		return own.Code
	}
	if err != nil {
		return err.Error()
	}
	return "no failure"
}

// unless passes a refusal on: it is the step's result, whatever the step expected.
func unless(err error) error {
	if sqlstate(err) == "0A000" {
		return err
	}
	return nil
}

// show reads all rows as text.
func show(rows pgx.Rows, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer rows.Close()
	var lines []string
	for rows.Next() {
		var line []string
		for _, value := range rows.RawValues() {
			line = append(line, string(value))
		}
		lines = append(lines, strings.Join(line, ","))
	}
	return strings.Join(lines, " | "), rows.Err()
}

// texts asks for the results as text, so that they can be printed as they come.
func texts(on querier, sql string, args ...interface{}) (string, error) {
	return show(on.Query(context.Background(), sql, append([]interface{}{pgx.QueryResultFormats{pgx.TextFormatCode}}, args...)...))
}

// run runs the statements of a step, each by itself.
func run(on querier, list []statement) (string, error) {
	var results []string
	for _, each := range list {
		var args []interface{}
		for _, param := range each.params {
			switch {
			case strings.HasPrefix(param, "@"):
				args = append(args, saved[param[1:]])
			case strings.HasPrefix(param, "'"):
				args = append(args, strings.Trim(param, "'"))
			default:
				number, _ := strconv.ParseInt(param, 10, 64)
				args = append(args, number)
			}
		}
		switch strings.Fields(each.text)[0] {
		case "INSERT", "UPDATE", "DELETE":
			tag, err := on.Exec(context.Background(), each.text, args...)
			if err != nil {
				return "", err
			}
			results = append(results, fmt.Sprintf("%d rows", tag.RowsAffected()))
		case "SELECT":
			text, err := texts(on, each.text, args...)
			if err != nil {
				return "", err
			}
			if each.save == "" {
				results = append(results, text)
			} else if saved[each.save], err = strconv.ParseInt(text, 10, 64); err != nil {
				return "", err
			}
		default:
			if _, err := on.Exec(context.Background(), each.text, args...); err != nil {
				return "", err
			}
		}
	}
	return strings.Join(results, "; "), nil
}

// statements reads lib/sql/steps.sql.
func statements() map[string][]statement {
	text, err := os.ReadFile(os.Getenv("STEPS_SQL"))
	if err != nil {
		panic(err)
	}
	steps := map[string][]statement{}
	var name string
	var next statement
	for _, line := range strings.Split(string(text), "\n") {
		switch {
		case strings.HasPrefix(line, "-- step: "):
			name = line[9:]
		case strings.HasPrefix(line, "-- params: "):
			next.params = strings.Split(line[11:], ", ")
		case strings.HasPrefix(line, "-- save: "):
			next.save = line[9:]
		case line == "" || strings.HasPrefix(line, "--"):
		default:
			next.text += strings.TrimSuffix(line, ";") + "\n"
			if strings.HasSuffix(line, ";") {
				steps[name] = append(steps[name], next)
				next = statement{}
			}
		}
	}
	return steps
}
