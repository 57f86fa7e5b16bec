//! `kit new service NAME`: a folder with a trait that has no methods yet, and a workspace around it if there is none.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};

use crate::{
    edit::{Changes, Mode},
    generate::Transport,
    names::Name,
    project::{ADMIN, Project},
    template::fill,
};

/// What to make.
#[derive(Debug, Subcommand)]
pub(crate) enum Options {
    /// Makes a service: its folder, its manifest, and a trait without methods
    #[command(visible_alias = "s")]
    Service(Service),
}

#[derive(Args, Debug)]
pub(crate) struct Service {
    /// Its name: a-z, 0-9 and single dashes
    name: Name,
    /// Where the toolkit is: a folder, or the URL of a git repository, with `#branch=B`, `#tag=T` or `#rev=R` if need
    /// be. After a mere `#`, digits such as 47a9a44 are a revision, what looks like v1.2 is a tag, all else a branch.
    /// Default: what the workspace has, else the folder that this program was built from
    #[arg(long, value_name = "PATH|URL")]
    kit: Option<String>,
    /// What it is offered over
    #[arg(long, short, value_enum, default_value = "both")]
    transport: Transport,
    #[arg(long, help = "Shows what would be written, and writes nothing")]
    dry_run: bool,
}

/// What a service is built with, and the version where the workspace does not say one.
const DEPENDENCIES: &[(&str, &str)] = &[
    ("anyhow", r#""1""#),
    ("kit", ""),
    ("serde", r#"{ version = "1", features = ["derive"] }"#),
    (
        "tokio",
        r#"{ version = "1", features = ["macros", "rt-multi-thread"] }"#,
    ),
    ("tower", r#""0.5""#),
    ("tracing", r#""0.1""#),
];
/// What a package takes from its workspace, and what it says where the workspace does not.
const PACKAGE: &[(&str, &str)] = &[
    ("version", r#""0.1.0""#),
    ("edition", r#""2024""#),
    ("rust-version", ""),
    ("license", ""),
    ("publish", "false"),
];

/// Makes it.
pub(crate) fn run(options: Options) -> Result<ExitCode> {
    let Options::Service(options) = options;
    let name = options.name.clone();
    let (project, root) = match Project::find()? {
        Some(project) => (Some(project), None),
        None => (None, Some(env::current_dir()?)),
    };
    let mut changes;
    let project = match (project, root) {
        (Some(project), _) => {
            if let Some(kit) = &options.kit {
                no_other_toolkit(&project, kit)?;
            }
            changes = Changes::new(&project.root);
            project
        }
        (None, root) => {
            let root = root.expect("there is one or the other");
            changes = Changes::new(&root);
            workspace(&mut changes, root, options.kit.as_deref())?
        }
    };
    let folder = project.root.join("services").join(name.as_str());
    ensure!(
        !fs::exists(&folder)?,
        "{} exists already; `kit generate service {}` adds to a service",
        changes.show(&folder),
        name.as_str()
    );
    let port = project.free_port()?;
    service(&mut changes, &project, &folder, &name, port, &options)?;
    let is_member = project.include(&mut changes, "services", &name)?;
    let mode = Mode {
        dry_run: options.dry_run,
        check: false,
    };
    let code = changes.finish(mode)?;
    if !options.dry_run {
        if !is_member {
            println!(
                "\nFirst add \"services/{}\" to `members` in Cargo.toml.",
                name.as_str()
            );
        }
        println!(
            "\n{0} will listen on port {port}. Next:\n  \
             1. add a method to the trait in services/{0}/src/api.rs, such as\n     \
             async fn create(&self, ctx: Context, email: String) -> Result<(), Error>;\n  \
             2. kit generate service {0}\n  \
             3. write what it does, where services/{0}/src/{1}.rs says so\n  \
             4. kit up",
            name.as_str(),
            name.snake()
        );
    }
    Ok(code)
}

/// A new workspace at `root`.
fn workspace(changes: &mut Changes, root: PathBuf, kit: Option<&str>) -> Result<Project> {
    let kit = dependency(kit)?;
    let text = fill(
        include_str!("../templates/workspace/Cargo.toml"),
        &[("kit", &format!("kit = {}", kit.toml))],
    );
    let manifest = text.parse().context("the template is a manifest")?;
    changes.create(&root.join("Cargo.toml"), text)?;
    changes.create(
        &root.join(".gitignore"),
        include_str!("../templates/workspace/gitignore").to_owned(),
    )?;
    // The versions with which the toolkit was tested. cargo drops what is not needed.
    if let Some(lock) = kit.lock {
        changes.create(&root.join("Cargo.lock"), lock)?;
    }
    Ok(Project {
        root,
        manifest,
        services: Vec::new(),
    })
}

fn service(
    changes: &mut Changes,
    project: &Project,
    folder: &Path,
    name: &Name,
    port: u16,
    options: &Service,
) -> Result<()> {
    // Only looked for where the workspace does not say.
    let toolkit = match project.shares("dependencies", "kit") {
        true => String::new(),
        false => dependency(options.kit.as_deref())?.toml,
    };
    let mut manifest = fill(
        include_str!("../templates/service/Cargo.toml"),
        &[
            ("package", &package_lines(project)),
            (
                "dependencies",
                &dependency_lines(project, DEPENDENCIES, &toolkit),
            ),
            ("name", name.as_str()),
            ("port", &port.to_string()),
        ],
    );
    if project.manifest["workspace"].get("lints").is_some() {
        manifest += "\n[lints]\nworkspace = true\n";
    }
    let port_text = port.to_string();
    let admin = (port + ADMIN).to_string();
    let camel = name.camel();
    let settings = match options.transport {
        Transport::Both => String::new(),
        one => format!("(transport = \"{}\")", one.as_str()),
    };
    let values = [
        ("settings", &*settings),
        ("name", name.as_str()),
        ("Trait", &*camel),
        ("port", &*port_text),
        ("admin", &*admin),
    ];
    changes.create(&folder.join("Cargo.toml"), manifest)?;
    for (path, template) in [
        (
            "config.toml",
            include_str!("../templates/service/config.toml"),
        ),
        ("src/api.rs", include_str!("../templates/service/api.rs")),
        ("src/lib.rs", include_str!("../templates/service/lib.rs")),
    ] {
        changes.create(&folder.join(path), fill(template, &values))?;
    }
    Ok(())
}

/// What a package says of itself, as lines.
pub(crate) fn package_lines(project: &Project) -> String {
    let mut lines = Vec::new();
    for (key, otherwise) in PACKAGE {
        match project.shares("package", key) {
            true => lines.push(format!("{key}.workspace = true")),
            false if otherwise.is_empty() => {}
            false => lines.push(format!("{key} = {otherwise}")),
        }
    }
    lines.join("\n")
}

/// Dependencies, as lines: from the workspace where it has them, else as `list` and `kit` say.
pub(crate) fn dependency_lines(project: &Project, list: &[(&str, &str)], kit: &str) -> String {
    let line = |(name, version): &(&str, &str)| match (project.shares("dependencies", name), *name)
    {
        (true, _) => format!("{name}.workspace = true"),
        (false, "kit") => format!("kit = {kit}"),
        (false, _) => format!("{name} = {version}"),
    };
    list.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// How a manifest names the toolkit.
struct Dependency {
    toml: String,
    /// The lock file beside it.
    lock: Option<String>,
}

/// What cargo calls this word of git. A branch that looks like something else is said with `#branch=`.
fn kind_of_reference(word: &str) -> &'static str {
    let is_revision = word.len() >= 7 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let version = word.strip_prefix('v').unwrap_or(word);
    let is_version = version.starts_with(|c: char| c.is_ascii_digit()) && version.contains('.');
    match (is_revision, is_version) {
        (true, _) => "rev",
        (_, true) => "tag",
        _ => "branch",
    }
}

/// Refuses `--kit` where the workspace says already where the toolkit is, and that is not the same.
fn no_other_toolkit(project: &Project, kit: &str) -> Result<()> {
    let dependencies = project.manifest["workspace"].get("dependencies");
    let Some(known) = dependencies.and_then(|dependencies| dependencies.get("kit")) else {
        return Ok(());
    };
    let asked: toml::Table = format!("kit = {}", dependency(Some(kit))?.toml).parse()?;
    let folder = |kit: &toml::Value| {
        let path = project.root.join(kit.get("path")?.as_str()?);
        fs::canonicalize(path).ok()
    };
    let is_same = match folder(known) {
        Some(known) => folder(&asked["kit"]) == Some(known),
        None => asked["kit"] == *known,
    };
    ensure!(
        is_same,
        "--kit would be ignored: {} says `kit = {known}` for all services; change it there",
        project.root.join("Cargo.toml").display()
    );
    Ok(())
}

fn dependency(kit: Option<&str>) -> Result<Dependency> {
    let folder = match kit {
        Some(url) if url.contains("://") || url.starts_with("git@") => {
            let (url, at) = url.split_once('#').unwrap_or((url, ""));
            let at = match at.split_once('=') {
                _ if at.is_empty() => String::new(),
                Some((key @ ("branch" | "tag" | "rev"), value)) => format!(", {key} = {value:?}"),
                _ => format!(", {} = {at:?}", kind_of_reference(at)),
            };
            return Ok(Dependency {
                toml: format!("{{ git = \"{url}\"{at} }}"),
                lock: None,
            });
        }
        Some(path) => PathBuf::from(path),
        None => {
            let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
            // What cargo has checked out for itself it also tidies away.
            let is_kept = built_from.exists() && !built_from.iter().any(|word| word == "checkouts");
            ensure!(
                is_kept,
                "where is the toolkit? Say it with --kit: the folder of its repository, or its URL"
            );
            built_from
        }
    };
    let folder = fs::canonicalize(&folder)
        .with_context(|| format!("there is no folder {}", folder.display()))?;
    let inner = match folder.join("kit/macros").exists() {
        true => folder.join("kit"),
        false => folder.clone(),
    };
    ensure!(
        inner.join("macros/Cargo.toml").exists(),
        "{} is not the toolkit's repository",
        folder.display()
    );
    let lock = inner.parent().map(|root| root.join("Cargo.lock"));
    Ok(Dependency {
        toml: format!("{{ path = {:?} }}", inner.display().to_string()),
        lock: lock.and_then(|path| fs::read_to_string(path).ok()),
    })
}
