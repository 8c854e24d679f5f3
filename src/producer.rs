//! What a producer does to the database, on connections of its own and mostly in its own transaction. The rest of this crate
//! is not needed for it, and neither is a runtime or TLS: the producer's sqlx brings them.

mod enqueue;
mod find;
pub(crate) mod guard;

pub use enqueue::{EnqueueError, Enqueued, enqueue, enqueue_bulk, enqueue_once};
pub use find::{FindError, find_job, find_job_by_key};
pub use guard::guard_against_lost_writes;
