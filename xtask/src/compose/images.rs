//! Stand-ins for the public images, made from Debian's packages, for machines that cannot reach a registry.
//!
//! Each is named by a variable that docker-compose.yml reads; who sets the variable gets that image and no stand-in.
//! They stay in the engine, so a second run finds them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::docker;
use crate::{
    command::{announce, output, root, run, shown},
    debian, tools,
};

/// The suite of the public images that are stood in for.
const SUITE: &str = "bookworm";

/// An image: the variable that names it, and the stand-in's name. Change the tag with what is in it.
struct Image {
    variable: &'static str,
    stand_in: &'static str,
    make: fn(&mut Scratch, &str) -> Result<()>,
}

const IMAGES: [Image; 4] = [
    Image {
        variable: "RUNTIME_IMAGE",
        stand_in: "kit-stand-in/debian:bookworm-slim-1",
        make: runtime,
    },
    Image {
        variable: "BUILD_IMAGE",
        stand_in: "kit-stand-in/rust:1.95-slim-bookworm-1",
        make: build,
    },
    Image {
        variable: "CONSUL_IMAGE",
        stand_in: "kit-stand-in/consul:1.8-1",
        make: consul,
    },
    Image {
        variable: "PROMETHEUS_IMAGE",
        stand_in: "kit-stand-in/prometheus:2.24-1",
        make: prometheus,
    },
];

/// Makes what is missing and returns the variables for docker-compose.yml.
pub(super) fn variables() -> Result<Vec<(&'static str, String)>> {
    let mut scratch = Scratch::default();
    let mut variables = Vec::new();
    for Image {
        variable,
        stand_in,
        make,
    } in IMAGES
    {
        if let Ok(image) = env::var(variable) {
            variables.push((variable, image));
            continue;
        }
        if output(docker().args(["image", "inspect", stand_in])).is_err() {
            if !can_make()? {
                eprintln!(
                    "No stand-in for {variable} (that takes root and a Debian): the public image is pulled"
                );
                continue;
            }
            announce(&format!("Making the image {stand_in}"));
            make(&mut scratch, stand_in).with_context(|| {
                format!(
                    "{stand_in} cannot be made; set {variable} to an image that can be used instead"
                )
            })?;
        }
        variables.push((variable, stand_in.to_owned()));
    }
    Ok(variables)
}

/// Whether stand-ins can be made here. debootstrap changes its root directory, which takes root.
fn can_make() -> Result<bool> {
    let user = output(Command::new("id").arg("-u"))?;
    Ok(user.trim() == "0" && debian::available())
}

/// A directory for what is made on the way, removed at the end.
#[derive(Default)]
struct Scratch(Option<tempfile::TempDir>);

impl Scratch {
    /// A new directory in it.
    fn directory(&mut self, name: &str) -> Result<PathBuf> {
        let parent = match &mut self.0 {
            Some(parent) => parent,
            none => {
                let target = root().join("target");
                fs::create_dir_all(&target)?;
                none.insert(tempfile::tempdir_in(target)?)
            }
        };
        let directory = parent.path().join(name);
        fs::create_dir_all(&directory)?;
        Ok(directory)
    }
}

/// `debian:bookworm-slim`.
fn runtime(scratch: &mut Scratch, name: &str) -> Result<()> {
    let directory = debootstrap(scratch, "runtime", "ca-certificates")?;
    import(&directory, name, &[])
}

/// `rust:slim-bookworm`: a C compiler and the toolchain that runs this.
fn build(scratch: &mut Scratch, name: &str) -> Result<()> {
    let directory = debootstrap(scratch, "build", "ca-certificates,gcc,libc6-dev")?;
    trust_what_this_machine_trusts(&directory)?;
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let sysroot = Path::new(sysroot.trim());
    let toolchain = directory.join("usr/local/rust");
    fs::create_dir_all(toolchain.join("bin"))?;
    for part in ["bin/cargo", "bin/rustc", "lib"] {
        run(Command::new("cp")
            .arg("-a")
            .arg(sysroot.join(part))
            .arg(toolchain.join(part)))?;
    }
    let path =
        "ENV PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    import(&directory, name, &[path, "ENV CARGO_HOME=/usr/local/cargo"])
}

/// `hashicorp/consul`, with as much of its entry point as docker-compose.yml uses.
fn consul(scratch: &mut Scratch, name: &str) -> Result<()> {
    let directory = scratch.directory("consul")?;
    fs::copy(
        tools::unpacked()?.join("usr/bin/consul"),
        directory.join("consul"),
    )?;
    let dockerfile = "COPY consul /bin/consul\n\
                      RUN useradd --system consul && install -d -o consul /consul/data\n\
                      USER consul\nENTRYPOINT [\"/bin/consul\"]\n";
    on_top_of_runtime(scratch, &directory, name, dockerfile)
}

/// `prom/prometheus`, from the last suite whose package finds targets in Consul.
fn prometheus(scratch: &mut Scratch, name: &str) -> Result<()> {
    let directory = scratch.directory("prometheus")?;
    let packages = scratch.directory("packages")?;
    debian::download("bullseye", &["prometheus"], &packages)?;
    let unpacked = scratch.directory("unpacked")?;
    debian::unpack(&packages, "prometheus", &unpacked)?;
    fs::copy(
        unpacked.join("usr/bin/prometheus"),
        directory.join("prometheus"),
    )?;
    let dockerfile = "COPY prometheus /bin/prometheus\n\
                      RUN install -d -o nobody /prometheus /etc/prometheus\n\
                      USER nobody\nWORKDIR /prometheus\nENTRYPOINT [\"/bin/prometheus\"]\n";
    on_top_of_runtime(scratch, &directory, name, dockerfile)
}

fn on_top_of_runtime(
    scratch: &mut Scratch,
    directory: &Path,
    name: &str,
    dockerfile: &str,
) -> Result<()> {
    let base = IMAGES[0].stand_in;
    if output(docker().args(["image", "inspect", base])).is_err() {
        runtime(scratch, base)?;
    }
    fs::write(
        directory.join("Dockerfile"),
        format!("FROM {base}\n{dockerfile}"),
    )?;
    output(
        docker()
            .env("DOCKER_BUILDKIT", "0")
            .args(["build", "--tag", name])
            .arg(directory),
    )?;
    Ok(())
}

/// A minimal Debian with some packages more, in a directory.
fn debootstrap(scratch: &mut Scratch, name: &str, packages: &str) -> Result<PathBuf> {
    let tool = scratch.directory("debootstrap")?;
    if !tool.join("usr").exists() {
        let downloads = scratch.directory("downloads")?;
        debian::download(SUITE, &["debootstrap"], &downloads)?;
        debian::unpack(&downloads, "debootstrap", &tool)?;
    }
    let directory = scratch.directory(name)?;
    output(
        Command::new("sh")
            .arg(tool.join("usr/sbin/debootstrap"))
            .env("DEBOOTSTRAP_DIR", tool.join("usr/share/debootstrap"))
            .args(["--variant=minbase", &format!("--include={packages}"), SUITE])
            .arg(&directory)
            .arg(debian::mirror()),
    )?;
    for cache in ["var/cache/apt/archives", "var/lib/apt/lists"] {
        fs::remove_dir_all(directory.join(cache))?;
        fs::create_dir_all(directory.join(cache).join("partial"))?;
    }
    Ok(directory)
}

/// A build fetches crates; where a gateway reads along, its certificate is trusted by this machine and has to be
/// trusted in the build as well. Only in the stand-in, never in the Dockerfile.
fn trust_what_this_machine_trusts(directory: &Path) -> Result<()> {
    let Ok(certificates) = fs::read_dir("/usr/local/share/ca-certificates") else {
        return Ok(());
    };
    let to = directory.join("usr/local/share/ca-certificates");
    fs::create_dir_all(&to)?;
    for certificate in certificates {
        let certificate = certificate?;
        fs::copy(certificate.path(), to.join(certificate.file_name()))?;
    }
    output(
        Command::new("chroot")
            .arg(directory)
            .arg("update-ca-certificates"),
    )?;
    Ok(())
}

/// Makes an image with one layer from a directory.
fn import(directory: &Path, name: &str, changes: &[&str]) -> Result<()> {
    let mut tar = Command::new("tar")
        .arg("-C")
        .arg(directory)
        .args(["-c", "."])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut import = docker();
    import
        .arg("import")
        .args(changes.iter().flat_map(|change| ["--change", *change]));
    let status = import
        .args(["-", name])
        .stdin(tar.stdout.take().expect("it is piped"))
        .stdout(Stdio::null())
        .status()?;
    if !tar.wait()?.success() || !status.success() {
        bail!("{} failed ({status})", shown(&import));
    }
    Ok(())
}
