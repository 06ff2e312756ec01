//! Profiles of AWS's own tools: `~/.aws/credentials` and `~/.aws/config`. Of their form as much is read as names keys, a region and an
//! endpoint (docs.aws.amazon.com/sdkref/latest/guide/file-format.html); what would have to be asked for elsewhere is refused by name.
//! No message and no `Debug` shows a value.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// Ways to get credentials that take more than a file.
const UNSUPPORTED: &[&str] =
    &["role_arn", "credential_process", "sso_session", "sso_start_url", "credential_source", "web_identity_token_file"];

/// Keys that are written in a file.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) access_key: String,
    pub(super) secret_key: String,
    pub(super) session_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Credentials(…)")
    }
}

/// What the files say of one profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) credentials: Option<Credentials>,
    pub(super) region: Option<String>,
    pub(super) endpoint: Option<String>,
}

/// A value, and where it stands.
#[derive(Clone)]
struct Value {
    text: String,
    file: PathBuf,
    line: usize,
}

impl Value {
    fn at(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }
}

/// The properties of a section, by their names in small letters; those below another one as `outer.inner`.
type Section = BTreeMap<String, Value>;

/// The profile that the variables choose. `variable` gives the value of one; without credentials in them, those of the profile count.
pub(super) fn find(variable: &dyn Fn(&str) -> Option<String>) -> Result<Profile, String> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    let chosen = variable("AWS_PROFILE").or_else(|| variable("AWS_DEFAULT_PROFILE"));
    let home = variable("HOME");
    let read = |name: &str, usual: &str| -> Result<(PathBuf, Option<String>), String> {
        let named = variable(name);
        let path = match (&named, &home) {
            (Some(path), home) => match (path.strip_prefix("~/"), home) {
                (Some(rest), Some(home)) => Path::new(home).join(rest),
                _ => PathBuf::from(path),
            },
            (None, Some(home)) => Path::new(home).join(".aws").join(usual),
            (None, None) => return Ok((PathBuf::new(), None)),
        };
        match fs::read_to_string(&path) {
            Ok(text) => Ok((path, Some(text))),
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => Ok((path, None)),
            Err(error) => {
                let of = if named.is_some() { format!(", which {name} names") } else { String::new() };
                Err(format!("{}{of}: it cannot be read: {error}", path.display()))
            }
        }
    };
    let mut sections: BTreeMap<String, Section> = BTreeMap::new();
    let (config, text) = read("AWS_CONFIG_FILE", "config")?;
    if let Some(text) = text {
        parse(&config, &text, true, &mut sections)?;
    }
    let (credentials, text) = read("AWS_SHARED_CREDENTIALS_FILE", "credentials")?;
    if let Some(text) = text {
        parse(&credentials, &text, false, &mut sections)?;
    }
    let name = chosen.as_deref().unwrap_or("default");
    let Some(section) = sections.get(&format!("profile {name}")) else {
        return match chosen {
            None => Ok(Profile::default()),
            Some(name) => Err(format!(
                "AWS_PROFILE names the profile `{name}`, which is neither in {} nor in {}",
                credentials.display(),
                config.display()
            )),
        };
    };
    let others = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_WEB_IDENTITY_TOKEN_FILE"];
    let has_keys = others.into_iter().any(|name| variable(name).is_some());
    Ok(Profile {
        credentials: if has_keys { None } else { self::credentials(name, section)? },
        region: section.get("region").map(|value| value.text.clone()),
        endpoint: endpoint(section, &sections, &variable)?,
    })
}

/// The keys of a profile.
fn credentials(name: &str, section: &Section) -> Result<Option<Credentials>, String> {
    match (section.get("aws_access_key_id"), section.get("aws_secret_access_key")) {
        (Some(access), Some(secret)) => Ok(Some(Credentials {
            access_key: access.text.clone(),
            secret_key: secret.text.clone(),
            session_token: section.get("aws_session_token").map(|token| token.text.clone()),
        })),
        (Some(found), None) => Err(format!(
            "{}: the profile `{name}` has an `aws_access_key_id` and no `aws_secret_access_key`",
            found.at()
        )),
        (None, Some(found)) => Err(format!(
            "{}: the profile `{name}` has an `aws_secret_access_key` and no `aws_access_key_id`",
            found.at()
        )),
        (None, None) => match UNSUPPORTED.iter().find_map(|key| Some((key, section.get(*key)?))) {
            None => Ok(None),
            Some((key, value)) => Err(format!(
                "{}: the profile `{name}` gets its credentials by `{key}`, which is not supported; put them into the environment \
                 with: eval \"$(aws configure export-credentials --profile {name} --format env)\"",
                value.at()
            )),
        },
    }
}

/// The server of a profile: that for S3 alone, or that for everything.
fn endpoint(
    section: &Section,
    sections: &BTreeMap<String, Section>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<String>, String> {
    if variable("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    let of_services = match section.get("services") {
        None => None,
        Some(services) => {
            let named = sections.get(&format!("services {}", services.text));
            let missing = || format!("{}: there is no section `[services {}]`", services.at(), services.text);
            named.ok_or_else(missing)?.get("s3.endpoint_url")
        }
    };
    Ok(of_services.or_else(|| section.get("endpoint_url")).map(|value| value.text.clone()))
}

/// Reads a file into sections named `profile NAME` and `services NAME`. What it says counts more than what was there.
fn parse(file: &Path, text: &str, is_config: bool, sections: &mut BTreeMap<String, Section>) -> Result<(), String> {
    // What a line holds may be a secret: it is named by its number.
    let refuse = |line: usize, problem: &str| Err(format!("{}:{line}: {problem}", file.display()));
    let mut section: Option<String> = None;
    let mut is_known = false;
    let mut outer: Option<String> = None;
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let number = number + 1;
        let is_inner = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if !is_inner && let Some(rest) = line.strip_prefix('[') {
            let Some((title, rest)) = rest.split_once(']') else {
                return refuse(number, "a section's name ends with `]`");
            };
            if !(rest.trim().is_empty() || rest.trim_start().starts_with(['#', ';'])) {
                return refuse(number, "nothing but a comment may follow a section's name");
            }
            let name = section_name(title, is_config);
            is_known = name.is_some();
            section = Some(name.unwrap_or_default());
            outer = None;
            continue;
        }
        let Some(section) = &section else {
            return refuse(number, "it stands before the first section; expected a line such as [default]");
        };
        let pair = line.split_once('=').map(|(key, value)| (key.trim().to_ascii_lowercase(), value));
        let (key, value) = match (pair, &outer, is_inner) {
            // The first property of a section may be indented as well.
            (Some((key, value)), None, _) | (Some((key, value)), Some(_), false) if !key.is_empty() => {
                outer = Some(key.clone());
                (key, value)
            }
            (Some((key, value)), Some(outer), true) if !key.is_empty() => (format!("{outer}.{key}"), value),
            // What follows on an indented line without `=` belongs to values that are not read here.
            (None, Some(_), true) => continue,
            _ => return refuse(number, "expected NAME = VALUE"),
        };
        if is_known {
            let value = Value { text: without_comment(value).to_owned(), file: file.to_owned(), line: number };
            sections.entry(section.clone()).or_default().insert(key, value);
        }
    }
    Ok(())
}

/// What a section is called here, if it is of a sort that is read. A file of credentials has profiles alone.
fn section_name(title: &str, is_config: bool) -> Option<String> {
    let title = title.trim();
    let unquoted = |name: &str| name.trim().trim_matches(['"', '\'']).to_owned();
    match title.split_once(char::is_whitespace) {
        _ if !is_config => Some(format!("profile {}", unquoted(title))),
        Some((sort @ ("profile" | "services"), name)) => Some(format!("{sort} {}", unquoted(name))),
        None if title == "default" => Some("profile default".to_owned()),
        _ => None,
    }
}

/// A value ends where a comment begins after a space.
fn without_comment(value: &str) -> &str {
    let begins =
        |(at, letter): (usize, char)| (matches!(letter, '#' | ';') && value[..at].ends_with([' ', '\t'])).then_some(at);
    value[..value.char_indices().find_map(begins).unwrap_or(value.len())].trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "nobody/may+see=this";

    /// What these files and variables say.
    fn found(credentials: &str, config: &str, variables: &[(&str, &str)]) -> Result<Profile, String> {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".aws");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("credentials"), credentials).unwrap();
        fs::write(folder.join("config"), config).unwrap();
        let variable = |name: &str| {
            let home = (name == "HOME").then(|| home.path().display().to_string());
            home.or_else(|| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
        };
        let found = find(&variable).map_err(|error| error.replace(&home.path().display().to_string(), "~"));
        assert!(!format!("{found:?}").contains(SECRET), "{found:?}");
        found
    }

    fn keys(access: &str, token: Option<&str>) -> Credentials {
        Credentials {
            access_key: access.to_owned(),
            secret_key: SECRET.to_owned(),
            session_token: token.map(str::to_owned),
        }
    }

    #[test]
    fn each_documented_form_is_read() {
        let credentials = format!(
            "# the usual one\n[default]\naws_access_key_id=ONE\naws_secret_access_key={SECRET}\n\n\
             [ci]\nAWS_Access_Key_Id = TWO # of the robot\naws_secret_access_key = {SECRET} ; never shown\naws_session_token\t=  \
             a#b  \n"
        );
        let config = "[default]\nregion = eu-west-1\noutput = json\ns3 =\n  addressing_style = path\n  max_concurrent_requests = 20\n\
                      [profile ci] ; comment\nregion=us-east-2\nendpoint_url = http://all\nservices = local\n\
                      [sso-session x]\nsso_region = us-east-1\n\
                      [services local]\nec2 =\n  endpoint_url = http://ec2\ns3 =\n  endpoint_url = http://s3\n\
                      [profile \"two words\"]\nendpoint_url = http://two\n";
        let default = found(&credentials, config, &[]).unwrap();
        assert_eq!(
            (default.credentials, default.region.as_deref(), default.endpoint),
            (Some(keys("ONE", None)), Some("eu-west-1"), None)
        );
        for variable in ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"] {
            let ci = found(&credentials, config, &[(variable, "ci")]).unwrap();
            assert_eq!(ci.credentials, Some(keys("TWO", Some("a#b"))));
            assert_eq!((ci.region.as_deref(), ci.endpoint.as_deref()), (Some("us-east-2"), Some("http://s3")));
        }
        let two = found(&credentials, config, &[("AWS_PROFILE", "two words")]).unwrap();
        assert_eq!((two.credentials, two.endpoint.as_deref()), (None, Some("http://two")));
        let ignoring = [("AWS_PROFILE", "ci"), ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")];
        assert_eq!(found(&credentials, config, &ignoring).unwrap().endpoint, None);
        // Keys may stand in the file of the configuration, too; those of the other file count more.
        let config = format!("[default]\naws_access_key_id = THREE\naws_secret_access_key = {SECRET}\n");
        assert_eq!(found("", &config, &[]).unwrap().credentials, Some(keys("THREE", None)));
        assert_eq!(found(&credentials, &config, &[]).unwrap().credentials, Some(keys("ONE", None)));
    }

    #[test]
    fn keys_of_the_environment_and_tokens_outweigh_those_of_a_profile() {
        let credentials = format!("[default]\naws_access_key_id=ONE\naws_secret_access_key={SECRET}\nregion = x\n");
        for variable in ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"] {
            let found = found(&credentials, "", &[(variable, "here")]).unwrap();
            assert_eq!((found.credentials, found.region.as_deref()), (None, Some("x")));
        }
    }

    #[test]
    fn files_that_other_variables_name_are_read_and_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        fs::write(&path, format!("[a]\naws_access_key_id=ONE\naws_secret_access_key={SECRET}\n")).unwrap();
        let path = path.display().to_string();
        let variables = [("AWS_PROFILE", "a"), ("AWS_SHARED_CREDENTIALS_FILE", path.as_str())];
        assert_eq!(found("", "", &variables).unwrap().credentials, Some(keys("ONE", None)));
        let problem = found("", "", &[("AWS_CONFIG_FILE", "/nowhere/config")]).unwrap_err();
        assert!(problem.starts_with("/nowhere/config, which AWS_CONFIG_FILE names: it cannot be read"), "{problem}");
        // As many systems name no file.
        assert_eq!(found("", "", &[("AWS_CONFIG_FILE", "/dev/null")]), Ok(Profile::default()));
        assert_eq!(find(&|_| None), Ok(Profile::default()));
    }

    #[test]
    fn what_is_wrong_is_told_by_file_and_line_and_without_values() {
        let cases = [
            (
                format!("{SECRET}\n"),
                "~/.aws/credentials:1: it stands before the first section; expected a line such as [default]",
            ),
            (format!("[default]\n{SECRET}\n").replace('=', " "), "~/.aws/credentials:2: expected NAME = VALUE"),
            (
                format!("[default\naws_secret_access_key={SECRET}"),
                "~/.aws/credentials:1: a section's name ends with `]`",
            ),
            (
                format!("[default] {SECRET}\n"),
                "~/.aws/credentials:1: nothing but a comment may follow a section's name",
            ),
            (
                format!("[default]\n\naws_secret_access_key={SECRET}\n"),
                "~/.aws/credentials:3: the profile `default` has an `aws_secret_access_key` and no `aws_access_key_id`",
            ),
        ];
        for (credentials, expected) in cases {
            assert_eq!(found(&credentials, "", &[]).unwrap_err(), expected);
        }
        assert_eq!(
            found("", "", &[("AWS_PROFILE", "ci")]).unwrap_err(),
            "AWS_PROFILE names the profile `ci`, which is neither in ~/.aws/credentials nor in ~/.aws/config"
        );
        let problem = found("", "[default]\nregion = x\nrole_arn = arn:x\nsource_profile = y\n", &[]).unwrap_err();
        assert!(
            problem.starts_with("~/.aws/config:3: the profile `default` gets its credentials by `role_arn`"),
            "{problem}"
        );
        let problem = found("", "[default]\nservices = none\n", &[]).unwrap_err();
        assert_eq!(problem, "~/.aws/config:2: there is no section `[services none]`");
    }
}
