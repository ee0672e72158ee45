//! Every combination of security modes and certificates, in both directions.

use tracing::Level;
use xmpp_federation_core::edge_config::{EdgeConfig, TlsMode};

use crate::support::log::Log;
use crate::support::pki::{Identity, client, pki};
use crate::support::{KEY, Lab, PROCEED, Peer, Router, STARTTLS, config, header};

use super::world::{Host, Inbound, MESSAGE, identity, must_say};

const SHOWN: [&str; 5] = ["missing", "self-signed", "expired", "wrong-name", "valid"];

fn mode(text: &str) -> TlsMode {
    match text {
        "Required" => TlsMode::Required,
        "Optional" => TlsMode::Optional,
        "Disabled" => TlsMode::Disabled,
        other => panic!("{other}"),
    }
}

/// Columns: mode of the edge, are certificates required, mode of the peer, then the outcome for
/// each certificate that the peer shows. `config`: such a configuration is refused.
const INBOUND: &str = "
Required no  Required | dialback/tls   dialback/tls   dialback/tls   dialback/tls   external
Required no  Optional | dialback/tls   dialback/tls   dialback/tls   dialback/tls   external
Required no  Disabled | tls-required   tls-required   tls-required   tls-required   tls-required
Required yes Required | certificate    certificate    certificate    certificate    external
Required yes Optional | certificate    certificate    certificate    certificate    external
Required yes Disabled | tls-required   tls-required   tls-required   tls-required   tls-required
Optional no  Required | dialback/tls   dialback/tls   dialback/tls   dialback/tls   external
Optional no  Optional | dialback/tls   dialback/tls   dialback/tls   dialback/tls   external
Optional no  Disabled | dialback/clear dialback/clear dialback/clear dialback/clear dialback/clear
Optional yes Required | certificate    certificate    certificate    certificate    external
Optional yes Optional | certificate    certificate    certificate    certificate    external
Optional yes Disabled | tls-required   tls-required   tls-required   tls-required   tls-required
Disabled no  Required | tls-disabled   tls-disabled   tls-disabled   tls-disabled   tls-disabled
Disabled no  Optional | dialback/clear dialback/clear dialback/clear dialback/clear dialback/clear
Disabled no  Disabled | dialback/clear dialback/clear dialback/clear dialback/clear dialback/clear
Disabled yes Required | config         config         config         config         config
Disabled yes Optional | config         config         config         config         config
Disabled yes Disabled | config         config         config         config         config
";

/// The same where the edge connects. A TLS server always shows a certificate: no column for
/// `missing`.
const OUTBOUND: &str = "
Required no  Required | skipped dialback/tls   dialback/tls   dialback/tls   dialback/tls
Required no  Optional | skipped dialback/tls   dialback/tls   dialback/tls   dialback/tls
Required no  Disabled | skipped tls-required   tls-required   tls-required   tls-required
Required yes Required | skipped certificate    certificate    certificate    dialback/tls
Required yes Optional | skipped certificate    certificate    certificate    dialback/tls
Required yes Disabled | skipped tls-required   tls-required   tls-required   tls-required
Optional no  Required | skipped dialback/tls   dialback/tls   dialback/tls   dialback/tls
Optional no  Optional | skipped dialback/tls   dialback/tls   dialback/tls   dialback/tls
Optional no  Disabled | skipped dialback/clear dialback/clear dialback/clear dialback/clear
Optional yes Required | skipped certificate    certificate    certificate    dialback/tls
Optional yes Optional | skipped certificate    certificate    certificate    dialback/tls
Optional yes Disabled | skipped tls-required   tls-required   tls-required   tls-required
Disabled no  Required | skipped tls-disabled   tls-disabled   tls-disabled   tls-disabled
Disabled no  Optional | skipped dialback/clear dialback/clear dialback/clear dialback/clear
Disabled no  Disabled | skipped dialback/clear dialback/clear dialback/clear dialback/clear
Disabled yes Required | skipped config         config         config         config
Disabled yes Optional | skipped config         config         config         config
Disabled yes Disabled | skipped config         config         config         config
";

struct Cell {
    mode: TlsMode,
    require: bool,
    peer: TlsMode,
    shown: &'static str,
    expected: &'static str,
}

fn cells(table: &'static str) -> Vec<Cell> {
    let rows = table.lines().filter(|line| !line.is_empty());
    let cells = rows.flat_map(|row| {
        let (given, outcomes) = row.split_once('|').unwrap();
        let given: Vec<_> = given.split_whitespace().collect();
        let outcomes = outcomes.split_whitespace();
        outcomes.zip(SHOWN).map(move |(expected, shown)| Cell {
            mode: mode(given[0]),
            require: given[1] == "yes",
            peer: mode(given[2]),
            shown,
            expected,
        })
    });
    let cells: Vec<_> = cells.collect();
    assert_eq!(cells.len(), 3 * 2 * 3 * SHOWN.len());
    cells
}

/// The configuration of a cell; `None` if it is refused.
fn cell_config(cell: &Cell, config: &mut EdgeConfig) -> Option<()> {
    config.tls.mode = cell.mode;
    config.tls.require_client_certificates = cell.require;
    config.problems().is_empty().then_some(())
}

fn run_matrix(table: &'static str, name: &str, outcome: &impl AsyncFn(&Cell) -> (String, String)) {
    let mut wrong = Vec::new();
    let mut told = vec![format!(
        "{name}: edge's mode, certificates required, peer's mode, certificate shown: outcome"
    )];
    for cell in cells(table) {
        let (found, reason) = if cell.expected == "skipped" {
            ("skipped".to_owned(), "a TLS server always shows one".to_owned())
        } else {
            // The end of a runtime is the end of its edge: none goes on dialling ports that later
            // cells use.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(outcome(&cell))
        };
        let line = format!(
            "{:?} {} {:?} {}: {found} {reason}",
            cell.mode,
            if cell.require { "yes" } else { "no" },
            cell.peer,
            cell.shown
        );
        told.push(format!("  {line}"));
        let says = must_say(&found, cell.shown);
        if found != cell.expected || !reason.contains(says) {
            wrong.push(format!("{line}; expected {} {says}", cell.expected));
        }
    }
    println!("{}", told.join("\n"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn matrix_of_modes_and_certificates_where_the_peer_connects() {
    run_matrix(INBOUND, "inbound", &async |cell: &Cell| {
        let log = Log::start(Level::INFO);
        let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
        let mut config = config(&[&peer], &[&router]);
        if cell_config(cell, &mut config).is_none() {
            return ("config".to_owned(), config.problems()[0].to_string());
        }
        let lab = Lab::start(pki().live(config));
        let mut link = router.accept().await;
        let shown = identity(cell.shown);
        let mut bob = Inbound::from_peer(lab.s2s).await;
        let offered = bob.features.contains("<starttls");
        let mut transport = "clear";
        if cell.peer == TlsMode::Required || (cell.peer == TlsMode::Optional && offered) {
            bob.speaker.say(STARTTLS).await;
            let answer = bob.speaker.hear_any(&["/>"]).await.unwrap();
            if answer != PROCEED {
                assert!(answer.starts_with("<failure "), "{answer}");
                bob.speaker.hear_end().await;
                return log.refusal(bob.address).await;
            }
            let config = client(shown.as_ref());
            bob.speaker.tls_client(config, "coluc.com").await.unwrap();
            bob.header(&header("vngtp.lab", "coluc.com", "")).await;
            transport = "tls";
        }
        let mechanism = if bob.offers_external() {
            assert!(bob.auth("=").await.contains("<success"));
            bob.header(&header("vngtp.lab", "coluc.com", "")).await;
            "external"
        } else {
            bob.speaker.say(KEY).await;
            let instead = Identity::self_signed(&["vngtp.lab"]);
            let host = Host::new(cell.peer, shown.as_ref().unwrap_or(&instead));
            let answers = ["</db:result>", "type='valid'/>"];
            let answer = tokio::select! {
                answer = bob.speaker.hear_any(&answers) => answer,
                () = host.verifies(&peer) => bob.speaker.hear_any(&answers).await,
            };
            if !answer.unwrap().contains("type='valid'") {
                return log.refusal(bob.address).await;
            }
            "dialback"
        };
        bob.passes(&mut link, "1").await;
        let streams = lab.edge.registry.streams(None);
        let inbound = streams.iter().find(|s| s.direction == "inbound").unwrap();
        assert_eq!(inbound.detail.pairs[0].mechanism, mechanism);
        assert_eq!(inbound.detail.tls.is_some(), transport == "tls");
        let outcome = match mechanism {
            "external" => mechanism.to_owned(),
            _ => format!("{mechanism}/{transport}"),
        };
        (outcome, String::new())
    });
}

#[test]
fn matrix_of_modes_and_certificates_where_the_edge_connects() {
    run_matrix(OUTBOUND, "outbound", &async |cell: &Cell| {
        let log = Log::start(Level::INFO);
        let (peer, router) = (Peer::new("vngtp.lab").await, Router::new().await);
        let mut config = config(&[&peer], &[&router]);
        if cell_config(cell, &mut config).is_none() {
            return ("config".to_owned(), config.problems()[0].to_string());
        }
        let _lab = Lab::start(pki().live(config));
        let mut link = router.accept().await;
        link.say(MESSAGE);
        let shown = identity(cell.shown).unwrap();
        match Host::new(cell.peer, &shown).is_written_to(&peer).await {
            Some(true) => ("dialback/tls".to_owned(), String::new()),
            Some(false) => ("dialback/clear".to_owned(), String::new()),
            None => {
                let bounced = link.hear().await;
                assert!(bounced.contains("<remote-server-not-found "), "{bounced}");
                log.refusal(peer.listener.local_addr().unwrap()).await
            }
        }
    });
}
