-- What the demo's application has besides the outbox, and who uses the two.
CREATE TABLE orders (id bigint PRIMARY KEY, customer text NOT NULL, placed_at timestamptz NOT NULL DEFAULT now());
CREATE ROLE shop;
GRANT INSERT ON orders TO shop;
CREATE ROLE sms_worker;
