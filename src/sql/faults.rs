//! What DataFusion says of a query, said at the right place and with the nearest name.
//!
//! Floor 4: uses `error` and the text.

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::tokenizer::Location;

use super::text::SqlText;
use crate::error::{Error, Place, in_sql_types, nearest};

/// Explains an error of planning. Where it has no place of its own, it is at `statement`.
pub fn explain(error: DataFusionError, text: &SqlText, statement: &Place) -> Error {
    let place = error.diagnostic().and_then(|diagnostic| diagnostic.span).map(|span| {
        let location = |at: datafusion::common::Location| Location { line: at.line, column: at.column };
        text.place(location(span.start), location(span.end))
    });
    let explained = match error {
        DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(ours) => return *ours,
            Err(other) => Error::sql(other.to_string()),
        },
        error => of_plan(&error),
    };
    explained.at(place.unwrap_or_else(|| statement.clone()))
}

/// Explains an error whose own positions are not those of the file: it is at `place`.
pub fn explain_at(error: &DataFusionError, place: &Place) -> Error {
    of_plan(error).at(place.clone())
}

fn of_plan(error: &DataFusionError) -> Error {
    match error.find_root() {
        DataFusionError::SchemaError(schema, _) => of_schema(schema),
        root => {
            let words = root.strip_backtrace();
            let words = strip(&words);
            if let Some(known) = of_known_words(words) {
                return known;
            }
            match words.split_once(" Did you mean ").or_else(|| words.split_once(".\nDid you mean ")) {
                Some((what, meant)) => {
                    Error::sql(lower_first(what.trim_end_matches('.'))).hint(format!("did you mean {meant}"))
                }
                None => Error::sql(lower_first(words.trim_end_matches('.'))),
            }
        }
    }
}

/// What DataFusion says at length, or in words of its own, in fewer and with what to do.
fn of_known_words(words: &str) -> Option<Error> {
    if words.starts_with("Projections require unique expression names") {
        let name = between(words, "but the expression \"", "\" at position")?;
        return Some(
            Error::sql(format!("two columns are called `{}`", name.rsplit('.').next().unwrap_or(name)))
                .hint("give one of them another name with AS"),
        );
    }
    if let Some(call) = between(words, "given name and argument types '", "'. You might") {
        let (name, arguments) = call.split_once('(')?;
        let candidates = words.split_once("Candidate functions:").map(|(_, candidates)| candidates.trim());
        let one = candidates.and_then(|candidates| candidates.lines().next()).map(|line| in_sql_types(line.trim()));
        let hint = one.map_or_else(
            || "cast its arguments".to_owned(),
            |one| format!("cast its arguments; it is, for example, {one}"),
        );
        return Some(Error::sql(format!("`{name}` does not take ({}", in_sql_types(arguments))).hint(hint));
    }
    if let Some(name) = between(words, "Invalid function '", "'") {
        let meant = between(words, "Did you mean '", "'").map(|meant| format!("did you mean `{meant}`?"));
        let hint = meant.unwrap_or_else(|| "the functions are those of DataFusion".to_owned());
        return Some(Error::sql(format!("there is no function `{name}`")).hint(hint));
    }
    if let Some(condition) = between(words, "non-boolean predicate '", "' returning ") {
        let kind = words.rsplit(' ').next().unwrap_or_default();
        return Some(
            Error::sql(format!("the condition `{condition}` is {}, not true or false", in_sql_types(kind)))
                .hint("compare it with something, such as WHERE x > 0"),
        );
    }
    if words.starts_with("Column in") && words.contains("GROUP BY") {
        let column = between(words, "column \"", "\" must appear")?;
        return Some(
            Error::sql(format!("the column `{column}` is neither in GROUP BY nor in an aggregate function"))
                .hint("add it to GROUP BY, or say which of its values is meant, such as max(…) or first_value(…)"),
        );
    }
    let operation = words.strip_prefix("Cannot coerce arithmetic expression ")?.strip_suffix(" to valid types")?;
    Some(Error::sql(format!("`{}` cannot be computed", in_sql_types(operation))).hint("cast one of the two sides"))
}

fn between<'a>(words: &'a str, before: &str, after: &str) -> Option<&'a str> {
    words.split_once(before)?.1.split_once(after).map(|(found, _)| found)
}

fn of_schema(error: &SchemaError) -> Error {
    let SchemaError::FieldNotFound { field, valid_fields } = error else {
        return Error::sql(lower_first(&error.to_string()));
    };
    let names: Vec<&str> =
        valid_fields.iter().map(|field| field.name.as_str()).filter(|name| !name.starts_with("__")).collect();
    let unknown = Error::sql(format!("there is no column `{}`", field.name));
    match nearest(&field.name, names.iter().copied()) {
        Some(name) => unknown.hint(format!("did you mean `{name}`?")),
        None if names.is_empty() => unknown,
        None => unknown.hint(format!("the columns are {}", names.join(", "))),
    }
}

/// DataFusion's words without its names for kinds of errors.
fn strip(words: &str) -> &str {
    const KINDS: [&str; 5] = [
        "Error during planning: ",
        "Schema error: ",
        "SQL error: ",
        "This feature is not implemented: ",
        "Execution error: ",
    ];
    KINDS.iter().fold(words, |words, kind| words.strip_prefix(kind).unwrap_or(words))
}

fn lower_first(words: &str) -> String {
    let mut characters = words.chars();
    let second_is_upper = words.chars().nth(1).is_some_and(char::is_uppercase);
    match characters.next() {
        Some(first) if !second_is_upper => first.to_lowercase().chain(characters).collect(),
        _ => words.to_owned(),
    }
}
