//! `stream`: every target of the named files is followed side by side, until the end is asked for.
//!
//! Floor 6: uses `stream`, `sql`, `report`, `clock`, `source`, `error`.
//!
//! Each target has its own epochs and its own fate: one that fails is reported at once and again at the end, and the others go on. A
//! materialized view is computed anew when something that it reads has changed, and takes no more than a part of the
//! time for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Mutex;

use super::fill::{Inputs, TRIGGER, fingerprints};
use super::graph::Step;
use super::lease::Lease;
use super::prepare::{Preparation, refuse_stream};
use super::{Engine, FullRefresh, RunOptions, left_out, worst};
use crate::clock::Stopwatch;
use crate::error::{Error, Result};
use crate::report::{Condition, Summary, TableReport};
use crate::source::SlotOf;
use crate::sql::catalog::target_of;
use crate::sql::statement::{CreateTarget, Kind, Statement};
use crate::stream::Pauses;

/// How often something is looked for that is not there yet.
const LOOK: Duration = Duration::from_millis(200);
/// How long a target has for its last step once the end is asked for. What it had not committed the next start does again.
const GRACE: Duration = Duration::from_millis(3500);
/// How long background work has after that.
const LAST_WORK: Duration = Duration::from_millis(800);
/// From one computing to the next of a view that is never known to be up to date: `now()`, or a stream of Kinesis.
const UNWATCHED: Duration = Duration::from_secs(60);
/// Computing a view, or finding out whether it has to be, may take one part in this many of the time.
const VIEW_SHARE: u64 = 4;

/// How a stream goes about it.
#[derive(Debug, Clone, Default)]
pub struct StreamOptions {
    /// What a run has as well.
    pub run: RunOptions,
    /// `--trigger`
    pub trigger: Option<Duration>,
    /// `--slot i/n`
    pub slot: Option<SlotOf>,
    /// `--for`: ends by itself after this time.
    pub time: Option<Duration>,
}

impl Engine {
    /// Follows every selected target until the end is asked for, or each has failed.
    pub async fn stream(&mut self, options: &StreamOptions) -> Summary {
        let watch = Stopwatch::start();
        let mut tables = Vec::new();
        let error = match self.stream_all(options, &mut tables).await {
            Ok(()) => worst(&tables),
            Err(error) => {
                self.list_untouched(&options.run, &mut tables).await;
                Some(Arc::new(error))
            }
        };
        // A checkpoint that is not ready is made up for by the next one.
        let _ = tokio::time::timeout(LAST_WORK, self.settle()).await;
        self.summary("stream", watch, tables, error)
    }

    async fn stream_all(&mut self, options: &StreamOptions, tables: &mut Vec<TableReport>) -> Result<()> {
        let steps = self.selected_steps(&options.run)?;
        self.refuse_wrong_text(&steps).await?;
        if options.slot.is_some() && options.run.full_refresh != FullRefresh::None {
            return Err(Error::config("one of several instances cannot rebuild a table that all of them fill")
                .hint("stop all instances, run with `--full-refresh` and without `--slot` under another name, or drop the table"));
        }
        let followed: Vec<&Step> = steps.iter().filter(|step| self.is_followed(step)).collect();
        if followed.is_empty() {
            return Err(Error::config("nothing here can be followed")
                .hint("`stream` follows streaming tables and materialized views"));
        }
        let names: BTreeSet<&str> = followed.iter().filter_map(|step| step.fills.as_deref()).collect();
        let this = &*self;
        let task = &Task { options, failed: Mutex::default(), company: followed.len() > 1 };
        let targets = followed.iter().enumerate().map(|(order, step)| {
            let awaited: Vec<&str> = names.iter().copied().filter(|name| step.reads.contains(*name)).collect();
            async move {
                let report = this.follow_target(step, awaited, task).await;
                if report.error.is_some() {
                    task.failed.lock().await.insert(report.table.clone());
                }
                (order, report)
            }
        });
        let mut running: FuturesUnordered<_> = targets.collect();
        let mut ended = Vec::new();
        let time = options.time.unwrap_or(Duration::MAX);
        let alarm = this.stop.pause(time);
        tokio::pin!(alarm);
        let mut is_over = false;
        loop {
            tokio::select! {
                done = running.next() => match done {
                    Some(done) => ended.push(done),
                    None => break,
                },
                _ = &mut alarm, if !is_over => {
                    is_over = true;
                    this.stop.stop();
                }
            }
        }
        ended.sort_by_key(|(order, _)| *order);
        tables.extend(ended.into_iter().map(|(_, report)| report));
        Ok(())
    }

    /// Whether a stream follows what a step does; says so where it does not.
    fn is_followed(&self, step: &Step) -> bool {
        match &step.statement.kind {
            Kind::StreamingTable(_) | Kind::MaterializedView(_) => true,
            Kind::Source(_) | Kind::View(_) => false,
            _ => {
                let message = "`stream` leaves out what is done once, when it is run; `pinsql run` does it";
                self.reporter.notice(message, Some(&step.statement.place));
                false
            }
        }
    }

    async fn follow_target(&self, step: &Step, awaited: Vec<&str>, task: &Task<'_>) -> TableReport {
        let statement = &step.statement;
        let name = target_of(&statement.kind).map(|target| target.name.value.clone()).unwrap_or_default();
        let mut report = self.blank_report(&name).await;
        let followed = tokio::select! {
            followed = self.follow_awaited(statement, awaited, task, &mut report) => followed,
            () = self.overdue() => Ok(()),
        };
        match followed {
            Ok(()) => self.reporter.condition(&name, &Condition::Stopped),
            Err(error) => {
                let error = error.at(statement.place.clone());
                self.reporter.condition(&name, &Condition::Failed(&error));
                report.error = Some(Arc::new(error));
            }
        }
        report
    }

    /// Comes back some time after the end was asked for.
    async fn overdue(&self) {
        self.stop.stopped().await;
        tokio::time::sleep(GRACE).await;
    }

    /// Waits for the tables that it reads, and follows it.
    async fn follow_awaited(
        &self,
        statement: &Statement,
        awaited: Vec<&str>,
        task: &Task<'_>,
        report: &mut TableReport,
    ) -> Result<()> {
        let options = task.options;
        let slot = options.slot.map_or_else(String::new, |slot| format!("/{}-of-{}", slot.index, slot.count));
        let _lease = Lease::take(&format!("{}{slot}", report.location), &report.table)?;
        for name in awaited {
            while self.catalog.table(name).await?.version().await.is_none() {
                if task.failed.lock().await.contains(name) {
                    return Err(left_out(&report.table, name));
                }
                if self.stop.pause(LOOK).await {
                    return Ok(());
                }
            }
        }
        let over = options.run.full_refresh.covers(&report.table);
        match &statement.kind {
            Kind::StreamingTable(target) => self.follow_table(statement, target, task, over, report).await,
            Kind::MaterializedView(_) if options.slot.is_some() => {
                Err(Error::config(format!("`{}` cannot be shared by several instances", report.table))
                    .hint("`--slot` is for streaming tables: choose them with `--select`"))
            }
            Kind::MaterializedView(target) => self.follow_view(statement, target, options, over, report).await,
            _ => Ok(()),
        }
    }

    async fn follow_table(
        &self,
        statement: &Statement,
        target: &CreateTarget,
        task: &Task<'_>,
        mut over: bool,
        report: &mut TableReport,
    ) -> Result<()> {
        let mut pauses = Pauses::default();
        let mut has_waited = false;
        loop {
            let followed = self.follow_stream(statement, target, task, &mut over, report).await;
            let pause = pauses.longer();
            match followed {
                Ok(Some(())) => return Ok(()),
                // There was nothing yet to infer columns from.
                Ok(None) => has_waited = true,
                Err(error) if error.is_passing() && has_waited => {
                    self.reporter.condition(&report.table, &Condition::Waiting { error: &error, pause });
                }
                Err(error) => return Err(error),
            }
            if self.stop.pause(pause).await {
                return Ok(());
            }
        }
    }

    async fn follow_view(
        &self,
        statement: &Statement,
        target: &CreateTarget,
        options: &StreamOptions,
        mut over: bool,
        report: &mut TableReport,
    ) -> Result<()> {
        let mut pauses = Pauses::default();
        let mut seen = None;
        while !self.stop.is_stopped() {
            let watch = Stopwatch::start();
            let result = self.view_epoch(statement, target, &mut over, &mut seen, report).await;
            let trigger = options.trigger.or_else(|| seen.as_ref().map(|seen| seen.trigger)).unwrap_or(TRIGGER);
            let mut pause = trigger.max(Duration::from_millis(watch.elapsed_ms() * VIEW_SHARE));
            match result {
                Ok(()) => pauses = Pauses::default(),
                Err(error) if error.is_passing() && seen.is_some() => {
                    pause = pauses.longer();
                    self.reporter.condition(&report.table, &Condition::Waiting { error: &error, pause });
                }
                Err(error) => return Err(error),
            }
            self.stop.pause(pause).await;
        }
        Ok(())
    }

    /// Computes a view anew where what it reads is not what it was.
    async fn view_epoch(
        &self,
        statement: &Statement,
        target: &CreateTarget,
        over: &mut bool,
        seen: &mut Option<Seen>,
        report: &mut TableReport,
    ) -> Result<()> {
        if let Some(seen) = seen.as_ref()
            && !seen.volatile
            && fingerprints(&seen.readings).await? == seen.inputs
        {
            return Ok(());
        }
        let Preparation::Ready(prepared) = self.prepare(statement, target, &|_| None).await? else { return Ok(()) };
        refuse_stream(target)?;
        let home = self.home(target, None).await?;
        let over = std::mem::take(over);
        let inputs = fingerprints(&prepared.readings).await?;
        self.refresh_prepared(statement, target, (home, &prepared, &inputs), over, report).await?;
        if seen.is_none() {
            self.reporter.condition(&report.table, &Condition::Running);
        }
        let volatile = super::fill::is_volatile(&prepared.plan);
        let is_watched = !volatile && prepared.readings.sources.iter().all(|reading| reading.source.is_watchable());
        let trigger = prepared.trigger.unwrap_or(if is_watched { TRIGGER } else { UNWATCHED });
        *seen = Some(Seen { readings: prepared.readings, inputs, volatile, trigger });
        Ok(())
    }
}

/// What all targets of one stream have in common.
pub(super) struct Task<'a> {
    pub options: &'a StreamOptions,
    /// Those that have failed.
    failed: Mutex<BTreeSet<String>>,
    /// Whether there are several.
    pub company: bool,
}

/// What a view was computed from.
struct Seen {
    readings: crate::sql::catalog::Readings,
    inputs: Inputs,
    volatile: bool,
    /// From one look to the next, where the command line says nothing else.
    trigger: Duration,
}
