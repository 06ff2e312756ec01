//! Which addresses may be fetched.

use url::{Host, Url};

use crate::stage::SettingError;

/// Refuses what is no https address (http on this machine alone), and addresses with a user name or password, which
/// would end up in records.
pub(super) fn check(path: &str, text: &str) -> Result<Url, SettingError> {
    // The text itself may hold a password, so it is repeated only once it is known not to.
    let url = Url::parse(text).map_err(|error| SettingError::new(path, format!("no address ({error})"), HTTPS))?;
    if !url.username().is_empty() || url.password().is_some() {
        let expected = "an address without them: it stands in keys and records that others can read";
        return Err(SettingError::new(path, "an address with a user name or password", expected));
    }
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if loopback => Ok(url),
        _ => Err(SettingError::new(path, format!("`{text}`"), HTTPS)),
    }
}

const HTTPS: &str = "an https:// address (http:// only for this machine, such as http://127.0.0.1:8000/file)";
