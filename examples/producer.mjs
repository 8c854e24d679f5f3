// A Node producer: an order and its message, in one transaction.
//
//     npm install pg
//     DATABASE_URL=postgres://localhost/app node examples/producer.mjs '0532 123 45 67'
//
// The number is yours to give: a worker that serves this database will send to it.

import assert from 'node:assert';
import pg from 'pg';

// Puts one message into the outbox, in the transaction that is open on `client`. Returns its id, also when the key was there
// before.
async function notify(client, { key, number, text }) {
  const inserted = await client.query(
    `INSERT INTO sms_outbox.jobs (sender, recipients, body, iys, idempotency_key, metadata)
     VALUES ($1, $2, $3, false, $4, $5)
     ON CONFLICT (account, idempotency_key) DO NOTHING
     RETURNING id`,
    ['YOURBRAND', [number], text, key, { source: 'producer.mjs' }],
  );
  if (inserted.rowCount === 1) return inserted.rows[0].id;
  // No row: the key is taken. A statement of its own sees the row that has it.
  const found = await client.query(
    `SELECT id FROM sms_outbox.jobs WHERE account = 'default' AND idempotency_key = $1`,
    [key],
  );
  return found.rows[0].id;
}

async function placeOrder(pool, order, number) {
  // A transaction belongs to one client: pool.query() would spread its statements over several.
  const client = await pool.connect();
  try {
    await client.query('BEGIN');
    // Your own table. Here a temporary one, so that the example leaves nothing behind but its message.
    await client.query('CREATE TEMPORARY TABLE orders (id bigint PRIMARY KEY) ON COMMIT DROP');
    await client.query('INSERT INTO orders (id) VALUES ($1)', [order]);
    const id = await notify(client, {
      key: `order-${order}-shipped`,
      number,
      text: `Order ${order} is on its way.`,
    });
    await client.query('COMMIT');
    return id;
  } catch (error) {
    await client.query('ROLLBACK');
    throw error;
  } finally {
    client.release();
  }
}

const number = process.argv[2];
if (number === undefined) {
  console.error('usage: producer.mjs NUMBER');
  process.exit(2);
}
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
try {
  const first = await placeOrder(pool, 1236, number);
  // A caller that does not know whether its COMMIT arrived does the same again.
  const again = await placeOrder(pool, 1236, number);
  assert.strictEqual(first, again);
  console.log(`order 1236: job ${first}`);
} finally {
  await pool.end();
}
