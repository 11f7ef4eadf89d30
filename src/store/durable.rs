//! A local file system whose answers mean "on the disk".
//!
//! object_store's local store never syncs, so a power cut could keep an entry of the epoch log and lose the data file that
//! it names. Here a file is synced before its name appears, and the folder after.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use uuid::Uuid;

/// The local file system, made durable.
#[derive(Debug)]
pub struct Durable {
    inner: Arc<LocalFileSystem>,
}

impl Durable {
    /// Wraps a local file system.
    pub fn new(inner: LocalFileSystem) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// A name that nobody else takes: neither another instance in this process, nor one with the same process id in
    /// another container. With a shared name, one writer would commit the other's bytes.
    fn temporary_name(target: &FilePath) -> PathBuf {
        let mut name = target.file_name().unwrap_or_default().to_os_string();
        // object_store hides names of this form (`name#digits`) when it lists: a left-over is never taken for an object.
        name.push(format!("#{}", Uuid::new_v4().as_u128()));
        target.with_file_name(name)
    }
}

impl fmt::Display for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Durable {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if matches!(opts.mode, PutMode::Update(_)) {
            return self.inner.put_opts(location, payload, opts).await;
        }
        let target = self.inner.path_to_filesystem(location)?;
        let temporary = Self::temporary_name(&target);
        let create = matches!(opts.mode, PutMode::Create);
        let location = location.to_string();
        blocking(move || put(&target, &temporary, &payload, create).map_err(|error| failed(location, error))).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let target = self.inner.path_to_filesystem(location)?;
        let upload = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(Upload { inner: upload, target, location: location.to_string() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct Upload {
    inner: Box<dyn MultipartUpload>,
    target: PathBuf,
    location: String,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.inner.complete().await?;
        let (target, location) = (self.target.clone(), self.location.clone());
        blocking(move || {
            File::open(&target).and_then(|file| file.sync_all()).map_err(|error| failed(location.clone(), error))?;
            sync_folder(&target).map_err(|error| failed(location, error))
        })
        .await?;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

fn put(target: &FilePath, temporary: &FilePath, payload: &PutPayload, create: bool) -> std::io::Result<()> {
    let written = write_synced(temporary, payload)
        .and_then(|()| if create { std::fs::hard_link(temporary, target) } else { std::fs::rename(temporary, target) });
    // After a rename there is nothing left to remove; after a failure what is left only takes room.
    let _ = std::fs::remove_file(temporary);
    written?;
    sync_folder(target)
}

fn write_synced(path: &FilePath, payload: &PutPayload) -> std::io::Result<()> {
    let mut file = match File::create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            make_folder(path.parent().unwrap_or(FilePath::new("/")))?;
            File::create(path)?
        }
        other => other?,
    };
    for bytes in payload {
        file.write_all(bytes)?;
    }
    file.sync_all()
}

/// Makes a folder and those above it, each one's name synced into the folder that holds it.
fn make_folder(folder: &FilePath) -> std::io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_folder(parent)?;
    }
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_folder(folder),
    }
}

fn sync_folder(of: &FilePath) -> std::io::Result<()> {
    match of.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn failed(path: String, error: std::io::Error) -> object_store::Error {
    match error.kind() {
        std::io::ErrorKind::AlreadyExists => object_store::Error::AlreadyExists { path, source: Box::new(error) },
        std::io::ErrorKind::PermissionDenied => object_store::Error::PermissionDenied { path, source: Box::new(error) },
        _ => object_store::Error::Generic { store: "the local disk", source: Box::new(error) },
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| object_store::Error::Generic { store: "the local disk", source: Box::new(error) })?
}
