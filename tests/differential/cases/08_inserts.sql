INSERT INTO users (id, email, name) VALUES (1001, 'a@example.org', 'A');
INSERT INTO users (id, email) VALUES (1002, 'b@example.org'), (1003, 'c@example.org'), (1004, 'd@example.org');
SELECT id, email, name, balance FROM users WHERE id > 1000 ORDER BY id;
INSERT INTO users VALUES (1005, 'e@example.org', NULL, 'de', '2024-02-02 00:00:00+00', 5);
INSERT INTO users (email, id) VALUES ('f@example.org', 1006);
INSERT INTO users (id, email) VALUES ('1007', 'g@example.org');
INSERT INTO users (id, email) VALUES (1008::bigint, 'h@example.org');
-- Keys that are expressions: the row must lie where reads by that key look.
INSERT INTO users (id, email) VALUES (5 + 1004, 'i@example.org');
INSERT INTO users (id, email) VALUES (abs(-1010), 'j@example.org');
INSERT INTO users (id, email) VALUES (-5, 'k@example.org');
INSERT INTO readings VALUES ('a' || 'b', '2024-01-01', 1);
INSERT INTO readings VALUES ('x', date '2024-01-01' + 1, 2);
INSERT INTO readings VALUES ('x', 'January 8, 2024', 2.5), ('x', '20240109', 3);
SELECT * FROM readings WHERE device IN ('ab', 'x') ORDER BY day;
SELECT id FROM users WHERE id = 1009;
SELECT id FROM users WHERE id = 1010;
SELECT id FROM users WHERE id = -5;
--@ ids 1
--@ save uid
INSERT INTO users (email, name) VALUES ('n1@example.org', 'New') RETURNING id;
SELECT email, name FROM users WHERE id = ${uid};
--@ ids 1
INSERT INTO users (id, email) VALUES (DEFAULT, 'n2@example.org') RETURNING id, email;
--@ ids 1
--@ ordered
INSERT INTO users (email) VALUES ('n3@example.org'), ('n4@example.org'), ('n5@example.org'), ('n6@example.org') RETURNING id, email;
--@ ids 1
--@ save both
INSERT INTO users (email, name) VALUES ('n7@example.org', 'x') RETURNING id, email, name, country, created_at, balance;
--@ ids 1
INSERT INTO users (email, name) VALUES ('n8@example.org', 'x') RETURNING *;
INSERT INTO users (email) VALUES ('n9@example.org');
SELECT count(*) FROM users WHERE email LIKE 'n%@example.org';
--@ ordered
INSERT INTO users (id, email) VALUES (1020, 'o@example.org'), (1021, 'p@example.org'), (1022, 'q@example.org'), (1023, 'r@example.org') RETURNING id, upper(email) AS mail;
INSERT INTO users (id, email) VALUES (1030, 's@example.org') RETURNING id + 1 AS next, 'x';
--@ ids 1
--@ save oid
INSERT INTO orders (user_id, amount) VALUES (${uid}, 12.5) RETURNING id;
INSERT INTO order_items VALUES (${uid}, ${oid}, 1, 'sku-01', 2, 3.5), (${uid}, ${oid}, 2, 'sku-02', 1, 0);
SELECT line, sku, quantity FROM order_items WHERE user_id = ${uid} ORDER BY line;
--@ ids 1
INSERT INTO orders (user_id, amount, status) VALUES (1, 1, 'paid'), (2, 2, 'new'), (3, 3, DEFAULT) RETURNING id, user_id, status;
INSERT INTO countries VALUES ('it', 'Italia');
INSERT INTO countries (code, name) VALUES ('es', 'España'), ('pt', 'Portugal') RETURNING code, name;
INSERT INTO products VALUES ('sku-90', 'Lamp', 1.005);
SELECT * FROM products WHERE sku = 'sku-90';
INSERT INTO settings VALUES ('new', 'setting') RETURNING *;
INSERT INTO events (id, kind, payload) VALUES ('11111111-0000-4000-8000-000000000001', 'made', '{"a": [1, 2, {"b": null}]}');
INSERT INTO events (id, kind) VALUES ('11111111-0000-4000-8000-00000000000A', 'made') RETURNING id, kind, payload, at;
SELECT id, kind, payload FROM events WHERE kind = 'made' ORDER BY id;
--@ ids 1
INSERT INTO events (id, kind) VALUES (gen_random_uuid(), 'random') RETURNING id, kind;
INSERT INTO users (id, email) VALUES (1001, 'again') ON CONFLICT DO NOTHING;
INSERT INTO users (id, email) VALUES (1001, 'again') ON CONFLICT (id) DO NOTHING RETURNING id;
INSERT INTO users (id, email) VALUES (1001, 'upserted') ON CONFLICT (id) DO UPDATE SET email = EXCLUDED.email RETURNING id, email;
INSERT INTO users (id, email, balance) VALUES (1001, 'x', 5), (1040, 'y', 6), (1041, 'z', 7) ON CONFLICT (id) DO UPDATE SET balance = users.balance + EXCLUDED.balance;
SELECT id, email, balance FROM users WHERE id IN (1001, 1040, 1041) ORDER BY id;
INSERT INTO users (id, email) VALUES (1001, 'x'), (1042, 'y') ON CONFLICT (id) DO NOTHING RETURNING id;
INSERT INTO users AS u (id, email) VALUES (1042, 'w') ON CONFLICT ON CONSTRAINT users_pkey DO UPDATE SET name = u.email || EXCLUDED.email WHERE u.email = 'y';
SELECT name FROM users WHERE id = 1042;
--@ error 21000
INSERT INTO users (id, email) VALUES (1050, 'x'), (1050, 'y') ON CONFLICT (id) DO UPDATE SET email = EXCLUDED.email;
INSERT INTO countries VALUES ('it', 'Italy'), ('at', 'Österreich') ON CONFLICT (code) DO UPDATE SET name = EXCLUDED.name;
SELECT * FROM countries WHERE code IN ('it', 'at') ORDER BY code;
INSERT INTO settings VALUES ('new', '2') ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value RETURNING value;
--@ error 42P10
INSERT INTO users (id, email) VALUES (1001, 'x') ON CONFLICT (email) DO NOTHING;
INSERT INTO settings SELECT 'from' || code, name FROM countries WHERE code IN ('de', 'fr');
INSERT INTO settings SELECT 'user' || id, name FROM users WHERE id < 4;
INSERT INTO orders (user_id, id, amount) SELECT id, 7000 + id, 1 FROM users WHERE id = 5;
INSERT INTO orders (user_id, id, amount) SELECT user_id, id + 8000, amount FROM orders WHERE user_id = 18;
INSERT INTO orders (user_id, id, amount) SELECT user_id, id + 9000, amount FROM orders WHERE amount > 110;
INSERT INTO users (id, email) SELECT n, 'g' || n FROM generate_series(2001, 2010) n;
INSERT INTO countries SELECT 'c' || n, 'Country ' || n FROM generate_series(1, 3) n;
INSERT INTO users (id, email) SELECT p0::bigint, p1::text FROM (VALUES (2101, 'sa1', 0), (2102, 'sa2', 1)) AS imp_sen(p0, p1, sen_counter) ORDER BY sen_counter RETURNING users.id, users.id AS id__1;
INSERT INTO users (id, email) SELECT * FROM UNNEST(('{2201,2202,2203}'::int8[])::bigint[], ('{a,b,c}'::text[])::text[]) RETURNING id;
SELECT count(*) FROM users WHERE id > 2000 AND id < 3000;
WITH ins AS (INSERT INTO users (id, email) VALUES (2301, 'cte') RETURNING id) SELECT id FROM ins;
WITH src AS (SELECT 2302 AS id, 'cte2' AS email) INSERT INTO users (id, email) SELECT id, email FROM src;
SELECT count(*) FROM users WHERE id IN (2301, 2302);
--@ error 23505
INSERT INTO users (id, email) VALUES (1, 'twice');
-- One bad row of several: none is inserted on any shard.
--@ error 23505
INSERT INTO users (id, email) VALUES (3001, 'a'), (3002, 'b'), (1, 'twice'), (3003, 'c');
SELECT count(*) FROM users WHERE id IN (3001, 3002, 3003);
--@ error 23502
INSERT INTO users (id, email) VALUES (3001, NULL);
--@ error 23502
INSERT INTO users (id, email) VALUES (3004, 'x'), (3005, NULL), (3006, 'y'), (3007, 'z');
--@ error 23502
INSERT INTO users (id, email) VALUES (NULL, 'x');
--@ error 23503
INSERT INTO users (id, email, country) VALUES (3008, 'x', 'xx');
--@ error 23503
INSERT INTO orders (user_id, id, amount) VALUES (9999, 1, 1);
--@ error 23514
INSERT INTO orders (user_id, id, amount, status) VALUES (1, 9500, 1, 'unknown');
--@ error 22003
INSERT INTO orders (user_id, id, amount) VALUES (1, 9501, 99999999999);
--@ error 22P02
INSERT INTO users (id, email) VALUES ('abc', 'x');
--@ error 22003
INSERT INTO users (id, email) VALUES (99999999999999999999, 'x');
--@ error 42601
INSERT INTO users (id, email) VALUES (3010, 'x', 'too many');
--@ error 42601
INSERT INTO users (id, email) VALUES (3010);
--@ error 42703
INSERT INTO users (id, nothing) VALUES (3010, 'x');
--@ error 42P01
INSERT INTO nothing (id) VALUES (1);
--@ error 22P02
INSERT INTO events (id, kind) VALUES ('not-a-uuid', 'x');
--@ error 22007
INSERT INTO readings VALUES ('x', 'not a day', 1);
--@ error 22P02
INSERT INTO events (id, kind, payload) VALUES ('11111111-0000-4000-8000-0000000000FF', 'x', '{bad');
--@ error 23502
INSERT INTO readings DEFAULT VALUES ON CONFLICT DO NOTHING;
--@ error 23502
INSERT INTO users DEFAULT VALUES;
INSERT INTO users (id, email) OVERRIDING SYSTEM VALUE VALUES (3020, 'override');
INSERT INTO orders VALUES (9600, 18, 'new', 5);
INSERT INTO users (id, email, name) VALUES (3030, E'tab\there', $$dollar 'quoted'$$), (3031, U&'\00e4', 'a''b');
SELECT email, name FROM users WHERE id IN (3030, 3031) ORDER BY id;
-- Rows of a query go to their shards, in order and with their ids.
--@ ordered
INSERT INTO users (id, email, name) SELECT p0::bigint, p1, p2::text FROM (VALUES (4105, 'q5', NULL, 4), (4101, 'q1', 'a', 0), (4103, 'q3', 'c', 2), (4102, 'q2', 'b', 1), (4104, 'q4', 'd', 3)) AS imp_sen(p0, p1, p2, sen_counter) ORDER BY sen_counter RETURNING users.id, users.id AS id__1, name;
--@ ordered
--@ ids 1
INSERT INTO users (email, name) SELECT p0::text, p1::text FROM (VALUES ('s1', 'a', 0), ('s2', 'b', 1), ('s3', 'c', 2), ('s4', 'd', 3), ('s5', 'e', 4)) AS imp_sen(p0, p1, sen_counter) ORDER BY sen_counter RETURNING users.id, users.email;
--@ ordered
--@ params int8=4201 | text=x1 | int4=1 | int8=4202 | text=x2 | int4=2
INSERT INTO users (id, email, balance) SELECT p0, p1, 5 FROM (VALUES ($1::bigint, $2::text, $3::int), ($4, $5, $6)) AS imp_sen(p0, p1, sen_counter) ORDER BY sen_counter DESC RETURNING id, email, balance;
--@ ordered
--@ params ?={4211,4212,4213,4214} | ?={u1,u2,NULL,u4}
INSERT INTO users (id, email, name) SELECT a, 'mail', b FROM UNNEST(($1::int8[])::bigint[], ($2)::text[]) AS t(a, b) RETURNING id, name;
--@ ordered
INSERT INTO users (id, email) SELECT * FROM UNNEST('{4211,4221,4212}'::bigint[], '{c1,c2,c3}'::text[]) ON CONFLICT (id) DO UPDATE SET email = EXCLUDED.email, id = EXCLUDED.id RETURNING id, email;
INSERT INTO users (id, email) SELECT * FROM UNNEST('{4211,4231,4212}'::bigint[], '{d1,d2,d3}'::text[]) ON CONFLICT DO NOTHING RETURNING id;
--@ error 21000
INSERT INTO users (id, email) SELECT * FROM UNNEST('{4211,4211}'::bigint[], '{c1,c2}'::text[]) ON CONFLICT (id) DO UPDATE SET email = EXCLUDED.email;
--@ error 23505
INSERT INTO users (id, email) SELECT n, 'twice' FROM generate_series(4210, 4216) n;
--@ error 23502
INSERT INTO users (id, email) SELECT NULL, 'nobody' FROM generate_series(1, 2);
--@ error 42804
INSERT INTO users (id, email) SELECT 'a' || n, 'x' FROM generate_series(1, 2) n;
--@ error 42601
INSERT INTO users (id, email) SELECT n FROM generate_series(1, 2) n;
--@ error 22012
INSERT INTO users (id, email) SELECT n, (1 / (n - 4303))::text FROM generate_series(4300, 4306) n;
INSERT INTO users (id, email) SELECT n, 'none' FROM generate_series(1, 0) n RETURNING id;
INSERT INTO users (id, email, name, country) SELECT u.id + 50000, u.email || '!', 'copy', c.code FROM users u LEFT JOIN countries c ON c.code = u.country WHERE u.id < 8;
INSERT INTO users (id, email, created_at, balance) SELECT 60000 + id, 'b' || id, created_at, -balance FROM users WHERE id < 30 ORDER BY balance DESC, id LIMIT 5 RETURNING id, created_at, balance;
INSERT INTO events (id, kind, payload) SELECT '22222222-0000-4000-8000-000000000001', 'lit', '{"a": 1}';
INSERT INTO events (id, kind, payload, at) SELECT ('22222222-0000-4000-8000-0000000000' || n)::uuid, 'gen', jsonb_build_object('n', n), timestamptz '2024-01-01 00:00:00+00' + n * interval '1 day' FROM generate_series(10, 15) n RETURNING id, payload, at;
INSERT INTO readings SELECT 'g' || n, date '2024-01-01' + n, n / 3.0 FROM generate_series(1, 9) n;
SELECT id, email, name, country, balance FROM users WHERE id > 4000 AND id < 70000 AND email NOT LIKE 'n%' ORDER BY id, email;
SELECT id, kind, payload, at FROM events WHERE kind IN ('lit', 'gen') ORDER BY id;
SELECT * FROM readings WHERE device LIKE 'g%' ORDER BY device;
-- Rows that are skipped leave the others in their order.
--@ ordered
INSERT INTO users (id, email) VALUES (4301, 'k1'), (5, 'k2'), (4302, 'k3'), (4303, 'k4'), (7, 'k5'), (4304, 'k6'), (4305, 'k7'), (4301, 'k8') ON CONFLICT DO NOTHING RETURNING id, email;
--@ ordered
INSERT INTO users (id, email) SELECT a, b FROM (VALUES (4311, 'l1', 0), (9, 'l2', 1), (4312, 'l3', 2), (4313, 'l4', 3), (11, 'l5', 4), (4314, 'l6', 5)) AS v(a, b, sen) ORDER BY sen ON CONFLICT DO NOTHING RETURNING id, email;
--@ ordered
INSERT INTO users (id, email) VALUES (4301, 'm1'), (4321, 'm2'), (4322, 'm3'), (4302, 'm4'), (4323, 'm5') ON CONFLICT (id) DO UPDATE SET email = excluded.email RETURNING id, email;
DELETE FROM users WHERE id BETWEEN 4301 AND 4323;
-- Keys are computed before the row's shard is known.
--@ params int4=4400 | text=computed
INSERT INTO users (id, email) VALUES ($1 + 1, $2), ($1 + 2, 'y'), (4403, 'z'), ($1 * 2, upper($2)) RETURNING id, email;
--@ error 42804
INSERT INTO users (id, email) VALUES ('4' || '410', 'text') ON CONFLICT DO NOTHING;
INSERT INTO users (id, email) VALUES (4411.6, 'rounded'), ((SELECT 4413), 'scalar'), (length('abc') + 4420, 'len');
--@ error 22012
INSERT INTO users (id, email) VALUES (1 / 0, 'x'), (2, 'y');
--@ error 42703
INSERT INTO users (id, email) VALUES (email, 'x');
--@ error 23502
INSERT INTO users (id, email) VALUES (nullif(1, 1), 'x');
INSERT INTO readings VALUES ('it''s ' || E'a\\b', date '2024-01-01' + 1, 2), (lower('AB'), '2024-01-01'::date + interval '1 day', 3);
SELECT * FROM readings WHERE device LIKE 'it%' OR device = 'ab';
SELECT id, email FROM users WHERE id BETWEEN 4400 AND 9000 ORDER BY id;
--@ shape
INSERT INTO events (id, kind) VALUES (gen_random_uuid(), 'r1'), (gen_random_uuid(), 'r2'), ('33333333-0000-4000-8000-000000000001', 'r3') RETURNING id, kind;
SELECT count(*), count(payload) FROM events WHERE kind LIKE 'r_';
INSERT INTO settings (name, value) SELECT 'u' || id, email FROM users WHERE id IN (1, 2, 3, 4) RETURNING name, value;
INSERT INTO countries SELECT 'x' || id, name || '!' FROM users WHERE id IN (5, 6, 7, 8) ORDER BY id RETURNING code, name;
SELECT * FROM countries WHERE code LIKE 'x%' ORDER BY code;
