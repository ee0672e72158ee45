use super::*;
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The sample of the interface's description, byte for byte (line ends as HTTP has them).
const SAMPLE: &str = r#"<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:ns="http://www.cisco.com/AXL/API/14.0"><soapenv:Header/><soapenv:Body><ns:executeSQLQuery sequence="1"><sql>SELECT pkid, cp_id FROM xmpps2snodes</sql></ns:executeSQLQuery></soapenv:Body></soapenv:Envelope>"#;

/// One request in bytes over TLS; the answer's bytes.
async fn raw(imp: &SimulatedImp, request: &str) -> String {
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(rustls::pki_types::CertificateDer::from_pem_slice(imp.ca_pem().as_bytes()).unwrap())
        .unwrap();
    let config =
        rustls::ClientConfig::builder_with_provider(std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(imp.nodes()[0].https).await.unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config))
        .connect("cups.ciscotac.net".try_into().unwrap(), stream)
        .await
        .unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

fn sample(head: &str, body: &str) -> String {
    // axluser:axlpassword
    format!(
        "POST /axl/ HTTP/1.1\r\nHost: cups.ciscotac.net:8443\r\n{head}Authorization: Basic YXhsdXNlcjpheGxwYXNzd29yZA==\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

const HEAD: &str =
    "Content-Type: text/xml;charset=UTF-8\r\nAccept: text/xml\r\nSOAPAction: \"CUCM:DB ver=14.0 executeSQLQuery\"\r\n";

#[tokio::test]
async fn the_published_sample_is_accepted() {
    let imp = SimulatedImp::start(quick()).await.unwrap();
    let answer = raw(&imp, &sample(HEAD, SAMPLE)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let body = "<?xml version='1.0' encoding='UTF-8'?><soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\"><soapenv:Body><ns:executeSQLQueryResponse xmlns:ns=\"http://www.cisco.com/AXL/API/14.0\" sequence=\"1\"><return/></ns:executeSQLQueryResponse></soapenv:Body></soapenv:Envelope>";
    assert!(answer.ends_with(body), "{answer}");
}

#[rstest]
#[case::no_quotes(HEAD.replace('"', ""), SAMPLE.to_string(), "599")]
#[case::no_action("Content-Type: text/xml;charset=UTF-8\r\n".to_string(), SAMPLE.to_string(), "599")]
#[case::unknown_version(HEAD.replace("14.0", "15.0"), SAMPLE.replace("14.0", "15.0"), "599")]
#[case::versions_differ(HEAD.to_string(), SAMPLE.replace("14.0", "12.5"), "500")]
#[case::operations_differ(HEAD.replace("Query", "Update"), SAMPLE.to_string(), "500")]
#[case::content_type(HEAD.replace("text/xml", "application/json"), SAMPLE.to_string(), "415")]
#[case::qualified_sql(HEAD.to_string(), SAMPLE.replace("sql>", "ns:sql>"), "500")]
#[case::soap_12(HEAD.to_string(), SAMPLE.replace("http://schemas.xmlsoap.org/soap/envelope/", "http://www.w3.org/2003/05/soap-envelope"), "500")]
#[case::not_xml(HEAD.to_string(), SAMPLE.replace("</sql>", ""), "500")]
#[case::dtd(HEAD.to_string(), format!("<!DOCTYPE x []>{SAMPLE}"), "500")]
#[case::other_prefix(HEAD.to_string(), SAMPLE.replace("xmlns:ns=", "xmlns:axl=").replace("<ns:", "<axl:").replace("</ns:", "</axl:"), "200")]
#[tokio::test]
async fn requests_are_taken_strictly(#[case] head: String, #[case] body: String, #[case] status: &str) {
    let imp = SimulatedImp::start(quick()).await.unwrap();
    let answer = raw(&imp, &sample(&head, &body)).await;
    assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    if status == "599" {
        assert!(answer.contains("text/html"), "{answer}");
    }
}

#[tokio::test]
async fn the_trailing_slash_is_needed() {
    let imp = SimulatedImp::start(quick()).await.unwrap();
    let request = sample(HEAD, SAMPLE).replace("POST /axl/ ", "POST /axl ");
    let answer = raw(&imp, &request).await;
    assert!(answer.starts_with("HTTP/1.1 302"), "{answer}");
}

#[tokio::test]
async fn rows_are_written_one_by_one_and_read_back() {
    let imp = SimulatedImp::start(quick()).await.unwrap();
    let pkid = "055c13d9-943d-459d-a3c6-af1d1176936d";
    let insert = format!("INSERT INTO xmpps2snodes (pkid, cp_id) VALUES ('{pkid}', '{ID}')");
    let (status, body) = axl(&imp, "executeSQLUpdate", &insert).await;
    assert_eq!((status, tag(&body, "rowsUpdated").as_str()), (200, "1"));
    let (_, body) = axl(&imp, "executeSQLQuery", "SELECT pkid, cp_id FROM xmpps2snodes").await;
    assert!(
        body.contains(&format!(
            "<return><row><pkid>{pkid}</pkid><cp_id>{ID}</cp_id></row></return>"
        )),
        "{body}"
    );
    // The key is unique; the id is not.
    let (status, body) = axl(&imp, "executeSQLUpdate", &insert).await;
    assert_eq!((status, tag(&body, "axlcode").as_str()), (500, "-239"));
    let twin = insert.replace("055c", "155c");
    assert_eq!(axl(&imp, "executeSQLUpdate", &twin).await.0, 200);
    let absent = "DELETE FROM xmpps2snodes WHERE pkid = '00000000-0000-4000-8000-000000000000'";
    let (status, body) = axl(&imp, "executeSQLUpdate", absent).await;
    assert_eq!((status, tag(&body, "rowsUpdated").as_str()), (200, "0"));
}

#[rstest]
#[case::other_table("executeSQLQuery", "SELECT pkid FROM xmpp2snodes", "-206")]
#[case::other_column("executeSQLQuery", "SELECT cpid FROM xmpps2snodes", "-217")]
#[case::syntax("executeSQLQuery", "SELECT FROM", "-201")]
#[case::write_as_query("executeSQLQuery", "DELETE FROM xmpps2snodes WHERE pkid='x'", "-201")]
#[case::read_as_update("executeSQLUpdate", "SELECT pkid FROM xmpps2snodes", "-201")]
#[case::null("executeSQLUpdate", "INSERT INTO xmpps2snodes (cp_id) VALUES ('x')", "-391")]
#[tokio::test]
async fn sql_errors_are_faults(#[case] operation: &str, #[case] sql: &str, #[case] code: &str) {
    let imp = SimulatedImp::start(quick()).await.unwrap();
    let (status, body) = axl(&imp, operation, sql).await;
    assert_eq!((status, tag(&body, "axlcode").as_str()), (500, code));
    assert_eq!(tag(&body, "faultcode"), "soapenv:Server");
}

#[tokio::test]
async fn the_cluster_shows_its_nodes() {
    let imp = SimulatedImp::start(quick()).await.unwrap();
    let (_, body) = axl(
        &imp,
        "executeSQLQuery",
        "select name, tknodeusage from processnode where tkprocessnoderole = 2 and name <> 'EnterpriseWideData' order by nodeid",
    )
    .await;
    assert!(
        body.contains("<row><name>ecup10.coluc.com</name><tknodeusage>0</tknodeusage></row><row><name>ecup10s.coluc.com</name><tknodeusage>1</tknodeusage></row>"),
        "{body}"
    );
    let (_, body) = axl(
        &imp,
        "executeSQLQuery",
        "select tabname from systables where tabname like 'xmpp%2snodes'",
    )
    .await;
    assert_eq!(tag(&body, "tabname"), "xmpps2snodes");
}

#[tokio::test]
async fn the_subscriber_reads_but_does_not_write() {
    let imp = SimulatedImp::start(quick()).await.unwrap();
    let read = "SELECT pkid, cp_id FROM xmpps2snodes";
    let write = "INSERT INTO xmpps2snodes (pkid, cp_id) VALUES ('a', 'b')";
    let post = async |operation, sql| {
        axl_post(&imp, SUBSCRIBER, "axlpassword", "14.0", operation, sql)
            .await
            .unwrap()
    };
    assert_eq!(post("executeSQLQuery", read).await.0, 200);
    let (status, body) = post("executeSQLUpdate", write).await;
    assert_eq!((status, tag(&body, "axlcode").as_str()), (500, "-797"));
}

#[tokio::test]
async fn wrong_passwords_are_counted_once_each_and_lock_the_account_on_all_ports() {
    let imp = SimulatedImp::start(quick()).await.unwrap();
    let read = "SELECT pkid FROM xmpps2snodes";
    for node in [PUBLISHER, SUBSCRIBER, PUBLISHER] {
        let (status, body) = axl_post(&imp, node, "wrong", "14.0", "executeSQLQuery", read)
            .await
            .unwrap();
        assert_eq!(status, 401);
        assert!(!body.contains("Envelope"), "{body}");
    }
    let wrong = fingerprint("axluser", "wrong");
    let tries = |imp: &SimulatedImp| {
        imp.calls(0)
            .iter()
            .filter(|call| call.credential.as_deref() == Some(&wrong))
            .count()
    };
    assert_eq!(tries(&imp), 3);
    assert!(imp.state().accounts[0].locked);
    // Locked: also the right password, also at Control Center.
    assert_eq!(axl(&imp, "executeSQLQuery", read).await.0, 401);
    let (status, _) = control_center(&imp, SUBSCRIBER, "soapGetServiceStatus", "")
        .await
        .unwrap();
    assert_eq!(status, 401);
    assert_eq!(imp.calls(0).last().unwrap().auth, "bad");
    imp.set_password("new");
    let (status, _) = axl_post(&imp, PUBLISHER, "new", "14.0", "executeSQLQuery", read)
        .await
        .unwrap();
    assert_eq!(status, 200);
    assert_eq!(tries(&imp), 3);
}

#[tokio::test]
async fn roles_are_told_apart() {
    let mut config = quick();
    config.accounts[0].axl = false;
    let imp = SimulatedImp::start(config).await.unwrap();
    assert_eq!(
        axl(&imp, "executeSQLQuery", "SELECT pkid FROM xmpps2snodes").await.0,
        403
    );
    let (status, _) = control_center(&imp, PUBLISHER, "soapGetServiceStatus", "")
        .await
        .unwrap();
    assert_eq!(status, 200);
}

#[rstest]
#[case("axl-401", 401)]
#[case("axl-403", 403)]
#[case("axl-503", 503)]
#[case("axl-599", 599)]
#[case("axl-fault", 500)]
#[tokio::test]
async fn faults_strike_as_often_as_told(#[case] fault: &str, #[case] status: u16) {
    let imp = SimulatedImp::start(quick()).await.unwrap();
    let read = "SELECT pkid FROM xmpps2snodes";
    let options = FaultOptions::default().once().of("select");
    imp.set_fault(fault, options).unwrap();
    let delete = "DELETE FROM xmpps2snodes WHERE pkid = 'x'";
    assert_eq!(axl(&imp, "executeSQLUpdate", delete).await.0, 200);
    assert_eq!(axl(&imp, "executeSQLQuery", read).await.0, status);
    assert_eq!(axl(&imp, "executeSQLQuery", read).await.0, 200);
}

#[tokio::test]
async fn a_lost_reply_comes_after_the_effect_and_a_time_out_has_none() {
    let imp = SimulatedImp::start(quick()).await.unwrap();
    let insert = format!("INSERT INTO xmpps2snodes (pkid, cp_id) VALUES (newid(), '{ID}')");
    let post = async || axl_post(&imp, PUBLISHER, "axlpassword", "14.0", "executeSQLUpdate", &insert).await;
    let rows = || imp.state().nodes[0].rows.len();
    imp.set_fault("axl-reply-lost", FaultOptions::default()).unwrap();
    assert!(post().await.is_err());
    assert_eq!(rows(), 1);
    assert!(imp.clear_fault("axl-reply-lost"));
    imp.set_fault("axl-timeout", FaultOptions::default()).unwrap();
    assert!(post().await.unwrap_err().is_timeout());
    assert_eq!(rows(), 1);
}

#[tokio::test]
async fn a_stale_session_cookie_is_a_404() {
    let imp = SimulatedImp::start(quick()).await.unwrap();
    let answer = raw(&imp, &sample(HEAD, SAMPLE)).await;
    let cookie = answer
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: "))
        .and_then(|value| value.split(';').next())
        .unwrap();
    let head = format!("{HEAD}Cookie: {cookie}\r\n");
    assert!(raw(&imp, &sample(&head, SAMPLE)).await.starts_with("HTTP/1.1 200"));
    imp.forget_sessions();
    assert!(raw(&imp, &sample(&head, SAMPLE)).await.starts_with("HTTP/1.1 404"));
    assert!(raw(&imp, &sample(HEAD, SAMPLE)).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn old_releases_have_no_roles() {
    let imp = SimulatedImp::start(ImpConfig {
        role_column: false,
        ..quick()
    })
    .await
    .unwrap();
    let with_role = "SELECT name, tkprocessnoderole FROM processnode";
    let (status, body) = axl(&imp, "executeSQLQuery", with_role).await;
    assert_eq!((status, tag(&body, "axlcode").as_str()), (500, "-217"));
    let (_, body) = axl(&imp, "executeSQLQuery", "SELECT name FROM processnode").await;
    assert_eq!(body.matches("<row>").count(), 3, "{body}");
}
