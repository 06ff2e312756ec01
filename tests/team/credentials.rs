//! Credentials from the files of AWS's own tools, and from services that containers and instances have.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use serde_json::json;

use crate::{
    bucket_server::{ACCESS_KEY, SECRET_KEY},
    place::{CHAIN, Machine, Team},
    run_support::Said,
};

/// A command that knows of the server what stands in files alone.
fn with_files(machine: &Machine<'_>, team: &Team, profile: &str) -> Said {
    let mut command = machine.command(&["store", "push", "graph.ron"]);
    for name in team.environment().keys() {
        command.env_remove(name);
    }
    command.env("AWS_PROFILE", profile);
    command.env("AWS_SHARED_CREDENTIALS_FILE", machine.place.path("credentials"));
    command.env("AWS_CONFIG_FILE", machine.place.path("config"));
    Said::from(command.output().unwrap())
}

#[test]
fn a_profile_is_enough() {
    let Some(team) = Team::in_a_bucket() else { return };
    let machine = team.machine(CHAIN);
    machine.run_alone();
    let endpoint = &team.environment()["AWS_ENDPOINT_URL"];
    machine.place.write("config", &format!("[profile ci]\nregion = us-east-1\nendpoint_url = {endpoint}\n"));
    let keys = format!("[ci]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n");
    machine.place.write("credentials", &keys);
    let said = with_files(&machine, &team, "ci");
    assert!(said.code == Some(0) && said.stdout.contains("3 results stored"), "{said:#?}");
    assert!(team.requests() > Some(0));

    // A profile that cannot be used is nobody's business where nothing is signed.
    machine.place.write("config", "[profile ci]\nrole_arn = x\n");
    machine.place.write("credentials", "");
    let said = with_files(&machine, &team, "ci");
    assert!(said.code != Some(0) && said.stderr.contains("gets its credentials by `role_arn`"), "{said:#?}");
    assert_eq!(team.requests(), Some(0));
    let mut command = machine.command(&["store", "push", "graph.ron"]);
    command.env("AWS_CONFIG_FILE", machine.place.path("config")).env("AWS_PROFILE", "ci");
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").env("AWS_SKIP_SIGNATURE", "true");
    let said = Said::from(command.output().unwrap());
    assert!(said.code != Some(0) && !said.stderr.contains("role_arn"), "{said:#?}");
    assert!(team.requests() > Some(0));

    // What is wrong is named by file and line, and shows no secret.
    machine.place.write("credentials", &keys.replace("aws_secret_access_key = ", "aws_secret_access_key "));
    let said = with_files(&machine, &team, "ci");
    let place = format!("{}:3: expected NAME = VALUE", machine.place.path("credentials").display());
    assert!(said.code != Some(0) && said.stderr.contains(&place), "{said:#?}");
    assert!(!format!("{said:?}").contains(SECRET_KEY), "{said:#?}");
    machine.place.write("credentials", &keys);
    let said = with_files(&machine, &team, "robot");
    assert!(said.code != Some(0) && said.stderr.contains("AWS_PROFILE names the profile `robot`"), "{said:#?}");
    assert_eq!(team.requests(), Some(0));
}

/// What a service asks for before it gives anything.
const SERVICE_TOKEN: &str = "nobody-may-print-this-token-of-the-service";
/// What goes with the keys that it gives.
const SESSION_TOKEN: &str = "nobody-may-print-this-token-of-the-session";

/// What a service answers to a method, a target and all lines of a request, if anything.
type Answer = fn(&str, &str, &str) -> Option<Given>;

enum Given {
    Text(&'static str),
    Keys,
}

/// A service that gives credentials.
struct Service {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Service {
    /// One that gives keys with this session token.
    fn start(answer: Answer, token: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&asked);
        // One request for each connection, until the test is over.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, &kept, answer, token);
            }
        });
        Self { port, asked }
    }

    /// What it was asked until now.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, asked: &Mutex<Vec<String>>, answer: Answer, token: &str) {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let mut words = head[0].split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    asked.lock().unwrap().push(format!("{method} {target}"));
    let (status, body) = match answer(method, target, &head.join("\n")) {
        None => (401, String::new()),
        Some(Given::Text(text)) => (200, text.to_owned()),
        Some(Given::Keys) => {
            let (key, secret, until) = (ACCESS_KEY, SECRET_KEY, "2100-01-01T00:00:00Z");
            let keys = json!({ "AccessKeyId": key, "SecretAccessKey": secret, "Token": token, "Expiration": until });
            (200, keys.to_string())
        }
    };
    let length = body.len();
    let _ = write!(stream, "HTTP/1.1 {status} So\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
}

/// Whether a request bears a header with a value.
fn bears(head: &str, name: &str, value: &str) -> bool {
    let is_it =
        |line: &str| line.split_once(": ").is_some_and(|(key, said)| key.eq_ignore_ascii_case(name) && said == value);
    head.lines().any(is_it)
}

/// The metadata of an instance, version 2.
fn instance(method: &str, target: &str, head: &str) -> Option<Given> {
    let is_known = bears(head, "x-aws-ec2-metadata-token", SERVICE_TOKEN);
    match (method, target) {
        ("PUT", "/latest/api/token") => Some(Given::Text(SERVICE_TOKEN)),
        ("GET", "/latest/meta-data/iam/security-credentials/") if is_known => Some(Given::Text("role")),
        ("GET", "/latest/meta-data/iam/security-credentials/role") if is_known => Some(Given::Keys),
        _ => None,
    }
}

/// The metadata of a container that has a token in a file.
fn container(_: &str, target: &str, head: &str) -> Option<Given> {
    (target == "/credentials" && bears(head, "authorization", SERVICE_TOKEN)).then_some(Given::Keys)
}

/// The metadata of a container that is asked at an address of its own network.
fn container_network(_: &str, target: &str, _: &str) -> Option<Given> {
    (target == "http://169.254.170.2/credentials/7").then_some(Given::Keys)
}

/// A machine that has no credentials but those that a service gives.
fn without_keys(machine: &Machine<'_>, arguments: &[&str]) -> Command {
    let mut command = machine.command(arguments);
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    for name in ["AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"] {
        machine.place.write("empty", "");
        command.env(name, machine.place.path("empty"));
    }
    command
}

#[test]
fn services_of_containers_and_instances_give_credentials() {
    type Environment = fn(u16, PathBuf) -> Vec<(&'static str, String)>;
    let services: [(_, Environment, &[&str]); 3] = [
        (
            instance as Answer,
            |port, _| vec![("AWS_METADATA_ENDPOINT", format!("http://127.0.0.1:{port}"))],
            &[
                "PUT /latest/api/token",
                "GET /latest/meta-data/iam/security-credentials/",
                "GET /latest/meta-data/iam/security-credentials/role",
            ],
        ),
        (
            container,
            |port, token| {
                vec![
                    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://127.0.0.1:{port}/credentials")),
                    ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.display().to_string()),
                ]
            },
            &["GET /credentials"],
        ),
        (
            container_network,
            |port, _| {
                vec![
                    ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/credentials/7".to_owned()),
                    ("HTTP_PROXY", format!("http://127.0.0.1:{port}")),
                    ("NO_PROXY", "127.0.0.1".to_owned()),
                ]
            },
            &["GET http://169.254.170.2/credentials/7"],
        ),
    ];
    for (answer, environment, asked) in services {
        // The server of these tests knows no session, and refuses a token of one.
        for token in ["", SESSION_TOKEN] {
            let Some(team) = Team::in_a_bucket() else { return };
            let service = Service::start(answer, token);
            let machine = team.machine(&CHAIN[..1]);
            machine.run_alone();
            machine.place.write("token", SERVICE_TOKEN);
            let mut command = without_keys(&machine, &["store", "push", "graph.ron"]);
            let said = command.envs(environment(service.port, machine.place.path("token"))).output().unwrap();
            let said = Said::from(said);
            let is_right = match token {
                "" => said.code == Some(0) && said.stdout.contains("1 result stored"),
                _ => said.code != Some(0) && said.stderr.contains("the server does not know the access key"),
            };
            assert!(is_right, "{said:#?}");
            // Once for all requests.
            assert_eq!(service.asked(), asked);
            fs::remove_file(machine.place.path("token")).unwrap();
            for secret in [SECRET_KEY, SERVICE_TOKEN, SESSION_TOKEN] {
                assert!(!format!("{said:?}").contains(secret), "{said:#?}");
                assert_eq!(machine.holding(secret), Vec::<PathBuf>::new());
            }
        }
    }
}

#[test]
fn a_service_that_is_named_by_half_is_refused_and_no_other_one_asked() {
    let Some(team) = Team::in_a_bucket() else { return };
    let machine = team.machine(&CHAIN[..1]);
    machine.run_alone();
    // It would give credentials, those of somebody else.
    let elsewhere = Service::start(instance, "");
    let url = format!("http://127.0.0.1:{}", elsewhere.port);
    let full = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{url}/credentials"));
    let token = |name| (name, SERVICE_TOKEN.to_owned());
    let cases = [
        (vec![full.clone()], "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE no file"),
        (
            vec![full.clone(), token("AWS_CONTAINER_AUTHORIZATION_TOKEN")],
            "AWS_CONTAINER_AUTHORIZATION_TOKEN is not read",
        ),
        // What is empty says nothing.
        (
            vec![
                full,
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", String::new()),
                ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", String::new()),
            ],
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE no file",
        ),
        (vec![token("AWS_WEB_IDENTITY_TOKEN_FILE")], "AWS_ROLE_ARN no role"),
    ];
    for (environment, expected) in cases {
        let push = |more: &[(&str, &str)]| {
            let mut command = without_keys(&machine, &["store", "push", "graph.ron"]);
            command.env("AWS_METADATA_ENDPOINT", &url).envs(environment.clone()).envs(more.iter().copied());
            Said::from(command.output().unwrap())
        };
        let said = push(&[]);
        assert!(said.code != Some(0) && said.stderr.contains(expected), "{said:#?}");
        assert!(!format!("{said:?}").contains(SERVICE_TOKEN), "{said:#?}");
        assert_eq!((elsewhere.asked(), team.requests()), (Vec::new(), Some(0)));
        // With keys it is nobody's business.
        let said = push(&[("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)]);
        assert_eq!(said.code, Some(0), "{said:#?}");
        team.requests();
    }
}
