//! Nothing is lost and nothing is sent twice while workers are killed, frozen and cut off, Postgres is crashed, and the
//! provider answers with garbage or not at all.
//!
//! ```text
//! RUSTFLAGS="--cfg failpoints" CARGO_TARGET_DIR=target/failpoints cargo test --test chaos
//! … -- --jobs 10000 --kills 200 --crashes 20 --seed 7
//! … -- --jobs 0 --variant blind-resend
//! ```
//!
//! (A directory of its own, because other flags for the compiler rebuild everything.)
//!
//! A seed reproduces the plan (what is written and what is injected, and when), though not the machine's timing. Then
//! workers that are wrong in a known way are run, each in circumstances that bring it out: a checker that never objects
//! proves nothing.

#[cfg(failpoints)]
#[path = "run.rs"]
mod run;

#[cfg(failpoints)]
fn main() -> std::process::ExitCode {
    run::main()
}

#[cfg(not(failpoints))]
fn main() {
    println!(
        "left out: it needs workers that can be made to die. \
         RUSTFLAGS=\"--cfg failpoints\" CARGO_TARGET_DIR=target/failpoints cargo test --test chaos"
    );
}
