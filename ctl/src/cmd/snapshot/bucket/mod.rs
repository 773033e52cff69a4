//! A bucket of an object store that speaks S3: archives are written once, and fetched whole.
//!
//! Signatures, retries and where keys come from are `object_store`'s; region, endpoint and keys are those of the
//! environment and of the file of keys that every program for S3 reads.

mod credentials;
mod http;

use crate::{
    Context,
    exit::{Exit, Stopped},
    file::Scratch,
};
use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use object_store::{
    MultipartUpload, ObjectStore as _, ObjectStoreExt as _, PutMode, PutPayload, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path as Key,
};
use std::{fmt, fs, io::Read as _, path::Path, str::FromStr, time::Duration};

/// What is sent or asked for at once. Also the least that a part may have is less than this.
const PART_BYTES: u64 = 16 << 20;
/// Up to here an archive is one request, which the store itself refuses if the name is taken.
const SINGLE_BYTES_MAX: u64 = 32 << 20;
const RETRIES_MAX: usize = 4;
const RETRY_TIME_MAX: Duration = Duration::from_secs(180);

/// `s3://bucket/prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    bucket: String,
    /// Without slashes around it; may be empty.
    prefix: String,
}

impl FromStr for Address {
    type Err = String;

    /// Of what follows `s3://`.
    fn from_str(rest: &str) -> Result<Self, String> {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() || !bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)) {
            return Err(format!("'s3://{rest}' names no bucket; write it like s3://bucket/prefix"));
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.trim_matches('/').to_owned() })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        write!(f, "s3://{}{slash}{}", self.bucket, self.prefix)
    }
}

/// An open bucket, looked at from a prefix.
#[derive(Debug)]
pub(crate) struct Bucket {
    store: AmazonS3,
    address: Address,
}

impl Bucket {
    /// Asks nobody yet.
    pub(crate) fn open(address: &Address) -> anyhow::Result<Self> {
        let retry = RetryConfig { max_retries: RETRIES_MAX, retry_timeout: RETRY_TIME_MAX, ..RetryConfig::default() };
        let builder = AmazonS3Builder::from_env()
            .with_bucket_name(&address.bucket)
            .with_http_connector(http::Connector)
            .with_retry(retry);
        let store = credentials::added(builder)?.build();
        let store = store.map_err(|error| Stopped::because(Exit::Precondition, format!("{address}: {error}")))?;
        Ok(Self { store, address: address.clone() })
    }

    fn key(&self, name: &str) -> anyhow::Result<Key> {
        let key =
            if self.address.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.address.prefix) };
        Key::parse(key.trim_end_matches('/')).with_context(|| format!("{name} is no name of an object"))
    }

    /// Writes the file as an object that was not there before.
    pub(crate) async fn put(&self, name: &str, path: &Path, context: &Context) -> anyhow::Result<()> {
        let read = || format!("read {}", path.display());
        let file = fs::File::open(path).with_context(read)?;
        let length = file.metadata().with_context(read)?.len();
        let bar = context.output.progress(Some(length));
        let key = self.key(name)?;
        let put = if length <= SINGLE_BYTES_MAX {
            let bytes = part(&file, SINGLE_BYTES_MAX).with_context(read)?;
            self.store.put_opts(&key, bytes.into(), PutMode::Create.into()).await.map(drop)
        } else {
            self.put_parts(&key, &file, &bar).await?
        };
        bar.finish_and_clear();
        put.map_err(|error| self.failed(name, error))
    }

    /// The name of an archive has its hash in it: whatever comes there between the look and the end is the same archive.
    async fn put_parts(
        &self,
        key: &Key,
        file: &fs::File,
        bar: &indicatif::ProgressBar,
    ) -> anyhow::Result<object_store::Result<()>> {
        match self.store.head(key).await {
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Ok(Err(error)),
            Ok(_) => {
                let source = "it was there before".into();
                return Ok(Err(object_store::Error::AlreadyExists { path: key.to_string(), source }));
            }
        }
        let mut upload = match self.store.put_multipart(key).await {
            Ok(upload) => upload,
            Err(error) => return Ok(Err(error)),
        };
        let sent = send_parts(upload.as_mut(), file, bar).await;
        if !matches!(sent, Ok(Ok(()))) {
            // Parts without an end cost money; the reason that is told is the first one.
            drop(upload.abort().await);
        }
        sent
    }

    /// The object that the address itself names.
    pub(crate) async fn fetch(&self, context: &Context) -> anyhow::Result<Scratch> {
        let key = self.key("")?;
        let failed = |error| self.failed("", error);
        let length = self.store.head(&key).await.map_err(failed)?.size;
        let bar = context.output.progress(Some(length));
        let mut scratch = Scratch::create()?;
        let mut from = 0;
        while from < length {
            let to = length.min(from + PART_BYTES);
            let bytes = self.store.get_range(&key, from..to).await.map_err(failed)?;
            scratch.write(&bytes)?;
            bar.inc(to - from);
            from = to;
        }
        bar.finish_and_clear();
        Ok(scratch)
    }

    /// Name and size of everything behind the prefix.
    pub(crate) async fn list(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let prefix = Key::parse(&self.address.prefix).with_context(|| format!("{} is no address", self.address))?;
        let objects = self.store.list(Some(&prefix)).try_collect::<Vec<_>>().await;
        let objects = objects.map_err(|error| self.failed("", error))?;
        let name = |key: &Key| {
            let parts = key.prefix_match(&prefix)?;
            Some(parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"))
        };
        Ok(objects.iter().filter_map(|object| Some((name(&object.location)?, object.size))).collect())
    }

    pub(crate) async fn remove(&self, name: &str) -> anyhow::Result<()> {
        self.store.delete(&self.key(name)?).await.map_err(|error| self.failed(name, error))
    }

    fn failed(&self, name: &str, error: object_store::Error) -> anyhow::Error {
        let at = if name.is_empty() { self.address.to_string() } else { format!("{}/{name}", self.address) };
        match error {
            object_store::Error::NotFound { .. } => {
                Stopped::because(Exit::Failed, format!("{at} is not there; `snapshot list` tells what is"))
            }
            object_store::Error::AlreadyExists { .. } => {
                let text = format!("{at} is there already, and nothing that is there is written over");
                Stopped::because(Exit::Precondition, text)
            }
            error => Stopped::because(
                Exit::Failed,
                format!(
                    "{at}: {error}; keys and region are those of AWS_… or AWS_SHARED_CREDENTIALS_FILE, else the instance's"
                ),
            ),
        }
    }
}

async fn send_parts(
    upload: &mut dyn MultipartUpload,
    file: &fs::File,
    bar: &indicatif::ProgressBar,
) -> anyhow::Result<object_store::Result<()>> {
    loop {
        let bytes = part(file, PART_BYTES).context("read the archive")?;
        if bytes.is_empty() {
            return Ok(upload.complete().await.map(drop));
        }
        let count = u64::try_from(bytes.len()).unwrap_or(0);
        if let Err(error) = upload.put_part(PutPayload::from(bytes)).await {
            return Ok(Err(error));
        }
        bar.inc(count);
    }
}

/// What follows in the file, up to so many bytes.
fn part(file: &fs::File, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}
