UPDATE users SET name = 'one' WHERE id = 1;
UPDATE users SET name = 'none' WHERE id = 999;
UPDATE users SET balance = balance + 10 WHERE id IN (1, 2, 3, 4);
UPDATE users SET balance = balance - 1;
UPDATE users SET name = upper(name) WHERE country = 'de';
UPDATE users SET name = 'x' WHERE false;
SELECT id, name, balance FROM users ORDER BY id;
UPDATE users SET name = DEFAULT, balance = DEFAULT WHERE id = 2 RETURNING *;
UPDATE users SET (name, balance) = ('pair', 5) WHERE id = 3 RETURNING id, name, balance;
UPDATE users SET (name, balance) = (SELECT 'sub', 6) WHERE id = 3 RETURNING id, name, balance;
UPDATE users SET balance = balance * 2 WHERE id BETWEEN 10 AND 20 RETURNING id, balance;
UPDATE users u SET name = u.email WHERE u.id = 4 RETURNING u.id, u.name AS n;
UPDATE users SET name = NULL WHERE name = '' RETURNING id;
UPDATE orders SET status = 'paid' WHERE user_id = 18 AND status = 'new';
UPDATE orders SET status = 'cancelled' WHERE id = 7;
UPDATE orders SET amount = amount + 0.01 WHERE status = 'shipped' AND amount > 60;
UPDATE orders SET amount = o2.s FROM (SELECT user_id, sum(amount) AS s FROM orders GROUP BY user_id) o2 WHERE o2.user_id = orders.user_id AND orders.user_id = 5;
UPDATE orders o SET status = 'paid' FROM users u WHERE u.id = o.user_id AND u.country = 'jp';
UPDATE orders o SET status = 'new' FROM users u WHERE u.id = o.user_id AND u.id = 3 RETURNING o.id, u.name;
UPDATE order_items i SET price = p.price FROM products p WHERE p.sku = i.sku AND i.quantity = 5;
UPDATE order_items SET price = price + 1 WHERE user_id = 18 AND order_id = 1 AND line = 1 RETURNING price;
UPDATE users SET name = c.name FROM countries c WHERE c.code = users.country AND users.id = 8;
UPDATE countries SET name = 'Frankreich' WHERE code = 'fr';
UPDATE countries SET name = name || '!' RETURNING code, name;
UPDATE settings SET value = 'changed' WHERE name = 'motd' RETURNING *;
UPDATE settings SET value = NULL;
UPDATE events SET payload = jsonb_set(payload, '{user}', '99') WHERE id = '00000000-0000-4000-8000-000000000003' RETURNING payload;
UPDATE events SET kind = 'seen' WHERE kind = 'buy';
UPDATE readings SET value = value + 1 WHERE device = 'device-1' AND day = '2024-06-03' RETURNING value;
UPDATE readings SET value = 0 WHERE value IS NULL;
UPDATE users SET balance = (SELECT max(balance) FROM users) WHERE id = 6 RETURNING balance;
UPDATE users SET name = 'rich' WHERE id IN (SELECT user_id FROM orders WHERE amount > 118);
UPDATE users SET name = 'few' WHERE id IN (SELECT id FROM users ORDER BY id LIMIT 3);
-- The key itself: the row would have to move.
UPDATE users SET id = id WHERE id = 60;
UPDATE users SET id = 5060 WHERE id = 60;
UPDATE readings SET day = day + 100 WHERE device = 'device-2' AND day = '2024-06-05';
SELECT id, name FROM users WHERE id IN (60, 5060);
--@ error 23505
UPDATE countries SET code = 'de' WHERE code = 'fr';
--@ error 23514
UPDATE orders SET status = 'lost' WHERE user_id = 18;
--@ error 23502
UPDATE users SET email = NULL WHERE id = 1;
--@ error 23502
UPDATE users SET email = NULL;
--@ error 23503
UPDATE users SET country = 'xx' WHERE id = 1;
--@ error 22012
UPDATE users SET balance = 1 / (id - 30);
--@ error 22003
UPDATE users SET balance = 1e20 WHERE id = 1;
--@ error 42703
UPDATE users SET nothing = 1 WHERE id = 1;
--@ error 42601
UPDATE users SET name = 'a', name = 'b' WHERE id = 1;
SELECT count(*), sum(balance) FROM users;
WITH u AS (UPDATE users SET name = 'cte' WHERE id = 9 RETURNING id, name) SELECT * FROM u;
WITH u AS (UPDATE users SET balance = 0 WHERE balance < 0 RETURNING id) SELECT count(*) FROM u;
WITH u AS (UPDATE users SET name = 'w' || id WHERE id BETWEEN 20 AND 30 RETURNING id, name, country) SELECT * FROM u ORDER BY id DESC LIMIT 4;
WITH u AS (UPDATE users SET country = 'de' WHERE country = 'fr' RETURNING id, country) SELECT country, count(*) FROM u GROUP BY country ORDER BY 1;
WITH u AS (UPDATE users SET balance = 1 WHERE id < 40 RETURNING id) SELECT o.id, u.id FROM u JOIN orders o ON o.user_id = u.id ORDER BY 1, 2;
WITH u AS (UPDATE users SET balance = balance WHERE id < 9 RETURNING *) SELECT a.id, b.id FROM u a, u b WHERE a.id = b.id ORDER BY 1;
WITH u AS (UPDATE users SET balance = balance WHERE id < 9 RETURNING *) SELECT count(*) FROM u a, u b;
WITH u AS (UPDATE users SET balance = balance WHERE id < 9 RETURNING *) SELECT 1;
WITH d AS (DELETE FROM order_items WHERE quantity = 4 RETURNING *), o AS (UPDATE orders SET status = 'paid' FROM d WHERE d.user_id = orders.user_id AND d.order_id = orders.id RETURNING orders.id) SELECT count(*) FROM o;
WITH d AS (DELETE FROM order_items WHERE quantity = 3 RETURNING *) INSERT INTO order_items SELECT user_id, order_id, line + 500, sku, quantity, price FROM d;
SELECT user_id, order_id, line FROM order_items ORDER BY 1, 2, 3;
DELETE FROM order_items WHERE user_id = 18 AND order_id = 1;
DELETE FROM order_items WHERE quantity = 5 RETURNING user_id, order_id, line;
DELETE FROM orders WHERE user_id = 18 RETURNING id, amount;
DELETE FROM orders WHERE user_id IN (1, 2, 3);
DELETE FROM orders WHERE id IN (50, 60, 70);
DELETE FROM orders WHERE user_id = 999;
-- Three in all, not three a shard.
DELETE FROM orders WHERE id IN (SELECT id FROM orders ORDER BY id LIMIT 3);
DELETE FROM readings WHERE device IN (SELECT device FROM readings ORDER BY device LIMIT 1);
DELETE FROM readings WHERE ctid = '(0,1)' AND false;
DELETE FROM orders o USING users u WHERE u.id = o.user_id AND u.id = 20 RETURNING o.id;
DELETE FROM orders o USING users u WHERE u.id = o.user_id AND u.country = 'gr';
DELETE FROM events WHERE id = '00000000-0000-4000-8000-000000000001';
DELETE FROM events WHERE payload IS NULL;
DELETE FROM settings WHERE name = 'theme' RETURNING name;
DELETE FROM countries WHERE code = 'zz';
--@ error 23503
DELETE FROM countries WHERE code = 'de';
--@ error 23503
DELETE FROM users WHERE id = 40;
--@ error 23503
DELETE FROM users;
-- The key is written, as ORMs do, or changes.
UPDATE users SET id = id, name = 'same' WHERE id = 61;
UPDATE users SET id = 62, name = 'same' WHERE id = 62 RETURNING id, name;
--@ params int8=63 | text=saved | int8=63
UPDATE users SET id = $1, name = $2 WHERE id = $3;
UPDATE orders SET user_id = 40, status = 'paid' WHERE user_id = 40 RETURNING id, user_id, status;
--@ error 23503
UPDATE users SET id = 99041 WHERE id = 41;
INSERT INTO users (id, email, name, created_at) SELECT 70000 + n, 'mv' || n, 'mover', '2024-01-01 00:00:00+00' FROM generate_series(1, 9) n;
UPDATE users SET id = 71001, name = 'moved' WHERE id = 70001 RETURNING id, name, email, balance;
--@ params int8=71002 | text=moved two | int8=70002
UPDATE users SET id = $1, name = $2 WHERE id = $3 RETURNING *;
UPDATE users u SET id = 71003, country = c.code FROM countries c WHERE c.code = 'de' AND u.email = 'mv3';
--@ error 23505
UPDATE users SET id = 71001 WHERE id = 70004;
--@ error 23502
UPDATE users SET id = NULL WHERE id = 70004;
--@ error 23505
UPDATE users SET id = 71009 WHERE email LIKE 'mv%';
SELECT id, email, name, country FROM users WHERE email LIKE 'mv%' ORDER BY id;
INSERT INTO orders (user_id, id, amount) VALUES (70005, 7700, 1), (70006, 7701, 2), (70006, 7702, 3);
UPDATE orders SET user_id = 70007, amount = amount + 1 WHERE id IN (7700, 7702) RETURNING id, user_id, amount, status;
--@ error 23503
UPDATE orders SET user_id = 987654 WHERE id = 7701;
UPDATE orders SET user_id = user_id + 1 WHERE user_id = 70007 AND id = 7702 RETURNING user_id, id, amount;
UPDATE orders SET user_id = 70001 WHERE user_id = 70001 AND id = 1;
SELECT user_id, id, amount, status, count(*) OVER (PARTITION BY user_id, id) FROM orders WHERE id BETWEEN 7700 AND 7702 ORDER BY id;
DELETE FROM orders WHERE id BETWEEN 7700 AND 7702;
INSERT INTO orders (user_id, id, amount) VALUES (18, 7790, 1);
INSERT INTO order_items VALUES (18, 7790, 90, 'sku-01', 2, 3.5), (18, 7790, 91, 'sku-01', 3, 3.5);
--@ error 23503
UPDATE order_items SET user_id = 19 WHERE line = 91;
--@ error 23503
UPDATE order_items SET user_id = user_id + 1 WHERE line = 91;
UPDATE order_items SET user_id = user_id, line = 92 WHERE line = 91 RETURNING user_id, line;
DELETE FROM orders WHERE id = 7790;
UPDATE readings SET device = 'other-' || device, value = DEFAULT WHERE device = 'device-3';
UPDATE readings SET device = 'other-' || device, value = value + 1 WHERE device = 'device-3' RETURNING device, day, value;
UPDATE readings SET day = '2025-01-01', device = 'one' WHERE device = 'device-1' AND day = '2024-06-03';
UPDATE readings SET day = '2025-01-01', device = 'two' WHERE device = 'nothing';
--@ error 23505
UPDATE readings SET day = '2025-02-01', device = 'two' WHERE device = 'device-2';
SELECT * FROM readings ORDER BY device, day;
WITH d AS (DELETE FROM readings WHERE device = 'device-4' RETURNING *) SELECT count(*) FROM d;
DELETE FROM readings;
SELECT count(*) FROM readings;
MERGE INTO settings s USING (VALUES ('motd', 'merged'), ('brand', 'new')) v(name, value) ON s.name = v.name WHEN MATCHED THEN UPDATE SET value = v.value WHEN NOT MATCHED THEN INSERT VALUES (v.name, v.value);
MERGE INTO users u USING (VALUES (1, 'm1'), (6001, 'm2')) v(id, email) ON u.id = v.id WHEN MATCHED THEN UPDATE SET email = v.email WHEN NOT MATCHED THEN INSERT (id, email) VALUES (v.id, v.email);
SELECT name, value FROM settings ORDER BY name;
TRUNCATE events;
SELECT count(*) FROM events;
TRUNCATE order_items, orders;
SELECT count(*) FROM orders;
--@ error 0A000
TRUNCATE users;
