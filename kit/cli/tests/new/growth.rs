//! What `kit generate` adds where there is something already, told without building anything.

use crate::user::{CREATE, User, with_methods};

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
fn an_implementation_beside_the_trait_gets_its_methods_and_all_imports() {
    let user = User::with_service("bugs", CREATE);
    user.kit(&["g", "s", "bugs"]).succeeds();
    // All in one file, twice: one implementation more for tests by hand.
    let handler = user.read("services/bugs/src/bugs.rs");
    let (_, handler) = handler.split_once("use crate::api::Bugs;\n").unwrap();
    std::fs::remove_file(user.path("services/bugs/src/bugs.rs")).unwrap();
    user.edit("services/bugs/src/lib.rs", |text| {
        text.replace("pub mod bugs;\n", "")
            .replace("bugs::Handler", "api::Handler")
    });
    let watch = "    async fn watch(&self, ctx: Context, id: u32) -> Result<impl Stream<Item = Result<u32, Error>>, Error>;\n";
    user.edit("services/bugs/src/api.rs", |text| {
        let second = handler.replace("Handler", "Other");
        let text = text.replace(
            "use kit::{Context, Error};",
            "use kit::Context;\nuse kit::Error;",
        );
        with_methods(&text, watch) + handler.trim_start() + &second
    });
    let before = user.read("services/bugs/src/api.rs");
    user.kit(&["g", "s", "bugs"]).succeeds();
    let after = user.read("services/bugs/src/api.rs");
    for (text, times) in [
        ("async fn watch(", 3),
        ("use kit::Stream;\n", 1),
        ("use kit::Code;\n", 1),
    ] {
        assert_eq!(
            after.matches(text).count(),
            times,
            "{text}: {after}\ninstead of {before}"
        );
    }
    user.kit(&["g", "s", "bugs", "--check"]).succeeds();
}

#[test]
fn what_the_trait_says_before_an_argument_is_not_said_by_the_implementation() {
    let create = "    async fn create(&self, ctx: Context, #[kit(max_length = 3)] #[kit(min_length = 1)] a: String, #[kit(\n        maximum = 3\n    )]\n    b: u32) -> Result<(), Error>;\n";
    let user = User::with_service("users", create);
    user.kit(&["g", "s", "users"]).succeeds();
    let handler = user.read("services/users/src/users.rs");
    let signature =
        "async fn create(&self, ctx: Context, a: String, b: u32) -> Result<(), Error> {";
    assert!(handler.contains(signature), "{handler}");
    user.kit(&["g", "s", "users", "--check"]).succeeds();
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
        ("clients/users/src/main.rs", "UsersClient::grpc(", "@grpc"),
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
