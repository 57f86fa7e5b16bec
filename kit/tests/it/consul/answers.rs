//! An agent whose answers are late, broken or wrong: a real one behind a proxy that spoils them.

use std::sync::Mutex;

use kit::discovery::View;
use tokio::{net::TcpStream, task::JoinSet, time::sleep};

use super::*;

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// It comes so much later.
    Late(Duration),
    /// It never comes.
    Silence,
    /// The connection breaks in the middle of the body.
    Truncated,
    /// Another body comes in its place.
    Body(&'static str),
    /// A body comes that does not end.
    Endless,
    /// Another status comes, with a page for people.
    Status(&'static str),
    /// No HTTP comes at all.
    Noise,
    /// The index is another one, or, where it is empty, is missing.
    Index(&'static str),
}

/// Passes requests on to an agent, one for each connection, and spoils the answers.
struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    _task: JoinSet<()>,
}

struct State {
    agent: String,
    fault: Mutex<Fault>,
    questions: AtomicUsize,
    /// Dropped, they break all connections.
    connections: Mutex<JoinSet<()>>,
}

impl Proxy {
    async fn listen(agent: &Agent) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            agent: agent.address().trim_start_matches("http://").to_owned(),
            fault: Mutex::new(Fault::None),
            questions: AtomicUsize::new(0),
            connections: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let state = Arc::clone(&shared);
                let mut connections = shared.connections.lock().unwrap();
                while connections.try_join_next().is_some() {}
                connections.spawn(async move {
                    // Whoever is gone hears no answer.
                    let _ = state.answer(stream).await;
                });
            }
        });
        Self {
            address,
            state,
            _task: task,
        }
    }

    /// From now on, also for the questions that wait.
    fn set(&self, fault: Fault) {
        *self.state.fault.lock().unwrap() = fault;
        self.state.connections.lock().unwrap().abort_all();
    }

    fn questions(&self) -> usize {
        self.state.questions.load(SeqCst)
    }
}

fn is_whole(request: &[u8]) -> bool {
    let request = String::from_utf8_lossy(request);
    let Some((head, body)) = request.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}

impl State {
    async fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut request = Vec::new();
        while !is_whole(&request) {
            if stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        self.questions.fetch_add(1, SeqCst);
        let fault = *self.fault.lock().unwrap();
        let request = String::from_utf8(request).unwrap();
        // Version 1.0, so that the answer comes in one piece and ends with its connection.
        let request = request.replacen("HTTP/1.1", "HTTP/1.0", 1);
        let mut agent = TcpStream::connect(&self.agent).await?;
        agent.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        agent.read_to_string(&mut answer).await?;
        let Some((head, body)) = answer.split_once("\r\n\r\n") else {
            // Agents reset connections that are too many.
            return Ok(());
        };
        let kept: Vec<_> = head
            .lines()
            .skip(1)
            .filter(|line| !line.to_lowercase().starts_with("content-length"))
            .filter(|line| {
                !matches!(fault, Fault::Index(_))
                    || !line.to_lowercase().starts_with("x-consul-index")
            })
            .collect();
        let mut status = head
            .lines()
            .next()
            .unwrap()
            .replacen("HTTP/1.0", "HTTP/1.1", 1);
        let mut kept = kept.join("\r\n");
        let mut body = body.to_owned();
        let mut length = body.len();
        match fault {
            Fault::None => {}
            Fault::Late(delay) => sleep(delay).await,
            Fault::Silence => std::future::pending().await,
            Fault::Truncated => body.truncate(length / 2),
            Fault::Body(other) => {
                body = other.to_owned();
                length = body.len();
            }
            Fault::Endless => length = usize::MAX / 2,
            Fault::Status(other) => {
                status = format!("HTTP/1.1 {other}");
                body = "<html><body>".to_owned() + &"sorry ".repeat(1000);
                length = body.len();
            }
            Fault::Noise => return stream.write_all(b"\0\x16\x03 what?\r\n\r\n").await,
            Fault::Index("") => {}
            Fault::Index(index) => kept += &format!("\r\nX-Consul-Index: {index}"),
        }
        let head =
            format!("{status}\r\n{kept}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        if fault == Fault::Endless {
            let spaces = vec![b' '; 1 << 20];
            loop {
                stream.write_all(&spaces).await?;
            }
        }
        stream.write_all(body.as_bytes()).await
    }
}

/// A service that is followed through a proxy. What is registered goes to the agent itself.
struct Spoilt {
    world: World,
    direct: Consul,
    proxy: Proxy,
    watch: Watch,
}

impl Spoilt {
    async fn new(wait: Duration) -> Self {
        let agent = Agent::start().await;
        let proxy = Proxy::listen(&agent).await;
        let direct = ConsulConfig {
            address: agent.address().parse().unwrap(),
            ..ConsulConfig::default()
        };
        let direct = Consul::new(direct, nobody()).unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let config = ConsulConfig {
            address: format!("http://{}", proxy.address).parse().unwrap(),
            wait,
            ..ConsulConfig::default()
        };
        let consul = Consul::new(config, Arc::new(Names(sender.clone()))).unwrap();
        let watch = consul.watch(&users());
        Self {
            world: World {
                agent,
                consul,
                sender,
                events,
            },
            direct,
            proxy,
            watch,
        }
    }

    fn register(&self, healthy: &Healthy, id: &str) -> Registered {
        self.direct.registration(healthy.instance(id)).start()
    }
}

const LONG: Duration = Duration::from_secs(300);

#[tokio::test]
async fn garbage_leaves_the_set_as_it_is_until_an_answer_can_be_read_again() {
    // A question that waits meets the fault when its wait is over.
    let mut spoilt = Spoilt::new(Duration::from_secs(1)).await;
    let [first, second] = [Healthy::listen().await, Healthy::listen().await];
    let _first = spoilt.register(&first, "users-1");
    let mut expected = until(&mut spoilt.watch, 1).await;
    let mut registered = None;
    for fault in [
        Fault::Truncated,
        Fault::Body(""),
        Fault::Body("null"),
        Fault::Body("{}"),
        Fault::Body("[[]]"),
        Fault::Body("[{\"Node\": null}]"),
        Fault::Body("<html>"),
        Fault::Body("[}\u{0}"),
        Fault::Endless,
        Fault::Status("500 Oops"),
        Fault::Status("429 Slow Down"),
        Fault::Status("302 Found"),
        Fault::Status("204 No Content"),
        Fault::Noise,
    ] {
        spoilt.proxy.set(fault);
        // One that had begun before may be heard of first.
        for _ in 0..2 {
            spoilt.world.event("DiscoveryFailed").await;
        }
        // Meanwhile the truth changes.
        match registered.take() {
            None => registered = Some(spoilt.register(&second, "users-2")),
            Some(second) => Registered::deregister(second).await.unwrap(),
        }
        spoilt.world.event("DiscoveryFailed").await;
        assert_eq!(spoilt.watch.see().as_ref(), Some(&expected), "{fault:?}");
        spoilt.proxy.set(Fault::None);
        let count = 1 + usize::from(registered.is_some());
        expected = until(&mut spoilt.watch, count).await;
    }
}

#[tokio::test]
async fn a_wrong_index_hides_no_change_and_makes_nobody_ask_in_a_circle() {
    for index in [
        "",
        "0",
        "1",
        "-7",
        "many",
        "18446744073709551615",
        "99999999999999999999",
    ] {
        // Wrong as it is, an index may be beyond the agent's own, so that only the end of the wait shows the change.
        let mut spoilt = Spoilt::new(Duration::from_secs(1)).await;
        let [first, second] = [Healthy::listen().await, Healthy::listen().await];
        let _first = spoilt.register(&first, "users-1");
        until(&mut spoilt.watch, 1).await;
        spoilt.proxy.set(Fault::Index(index));
        let (before, since) = (spoilt.proxy.questions(), tokio::time::Instant::now());
        let _second = spoilt.register(&second, "users-2");
        until(&mut spoilt.watch, 2).await;
        sleep(Duration::from_secs(3)).await;
        // Three at once, then one look and one question that waits every half a second.
        let most = 2.0 * (3.0 + since.elapsed().as_secs_f64() * 2.0) + 2.0;
        let questions = spoilt.proxy.questions() - before;
        assert!(questions as f64 <= most, "{index:?}: {questions} questions");
    }
}

#[tokio::test]
async fn a_slow_agent_is_followed_as_fast_as_it_answers() {
    let mut spoilt = Spoilt::new(LONG).await;
    spoilt.proxy.set(Fault::Late(Duration::from_millis(700)));
    let [first, second] = [Healthy::listen().await, Healthy::listen().await];
    let _first = spoilt.register(&first, "users-1");
    until(&mut spoilt.watch, 1).await;
    let second = spoilt.register(&second, "users-2");
    until(&mut spoilt.watch, 2).await;
    second.deregister().await.unwrap();
    until(&mut spoilt.watch, 1).await;
}

#[tokio::test]
async fn an_agent_that_falls_silent_is_given_up_in_time_and_asked_again() {
    let mut spoilt = Spoilt::new(Duration::from_secs(1)).await;
    let [first, second] = [Healthy::listen().await, Healthy::listen().await];
    let _first = spoilt.register(&first, "users-1");
    let before = until(&mut spoilt.watch, 1).await;
    *spoilt.proxy.state.fault.lock().unwrap() = Fault::Silence;
    // No connection breaks: only the clock tells.
    spoilt.world.event("DiscoveryFailed").await;
    assert_eq!(spoilt.watch.see(), Some(before));
    let _second = spoilt.register(&second, "users-2");
    spoilt.proxy.set(Fault::None);
    until(&mut spoilt.watch, 2).await;
}

/// Which services are followed, beside a value.
const FOLLOWED: usize = 8;

/// How long it takes after a trouble of this kind, which has lasted long, until all that is followed is as it is.
async fn recovery(fault: Fault) -> Duration {
    let spoilt = Spoilt::new(Duration::from_secs(1)).await;
    let agent = &spoilt.world.agent;
    let register = async |number: usize, id: usize| {
        let body = format!(
            r#"{{"Name": "service-{number}", "ID": "service-{number}-{id}", "Address": "127.0.0.1", "Port": 1}}"#
        );
        agent
            .put_with("/v1/agent/service/register", &body)
            .await
            .unwrap();
    };
    let mut watches = Vec::new();
    for number in 0..FOLLOWED {
        register(number, 0).await;
        let name = format!("service-{number}").parse().unwrap();
        watches.push(spoilt.world.consul.watch(&name));
        until(&mut watches[number], 1).await;
    }
    let mut view = View::new(spoilt.world.consul.key_value(), "kit/x", 0, nobody());
    spoilt.proxy.set(fault);
    // By now each would sleep for a quarter of a minute or more by himself.
    sleep(Duration::from_secs(15)).await;
    for number in 0..FOLLOWED {
        register(number, 1).await;
    }
    agent.put_with("/v1/kv/kit/x", "7").await.unwrap();
    let healed = tokio::time::Instant::now();
    spoilt.proxy.set(Fault::None);
    for watch in &mut watches {
        until(watch, 2).await;
    }
    while *view.get() != 7 {
        view.changed().await;
    }
    healed.elapsed()
}

#[tokio::test]
async fn after_a_long_trouble_of_any_kind_all_that_is_followed_is_as_it_is_within_two_seconds() {
    let kinds = [
        Fault::Body("{}"),
        Fault::Status("403 Forbidden"),
        Fault::Status("429 Slow Down"),
        Fault::Status("500 No cluster leader"),
        Fault::Noise,
    ];
    let mut troubles = JoinSet::new();
    for fault in kinds {
        troubles.spawn(async move { (fault, recovery(fault).await) });
    }
    while let Some(trouble) = troubles.join_next().await {
        let (fault, took) = trouble.unwrap();
        println!("{fault:?}: {took:?}");
        // Two on a machine that has nothing else to do.
        assert!(took < Duration::from_secs(4), "{fault:?}: {took:?}");
    }
}

#[tokio::test]
async fn those_without_a_question_of_their_own_know_that_nothing_has_changed_without_a_look() {
    const SERVICES: usize = 20;
    let agent = Agent::start().await;
    let proxy = Proxy::listen(&agent).await;
    for number in 0..SERVICES {
        let body = format!(r#"{{"Name": "still-{number}", "Address": "127.0.0.1", "Port": 1}}"#);
        let answer = agent.send("PUT", "/v1/agent/service/register", "", &body);
        assert_eq!(answer.await.unwrap(), "");
    }
    let (sender, mut events) = mpsc::unbounded_channel();
    let config = ConsulConfig {
        address: format!("http://{}", proxy.address).parse().unwrap(),
        wait: Duration::from_secs(1),
        max_waiting: 1,
        ..ConsulConfig::default()
    };
    let consul = Consul::new(config, Arc::new(Names(sender))).unwrap();
    let mut watches: Vec<_> = (0..SERVICES)
        .map(|number| consul.watch(&format!("still-{number}").parse().unwrap()))
        .collect();
    for watch in &mut watches {
        until(watch, 1).await;
    }
    // What the agent does by itself at its start is over.
    sleep(Duration::from_secs(3)).await;
    while events.try_recv().is_ok() {}
    let (before, mut confirmed) = (proxy.questions(), 0);
    while confirmed < 5 * SERVICES {
        let event = timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
        confirmed += usize::from(event == "EndpointsConfirmed");
    }
    // One of the service that has a place, and two of the tide, in as many rounds.
    let questions = proxy.questions() - before;
    assert!(questions <= confirmed / 2, "{questions} for {confirmed}");
    // And still they see a change.
    let last = watches.last_mut().unwrap();
    let body = format!(
        r#"{{"Name": "still-{}", "ID": "new", "Address": "127.0.0.1", "Port": 2}}"#,
        SERVICES - 1
    );
    let answer = agent.send("PUT", "/v1/agent/service/register", "", &body);
    assert_eq!(answer.await.unwrap(), "");
    until(last, 2).await;
}
