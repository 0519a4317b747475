-- The same rows every time: NULLs, ties, duplicates, unicode, negative and zero amounts.
INSERT INTO countries VALUES ('de', 'Deutschland'), ('fr', 'France'), ('jp', '日本'), ('br', 'Brasil'), ('gr', 'Ελλάδα'), ('us', 'United States'), ('ch', 'Schweiz'), ('zz', 'Unused');
INSERT INTO products SELECT 'sku-' || lpad(n::text, 2, '0'), (ARRAY['Pen','Amphora','Kylix','Scroll','Wax tablet','Ostrakon'])[1 + n % 6] || ' ' || n, (n * 137 % 50)::numeric / 4 FROM generate_series(1, 12) n;
INSERT INTO users
SELECT n, 'user' || n || '@example.org',
    CASE WHEN n % 9 = 0 THEN NULL ELSE (ARRAY['Ada','Äsop','Zoë','bob','Bob','Άννα','山田','O''Neil','',' padded '])[1 + n * 7 % 10] END,
    (ARRAY['de','fr','jp','br','gr','us','ch',NULL])[1 + n * 5 % 8],
    timestamptz '2024-01-01 00:00:00+00' + (n * 37 % 60) * interval '11 hours',
    ((n * 7919) % 41 - 10)::numeric * 12.5
FROM generate_series(1, 60) n;
INSERT INTO orders
SELECT n, 1 + (n * 17) % 55, (ARRAY['new','paid','shipped','cancelled'])[1 + n * 3 % 4],
    ((n * 331) % 97)::numeric * 1.25, timestamptz '2024-03-01 00:00:00+00' + (n * 29 % 200) * interval '5 hours'
FROM generate_series(1, 200) n;
INSERT INTO order_items
SELECT 1 + (n * 17) % 55, n, l, 'sku-' || lpad((1 + (n * 5 + l * 3) % 12)::text, 2, '0'), 1 + (n + l) % 5, ((n * l * 53) % 40)::numeric / 4
FROM generate_series(1, 200) n, generate_series(1, 3) l WHERE (n + l) % 3 > 0;
INSERT INTO settings VALUES ('motd', 'hello'), ('limit', '10'), ('theme', 'dark'), ('empty', ''), ('nothing', NULL);
INSERT INTO events
SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, (ARRAY['login','click','buy'])[1 + n % 3],
    CASE WHEN n % 7 = 0 THEN NULL ELSE jsonb_build_object('user', n % 10, 'tags', jsonb_build_array('t' || n % 4, n), 'nested', jsonb_build_object('ok', n % 2 = 0)) END,
    timestamptz '2024-05-01 12:00:00+00' + n * interval '17 minutes'
FROM generate_series(1, 40) n;
INSERT INTO readings
SELECT 'device-' || d, date '2024-06-01' + n, CASE WHEN (n + d) % 8 = 0 THEN NULL ELSE (n * d % 16)::float8 / 4 - 1 END
FROM generate_series(0, 11) n, generate_series(1, 5) d;
