//! In which order statements run: whatever fills a table before whatever reads it.
//!
//! Floor 6: uses `sql`, `error`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::sql::catalog::{Catalog, target_of};
use crate::sql::query::{Query, RelationTarget};
use crate::sql::statement::{Kind, Statement};

/// A statement to run, with the tables that it reads, through views.
#[derive(Debug, Clone)]
pub struct Step {
    /// The statement.
    pub statement: Arc<Statement>,
    /// The table that it fills, if it fills one.
    pub fills: Option<String>,
    /// What it reads.
    pub reads: BTreeSet<String>,
}

/// The query of a statement, if it has one.
pub fn query_of(kind: &Kind) -> Option<&Query> {
    match kind {
        Kind::Insert(insert) => Some(&insert.query),
        Kind::Query(query) => Some(query),
        Kind::View(view) => Some(&view.query),
        other => target_of(other).map(|target| &target.query),
    }
}

/// Orders statements. Those that do not depend on each other keep their order.
///
/// # Errors
/// Tables that read each other in a circle.
pub fn order(statements: &[Arc<Statement>], catalog: &Catalog) -> Result<Vec<Step>> {
    let steps: Vec<Step> = statements.iter().map(|statement| step(statement, catalog)).collect();
    let mut writers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, step) in steps.iter().enumerate() {
        if let Some(table) = &step.fills {
            writers.entry(table).or_default().push(index);
        }
    }
    let mut ordered = Ordered { steps: &steps, writers, states: vec![State::New; steps.len()], order: Vec::new() };
    for index in 0..steps.len() {
        ordered.visit(index, &mut Vec::new())?;
    }
    Ok(ordered.order.into_iter().map(|index| steps[index].clone()).collect())
}

fn step(statement: &Arc<Statement>, catalog: &Catalog) -> Step {
    let fills = match &statement.kind {
        Kind::Insert(insert) => Some(insert.target.value.clone()),
        other => target_of(other).map(|target| target.name.value.clone()),
    };
    let mut reads = BTreeSet::new();
    if let Some(query) = query_of(&statement.kind) {
        collect(query, catalog, &mut reads);
    }
    Step { statement: Arc::clone(statement), fills, reads }
}

fn collect(query: &Query, catalog: &Catalog, reads: &mut BTreeSet<String>) {
    for relation in &query.relations {
        let RelationTarget::Named(name) = &relation.target else { continue };
        // A view that was seen is not gone through again, so views in a circle end here and are refused when they are read.
        if reads.insert(name.clone())
            && let Some(Kind::View(view)) = catalog.declaration(name).map(|statement| &statement.kind)
        {
            collect(&view.query, catalog, reads);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Open,
    Done,
}

struct Ordered<'a> {
    steps: &'a [Step],
    writers: BTreeMap<&'a str, Vec<usize>>,
    states: Vec<State>,
    order: Vec<usize>,
}

impl Ordered<'_> {
    fn visit(&mut self, index: usize, path: &mut Vec<usize>) -> Result<()> {
        match self.states[index] {
            State::Done => return Ok(()),
            State::Open => return Err(self.circle(index, path)),
            State::New => self.states[index] = State::Open,
        }
        path.push(index);
        for before in self.before(index) {
            self.visit(before, path)?;
        }
        path.pop();
        self.states[index] = State::Done;
        self.order.push(index);
        Ok(())
    }

    /// The writers of what a step reads, and for an INSERT whatever makes its table.
    fn before(&self, index: usize) -> Vec<usize> {
        let step = &self.steps[index];
        let is_insert = |index: usize| matches!(self.steps[index].statement.kind, Kind::Insert(_));
        let mut before: Vec<usize> =
            step.reads.iter().filter_map(|name| self.writers.get(name.as_str())).flatten().copied().collect();
        if is_insert(index) {
            let table = step.fills.as_deref().and_then(|table| self.writers.get(table));
            before.retain(|writer| self.steps[*writer].fills != step.fills);
            before.extend(table.into_iter().flatten().copied().filter(|writer| !is_insert(*writer)));
        }
        before
    }

    fn circle(&self, index: usize, path: &[usize]) -> Error {
        let name = |index: &usize| self.steps[*index].fills.clone().unwrap_or_default();
        let from = path.iter().position(|step| *step == index).unwrap_or(0);
        let names: Vec<String> = path[from..].iter().chain([&index]).map(name).collect();
        let message = match &names[..] {
            [only, _] => format!("table `{only}` reads itself"),
            _ => format!("tables read each other in a circle: {}", names.join(" → ")),
        };
        Error::sql(message).at(self.steps[index].statement.place.clone()).hint("let one of them read a source instead")
    }
}
