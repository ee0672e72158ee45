//! The requests of one full run, byte for byte: two nodes, two slots, from nothing to Ready, restarts
//! included. `golden/<AXL version>/NN-<operation>-<node>.txt` hold request line, the headers that
//! matter, and the body; credentials are left out, and pkids, which are drawn by lot, are numbered.
//! `UPDATE_GOLDEN=1` writes them anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rstest::rstest;
use testkit_simulator::ImpConfig;

use crate::support::{Bench, id, quick};

/// The samples of the interfaces' description.
const QUERY: &str = r#"POST /axl/ HTTP/1.1
Content-Type: text/xml;charset=UTF-8
Accept: text/xml
SOAPAction: "CUCM:DB ver=14.0 executeSQLQuery"
Authorization: Basic …

<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:ns="http://www.cisco.com/AXL/API/14.0"><soapenv:Header/><soapenv:Body><ns:executeSQLQuery sequence="1"><sql>SELECT pkid, cp_id FROM xmpps2snodes</sql></ns:executeSQLQuery></soapenv:Body></soapenv:Envelope>"#;
const RESTART_HEAD: &str = "POST /controlcenterservice2/services/ControlCenterServices HTTP/1.1\n";
const RESTART_ACTION: &str = "\nSOAPAction: \"soapDoControlServices\"\n";
const RESTART_BODY: &str = r#"
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:soap="http://schemas.cisco.com/ast/soap"><soapenv:Header/><soapenv:Body><soap:soapDoControlServices><soap:ControlServiceRequest><soap:NodeName>ecup10.coluc.com</soap:NodeName><soap:ControlType>Restart</soap:ControlType><soap:ServiceList><soap:item>Cisco XCP Router</soap:item></soap:ServiceList></soap:ControlServiceRequest></soap:soapDoControlServices></soapenv:Body></soapenv:Envelope>"#;

#[rstest]
#[case::oldest("9.1", false)]
#[case::middle("12.5", true)]
#[case::usual("14.0", true)]
#[case::newest("15.0", true)]
#[tokio::test(flavor = "multi_thread")]
async fn the_requests_of_a_full_run(#[case] version: &str, #[case] role_column: bool) {
    let mut bench = Bench::start(ImpConfig {
        axl_versions: vec![version.into()],
        role_column,
        ..quick()
    })
    .await;
    bench.desired.component_ids = vec![id(0), id(1)];
    let report = bench.until_ready(100).await;
    assert_eq!(report.axl_version.as_deref(), Some(version));
    let recorded = recorded(&bench);

    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/imp/golden")
        .join(version);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, text) in &recorded {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }
    let committed: BTreeMap<String, String> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}; UPDATE_GOLDEN=1", folder.display()))
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    let names: Vec<&String> = recorded.iter().map(|(name, _)| name).collect();
    assert_eq!(names, committed.keys().collect::<Vec<_>>());
    for (name, text) in &recorded {
        assert_eq!(*text, committed[name], "{version}/{name}");
    }
    if version == "14.0" {
        assert!(committed.values().any(|text| text == QUERY));
        let restart = |text: &&String| {
            text.starts_with(RESTART_HEAD) && text.contains(RESTART_ACTION) && text.ends_with(RESTART_BODY)
        };
        assert_eq!(committed.values().filter(restart).count(), 1);
    }
    // Without the column, nodes are read without their role, once that is known.
    let without_role = |text: &&String| text.contains("FROM processnode") && !text.contains("tkprocessnoderole");
    assert_eq!(
        committed.values().filter(without_role).count(),
        usize::from(!role_column)
    );
}

/// Name and text of each request in order. How often a node is asked for its state until its router
/// is back is a matter of time: that request stands there once for each node.
fn recorded(bench: &Bench) -> Vec<(String, String)> {
    let mut asked = BTreeSet::new();
    let mut pkids = Vec::new();
    let mut recorded = Vec::new();
    for request in bench.sim.requests() {
        let status = request.text.contains("soapGetServiceStatus");
        if status && !asked.insert(request.node.clone()) {
            continue;
        }
        let operation = ["executeSQLQuery", "executeSQLUpdate", "soapGetServiceStatus"]
            .into_iter()
            .find(|name| request.text.contains(name))
            .unwrap_or("soapDoControlServices");
        let node = request.node.split('.').next().unwrap();
        let name = format!("{:02}-{operation}-{node}.txt", recorded.len() + 1);
        recorded.push((name, numbered(&request.text, &mut pkids)));
    }
    recorded
}

/// The text with each pkid as its number.
fn numbered(text: &str, pkids: &mut Vec<String>) -> String {
    let mut out = text.to_owned();
    for part in text.split('\'') {
        let is_pkid = part.len() == 36 && part.matches('-').count() == 4;
        if is_pkid && part.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()) {
            let at = pkids.iter().position(|pkid| pkid == part).unwrap_or_else(|| {
                pkids.push(part.to_owned());
                pkids.len() - 1
            });
            out = out.replace(part, &format!("pkid-{}", at + 1));
        }
    }
    out
}
