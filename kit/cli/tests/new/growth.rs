//! What `kit new` and `kit generate` do to a folder, told without building anything.

use yaml_rust2::{Yaml, YamlLoader};

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
fn a_stream_is_imported_and_an_implementation_may_name_its_own() {
    let watch = "    async fn watch(&self, ctx: Context) -> Result<impl Stream<Item = Result<Bug, Error>>, Error>;\n";
    let user = User::with_service("bugs", watch);
    user.edit("services/bugs/src/api.rs", |text| {
        format!("{text}\npub struct Bug;\n")
    });
    user.kit(&["g", "s", "bugs"]).succeeds();
    let api = user.read("services/bugs/src/api.rs");
    assert!(
        api.contains("use kit::{Context, Error, Stream};\n"),
        "{api}"
    );
    let path = "services/bugs/src/bugs.rs";
    let text = user.read(path);
    assert!(
        text.contains("use kit::{Code, Context, Error, Stream};\n\nuse crate::api::{Bug, Bugs};\n"),
        "{text}"
    );
    user.edit(path, |text| {
        text.replace(
            "Result<impl Stream<Item = Result<Bug, Error>>, Error>",
            "Result<Many, Error>",
        )
    });
    user.kit(&["g", "s", "bugs", "--check"]).succeeds();
    user.edit(path, |text| text.replace("Result<Many, Error>", "Many"));
    let said = user.kit(&["g", "s", "bugs", "--check"]).fails();
    assert!(
        said.contains("`watch` takes or returns something else"),
        "{said}"
    );
}

#[test]
fn an_implementation_is_a_middleware_only_where_it_is_around_another_one() {
    for (head, is_around) in [
        ("impl<U: Others> Users for Handler<U>", false),
        ("impl<T: Users> Users for Handler<T>", true),
        (
            "impl<T> Users for Handler<T>\nwhere\n    T: crate::api::Users,",
            true,
        ),
    ] {
        let user = User::with_service("users", CREATE);
        let text =
            format!("use crate::api::Users;\n\npub struct Handler<T>(T);\n\n{head} {{\n}}\n");
        std::fs::write(user.path("services/users/src/users.rs"), text).unwrap();
        user.kit(&["g", "s", "users"]).succeeds();
        let text = user.read("services/users/src/users.rs");
        assert_eq!(
            text.contains("self.inner.create(ctx, email).await"),
            is_around,
            "{text}"
        );
        assert_eq!(
            text.contains("create is not written yet"),
            !is_around,
            "{text}"
        );
    }
}

#[test]
fn the_default_middlewares_are_added_at_any_time_and_grow_with_the_trait() {
    let at_once = User::with_service("users", CREATE);
    at_once.kit(&["g", "s", "users", "--dmw"]).succeeds();
    let later = User::with_service("users", CREATE);
    later.kit(&["g", "s", "users"]).succeeds();
    later.kit(&["g", "s", "users", "--dmw"]).succeeds();
    for user in [at_once, later] {
        let lib = user.read("services/users/src/lib.rs");
        for lines in [
            "mod endpoints;\n",
            "mod logging;\n",
            "    let handler = Handler;\n    let handler = logging::Logging { inner: handler };\n",
            "    let server = UsersServer::new(handler);\n    let server = endpoints::logged(server);\n",
        ] {
            assert!(lib.contains(lines), "{lines:?} is not in {lib}");
        }
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
fn a_middleware_that_is_there_lacks_nothing_and_one_that_is_not_wired_is_told() {
    let user = User::with_service("users", CREATE);
    user.kit(&["g", "s", "users"]).succeeds();
    let audit = ["g", "m", "audit", "-s", "users"];
    let quota = ["g", "m", "quota", "-s", "users", "-e"];
    for middleware in [&audit[..], &quota] {
        let check = [middleware, &["--check"]].concat();
        user.kit(&check).fails();
        user.kit(middleware).succeeds();
        assert_eq!(user.kit(middleware).succeeds(), "nothing to add\n");
        user.kit(&check).succeeds();
    }
    // The same name for another kind.
    let said = user.kit(&[&audit[..], &["-e"]].concat()).fails();
    assert!(
        said.contains("src/audit.rs exists already, and is not what this would make"),
        "{said}"
    );
    // Somebody took it out, and has no variable of that name.
    user.edit("services/users/src/lib.rs", |text| {
        text.replace("    let handler = audit::Audit { inner: handler };\n", "")
            .replace("let handler = Handler;", "let it = Handler;")
            .replace("new(handler)", "new(it)")
    });
    let said = user.kit(&[&audit[..], &["--check"]].concat()).fails();
    assert!(said.contains("put it around the handler"), "{said}");
    user.edit("services/users/src/lib.rs", |text| {
        text.replace(
            "let it = Handler;",
            "let it = audit::Audit { inner: Handler };",
        )
    });
    user.kit(&[&audit[..], &["--check"]].concat()).succeeds();
    for name in ["layer", "service", "context", "users"] {
        user.kit(&["g", "m", name, "-s", "users"]).fails();
    }
}

#[test]
fn a_service_has_a_test_unless_there_is_another_one() {
    // Neither the one of chaos nor the word is a test of the service.
    let user = User::with_service("users", CREATE);
    user.edit("services/users/src/api.rs", |text| {
        text.replace("create", "test")
    });
    user.kit(&["g", "chaos", "users"]).succeeds();
    user.kit(&["g", "s", "users"]).succeeds();
    assert!(user.path("services/users/tests/users.rs").exists());

    let user = User::with_service("users", CREATE);
    std::fs::create_dir_all(user.path("services/users/tests/it")).unwrap();
    user.kit(&["g", "s", "users"]).succeeds();
    assert!(!user.path("services/users/tests/users.rs").exists());

    let user = User::with_service("users", CREATE);
    user.edit("services/users/src/lib.rs", |text| {
        format!("{text}\n#[cfg(test)]\nmod tests {{\n    #[tokio::test]\n    async fn works() {{}}\n}}\n")
    });
    user.kit(&["g", "s", "users"]).succeeds();
    assert!(!user.path("services/users/tests/users.rs").exists());
}

#[test]
fn a_client_program_grows_with_the_trait_and_tells_what_has_gone() {
    let user = User::in_an_empty_folder();
    user.kit(&["n", "s", "users"]).succeeds();
    let said = user.kit(&["g", "c", "users"]).fails();
    assert!(said.contains("add a method to the trait Users"), "{said}");
    let user = User::with_service("users", CREATE);
    user.kit(&["g", "c", "users"]).succeeds();
    let main = "clients/users/src/main.rs";
    user.edit(main, |text| format!("// Mine.\n{text}"));
    user.edit("services/users/src/api.rs", |text| {
        let text = text.replace("create", "register");
        with_methods(
            &text,
            "    async fn forget(&self, _: Context) -> Result<(), Error>;\n",
        )
    });
    let said = user.kit(&["g", "c", "users", "--check"]).fails();
    assert!(said.contains("lacks clients/users/src/main.rs:"), "{said}");
    assert!(
        said.contains("`create` is no longer a method of the trait"),
        "{said}"
    );
    user.kit(&["g", "c", "users"]).succeeds();
    let text = user.read(main);
    assert!(
        text.starts_with("// Mine.\n") && text.contains("\"create\" =>"),
        "{text}"
    );
    for call in [".register(ctx, given.take(\"email\")?)", ".forget(ctx)"] {
        assert!(text.contains(call), "{text}");
    }
}

#[test]
fn what_is_offered_over_one_wire_is_called_over_that_one() {
    let told = "#[kit::service(transport = \"grpc\")]\npub trait Users {";
    let new = User::in_an_empty_folder();
    new.kit(&["n", "s", "users", "-t", "grpc"]).succeeds();
    assert!(new.read("services/users/src/api.rs").contains(told));

    let user = User::with_service("users", CREATE);
    let said = user
        .kit(&["g", "s", "users", "-t", "grpc", "--check"])
        .fails();
    assert!(said.contains("lacks services/users/src/api.rs:"), "{said}");
    user.kit(&["g", "s", "users", "-t", "grpc"]).succeeds();
    let api = user.read("services/users/src/api.rs");
    assert!(
        api.contains(told) && api.contains("use kit::{Context, Error};"),
        "{api}"
    );
    user.kit(&["g", "s", "users", "-t", "grpc", "--check"])
        .succeeds();
    let said = user
        .kit(&["g", "s", "users", "-t", "both", "--check"])
        .fails();
    assert!(
        said.contains("says something else than `transport = \"both\"`"),
        "{said}"
    );
    assert_eq!(user.read("services/users/src/api.rs"), api);

    user.kit(&["g", "c", "users"]).succeeds();
    user.kit(&["g", "chaos", "users"]).succeeds();
    for (file, says, says_not) in [
        ("clients/users/src/lib.rs", "pub fn grpc(", "json"),
        ("clients/users/src/main.rs", "users_client::grpc(", "@grpc"),
        (
            "services/users/tests/chaos.rs",
            "UsersClient::grpc(",
            "::json(",
        ),
    ] {
        let text = user.read(file);
        assert!(
            text.contains(says) && !text.contains(says_not),
            "{file}: {text}"
        );
    }

    let said = user.kit(&["g", "openapi", "users"]).fails();
    assert!(
        said.contains("an OpenAPI document is for JSON, and users is offered"),
        "{said}"
    );

    // Beside what the attribute says already.
    let user = User::with_service("users", CREATE);
    user.edit("services/users/src/api.rs", |text| {
        text.replace("#[kit::service]", "#[kit::service(package = \"a.b\")]")
    });
    user.kit(&["g", "s", "users", "--transport", "http"])
        .succeeds();
    let api = user.read("services/users/src/api.rs");
    assert!(
        api.contains("#[kit::service(package = \"a.b\", transport = \"http\")]\n"),
        "{api}"
    );
    user.kit(&["g", "chaos", "users"]).succeeds();
    let test = user.read("services/users/tests/chaos.rs");
    assert!(test.contains("UsersClient::json("), "{test}");
    let said = user.kit(&["g", "proto", "users"]).fails();
    assert!(
        said.contains("a .proto file is for gRPC, and users is offered"),
        "{said}"
    );
}

#[test]
fn a_service_that_has_gone_is_told_where_its_port_may_be_anothers() {
    let user = User::in_an_empty_folder();
    for name in ["users", "bugs"] {
        user.kit(&["n", "s", name]).succeeds();
    }
    for what in ["docker", "kubernetes"] {
        user.kit(&["g", what]).succeeds();
        user.kit(&["g", what, "--check"]).succeeds();
    }
    let compose = YamlLoader::load_from_str(&user.read("docker-compose.yml")).unwrap();
    let ports = compose[0]["services"]["bugs"]["ports"].as_vec().unwrap();
    assert_eq!(ports.len(), 2, "its own and the admin port");
    std::fs::remove_dir_all(user.path("services/bugs")).unwrap();
    let said = user.kit(&["g", "docker", "--check"]).fails();
    assert!(
        said.contains("docker-compose.yml has bugs, which is no service"),
        "{said}"
    );
    let said = user.kit(&["g", "kubernetes", "--check"]).fails();
    assert!(
        said.contains("kubernetes/bugs.yml is of no service"),
        "{said}"
    );
}

#[test]
fn a_middleware_finds_its_place_in_the_services_of_this_repository() {
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let user = User::in_an_empty_folder();
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let table: toml::Table = manifest.parse().unwrap();
    let members = table["workspace"]["members"].to_string();
    let default = table["workspace"]["default-members"].to_string();
    let manifest = manifest
        .replace(&members, "[\"services/*\"]")
        .replace(&format!("default-members = {default}\n"), "");
    std::fs::write(user.path("Cargo.toml"), manifest).unwrap();
    for service in ["users", "bugs", "notificator"] {
        copy(
            &root.join("services").join(service),
            &user.path("services").join(service),
        );
    }
    copy(&root.join("kit"), &user.path("kit"));
    for service in ["users", "bugs", "notificator"] {
        user.kit(&["g", "m", "audit", "--service", service])
            .succeeds();
        user.kit(&["g", "m", "quota", "--service", service, "--endpoint"])
            .succeeds();
        user.kit(&["g", "s", service, "--dmw"]).succeeds();
        for check in [
            &["g", "m", "audit", "--service", service, "--check"][..],
            &[
                "g",
                "m",
                "quota",
                "--service",
                service,
                "--endpoint",
                "--check",
            ],
            &["g", "s", service, "--dmw", "--check"],
        ] {
            user.kit(check).succeeds();
        }
        let lib = user.read(&format!("services/{service}/src/lib.rs"));
        let at = |text: &str| {
            lib.find(text)
                .unwrap_or_else(|| panic!("{text:?} is not in {lib}"))
        };
        let handler = at("let handler = audit::Audit { inner: handler };");
        let server = at("Server::new(handler)");
        assert!(handler < server && server < at("let server = quota::QuotaLayer.layer(server);"));
    }
}

/// What git would have: no folder that is built.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    if from.ends_with("target") {
        return;
    }
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
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

    are_objects(
        &manifest,
        &[
            "Deployment",
            "Service",
            "PodDisruptionBudget",
            "HorizontalPodAutoscaler",
        ],
    );
    are_objects(
        &consul,
        &["ConfigMap", "Deployment", "Service", "NetworkPolicy"],
    );
    kustomized(&user);

    user.edit("kubernetes/users.yml", |text| text.replace("64Mi", "1Gi"));
    let own = user.read("kubernetes/users.yml");
    user.kit(&["n", "s", "bug-reports"]).succeeds();
    let said = user.kit(&["g", "k", "--check"]).fails();
    assert_eq!(said, "missing kubernetes/bug-reports.yml\n");
    user.kit(&["g", "k"]).succeeds();
    assert_eq!(user.read("kubernetes/users.yml"), own);
    user.kit(&["g", "k", "--check"]).succeeds();
}

/// Whether a file has objects of Kubernetes of these kinds, in this order, whose parts name each other rightly.
fn are_objects(text: &str, kinds: &[&str]) {
    let objects = YamlLoader::load_from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let found: Vec<_> = objects
        .iter()
        .map(|one| one["kind"].as_str().unwrap())
        .collect();
    assert_eq!(found, kinds);
    let name = objects[0]["metadata"]["name"].as_str().unwrap();
    for object in &objects {
        assert_eq!(object["metadata"]["name"].as_str(), Some(name), "{text}");
        assert!(object["apiVersion"].as_str().is_some(), "{text}");
    }
    let of = |kind: &str| {
        let found = objects
            .iter()
            .find(|one| one["kind"].as_str() == Some(kind));
        &found.unwrap()["spec"]
    };
    // What is selected is what is there, and a port that is named has that name.
    let (pods, service) = (&of("Deployment")["template"], of("Service"));
    let labels = &pods["metadata"]["labels"];
    for selector in [
        &of("Deployment")["selector"]["matchLabels"],
        &service["selector"],
    ] {
        for (key, value) in selector.as_hash().unwrap() {
            assert_eq!(&labels[key.as_str().unwrap()], value, "{text}");
        }
    }
    let container = &pods["spec"]["containers"][0];
    let ports = container["ports"].as_vec().unwrap();
    let is_named = |port: &Yaml| ports.iter().any(|other| other["name"] == *port);
    assert!(is_named(&service["ports"][0]["targetPort"]), "{text}");
    assert!(
        is_named(&container["readinessProbe"]["httpGet"]["port"]),
        "{text}"
    );
    let volumes = pods["spec"]["volumes"].as_vec().unwrap();
    for mount in container["volumeMounts"].as_vec().unwrap() {
        assert!(
            volumes.iter().any(|volume| volume["name"] == mount["name"]),
            "{text}"
        );
    }
}

/// Where there is a kubectl, it reads them too. (Its dry run asks a cluster; putting objects together does not.)
fn kustomized(user: &User) {
    let folder = tempfile::tempdir().unwrap();
    for file in ["consul.yml", "users.yml"] {
        std::fs::copy(user.path("kubernetes").join(file), folder.path().join(file)).unwrap();
    }
    let list = "resources:\n- consul.yml\n- users.yml\n";
    std::fs::write(folder.path().join("kustomization.yaml"), list).unwrap();
    let kubectl = std::process::Command::new("kubectl")
        .args(["kustomize", "."])
        .current_dir(folder.path())
        .output();
    match kubectl {
        Err(_) => println!("NOT TESTED, for there is no kubectl: that it reads the manifests"),
        Ok(output) => assert!(output.status.success(), "{output:?}"),
    }
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
