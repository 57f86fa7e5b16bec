//! Ports, containers and manifests of the services of a workspace, told without building anything.

use yaml_rust2::{Yaml, YamlLoader};

use crate::user::User;

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
