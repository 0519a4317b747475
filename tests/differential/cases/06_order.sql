SELECT id FROM users ORDER BY id;
SELECT id FROM users ORDER BY id DESC;
SELECT id, name FROM users ORDER BY name, id;
SELECT id, name FROM users ORDER BY name DESC, id;
SELECT id, name FROM users ORDER BY name NULLS FIRST, id;
SELECT id, name FROM users ORDER BY name DESC NULLS LAST, id DESC;
--@ ties 2
SELECT id, balance FROM users ORDER BY balance;
--@ ties 1
SELECT country, id FROM users ORDER BY country DESC;
SELECT id FROM users ORDER BY name, id;
SELECT name FROM users ORDER BY id;
SELECT id FROM users ORDER BY balance DESC, created_at, id;
SELECT email FROM users ORDER BY country NULLS FIRST, id LIMIT 12;
SELECT id AS x, -id AS y FROM users ORDER BY y LIMIT 5;
SELECT id, balance * 2 AS b FROM users ORDER BY b DESC, 1 LIMIT 10;
SELECT id FROM users ORDER BY id % 7, id LIMIT 10;
SELECT id FROM users ORDER BY lower(name), id LIMIT 15;
SELECT id FROM users ORDER BY length(name) DESC NULLS LAST, id LIMIT 15;
SELECT id, name FROM users ORDER BY 2, 1 LIMIT 15;
SELECT id, name FROM users ORDER BY name COLLATE "C", id LIMIT 15;
SELECT id FROM users ORDER BY created_at, id LIMIT 10;
SELECT name AS id, id AS name FROM users ORDER BY name LIMIT 5;
SELECT u.id AS other FROM users u ORDER BY u.id LIMIT 3;
SELECT * FROM users ORDER BY id LIMIT 5;
SELECT * FROM users ORDER BY balance, id LIMIT 5 OFFSET 50;
SELECT *, balance + 1 AS more FROM users ORDER BY more, id LIMIT 4;
SELECT users.*, id FROM users ORDER BY users.id DESC LIMIT 3;
SELECT id FROM users ORDER BY id LIMIT 0;
SELECT id FROM users ORDER BY id LIMIT 1;
SELECT id FROM users ORDER BY id LIMIT ALL OFFSET 55;
SELECT id FROM users ORDER BY id OFFSET 58;
SELECT id FROM users ORDER BY id OFFSET 100;
SELECT id FROM users ORDER BY id LIMIT 1000 OFFSET 59;
SELECT id FROM users ORDER BY id LIMIT NULL OFFSET 57;
SELECT id FROM users ORDER BY id LIMIT 2 + 3;
SELECT id FROM users ORDER BY id FETCH FIRST 3 ROWS ONLY;
SELECT id FROM users ORDER BY id OFFSET 2 ROWS FETCH NEXT 2 ROWS ONLY;
SELECT country FROM users WHERE country IS NOT NULL ORDER BY country FETCH FIRST 3 ROWS WITH TIES;
--@ error 2201W
SELECT id FROM users ORDER BY id LIMIT -1;
--@ error 2201X
SELECT id FROM users ORDER BY id OFFSET -1;
--@ error 42P10
SELECT id FROM users ORDER BY 2;
--@ shape
SELECT id FROM users LIMIT 4;
--@ shape
SELECT id FROM users LIMIT 4 OFFSET 58;
SELECT amount, id FROM orders ORDER BY amount DESC, id LIMIT 10;
SELECT status, amount, id FROM orders ORDER BY status, amount DESC, id LIMIT 20 OFFSET 30;
SELECT placed_at, id FROM orders ORDER BY placed_at DESC, id DESC LIMIT 5;
SELECT device, day, value FROM readings ORDER BY value, device, day LIMIT 20;
SELECT device, day, value FROM readings ORDER BY value DESC, device, day LIMIT 20;
SELECT day, device FROM readings ORDER BY day DESC, device DESC LIMIT 7;
SELECT id, kind FROM events ORDER BY id DESC LIMIT 3;
SELECT id, kind FROM events ORDER BY kind, at DESC LIMIT 5;
SELECT id, payload FROM events ORDER BY payload, id LIMIT 6;
SELECT name FROM countries ORDER BY name;
SELECT code FROM countries ORDER BY name DESC;
SELECT sku, price FROM products ORDER BY price DESC, sku;
SELECT id FROM users ORDER BY id = 5 DESC, id LIMIT 3;
SELECT id FROM users ORDER BY CASE country WHEN 'jp' THEN 0 WHEN 'gr' THEN 1 ELSE 2 END, id LIMIT 12;
SELECT id FROM users ORDER BY country = 'de', id LIMIT 12;
SELECT id FROM users ORDER BY name USING >, id LIMIT 5;
SELECT id FROM users WHERE id IN (3, 1, 2) ORDER BY array_position(ARRAY[3, 1, 2]::bigint[], id);
SELECT DISTINCT country FROM users;
SELECT DISTINCT country FROM users ORDER BY country;
SELECT DISTINCT country FROM users ORDER BY country DESC NULLS LAST LIMIT 3;
SELECT DISTINCT country, name FROM users ORDER BY name, country LIMIT 10;
SELECT DISTINCT status FROM orders ORDER BY 1 OFFSET 1;
SELECT DISTINCT user_id FROM orders ORDER BY user_id LIMIT 10;
SELECT DISTINCT balance FROM users ORDER BY balance LIMIT 10;
SELECT DISTINCT * FROM settings ORDER BY name;
SELECT DISTINCT ON (country) country, id FROM users ORDER BY country, id;
SELECT DISTINCT ON (user_id) user_id, id, amount FROM orders ORDER BY user_id, id DESC LIMIT 10;
--@ error 42P10
SELECT DISTINCT country FROM users ORDER BY id;
SELECT DISTINCT value FROM readings ORDER BY value NULLS FIRST;
SELECT DISTINCT lower(name) FROM users ORDER BY lower(name);
SELECT ALL country FROM users WHERE id < 4 ORDER BY id;
SELECT id FROM users WHERE name = 'Ada' ORDER BY id LIMIT 1;
SELECT id FROM orders WHERE user_id = 18 ORDER BY amount, id LIMIT 1 OFFSET 1;
-- Gathered: what a merge cannot put in order.
SELECT id, name FROM users ORDER BY name COLLATE "C" DESC NULLS LAST, id LIMIT 4 OFFSET 1 + 1;
SELECT DISTINCT payload -> 'user' AS who FROM events ORDER BY who LIMIT 5;
SELECT country, id FROM users ORDER BY country NULLS FIRST, id FETCH FIRST 2 ROWS WITH TIES;
--@ params int8=3
SELECT id FROM users ORDER BY id LIMIT $1 + 1;
