-- Columns without AS have PostgreSQL's names, and are sorted by them.
--@ ordered
SELECT id, CASE country WHEN 'de' THEN 1 WHEN 'fr' THEN 2 END FROM users WHERE id < 30 ORDER BY id DESC LIMIT 9;
--@ ordered
SELECT email, CASE WHEN id > 9 THEN -id ELSE id END FROM users WHERE id < 30 ORDER BY id;
--@ ordered
SELECT CASE WHEN id > 9 THEN 0 - id ELSE id + 0 END AS x, (id * 2)::bigint FROM users WHERE id < 30 ORDER BY int8;
--@ ordered
SELECT lower(name), id FROM users WHERE id < 30 ORDER BY lower, id;
--@ ordered
SELECT id, (SELECT count(*) FROM orders o WHERE o.user_id = u.id) FROM users u WHERE id < 30 ORDER BY id;

-- PostgreSQL's own errors.
--@ error 2201W
SELECT id FROM users ORDER BY id LIMIT -1;
--@ error 2201X
SELECT id FROM users ORDER BY id OFFSET -1;
--@ error 2201X
SELECT id FROM users ORDER BY id LIMIT 3 OFFSET -1;
--@ error 2201W
SELECT country, count(*) FROM users GROUP BY country ORDER BY country LIMIT -1;
--@ error 25P01
LOCK TABLE users IN SHARE MODE;
--@ error 25P01
LOCK TABLE countries;
--@ error 25P01
DECLARE c CURSOR FOR SELECT id FROM users WHERE id = 4;
BEGIN;
LOCK TABLE countries IN SHARE MODE;
COMMIT;
--@ multi
LOCK TABLE users IN SHARE MODE;
SELECT count(*) FROM users;

-- Functions that return sets.
--@ ordered
SELECT id, generate_series(1, 2) AS n FROM users WHERE id < 9 ORDER BY id, n;
--@ ordered
SELECT generate_series(1, 3) AS n, count(*) FROM users GROUP BY n ORDER BY n;

-- Constant defaults of a reference table.
ALTER TABLE countries ADD COLUMN flag boolean NOT NULL DEFAULT true, ADD COLUMN word varchar(9) DEFAULT 'it''s';
INSERT INTO countries (code, name) VALUES ('q9', 'Nowhere');
UPDATE countries SET word = DEFAULT WHERE code = 'q9';
SELECT * FROM countries WHERE code = 'q9';
DELETE FROM countries WHERE code = 'q9';
ALTER TABLE countries DROP COLUMN flag, DROP COLUMN word;
