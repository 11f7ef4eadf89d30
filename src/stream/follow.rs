//! Epoch after epoch, until somebody asks for the end.
//!
//! Floor 5: uses `source`, `report`, `clock`, `error`, and its own room.
//!
//! An epoch begins when its trigger is due, or at once while more is waiting than one epoch took, or than should wait in
//! memory. Nothing new means no epoch and no commit. What passes (a broker that is away, a store that is busy) is tried
//! again for as long as it takes, with growing pauses; each time the query goes back to what its log says.

use std::sync::Arc;
use std::time::Duration;

use super::compact::Compactor;
use super::stop::Stop;
use super::{Cursors, FIRST_EPOCH, LONGEST_EPOCH, Query, next_inputs};
use crate::clock::Stopwatch;
use crate::delta::{Spec, Table};
use crate::error::Result;
use crate::report::{Condition, TableReport};
use crate::source::Limits;

/// How often a waiting query looks whether so much has come that the trigger need not be waited for.
const GLANCE: Duration = Duration::from_millis(100);
/// The least pause behind a look that found nothing, where the trigger is none at all.
const IDLE: Duration = Duration::from_millis(10);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How a query is followed.
#[derive(Debug, Clone, Copy)]
pub struct Following {
    /// From the beginning of one epoch to the beginning of the next.
    pub trigger: Duration,
    /// What one epoch may take.
    pub limits: Limits,
}

/// Pauses between tries, each twice as long as the one before.
#[derive(Debug)]
pub struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST_PAUSE)
    }
}

impl Pauses {
    /// The next pause.
    pub fn longer(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

impl Query<'_> {
    /// Runs epochs until the end is asked for.
    ///
    /// # Errors
    /// What does not pass; and before the sources were open for the first time, whatever it is: whoever starts it is still there to read it.
    pub async fn follow(&mut self, following: &Following, stop: &Stop, report: &mut TableReport) -> Result<()> {
        let mut pauses = Pauses::default();
        let Some(begun) = self.begin(stop, report).await? else { return Ok(()) };
        let mut cursors = Some(begun);
        loop {
            let epochs = report.epochs;
            let result = self.follow_on(cursors.take(), following, stop, report).await;
            let Err(error) = result else { return Ok(()) };
            if !error.is_passing() {
                return Err(error);
            }
            if report.epochs > epochs {
                pauses = Pauses::default();
            }
            let pause = pauses.longer();
            self.reporter.condition(&report.table, &Condition::Waiting { error: &error, pause });
            if stop.pause(pause).await {
                return Ok(());
            }
        }
    }

    async fn begin(&mut self, stop: &Stop, report: &mut TableReport) -> Result<Option<Cursors>> {
        let Some(cursors) = self.open(true, stop).await? else { return Ok(None) };
        self.create_table(self.pinned(&cursors), report).await?;
        self.reporter.condition(&report.table, &Condition::Running);
        Ok(Some(cursors))
    }

    async fn follow_on(
        &mut self,
        cursors: Option<Cursors>,
        following: &Following,
        stop: &Stop,
        report: &mut TableReport,
    ) -> Result<()> {
        let mut cursors = match cursors {
            Some(cursors) => cursors,
            None => {
                self.reopen().await?;
                let Some(begun) = self.begin(stop, report).await? else { return Ok(()) };
                begun
            }
        };
        let mut time = FIRST_EPOCH.max(following.trigger);
        let mut compactors = self.compactors().await?;
        while !stop.is_stopped() {
            let watch = Stopwatch::start();
            for cursor in cursors.values_mut() {
                cursor.look().await?;
            }
            let limits = Limits { time: Some(time), ..following.limits };
            let inputs = next_inputs(&mut cursors, &limits).await?;
            let (mut behind, mut idle) = (false, true);
            if !inputs.is_empty() {
                let done = self.closing_epoch(&mut cursors, inputs, stop).await?;
                (behind, idle) = (done.counts.lag > 0, done.is_nothing);
                self.tell(&done, watch.elapsed_ms(), report);
                time = (time * 2).min(LONGEST_EPOCH.max(following.trigger));
                if let Some(entry) = self.log.last().filter(|_| !idle) {
                    let named = [&entry.table, &entry.quarantine];
                    for (((_, spec), compactor), named) in self.tables().into_iter().zip(&mut compactors).zip(named) {
                        compactor.added(named.as_ref().map_or(&[], |named| &named.adds), spec);
                    }
                }
                // Where nothing comes, nothing is committed, a merge neither.
                self.tidy(&mut compactors).await;
            }
            if !behind {
                let trigger = if idle { following.trigger.max(IDLE) } else { following.trigger };
                await_trigger(&cursors, &Following { trigger, ..*following }, watch, stop).await;
            }
        }
        for mut compactor in compactors {
            compactor.settle().await;
        }
        Ok(())
    }

    /// What it fills: the table and its quarantine.
    fn tables(&self) -> [(&Arc<Table>, &Spec); 2] {
        [(&self.target.table, &self.target.spec), (&self.quarantine, &self.quarantine_spec)]
    }

    async fn compactors(&self) -> Result<[Compactor; 2]> {
        let [table, quarantine] = self.tables();
        Ok([self.compactor(table).await?, self.compactor(quarantine).await?])
    }

    /// Knows the small files that are there. Of several instances the first one minds those of former processes.
    async fn compactor(&self, (table, spec): (&Arc<Table>, &Spec)) -> Result<Compactor> {
        let mut compactor = Compactor::default();
        if self.share.is_none_or(|share| share.index == 0) {
            compactor.added(&table.live().await?, spec);
        }
        Ok(compactor)
    }

    /// Merges small files, and folds the log: what cannot be done now is done another time.
    async fn tidy(&mut self, compactors: &mut [Compactor; 2]) {
        for ((table, spec), compactor) in self.tables().into_iter().zip(compactors) {
            if let Err(error) = compactor.tend(table, spec, self.planner).await {
                tracing::warn!(table = %table.location(), %error, "small files were not merged; they are looked for again");
                *compactor = self.compactor((table, spec)).await.unwrap_or_default();
            }
        }
        self.fold().await;
    }
}

/// Waits until the trigger is due, so much is waiting that an epoch is worth it, or the end is asked for.
async fn await_trigger(cursors: &Cursors, following: &Following, watch: Stopwatch, stop: &Stop) {
    loop {
        let rest = following.trigger.saturating_sub(Duration::from_millis(watch.elapsed_ms()));
        if rest.is_zero() || cursors.values().any(|cursor| cursor.is_pressing(&following.limits)) {
            // Also a trigger of no time at all lets others work.
            tokio::task::yield_now().await;
            return;
        }
        if stop.pause(rest.min(GLANCE)).await {
            return;
        }
    }
}
