-- What the best sharding peer answers wrongly, by the numbers of facts/peers.md. 1: comment before an operator.
SELECT id FROM users WHERE id = 5--comment
+ 1;
UPDATE users SET name = 'seven' WHERE id = 6 /* x */ + /* y */ 1 RETURNING id;
-- 2: the key is an expression.
INSERT INTO users (id, email) VALUES (5 + 1000, 'expr');
INSERT INTO readings VALUES ('a' || 'b', date '2024-01-01', 1);
INSERT INTO users (id, email) VALUES ((SELECT 1006), 'scalar subquery');
SELECT id FROM users WHERE id IN (1005, 1006) ORDER BY id;
SELECT value FROM readings WHERE device = 'ab' AND day = '2024-01-01';
-- 3: a data-modifying CTE and MERGE write once.
WITH i AS (INSERT INTO users (id, email) VALUES (1010, 'once') RETURNING id) SELECT count(*) FROM i;
WITH i AS (INSERT INTO countries VALUES ('nl', 'Nederland') RETURNING code) SELECT * FROM i;
WITH u AS (UPDATE users SET balance = balance + 1 RETURNING id) SELECT count(*) FROM u;
WITH d AS (DELETE FROM order_items RETURNING *) INSERT INTO order_items SELECT * FROM d;
MERGE INTO countries c USING (VALUES ('be', 'België')) v(code, name) ON c.code = v.code WHEN NOT MATCHED THEN INSERT VALUES (v.code, v.name);
SELECT count(*) FROM users WHERE id = 1010;
-- 4: a limited subquery counts over all shards.
DELETE FROM orders WHERE user_id IN (SELECT user_id FROM orders ORDER BY user_id LIMIT 3);
UPDATE users SET name = 'first' WHERE id IN (SELECT id FROM users ORDER BY balance, id LIMIT 4);
SELECT count(*) FROM users WHERE id IN (SELECT id FROM users ORDER BY id LIMIT 10);
-- 5: several statements in one message are all answered, in one transaction.
--@ multi
SELECT 1 AS a;
SELECT 2 AS b;

--@ multi
INSERT INTO users (id, email) VALUES (1020, 'a');
SELECT count(*) FROM users WHERE id = 1020;
INSERT INTO users (id, email) VALUES (1021, 'b');

--@ multi
--@ error 22012
UPDATE users SET name = 'gone' WHERE id = 30;
UPDATE users SET name = 'gone' WHERE id = 31;
SELECT 1 / 0;

SELECT id, name FROM users WHERE id IN (30, 31) ORDER BY id;
--@ multi
INSERT INTO users (id, email) VALUES (1022, 'c');
BEGIN;
INSERT INTO users (id, email) VALUES (1023, 'd');
ROLLBACK;

SELECT count(*) FROM users WHERE id IN (1022, 1023);
-- 6: a key condition that restricts only a part.
SELECT count(*) FROM users u LEFT JOIN orders o ON o.user_id = u.id AND u.id = 5;
SELECT count(*) FROM users u FULL JOIN orders o ON o.user_id = u.id AND o.user_id = 5;
SELECT id FROM users WHERE id = 5 UNION ALL SELECT id FROM users WHERE id = 6 UNION ALL SELECT user_id FROM orders ORDER BY 1 LIMIT 20;
SELECT count(*) FILTER (WHERE id = 5), count(*) FROM users;
SELECT id, id = 5 FROM users ORDER BY id LIMIT 7;
SELECT CASE WHEN id = 5 THEN 1 ELSE 0 END AS x, count(*) FROM users GROUP BY x ORDER BY x;
SELECT id FROM users WHERE id = 5 OR country = 'de' ORDER BY id;
SELECT id FROM users WHERE (id = 5) = false ORDER BY id LIMIT 8;
SELECT id FROM users WHERE NOT (id = 5 AND true) ORDER BY id LIMIT 8;
SELECT id FROM users WHERE id = 5 IS NOT TRUE ORDER BY id LIMIT 8;
SELECT u.id FROM users u WHERE EXISTS (SELECT 1 FROM users x WHERE x.id = 5) ORDER BY u.id LIMIT 8;
SELECT (SELECT name FROM users WHERE id = 5), count(*) FROM orders;
-- 7: joins on other columns, grouping sets, windows, LIMIT inside.
SELECT count(*) FROM users a JOIN users b ON a.country = b.country;
SELECT count(*) FROM orders o JOIN readings r ON r.value = o.amount;
SELECT status, count(*) FROM orders GROUP BY ROLLUP (status) ORDER BY status NULLS LAST;
SELECT user_id, id, row_number() OVER (PARTITION BY user_id ORDER BY id) FROM orders ORDER BY 1, 2 LIMIT 15;
SELECT user_id, rank() OVER (ORDER BY sum(amount) DESC, user_id) FROM orders GROUP BY user_id ORDER BY 2 LIMIT 10;
SELECT sum(amount) FROM (SELECT amount FROM orders ORDER BY amount DESC, id LIMIT 10) x;
WITH RECURSIVE chain AS (SELECT id, user_id FROM orders WHERE id = 1 UNION ALL SELECT o.id, o.user_id FROM orders o JOIN chain c ON o.id = c.user_id AND o.id > c.id) SELECT count(*) FROM chain;
-- 8: no helper columns.
SELECT name FROM users ORDER BY balance DESC, id LIMIT 4;
SELECT avg(balance) FROM users;
SELECT * FROM users ORDER BY lower(name), id LIMIT 4;
SELECT country FROM users GROUP BY country HAVING avg(balance) > 100 ORDER BY max(balance), country;
SELECT DISTINCT country FROM users WHERE balance > 0 ORDER BY country;
-- 9: after a refusal the connection lives and the transaction is failed, not lost.
SELECT user_id, id, sum(amount) OVER (ORDER BY id) FROM orders ORDER BY id LIMIT 3;
SELECT 'alive';
-- 10: a reference table is copied once.
COPY countries TO STDOUT;
SELECT count(*) FROM countries;
SELECT * FROM countries ORDER BY code;
-- 11: one error for one statement.
--@ error 22012
SELECT 1 / (id - id) FROM users;
--@ error 42883
SELECT no_such_function(id) FROM users;
--@ error 22012
UPDATE users SET balance = 1 / (id - id);
-- 12: ties, NULLs, tags, FETCH counts, codes inside transactions.
--@ ties 1
SELECT country, id FROM users ORDER BY country;
--@ ties 1
SELECT country, id FROM users ORDER BY country NULLS FIRST;
UPDATE users SET name = name;
DELETE FROM order_items WHERE quantity = 1;
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM users ORDER BY id;
--@ ordered
FETCH 10 FROM c;
--@ ordered
FETCH ALL FROM c;
--@ ordered
FETCH 1 FROM c;
ROLLBACK;
BEGIN;
--@ error 42P01
SELECT * FROM missing_table;
--@ error 25P02
SELECT * FROM users WHERE id = 5;
ROLLBACK;
EXPLAIN (COSTS off) SELECT 1;
