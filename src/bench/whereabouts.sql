-- A process id means something here only where the server is on this machine.
SELECT coalesce(inet_server_addr() <<= '127.0.0.0/8'::inet OR inet_server_addr() = '::1'::inet, true), pg_backend_pid()
