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
-- now() is each shard's own in a write over several: the count is not PostgreSQL's.
--@ shape
SELECT count(DISTINCT created_at) FROM users WHERE id IN (1, 2, 3);
COMMIT;
INSERT INTO users (id, email, created_at) VALUES (1001, 'now', now()), (1002, 'now', now()), (1003, 'now', now());
-- now() is each shard's own in a write over several: the count is not PostgreSQL's.
--@ shape
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
