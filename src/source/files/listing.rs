//! Lists what lies below a location: folders recursed, hidden names and other extensions left out.
//!
//! Floor 3: uses `store`, `error`.

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use glob::{MatchOptions, Pattern};
use object_store::{ObjectMeta, ObjectStoreExt};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::store::{self, Location};

/// Where objects are looked for, and which of them count.
#[derive(Debug, Clone)]
pub struct Place {
    /// The location as it was written: it stands before each object's name in the ledger, so that a project can be moved.
    pub written: String,
    /// The folder, or the one object.
    pub location: Location,
    /// What the path below the folder must look like, where the location held `*`, `?` or `[…]`.
    pub pattern: Option<Pattern>,
    /// `fileExtension`.
    pub extension: Option<String>,
    /// `recursive`.
    pub recursive: bool,
    /// Where the SQL says the location.
    pub said_at: Option<crate::error::Place>,
}

/// An object of the source.
#[derive(Debug, Clone)]
pub struct Object {
    /// Its name in the ledger.
    pub file: String,
    /// Path, size, time and tag.
    pub meta: ObjectMeta,
}

impl Object {
    /// A digest of the store's tag, or of time and size where it has none.
    pub fn tag(&self) -> u64 {
        match &self.meta.e_tag {
            Some(tag) => xxh3_64(tag.as_bytes()),
            None => xxh3_64(format!("{}-{}", self.meta.last_modified.timestamp_micros(), self.meta.size).as_bytes()),
        }
    }
}

/// Lists the objects, as the store orders them. A folder that is missing is an error, an empty one is not.
pub fn list(place: &Place) -> BoxStream<'static, Result<Object>> {
    let place = place.clone();
    let said_at = place.said_at.clone();
    futures::stream::once(async move {
        let listed = if place.is_one_object().await? {
            let meta = place.location.store().head(place.location.path()).await;
            let meta = meta.map_err(|error| store::failed(format!("cannot read `{}`", place.location), error))?;
            futures::stream::iter([Ok(meta)]).boxed()
        } else {
            place.below().await?
        };
        Ok::<_, Error>(listed.try_filter_map(move |meta| std::future::ready(Ok(place.object(meta)))))
    })
    .try_flatten()
    .map_err(move |error| match &said_at {
        Some(said_at) => error.at(said_at.clone()),
        None => error,
    })
    .boxed()
}

impl Place {
    /// On a disk the folder's own kind decides; in a bucket a name that does not end with `/` may be an object.
    async fn is_one_object(&self) -> Result<bool> {
        if let Some(path) = self.location.local_path() {
            let kind =
                tokio::fs::metadata(&path).await.map_err(|error| self.missing(&path.to_string_lossy(), &error))?;
            return Ok(kind.is_file());
        }
        if self.written.ends_with('/') || self.pattern.is_some() || self.location.path().as_ref().is_empty() {
            return Ok(false);
        }
        match self.location.store().head(self.location.path()).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(store::failed(format!("cannot look at `{}`", self.location), error)),
        }
    }

    fn missing(&self, path: &str, error: &std::io::Error) -> Error {
        Error::world(format!("cannot read the folder `{path}`: {error}")).hint(format!(
            "look whether `{}` is spelled right; relative locations count from pinsql.toml's folder",
            self.written
        ))
    }

    async fn below(&self) -> Result<BoxStream<'static, Result<ObjectMeta>>> {
        let context = format!("cannot list `{}`", self.location);
        let path = self.location.path();
        if self.recursive {
            let listed = self.location.store().list(Some(path));
            return Ok(listed.map_err(move |error| store::failed(&context, error)).boxed());
        }
        let listed = self.location.store().list_with_delimiter(Some(path)).await;
        let objects = listed.map_err(|error| store::failed(&context, error))?.objects;
        Ok(futures::stream::iter(objects.into_iter().map(Ok)).boxed())
    }

    fn object(&self, meta: ObjectMeta) -> Option<Object> {
        let below: Vec<String> = match meta.location.prefix_match(self.location.path()) {
            Some(parts) => parts.map(|part| part.as_ref().to_owned()).collect(),
            None => Vec::new(),
        };
        let name = meta.location.filename().unwrap_or_default();
        let hidden = below.iter().any(|part| part.starts_with('_') || part.starts_with('.'));
        let other = self.extension.as_ref().is_some_and(|extension| !name.ends_with(extension.as_str()));
        let relative = below.join("/");
        let unlike = self.pattern.as_ref().is_some_and(|pattern| !pattern.matches_with(&relative, whole_names()));
        if hidden || other || unlike {
            return None;
        }
        let base = self.written.trim_end_matches('/').replacen("s3a://", "s3://", 1);
        let file = if relative.is_empty() { base } else { format!("{base}/{relative}") };
        Some(Object { file, meta })
    }
}

/// `*` stays within one folder, as in a shell.
fn whole_names() -> MatchOptions {
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false }
}

/// Cuts a location at its first part with `*`, `?` or `[`: the folder before it and the pattern below.
pub fn split_pattern(written: &str) -> Result<(String, Option<Pattern>)> {
    let is_wild = |part: &str| part.contains(['*', '?', '[']);
    let (scheme, rest) = written.split_once("://").map_or(("", written), |(scheme, rest)| (scheme, rest));
    let parts: Vec<&str> = rest.split('/').collect();
    let Some(first) = parts.iter().position(|part| is_wild(part)) else { return Ok((written.to_owned(), None)) };
    let pattern = Pattern::new(&parts[first..].join("/")).map_err(|error| {
        Error::config(format!("`{written}` is not a pattern: {error}"))
            .hint("give a folder, or use `*` for any name in one")
    })?;
    let folder = parts[..first].join("/") + "/";
    Ok((if scheme.is_empty() { folder } else { format!("{scheme}://{folder}") }, Some(pattern)))
}
