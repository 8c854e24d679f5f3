"""A Python application that learns what became of its messages, and neither loses nor doubles anything when it dies in between:
its place in the feed is a row of its own, moved in the transaction that applies the news.

    pip install 'psycopg[binary]'
    DATABASE_URL=postgres://localhost/app python examples/follow.py          # until Ctrl-C
    DATABASE_URL=postgres://localhost/app python examples/follow.py --once   # what there is
"""

import os
import sys
import time

import psycopg

AT_MOST = 1000


def prepare(connection):
    """The application's own tables."""
    connection.execute(
        """
        CREATE TABLE IF NOT EXISTS sms_place (
            the_one boolean PRIMARY KEY DEFAULT true CHECK (the_one), cursor text NOT NULL DEFAULT '')
        """
    )
    connection.execute("INSERT INTO sms_place DEFAULT VALUES ON CONFLICT DO NOTHING")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS sms_news (job_id uuid PRIMARY KEY, key text, status text, delivery text)"
    )


def follow(connection):
    """Applies what is new; returns how many changes that were."""
    with connection.transaction():
        # A second instance of the application waits here.
        (cursor,) = connection.execute("SELECT cursor FROM sms_place FOR UPDATE").fetchone()
        changes = connection.execute(
            "SELECT job_id, idempotency_key, status, delivery, next_cursor FROM sms_outbox.changes(%s, %s)",
            (cursor, AT_MOST),
        ).fetchall()
        for job, key, status, delivery, cursor in changes:
            # The application's part. A job may come again: it is told as it stands now.
            connection.execute(
                """
                INSERT INTO sms_news (job_id, key, status, delivery) VALUES (%s, %s, %s, %s)
                ON CONFLICT (job_id) DO UPDATE SET status = excluded.status, delivery = excluded.delivery
                """,
                (job, key, status, delivery),
            )
        # The news and the place, or neither.
        connection.execute("UPDATE sms_place SET cursor = %s", (cursor,))
    return len(changes)


def main():
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        prepare(connection)
        while True:
            news = follow(connection)
            print(f"{news} changes", flush=True)
            if news < AT_MOST:
                if "--once" in sys.argv:
                    return
                time.sleep(2)


if __name__ == "__main__":
    main()
