//! What `kit new` and `kit generate` do to a folder, told without building anything.

use crate::user::{User, with_methods};

const CREATE: &str =
    "    async fn create(&self, ctx: Context, email: String) -> Result<(), Error>;\n";

#[test]
fn a_second_run_has_nothing_to_add() {
    let user = User::with_service("users", CREATE);
    user.kit(&["generate", "service", "users"]).succeeds();
    let files = user.files();
    let said = user.kit(&["g", "s", "users"]).succeeds();
    assert_eq!(said, "nothing to add\n");
    assert_eq!(user.files(), files);
    user.kit(&["g", "s", "users", "--check"]).succeeds();
}

#[test]
fn a_grown_trait_adds_its_method_and_touches_no_line_that_exists() {
    let user = User::with_service("users", CREATE);
    user.kit(&["generate", "service", "users"]).succeeds();
    let path = "services/users/src/users.rs";
    // What a person wrote stays, formatted or not.
    user.edit(path, |text| {
        text.replace("email);", "email);   let odd   =  1; // mine")
            + "\n/// Mine too.\npub struct Mine  ;\n"
    });
    user.edit("services/users/src/api.rs", |text| {
        with_methods(
            text,
            "    /// A user.\n    async fn get(&self, ctx: Context, id: Id) -> Result<User, Error>;\n",
        ) + "\n#[derive(Debug)]\npub struct Id;\npub struct User;\n"
    });
    let before = user.read(path);
    let others = user.files();
    user.kit(&["g", "s", "users", "--check"]).fails();
    assert_eq!(user.files(), others, "a check writes nothing");
    user.kit(&["g", "s", "users"]).succeeds();
    let after = user.read(path);
    let mut lines = after.lines();
    for line in before.lines() {
        assert!(
            lines.any(|other| other == line),
            "{line:?} is gone: {after}"
        );
    }
    assert!(
        after.contains("async fn get(&self, ctx: Context, id: Id) -> Result<User, Error> {"),
        "{after}"
    );
    assert!(
        after.contains("use crate::api::Id;\nuse crate::api::User;\n"),
        "{after}"
    );
    let added = user
        .files()
        .into_iter()
        .filter(|file| !others.contains(file));
    assert_eq!(added.count(), 1, "only the implementation needed anything");
}

#[test]
fn the_logging_middleware_is_added_at_any_time_and_grows_with_the_trait() {
    let around =
        "    let handler = Handler;\n    let handler = logging::Logging { inner: handler };\n";
    let at_once = User::with_service("users", CREATE);
    at_once.kit(&["g", "s", "users", "--dmw"]).succeeds();
    let later = User::with_service("users", CREATE);
    later.kit(&["g", "s", "users"]).succeeds();
    later.kit(&["g", "s", "users", "--dmw"]).succeeds();
    for user in [at_once, later] {
        let lib = user.read("services/users/src/lib.rs");
        assert!(
            lib.contains("mod logging;") && lib.contains(around),
            "{lib}"
        );
        let said = user.kit(&["g", "s", "users", "--dmw"]).succeeds();
        assert_eq!(said, "nothing to add\n");
        user.edit("services/users/src/api.rs", |text| {
            with_methods(
                text,
                "    async fn forget(&self, _: Context) -> Result<(), Error>;\n",
            )
        });
        user.kit(&["g", "s", "users"]).succeeds();
        let logging = user.read("services/users/src/logging.rs");
        for call in [
            "logged(\"create\", self.inner.create(ctx, email)).await",
            "logged(\"forget\", self.inner.forget(ctx)).await",
        ] {
            assert!(logging.contains(call), "{logging}");
        }
    }
    let empty = User::in_an_empty_folder();
    empty.kit(&["n", "s", "users"]).succeeds();
    empty.kit(&["g", "s", "users", "--dmw"]).succeeds();
    let lib = empty.read("services/users/src/lib.rs");
    assert!(!lib.contains("logging"), "{lib}");
}

#[test]
fn each_service_gets_a_manifest_for_kubernetes_that_is_its_owners_from_then_on() {
    let user = User::in_an_empty_folder();
    let said = user.kit(&["g", "kubernetes"]).fails();
    assert!(said.contains("there is no workspace here"), "{said}");
    user.kit(&["n", "s", "users"]).succeeds();
    user.kit(&["g", "kubernetes"]).succeeds();
    let manifest = user.read("kubernetes/users.yml");
    for line in [
        "containerPort: 8800\n",
        "containerPort: 9800\n",
        "value: 0.0.0.0:8800\n",
        "value: http://consul:8500\n",
    ] {
        assert!(manifest.contains(line), "{line:?} is not in {manifest}");
    }
    assert!(
        !["__name__", "__port__", "__admin__"]
            .iter()
            .any(|word| manifest.contains(word)),
        "{manifest}"
    );
    let consul = user.read("kubernetes/consul.yml");
    let agent = "  agent.hcl: |\n    # One server that is its own cluster.";
    assert!(
        consul.contains(agent) && consul.contains("\n    bootstrap_expect = 1\n"),
        "{consul}"
    );

    user.edit("kubernetes/users.yml", |text| text.replace("64Mi", "1Gi"));
    let own = user.read("kubernetes/users.yml");
    user.kit(&["n", "s", "bug-reports"]).succeeds();
    let said = user.kit(&["g", "k", "--check"]).fails();
    assert_eq!(said, "missing kubernetes/bug-reports.yml\n");
    user.kit(&["g", "k"]).succeeds();
    assert_eq!(user.read("kubernetes/users.yml"), own);
    user.kit(&["g", "k", "--check"]).succeeds();
}

#[test]
fn a_chaos_test_calls_a_method_whose_arguments_can_be_made_up() {
    let user = User::with_service(
        "users",
        "    async fn put(&self, ctx: Context, user: User) -> Result<(), Error>;\n",
    );
    let said = user.kit(&["g", "chaos", "users"]).fails();
    assert!(
        said.contains("Users has no method that could be called"),
        "{said}"
    );
    user.edit("services/users/src/api.rs", |text| {
        with_methods(
            text,
            "    async fn find(&self, _: Context, name: Option<String>, limit: u32) -> Result<(), Error>;\n",
        )
    });
    user.kit(&["g", "chaos", "users"]).succeeds();
    let test = user.read("services/users/tests/chaos.rs");
    let call = "client\n        .find(ctx, Default::default(), Default::default())\n";
    assert!(test.contains(call), "{test}");
}

#[test]
fn a_method_that_has_gone_is_told_and_left_alone() {
    let user = User::with_service("users", CREATE);
    user.kit(&["g", "s", "users"]).succeeds();
    user.edit("services/users/src/api.rs", |text| {
        text.replace("create", "register")
    });
    let said = user.kit(&["g", "s", "users", "--check"]).fails();
    assert!(
        said.contains("users.rs:12: `create` is no longer a method of the trait"),
        "{said}"
    );
    user.kit(&["g", "s", "users"]).succeeds();
    let text = user.read("services/users/src/users.rs");
    assert!(
        text.contains("fn create(") && text.contains("fn register("),
        "{text}"
    );
    // An argument of another type is told likewise.
    user.edit("services/users/src/api.rs", |text| {
        text.replace("email: String", "email: u32")
    });
    let said = user.kit(&["g", "s", "users", "--check"]).fails();
    assert!(
        said.contains("`register` takes or returns something else than in the trait"),
        "{said}"
    );
}

#[test]
fn a_dry_run_writes_nothing() {
    let user = User::in_an_empty_folder();
    let said = user
        .kit(&["new", "service", "users", "--dry-run"])
        .succeeds();
    assert!(
        said.contains("would make services/users/src/api.rs"),
        "{said}"
    );
    assert!(user.files().is_empty());
    let user = User::with_service("users", CREATE);
    let files = user.files();
    let said = user.kit(&["g", "s", "users", "--dry-run"]).succeeds();
    assert!(
        said.contains("would make services/users/src/main.rs"),
        "{said}"
    );
    assert_eq!(user.files(), files);
}

#[test]
fn services_get_ports_in_the_order_in_which_they_are_made_and_keep_them() {
    let user = User::in_an_empty_folder();
    for (name, port) in [("users", 8800), ("bug-reports", 8801), ("a", 8802)] {
        let said = user.kit(&["n", "s", name]).succeeds();
        assert!(
            said.contains(&format!("{name} will listen on port {port}")),
            "{said}"
        );
    }
    // One that was removed leaves its port to the next.
    std::fs::remove_dir_all(user.path("services/bug-reports")).unwrap();
    let said = user.kit(&["n", "s", "b"]).succeeds();
    assert!(said.contains("b will listen on port 8801"), "{said}");
    assert!(user.read("services/a/Cargo.toml").contains("port = 8802\n"));
}

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
    ] {
        let said = user
            .kit(&["n", "s", "users", "--kit", &kit, "--dry-run"])
            .succeeds();
        assert!(said.contains(&dependency), "{said}");
    }
    let said = user.kit(&["n", "s", "users", "--kit", "/nowhere"]).fails();
    assert!(said.contains("there is no folder /nowhere"), "{said}");
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
    // Where the list is one line, a person is asked.
    user.edit("Cargo.toml", |_| {
        "[workspace]\nmembers = [\"tool\", \"services/users\"]\n".to_owned()
    });
    let said = user.kit(&["new", "service", "bugs"]);
    said.succeeds();
    assert_eq!(
        user.read("Cargo.toml"),
        "[workspace]\nmembers = [\"tool\", \"services/users\"]\n"
    );
}
