//! Finds every table, stream and source function that a query reads, and gives each a name in the tree.
//!
//! Uses `error`, the text and the query's types. Names of WITH are followed by their scope; a function that is no source
//! stays as it is.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, ObjectNamePart, SetExpr, Spanned as _, TableAlias,
    TableFactor, UnaryOperator, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::{Location, Span};

use super::query::{InlineSource, Relation, RelationTarget, SourceFunction};
use super::text::{Name, OptionPair, Spanned, SqlText};
use super::tokens::{check_table_name, given_twice, qualified};
use crate::error::{Error, Place, Result};

/// Lists what the query reads, and rewrites streams and source functions to plain names.
pub(super) fn resolve(
    text: &SqlText,
    query: &mut ast::Query,
    streams: &BTreeSet<Location>,
    words: &BTreeSet<String>,
    place: &Place,
) -> Result<Vec<Relation>> {
    let mut resolver =
        Resolver { text, streams: streams.clone(), words, place, scopes: CteScopes::default(), relations: Vec::new() };
    if let ControlFlow::Break(error) = query.visit(&mut resolver) {
        return Err(error);
    }
    // A STREAM that no table took, as in front of an alias.
    match resolver.streams.first() {
        Some(start) => Err(not_streamed(text.place(*start, *start))),
        None => Ok(resolver.relations),
    }
}

/// Which names of WITH can be seen. Told of every query that is entered and left.
#[derive(Default)]
pub(super) struct CteScopes {
    frames: Vec<Frame>,
}

struct Frame {
    /// The address of each WITH query, with its name: how a query is known to be one.
    declared: Vec<(usize, String)>,
    visible: Vec<String>,
    recursive: bool,
    address: usize,
}

impl CteScopes {
    /// A query begins.
    pub fn enter(&mut self, query: &ast::Query) {
        let address = address(query);
        let ctes = query.with.iter().flat_map(|with| &with.cte_tables);
        let declared = ctes.map(|cte| (self::address(&cte.query), folded(&cte.alias.name))).collect::<Vec<_>>();
        let recursive = query.with.as_ref().is_some_and(|with| with.recursive);
        // A query of WITH RECURSIVE sees itself.
        let own_name = self.name_of(address);
        if let (Some(name), Some(outer)) = (own_name, self.frames.last_mut().filter(|frame| frame.recursive)) {
            outer.visible.push(name);
        }
        self.frames.push(Frame { declared, visible: Vec::new(), recursive, address });
    }

    /// The query that was entered last ends. If it was one of a WITH, its name can be seen from now on.
    pub fn leave(&mut self) {
        let Some(frame) = self.frames.pop() else { return };
        if let (Some(name), Some(outer)) = (self.name_of(frame.address), self.frames.last_mut()) {
            outer.visible.push(name);
        }
    }

    /// Whether a name, folded, is one of WITH here.
    pub fn contains(&self, name: &str) -> bool {
        self.frames.iter().any(|frame| frame.visible.iter().any(|visible| visible == name))
    }

    fn name_of(&self, address: usize) -> Option<String> {
        let declared = &self.frames.last()?.declared;
        declared.iter().find(|(other, _)| *other == address).map(|(_, name)| name.clone())
    }
}

/// A query inside of a tree does not move while the tree is walked.
fn address(query: &ast::Query) -> usize {
    std::ptr::from_ref(query).addr()
}

/// As names are compared: in lower case unless quoted.
pub(super) fn folded(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

struct Resolver<'a> {
    text: &'a SqlText,
    /// Where streams begin that were not met yet.
    streams: BTreeSet<Location>,
    words: &'a BTreeSet<String>,
    place: &'a Place,
    scopes: CteScopes,
    relations: Vec<Relation>,
}

impl VisitorMut for Resolver<'_> {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut ast::Query) -> ControlFlow<Error> {
        self.scopes.enter(query);
        as_flow(self.check_query(query))
    }

    fn post_visit_query(&mut self, _: &mut ast::Query) -> ControlFlow<Error> {
        self.scopes.leave();
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        as_flow(self.factor(factor))
    }
}

fn as_flow(result: Result<()>) -> ControlFlow<Error> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    }
}

impl Resolver<'_> {
    /// Clauses that the planner would drop in silence, and statements in the place of a query.
    fn check_query(&self, query: &ast::Query) -> Result<()> {
        let refuse = |what: &str, hint: &str, span: Span| {
            Err(Error::sql(format!("{what} is not supported")).hint(hint).at(self.place_of(span)))
        };
        if !query.locks.is_empty() || query.for_clause.is_some() {
            return refuse("`FOR …` behind a query", "leave it out", query.span());
        }
        if let Some(fetch) = &query.fetch {
            let span = fetch.quantity.as_ref().map_or_else(|| query.span(), |quantity| quantity.span());
            return refuse("`FETCH`", "say LIMIT n", span);
        }
        match query.body.as_ref() {
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                refuse("a change of rows behind WITH", "say INSERT INTO t WITH … SELECT …", query.span())
            }
            SetExpr::Table(_) => refuse("`TABLE t` as a query", "say SELECT * FROM t", query.span()),
            SetExpr::Select(select) => match &select.into {
                Some(into) => refuse("`SELECT … INTO`", "say CREATE TABLE t AS SELECT …", into.span()),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn factor(&mut self, factor: &mut TableFactor) -> Result<()> {
        let stream = self.take_stream(factor);
        self.check_factor(factor)?;
        let TableFactor::Table { name, alias, args, .. } = factor else { return Ok(()) };
        let Some(first) = name.0.first().and_then(ObjectNamePart::as_ident).cloned() else { return Ok(()) };
        let place = self.place_of(name.span());
        if name.0.len() > 1 && args.is_none() && folded(&first) == "information_schema" && !stream {
            return Ok(());
        }
        if name.0.len() > 1 {
            return Err(self.qualified(name, &first, place));
        }
        let target = match args {
            Some(args) => match SourceFunction::from_name(&first.value) {
                Some(function) => RelationTarget::Inline(self.inline(function, &args.args, &place)?),
                None if stream => return Err(not_streamed(place)),
                None => return Ok(()),
            },
            None if self.scopes.contains(&folded(&first)) => {
                return if stream { Err(streamed_cte(&first, place)) } else { Ok(()) };
            }
            None => {
                check_table_name(&Name { value: folded(&first), place: place.clone() })?;
                RelationTarget::Named(folded(&first))
            }
        };
        let is_inline = args.take().is_some();
        let binding = self.binding(target, stream, place);
        if is_inline || stream {
            *name = ObjectName::from(vec![Ident { value: binding, quote_style: None, span: first.span }]);
            let as_written = || TableAlias { explicit: true, name: first, columns: Vec::new(), at: None };
            alias.get_or_insert_with(as_written);
        }
        Ok(())
    }

    fn take_stream(&mut self, factor: &TableFactor) -> bool {
        match factor {
            TableFactor::Table { name, .. } => {
                let start = name.0.first().and_then(ObjectNamePart::as_ident).map(|ident| ident.span.start);
                start.is_some_and(|start| self.streams.remove(&start))
            }
            _ => false,
        }
    }

    /// What the planner would drop in silence, which gives other rows than were asked for.
    fn check_factor(&self, factor: &TableFactor) -> Result<()> {
        let refused = match factor {
            TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. } => {
                Some(("`TABLESAMPLE`", "say WHERE random() < 0.1"))
            }
            TableFactor::Table { version: Some(_), .. } => {
                Some(("an older version of a table", "leave `AS OF` out; the table is read as it is now"))
            }
            TableFactor::Table { with_ordinality: true, .. } => {
                Some(("`WITH ORDINALITY`", "number rows by row_number()"))
            }
            TableFactor::Table { partitions, .. } if !partitions.is_empty() => {
                Some(("`PARTITION` behind a table", "say WHERE on the columns of the partition"))
            }
            TableFactor::Table { with_hints, .. } if !with_hints.is_empty() => Some((
                "`WITH (…)` behind a table",
                "put options on the source: OPTIONS (…) or the function's arguments",
            )),
            TableFactor::Pivot { .. } => Some(("`PIVOT`", "say sum(x) FILTER (WHERE key = …) for each column")),
            TableFactor::Unpivot { .. } => Some(("`UNPIVOT`", "say UNION ALL of one SELECT for each column")),
            TableFactor::TableFunction { .. } => Some(("`TABLE(…)`", "call the function without TABLE")),
            _ => None,
        };
        match refused {
            Some((what, hint)) => {
                Err(Error::sql(format!("{what} is not supported")).hint(hint).at(self.place_of(factor.span())))
            }
            None => Ok(()),
        }
    }

    fn qualified(&self, name: &ObjectName, first: &Ident, place: Place) -> Error {
        let last = name.0.last().and_then(ObjectNamePart::as_ident).map(folded).unwrap_or_default();
        let span = name.span();
        let written = self.text.quote(span.start, span.end);
        if ["json", "text", "csv", "parquet", "delta"].contains(&folded(first).as_str()) {
            return Error::sql(format!("`{}` in FROM is not supported", written.replace('`', "")))
                .hint("say read_files('path', format => 'json')")
                .at(place);
        }
        qualified(&written, &last, place)
    }

    /// The name for a target: one for each pair of target and way to read it.
    fn binding(&mut self, target: RelationTarget, stream: bool, place: Place) -> String {
        let same = |other: &&Relation| other.stream == stream && same_target(&other.target, &target);
        if let Some(same) = self.relations.iter().find(same) {
            return same.binding.clone();
        }
        let binding = match &target {
            RelationTarget::Named(name) if !stream => name.clone(),
            RelationTarget::Named(name) => self.unused(&format!("__stream_{}", identifier(name))),
            RelationTarget::Inline(inline) => self.unused(&format!("__{}", inline.function.name())),
        };
        self.relations.push(Relation { binding: binding.clone(), target, stream, place });
        binding
    }

    /// A name that neither the text nor another relation has; source functions are counted from 1.
    fn unused(&self, stem: &str) -> String {
        let is_free = |name: &String| {
            !self.words.contains(name) && !self.relations.iter().any(|relation| relation.binding == *name)
        };
        let first = Some(stem.to_owned()).filter(|_| stem.starts_with("__stream_"));
        let numbered = (1u64..).map(|number| format!("{stem}_{number}"));
        first.into_iter().chain(numbered).find(is_free).unwrap_or_default()
    }

    fn inline(&self, function: SourceFunction, args: &[FunctionArg], place: &Place) -> Result<InlineSource> {
        let mut options: Vec<OptionPair> = Vec::new();
        for (position, arg) in args.iter().enumerate() {
            let pair = match arg {
                FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. } => {
                    self.pair(name.value.clone(), name.span, value, place)?
                }
                FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::BinaryOp { left, op, right }))
                    if *op == ast::BinaryOperator::Eq =>
                {
                    self.pair(self.key(left, place)?, left.span(), right, place)?
                }
                FunctionArg::Unnamed(FunctionArgExpr::Expr(value))
                    if position == 0 && function == SourceFunction::ReadFiles =>
                {
                    self.pair("path".into(), value.span(), value, place)?
                }
                other => return Err(self.not_named(function, other, place)),
            };
            if options.iter().any(|other| other.key.value.eq_ignore_ascii_case(&pair.key.value)) {
                return Err(given_twice(&pair.key));
            }
            options.push(pair);
        }
        Ok(InlineSource { function, options })
    }

    /// The key of `a.b = 'x'`.
    fn key(&self, key: &Expr, place: &Place) -> Result<String> {
        match key {
            Expr::Identifier(ident) => Ok(ident.value.clone()),
            Expr::CompoundIdentifier(parts) => {
                Ok(parts.iter().map(|part| part.value.as_str()).collect::<Vec<_>>().join("."))
            }
            other => Err(Error::sql("this is not an option's name")
                .hint("write key => 'value'")
                .at(self.place_or(other.span(), place))),
        }
    }

    fn pair(&self, key: String, span: Span, value: &Expr, place: &Place) -> Result<OptionPair> {
        let value_place = self.place_or(value.span(), place);
        let Some(text) = literal(value) else {
            return Err(Error::sql(format!("the value of `{key}` is not a string, a number or a boolean"))
                .hint("write it out, or put it into a variable: ${NAME}")
                .at(value_place));
        };
        let key = Spanned { value: key, place: self.place_or(span, place) };
        Ok(OptionPair { key, value: Spanned { value: text, place: value_place } })
    }

    fn not_named(&self, function: SourceFunction, arg: &FunctionArg, place: &Place) -> Error {
        let hint = match function {
            SourceFunction::ReadFiles => "only the first argument, the path, goes without a name: format => 'json'",
            SourceFunction::ReadKafka => "name every argument: subscribe => 'topic'",
            SourceFunction::ReadKinesis => "name every argument: streamName => 'stream'",
        };
        let message = format!("an argument of `{}` has no name", function.name());
        Error::sql(message).hint(hint).at(self.place_or(arg.span(), place))
    }

    /// The place of a part of the tree; the query's where the tree does not know it.
    fn place_of(&self, span: Span) -> Place {
        self.place_or(span, self.place)
    }

    fn place_or(&self, span: Span, other: &Place) -> Place {
        if span == Span::empty() { other.clone() } else { self.text.place(span.start, span.end) }
    }
}

fn same_target(one: &RelationTarget, other: &RelationTarget) -> bool {
    let (RelationTarget::Inline(one), RelationTarget::Inline(other)) = (one, other) else { return one == other };
    let pairs = |inline: &InlineSource| -> BTreeSet<(String, String)> {
        inline.options.iter().map(|pair| (pair.key.value.to_lowercase(), pair.value.value.clone())).collect()
    };
    one.function == other.function && pairs(one) == pairs(other)
}

/// A name as part of an identifier.
fn identifier(name: &str) -> String {
    name.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

fn literal(value: &Expr) -> Option<String> {
    match value {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => Some(text.clone()),
            Value::Number(number, _) => Some(number.clone()),
            Value::Boolean(flag) => Some(flag.to_string()),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match literal(expr) {
            Some(number) if !matches!(expr.as_ref(), Expr::UnaryOp { .. }) && number.parse::<f64>().is_ok() => {
                Some(format!("-{number}"))
            }
            _ => None,
        },
        _ => None,
    }
}

fn streamed_cte(name: &Ident, place: Place) -> Error {
    Error::sql(format!("`{name}` is a name of WITH and cannot be streamed"))
        .hint("put STREAM in front of the table inside of the WITH")
        .at(place)
}

fn not_streamed(place: Place) -> Error {
    Error::sql("`STREAM` takes a table, or read_files, read_kafka or read_kinesis")
        .hint("leave STREAM out here")
        .at(place)
}
