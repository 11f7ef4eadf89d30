//! The program: starts the runtime, hands the arguments to the command line, and ends with its exit status.
//!
//! Floor 7: uses `cli` and `memory` only.

use std::process::ExitCode;

fn main() -> ExitCode {
    pinsql::memory::give_back_soon();
    let arguments = std::env::args_os().collect();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ExitCode::from(pinsql::cli::refuse_to_start(&error)),
    };
    quiet_uploads();
    let status = runtime.block_on(pinsql::cli::main(arguments));
    // A command that was abandoned may have left blocking calls behind: nobody waits for them.
    runtime.shutdown_background();
    ExitCode::from(status)
}

/// When an upload fails, deltalake gives it up once more, object_store panics over that, and deltalake catches the panic:
/// the failure is reported all the same, and the words of the panic would only frighten.
fn quiet_uploads() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(|location| location.file()).unwrap_or_default();
        if !(place.contains("object_store") && place.ends_with("buffered.rs")) {
            tell(panic);
        }
    }));
}
