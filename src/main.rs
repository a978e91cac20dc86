//! The `onlay` binary: everything is in the library.

fn main() -> std::process::ExitCode {
    onlay::cli::run(std::env::args_os())
}
