//! Where services may be made, and what is refused.

use crate::user::User;

#[test]
fn what_cannot_be_made_is_refused_with_the_reason() {
    let user = User::in_an_empty_folder();
    let said = user.kit(&["generate", "service", "users"]).fails();
    assert!(
        said.contains("there is no workspace here: `kit new service NAME` makes one"),
        "{said}"
    );
    let said = user.kit(&["new", "service", "Users"]).fails();
    assert!(
        said.contains("a name has 1 to 63 of a-z, 0-9 and -"),
        "{said}"
    );
    assert!(user.files().is_empty());
    user.kit(&["new", "service", "users"]).succeeds();
    let said = user.kit(&["new", "service", "users"]).fails();
    assert!(said.contains("services/users exists already"), "{said}");
    let said = user.kit(&["generate", "service", "bugs"]).fails();
    assert!(
        said.contains("there is no service bugs; there are users"),
        "{said}"
    );
    for name in ["handler", "serde", "consul", "lib"] {
        let said = user.kit(&["new", "service", name]).fails();
        assert!(said.contains("has another meaning"), "{said}");
    }
    user.edit("services/users/src/api.rs", |text| {
        text.replace("trait Users", "trait Customers")
    });
    let said = user.kit(&["generate", "service", "users"]).fails();
    assert!(
        said.contains("services/users/src has no trait Users with #[kit::service] before it"),
        "{said}"
    );
}

#[test]
fn the_services_of_this_repository_lack_nothing() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    for arguments in [
        &["generate", "service", "users"][..],
        &["generate", "service", "bugs"],
        &["generate", "service", "notificator"],
        &["generate", "docker"],
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_kit"))
            .args(arguments)
            .arg("--check")
            .current_dir(root)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
}

#[test]
fn the_toolkit_may_be_a_repository_elsewhere() {
    let user = User::in_an_empty_folder();
    let url = "https://example.org/kit.git";
    for (kit, dependency) in [
        (url.to_owned(), format!("kit = {{ git = \"{url}\" }}")),
        (
            format!("{url}#next"),
            format!("kit = {{ git = \"{url}\", branch = \"next\" }}"),
        ),
        (
            format!("{url}#47a9a44"),
            format!("kit = {{ git = \"{url}\", rev = \"47a9a44\" }}"),
        ),
        (
            format!("{url}#v1.0"),
            format!("kit = {{ git = \"{url}\", tag = \"v1.0\" }}"),
        ),
        (
            format!("{url}#branch=1.x"),
            format!("kit = {{ git = \"{url}\", branch = \"1.x\" }}"),
        ),
        (
            format!("{url}#tag=first"),
            format!("kit = {{ git = \"{url}\", tag = \"first\" }}"),
        ),
        (
            format!("{url}#rev=47a"),
            format!("kit = {{ git = \"{url}\", rev = \"47a\" }}"),
        ),
    ] {
        let said = user
            .kit(&["n", "s", "users", "--kit", &kit, "--dry-run"])
            .succeeds();
        assert!(said.contains(&dependency), "{said}");
    }
    let said = user.kit(&["n", "s", "users", "--kit", "/nowhere"]).fails();
    assert!(said.contains("there is no folder /nowhere"), "{said}");
    // Where all services take it from one place already, another one is not ignored but refused.
    user.kit(&["n", "s", "users"]).succeeds();
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    user.kit(&["n", "s", "bugs", "--kit", here]).succeeds();
    let said = user.kit(&["n", "s", "notes", "--kit", url]).fails();
    assert!(said.contains("--kit would be ignored: "), "{said}");
    assert!(!user.path("services/notes").exists());
}

#[test]
fn a_workspace_of_ones_own_is_joined_as_it_is() {
    let user = User::in_an_empty_folder();
    let manifest = "[workspace]\nresolver = \"3\"\nmembers = [\n    \"tool\",\n]\n";
    std::fs::write(user.path("Cargo.toml"), manifest).unwrap();
    std::fs::create_dir_all(user.path("tool/src")).unwrap();
    std::fs::write(user.path("tool/src/lib.rs"), "").unwrap();
    std::fs::write(user.path("tool/Cargo.toml"), "[package]\nname = \"tool\"\n").unwrap();
    user.kit(&["new", "service", "users"]).succeeds();
    assert_eq!(
        user.read("Cargo.toml"),
        manifest.replace("    \"tool\",\n", "    \"tool\",\n    \"services/*\",\n")
    );
    let manifest = user.read("services/users/Cargo.toml");
    assert!(
        manifest.contains("kit = { path = \"") && !manifest.contains("workspace"),
        "{manifest}"
    );
    user.kit(&["generate", "service", "users", "--check"])
        .fails();
    // A package of the workspace that cannot be a service, though it says so, is named.
    user.edit("tool/Cargo.toml", |text| {
        format!("{text}[package.metadata.kit]\nport = 1\n").replace("\"tool\"", "\"my_tool\"")
    });
    let said = user.kit(&["generate", "docker"]).fails();
    assert!(
        said.contains("tool/Cargo.toml says [package.metadata.kit]"),
        "{said}"
    );
    user.edit("tool/Cargo.toml", |text| {
        text.replace("[package.metadata.kit]", "[package.metadata.other]")
    });
    // Where the list is one line, a person is asked.
    user.edit("Cargo.toml", |_| {
        "[workspace]\nmembers = [\"tool\", \"services/users\"]\n".to_owned()
    });
    let said = user.kit(&["new", "service", "bugs"]).succeeds();
    let first = "First add \"services/bugs\" to `members` in Cargo.toml.";
    assert!(said.contains(first), "{said}");
    assert_eq!(
        user.read("Cargo.toml"),
        "[workspace]\nmembers = [\"tool\", \"services/users\"]\n"
    );
}
