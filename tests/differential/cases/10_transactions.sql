BEGIN;
UPDATE users SET balance = balance - 5 WHERE id = 1;
UPDATE users SET balance = balance + 5 WHERE id = 2;
UPDATE users SET balance = balance + 1 WHERE id = 3;
SELECT sum(balance) FROM users;
COMMIT;
SELECT id, balance FROM users WHERE id < 4 ORDER BY id;
BEGIN;
DELETE FROM order_items;
DELETE FROM orders;
SELECT count(*) FROM orders;
ROLLBACK;
SELECT count(*) FROM orders;
BEGIN;
COMMIT;
BEGIN;
ROLLBACK;
COMMIT;
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SHOW transaction_isolation;
SELECT name FROM users WHERE id = 1;
END;
BEGIN READ ONLY;
SELECT count(*) FROM users;
--@ error 25006
UPDATE users SET name = 'no' WHERE id = 1;
--@ error 25P02
SELECT 1;
ROLLBACK;
START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE;
SELECT name FROM users WHERE id = 7;
COMMIT WORK;
BEGIN;
--@ error 22012
SELECT 1 / 0;
--@ error 25P02
SELECT 1;
--@ error 25P02
UPDATE users SET name = 'no' WHERE id = 1;
-- COMMIT of a failed transaction is a ROLLBACK, and says so.
COMMIT;
BEGIN;
UPDATE users SET name = 'lost' WHERE id = 5;
--@ error 23505
INSERT INTO users (id, email) VALUES (5, 'again');
ROLLBACK;
SELECT name FROM users WHERE id = 5;
BEGIN;
INSERT INTO users (id, email) VALUES (1100, 'kept');
SAVEPOINT a;
INSERT INTO users (id, email) VALUES (1101, 'dropped');
UPDATE users SET name = 'dropped' WHERE id = 6;
ROLLBACK TO SAVEPOINT a;
INSERT INTO users (id, email) VALUES (1102, 'kept');
RELEASE SAVEPOINT a;
COMMIT;
SELECT id, email FROM users WHERE id IN (1100, 1101, 1102) ORDER BY id;
SELECT name FROM users WHERE id = 6;
BEGIN;
SAVEPOINT "s140-x1";
--@ error 23505
INSERT INTO users (id, email) VALUES (1, 'again');
--@ error 25P02
SELECT 1;
ROLLBACK TO SAVEPOINT "s140-x1";
SELECT name FROM users WHERE id = 3;
UPDATE users SET name = 'after savepoint' WHERE id = 8;
COMMIT;
SELECT name FROM users WHERE id = 8;
-- A savepoint set before a shard was first touched reaches it too.
BEGIN;
UPDATE users SET name = 'first' WHERE id = 10;
SAVEPOINT outer_one;
SAVEPOINT inner_one;
UPDATE users SET name = 'second' WHERE id = 11;
UPDATE users SET name = 'third' WHERE id = 12;
ROLLBACK TO outer_one;
SELECT id, name FROM users WHERE id IN (10, 11, 12) ORDER BY id;
COMMIT;
SELECT id, name FROM users WHERE id IN (10, 11, 12) ORDER BY id;
BEGIN;
SAVEPOINT a;
RELEASE a;
--@ error 3B001
ROLLBACK TO a;
ROLLBACK;
--@ error 25P01
SAVEPOINT alone;
--@ error 25P01
ROLLBACK TO alone;
--@ error 25P01
RELEASE SAVEPOINT alone;
BEGIN;
SAVEPOINT a;
UPDATE users SET name = 'one' WHERE id = 13;
SAVEPOINT a;
UPDATE users SET name = 'two' WHERE id = 13;
ROLLBACK TO a;
SELECT name FROM users WHERE id = 13;
RELEASE a;
ROLLBACK TO a;
SELECT name FROM users WHERE id = 13;
COMMIT;
BEGIN;
BEGIN;
UPDATE users SET name = 'nested' WHERE id = 14;
COMMIT;
SELECT name FROM users WHERE id = 14;
BEGIN;
UPDATE users SET balance = 1 WHERE id = 15;
UPDATE users SET balance = 2 WHERE id = 16;
COMMIT AND CHAIN;
UPDATE users SET balance = 3 WHERE id = 17;
ROLLBACK;
SELECT id, balance FROM users WHERE id IN (15, 16, 17) ORDER BY id;
BEGIN;
SELECT id FROM users WHERE id = 5 FOR UPDATE;
SELECT id FROM users WHERE id IN (5, 6, 7) ORDER BY id FOR UPDATE SKIP LOCKED;
SELECT id FROM users WHERE id = 5 FOR NO KEY UPDATE NOWAIT;
SELECT id FROM users ORDER BY id LIMIT 3 FOR SHARE;
COMMIT;
BEGIN;
SET LOCAL statement_timeout = '4s';
SHOW statement_timeout;
COMMIT;
SHOW statement_timeout;
SET statement_timeout = '5s';
SHOW statement_timeout;
SELECT current_setting('statement_timeout');
BEGIN;
SET statement_timeout = '6s';
ROLLBACK;
SHOW statement_timeout;
RESET statement_timeout;
SHOW statement_timeout;
SET TIME ZONE 'Asia/Tokyo';
SELECT placed_at FROM orders WHERE user_id = 18 ORDER BY id;
SELECT max(placed_at) FROM orders;
SELECT date_trunc('day', placed_at) AS d, count(*) FROM orders GROUP BY d ORDER BY d LIMIT 4;
RESET TIME ZONE;
SET datestyle = 'German';
SELECT day FROM readings WHERE device = 'device-1' ORDER BY day LIMIT 2;
SELECT max(day) FROM readings;
RESET datestyle;
SET search_path = public, pg_catalog;
SHOW search_path;
SELECT set_config('statement_timeout', '7s', false);
SHOW statement_timeout;
DISCARD ALL;
SHOW statement_timeout;
--@ error 42704
SET no_such_setting = 1;
--@ error 22023
SET statement_timeout = 'soon';
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM users WHERE id = 4;
FETCH ALL FROM c;
CLOSE c;
COMMIT;
BEGIN;
DECLARE c NO SCROLL CURSOR FOR SELECT id FROM users ORDER BY id;
--@ ordered
FETCH 3 FROM c;
--@ ordered
FETCH FORWARD 2 FROM c;
MOVE 3 FROM c;
--@ ordered
FETCH NEXT FROM c;
CLOSE c;
COMMIT;
BEGIN;
INSERT INTO users (id, email) VALUES (1200, 'tx');
INSERT INTO orders (user_id, id, amount) VALUES (1200, 1, 5);
UPDATE countries SET name = 'Allemagne' WHERE code = 'de';
UPDATE settings SET value = 'tx' WHERE name = 'motd';
SELECT u.email, o.amount FROM users u JOIN orders o ON o.user_id = u.id WHERE u.id = 1200;
ROLLBACK;
SELECT count(*) FROM users WHERE id = 1200;
SELECT name FROM countries WHERE code = 'de';
SELECT value FROM settings WHERE name = 'motd';
BEGIN;
SET CONSTRAINTS ALL IMMEDIATE;
LOCK TABLE users IN SHARE MODE;
SELECT count(*) FROM users;
COMMIT;
--@ multi
INSERT INTO users (id, email) VALUES (1300, 'm1');
INSERT INTO users (id, email) VALUES (1301, 'm2');
SELECT id FROM users WHERE id IN (1300, 1301) ORDER BY id;

-- An implicit transaction: the first insert goes with the second's failure.
--@ multi
--@ error 23505
INSERT INTO users (id, email) VALUES (1302, 'm3');
INSERT INTO users (id, email) VALUES (1, 'again');

SELECT count(*) FROM users WHERE id = 1302;
--@ multi
--@ error 42601
INSERT INTO users (id, email) VALUES (1303, 'm3');
SELEC 1;

SELECT count(*) FROM users WHERE id = 1303;
--@ multi
BEGIN;
UPDATE users SET name = 'multi' WHERE id = 20;
UPDATE users SET name = 'multi' WHERE id = 21;
COMMIT;
SELECT id, name FROM users WHERE id IN (20, 21) ORDER BY id;

--@ multi
SELECT 1;
SELECT 'two' AS b, 2 AS c;
SELECT name FROM users WHERE id = 3;
SELECT count(*) FROM users;

--@ multi
BEGIN;
INSERT INTO users (id, email) VALUES (1304, 'open');

SELECT count(*) FROM users WHERE id = 1304;
ROLLBACK;
--@ multi
SET statement_timeout = '8s';
SET TIME ZONE 'UTC';

SHOW statement_timeout;
--@ multi
--@ error 22012
SELECT 1;
SELECT 1 / 0;
SELECT 2;

--@ multi
;
;

--@ simple
;

-- PostgreSQL parses first: what is not of its language is told so, also in a failed transaction.
BEGIN;
--@ error 42703
SELECT nothing FROM users;
--@ error 42601
SELECT name FROM users WHERE ORDER BY 1;
--@ error 42601
UPDATE users SET;
--@ error 25P02
SELECT nothing FROM nowhere;
ROLLBACK;
BEGIN;
UPDATE users SET name = 'kept' WHERE id = 5;
SAVEPOINT here;
--@ error 22012
SELECT 1 / 0;
--@ error 42601
SELEKT 1;
--@ error 25P02
SELECT 1;
ROLLBACK TO here;
SELECT name FROM users WHERE id = 5;
ROLLBACK;

-- A statement that fails on the first of its shards, while the others have not yet been heard.
BEGIN;
--@ error 42703
SELECT nothing FROM users;
--@ error 25P02
SELECT count(*) FROM users;
--@ error 25P02
SELECT name FROM users WHERE id = 3;
ROLLBACK;
SELECT count(*) FROM users;

BEGIN;
SAVEPOINT before_it;
--@ error 42703
SELECT nothing FROM users ORDER BY id LIMIT 3;
ROLLBACK TO SAVEPOINT before_it;
SELECT count(*) FROM users;
COMMIT;
-- Rows locked over shards: in order; as many as are asked for.
BEGIN;
SELECT id, name FROM users WHERE country = 'de' ORDER BY id FOR UPDATE;
SELECT id FROM users WHERE id < 9 ORDER BY id DESC FOR NO KEY UPDATE NOWAIT;
--@ shape
SELECT id FROM users WHERE id < 20 LIMIT 4 FOR UPDATE SKIP LOCKED;
--@ shape
--@ params int8=3
SELECT id FROM users WHERE id < 20 LIMIT $1 FOR UPDATE;
--@ shape
--@ params int8=3 | int8=2
SELECT id FROM users WHERE id < 20 LIMIT $1 OFFSET $2 FOR SHARE;
SELECT id FROM users WHERE id < 20 LIMIT 0 FOR UPDATE;
SELECT count(*) FROM (SELECT id FROM users WHERE id = 5 FOR UPDATE) x;
COMMIT;
