//! Real component ports (XEP-0114), of Prosody and ejabberd, in the router's place: both read with
//! libexpat, and both end the link over one stanza that they cannot read.
//!
//! Needs both servers, so `make test` runs it (with `--ignored`), a plain `cargo test` does not.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use data_encoding::HEXLOWER;
use rstest::rstest;
use tokio::net::TcpStream;
use xmpp_federation_core::edge_status::LinkState;

use crate::hostile::names::{NAMES, is_refused, stanzas};

use crate::support::{COMPONENT, Lab, PATIENCE, Peer, Router, Speaker, attribute, config, live};

const SECRET: &str = "router-secret";
/// A larger stanza ends the link.
const MOST: usize = 20_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Prosody,
    Ejabberd,
}

/// A server with two components: the edge's, and that of the hosted domain, whose end is the test's.
struct Server {
    process: Child,
    dir: PathBuf,
    port: u16,
    /// The hosted domain's.
    other_port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Server {
    async fn start(kind: Kind) -> Self {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (one, two) = (free(), free());
        let port = one.local_addr().unwrap().port();
        let other_port = match kind {
            Kind::Prosody => port,
            Kind::Ejabberd => two.local_addr().unwrap().port(),
        };
        drop((one, two));
        let dir = std::env::temp_dir().join(format!("edge-components-{}-{port}", std::process::id()));
        std::fs::create_dir_all(dir.join("data")).unwrap();
        let at = |name: &str| dir.join(name).display().to_string();
        let mut command = match kind {
            Kind::Prosody => {
                let (pid, data, log) = (at("pid"), at("data"), at("log"));
                let text = format!(
                    "run_as_root = true\npidfile = '{pid}'\ndata_path = '{data}'\n\
                     log = {{ {{ levels = {{ min = 'debug' }}, to = 'file', filename = '{log}' }} }}\n\
                     modules_enabled = {{}}\nmodules_disabled = {{ 's2s', 'c2s', 'http', 'offline' }}\n\
                     component_ports = {{ {port} }}\ncomponent_interfaces = {{ '127.0.0.1' }}\n\
                     component_stanza_size_limit = {MOST}\n\
                     VirtualHost 'localhost'\n\
                     Component '{COMPONENT}'\n component_secret = '{SECRET}'\n\
                     \x20validate_from_addresses = false\n\
                     Component 'coluc.com'\n component_secret = '{SECRET}'\n"
                );
                std::fs::write(dir.join("prosody.cfg.lua"), text).unwrap();
                let mut command = Command::new("lua5.4");
                let file = at("prosody.cfg.lua");
                command.args(["/usr/bin/prosody", "-F", "--config", &file]);
                command
            }
            Kind::Ejabberd => {
                // JSON is YAML.
                let component = |name: &str, port: u16| {
                    serde_json::json!({
                        "port": port, "ip": "127.0.0.1", "module": "ejabberd_service",
                        "check_from": false, "max_stanza_size": MOST,
                        "hosts": {name: {"password": SECRET}},
                    })
                };
                let text = serde_json::json!({
                    "loglevel": "info",
                    "hosts": ["localhost"],
                    // Whoever connects to a port speaks for all of its hosts.
                    "listen": [component(COMPONENT, port), component("coluc.com", other_port)],
                    "modules": {},
                });
                std::fs::write(dir.join("ejabberd.yml"), text.to_string()).unwrap();
                let mut command = Command::new("erl");
                command
                    .env("ERL_LIBS", "/usr/lib/x86_64-linux-gnu")
                    .env("EJABBERD_CONFIG_PATH", at("ejabberd.yml"))
                    .env("EJABBERD_LOG_PATH", at("log"))
                    .env("ERL_CRASH_DUMP_BYTES", "0")
                    .env("HOME", &dir)
                    .args(["-noinput", "-mnesia", "dir"])
                    .arg(format!("\"{}\"", at("data")))
                    .args(["-s", "ejabberd"]);
                command
            }
        };
        let quiet = || Stdio::from(std::fs::File::create(dir.join("output")).unwrap());
        let process = command.stdout(quiet()).stderr(quiet()).spawn().unwrap();
        let server = Self {
            process,
            dir,
            port,
            other_port,
        };
        for _ in 0..600 {
            let listens = async |port| TcpStream::connect(("127.0.0.1", port)).await.is_ok();
            if listens(port).await && listens(other_port).await {
                return server;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let log = std::fs::read_to_string(server.dir.join("log"));
        panic!("{kind:?} does not listen: {log:?}");
    }

    /// A component of its own, up.
    async fn component(&self, name: &str) -> Speaker {
        let port = if name == COMPONENT { self.port } else { self.other_port };
        let mut speaker = Speaker::connect(([127, 0, 0, 1], port).into()).await;
        speaker
            .say(&format!(
                "<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' \
                 xmlns:stream='http://etherx.jabber.org/streams' to='{name}'>"
            ))
            .await;
        let header = speaker.hear("<stream:stream").await + &speaker.hear(">").await;
        let id = header.split(" id=").nth(1).unwrap();
        let id = id[1..].split(['\'', '"']).next().unwrap();
        let key = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{id}{SECRET}").as_bytes());
        let key = HEXLOWER.encode(key.as_ref());
        speaker.say(&format!("<handshake>{key}</handshake>")).await;
        speaker.hear("handshake").await;
        speaker
    }

    /// An edge that is linked to this server, and a partner of it.
    async fn edge(&self) -> (Lab, Peer) {
        let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
        let mut config = config(&[&peer], &[&router]);
        let address = format!("127.0.0.1:{}", self.port);
        config.routers[0].endpoints[0].address = address.parse().unwrap();
        let lab = Lab::start(live(config));
        lab.until("the link is up", |lab| {
            let links = lab.edge.registry.links();
            links.first().is_some_and(|link| link.state == LinkState::Up)
        })
        .await;
        (lab, peer)
    }
}

/// The component of the hosted domain hears the next stanza that is not from the edge itself.
async fn arrives(alice: &mut Speaker, id: &str) {
    let heard = alice.hear(&format!("id='{id}'")).await;
    assert!(!heard.contains("not-well-formed"), "{heard}");
}

#[rstest]
#[case(Kind::Prosody)]
#[case(Kind::Ejabberd)]
#[tokio::test]
#[ignore = "needs Prosody and ejabberd: make test runs it"]
async fn names_that_only_one_edition_of_xml_allows_reach_no_real_component_port(#[case] kind: Kind) {
    let server = Server::start(kind).await;
    // What such a stanza does to a link.
    for name in ["\u{132}", "\u{2070}", "\u{10000}"] {
        let mut raw = server.component(COMPONENT).await;
        raw.say(&format!(
            "<message from='bob@vngtp.lab' to='alice@coluc.com'><a{name}/></message>"
        ))
        .await;
        let end = raw.hear_end().await;
        assert!(end.contains("not-well-formed"), "{name:?}: {end}");
    }
    let mut alice = server.component("coluc.com").await;
    let (lab, peer) = server.edge().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let since = lab.edge.registry.links()[0].since.clone();
    let mut back = None;
    let namespace = "<message from='bob@vngtp.lab' to='alice@coluc.com' id='n'><a xmlns='u:&#10;a'/></message>";
    // Each user has a rate of refused stanzas.
    let odd = NAMES.into_iter().enumerate().map(|(n, name)| {
        let from = format!("bob{n}@vngtp.lab");
        (stanzas(&from, "alice@coluc.com", name), from)
    });
    let odd = odd.chain([(vec![namespace.to_owned()], "bob@vngtp.lab".to_owned())]);
    for (n, (stanzas, from)) in odd.enumerate() {
        for stanza in stanzas {
            bob.say(&stanza).await;
            let answer = peer.accepted(&mut back).await.hear("</message>").await;
            is_refused(&answer, &from);
        }
        bob.say(&format!(
            "<message from='bob@vngtp.lab' to='alice@coluc.com' id='after-{n}'><body>x</body></message>"
        ))
        .await;
        arrives(&mut alice, &format!("after-{n}")).await;
    }
    // Names of both editions, and namespaces of any URI, pass.
    bob.say(
        "<message from='bob@vngtp.lab' to='alice@coluc.com' id='fine'>\
         <\u{fc}\u{20d0}:\u{4e00} xmlns:\u{fc}\u{20d0}='u:\u{132}?a=b#c' \u{e9}='\u{10000}'/>\
         <a xmlns=\"u:'&amp;a\" xmlns:p=\"u:'&amp;p\" p:b='1'/></message>",
    )
    .await;
    arrives(&mut alice, "fine").await;
    assert_eq!(lab.edge.registry.links()[0].since, since, "another link");
    lab.counts("link_failures_total{state=\"failed\"}", 0);
}

#[rstest]
#[case(Kind::Prosody)]
#[case(Kind::Ejabberd)]
#[tokio::test]
#[ignore = "needs Prosody and ejabberd: make test runs it"]
async fn a_real_component_port_that_ends_the_link_twice_over_one_sender_loses_nobody_elses_stanza(#[case] kind: Kind) {
    let server = Server::start(kind).await;
    let mut alice = server.component("coluc.com").await;
    let (lab, peer) = server.edge().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let message = |from: &str, id: &str, body: &str| {
        format!("<message from='{from}@vngtp.lab' to='alice@coluc.com' id='{id}'><body>{body}</body></message>")
    };
    let large = "x".repeat(2 * MOST);
    bob.say(&message("mallory", "m1", &large)).await;
    let mut back = peer.accept_authenticated("coluc.com").await;
    let error = back.hear("</message>").await;
    assert_eq!(attribute(&error, "message", "id"), "m1");
    assert!(error.contains("<recipient-unavailable "), "{error}");
    let all = message("bob", "b1", "x")
        + &message("mallory", "m2", &large)
        + &message("bob", "b2", "x")
        + &message("mallory", "m3", "x");
    bob.say(&all).await;
    for _ in 0..2 {
        let error = back.hear("</message>").await;
        assert!(["m2", "m3"].contains(&&*attribute(&error, "message", "id")));
        assert!(error.contains("<not-acceptable "), "{error}");
    }
    arrives(&mut alice, "b1").await;
    arrives(&mut alice, "b2").await;
    bob.say(&message("bob", "b3", "x")).await;
    arrives(&mut alice, "b3").await;
    assert!(back.is_silent(PATIENCE / 100).await);
}
