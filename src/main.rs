//! The program `sms-outbox`: arguments -> [`sms_outbox::cli`] -> exit code.

fn main() -> std::process::ExitCode {
    sms_outbox::cli::main()
}
