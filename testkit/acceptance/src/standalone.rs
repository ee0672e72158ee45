//! `testkit demo --stage standalone`: the edge alone, without Kubernetes and operator. What the operator would do is done by
//! hand: a configuration file, a row in IM&P's table, a restart of both routers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::report::{Report, Talk, ensure};
use super::world::World;
use super::{evidence, imp, traffic};
use testkit_base::Error;
use testkit_lab::{Lab, hosts};

/// The edge's address on the LAN.
const EDGE: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 244, 200, 40);
/// Where the internet reaches it.
const PUBLIC: &str = "203.0.113.10";
/// Its component id.
pub const COMPONENT: &str = "cm-2_s2scp-1.eft-xwye-a-coluc-com";

/// Plays the steps, all or only some.
pub async fn scenario(world: &World, steps: &[u8]) -> Result<Report, Error> {
    let mut report = Report::only(steps);
    report
        .step(1, "Start the edge from one file", &[], async |talk| {
            start_edge(talk, world).await
        })
        .await;
    report
        .step(
            2,
            "Put its id into IM&P's table and restart both routers by hand",
            &[1],
            async |talk| register(talk, world).await,
        )
        .await;
    report
        .step(3, "Messages, presence and IQ, alice ↔ bob", &[2], async |talk| {
            let (_, log) = world.partner_log(0)?;
            traffic::messages(talk, &world.alice, &world.bob).await?;
            traffic::subscriptions(talk, &world.alice, &world.bob).await?;
            traffic::pings(talk, &world.alice, &world.bob).await?;
            evidence::partner_saw_tls_and_dialback(talk, world, log)
        })
        .await;
    report
        .step(4, "The conference alias", &[2], async |talk| {
            traffic::conference(talk, &world.alias, &world.bob).await
        })
        .await;
    report
        .step(5, "The three dialback roles in the edge's log", &[3], async |talk| {
            let path = world.lab.log("edge");
            let log = std::fs::read_to_string(&path)?;
            evidence::dialback_roles(talk, &[log])
        })
        .await;
    report
        .step(6, "100 messages each way", &[3], async |talk| {
            traffic::unharmed(talk, &world.alice, &world.bob, 100).await
        })
        .await;
    Ok(report)
}

async fn start_edge(talk: Talk, world: &World) -> Result<(), Error> {
    let lab = &world.lab;
    lab.add_host("edge", &[EDGE]).await?;
    let public = format!("{PUBLIC}/32");
    done(lab, Some("edge"), &["ip", "addr", "add", &public, "dev", "lo"]).await?;
    done(lab, None, &["ip", "route", "add", &public, "via", &EDGE.to_string()]).await?;
    let dir = lab.dir().join("hosts/edge");
    let config = write_configuration(&dir)?;
    let program = edge_binary()?;
    lab.spawn_in(
        Some("edge"),
        "edge",
        &[&program, "--config", &config.display().to_string(), "--index", "0"],
        &std::collections::BTreeMap::new(),
    )?;
    lab.wait_for_port("edge", EDGE, 5269).await?;
    talk.fact(
        "edge listens",
        format_args!("{PUBLIC}:5269, configuration {}", config.display()),
    );
    Ok(())
}

async fn done(lab: &Lab, host: Option<&str>, command: &[&str]) -> Result<(), Error> {
    let output = lab.exec_in(host, command).await?;
    ensure(output.success, || format!("{}: {}", command.join(" "), output.stderr))
}

/// The product's binary is beside this one.
fn edge_binary() -> Result<String, Error> {
    let this = std::env::current_exe()?;
    let path = this.with_file_name("xmpp-federation-edge");
    ensure(path.is_file(), || {
        format!("{} is missing: run `cargo build --workspace --bins`", path.display())
    })?;
    Ok(path.display().to_string())
}

fn write_configuration(dir: &Path) -> Result<PathBuf, Error> {
    std::fs::create_dir_all(dir)?;
    let secret = format!("{:x}{:x}", rand::random::<u128>(), rand::random::<u128>());
    std::fs::write(dir.join("dialback"), secret)?;
    std::fs::write(dir.join("router"), hosts::ROUTER_SECRET)?;
    let names = ["coluc.com", "conf.coluc.com", "eft-xwye-a.coluc.com"];
    let made = rcgen::generate_simple_self_signed(names.map(str::to_owned))?;
    std::fs::write(dir.join("tls.crt"), made.cert.pem())?;
    std::fs::write(dir.join("tls.key"), made.signing_key.serialize_pem())?;
    let here = dir.display();
    let text = format!(
        "domains: [coluc.com, conf.coluc.com]
listen:
  control: {here}/control.sock
dialback:
  sign: {here}/dialback
tls:
  mode: Required
  certificates:
  - certificateFile: {here}/tls.crt
    privateKeyFile: {here}/tls.key
privacy:
  mode: AllowList
  domains: [vngtp.lab]
dns:
  resolvers: [10.244.200.53]
routers:
- name: main
  componentIds: [{COMPONENT}]
  secretFile: {here}/router
  endpoints:
  - name: ecup10.coluc.com
    address: 10.244.200.10:7400
  - name: ecup10s.coluc.com
    address: 10.244.200.11:7400
"
    );
    let path = dir.join("edge.yaml");
    std::fs::write(&path, text)?;
    Ok(path)
}

async fn register(talk: Talk, world: &World) -> Result<(), Error> {
    let pkid = uuid::Uuid::new_v4();
    world
        .imp
        .sql(&format!(
            "insert into xmpps2snodes (pkid, cp_id) values ('{pkid}', '{COMPONENT}')"
        ))
        .await?;
    let state = talk
        .wait("the row on both nodes", Duration::from_secs(15), async || {
            let state = world.imp.state().await?;
            for node in &state.nodes {
                ensure(!node.rows.is_empty(), || format!("{} has no row yet", node.name))?;
            }
            Ok(state)
        })
        .await?;
    if let Some(publisher) = state.nodes.first() {
        talk.say(imp::as_cli(&publisher.rows));
    }
    // The configuration manager writes the router's configuration after the row is there.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for node in &state.nodes {
        world.imp.restart_router(&node.name).await?;
        talk.wait(
            &format!("the link to {}", node.name),
            Duration::from_mins(1),
            async || {
                let state = world.imp.state().await?;
                let found = state.nodes.iter().find(|seen| seen.name == node.name);
                let router = &found.ok_or("the node is gone")?.router;
                ensure(
                    !router.restarts.is_empty() && router.status == testkit_simulator::Status::Started,
                    || format!("its router is {:?}", router.status),
                )?;
                ensure(router.links.iter().any(|link| link.id == COMPONENT), || {
                    format!("not linked; it loaded {:?}", router.loaded_ids)
                })
            },
        )
        .await?;
        talk.fact(&node.name, "router restarted by hand, the edge is linked");
    }
    Ok(())
}
