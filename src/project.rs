//! A project: `pinsql.toml`, profiles, variables, and every .sql file below its folder.
//!
//! Floor 5: uses `sql`, `store`, `error`. The only reader of the environment, so that one place knows what goes before
//! what: a flag, the environment, the profile, the file, the default.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::{Table, Value};

use crate::error::{Error, Place, Result, nearest};
use crate::sql::parser::parse_script;
use crate::sql::statement::Statement;
use crate::sql::text::SqlText;
use crate::sql::variables::Variables;
use crate::store::Settings;

/// The file that makes a folder a project.
const FILE: &str = "pinsql.toml";

/// What the command line says about the project.
#[derive(Debug, Clone, Default)]
pub struct Invocation {
    /// `-C`: the folder to count from instead of the current one.
    pub directory: Option<PathBuf>,
    /// `--profile`
    pub profile: Option<String>,
    /// `--lake`
    pub lake: Option<String>,
    /// `--var`, in their order; the last of a name counts.
    pub vars: Vec<(String, String)>,
}

/// A .sql file, parsed.
#[derive(Debug, Clone)]
pub struct SqlFile {
    /// Where it lies.
    pub path: PathBuf,
    /// What it says.
    pub statements: Vec<Arc<Statement>>,
    /// Whether the command line named it, or a folder that holds it.
    pub selected: bool,
}

/// A project.
#[derive(Debug)]
pub struct Project {
    /// Where relative locations count from.
    pub root: PathBuf,
    /// Where tables live.
    pub lake: String,
    /// Every file of the project, and those that the command line named, by path.
    pub files: Vec<SqlFile>,
    variables: BTreeMap<String, String>,
    vars: Vec<(String, String)>,
    lenient_base: PathBuf,
}

impl Project {
    /// Finds the project of the paths that were named (or of the current folder), reads and parses all of it.
    pub fn open(invocation: &Invocation, paths: &[PathBuf]) -> Result<Self> {
        let here = current_folder(invocation)?;
        let named: Vec<PathBuf> = paths.iter().map(|path| here.join(path)).collect();
        if let Some(missing) = named.iter().position(|path| !path.exists()) {
            return Err(Error::config(format!("there is no file or folder `{}`", paths[missing].display()))
                .hint("give a .sql file or a folder of them"));
        }
        let found = named.first().map_or(here.as_path(), PathBuf::as_path);
        let file = found.ancestors().map(|folder| folder.join(FILE)).find(|file| file.is_file());
        let config = match (file.as_deref(), profile(invocation)) {
            (Some(file), profile) => Config::read(file, &here, profile)?,
            (None, None) => Config::default(),
            (None, Some(name)) => {
                return Err(Error::config(format!("there is no {FILE} that has the profile `{name}`"))
                    .hint("go to the project's folder, or name it with -C"));
            }
        };
        let root = file.as_deref().and_then(Path::parent).map_or_else(|| here.clone(), Path::to_path_buf);
        let mut project = Self {
            lake: lake(invocation, &config),
            root,
            files: Vec::new(),
            variables: config.vars,
            vars: invocation.vars.clone(),
            lenient_base: here,
        };
        let own = project.own_folder(file.is_some(), config.sql.as_deref(), named.first())?;
        project.load(own.as_deref(), &named)?;
        Ok(project)
    }

    /// The folder that holds the project's SQL; None where nothing says there is any.
    fn own_folder(&self, has_file: bool, sql: Option<&str>, named: Option<&PathBuf>) -> Result<Option<PathBuf>> {
        if !has_file {
            return Ok(named.map(|path| match path.is_file() {
                true => path.parent().unwrap_or(path).to_path_buf(),
                false => path.clone(),
            }));
        }
        let folder = self.root.join(sql.unwrap_or("sql"));
        match (folder.is_dir(), sql) {
            (true, _) => Ok(Some(folder)),
            (false, None) => Ok(Some(self.root.clone())),
            (false, Some(sql)) => Err(Error::config(format!("the project's SQL folder `{sql}` does not exist"))
                .hint(format!("mend `sql` in {FILE}"))),
        }
    }

    fn load(&mut self, own: Option<&Path>, named: &[PathBuf]) -> Result<()> {
        let mut paths: BTreeMap<PathBuf, bool> = BTreeMap::new();
        if let Some(own) = own {
            // Nothing is named: all of the project is meant.
            paths.extend(sql_files(own)?.into_iter().map(|path| (path, named.is_empty())));
        }
        for path in named {
            let selected = if path.is_file() { vec![path.clone()] } else { sql_files(path)? };
            if selected.is_empty() {
                return Err(Error::config(format!("there is no .sql file in `{}`", path.display()))
                    .hint("give a .sql file or a folder of them"));
            }
            paths.extend(selected.into_iter().map(|path| (without_dots(&path), true)));
        }
        for (path, selected) in paths {
            let statements = self.parse_file(&path)?;
            self.files.push(SqlFile { path, statements, selected });
        }
        Ok(())
    }

    fn parse_file(&self, path: &Path) -> Result<Vec<Arc<Statement>>> {
        let name = path.strip_prefix(&self.lenient_base).unwrap_or(path).display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::config(format!("cannot read `{name}`: {error}")).hint("a .sql file is UTF-8 text")
        })?;
        self.parse(&name, &text)
    }

    /// Parses SQL text with the project's variables.
    pub fn parse(&self, name: &str, text: &str) -> Result<Vec<Arc<Statement>>> {
        let known: Vec<String> =
            self.vars.iter().map(|(name, _)| name.clone()).chain(self.variables.keys().cloned()).collect();
        let lookup = |name: &str| self.variable(name);
        let variables = Variables { lookup: &lookup, known: &known };
        let statements = parse_script(&Arc::new(SqlText::new(name, text)), &variables)?;
        Ok(statements.into_iter().map(Arc::new).collect())
    }

    fn variable(&self, name: &str) -> Option<String> {
        let flag = self.vars.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        flag.or_else(|| environment(name)).or_else(|| self.variables.get(name).cloned())
    }

    /// Settings for opening stores.
    pub fn store_settings(&self) -> Settings {
        let endpoint = environment("AWS_ENDPOINT_URL_S3").or_else(|| environment("AWS_ENDPOINT_URL"));
        Settings { base: self.root.clone(), s3_endpoint: endpoint.filter(|endpoint| !endpoint.is_empty()) }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn current_folder(invocation: &Invocation) -> Result<PathBuf> {
    let here =
        std::env::current_dir().map_err(|error| Error::world(format!("the current folder cannot be read: {error}")))?;
    let Some(directory) = &invocation.directory else { return Ok(here) };
    let folder = here.join(directory);
    if folder.is_dir() {
        return Ok(without_dots(&folder));
    }
    Err(Error::config(format!("there is no folder `{}`", directory.display())).hint("mend the argument of -C"))
}

fn profile(invocation: &Invocation) -> Option<String> {
    invocation.profile.clone().or_else(|| environment("PINSQL_PROFILE").filter(|name| !name.is_empty()))
}

fn lake(invocation: &Invocation, config: &Config) -> String {
    let lake = invocation.lake.clone().or_else(|| environment("PINSQL_LAKE"));
    lake.or_else(|| config.lake.clone()).unwrap_or_else(|| "lake".to_owned())
}

/// `a/./b/../c` is `a/c`, so that a file that is named in two ways is one file.
fn without_dots(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut normal, component| {
        match component {
            std::path::Component::ParentDir => drop(normal.pop()),
            std::path::Component::CurDir => {}
            other => normal.push(other),
        }
        normal
    })
}

/// The .sql files below a folder, sorted; hidden files and folders are left out.
fn sql_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error: std::io::Error| {
        Error::world(format!("cannot read the folder `{}`: {error}", folder.display())).hint("look at its rights")
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            continue;
        }
        if path.is_dir() {
            found.extend(sql_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("sql")) {
            found.push(without_dots(&path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// What `pinsql.toml` says, with its profile applied.
#[derive(Debug, Default)]
struct Config {
    lake: Option<String>,
    sql: Option<String>,
    vars: BTreeMap<String, String>,
}

impl Config {
    fn read(path: &Path, here: &Path, profile: Option<String>) -> Result<Self> {
        let name = path.strip_prefix(here).unwrap_or(path).display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|error| Error::config(format!("cannot read `{name}`: {error}")))?;
        let source = Source { name, text: &text };
        let mut table: Table = text.parse().map_err(|error: toml::de::Error| {
            Error::config(format!("{FILE} is not TOML: {}", error.message().lines().next().unwrap_or_default()))
                .at(source.place(error.span().map_or(0, |span| span.start)))
                .hint("a line is `key = \"text\"`, or `[vars]` before some of them")
        })?;
        let mut config = Self {
            lake: source.string(&mut table, "lake")?,
            sql: source.string(&mut table, "sql")?,
            vars: source.strings(&mut table, "vars")?,
        };
        let profiles = table.remove("profile");
        source.finish(&table, &["lake", "sql", "vars", "profile"])?;
        if let Some(name) = profile {
            config.apply(&source, profiles, &name)?;
        }
        Ok(config)
    }

    fn apply(&mut self, source: &Source<'_>, profiles: Option<Value>, name: &str) -> Result<()> {
        let Some(Value::Table(mut profiles)) = profiles else {
            return Err(Error::config(format!("there is no profile `{name}`: {} has none", source.name))
                .hint(format!("add [profile.{name}] to it")));
        };
        let known: Vec<String> = profiles.keys().cloned().collect();
        let Some(Value::Table(mut profile)) = profiles.remove(name) else {
            let error = Error::config(format!("there is no profile `{name}` in {}", source.name));
            return Err(match nearest(name, known.iter().map(String::as_str)) {
                Some(name) => error.hint(format!("did you mean `{name}`?")),
                None => error.hint(format!("the profiles are {}", known.join(", "))),
            });
        };
        self.lake = source.string(&mut profile, "lake")?.or(self.lake.take());
        self.vars.extend(source.strings(&mut profile, "vars")?);
        source.finish(&profile, &["lake", "vars"])
    }
}

/// The text of `pinsql.toml`, to point into.
struct Source<'a> {
    name: String,
    text: &'a str,
}

impl Source<'_> {
    fn string(&self, table: &mut Table, key: &str) -> Result<Option<String>> {
        match table.remove(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "text in quotes")),
        }
    }

    fn strings(&self, table: &mut Table, key: &str) -> Result<BTreeMap<String, String>> {
        let entries = match table.remove(key) {
            None => return Ok(BTreeMap::new()),
            Some(Value::Table(entries)) => entries,
            Some(_) => return Err(self.wrong(key, "a table such as [vars]")),
        };
        let text = |(name, value): (String, Value)| match value {
            Value::String(text) => Ok((name, text)),
            Value::Integer(number) => Ok((name, number.to_string())),
            Value::Float(number) => Ok((name, number.to_string())),
            Value::Boolean(value) => Ok((name, value.to_string())),
            _ => Err(self.wrong(&name, "text, a number or a boolean")),
        };
        entries.into_iter().map(text).collect()
    }

    fn finish(&self, rest: &Table, known: &[&str]) -> Result<()> {
        let Some(key) = rest.keys().next() else { return Ok(()) };
        let error = Error::config(format!("unknown key `{key}`")).at(self.place_of(key));
        Err(match nearest(key, known.iter().copied()) {
            Some(name) => error.hint(format!("did you mean `{name}`?")),
            None => error.hint(format!("the keys are {}", known.join(", "))),
        })
    }

    fn wrong(&self, key: &str, expected: &str) -> Error {
        Error::config(format!("`{key}` is not {expected}")).at(self.place_of(key)).hint(format!("give {expected}"))
    }

    fn place_of(&self, key: &str) -> Place {
        let begins = |line: &&str| line.trim_start().trim_start_matches(['[', '"', '\'']).starts_with(key);
        let mut offset = 0;
        for line in self.text.split_inclusive('\n') {
            if begins(&line) {
                return self.place(offset + line.find(key).unwrap_or(0));
            }
            offset += line.len();
        }
        self.place(0)
    }

    fn place(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or_default();
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = self.text[start..].lines().next().unwrap_or_default();
        Place {
            file: self.name.clone(),
            line: before.matches('\n').count() as u64 + 1,
            column: before[start..].chars().count() as u64 + 1,
            text: line.to_owned(),
            width: 1,
        }
    }
}

/// The text of a file, which counts from `-C`, or of standard input for `-`.
pub fn read_script(path: &Path, directory: Option<&Path>) -> Result<String> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes).map(|_| ())
    } else {
        std::fs::read(directory.map_or_else(|| path.to_path_buf(), |folder| folder.join(path))).map(|read| bytes = read)
    };
    let name = path.display();
    read.map_err(|error| {
        Error::config(format!("cannot read `{name}`: {error}")).hint("give the path of a file of SQL statements")
    })?;
    String::from_utf8(bytes)
        .map_err(|error| Error::sql(format!("`{name}` is not UTF-8 text: {error}")).hint("save it as UTF-8"))
}
