//! Each misuse is told at its very token.

use super::{parse::Transport, *};
use crate::marked;

/// What is told about a trait with `inside` in it.
fn told(attribute: &str, inside: &str, message: &str) {
    let source = format!("#[kit::service({attribute})] pub trait Users {{ {inside} }}");
    marked::check(&source, message, |tokens| {
        let mut item: ItemTrait = parse2(tokens)?;
        let attribute = match item.attrs.remove(0).meta {
            syn::Meta::List(list) => list.tokens,
            syn::Meta::Path(_) | syn::Meta::NameValue(_) => unreachable!("it has brackets"),
        };
        let whole = whole(attribute, &item.ident)?;
        methods(&item, whole.transport).map(drop)
    });
}

#[test]
fn each_misuse_of_a_method_is_told_at_its_token() {
    for (method, message) in [
        (
            "async fn a(«ctx: Context») -> Result<(), Error>;",
            "takes `&self` first",
        ),
        (
            "async fn «a»(«)» -> Result<(), Error>;",
            "takes `ctx: Context` after `&self`",
        ),
        (
            "async fn a(«self», ctx: Context) -> Result<(), Error>;",
            "takes `&self`",
        ),
        (
            "async fn a(«&mut self», ctx: Context) -> Result<(), Error>;",
            "takes `&self`",
        ),
        (
            "async fn a(«self: Arc<Self>», ctx: Context) -> Result<(), Error>;",
            "takes `&self`",
        ),
        (
            "«fn» a(&self, ctx: Context) -> Result<(), Error>;",
            "is an `async fn`",
        ),
        (
            "async fn a(&self«)» -> Result<(), Error>;",
            "takes `ctx: Context` after `&self`",
        ),
        (
            "async fn a(&self, «x: u32») -> Result<(), Error>;",
            "takes `ctx: Context` after `&self`",
        ),
        (
            "async fn «a»(&self, ctx: Context);",
            "returns `Result<T, Error>`",
        ),
        (
            "async fn a(&self, ctx: Context) -> «User»;",
            "returns `Result<T, Error>`",
        ),
        (
            "async fn a(&self, ctx: Context) -> «Vec<User>»;",
            "returns `Result<T, Error>`",
        ),
        (
            "async fn a(&self, ctx: Context) -> «Result»;",
            "returns `Result<T, Error>`",
        ),
        (
            "async fn a(&self, ctx: Context) -> Result<(), «String»>;",
            "the error of a method is `kit::Error`",
        ),
        (
            "async fn a(&self, ctx: Context) -> «()»;",
            "returns `Result<T, Error>`",
        ),
        (
            "async fn a<«T»>(&self, ctx: Context, x: T) -> Result<(), Error>;",
            "has no generics",
        ),
        (
            "async fn a<«const N: usize»>(&self, ctx: Context) -> Result<(), Error>;",
            "has no generics",
        ),
        (
            "async fn a(&self, ctx: Context, x: «&str») -> Result<(), Error>;",
            "an argument is owned",
        ),
        (
            "async fn a(&self, ctx: Context, x: «impl Copy») -> Result<(), Error>;",
            "has one type",
        ),
        (
            "async fn a(&self, ctx: Context, «(x, y)»: (A, B)) -> Result<(), Error>;",
            "has a name",
        ),
        (
            "async fn a(&self, ctx: Context, «_»: u32) -> Result<(), Error>;",
            "has a name",
        ),
        (
            "async fn a(&self, ctx: Context, «größe»: u32) -> Result<(), Error>;",
            "that of its field",
        ),
        (
            "async fn create(&self, ctx: Context, r: «CreateRequest») -> Result<(), Error>;",
            "what the arguments of a method here are called",
        ),
        (
            "async fn a(&self, ctx: Context) -> Result<«Vec<BRequest>», Error>;
             async fn b(&self, ctx: Context) -> Result<(), Error>;",
            "what the arguments of a method here are called",
        ),
        (
            "async fn a(&self, ctx: Context) -> Result<(), Error> «{ Ok(()) }»",
            "has no body here",
        ),
        (
            "async fn «_a»(&self, ctx: Context) -> Result<(), Error>;",
            "part of its route",
        ),
        (
            "async fn «größe»(&self, ctx: Context) -> Result<(), Error>;",
            "part of its route",
        ),
        ("«type A;»", "methods only"),
        ("«const A: u32 = 1;»", "methods only"),
        // As many mistakes as there are, at once.
        (
            "«fn» «_a»<«T»>(«self», «x: T»);",
            "returns `Result<T, Error>`",
        ),
    ] {
        told("", method, message);
    }
}

#[test]
fn each_misuse_of_an_attribute_is_told_at_its_token() {
    let method = |attribute: &str| {
        format!("#[kit({attribute})] async fn a(&self, ctx: Context) -> Result<(), Error>;")
    };
    for (attribute, message) in [
        ("«idempotnet»", "did you mean `idempotent`?"),
        (
            "«retry»",
            "known here: `auth`, `idempotent`, `priority`, `route`, `timeout`",
        ),
        ("«auht»", "did you mean `auth`?"),
        ("auth, «auth» = \"a\"", "said twice"),
        ("auth = «\"\"»", "a scope is a word"),
        ("auth = «\"two words\"»", "a scope is a word"),
        ("auth = «admin»", "expected string literal"),
        (
            "priority = «\"high\"»",
            "`sheddable`, `normal` or `critical`",
        ),
        ("priority = «3»", "expected string literal"),
        ("«timeot» = \"1s\"", "did you mean `timeout`?"),
        ("«a::b»", "known here"),
        ("idempotent, «idempotent»", "said twice"),
        ("timeout = \"1s\", «timeout» = \"2s\"", "said twice"),
        ("route(GET, \"/a\"), «route»(PUT, \"/a\")", "said twice"),
        ("timeout = «\"soon\"»", "a time such as `500ms`"),
        ("timeout = «\"5\"»", "a time such as `500ms`"),
        ("timeout = «\"0s\"»", "longer than nothing"),
        ("timeout = «5»", "expected string literal"),
        ("route(«FETCH», \"/a\")", "verb is one of"),
        ("route(GET, «\"a\"»)", "begins with `/`"),
        ("route(GET, «\"\"»)", "begins with `/`"),
        ("route(GET, «\"/a/\"»)", "between two `/`"),
        ("route(GET, «\"/a b\"»)", "between two `/`"),
        ("route(GET, «\"/a?b=c\"»)", "between two `/`"),
        ("route(GET, «\"/../a\"»)", "between two `/`"),
        ("route(GET, «\"/a-{id}\"»)", "between two `/`"),
        ("route(GET, «\"/{id}\"»)", "has no argument `id`"),
        ("route(GET, \"/a\", «3»)", "a verb and a path"),
    ] {
        told("", &method(attribute), message);
    }
    told(
        "",
        "#[kit(idempotent)] #[kit(«idempotent»)] async fn a(&self, ctx: Context) -> Result<(), Error>;",
        "said twice",
    );
}

#[test]
fn an_argument_that_a_path_cannot_hold_is_told_at_its_token() {
    told(
        "",
        "#[kit(route(GET, \"/{id}\"))] async fn a(&self, ctx: Context, id: «Option<u32>») -> Result<(), Error>;",
        "is no `Option`",
    );
    told(
        "",
        "#[kit(route(GET, «\"/{id}/{id}\"»))] async fn a(&self, ctx: Context, id: u32) -> Result<(), Error>;",
        "stands in the path once",
    );
}

#[test]
fn two_equal_routes_are_told_at_the_second() {
    for (methods, message) in [
        (
            "#[kit(route(GET, \"/a/{id}\"))] async fn a(&self, ctx: Context, id: u32) -> Result<(), Error>;
             #[kit(route(GET, «\"/a/{no}\"»))] async fn b(&self, ctx: Context, no: u32) -> Result<(), Error>;",
            "`a` and `b` are both `GET /a/{no}`",
        ),
        (
            "async fn a(&self, ctx: Context) -> Result<(), Error>;
             #[kit(route(POST, «\"/a\"»))] async fn b(&self, ctx: Context) -> Result<(), Error>;",
            "are both `POST /a`",
        ),
        (
            "#[kit(route(GET, \"/a/{id}\"))] async fn a(&self, ctx: Context, id: u32) -> Result<(), Error>;
             #[kit(route(PUT, «\"/a/{no}\"»))] async fn b(&self, ctx: Context, no: u32) -> Result<(), Error>;",
            "one name for each argument",
        ),
        (
            "async fn get_it(&self, ctx: Context) -> Result<(), Error>;
             async fn «get__it»(&self, ctx: Context) -> Result<(), Error>;",
            "both `GetIt` in gRPC",
        ),
    ] {
        told("", methods, message);
    }
}

#[test]
fn each_misuse_of_the_attribute_of_the_trait_is_told_at_its_token() {
    for (attribute, message) in [
        ("«pakage» = \"users\"", "did you mean `package`?"),
        ("package = «\"Users\"»", "lower-case words"),
        ("package = «\"users.\"»", "lower-case words"),
        ("package = «\"\"»", "lower-case words"),
        ("package = \"a\", «package» = \"b\"", "said twice"),
        ("«transprot» = \"http\"", "did you mean `transport`?"),
        ("transport = «\"udp\"»", "`http`, `grpc` or `both`"),
        ("transport = «http»", "expected string literal"),
        ("transport = \"http\", «transport» = \"http\"", "said twice"),
    ] {
        told(attribute, "", message);
    }
    let generics = |source| {
        marked::check(source, "has no generics", |tokens| {
            methods(&parse2(tokens)?, Transport::Both).map(drop)
        });
    };
    generics("trait Users<«T»> {}");
    generics("trait Users<«'a»> {}");
    generics("trait Users «where Self: Sized» {}");
}

#[test]
fn the_trait_stays_when_it_has_mistakes() {
    let expanded = expand(
        quote!(),
        quote! {
            pub trait Users {
                #[kit(idempotent)]
                fn a(&self, ctx: Context) -> Result<(), Error>;
                async fn b(&self) -> Result<(), Error>;
            }
        },
    );
    let told = expanded.unwrap().to_string();
    assert_eq!(told.matches("compile_error").count(), 2);
    assert!(told.contains("pub trait Users"));
    assert!(!told.contains("idempotent"));
}

#[test]
fn without_http_there_are_no_routes_to_be_said_or_doubled() {
    told(
        "transport = \"grpc\"",
        "#[kit(route(GET, «\"/a\"»))] async fn a(&self, ctx: Context) -> Result<(), Error>;",
        "a service without HTTP has no routes",
    );
}

#[test]
fn a_type_of_another_module_may_have_the_name_of_the_arguments() {
    let item = syn::parse_quote! {
        pub trait Users {
            async fn create(&self, ctx: Context, r: api::CreateRequest) -> Result<(), Error>;
        }
    };
    assert_eq!(methods(&item, Transport::Both).unwrap().len(), 1);
}
