-- Keys in arrays, as drivers and ORMs send them.
--@ params ?={1,5,9,9,NULL}
SELECT id, name FROM users WHERE id = ANY ($1) ORDER BY id;
--@ params int8[]={1,5,9}
SELECT id, name FROM users WHERE id = ANY ($1) ORDER BY id;
--@ params int4[]={1,5,9}
SELECT id, name FROM users WHERE id = ANY ($1) ORDER BY id;
--@ params ?={}
SELECT id, name FROM users WHERE id = ANY ($1) ORDER BY id;
--@ params ?=\N
SELECT id, name FROM users WHERE id = ANY ($1) ORDER BY id;
--@ params ?={{1,2},{3,4}}
SELECT id FROM users WHERE id = ANY ($1::bigint[]) ORDER BY id;
--@ params ?=[2:3]={7,8}
SELECT id FROM users WHERE id = ANY ($1::bigint[]) ORDER BY id;
--@ error 22P02
--@ params ?={1,x}
SELECT id FROM users WHERE id = ANY ($1::bigint[]) ORDER BY id;
--@ error 22P02
--@ params ?={1,2
SELECT id FROM users WHERE id = ANY ($1::bigint[]) ORDER BY id;
SELECT id FROM users WHERE id = ANY ('{3,4,5}') ORDER BY id;
SELECT id FROM users WHERE id = ANY ('{ 3 , "4",5 }'::int[]) ORDER BY id;
SELECT id FROM users WHERE id = ANY (ARRAY[3, 4, 5]::bigint[]) ORDER BY id;
SELECT id FROM users WHERE NOT id = ANY ('{3,4,5}') AND id < 8 ORDER BY id;
SELECT id FROM users WHERE id <> ALL ('{3,4,5}') AND id < 8 ORDER BY id;
SELECT id FROM users WHERE id = ANY ('{3,4,5}') OR id = 9 ORDER BY id;
SELECT id FROM users WHERE id = ANY ('{3,4,5}') AND id = ANY ('{5,6}') ORDER BY id;
SELECT u.id, o.id FROM users u JOIN orders o ON o.user_id = u.id WHERE u.id = ANY ('{18,19}') ORDER BY 1, 2;
SELECT device, day, value FROM readings WHERE device = ANY ('{device-1,"device-2",nothing}') AND day = ANY ('{2024-06-03,2024-06-04}') ORDER BY 1, 2;
SELECT device, day, value FROM readings WHERE device = ANY ('{device-1,device-2}') AND day = '2024-06-03' ORDER BY 1, 2;
--@ params uuid[]={00000000-0000-4000-8000-000000000001,00000000-0000-4000-8000-000000000002}
SELECT id, kind FROM events WHERE id = ANY ($1) ORDER BY id;
SELECT id, kind FROM events WHERE id = ANY ('{00000000-0000-4000-8000-000000000001,"{00000000-0000-4000-8000-000000000002}"}') ORDER BY id;
--@ params ?={2,3,4} | text=by array
UPDATE users SET name = $2 WHERE id = ANY ($1) RETURNING id, name;
--@ params ?={2}
UPDATE users SET balance = balance + 1 WHERE id = ANY ($1::int8[]) AND country IS NOT NULL;
SELECT id, name, balance FROM users WHERE id IN (2, 3, 4) ORDER BY id;
-- Queries inside a write that stand for themselves.
UPDATE users SET name = 'rich' WHERE balance > (SELECT avg(balance) FROM users) AND id < 20;
UPDATE users SET name = 'poor' WHERE balance <= ALL (SELECT balance FROM users WHERE id < 40);
UPDATE users SET name = 'ordered' WHERE id NOT IN (SELECT user_id FROM orders WHERE user_id IS NOT NULL) AND id IN (SELECT id FROM users ORDER BY id DESC LIMIT 5) RETURNING id;
UPDATE users SET balance = (SELECT count(*) FROM orders), name = (SELECT email FROM users WHERE id = 12) WHERE id IN (10, 11) RETURNING id, balance, name;
UPDATE users SET name = 'none' WHERE id = (SELECT id FROM users WHERE id = -1);
UPDATE users SET name = 'exists' WHERE EXISTS (SELECT 1 FROM orders WHERE amount > 100) AND id = 13;
UPDATE users SET name = 'not there' WHERE NOT EXISTS (SELECT 1 FROM orders WHERE amount > 100) AND id = 13;
--@ params int4=2 | text=limited
UPDATE orders SET status = 'paid' WHERE id IN (SELECT id FROM orders WHERE amount > 10 ORDER BY amount, id LIMIT $1) AND status <> $2;
DELETE FROM order_items WHERE order_id IN (SELECT id FROM orders ORDER BY amount DESC, id LIMIT 2);
DELETE FROM order_items WHERE (user_id, order_id) IN (SELECT user_id, id FROM orders WHERE status = 'shipped');
DELETE FROM readings WHERE value < ANY (SELECT avg(value) FROM readings) AND device LIKE 'device-%';
--@ error 42703
DELETE FROM orders WHERE id IN (SELECT nothing FROM users ORDER BY id LIMIT 1);
INSERT INTO users (id, email, balance) VALUES (5000, 'max', (SELECT max(balance) FROM users)), (5001, 'min', (SELECT min(balance) FROM users)) RETURNING id, balance;
INSERT INTO users (id, email) VALUES ((SELECT max(id) + 1 FROM users), 'next') RETURNING id;
SELECT id, name, balance FROM users ORDER BY id;
SELECT id, status FROM orders ORDER BY id;
SELECT user_id, order_id, line FROM order_items ORDER BY 1, 2, 3;
