# The program `sms-outbox`, for running `migrate` and `worker` (and `sandbox`, for trying them out).
# It is built without `demo` and `bench`: they start a PostgreSQL of their own, and this image has none.

FROM rust:1-bookworm AS build
WORKDIR /src
# Only what the build reads, named one by one, so that neither target/ nor .env ever reaches an image or its cache. (The
# pages are part of the crate's documentation.)
COPY Cargo.toml Cargo.lock *.md ./
COPY migrations ./migrations
COPY src ./src
# Sources and dependencies are compiled in caches that outlast this build, hence the copy out of them at the end.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --no-default-features --features cli,sandbox --bin sms-outbox \
    && cp target/release/sms-outbox /usr/local/bin/sms-outbox

FROM debian:bookworm-slim
# The certificates of the authorities that the provider's server, and a managed PostgreSQL, are checked against.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin sms-outbox
COPY --from=build /usr/local/bin/sms-outbox /usr/local/bin/sms-outbox
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/sms-outbox/
USER 10001
# SIGTERM, what `docker stop` sends, lets a worker finish what is in flight: give it more time than SMS_OUTBOX_SHUTDOWN_GRACE
# (35 s) with `docker stop --time 40`. docker-compose.yml does.
ENTRYPOINT ["sms-outbox"]
CMD ["--help"]
