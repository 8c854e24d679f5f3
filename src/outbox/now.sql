-- The clock that decides what is due.
SELECT now()
