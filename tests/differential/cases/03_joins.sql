SELECT u.name, o.id, o.amount FROM users u JOIN orders o ON o.user_id = u.id WHERE u.id = 18 ORDER BY o.id;
SELECT u.name, o.id FROM users u JOIN orders o ON o.user_id = u.id WHERE o.user_id = 18 ORDER BY o.id;
SELECT u.id, o.id FROM users u JOIN orders o ON o.user_id = u.id ORDER BY o.id LIMIT 20;
SELECT u.id, o.id FROM users u, orders o WHERE o.user_id = u.id AND o.amount > 110 ORDER BY o.id;
SELECT u.id, o.id, i.line, i.sku FROM users u JOIN orders o ON o.user_id = u.id JOIN order_items i ON i.user_id = o.user_id AND i.order_id = o.id WHERE u.id = 4 ORDER BY 2, 3;
SELECT u.id, o.id, i.line FROM users u JOIN orders o ON u.id = o.user_id JOIN order_items i ON i.user_id = u.id AND i.order_id = o.id WHERE i.quantity = 5 ORDER BY o.id, i.line;
SELECT o.id, i.line FROM orders o JOIN order_items i USING (user_id) WHERE o.id = i.order_id AND i.quantity = 5 ORDER BY 1, 2;
SELECT user_id, o.id, i.line FROM orders o JOIN order_items i USING (user_id) WHERE user_id = 18 AND o.id = i.order_id ORDER BY 1, 2, 3;
SELECT u.id, c.name FROM users u JOIN countries c ON c.code = u.country WHERE u.id = 5;
SELECT u.id, c.name FROM users u JOIN countries c ON c.code = u.country ORDER BY u.id;
SELECT u.id, c.name FROM users u LEFT JOIN countries c ON c.code = u.country ORDER BY u.id LIMIT 30;
SELECT c.code, c.name FROM countries c JOIN users u ON u.country = c.code WHERE u.id = 5;
-- Reference on the preserved side of an outer join: rows without partner exist once, not once a shard.
SELECT c.code, u.id FROM countries c LEFT JOIN users u ON u.country = c.code ORDER BY c.code, u.id;
SELECT c.code, u.id FROM users u RIGHT JOIN countries c ON u.country = c.code WHERE u.id IS NULL ORDER BY 1;
SELECT c.code, u.id FROM users u FULL JOIN countries c ON u.country = c.code ORDER BY 1, 2;
SELECT u.id, o.id FROM users u LEFT JOIN orders o ON o.user_id = u.id ORDER BY u.id DESC, o.id LIMIT 25;
SELECT u.id, o.id FROM users u LEFT JOIN orders o ON o.user_id = u.id WHERE o.id IS NULL ORDER BY u.id;
-- The key condition stands in the ON of an outer join: it restricts nothing.
SELECT u.id, o.id FROM users u LEFT JOIN orders o ON o.user_id = u.id AND u.id = 5 ORDER BY u.id, o.id;
SELECT u.id, o.id FROM users u LEFT JOIN orders o ON o.user_id = u.id AND o.user_id = 5 ORDER BY u.id, o.id;
SELECT u.id, o.id FROM users u LEFT JOIN orders o ON o.user_id = u.id WHERE u.id = 5 ORDER BY o.id;
SELECT o.id, p.title FROM orders o JOIN order_items i ON i.user_id = o.user_id AND i.order_id = o.id JOIN products p ON p.sku = i.sku WHERE o.user_id = 18 ORDER BY o.id, p.title;
SELECT p.title, count(*) FROM order_items i JOIN products p ON p.sku = i.sku GROUP BY p.title ORDER BY p.title;
SELECT c.name, count(*), sum(o.amount) FROM orders o JOIN users u ON u.id = o.user_id JOIN countries c ON c.code = u.country GROUP BY c.name ORDER BY c.name;
SELECT count(*) FROM users u JOIN orders o ON o.user_id = u.id;
SELECT count(*) FROM users u CROSS JOIN countries c;
SELECT u.id, c.code FROM users u CROSS JOIN countries c WHERE u.id = 3 ORDER BY c.code;
SELECT a.code, b.code FROM countries a JOIN countries b ON a.code < b.code ORDER BY 1, 2;
SELECT * FROM countries NATURAL JOIN (SELECT 'de' AS code) x;
-- Not colocated: an order's id is no user's id.
SELECT u.id, o.id FROM users u JOIN orders o ON o.id = u.id ORDER BY 1 LIMIT 10;
SELECT count(*) FROM users u JOIN orders o ON o.id = u.id;
SELECT a.id, b.id FROM users a JOIN users b ON a.balance = b.balance AND a.id < b.id WHERE a.id < 10 ORDER BY 1, 2;
SELECT a.id, b.id FROM users a JOIN users b ON a.id = b.id WHERE a.id = 7;
SELECT count(*) FROM users a JOIN users b ON a.id = b.id;
SELECT count(*) FROM users a, users b;
SELECT u.id, o.id FROM users u JOIN orders o ON o.user_id = u.id + 0 WHERE u.id = 18 ORDER BY o.id;
SELECT u.id, o.id FROM users u JOIN orders o ON o.user_id > u.id WHERE u.id = 53 ORDER BY o.id;
SELECT u.id, s.value FROM users u, settings s WHERE u.id = 3 AND s.name = 'motd';
SELECT s.value, c.name FROM settings s, countries c WHERE s.name = 'motd' AND c.code = 'de';
SELECT u.id, l.id FROM users u JOIN LATERAL (SELECT id FROM orders o WHERE o.user_id = u.id ORDER BY id LIMIT 1) l ON true ORDER BY u.id LIMIT 10;
SELECT u.id, l.n FROM users u CROSS JOIN LATERAL (SELECT count(*) AS n FROM orders o WHERE o.user_id = u.id) l WHERE u.id IN (1, 18, 60) ORDER BY u.id;
SELECT e.id, r.device FROM events e JOIN readings r ON r.device = e.kind ORDER BY 1, 2;
SELECT u.*, o.* FROM users u JOIN orders o ON o.user_id = u.id WHERE u.id = 18 AND o.id = 1;
SELECT * FROM users JOIN orders ON users.id = orders.user_id WHERE users.id = 18 ORDER BY orders.id;
SELECT u.id FROM users u WHERE EXISTS (SELECT 1 FROM orders o WHERE o.user_id = u.id AND o.amount > 110) ORDER BY u.id;
SELECT u.id FROM users u WHERE NOT EXISTS (SELECT 1 FROM orders o WHERE o.user_id = u.id) ORDER BY u.id;
SELECT u.id, x.total FROM users u JOIN (SELECT user_id, sum(amount) AS total FROM orders GROUP BY user_id) x ON x.user_id = u.id WHERE x.total > 250 ORDER BY u.id;
SELECT anon.id, o.id FROM (SELECT id FROM users ORDER BY id LIMIT 3 OFFSET 2) AS anon LEFT OUTER JOIN orders o ON o.user_id = anon.id ORDER BY anon.id, o.id;
-- Gathered: the tables' rows are joined on one PostgreSQL.
SELECT a.id, b.id FROM users a, users b WHERE a.id < 4 AND b.id BETWEEN a.id AND 3 ORDER BY 1, 2;
SELECT a.email, b.email FROM users a JOIN users b ON b.id = a.id + 1 WHERE a.id IN (3, 4, 5) AND b.name IS NOT NULL ORDER BY 1;
--@ params int8=5 | text=new
SELECT u.id, o.id FROM users u JOIN orders o ON o.id = u.id WHERE u.id < $1 AND o.status <> $2 ORDER BY 1, 2;
--@ params int8=5
SELECT u.id, $1 + 1 AS more FROM users u CROSS JOIN countries c WHERE u.id = $1 OR c.code = u.country AND u.id < 3 ORDER BY 1, 2 LIMIT 7;
SELECT row_to_json(c), count(o) FROM countries c LEFT JOIN users u ON u.country = c.code LEFT JOIN orders o ON o.id = u.id GROUP BY c.code ORDER BY c.code;
SELECT o FROM users u JOIN orders o ON o.id = u.id WHERE u.id = 7;
SELECT to_jsonb(o) - 'placed_at' FROM users u JOIN orders o ON o.id = u.id WHERE u.id < 4 ORDER BY u.id;
SELECT "public"."users"."id", "orders"."amount" FROM "public"."users" JOIN "public"."orders" ON "public"."orders"."id" = "public"."users"."id" WHERE "public"."users"."id" < 5 ORDER BY "public"."users"."id";
SELECT x.id, y.n FROM users x NATURAL JOIN (SELECT id, count(*) AS n FROM orders GROUP BY id) y WHERE x.id < 9 ORDER BY 1;
--@ simple
--@ error 42703
SELECT u.id FROM users AS u (key, mail) JOIN orders o ON o.id = u.key WHERE u.key < 3;
SELECT u.key FROM users AS u (key, mail) JOIN orders o ON o.id = u.key WHERE u.key < 3 ORDER BY 1;
SELECT u.name, u.id, count(*) FROM users u JOIN orders o ON o.id = u.id GROUP BY u.id ORDER BY u.id LIMIT 3;
SELECT count(*) FROM users a, users b, countries c WHERE a.ctid = b.ctid;
SELECT u.id, r.value FROM users u LEFT JOIN LATERAL (SELECT value FROM readings ORDER BY value LIMIT u.id) r ON true WHERE u.id < 4 ORDER BY 1, 2;
