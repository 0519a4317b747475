COPY users (id, email, name) FROM STDIN;
--@ data
1001	a@example.org	A
1002	b@example.org	\N
1003	tab\there	back\\slash
1004	ä	日本
1005	line\nbreak	
\.

SELECT id, email, name FROM users WHERE id > 1000 ORDER BY id;
COPY users (id, email, name, country) FROM STDIN WITH (FORMAT csv, HEADER true);
--@ data
id,email,name,country
1011,"quoted, comma",Q,de
1012,"two ""quotes""",,fr
1013,"line
break",x,
1014,plain,"",jp
\.

SELECT id, email, name, country FROM users WHERE id > 1010 ORDER BY id;
COPY users (email, id) FROM STDIN (FORMAT csv, DELIMITER ';', NULL 'nil', QUOTE '''');
--@ data
e1;1021
'semi;colon';1022
\.

COPY users (id, email, name, balance) FROM STDIN (FORMAT binary);
--@ binary SELECT n::int8, 'bin' || n, CASE WHEN n % 2 = 0 THEN 'even' END, (n / 4.0)::numeric(12,2) FROM generate_series(1031, 1040) n
SELECT id, email, name, balance FROM users WHERE id > 1020 ORDER BY id;
COPY orders (user_id, id, status, amount) FROM STDIN;
--@ data
1001	1	new	1.50
1001	2	paid	2.50
1011	1	paid	3.50
5	9001	new	4
\.

COPY order_items FROM STDIN (DELIMITER '|');
--@ data
1001|1|1|sku-01|2|0.50
1001|1|2|sku-02|1|1.00
\.

SELECT u.email, o.id, i.line FROM users u JOIN orders o ON o.user_id = u.id LEFT JOIN order_items i ON i.user_id = o.user_id AND i.order_id = o.id WHERE u.id = 1001 ORDER BY 2, 3;
COPY readings FROM STDIN;
--@ data
copy-1	2024-07-01	1.5
copy-1	2024-07-02	\N
copy-2	2024-07-01	-0
copy-3	2024-07-01	NaN
\.

COPY readings (device, day) FROM STDIN (FORMAT binary);
--@ binary SELECT 'bin-' || n, date '2024-08-01' + n FROM generate_series(1, 9) n
SELECT * FROM readings WHERE device LIKE 'copy-%' OR device LIKE 'bin-%' ORDER BY device, day;
COPY events (id, kind, payload) FROM STDIN;
--@ data
11111111-0000-4000-8000-000000000101	copied	{"a": "b\\nc"}
11111111-0000-4000-8000-000000000102	copied	\N
\.

SELECT id, kind, payload FROM events WHERE kind = 'copied' ORDER BY id;
COPY countries FROM STDIN;
--@ data
se	Sverige
no	Norge
\.

COPY settings FROM STDIN (FORMAT csv);
--@ data
copied,"a,b"
\.

SELECT * FROM countries WHERE code IN ('se', 'no') ORDER BY code;
COPY users (email, name) FROM STDIN;
--@ data
auto1@example.org	one
auto2@example.org	two
auto3@example.org	three
auto4@example.org	four
\.

SELECT email, name FROM users WHERE email LIKE 'auto%' ORDER BY email;
SELECT count(DISTINCT id) FROM users WHERE email LIKE 'auto%';
COPY users (id, email) FROM STDIN;
--@ data
\.

COPY users (id, email) FROM STDIN WHERE id > 1060;
--@ data
1060	dropped
1061	kept
\.

SELECT id FROM users WHERE id IN (1060, 1061);
--@ error 23505
COPY users (id, email) FROM STDIN;
--@ data
1101	x
1102	y
1	twice
1103	z
\.

-- None of the failed COPY's rows is on any shard.
SELECT count(*) FROM users WHERE id BETWEEN 1101 AND 1103;
--@ error 22P02
COPY users (id, email) FROM STDIN;
--@ data
1104	x
abc	y
\.

--@ error 22P04
COPY users (id, email) FROM STDIN;
--@ data
1105	x	too many
\.

--@ error 22P04
COPY users (id, email, name) FROM STDIN;
--@ data
1106	x
\.

--@ error 23502
COPY users (id, email) FROM STDIN;
--@ data
\N	x
\.

--@ error 23503
COPY orders (user_id, id, amount) FROM STDIN;
--@ data
777777	1	1
\.

--@ error 23514
COPY orders (user_id, id, amount, status) FROM STDIN;
--@ data
5	9100	1	new
6	9101	1	bad
7	9102	1	new
\.

SELECT count(*) FROM orders WHERE id BETWEEN 9100 AND 9102;
--@ error 42703
COPY users (id, nothing) FROM STDIN;
--@ error 57014
COPY users (id, email) FROM STDIN;
-- What follows is compared byte by byte: no generated ids.
DELETE FROM users WHERE id >= 100000;
COPY users (id, name) TO STDOUT;
COPY users (id, name, country) TO STDOUT (FORMAT csv, HEADER, FORCE_QUOTE (name));
COPY users (id, balance) TO STDOUT (FORMAT binary);
--@ ordered
COPY (SELECT id, name FROM users WHERE id = 5) TO STDOUT;
--@ ordered
COPY (SELECT id, name FROM users ORDER BY id LIMIT 5) TO STDOUT (FORMAT csv);
--@ ordered
COPY (SELECT status, count(*) FROM orders GROUP BY status ORDER BY status) TO STDOUT;
--@ unordered
COPY (SELECT * FROM order_items WHERE user_id = 18) TO STDOUT (FORMAT csv, DELIMITER '|');
-- Once each, not once a shard.
COPY countries TO STDOUT;
COPY products (sku, price) TO STDOUT (FORMAT csv, HEADER);
COPY settings TO STDOUT (NULL 'NULL');
COPY (SELECT 1, 'a', NULL) TO STDOUT;
COPY readings TO STDOUT (FORMAT csv, NULL '-');
COPY events (id, kind) TO STDOUT;
--@ error 42P01
COPY nothing TO STDOUT;
--@ error 42703
COPY users (nothing) TO STDOUT;
BEGIN;
COPY users (id, email) FROM STDIN;
--@ data
1201	tx1
1202	tx2
1203	tx3
\.

SELECT count(*) FROM users WHERE id IN (1201, 1202, 1203);
ROLLBACK;
SELECT count(*) FROM users WHERE id IN (1201, 1202, 1203);
BEGIN;
COPY users (id, email) FROM STDIN;
--@ data
1211	tx1
1212	tx2
\.

COMMIT;
SELECT id FROM users WHERE id IN (1211, 1212) ORDER BY id;
BEGIN;
SAVEPOINT s;
--@ error 23505
COPY users (id, email) FROM STDIN;
--@ data
1221	x
2	twice
\.

ROLLBACK TO s;
SELECT count(*) FROM users WHERE id = 1221;
COMMIT;
--@ error 22P04
COPY readings FROM STDIN (FORMAT binary);
--@ data
this is not binary at all
\.

--@ multi
SELECT 1;
COPY countries (code) TO STDOUT;
SELECT 2;

-- Merged and gathered on the way out.
COPY (SELECT id, name, balance FROM users WHERE id < 9 ORDER BY name NULLS FIRST, id) TO STDOUT (FORMAT csv, HEADER);
COPY (SELECT country, array_agg(id ORDER BY id) FROM users WHERE id < 20 GROUP BY country ORDER BY country) TO STDOUT;
COPY (SELECT id, payload, at FROM events ORDER BY id LIMIT 5) TO STDOUT (FORMAT binary);
COPY (SELECT E'a\tb\\c\n' || name, NULL, '' FROM users WHERE id < 5 ORDER BY id DESC) TO STDOUT (DELIMITER '|', NULL 'none');
COPY (SELECT E'a,"b"\n' || name, NULL, '' FROM users WHERE id < 5 ORDER BY id DESC) TO STDOUT (FORMAT csv);
COPY (SELECT count(*) FROM users a, users b) TO STDOUT;
