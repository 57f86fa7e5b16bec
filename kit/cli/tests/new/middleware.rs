//! What is put around a service, and what is told of it, without building anything.

use crate::user::{CREATE, User, with_methods};

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
