//! Opens the stores that sources and lakes lie in: local folders and S3.
//!
//! Floor 2: uses `error`. This is where URLs, credentials, retries and durability are decided; every other room is handed
//! a [`Location`] and asks nothing about what is behind it.

mod durable;
pub mod identity;
mod s3;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use tokio::sync::Mutex;
use url::Url;

use crate::error::{Error, Result};

/// What is put around every store that is opened: tests put faults here.
pub type Layer = Arc<dyn Fn(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> + Send + Sync>;

/// Settings of the outside world, read from the environment by the caller.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Where relative locations count from.
    pub base: PathBuf,
    /// An S3 endpoint other than Amazon's (`AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`).
    pub s3_endpoint: Option<String>,
}

/// A folder or an object: a store and a path in it.
#[derive(Clone)]
pub struct Location {
    store: Arc<dyn ObjectStore>,
    root: Url,
    path: Path,
}

impl Location {
    /// The store.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The path in the store.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is called `name` in this folder. `name` may hold several parts.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        let path =
            name.split('/').filter(|part| !part.is_empty()).fold(self.path.clone(), |path, part| path.join(part));
        Self { store: Arc::clone(&self.store), root: self.root.clone(), path }
    }

    /// The name that people and other tools know a path of this store by: `s3://bucket/key`, `file:///folder/file`.
    pub fn uri_of(&self, path: &Path) -> String {
        match self.root.scheme() {
            "file" => format!("file:///{path}"),
            _ => format!("{}/{path}", self.root.as_str().trim_end_matches('/')),
        }
    }

    /// The URL of this folder, percent-encoded where a URL must be.
    pub fn url(&self) -> Result<Url> {
        let mut url = self.root.clone();
        url.path_segments_mut()
            .map_err(|()| Error::internal("a store's root cannot be a base"))?
            .clear()
            .extend(self.path.parts().map(|part| part.as_ref().to_owned()));
        Ok(url)
    }

    /// The folder on this machine's disk, where it is one.
    pub fn local_path(&self) -> Option<PathBuf> {
        (self.root.scheme() == "file").then(|| FilePath::new("/").join(self.path.as_ref()))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri_of(&self.path))
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Opens locations; one store for each bucket, one for this machine's disk.
pub struct Stores {
    settings: Settings,
    layer: Option<Layer>,
    opened: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Stores {
    /// Nothing is opened yet: credentials are looked for when the first bucket is.
    pub fn new(settings: Settings, layer: Option<Layer>) -> Self {
        Self { settings, layer, opened: Mutex::default() }
    }

    /// The folder that relative paths count from.
    pub fn base(&self) -> &FilePath {
        &self.settings.base
    }

    /// Opens `s3://bucket/prefix`, `file:///folder`, or a folder's path (relative ones count from the project).
    pub async fn open(&self, text: &str) -> Result<Location> {
        match text.split_once("://") {
            None => self.open_local(&self.settings.base.join(text)).await,
            Some(("file", _)) => {
                let url = Url::parse(text).map_err(|error| bad_location(text, &error.to_string()))?;
                let path = url.to_file_path().map_err(|()| bad_location(text, "it names another machine"))?;
                self.open_local(&path).await
            }
            Some(("s3" | "s3a", rest)) => self.open_s3(text, rest).await,
            Some((scheme, _)) => Err(bad_location(text, &format!("`{scheme}` is not known"))),
        }
    }

    async fn open_local(&self, path: &FilePath) -> Result<Location> {
        let absolute =
            std::path::absolute(path).map_err(|error| bad_location(&path.to_string_lossy(), &error.to_string()))?;
        let normal = without_dots(&absolute);
        let path = Path::parse(normal.to_string_lossy().trim_start_matches('/'))
            .map_err(|error| bad_location(&normal.to_string_lossy(), &error.to_string()))?;
        let store = self.opened("file:///", || Ok(durable::Durable::new(LocalFileSystem::new()))).await?;
        let root = Url::parse("file:///").map_err(|error| Error::internal(error.to_string()))?;
        Ok(Location { store, root, path })
    }

    async fn open_s3(&self, text: &str, rest: &str) -> Result<Location> {
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(bad_location(text, "it names no bucket"));
        }
        let root = Url::parse(&format!("s3://{bucket}")).map_err(|error| bad_location(text, &error.to_string()))?;
        let path = Path::parse(key).map_err(|error| bad_location(text, &error.to_string()))?;
        let known = self.opened.lock().await.contains_key(root.as_str());
        let built = if known { None } else { Some(s3::open(bucket, &self.settings).await?) };
        let store = self.opened(root.as_str(), || built.ok_or_else(|| Error::internal("a store vanished"))).await?;
        Ok(Location { store, root, path })
    }

    async fn opened<S: ObjectStore>(
        &self,
        key: &str,
        make: impl FnOnce() -> Result<S>,
    ) -> Result<Arc<dyn ObjectStore>> {
        let mut opened = self.opened.lock().await;
        if let Some(store) = opened.get(key) {
            return Ok(Arc::clone(store));
        }
        let made: Arc<dyn ObjectStore> = Arc::new(make()?);
        let store = self.layer.as_ref().map_or_else(|| Arc::clone(&made), |layer| layer(Arc::clone(&made)));
        opened.insert(key.to_owned(), Arc::clone(&store));
        Ok(store)
    }
}

/// `a/./b/../c` is `a/c`. Links are left alone, so that a lake behind a link keeps the name it was given.
fn without_dots(path: &FilePath) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut normal, component| {
        match component {
            std::path::Component::ParentDir => {
                normal.pop();
            }
            std::path::Component::CurDir => {}
            other => normal.push(other),
        }
        normal
    })
}

fn bad_location(text: &str, why: &str) -> Error {
    Error::config(format!("`{text}` is not a location: {why}"))
        .hint("give a folder, `s3://bucket/prefix` or `file:///folder`")
}

/// Turns a store's error into one that says what was tried and what to do.
pub fn failed(doing: impl fmt::Display, error: object_store::Error) -> Error {
    let hint = match &error {
        object_store::Error::NotFound { .. } => "look whether it is spelled right and still there",
        object_store::Error::PermissionDenied { .. } => {
            "the credentials in use may not do this; look at the policy or the folder's rights"
        }
        object_store::Error::Unauthenticated { .. } => world_hint("credentials"),
        _ => world_hint(&root_cause(&error)),
    };
    let cause = root_cause(&error);
    let said = between(&cause, "<Message>", "</Message>");
    // The AWS chain lists in further lines what it tried; the log keeps them.
    let cause = said.unwrap_or_else(|| cause.lines().next().unwrap_or_default());
    let cause = if cause.starts_with("no credentials found") { "there are no AWS credentials" } else { cause };
    let passes = matches!(error, object_store::Error::Generic { .. }) && !is_of_the_disk(cause);
    let failed = Error::world(format!("{doing}: {cause}")).hint(hint).caused_by(error);
    if passes { failed.passing() } else { failed }
}

/// Faults of this machine's disk, which stay until somebody mends them.
fn is_of_the_disk(words: &str) -> bool {
    ["No space left", "Read-only", "Permission denied", "Not a directory"].iter().any(|sign| words.contains(sign))
}

/// Whether a store's fault that passes is behind an error.
pub fn is_passing(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(fault) = error.downcast_ref::<object_store::Error>() {
            return matches!(fault, object_store::Error::Generic { .. }) && !is_of_the_disk(&root_cause(fault));
        }
        cause = error.source();
    }
    false
}

/// What S3 says in the XML of a refusal.
fn between<'a>(words: &'a str, before: &str, after: &str) -> Option<&'a str> {
    words.split_once(before)?.1.split_once(after).map(|(found, _)| found)
}

/// Whether an operating system's or a store's words speak of a full disk, a read-only one, or a lost login.
pub fn world_hint(words: &str) -> &'static str {
    const KNOWN: [(&str, &str); 9] = [
        ("No space left", "free some room on the disk and run again: nothing half-written will be in the way"),
        ("Read-only file system", "the lake must be writable: choose another with `--lake`"),
        ("Permission denied", "give this user the right to it, or choose another lake with `--lake`"),
        ("Not a directory", "a file lies where a folder must be: move it away, or choose another lake with `--lake`"),
        ("NoSuchBucket", "make the bucket, or look whether its name and the region (AWS_REGION) are right"),
        ("credentials", "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role"),
        ("InvalidAccessKeyId", "look at AWS_ACCESS_KEY_ID"),
        ("SignatureDoesNotMatch", "look at AWS_SECRET_ACCESS_KEY"),
        ("AccessDenied", "the credentials in use may not do this; look at the bucket's policy"),
    ];
    KNOWN
        .iter()
        .find(|(sign, _)| words.contains(sign))
        .map_or("look whether the store is up, and run again", |(_, hint)| hint)
}

/// The innermost message: what the operating system or the service said, without the wrapping.
pub fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
