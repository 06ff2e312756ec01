//! Profiles of AWS's own tools: `~/.aws/credentials` and `~/.aws/config`. Of their form as much is read as names keys, a region and an
//! endpoint (docs.aws.amazon.com/sdkref/latest/guide/file-format.html); what would have to be asked for elsewhere is refused by name.
//! No message and no `Debug` shows a value.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// Ways to get credentials that take more than a file. They count more than keys that stand beside them.
const UNSUPPORTED: &[&str] =
    &["role_arn", "web_identity_token_file", "sso_session", "sso_start_url", "login_session", "credential_source"];
/// One that counts less than keys of the file of credentials.
const PROGRAM: &str = "credential_process";

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Profile {
    /// What is wrong with them concerns only whoever needs any.
    pub(super) credentials: Result<Option<Credentials>, String>,
    pub(super) region: Option<String>,
    pub(super) endpoint: Option<String>,
    /// Whether no endpoint counts, wherever it is named.
    pub(super) ignores_endpoints: bool,
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

/// The sections of one file, named `profile NAME` and `services NAME`.
type Sections = BTreeMap<String, Section>;

/// A profile as it stands in both files.
struct Named<'a> {
    name: &'a str,
    credentials: &'a Section,
    config: &'a Section,
}

impl Named<'_> {
    /// A property; that of the file of credentials first.
    fn get(&self, property: &str) -> Option<&Value> {
        self.credentials.get(property).or_else(|| self.config.get(property))
    }
}

/// The profile that the variables choose. `variable` gives the value of one; without credentials in them, those of the profile count.
pub(super) fn find(variable: &dyn Fn(&str) -> Option<String>) -> Result<Profile, String> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    let chosen = variable("AWS_PROFILE").or_else(|| variable("AWS_DEFAULT_PROFILE"));
    let home = variable("HOME");
    let read = |name: &str, usual: &str, is_config: bool| -> Result<(PathBuf, Sections), String> {
        let named = variable(name);
        let path = match (&named, &home) {
            (Some(path), home) => match (path.strip_prefix("~/"), home) {
                (Some(rest), Some(home)) => Path::new(home).join(rest),
                _ => PathBuf::from(path),
            },
            (None, Some(home)) => Path::new(home).join(".aws").join(usual),
            (None, None) => return Ok((PathBuf::new(), Sections::new())),
        };
        match fs::read_to_string(&path) {
            Ok(text) => parse(&path, &text, is_config).map(|sections| (path, sections)),
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => Ok((path, Sections::new())),
            Err(error) => {
                let of = if named.is_some() { format!(", which {name} names") } else { String::new() };
                Err(format!("{}{of}: it cannot be read: {error}", path.display()))
            }
        }
    };
    let (config_file, config) = read("AWS_CONFIG_FILE", "config", true)?;
    let (credentials_file, credentials) = read("AWS_SHARED_CREDENTIALS_FILE", "credentials", false)?;
    let name = chosen.as_deref().unwrap_or("default");
    let section = format!("profile {name}");
    if let Some(name) = &chosen
        && !credentials.contains_key(&section)
        && !config.contains_key(&section)
    {
        return Err(format!(
            "AWS_PROFILE names the profile `{name}`, which is neither in {} nor in {}",
            credentials_file.display(),
            config_file.display()
        ));
    }
    let none = Section::new();
    let profile = Named {
        name,
        credentials: credentials.get(&section).unwrap_or(&none),
        config: config.get(&section).unwrap_or(&none),
    };
    let others = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_WEB_IDENTITY_TOKEN_FILE"];
    let has_keys = others.into_iter().any(|name| variable(name).is_some());
    let ignores = variable("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
        .or_else(|| Some(profile.get("ignore_configured_endpoint_urls")?.text.clone()));
    let ignores_endpoints = ignores.is_some_and(|value| value.eq_ignore_ascii_case("true"));
    Ok(Profile {
        credentials: if has_keys { Ok(None) } else { self::credentials(&profile) },
        region: profile.get("region").map(|value| value.text.clone()),
        endpoint: if ignores_endpoints { None } else { endpoint(&profile, &config)? },
        ignores_endpoints,
    })
}

/// The keys of a profile, all of them from one file: those of another file belong to somebody else.
fn credentials(profile: &Named<'_>) -> Result<Option<Credentials>, String> {
    let refused = |property: &str| {
        profile.get(property).map_or(Ok(()), |value| {
            let name = profile.name;
            Err(format!(
                "{}: the profile `{name}` gets its credentials by `{property}`, which is not supported; put them into the environment \
                 with: eval \"$(aws configure export-credentials --profile {name} --format env)\"",
                value.at()
            ))
        })
    };
    UNSUPPORTED.iter().try_for_each(|property| refused(property))?;
    if let Some(keys) = keys(profile.name, profile.credentials)? {
        return Ok(Some(keys));
    }
    refused(PROGRAM)?;
    keys(profile.name, profile.config)
}

/// The keys of a profile that stand in one file.
fn keys(name: &str, section: &Section) -> Result<Option<Credentials>, String> {
    let lone = |found: &Value, has: &str, lacks: &str| {
        Err(format!("{}: the profile `{name}` has an `{has}` and no `{lacks}` in this file", found.at()))
    };
    match (section.get("aws_access_key_id"), section.get("aws_secret_access_key")) {
        (Some(access), Some(secret)) => Ok(Some(Credentials {
            access_key: access.text.clone(),
            secret_key: secret.text.clone(),
            session_token: section.get("aws_session_token").map(|token| token.text.clone()),
        })),
        (Some(found), None) => lone(found, "aws_access_key_id", "aws_secret_access_key"),
        (None, Some(found)) => lone(found, "aws_secret_access_key", "aws_access_key_id"),
        (None, None) => Ok(None),
    }
}

/// The server of a profile: that for S3 alone, or that for everything.
fn endpoint(profile: &Named<'_>, config: &Sections) -> Result<Option<String>, String> {
    let of_services = match profile.get("services") {
        None => None,
        Some(services) => {
            let named = config.get(&format!("services {}", services.text));
            let missing = || format!("{}: there is no section `[services {}]`", services.at(), services.text);
            named.ok_or_else(missing)?.get("s3.endpoint_url")
        }
    };
    Ok(of_services.or_else(|| profile.get("endpoint_url")).map(|value| value.text.clone()))
}

/// Reads a file. Of a property that stands there twice the last one counts.
fn parse(file: &Path, text: &str, is_config: bool) -> Result<Sections, String> {
    // What a line holds may be a secret: it is named by its number.
    let refuse = |line: usize, problem: &str| Err(format!("{}:{line}: {problem}", file.display()));
    let mut sections = Sections::new();
    let mut section: Option<String> = None;
    // The last property that is not below another one, and how far it is indented.
    let mut outer: Option<(String, usize)> = None;
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let number = number + 1;
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let below = outer.as_ref().filter(|(_, outer)| indent > *outer).map(|(name, _)| name);
        if below.is_none()
            && let Some(rest) = line.strip_prefix('[')
        {
            let Some((title, rest)) = rest.split_once(']') else {
                return refuse(number, "a section's name ends with `]`");
            };
            if !(rest.trim().is_empty() || rest.trim_start().starts_with(['#', ';'])) {
                return refuse(number, "nothing but a comment may follow a section's name");
            }
            let name = section_name(title, is_config);
            sections.entry(name.clone()).or_default();
            (section, outer) = (Some(name), None);
            continue;
        }
        let Some(section) = &section else {
            return refuse(number, "it stands before the first section; expected a line such as [default]");
        };
        let pair = line.split_once('=').map(|(name, value)| (name.trim().to_ascii_lowercase(), value));
        let (name, value) = match (pair.filter(|(name, _)| !name.is_empty()), below) {
            (Some((name, _)), Some(_)) if name.starts_with("aws_") => {
                let problem =
                    "it is indented deeper than the property before it, and so belongs to that; indent both alike";
                return refuse(number, problem);
            }
            (Some((name, value)), Some(below)) => (format!("{below}.{name}"), value),
            (Some((name, value)), None) => {
                outer = Some((name.clone(), indent));
                (name, value)
            }
            // Such a line belongs to a value that is not read here.
            (None, Some(_)) => continue,
            (None, None) => return refuse(number, "expected NAME = VALUE"),
        };
        let value = Value { text: without_comment(value).to_owned(), file: file.to_owned(), line: number };
        sections.entry(section.clone()).or_default().insert(name, value);
    }
    // As AWS's tools have it, one of the names makes the other one nothing.
    if let Some(section) = sections.remove(DEFAULT) {
        sections.entry("profile default".to_owned()).or_insert(section);
    }
    Ok(sections)
}

/// A section of the file of the configuration that may also be called `profile default`.
const DEFAULT: &str = "default";

/// What a section is called here. A file of credentials has profiles alone.
fn section_name(title: &str, is_config: bool) -> String {
    let title = title.trim();
    let unquoted = |name: &str| name.trim().trim_matches(['"', '\'']).to_owned();
    match title.split_once(char::is_whitespace) {
        _ if !is_config => format!("profile {}", unquoted(title)),
        Some((sort, name)) => format!("{sort} {}", unquoted(name)),
        None => title.to_owned(),
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
        let shown = |error: String| error.replace(&home.path().display().to_string(), "~");
        let found = find(&variable).map_err(shown);
        let found = found.map(|found| Profile { credentials: found.credentials.map_err(shown), ..found });
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
            (Ok(Some(keys("ONE", None))), Some("eu-west-1"), None)
        );
        for variable in ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"] {
            let ci = found(&credentials, config, &[(variable, "ci")]).unwrap();
            assert_eq!(ci.credentials, Ok(Some(keys("TWO", Some("a#b")))));
            assert_eq!((ci.region.as_deref(), ci.endpoint.as_deref()), (Some("us-east-2"), Some("http://s3")));
        }
        let two = found(&credentials, config, &[("AWS_PROFILE", "two words")]).unwrap();
        assert_eq!((two.credentials, two.endpoint.as_deref()), (Ok(None), Some("http://two")));
        // A profile may say nothing.
        assert_eq!(found("", "[profile ci]\n", &[("AWS_PROFILE", "ci")]).unwrap().credentials, Ok(None));
    }

    #[test]
    fn endpoints_are_ignored_where_the_variable_or_else_the_profile_says_so() {
        let config = |ignores: &str| format!("[default]\nendpoint_url = http://x\nservices = none\n{ignores}\n");
        let variable = |value| [("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", value)];
        let cases = [
            (found("", &config(""), &variable("true")), true),
            (found("", &config("ignore_configured_endpoint_urls = True"), &[]), true),
            (
                found("", "[default]\nignore_configured_endpoint_urls = true\nendpoint_url = x", &variable("false")),
                false,
            ),
        ];
        for (found, ignores) in cases {
            let found = found.unwrap();
            assert_eq!((found.ignores_endpoints, found.endpoint.is_none()), (ignores, ignores), "{found:?}");
        }
    }

    #[test]
    fn all_keys_come_from_one_file() {
        let all = |access: &str| {
            format!(
                "[default]\naws_access_key_id = {access}\naws_secret_access_key = {SECRET}\naws_session_token = {access}\n"
            )
        };
        let without = |text: String, name: &str| {
            text.lines().filter(|line| !line.starts_with(name)).map(|line| format!("{line}\n")).collect::<String>()
        };
        let token = |text: String| without(text, "aws_session_token");
        let lone = |access: &str| without(token(all(access)), "aws_secret_access_key");
        let cases = [
            (String::new(), all("TWO"), Ok(Some(keys("TWO", Some("TWO"))))),
            (all("ONE"), all("TWO"), Ok(Some(keys("ONE", Some("ONE"))))),
            (token(all("ONE")), all("TWO"), Ok(Some(keys("ONE", None)))),
            (all("ONE"), token(all("TWO")), Ok(Some(keys("ONE", Some("ONE"))))),
            ("[default]\naws_session_token = ONE\n".to_owned(), token(all("TWO")), Ok(Some(keys("TWO", None)))),
            (
                lone("ONE"),
                all("TWO"),
                Err("~/.aws/credentials:2: the profile `default` has an `aws_access_key_id` and no \
                                           `aws_secret_access_key` in this file"
                    .to_owned()),
            ),
        ];
        for (credentials, config, expected) in cases {
            let told = found(&credentials, &config, &[]).unwrap().credentials;
            assert_eq!(told, expected, "{credentials}\n{config}");
        }
        // What is no key may stand in either.
        let region = |name: &str| format!("[default]\nregion = {name}\n");
        assert_eq!(found(&region("one"), &region("two"), &[]).unwrap().region.as_deref(), Some("one"));
        assert_eq!(found("", &region("two"), &[]).unwrap().region.as_deref(), Some("two"));
    }

    #[test]
    fn a_section_profile_default_makes_one_called_default_nothing() {
        let (plain, profile) =
            ("[default]\nregion = one\nendpoint_url = http://one\n", "[profile default]\nregion = two\n");
        for config in [format!("{plain}{profile}"), format!("{profile}{plain}")] {
            let found = found("", &config, &[]).unwrap();
            assert_eq!((found.region.as_deref(), found.endpoint), (Some("two"), None), "{config}");
        }
    }

    #[test]
    fn only_what_is_indented_deeper_belongs_to_the_property_before() {
        let section = |indents: [&str; 3]| {
            let [one, two, three] = indents;
            format!(
                "{one}[default]\n{two}region = x\n{three}aws_access_key_id = ONE\n{three}aws_secret_access_key={SECRET}\n"
            )
        };
        for indents in [["", "", ""], ["", "  ", "  "], ["  ", "  ", "  "], ["", "\t\t", "\t"], [" ", "    ", ""]] {
            let found = found(&section(indents), "", &[]).unwrap();
            assert_eq!(
                (found.credentials, found.region.as_deref()),
                (Ok(Some(keys("ONE", None))), Some("x")),
                "{indents:?}"
            );
        }
        assert_eq!(
            found(&section(["", " ", "  "]), "", &[]).unwrap_err(),
            "~/.aws/credentials:3: it is indented deeper than the property before it, and so belongs to that; indent both alike"
        );
        let nested =
            "[default]\n  services = s\n  region = x\n[services s]\n  s3 =\n    endpoint_url = http://s3\n  ec2 =\n";
        let found = found("", nested, &[]).unwrap();
        assert_eq!((found.region.as_deref(), found.endpoint.as_deref()), (Some("x"), Some("http://s3")));
    }

    #[test]
    fn ways_to_credentials_count_as_they_do_with_the_tools_of_aws() {
        let keys_of =
            |access: &str| format!("[default]\naws_access_key_id = {access}\naws_secret_access_key = {SECRET}\n");
        for property in UNSUPPORTED {
            for (credentials, config) in [(keys_of("ONE"), "[default]\n".to_owned()), (String::new(), keys_of("ONE"))] {
                let found = found(&credentials, &format!("{config}{property} = x\n"), &[]).unwrap();
                let problem = found.credentials.unwrap_err();
                assert!(problem.contains(&format!("`default` gets its credentials by `{property}`")), "{problem}");
            }
        }
        // A program counts less than keys of one file, and more than those of the other.
        let program = format!("[default]\n{PROGRAM} = x\n");
        assert_eq!(found(&keys_of("ONE"), &program, &[]).unwrap().credentials, Ok(Some(keys("ONE", None))));
        let config = format!("{}{PROGRAM} = x\n", keys_of("ONE"));
        assert!(found("", &config, &[]).unwrap().credentials.unwrap_err().starts_with("~/.aws/config:4: "));
        // With keys in the environment nobody asks.
        let role = "[default]\nrole_arn = x\n";
        assert_eq!(found("", role, &[("AWS_ACCESS_KEY_ID", "x")]).unwrap().credentials, Ok(None));
    }

    #[test]
    fn keys_of_the_environment_and_tokens_outweigh_those_of_a_profile() {
        let credentials = format!("[default]\naws_access_key_id=ONE\naws_secret_access_key={SECRET}\nregion = x\n");
        for variable in ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"] {
            let found = found(&credentials, "", &[(variable, "here")]).unwrap();
            assert_eq!((found.credentials, found.region.as_deref()), (Ok(None), Some("x")));
        }
    }

    #[test]
    fn files_that_other_variables_name_are_read_and_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        fs::write(&path, format!("[a]\naws_access_key_id=ONE\naws_secret_access_key={SECRET}\n")).unwrap();
        let path = path.display().to_string();
        let variables = [("AWS_PROFILE", "a"), ("AWS_SHARED_CREDENTIALS_FILE", path.as_str())];
        assert_eq!(found("", "", &variables).unwrap().credentials, Ok(Some(keys("ONE", None))));
        let problem = found("", "", &[("AWS_CONFIG_FILE", "/nowhere/config")]).unwrap_err();
        assert!(problem.starts_with("/nowhere/config, which AWS_CONFIG_FILE names: it cannot be read"), "{problem}");
        // As many systems name no file.
        let nothing = Profile { credentials: Ok(None), region: None, endpoint: None, ignores_endpoints: false };
        assert_eq!(found("", "", &[("AWS_CONFIG_FILE", "/dev/null")]), Ok(nothing.clone()));
        assert_eq!(find(&|_| None), Ok(nothing));
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
        ];
        for (credentials, expected) in cases {
            assert_eq!(found(&credentials, "", &[]).unwrap_err(), expected);
        }
        assert_eq!(
            found("", "", &[("AWS_PROFILE", "ci")]).unwrap_err(),
            "AWS_PROFILE names the profile `ci`, which is neither in ~/.aws/credentials nor in ~/.aws/config"
        );
        let lone = found(&format!("[default]\n\naws_secret_access_key={SECRET}\n"), "", &[]).unwrap().credentials;
        let expected = "~/.aws/credentials:3: the profile `default` has an `aws_secret_access_key` and no `aws_access_key_id` in this file";
        assert_eq!(lone.unwrap_err(), expected);
        let role = found("", "[default]\nregion = x\nrole_arn = arn:x\nsource_profile = y\n", &[]).unwrap();
        let problem = role.credentials.unwrap_err();
        assert!(
            problem.starts_with("~/.aws/config:3: the profile `default` gets its credentials by `role_arn`"),
            "{problem}"
        );
        let problem = found("", "[default]\nservices = none\n", &[]).unwrap_err();
        assert_eq!(problem, "~/.aws/config:2: there is no section `[services none]`");
    }
}
