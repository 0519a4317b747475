-- Views over sharded tables: routed and merged as the queries that they stand for.
CREATE VIEW v_names AS SELECT id, name FROM users;
CREATE VIEW v_german AS SELECT id AS user_id, name AS "User Name", balance FROM users WHERE country = 'de';
CREATE VIEW v_spent (uid, total, n) AS SELECT user_id, sum(amount), count(*) FROM orders GROUP BY user_id;
CREATE VIEW v_status AS SELECT status, count(*) AS n, sum(amount) AS total FROM orders GROUP BY status;
CREATE VIEW v_joined AS SELECT u.id, u.name, c.name AS country, o.id AS order_id, o.amount FROM users u LEFT JOIN countries c ON c.code = u.country LEFT JOIN orders o ON o.user_id = u.id;
CREATE VIEW v_nested AS SELECT j.id, count(j.order_id) AS orders FROM v_joined j JOIN v_names n ON n.id = j.id GROUP BY j.id;
CREATE VIEW v_seven WITH (security_barrier) AS SELECT * FROM users WHERE id = 7;
CREATE VIEW v_top AS SELECT id, amount FROM orders ORDER BY amount DESC, id LIMIT 5;
CREATE VIEW v_both AS SELECT id, 'user' AS kind FROM users UNION ALL SELECT user_id, 'order' FROM orders;
SELECT * FROM v_names WHERE id = 5;
SELECT name FROM v_names WHERE id IN (3, 4, 5) ORDER BY id;
--@ params int8=9
SELECT name FROM v_names n WHERE n.id = $1;
SELECT * FROM v_names ORDER BY id DESC LIMIT 3;
SELECT count(*), min(id), max(id) FROM v_names;
SELECT count(*) FROM v_german;
SELECT "User Name", balance FROM v_german WHERE user_id = 8;
SELECT g.user_id, s.total FROM v_german g JOIN v_spent s ON s.uid = g.user_id ORDER BY g.user_id;
SELECT * FROM v_spent WHERE n > 4 ORDER BY uid;
SELECT * FROM v_spent WHERE uid = 18;
SELECT sum(total), max(n) FROM v_spent;
SELECT * FROM v_status ORDER BY status;
SELECT status FROM v_status WHERE n > 40 ORDER BY status;
SELECT * FROM v_nested WHERE orders > 3 ORDER BY id;
SELECT country, count(*) FROM v_joined GROUP BY country ORDER BY country NULLS FIRST;
SELECT * FROM v_joined WHERE id = 18 ORDER BY order_id;
SELECT id, email FROM v_seven;
SELECT id FROM v_seven WHERE id = 8;
SELECT * FROM v_top ORDER BY amount DESC, id;
SELECT kind, count(*) FROM v_both GROUP BY kind ORDER BY kind;
SELECT public.v_names.id FROM public.v_names WHERE public.v_names.id = 4;
SELECT x.a, x.b FROM v_names AS x (a, b) WHERE x.a = 6;
SELECT id FROM users WHERE id IN (SELECT user_id FROM v_german) ORDER BY id LIMIT 4;
WITH g AS (SELECT * FROM v_german) SELECT count(*) FROM g WHERE balance > 0;
EXPLAIN (COSTS OFF) SELECT * FROM v_names WHERE id = 5;
--@ error 42703
SELECT email FROM v_names WHERE id = 5;
BEGIN;
SELECT id FROM v_names WHERE id = 5 FOR UPDATE;
DECLARE names CURSOR FOR SELECT id FROM v_names WHERE id = 5;
FETCH names;
COMMIT;
-- Written through.
--@ error 23502
INSERT INTO v_names (id, name) VALUES (3001, 'a');
UPDATE users SET email = 'moved' WHERE id = 5;
UPDATE v_names SET name = 'renamed' WHERE id = 5;
UPDATE v_names n SET name = n.name || '!' WHERE n.id BETWEEN 1 AND 9 RETURNING id, name;
UPDATE v_german SET balance = balance + 1;
UPDATE v_german SET balance = balance + 1 WHERE user_id = 8;
CREATE VIEW v_readings AS SELECT device, day, value FROM readings WHERE value > -100 WITH CHECK OPTION;
INSERT INTO v_readings (device, day, value) VALUES ('v1', '2024-01-01', 1), ('v2', '2024-01-01', 2), ('v3', '2024-01-02', 3);
--@ error 44000
INSERT INTO v_readings (device, day, value) VALUES ('v4', '2024-01-01', -500);
INSERT INTO v_readings VALUES ('v5', '2024-01-01', 1) ON CONFLICT (device, day) DO UPDATE SET value = 9;
UPDATE v_readings SET value = value * 2 WHERE device LIKE 'v%' RETURNING *;
--@ error 44000
UPDATE v_readings SET value = -500 WHERE device = 'v1';
DELETE FROM v_readings WHERE device = 'v2';
DELETE FROM v_readings AS r WHERE r.device IN ('v1', 'v3');
--@ error 55000
UPDATE v_joined SET name = 'x' WHERE id = 5;
-- A definition that changes.
CREATE OR REPLACE VIEW v_names AS SELECT id, upper(name) AS name FROM users WHERE id < 10;
SELECT * FROM v_names ORDER BY id;
ALTER VIEW v_names RENAME COLUMN name TO loud;
SELECT loud FROM v_names WHERE id = 2;
ALTER TABLE users RENAME COLUMN balance TO money;
SELECT balance FROM v_german WHERE user_id = 8;
ALTER TABLE users RENAME COLUMN money TO balance;
-- Materialized views.
CREATE MATERIALIZED VIEW m_spent AS SELECT user_id, sum(amount) AS total FROM orders GROUP BY user_id;
SELECT * FROM m_spent ORDER BY user_id LIMIT 5;
SELECT count(*), sum(total) FROM m_spent;
DELETE FROM order_items WHERE user_id = 18;
DELETE FROM orders WHERE user_id = 18;
SELECT total FROM m_spent WHERE user_id = 18;
REFRESH MATERIALIZED VIEW m_spent;
SELECT count(*) FROM m_spent WHERE user_id = 18;
SELECT u.id, m.total FROM users u JOIN m_spent m ON m.user_id = u.id WHERE u.country = 'jp' ORDER BY u.id;
CREATE MATERIALIZED VIEW m_status AS SELECT status, count(*) FROM orders GROUP BY status;
DROP MATERIALIZED VIEW m_spent;
DROP VIEW v_nested, v_joined, v_spent, v_status, v_german, v_names, v_seven, v_top, v_both, v_readings;
