"""A Python producer: an order and its message, in one transaction.

    pip install 'psycopg[binary]'
    DATABASE_URL=postgres://localhost/app python examples/producer.py '0532 123 45 67'

The number is yours to give: a worker that serves this database will send to it.
"""

import os
import sys

import psycopg
from psycopg.types.json import Jsonb


def notify(connection, *, key, number, text):
    """Puts one message into the outbox, in the transaction that is open. Returns its id, also when the key was there before."""
    new = connection.execute(
        """
        INSERT INTO sms_outbox.jobs (sender, recipients, body, iys, idempotency_key, metadata)
        VALUES (%s, %s, %s, false, %s, %s)
        ON CONFLICT (account, idempotency_key) DO NOTHING
        RETURNING id
        """,
        ("YOURBRAND", [number], text, key, Jsonb({"source": "producer.py"})),
    ).fetchone()
    # No row: the key is taken. A statement of its own sees the row that has it.
    row = new or connection.execute(
        "SELECT id FROM sms_outbox.jobs WHERE account = 'default' AND idempotency_key = %s", (key,)
    ).fetchone()
    return row[0]


def place_order(connection, order, number):
    with connection.transaction():
        # Your own table. Here a temporary one, so that the example leaves nothing behind but its message.
        connection.execute("CREATE TEMPORARY TABLE orders (id bigint PRIMARY KEY) ON COMMIT DROP")
        connection.execute("INSERT INTO orders (id) VALUES (%s)", (order,))
        return notify(
            connection,
            key=f"order-{order}-shipped",
            number=number,
            text=f"Order {order} is on its way.",
        )


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: producer.py NUMBER")
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        first = place_order(connection, 1235, sys.argv[1])
        # A caller that does not know whether its COMMIT arrived does the same again.
        again = place_order(connection, 1235, sys.argv[1])
        assert first == again
        print(f"order 1235: job {first}")


if __name__ == "__main__":
    main()
