//! One instance of a stream on this machine: the second is told so at once.
//!
//! Floor 6: uses `error`. The epoch log keeps two instances from ever repeating a record, wherever they run; but it lets
//! them find out only at the next epoch, and either may be the one that has to stop. A lock on a file of this machine, which
//! the system gives back however a process ends, makes it the second one, and at once.

use std::fs::{File, TryLockError};

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};

/// Held as long as a target is followed.
#[derive(Debug)]
pub(super) struct Lease {
    _file: File,
}

impl Lease {
    /// Takes the lease of what is written at a place, alone; None where this machine has no room for such a file.
    ///
    /// # Errors
    /// Conflict where another process streams or runs there.
    pub(super) fn take(place: &str, name: &str) -> Result<Option<Self>> {
        Self::lock(place, name, File::try_lock)
    }

    /// Takes the lease together with other runs: a stream beside them would meet them at the log, and either might be the one that
    /// has to stop.
    ///
    /// # Errors
    /// Conflict where another process streams there.
    pub(super) fn share(place: &str, name: &str) -> Result<Option<Self>> {
        Self::lock(place, name, File::try_lock_shared)
    }

    fn lock(place: &str, name: &str, lock: impl FnOnce(&File) -> Result<(), TryLockError>) -> Result<Option<Self>> {
        let path = std::env::temp_dir().join(format!("pinsql-{:016x}.lock", xxh3_64(place.as_bytes())));
        let opened = File::options().create(true).truncate(false).write(true).open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(error) => {
                tracing::debug!(%error, path = %path.display(), "no lease; the epoch log decides alone");
                return Ok(None);
            }
        };
        match lock(&file) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Err(Error::conflict(format!("another process writes to `{name}`"))
                .hint("run one instance of a stream, or share its partitions with `--slot 0/2` and `--slot 1/2`")),
            Err(TryLockError::Error(error)) => {
                tracing::debug!(%error, "no lease; the epoch log decides alone");
                Ok(None)
            }
        }
    }
}
