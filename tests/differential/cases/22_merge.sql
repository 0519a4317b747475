-- MERGE into sharded tables.
MERGE INTO readings r USING (VALUES ('device-1', '2024-06-01'::date, 100.0::float8), ('new-1', '2024-06-01'::date, 1.0::float8), ('new-2', '2024-06-01'::date, 2.0::float8)) v(device, day, value) ON r.device = v.device AND r.day = v.day WHEN MATCHED THEN UPDATE SET value = v.value WHEN NOT MATCHED THEN INSERT (device, day, value) VALUES (v.device, v.day, v.value);
SELECT * FROM readings WHERE day = '2024-06-01' ORDER BY device;
MERGE INTO readings r USING (SELECT 'device-2' AS device, '2024-06-02'::date AS day) v ON r.device = v.device AND r.day = v.day WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (v.device, v.day, 0);
MERGE INTO readings r USING (SELECT 'device-2' AS device, '2024-06-02'::date AS day) v ON r.device = v.device AND r.day = v.day WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (v.device, v.day, 0);
--@ params text=device-9 | date=2024-07-01 | float8=4.5
MERGE INTO readings r USING (SELECT $1::text AS device, $2::date AS day, $3::float8 AS value) v ON r.device = v.device AND r.day = v.day WHEN MATCHED AND r.value > 4 THEN UPDATE SET value = r.value + v.value WHEN MATCHED THEN DO NOTHING WHEN NOT MATCHED THEN INSERT (device, day, value) VALUES (v.device, v.day, v.value);
SELECT value FROM readings WHERE device = 'device-9';
CREATE TABLE ddl_sharded (id bigint PRIMARY KEY, total numeric, n int NOT NULL DEFAULT 0);
MERGE INTO ddl_sharded s USING (SELECT user_id, sum(amount) AS total, count(*) AS n FROM orders GROUP BY user_id) o ON s.id = o.user_id WHEN MATCHED THEN UPDATE SET total = o.total WHEN NOT MATCHED THEN INSERT (id, total) VALUES (o.user_id, o.total);
SELECT count(*), sum(total), sum(n) FROM ddl_sharded;
MERGE INTO ddl_sharded s USING (SELECT user_id, sum(amount) AS total, count(*) AS n FROM orders GROUP BY user_id) o ON s.id = o.user_id WHEN MATCHED AND o.n > 3 THEN DELETE WHEN MATCHED THEN UPDATE SET n = s.n + o.n::int WHEN NOT MATCHED THEN INSERT VALUES (o.user_id, o.total);
SELECT * FROM ddl_sharded ORDER BY id;
--@ error 23505
MERGE INTO ddl_sharded s USING users u ON s.id = u.id AND u.country = 'de' WHEN MATCHED THEN UPDATE SET total = -1 WHEN NOT MATCHED THEN INSERT (id, total) VALUES (u.id, u.balance);
--@ error 21000
MERGE INTO ddl_sharded s USING orders o ON s.id = o.user_id WHEN MATCHED THEN UPDATE SET total = o.amount;
MERGE INTO ddl_sharded s USING (SELECT * FROM orders WHERE user_id = 18) o ON s.id = o.user_id AND o.id = 1 WHEN MATCHED THEN UPDATE SET total = 5;
MERGE INTO users u USING countries c ON c.code = u.country WHEN MATCHED AND c.code = 'br' THEN UPDATE SET name = c.name;
SELECT id, name FROM users WHERE country = 'br' ORDER BY id;
MERGE INTO ddl_sharded s USING (VALUES (1, 2), (3, 4)) v(a, b) ON s.id = v.a WHEN NOT MATCHED THEN INSERT (id) VALUES (v.b);
MERGE INTO ddl_sharded s USING orders o ON s.n = o.id WHEN NOT MATCHED THEN INSERT (id) VALUES (o.user_id);
BEGIN;
MERGE INTO ddl_sharded s USING (VALUES (901, 2), (902, 4), (903, 5)) v(a, b) ON s.id = v.a WHEN NOT MATCHED THEN INSERT (id, n) VALUES (v.a, v.b);
SELECT count(*) FROM ddl_sharded WHERE id > 900;
ROLLBACK;
SELECT count(*) FROM ddl_sharded WHERE id > 900;
DROP TABLE ddl_sharded;
