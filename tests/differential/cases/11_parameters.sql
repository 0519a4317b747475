--@ params int8=5
SELECT id, name FROM users WHERE id = $1;
--@ params int8=999
SELECT id, name FROM users WHERE id = $1;
--@ params int8=\N
SELECT id, name FROM users WHERE id = $1;
--@ params int4=5
SELECT id FROM users WHERE id = $1;
--@ params int2=5
SELECT id FROM users WHERE id = $1;
--@ params numeric=5
SELECT id FROM users WHERE id = $1;
--@ params numeric=5.5
SELECT id FROM users WHERE id = $1;
--@ params float8=5
SELECT id FROM users WHERE id = $1;
--@ params ?=5
SELECT id, name FROM users WHERE id = $1;
--@ params ?=5
SELECT id, name FROM users WHERE id = $1::int;
--@ error 22P02
--@ params ?=abc
SELECT id, name FROM users WHERE id = $1;
--@ params int8=3 | int8=4
SELECT id FROM users WHERE id IN ($1, $2) ORDER BY id;
--@ params int8=3 | int8=\N
SELECT id FROM users WHERE id IN ($1, $2) ORDER BY id;
--@ params int8[]={3,4,60,NULL,61}
SELECT id FROM users WHERE id = ANY ($1) ORDER BY id;
--@ params int8[]={}
SELECT id FROM users WHERE id = ANY ($1) ORDER BY id;
--@ params int4[]={3,4}
SELECT id FROM users WHERE id = ANY ($1) ORDER BY id;
--@ params int8[]=\N
SELECT id FROM users WHERE id = ANY ($1) ORDER BY id;
--@ params text=Ada
SELECT id FROM users WHERE name = $1 ORDER BY id;
--@ params int8=18 | text=paid
SELECT id, amount FROM orders WHERE user_id = $1 AND status = $2 ORDER BY id;
--@ params int8=18
SELECT u.name, o.id FROM users u JOIN orders o ON o.user_id = u.id WHERE u.id = $1 ORDER BY o.id;
--@ params int8=18
SELECT count(*), sum(amount) FROM orders WHERE user_id = $1;
--@ params numeric=100
SELECT count(*), sum(amount) FROM orders WHERE amount > $1;
--@ params numeric=100
SELECT status, count(*) FROM orders WHERE amount > $1 GROUP BY status ORDER BY status;
--@ params int8=2
SELECT status, count(*) FROM orders GROUP BY status HAVING count(*) > $1 ORDER BY status;
--@ params int8=3
SELECT id FROM users ORDER BY id LIMIT $1;
--@ params int8=3 | int8=4
SELECT id FROM users ORDER BY id LIMIT $1 OFFSET $2;
--@ params int8=\N | int8=57
SELECT id FROM users ORDER BY id LIMIT $1 OFFSET $2;
--@ error 2201W
--@ params int8=-1
SELECT id FROM users ORDER BY id LIMIT $1;
--@ params text=device-3 | date=2024-06-04
SELECT * FROM readings WHERE device = $1 AND day = $2;
--@ params date=2024-06-04
SELECT * FROM readings WHERE day = $1 ORDER BY device;
--@ params uuid=00000000-0000-4000-8000-000000000004
SELECT id, kind, payload, at FROM events WHERE id = $1;
--@ params ?=00000000-0000-4000-8000-000000000004
SELECT id, kind FROM events WHERE id = $1;
--@ params jsonb={"user": 4}
SELECT id FROM events WHERE payload @> $1 ORDER BY id;
--@ params timestamptz=2024-03-10 00:00:00+00 | timestamptz=2024-03-12 00:00:00+00
SELECT id, placed_at FROM orders WHERE placed_at BETWEEN $1 AND $2 ORDER BY placed_at, id;
--@ params int8=1500 | text=param@example.org | text=\N
INSERT INTO users (id, email, name) VALUES ($1, $2, $3);
--@ params int8=1501 | text=a | int8=1502 | text=b | int8=1503 | text=c
--@ ordered
INSERT INTO users (id, email) VALUES ($1, $2), ($3, $4), ($5, $6) RETURNING id, email;
--@ params int8=1500 | text=changed
INSERT INTO users (id, email) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET email = EXCLUDED.email RETURNING email;
--@ params text=auto@example.org
--@ ids 1
--@ save auto
INSERT INTO users (email) VALUES ($1) RETURNING id;
--@ params text=auto1 | text=auto2 | text=auto3
--@ ids 1
--@ ordered
INSERT INTO users (email) VALUES ($1), ($2), ($3) RETURNING id, email;
--@ params int8=1500
SELECT email, name FROM users WHERE id = $1;
--@ params text=device-x | date=2024-09-09 | float8=1.5
INSERT INTO readings VALUES ($1, $2, $3);
--@ params text=x | int8=1500
UPDATE users SET name = $1 WHERE id = $2;
--@ params numeric=2.50 | int8[]={1500,1501,1502}
UPDATE users SET balance = balance + $1 WHERE id = ANY ($2) RETURNING id, balance;
--@ params int8=1503
DELETE FROM users WHERE id = $1 RETURNING email;
--@ params numeric=119
UPDATE orders SET status = 'paid' WHERE amount > $1;
--@ error 23502
--@ params int8=\N | text=x
INSERT INTO users (id, email) VALUES ($1, $2);
--@ error 23505
--@ params int8=1 | text=x
INSERT INTO users (id, email) VALUES ($1, $2);
--@ params int4=7 | text=seven
SELECT $1::int + 1 AS n, $2 || '!' AS t;
--@ params bool=t | bytea=\x00ff | float4=1.5 | int4[]={1,2} | inet=10.0.0.1 | interval=1 day | time=10:00
SELECT $1 AS b, $2 AS y, $3 AS f, $4 AS a, $5 AS i, $6 AS v, $7 AS t;
--@ error 42P18
--@ extended
SELECT $1 IS NULL;
--@ error 42P02
--@ simple
SELECT $1;
--@ extended
SELECT id, name FROM users WHERE id = 5;
--@ prepared
SELECT id, name, balance, created_at FROM users WHERE id IN (5, 6, 40) ORDER BY balance, id;
PREPARE by_id (bigint) AS SELECT id, name FROM users WHERE id = $1;
EXECUTE by_id (5);
EXECUTE by_id (6);
EXECUTE by_id (6 + 1);
DEALLOCATE by_id;
--@ error 26000
EXECUTE by_id (5);
PREPARE add_user AS INSERT INTO users (id, email) VALUES ($1, $2);
EXECUTE add_user (1600, 'prepared');
--@ error 42P05
PREPARE add_user AS SELECT 1;
SELECT email FROM users WHERE id = 1600;
PREPARE totals (text) AS SELECT count(*), sum(amount) FROM orders WHERE status = $1;
EXECUTE totals ('paid');
DEALLOCATE ALL;
--@ error 26000
DEALLOCATE totals;
