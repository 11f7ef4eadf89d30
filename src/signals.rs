//! The signals that end a command.
//!
//! Floor 6: uses `error`.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Error, Result};

/// A signal that ends the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// SIGINT, or Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Interruption {
    /// By the convention of shells: 128 and the signal's number.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// The signals that end a command.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Hears both from now on.
    pub fn listen() -> Result<Self> {
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// The next of them.
    pub async fn next(&mut self) -> Interruption {
        tokio::select! {
            _ = self.interrupt.recv() => Interruption::Interrupt,
            _ = self.terminate.recv() => Interruption::Terminate,
        }
    }
}

/// Hears a signal from now on, instead of dying by it.
pub fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|error| Error::world(format!("signals of the system cannot be heard: {error}")))
}
