--@ shape
SELECT now(), clock_timestamp(), current_date, current_timestamp, localtime;
SELECT now() = transaction_timestamp(), current_date = now()::date;
--@ shape
SELECT random(), gen_random_uuid();
SELECT random() < 1, random() >= 0;
--@ shape
SELECT id, random() FROM users WHERE id < 6 ORDER BY id;
--@ shape
SELECT id FROM users ORDER BY random() LIMIT 5;
SELECT count(*) FROM users WHERE created_at < now();
SELECT count(*) FROM users WHERE created_at > now() - interval '1 second';
SELECT id FROM users WHERE random() < 0;
SELECT id FROM users WHERE id = 5 AND random() >= 0;
SELECT id FROM users WHERE id = (random() * 0)::int + 5;
SELECT count(*) FROM users WHERE random() >= 0;
BEGIN;
SELECT now() = now();
UPDATE users SET created_at = now() WHERE id IN (1, 2, 3);
SELECT count(DISTINCT created_at) FROM users WHERE id IN (1, 2, 3);
COMMIT;
UPDATE users SET created_at = current_timestamp(0) - interval '1 day', name = localtime::text WHERE id IN (4, 5, 6, 7);
SELECT count(DISTINCT created_at), count(DISTINCT name) FROM users WHERE id IN (4, 5, 6, 7);
UPDATE users SET name = 'x' WHERE id IN (4, 5, 6, 7);
--@ shape
UPDATE users SET created_at = now() WHERE id < 9 RETURNING id, now(), created_at AS current_date;
INSERT INTO users (id, email, created_at) VALUES (1001, 'now', now()), (1002, 'now', now()), (1003, 'now', now());
SELECT count(DISTINCT created_at) FROM users WHERE email = 'now';
SELECT pg_backend_pid() > 0;
SELECT version() LIKE 'PostgreSQL %';
SHOW server_version_num;
SHOW client_encoding;
SHOW standard_conforming_strings;
SELECT current_setting('server_encoding');
SELECT txid_current() > 0;
SELECT pg_sleep(0);
SELECT pg_try_advisory_xact_lock(42);
SELECT count(*) FROM (SELECT pg_advisory_xact_lock(id) FROM users WHERE id = 5) x;
--@ shape
SELECT pg_table_size('users') > 0;
SELECT has_table_privilege('users', 'SELECT');
SELECT nextval('users_id_seq') > 0;
-- One time for all shards, also where a default tells it.
INSERT INTO users (id, email) VALUES (1101, 'left'), (1102, 'left'), (1103, 'left'), (1104, 'left');
SELECT count(DISTINCT created_at) FROM users WHERE email = 'left';
INSERT INTO users (email, created_at, id) VALUES ('def', DEFAULT, 1111), ('def', DEFAULT, 1112), ('def', '2020-01-01', 1113), ('def', DEFAULT, 1114);
SELECT count(DISTINCT created_at), min(created_at) FROM users WHERE email = 'def';
--@ ids 1
INSERT INTO users (email) VALUES ('fill'), ('fill'), ('fill'), ('fill') RETURNING id, email;
SELECT count(DISTINCT created_at) FROM users WHERE email = 'fill';
BEGIN;
INSERT INTO users (id, email) VALUES (1121, 'ret'), (1122, 'ret'), (1123, 'ret');
UPDATE users SET name = 'r' WHERE email = 'ret' RETURNING id, now(), current_timestamp = created_at AS same, current_date AS today, localtimestamp(0);
SELECT count(*) FROM users WHERE email = 'ret' AND created_at = (SELECT min(created_at) FROM users WHERE email = 'ret');
COMMIT;
CREATE TABLE ddl_sharded (id bigint PRIMARY KEY, at timestamptz DEFAULT now() NOT NULL, day date DEFAULT CURRENT_DATE + 1, utc timestamp DEFAULT timezone('utc', now()), n int);
INSERT INTO ddl_sharded (id, n) SELECT id, 1 FROM users WHERE id < 20;
SELECT count(DISTINCT at), count(DISTINCT day), count(DISTINCT utc), count(*) FROM ddl_sharded;
INSERT INTO ddl_sharded (id, n) SELECT id + 1000, count(*) FROM users WHERE id < 20 GROUP BY id;
SELECT count(DISTINCT at), count(DISTINCT day), count(DISTINCT utc), count(*) FROM ddl_sharded WHERE id > 1000;
UPDATE ddl_sharded SET id = id + 5000, at = now() WHERE id < 20;
SELECT count(DISTINCT at), count(*) FROM ddl_sharded WHERE id > 5000;
MERGE INTO ddl_sharded d USING (VALUES (7001, 1), (7002, 2), (7003, 3)) v(id, n) ON d.id = v.id WHEN NOT MATCHED THEN INSERT (id, n, at) VALUES (v.id, v.n, now());
SELECT count(DISTINCT at) FROM ddl_sharded WHERE id > 7000;
DROP TABLE ddl_sharded;
