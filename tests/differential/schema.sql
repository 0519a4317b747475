-- The demo schema with the constraints that the cases need, created through the proxy.
CREATE TABLE countries (code text PRIMARY KEY, name text NOT NULL);
CREATE TABLE products (sku text PRIMARY KEY, title text NOT NULL, price numeric(10,2) NOT NULL);
CREATE TABLE users (
    id bigserial PRIMARY KEY,
    email text NOT NULL,
    name text,
    country text REFERENCES countries (code),
    created_at timestamptz NOT NULL DEFAULT now(),
    balance numeric(12,2) NOT NULL DEFAULT 0
);
CREATE TABLE orders (
    id bigserial,
    user_id bigint NOT NULL REFERENCES users (id),
    status text NOT NULL DEFAULT 'new' CHECK (status IN ('new', 'paid', 'shipped', 'cancelled')),
    amount numeric(12,2) NOT NULL,
    placed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, id)
);
CREATE TABLE order_items (
    user_id bigint NOT NULL,
    order_id bigint NOT NULL,
    line int NOT NULL,
    sku text NOT NULL REFERENCES products (sku),
    quantity int NOT NULL CHECK (quantity > 0),
    price numeric(10,2) NOT NULL,
    PRIMARY KEY (user_id, order_id, line),
    FOREIGN KEY (user_id, order_id) REFERENCES orders (user_id, id) ON DELETE CASCADE
);
CREATE TABLE settings (name text PRIMARY KEY, value text);
CREATE TABLE events (id uuid PRIMARY KEY, kind text NOT NULL, payload jsonb, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE readings (device text, day date, value float8, PRIMARY KEY (device, day));
