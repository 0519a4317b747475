--@ error 42P01
SELECT * FROM nothing;
--@ error 42P01
SELECT * FROM nothing WHERE id = 5;
--@ error 42P01
SELECT nothing.id FROM users WHERE id = 5;
--@ error 42703
SELECT nothing FROM users;
--@ error 42703
SELECT nothing FROM users WHERE id = 5;
--@ error 42703
SELECT id FROM users WHERE nothing = 5;
--@ error 42703
SELECT u.nothing FROM users u ORDER BY u.id;
--@ error 42702
SELECT id FROM users u JOIN orders o ON o.user_id = u.id;
--@ error 42702
SELECT id FROM users u JOIN orders o ON o.user_id = u.id WHERE u.id = 5;
--@ error 42712
SELECT * FROM users u, orders u;
--@ error 42601
SELEC 1;
--@ error 42601
SELECT FROM WHERE;
--@ error 42601
SELECT * FROM users WHERE id = ;
--@ error 42601
SELECT * FROM users WHERE (id = 5;
--@ error 42601
SELECT 'unterminated FROM users;
--@ error 42601
SELECT 1 /* unterminated;
--@ error 42601
INSERT users VALUES (1);
--@ error 42883
SELECT no_such_function(id) FROM users;
--@ error 42883
SELECT no_such_function(1);
--@ error 42883
SELECT id + name FROM users WHERE id = 5;
--@ error 42883
SELECT * FROM users WHERE name = 5;
--@ error 42883
SELECT sum(name) FROM users;
--@ error 42704
SELECT 1::no_such_type;
--@ error 42804
SELECT id FROM users WHERE name;
--@ error 42804
SELECT id FROM users WHERE id = 1 AND name;
--@ error 22012
SELECT 1 / 0;
--@ error 22012
SELECT id / (id - 5) FROM users WHERE id = 5;
--@ error 22012
SELECT id / (id - 5) FROM users ORDER BY id;
--@ error 22012
SELECT sum(id / (id - 5)) FROM users;
--@ error 22P02
SELECT 'abc'::int;
--@ error 22P02
SELECT * FROM users WHERE id = 'abc';
--@ error 22P02
SELECT * FROM events WHERE id = 'abc';
--@ error 22P02
SELECT name::int FROM users WHERE id = 1;
--@ error 22P02
SELECT name::int FROM users ORDER BY id;
--@ error 22003
SELECT 2147483647::int + 1::int;
--@ error 22003
SELECT * FROM users WHERE id = '99999999999999999999';
SELECT * FROM users WHERE id = 99999999999999999999;
--@ error 22003
SELECT 100000::smallint;
--@ error 22003
SELECT (sum(amount) * 1e10)::int FROM orders;
--@ error 22007
SELECT 'yesterdayish'::date;
--@ error 22008
SELECT '2024-02-30'::date;
--@ error 22007
SELECT * FROM readings WHERE device = 'device-1' AND day = 'not a day';
--@ error 2202E
SELECT jsonb_object('{a}');
--@ error 42803
SELECT id, count(*) FROM users;
--@ error 42803
SELECT id FROM users WHERE count(*) > 1;
--@ error 42803
SELECT sum(count(*)) FROM users;
--@ error 42P20
SELECT id FROM users WHERE row_number() OVER () = 1;
--@ error 42601
SELECT id FROM users UNION SELECT id, name FROM users;
--@ error 42804
SELECT id FROM users UNION SELECT email FROM users;
--@ error 42601
SELECT (SELECT id, name FROM users WHERE id = 1);
--@ error 21000
SELECT (SELECT id FROM users WHERE id < 3);
--@ error 21000
SELECT (SELECT code FROM countries);
--@ error 42P01
UPDATE nothing SET id = 1;
--@ error 42P01
DELETE FROM nothing;
--@ error 42P01
COPY nothing FROM STDIN;
--@ error 42P01
DROP TABLE nothing;
--@ error 42P01
TRUNCATE nothing;
--@ error 42P07
CREATE TABLE users (id int);
--@ error 42P07
CREATE TABLE countries (id int);
--@ error 42701
ALTER TABLE users ADD COLUMN name text;
--@ error 42703
ALTER TABLE users DROP COLUMN nothing;
--@ error 42501
CREATE ROLE somebody;
--@ error 42501
SELECT pg_read_file('/etc/passwd');
--@ error 42501
COPY users TO '/tmp/nowhere';
--@ error 3F000
CREATE TABLE no_schema.t (id int);
--@ error 42P01
SELECT * FROM no_schema.t;
--@ error 0A000
SELECT * FROM otherdb.public.users;
--@ error 34000
FETCH 1 FROM no_cursor;
--@ error 34000
CLOSE no_cursor;
--@ error 42P13
CREATE FUNCTION bad() RETURNS int LANGUAGE sql AS $$ SELECT 'x'::text $$;
--@ error P0001
DO $$ BEGIN RAISE EXCEPTION 'by hand'; END $$;
--@ simple
--@ error 2F005
CREATE OR REPLACE FUNCTION pg_temp.no_return() RETURNS int LANGUAGE plpgsql AS $$ BEGIN END $$; SELECT pg_temp.no_return();
--@ error 22021
SELECT convert_from('\xff', 'UTF8');
--@ error 54000
SELECT repeat('x', 1100000000);
--@ error 22P05
SELECT convert('日本', 'UTF8', 'LATIN1');
--@ error 2201B
SELECT regexp_replace('a', '(', '');
--@ error 42P10
SELECT DISTINCT ON (country) id FROM users ORDER BY id;
--@ error 22014
SELECT ntile(0) OVER (ORDER BY id) FROM users;
SELECT 'still here' AS after_all_errors;
