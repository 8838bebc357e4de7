//! One address: its store, its key, and the requests it needs.

use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path as Key;
use object_store::{ClientOptions, GetOptions, ObjectMeta, ObjectStore, RetryConfig};
use tokio::runtime::Runtime;
use url::Url;

use crate::error::Error;

/// Without a byte for this long, a connection counts as lost.
pub(super) const IDLE: Duration =
    if cfg!(test) { Duration::from_millis(1500) } else { Duration::from_secs(30) };
/// Attempts in a row that may bring nothing.
pub(super) const ATTEMPTS: u32 = 6;

/// What an address names.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) key: Key,
    /// The address without what may be a secret in it.
    shown: Arc<str>,
    is_http: bool,
}

impl Client {
    pub(super) fn new(text: &str) -> Result<Self, Error> {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::with_variables(text, variables)
    }

    /// With the settings of these environment variables.
    pub(super) fn with_variables(
        text: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Error> {
        // Another part of the program may have chosen one before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let wrong = |detail: String| Error::Remote {
            url: hide_query(text),
            detail,
            help: "addresses look like s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/KEY or https://HOST/PATH",
        };
        let url = Url::parse(text).map_err(|e| wrong(e.to_string()))?;
        let key = Key::from_url_path(url.path()).map_err(|e| wrong(e.to_string()))?;
        let retry = RetryConfig {
            max_retries: if cfg!(test) { 2 } else { 5 },
            retry_timeout: Duration::from_secs(60),
            ..RetryConfig::default()
        };
        let client = ClientOptions::new()
            .with_allow_http(true)
            .with_connect_timeout(Duration::from_secs(10))
            .with_timeout_disabled();
        let (store, key, is_http): (object_store::Result<Arc<dyn ObjectStore>>, _, _) = match url.scheme() {
            "s3" | "s3a" => {
                let builder = AmazonS3Builder::new().with_url(text.replacen("s3a://", "s3://", 1));
                let builder = set(builder, variables, "AWS_", AmazonS3Builder::with_config);
                let store = builder.with_retry(retry).with_client_options(client).build();
                (store.map(|store| Arc::new(store) as _), key, false)
            }
            "gs" => {
                let builder = GoogleCloudStorageBuilder::new().with_url(text);
                let builder = set(builder, variables, "GOOGLE_", GoogleCloudStorageBuilder::with_config);
                let store = builder.with_retry(retry).with_client_options(client).build();
                (store.map(|store| Arc::new(store) as _), key, false)
            }
            "http" | "https" => {
                // The whole address, since a signature may be in its query.
                let builder = HttpBuilder::new().with_url(text);
                let store = builder.with_retry(retry).with_client_options(client).build();
                (store.map(|store| Arc::new(store) as _), Key::default(), true)
            }
            _ => {
                let builder = MicrosoftAzureBuilder::new().with_url(text);
                let builder = set(builder, variables, "AZURE_", MicrosoftAzureBuilder::with_config);
                let store = builder.with_retry(retry).with_client_options(client).build();
                (store.map(|store| Arc::new(store) as _), key, false)
            }
        };
        let store = store.map_err(|e| wrong(e.to_string()))?;
        Ok(Self { store, key, shown: hide_query(text).into(), is_http })
    }

    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// Whether the address says by itself that it is a folder.
    pub(super) fn is_folder(&self) -> bool {
        !self.is_http && (self.shown.ends_with('/') || self.key.as_ref().is_empty())
    }

    /// Whether nothing but the object itself can be behind the address.
    pub(super) fn is_http(&self) -> bool {
        self.is_http
    }

    /// All objects below this address.
    pub(super) fn list(&self) -> Result<Vec<ObjectMeta>, Error> {
        if self.is_http {
            return Err(Error::Remote {
                url: self.shown.to_string(),
                detail: "a folder behind http cannot be listed".to_owned(),
                help: "give the address of an archive, or of several, as in https://HOST/train-{0000..0099}.tar",
            });
        }
        self.wait(self.store.list(Some(&self.key)).try_collect())?.map_err(|error| self.failed(&error))
    }

    /// A key relative to this address.
    pub(super) fn relative(&self, key: &Key) -> String {
        let (key, own) = (key.as_ref(), self.key.as_ref());
        key.strip_prefix(own).map_or(key, |rest| rest.trim_start_matches('/')).to_owned()
    }

    /// The bytes of a small object, as it was when it was listed.
    pub(super) fn get(&self, key: &Key, tag: Option<&str>, size: u64) -> Result<Vec<u8>, Error> {
        let request = async {
            let mut last = None;
            for attempt in 0..ATTEMPTS {
                pause(attempt).await;
                let options = GetOptions { if_match: tag.map(str::to_owned), ..GetOptions::default() };
                let get = async { self.store.get_opts(key, options).await?.bytes().await };
                match tokio::time::timeout(IDLE, get).await {
                    Ok(Ok(bytes)) if bytes.len() as u64 == size => return Ok(bytes.to_vec()),
                    Ok(Ok(_)) | Ok(Err(object_store::Error::Precondition { .. })) => {
                        return Err(self.changed(key));
                    }
                    Ok(Err(error)) if is_final(&error) => return Err(self.failed(&error)),
                    Ok(Err(error)) => last = Some(error.to_string()),
                    Err(_) => last = Some(format!("nothing came for {} s", IDLE.as_secs())),
                }
            }
            Err(self.remote(last.unwrap_or_default()))
        };
        self.wait(request)?
    }

    /// Waits for a request.
    pub(super) fn wait<F: Future>(&self, request: F) -> Result<F::Output, Error> {
        let runtime = runtime().map_err(|e| self.remote(e.to_string()))?;
        Ok(runtime.block_on(request))
    }

    /// The error of an object that is another one now.
    pub(super) fn changed(&self, key: &Key) -> Error {
        let url = match self.relative(key).as_str() {
            "" => self.shown.to_string(),
            name => format!("{}/{name}", self.shown.trim_end_matches('/')),
        };
        Error::RemoteChanged { url }
    }

    pub(super) fn missing(&self) -> Error {
        self.remote("there is no such object, nor any object below it".to_owned())
    }

    pub(super) fn remote(&self, detail: String) -> Error {
        let help = if self.is_http {
            "is the address right, and can the server be reached?"
        } else {
            "is the address right? credentials are taken from the environment: AWS_ACCESS_KEY_ID, \
             AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, or AWS_SKIP_SIGNATURE=true for a public bucket; \
             GOOGLE_SERVICE_ACCOUNT; AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY"
        };
        Error::Remote { url: self.shown.to_string(), detail, help }
    }

    pub(super) fn failed(&self, error: &object_store::Error) -> Error {
        self.remote(detail(error))
    }
}

/// What went wrong, without what may be a secret in an address.
pub(super) fn detail(error: &object_store::Error) -> String {
    let text = error.to_string();
    text.split_once('?').map_or(text.clone(), |(before, _)| before.to_owned())
}

/// Sets what the environment says of a store.
fn set<B, K: FromStr>(
    builder: B,
    variables: impl IntoIterator<Item = (String, String)>,
    prefix: &str,
    with: impl Fn(B, K, String) -> B,
) -> B {
    variables
        .into_iter()
        .filter(|(name, _)| name.starts_with(prefix))
        .filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value)))
        .fold(builder, |builder, (key, value)| with(builder, key, value))
}

/// Whether another attempt would end the same way.
pub(super) fn is_final(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    matches!(
        error,
        E::NotFound { .. }
            | E::Precondition { .. }
            | E::PermissionDenied { .. }
            | E::Unauthenticated { .. }
            | E::NotSupported { .. }
            | E::InvalidPath { .. }
    )
}

/// Waits before an attempt: nothing before the first, then ever longer.
pub(super) async fn pause(attempt: u32) {
    if attempt > 0 {
        let unit = if cfg!(test) { 5 } else { 250 };
        tokio::time::sleep(Duration::from_millis(unit << attempt.min(6))).await;
    }
}

/// The threads behind all requests.
pub(super) fn runtime() -> std::io::Result<&'static Runtime> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .thread_name("mae-net")
                .enable_all()
                .build()
        })
        .as_ref()
        .map_err(|e| std::io::Error::new(e.kind(), e.to_string()))
}

/// An address without its query and password.
fn hide_query(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, rest)), Some((_, host)))
            if rest.split('/').next().is_some_and(|h| h.contains('@')) =>
        {
            format!("{scheme}://{host}")
        }
        _ => text.to_owned(),
    }
}
