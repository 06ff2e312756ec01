//! Credentials from the files of AWS's own tools.

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
