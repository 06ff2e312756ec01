//! What the environment says of the hub, in the variables that the hub's own tools read. Nothing of it enters a key.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use reqwest::header::HeaderValue;
use url::Url;

use crate::{download::address, stage::StageError};

/// Where the hub is if nobody says otherwise.
const ENDPOINT: &str = "https://huggingface.co";

/// Endpoint, token and cache.
pub(super) struct Environment {
    /// Of `HF_ENDPOINT`.
    pub(super) endpoint: Url,
    /// What goes into the header `Authorization`; hidden from whatever prints it.
    pub(super) token: Option<HeaderValue>,
    /// Of `HF_HUB_OFFLINE`: nothing may be asked of the network.
    pub(super) offline: bool,
    /// The cache folder that the hub's tools share.
    pub(super) cache: Option<PathBuf>,
}

impl Environment {
    pub(super) fn read() -> Result<Self, StageError> {
        let home = folder("HF_HOME").or_else(|| {
            let cache = folder("XDG_CACHE_HOME").or_else(|| env::home_dir().map(|home| home.join(".cache")));
            cache.map(|cache| cache.join("huggingface"))
        });
        let text = text("HF_ENDPOINT")?.unwrap_or_else(|| ENDPOINT.to_owned());
        let mut endpoint = address::check("HF_ENDPOINT", &text).map_err(|error| {
            StageError::Failed(format!(
                "the variable HF_ENDPOINT of the environment is {}, expected {}",
                error.found, error.expected
            ))
        })?;
        // So that paths can be put behind it.
        if let Ok(mut segments) = endpoint.path_segments_mut() {
            segments.pop_if_empty();
        }
        Ok(Self {
            endpoint,
            token: token(home.as_deref())?,
            offline: is_set("HF_HUB_OFFLINE")?,
            cache: folder("HF_HUB_CACHE").or_else(|| home.map(|home| home.join("hub"))),
        })
    }
}

/// The access token: `HF_TOKEN`, else what a login has left in `HF_TOKEN_PATH` or in the hub's home folder.
fn token(home: Option<&Path>) -> Result<Option<HeaderValue>, StageError> {
    let (token, from) = if let Some(token) = text("HF_TOKEN")? {
        (token, "the variable HF_TOKEN".to_owned())
    } else {
        let Some(path) = folder("HF_TOKEN_PATH").or_else(|| home.map(|home| home.join("token"))) else {
            return Ok(None);
        };
        match fs::read_to_string(&path) {
            Ok(token) => (token, path.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StageError::io("read", path)(error)),
        }
    };
    let token = token.trim();
    if token.is_empty() {
        return Ok(None);
    }
    // The message must not repeat the token.
    let mut header = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
        StageError::Failed(format!("{from} is no access token: it holds letters that cannot be sent; copy it again"))
    })?;
    header.set_sensitive(true);
    Ok(Some(header))
}

fn folder(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn text(name: &str) -> Result<Option<String>, StageError> {
    match env::var(name) {
        Ok(text) => Ok(Some(text).filter(|text| !text.trim().is_empty())),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => {
            Err(StageError::Failed(format!("the variable {name} of the environment is no UTF-8 text")))
        }
    }
}

/// As the hub's own tools read a switch.
fn is_set(name: &str) -> Result<bool, StageError> {
    let value = text(name)?.unwrap_or_default();
    Ok(["1", "on", "yes", "true"].iter().any(|yes| value.trim().eq_ignore_ascii_case(yes)))
}
