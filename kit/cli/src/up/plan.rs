//! What is to run where: pure arithmetic on ports and names, and the environment that each instance gets.

use std::{
    collections::BTreeMap,
    env, fmt,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{self, PathBuf},
    str::FromStr,
};

use anyhow::{Context, Result, bail};

use super::{Options, workspace::Service};

/// From the port of one instance of a service to that of the next.
const NEXT_INSTANCE: u32 = 10;
/// From the port of an instance to its admin port.
const ADMIN: u32 = 1000;

/// `users=3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replicas {
    service: String,
    count: u32,
}

impl FromStr for Replicas {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let split = text.split_once('=');
        let (service, count) = split.ok_or("expected SERVICE=COUNT, such as users=3")?;
        match count.parse() {
            Ok(count @ 1..) => Ok(Self {
                service: service.to_owned(),
                count,
            }),
            _ => Err(format!("{count:?} is not a number of instances")),
        }
    }
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    /// The name of the service.
    pub(crate) service: String,
    /// What it is called in logs: the service's name, with a number from the second instance on.
    pub(crate) name: String,
    /// Where it serves.
    pub(crate) listen: SocketAddr,
    /// Where it says how it is.
    pub(crate) admin: SocketAddr,
}

/// All processes, and what they have in common.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) instances: Vec<Instance>,
    /// Where they keep their data: an absolute path.
    pub(crate) data: PathBuf,
    /// The agent's address, as `http://host:port`.
    pub(crate) consul: Option<String>,
    example: Option<String>,
}

impl Plan {
    /// Works out which instances there are.
    pub(crate) fn new(services: &[Service], options: &Options) -> Result<Self> {
        let mut counts = BTreeMap::new();
        for Replicas { service, count } in &options.replicas {
            if !services.iter().any(|known| known.name == *service) {
                let known: Vec<_> = services.iter().map(|known| known.name.as_str()).collect();
                bail!(
                    "--replicas {service}={count}: there is no service {service:?}, only {}",
                    known.join(", ")
                );
            }
            counts.insert(service.as_str(), *count);
        }
        let mut instances = Vec::new();
        for service in services {
            for index in 0..counts.get(service.name.as_str()).copied().unwrap_or(1) {
                instances.push(instance(service, index, options.port_offset)?);
            }
        }
        check_distinct(&instances)?;
        Ok(Self {
            example: services
                .iter()
                .find_map(|service| example(service, &instances)),
            instances,
            data: path::absolute(&options.data)?,
            consul: options.consul.as_deref().map(with_scheme),
        })
    }

    /// What `instance` is told through its environment, beside what `kit` itself was told.
    pub(crate) fn environment(&self, instance: &Instance) -> Vec<(String, String)> {
        let mut variables = vec![
            ("KIT_SERVER__LISTEN".to_owned(), instance.listen.to_string()),
            ("KIT_SERVER__ADMIN".to_owned(), instance.admin.to_string()),
            (
                "KIT_SERVER__ADVERTISE".to_owned(),
                instance.listen.to_string(),
            ),
            ("KIT_DATA".to_owned(), self.data.display().to_string()),
        ];
        match &self.consul {
            Some(address) => {
                variables.push(("KIT_DISCOVERY__CONSUL__ADDRESS".to_owned(), address.clone()))
            }
            None => {
                // Nobody watches a registry that is not there, so nobody has to be given time to notice.
                variables.push(("KIT_SERVER__DRAIN__WATCHERS".to_owned(), "0s".to_owned()));
                let mut lists = BTreeMap::<_, Vec<_>>::new();
                for instance in &self.instances {
                    let list = lists.entry(&instance.service).or_default();
                    list.push(instance.listen.to_string());
                }
                variables.extend(lists.into_iter().map(|(service, list)| {
                    let name = format!("KIT_DISCOVERY__FIXED__{}", service.to_uppercase());
                    (name, list.join(","))
                }));
            }
        }
        variables
    }

    /// Fails, naming port and instance, if something else listens where an instance is to listen.
    pub(crate) fn check_ports(&self) -> Result<()> {
        let mut taken = Vec::new();
        for instance in &self.instances {
            for (address, role) in [(instance.listen, ""), (instance.admin, "'s admin port")] {
                match TcpListener::bind(address) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::AddrInUse => taken.push(format!(
                        "port {} is taken, and {}{role} needs it",
                        address.port(),
                        instance.name
                    )),
                    Err(error) => {
                        return Err(error).with_context(|| {
                            format!("{} cannot listen on {address}", instance.name)
                        });
                    }
                }
            }
        }
        if !taken.is_empty() {
            bail!(
                "{}\nEnd what listens there, or move all ports with --port-offset",
                taken.join("\n")
            );
        }
        Ok(())
    }

    /// What runs where, for people.
    pub(crate) fn table(&self) -> String {
        let mut table = Table(vec![[
            "INSTANCE".to_owned(),
            "JSON AND GRPC".to_owned(),
            "LIVEZ, READYZ, METRICS".to_owned(),
        ]]);
        table.0.extend(self.instances.iter().map(|instance| {
            [
                instance.name.clone(),
                format!("http://{}", instance.listen),
                format!("http://{}", instance.admin),
            ]
        }));
        let found = match &self.consul {
            Some(address) => format!("Consul at {address}"),
            None => "a fixed list".to_owned(),
        };
        let mut text = format!(
            "\n{table}\nThey find each other through {found} and keep their data in {}.\n",
            self.data.display()
        );
        if let Some(example) = &self.example {
            text += &format!("Try: {example}\n");
        }
        text
    }
}

fn instance(service: &Service, index: u32, offset: u16) -> Result<Instance> {
    let listen = u32::from(service.port) + u32::from(offset) + NEXT_INSTANCE * index;
    let at = |port: u32| match u16::try_from(port) {
        Ok(port) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        Err(_) => bail!(
            "instance {} of {} would need port {port}",
            index + 1,
            service.name
        ),
    };
    Ok(Instance {
        service: service.name.clone(),
        name: match index {
            0 => service.name.clone(),
            _ => format!("{}-{}", service.name, index + 1),
        },
        listen: at(listen)?,
        admin: at(listen + ADMIN)?,
    })
}

fn check_distinct(instances: &[Instance]) -> Result<()> {
    let mut owners = BTreeMap::new();
    for instance in instances {
        for port in [instance.listen.port(), instance.admin.port()] {
            if let Some(other) = owners.insert(port, &instance.name) {
                bail!("{other} and {} would both need port {port}", instance.name);
            }
        }
    }
    Ok(())
}

fn example(service: &Service, instances: &[Instance]) -> Option<String> {
    let example = service.example.as_ref()?;
    let first = instances
        .iter()
        .find(|instance| instance.service == service.name)?;
    Some(format!(
        "curl -XPOST http://localhost:{}{} -d '{}'",
        first.listen.port(),
        example.path,
        example.json
    ))
}

fn with_scheme(address: &str) -> String {
    let address = address.trim_end_matches('/');
    match address.contains("://") {
        true => address.to_owned(),
        false => format!("http://{address}"),
    }
}

/// Columns that line up.
struct Table(Vec<[String; 3]>);

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| self.0.iter().map(|row| row[column].len()).max();
        let (first, second) = (width(0).unwrap_or(0), width(1).unwrap_or(0));
        for [a, b, c] in &self.0 {
            writeln!(f, "{a:first$}  {b:second$}  {c}")?;
        }
        Ok(())
    }
}

/// Whether colours are wanted on a terminal (<https://no-color.org>).
pub(crate) fn wants_colour() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services() -> Vec<Service> {
        let service = |name: &str, port| Service {
            name: name.to_owned(),
            port,
            example: None,
        };
        vec![service("users", 8800), service("bugs", 8802)]
    }

    fn plan(replicas: &[&str], consul: Option<&str>) -> Result<Plan> {
        let options = Options {
            replicas: replicas.iter().map(|text| text.parse().unwrap()).collect(),
            data: "data".into(),
            consul: consul.map(str::to_owned),
            release: false,
            port_offset: 0,
        };
        Plan::new(&services(), &options)
    }

    fn told(plan: &Plan, instance: usize, name: &str) -> Option<String> {
        let variables = plan.environment(&plan.instances[instance]);
        variables
            .into_iter()
            .find_map(|(each, value)| (each == name).then_some(value))
    }

    #[test]
    fn a_further_instance_listens_ten_ports_on_and_its_admin_port_a_thousand() {
        let plan = plan(&["users=2"], None).unwrap();
        let ports: Vec<_> = plan
            .instances
            .iter()
            .map(|each| (each.name.as_str(), each.listen.port(), each.admin.port()))
            .collect();
        let expected = [
            ("users", 8800, 9800),
            ("users-2", 8810, 9810),
            ("bugs", 8802, 9802),
        ];
        assert_eq!(ports, expected);
        assert_eq!(
            told(&plan, 2, "KIT_DISCOVERY__FIXED__USERS").as_deref(),
            Some("127.0.0.1:8800,127.0.0.1:8810")
        );
        assert_eq!(told(&plan, 0, "KIT_DISCOVERY__CONSUL__ADDRESS"), None);
    }

    #[test]
    fn with_consul_nobody_gets_a_list() {
        let plan = plan(&[], Some("127.0.0.1:8500/")).unwrap();
        assert_eq!(
            told(&plan, 0, "KIT_DISCOVERY__CONSUL__ADDRESS").as_deref(),
            Some("http://127.0.0.1:8500")
        );
        assert_eq!(told(&plan, 0, "KIT_DISCOVERY__FIXED__USERS"), None);
    }

    #[test]
    fn what_cannot_run_is_refused_with_the_reason() {
        let error = |replicas| plan(replicas, None).unwrap_err().to_string();
        assert_eq!(
            error(&["user=2"]),
            "--replicas user=2: there is no service \"user\", only users, bugs"
        );
        assert_eq!(
            error(&["users=101"]),
            "users and users-101 would both need port 9800"
        );
        assert_eq!(
            error(&["bugs=6000"]),
            "instance 5575 of bugs would need port 65542"
        );
        for wrong in ["users", "users=", "users=0", "users=many"] {
            assert!(wrong.parse::<Replicas>().is_err(), "{wrong}");
        }
    }
}
