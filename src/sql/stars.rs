//! Hides a column from `*`: DataFusion has no hidden columns, so every `*` that would show it names it as left out.
//!
//! Uses the scopes of names of WITH. `p.* EXCLUDE (c)` and `* EXCLUDE (c)` are what the planner understands; an unqualified
//! one fails where two relations have the column, so there each relation gets its own. A relation whose columns are
//! renamed, or that is joined by NATURAL, would show the column in another way: it becomes a subquery without it.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, ExcludeSelectItem, Ident, Join, JoinConstraint, JoinOperator, ObjectName, ObjectNamePart, Select, SelectItem,
    SelectItemQualifiedWildcardKind, SetExpr, TableAlias, TableFactor, TableWithJoins, VisitMut, VisitorMut,
    WildcardAdditionalOptions,
};
use datafusion::sql::sqlparser::parser::Parser;

use super::dialect::PinsqlDialect;
use super::relations::{CteScopes, folded};

/// Leaves `column` out of every `*` over a relation that `is_source` says has it hidden. `is_source` is asked with the
/// names that stand in the tree. Where the column is selected by its name, it stays.
pub fn hide_column(query: &mut ast::Query, column: &str, is_source: &dyn Fn(&str) -> bool) {
    let mut hider = Hider { column, is_source, scopes: CteScopes::default(), unnamed: 0 };
    let _ = query.visit(&mut hider);
}

struct Hider<'a> {
    column: &'a str,
    is_source: &'a dyn Fn(&str) -> bool,
    scopes: CteScopes,
    /// How many relations were given a name.
    unnamed: usize,
}

/// A relation that a `*` shows.
struct Visible {
    /// What qualifies its columns; some relations have nothing.
    name: Option<Ident>,
    hidden: bool,
    /// Columns of USING that a relation before it shows already.
    shown: Vec<Ident>,
}

impl VisitorMut for Hider<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut ast::Query) -> ControlFlow<()> {
        self.scopes.enter(query);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut ast::Query) -> ControlFlow<()> {
        self.scopes.leave();
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        self.select(select);
        ControlFlow::Continue(())
    }
}

impl Hider<'_> {
    fn select(&mut self, select: &mut Select) {
        for table in &mut select.from {
            self.wrap_table(table, false);
        }
        let mut visible = self.visible_in(select, false);
        if !visible.iter().any(|relation| relation.hidden) {
            return;
        }
        let is_split = |item: &SelectItem| matches!(item, SelectItem::Wildcard(options) if is_split(options, &visible));
        if select.projection.iter().any(is_split) {
            visible = self.visible_in(select, true);
        }
        let items = std::mem::take(&mut select.projection);
        select.projection = items.into_iter().flat_map(|item| self.item(item, &visible)).collect();
    }

    fn visible_in(&mut self, select: &mut Select, name_all: bool) -> Vec<Visible> {
        let mut visible = Vec::new();
        for table in &mut select.from {
            visible.extend(self.visible(table, name_all));
        }
        visible
    }

    fn item(&self, item: SelectItem, visible: &[Visible]) -> Vec<SelectItem> {
        match item {
            SelectItem::Wildcard(mut options) => {
                let split = is_split(&options, visible);
                let stars: Option<Vec<SelectItem>> = visible.iter().map(|relation| self.star_of(relation)).collect();
                if let Some(stars) = stars.filter(|_| split) {
                    return stars;
                }
                self.exclude(&mut options, &[]);
                vec![SelectItem::Wildcard(options)]
            }
            SelectItem::QualifiedWildcard(kind, mut options) => {
                if self.is_hidden_in(&kind, visible) {
                    self.exclude(&mut options, &[]);
                }
                vec![SelectItem::QualifiedWildcard(kind, options)]
            }
            other => vec![other],
        }
    }

    fn star_of(&self, relation: &Visible) -> Option<SelectItem> {
        let mut options = WildcardAdditionalOptions::default();
        if relation.hidden {
            self.exclude(&mut options, &relation.shown);
        } else if !relation.shown.is_empty() {
            let names = relation.shown.iter().map(|name| ObjectName::from(vec![name.clone()])).collect();
            options.opt_exclude = Some(ExcludeSelectItem::Multiple(names));
        }
        let name = ObjectName::from(vec![relation.name.clone()?]);
        Some(SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options))
    }

    fn is_hidden_in(&self, kind: &SelectItemQualifiedWildcardKind, visible: &[Visible]) -> bool {
        let SelectItemQualifiedWildcardKind::ObjectName(name) = kind else { return false };
        let Some(ident) = name.0.last().and_then(ObjectNamePart::as_ident) else { return false };
        let name = folded(ident);
        visible.iter().any(|relation| relation.hidden && relation.name.as_ref().map(folded) == Some(name.clone()))
    }

    /// Adds the column, and others, to what a star leaves out; what is left out already is not named again.
    fn exclude(&self, options: &mut WildcardAdditionalOptions, others: &[Ident]) {
        let mut names: Vec<ObjectName> = match options.opt_exclude.take() {
            Some(ExcludeSelectItem::Single(name)) => vec![name],
            Some(ExcludeSelectItem::Multiple(names)) => names,
            None => Vec::new(),
        };
        let excepted = options.opt_except.iter().flat_map(|except| {
            std::iter::once(&except.first_element).chain(&except.additional_elements).map(folded).collect::<Vec<_>>()
        });
        let mut known: Vec<String> = excepted.collect();
        known.extend(names.iter().filter_map(|name| name.0.last()?.as_ident().map(folded)));
        for ident in std::iter::once(&Ident::new(self.column)).chain(others) {
            if !known.contains(&folded(ident)) {
                known.push(folded(ident));
                names.push(ObjectName::from(vec![ident.clone()]));
            }
        }
        options.opt_exclude = Some(names).filter(|names| !names.is_empty()).map(ExcludeSelectItem::Multiple);
    }

    /// The relations of a FROM item that a `*` shows, in its order. With `name_all`, those without a name get one.
    fn visible(&mut self, table: &mut TableWithJoins, name_all: bool) -> Vec<Visible> {
        let mut visible = self.visible_factor(&mut table.relation, name_all);
        for join in &mut table.joins {
            let mut right = self.visible_factor(&mut join.relation, name_all);
            match shown_sides(&join.join_operator) {
                (true, true) => {
                    let using = using_columns(&join.join_operator);
                    // The side whose rows may be missing is the one that does not show the columns.
                    let is_right = matches!(join.join_operator, JoinOperator::Right(_) | JoinOperator::RightOuter(_));
                    let hiding = if is_right && visible.len() == 1 { &mut visible } else { &mut right };
                    hiding.iter_mut().for_each(|relation| relation.shown.extend(using.iter().cloned()));
                    visible.extend(right);
                }
                (true, false) => {}
                (false, _) => visible = right,
            }
        }
        visible
    }

    fn visible_factor(&mut self, factor: &mut TableFactor, name_all: bool) -> Vec<Visible> {
        let hidden = self.is_source(factor);
        let name = match factor {
            TableFactor::NestedJoin { table_with_joins, alias: None } => {
                return self.visible(table_with_joins, name_all);
            }
            TableFactor::Table { name, alias, args: None, .. } => match alias {
                Some(alias) => Some(alias.name.clone()),
                None => name.0.last().and_then(ObjectNamePart::as_ident).cloned(),
            },
            TableFactor::Table { alias, .. }
            | TableFactor::Derived { alias, .. }
            | TableFactor::Function { alias, .. }
            | TableFactor::UNNEST { alias, .. }
            | TableFactor::NestedJoin { alias, .. } => {
                if alias.is_none() && name_all {
                    self.unnamed += 1;
                    let name = Ident::new(format!("__relation_{}", self.unnamed));
                    *alias = Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None });
                }
                alias.as_ref().map(|alias| alias.name.clone())
            }
            _ => None,
        };
        vec![Visible { name, hidden, shown: Vec::new() }]
    }

    fn is_source(&self, factor: &TableFactor) -> bool {
        let TableFactor::Table { name, args: None, .. } = factor else { return false };
        let [ObjectNamePart::Identifier(ident)] = name.0.as_slice() else { return false };
        let name = folded(ident);
        !self.scopes.contains(&name) && (self.is_source)(&name)
    }

    /// Makes subqueries of the sources whose column an EXCLUDE cannot reach.
    fn wrap_table(&self, table: &mut TableWithJoins, all: bool) {
        let all = all || table.joins.iter().any(is_natural);
        let factors = std::iter::once(&mut table.relation).chain(table.joins.iter_mut().map(|join| &mut join.relation));
        for factor in factors {
            if let TableFactor::NestedJoin { table_with_joins, alias } = factor {
                self.wrap_table(table_with_joins, all || alias.is_some());
            } else if self.is_source(factor) && (all || has_column_names(factor)) {
                self.wrap(factor);
            }
        }
    }

    /// `pin AS p` becomes `(SELECT * EXCLUDE (c) FROM pin) AS p`.
    fn wrap(&self, factor: &mut TableFactor) {
        let Some(mut subquery) = empty_select() else { return };
        let TableFactor::Table { name, alias, .. } = factor else { return };
        let outer = alias.take().or_else(|| {
            let name = name.0.last()?.as_ident()?.clone();
            Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None })
        });
        if let SetExpr::Select(select) = subquery.body.as_mut() {
            let mut options = WildcardAdditionalOptions::default();
            self.exclude(&mut options, &[]);
            select.projection = vec![SelectItem::Wildcard(options)];
            select.from = vec![TableWithJoins { relation: factor.clone(), joins: Vec::new() }];
        }
        *factor = TableFactor::Derived { lateral: false, subquery, alias: outer, sample: None };
    }
}

/// A tree for `SELECT *`.
fn empty_select() -> Option<Box<ast::Query>> {
    Parser::new(&PinsqlDialect).try_with_sql("SELECT *").and_then(|mut parser| parser.parse_query()).ok()
}

/// Whether a star must become one star for each relation. Not where there is only one, where the star has conditions of
/// its own that belong to all of them, or where one relation has the column and a USING shows its columns once.
fn is_split(options: &WildcardAdditionalOptions, visible: &[Visible]) -> bool {
    let hidden = visible.iter().filter(|relation| relation.hidden).count();
    let has_using = visible.iter().any(|relation| !relation.shown.is_empty());
    visible.len() > 1 && !has_options(options) && !(hidden == 1 && has_using)
}

fn has_options(options: &WildcardAdditionalOptions) -> bool {
    options.opt_ilike.is_some()
        || options.opt_exclude.is_some()
        || options.opt_except.is_some()
        || options.opt_replace.is_some()
        || options.opt_rename.is_some()
}

fn has_column_names(factor: &TableFactor) -> bool {
    matches!(factor, TableFactor::Table { alias: Some(alias), .. } if !alias.columns.is_empty())
}

fn is_natural(join: &Join) -> bool {
    constraint(&join.join_operator) == Some(&JoinConstraint::Natural)
}

fn using_columns(operator: &JoinOperator) -> Vec<Ident> {
    let Some(JoinConstraint::Using(names)) = constraint(operator) else { return Vec::new() };
    names.iter().filter_map(|name| name.0.last()?.as_ident().cloned()).collect()
}

fn constraint(operator: &JoinOperator) -> Option<&JoinConstraint> {
    match operator {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint)
        | JoinOperator::CrossJoin(constraint)
        | JoinOperator::Semi(constraint)
        | JoinOperator::LeftSemi(constraint)
        | JoinOperator::RightSemi(constraint)
        | JoinOperator::Anti(constraint)
        | JoinOperator::LeftAnti(constraint)
        | JoinOperator::RightAnti(constraint) => Some(constraint),
        _ => None,
    }
}

/// Whether the left and the right side of a join are in its rows.
fn shown_sides(operator: &JoinOperator) -> (bool, bool) {
    match operator {
        JoinOperator::Semi(_) | JoinOperator::LeftSemi(_) | JoinOperator::Anti(_) | JoinOperator::LeftAnti(_) => {
            (true, false)
        }
        JoinOperator::RightSemi(_) | JoinOperator::RightAnti(_) => (false, true),
        _ => (true, true),
    }
}
