CREATE TABLE ddl_sharded (id bigint PRIMARY KEY, a text, n int DEFAULT 7);
INSERT INTO ddl_sharded VALUES (1, 'one'), (2, 'two'), (3, 'three'), (4, NULL);
SELECT * FROM ddl_sharded ORDER BY id;
SELECT * FROM ddl_sharded WHERE id = 2;
ALTER TABLE ddl_sharded ADD COLUMN extra numeric(5, 2) NOT NULL DEFAULT 1.5;
SELECT * FROM ddl_sharded ORDER BY id;
INSERT INTO ddl_sharded (id, a, extra) VALUES (5, 'five', 9) RETURNING *;
ALTER TABLE ddl_sharded RENAME COLUMN a TO label;
SELECT label FROM ddl_sharded WHERE id = 1;
--@ error 42703
SELECT a FROM ddl_sharded WHERE id = 1;
ALTER TABLE ddl_sharded ALTER COLUMN n TYPE bigint;
SELECT n FROM ddl_sharded ORDER BY id;
SELECT sum(n) FROM ddl_sharded;
ALTER TABLE ddl_sharded ADD CONSTRAINT n_positive CHECK (n > 0);
--@ error 23514
INSERT INTO ddl_sharded (id, n) VALUES (6, -1);
CREATE INDEX ddl_label ON ddl_sharded (label);
CREATE INDEX IF NOT EXISTS ddl_label ON ddl_sharded (label);
--@ error 42P07
CREATE INDEX ddl_label ON ddl_sharded (label);
CREATE UNIQUE INDEX ddl_unique ON ddl_sharded (id, label);
CREATE INDEX CONCURRENTLY ddl_concurrent ON ddl_sharded (n);
SELECT label FROM ddl_sharded WHERE label = 'two';
DROP INDEX ddl_label;
DROP INDEX CONCURRENTLY ddl_concurrent;
ALTER TABLE ddl_sharded DROP COLUMN extra;
--@ error 23502
ALTER TABLE ddl_sharded ALTER COLUMN label SET NOT NULL, ALTER COLUMN label SET DEFAULT 'x';
CREATE TABLE ddl_child (parent bigint REFERENCES ddl_sharded (id), k int, PRIMARY KEY (parent, k));
INSERT INTO ddl_child VALUES (1, 1), (2, 1), (2, 2);
--@ error 23503
INSERT INTO ddl_child VALUES (99, 1);
SELECT p.label, c.k FROM ddl_sharded p JOIN ddl_child c ON c.parent = p.id ORDER BY p.id, c.k;
COMMENT ON TABLE ddl_sharded IS 'a comment';
COMMENT ON COLUMN ddl_sharded.label IS 'another';
SELECT obj_description('ddl_sharded'::regclass);
CREATE TABLE ddl_reference (code int PRIMARY KEY, label text);
INSERT INTO ddl_reference VALUES (1, 'r1'), (2, 'r2');
SELECT s.id, r.label FROM ddl_sharded s LEFT JOIN ddl_reference r ON r.code = s.id ORDER BY s.id;
CREATE TABLE ddl_single (id serial PRIMARY KEY, label text);
--@ ids 1
INSERT INTO ddl_single (label) VALUES ('a'), ('b') RETURNING id, label;
SELECT label FROM ddl_single ORDER BY id;
CREATE TABLE IF NOT EXISTS ddl_single (id int);
CREATE VIEW ddl_view AS SELECT code, upper(label) AS label FROM ddl_reference;
SELECT * FROM ddl_view ORDER BY code;
CREATE OR REPLACE VIEW ddl_view AS SELECT code, lower(label) AS label FROM ddl_reference;
SELECT * FROM ddl_view WHERE code = 1;
DROP VIEW ddl_view;
CREATE VIEW ddl_sharded_view AS SELECT id, label FROM ddl_sharded;
SELECT count(*) FROM ddl_sharded_view;
DROP VIEW IF EXISTS ddl_sharded_view;
CREATE TYPE ddl_mood AS ENUM ('sad', 'ok', 'happy');
ALTER TABLE ddl_reference ADD COLUMN mood ddl_mood DEFAULT 'ok';
SELECT code, mood FROM ddl_reference ORDER BY mood, code;
ALTER TYPE ddl_mood ADD VALUE 'ecstatic';
UPDATE ddl_reference SET mood = 'happy' WHERE code = 2;
SELECT mood FROM ddl_reference ORDER BY mood;
--@ error 22P02
UPDATE ddl_reference SET mood = 'angry' WHERE code = 2;
ALTER TABLE ddl_sharded ADD COLUMN mood ddl_mood;
UPDATE ddl_sharded SET mood = 'sad' WHERE id = 1;
UPDATE ddl_sharded SET mood = 'happy' WHERE id = 2;
SELECT id, mood FROM ddl_sharded ORDER BY mood, id;
SELECT max(mood) FROM ddl_sharded;
ALTER TABLE ddl_sharded DROP COLUMN mood;
ALTER TABLE ddl_reference DROP COLUMN mood;
DROP TYPE ddl_mood;
CREATE FUNCTION ddl_double(n int) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT n * 2 $$;
SELECT ddl_double(21);
SELECT id, ddl_double(n::int) FROM ddl_sharded ORDER BY id;
DROP FUNCTION ddl_double(int);
CREATE SEQUENCE ddl_sequence;
--@ shape
SELECT nextval('ddl_sequence');
DROP SEQUENCE ddl_sequence;
CREATE SCHEMA ddl_schema;
DROP SCHEMA ddl_schema;
BEGIN;
ALTER TABLE ddl_sharded ADD COLUMN tx int DEFAULT 3;
SELECT sum(tx) FROM ddl_sharded;
ROLLBACK;
--@ error 42703
SELECT tx FROM ddl_sharded WHERE id = 1;
BEGIN;
ALTER TABLE ddl_sharded ADD COLUMN tx int DEFAULT 4;
INSERT INTO ddl_sharded (id, label, tx) VALUES (20, 'tx', 5);
COMMIT;
SELECT tx FROM ddl_sharded ORDER BY id;
-- A migration that fails on one shard only leaves no shard changed.
--@ error 23514
ALTER TABLE ddl_sharded ADD CONSTRAINT ddl_fails CHECK (id <> 3);
INSERT INTO ddl_sharded (id, label) VALUES (30, 'last');
TRUNCATE ddl_child;
SELECT count(*) FROM ddl_child;
ALTER TABLE ddl_sharded RENAME TO ddl_renamed;
SELECT count(*) FROM ddl_renamed;
ALTER TABLE ddl_renamed RENAME TO ddl_sharded;
DROP TABLE ddl_child;
--@ error 42P01
SELECT * FROM ddl_child;
DROP TABLE ddl_sharded, ddl_reference;
DROP TABLE IF EXISTS ddl_single;
DROP TABLE IF EXISTS ddl_single;
CREATE TEMP TABLE scratch (id int, note text);
INSERT INTO scratch VALUES (1, 'a'), (2, 'b');
SELECT * FROM scratch ORDER BY id;
SELECT s.note, c.name FROM scratch s JOIN countries c ON c.code = 'de' ORDER BY s.id;
DROP TABLE scratch;
CREATE TABLE ddl_sharded AS SELECT id, name FROM users WHERE id < 5;
SELECT * FROM ddl_sharded ORDER BY id;
CREATE TABLE IF NOT EXISTS ddl_sharded AS SELECT id, name FROM users WHERE id < 9;
SELECT count(*) FROM ddl_sharded;
DROP TABLE IF EXISTS ddl_sharded;
CREATE TABLE ddl_sharded (id, label) AS SELECT id, upper(name) FROM users WHERE id < 7 WITH NO DATA;
SELECT * FROM ddl_sharded;
DROP TABLE ddl_sharded;
CREATE TABLE ddl_single AS SELECT code, name FROM countries;
SELECT count(*) FROM ddl_single;
DROP TABLE ddl_single;
CREATE MATERIALIZED VIEW ddl_stored AS SELECT code, upper(name) AS name FROM countries;
SELECT count(*) FROM ddl_stored;
REFRESH MATERIALIZED VIEW ddl_stored;
DROP MATERIALIZED VIEW ddl_stored;
CREATE TEMP VIEW scratch_view AS SELECT code FROM countries WHERE code = 'de';
SELECT * FROM scratch_view;
DROP VIEW scratch_view;
CREATE TEMP SEQUENCE scratch_sequence START 5;
SELECT nextval('scratch_sequence');
SELECT currval('scratch_sequence');
DROP SEQUENCE scratch_sequence;
VACUUM users;
--@ shape
ANALYZE;
ANALYZE users, orders;
ANALYZE orders;
--@ shape
EXPLAIN SELECT * FROM countries;
GRANT SELECT ON users TO PUBLIC;
REVOKE SELECT ON users FROM PUBLIC;
SELECT relname, relkind FROM pg_class WHERE relname IN ('users', 'orders', 'countries') ORDER BY relname;
SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_name = 'users' ORDER BY ordinal_position;
SELECT conname, contype FROM pg_constraint WHERE conrelid = 'orders'::regclass ORDER BY conname;
SELECT indexname FROM pg_indexes WHERE tablename = 'order_items' ORDER BY 1;
SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1;
-- In binary both are OIDs, and those of tables differ between servers.
--@ simple
--@ extended
SELECT 'users'::regclass, 'int8'::regtype;
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'users'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum;
SELECT current_database(), current_user, session_user, current_schema();
SELECT pg_get_serial_sequence('users', 'id');
-- SELECT INTO is CREATE TABLE AS.
--@ simple
--@ extended
SELECT id, name INTO ddl_sharded FROM users WHERE id < 20;
--@ simple
--@ extended
SELECT count(*), min(id), max(name) FROM ddl_sharded;
--@ simple
--@ extended
DROP TABLE ddl_sharded;
WITH c AS (SELECT code, upper(name) AS name FROM countries) SELECT * INTO TABLE public.ddl_reference FROM c ORDER BY code LIMIT 3;
SELECT * FROM ddl_reference ORDER BY code;
DROP TABLE ddl_reference;
--@ error 42P07
SELECT * INTO users FROM countries;
