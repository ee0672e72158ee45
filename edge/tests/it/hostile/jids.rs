//! Local and resource parts of addresses: what PRECIS and the profiles of RFC 3920 both refuse goes
//! nowhere; what one of them takes passes as it is written.

use crate::support::{Lab, attribute, has, scene};

/// Both readings refuse it, or it is empty or too long.
fn bad() -> Vec<(&'static str, String)> {
    let domain = "DOMAIN";
    let cases = [
        ("empty local part", "@DOMAIN"),
        ("empty resource", "x@DOMAIN/"),
        ("empty resource of a domain", "DOMAIN/"),
        ("space", "a b@DOMAIN"),
        ("quote", "a&quot;b@DOMAIN"),
        ("apostrophe", "a&apos;b@DOMAIN"),
        ("ampersand", "a&amp;b@DOMAIN"),
        ("colon", "a:b@DOMAIN"),
        ("less", "a&lt;b@DOMAIN"),
        ("wide at", "a\u{ff20}b@DOMAIN"),
        ("no-break space", "a\u{a0}b@DOMAIN"),
        ("nothing but a soft hyphen", "\u{ad}@DOMAIN"),
        ("private use", "\u{e000}@DOMAIN"),
        ("emoji in a local part", "\u{1f600}@DOMAIN"),
        ("tab in a resource", "x@DOMAIN/a&#9;b"),
        ("line end in a resource", "x@DOMAIN/a&#10;b"),
        ("override of direction", "x@DOMAIN/\u{202e}b"),
        ("line separator", "x@DOMAIN/a\u{2028}b"),
    ];
    let mut all: Vec<_> = cases
        .into_iter()
        .map(|(name, address)| (name, address.to_owned()))
        .collect();
    all.push(("long local part", format!("{}@{domain}", "l".repeat(1024))));
    all.push(("longer local part", format!("{}@{domain}", "l".repeat(2000))));
    all.push(("long resource", format!("x@{domain}/{}", "r".repeat(1024))));
    all.push(("longer resource", format!("x@{domain}/{}", "r".repeat(20_000))));
    all.push(("long by bytes", format!("x@{domain}/{}", "\u{fc}".repeat(512))));
    all
}

/// One reading takes it.
fn good() -> Vec<String> {
    vec![
        "DOMAIN".to_owned(),
        "x@DOMAIN".to_owned(),
        "!#$%()*+,-.09;=?AZ[\\]^_`az{|}~@DOMAIN/ !&quot;#&amp;&apos;/:&lt;&gt;@~".to_owned(),
        "stra\u{df}e@DOMAIN/\u{1f680} \u{2764}\u{fe0f}".to_owned(),
        "\u{2167}@DOMAIN/\u{1f980}".to_owned(),
        "\u{5d0}\u{5d1}@DOMAIN".to_owned(),
        format!("{}@DOMAIN/{}", "l".repeat(1023), "r".repeat(1023)),
    ]
}

#[tokio::test]
async fn a_stanza_to_an_address_that_is_none_is_answered_and_the_stream_lives() {
    let (lab, peer, mut link, mut bystander) = scene().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let mut answers = None;
    for (n, (name, address)) in bad().into_iter().enumerate() {
        let to = address.replace("DOMAIN", "coluc.com");
        // Each user has a rate of refused stanzas.
        bob.say(&format!(
            "<iq from='bob{n}@vngtp.lab/x' to='{to}' type='get' id='odd'/>\
             <presence from='bob{n}@vngtp.lab' to='{to}' type='error'/>\
             <message from='bob@vngtp.lab' to='alice@coluc.com' id='good'/>"
        ))
        .await;
        // Only the one behind it arrives,
        let heard = link.hear().await;
        assert_eq!(attribute(&heard, "message", "id"), "good", "{name}: {heard}");
        // and the sender is told, from an address that servers take.
        let error = peer.accepted(&mut answers).await.hear("</iq>").await;
        assert!(error.contains("<jid-malformed "), "{name}: {error}");
        assert_eq!(attribute(&error, "iq", "id"), "odd", "{name}");
        assert_eq!(attribute(&error, "iq", "type"), "error", "{name}");
        assert_eq!(attribute(&error, "iq", "to"), format!("bob{n}@vngtp.lab/x"), "{name}");
        assert_eq!(attribute(&error, "iq", "from"), "coluc.com", "{name}");
    }
    assert!(bystander.exchange(&mut link).await.is_empty());
    let counted = bad().len() as u64;
    lab.counts("stanzas_bounced_total{cause=\"malformed\"} ", counted);
}

#[tokio::test]
async fn a_stanza_from_an_address_that_is_none_is_dropped_counted_and_named() {
    let (lab, peer, mut link, mut bystander) = scene().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    for (name, address) in bad() {
        let from = address.replace("DOMAIN", "vngtp.lab");
        bob.say(&format!(
            "<message from='{from}' to='alice@coluc.com' id='odd'/>\
             <message from='{from}' to='a b@coluc.com' id='both'/>\
             <message from='bob@vngtp.lab' to='alice@coluc.com' id='good'/>"
        ))
        .await;
        let heard = link.hear().await;
        assert_eq!(attribute(&heard, "message", "id"), "good", "{name}: {heard}");
    }
    assert!(bystander.exchange(&mut link).await.is_empty());
    let counted = 2 * bad().len() as u64;
    lab.counts("stanzas_dropped_total{cause=\"malformed\"} ", counted);
    lab.counts("peers_refused_total{check=\"addressing\"} ", counted);
    // `ctl failures` names the partner and what is wrong.
    let failures = serde_json::to_string(&lab.edge.registry.failures(None)).unwrap();
    assert!(failures.contains("vngtp.lab"), "{failures}");
    has(&failures, ["its resource part has more than 1023 bytes"]);
}

#[tokio::test]
async fn what_one_reading_takes_passes_as_it_is_written_both_ways() {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let mut stream = None;
    for address in good() {
        let there = address.replace("DOMAIN", "vngtp.lab");
        let here = address.replace("DOMAIN", "coluc.com");
        let stanza = format!("<message from='{there}' to='{here}' id='in'/>");
        bob.say(&stanza).await;
        assert_eq!(link.hear().await, stanza);
        let stanza = format!("<message from='{here}' to='{there}' id='out'/>");
        link.say(&stanza);
        if stream.is_none() {
            stream = Some(peer.accept_authenticated("coluc.com").await);
        }
        assert_eq!(stream.as_mut().unwrap().hear("id='out'/>").await, stanza);
    }
}

#[tokio::test]
async fn a_routers_stanza_to_or_from_an_address_that_is_none_does_not_leave() {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let mut stream = link.opens(&peer, "first").await;
    for (name, address) in bad() {
        let (to, from) = (
            address.replace("DOMAIN", "vngtp.lab"),
            address.replace("DOMAIN", "coluc.com"),
        );
        link.say(&format!(
            "<message from='{from}' to='bob@vngtp.lab' id='from'/>\
             <message from='alice@coluc.com/x' to='{to}' id='to'/>\
             <message from='alice@coluc.com' to='bob@vngtp.lab' id='good'/>"
        ));
        let error = link.hear().await;
        assert!(error.contains("<jid-malformed "), "{name}: {error}");
        assert_eq!(attribute(&error, "message", "id"), "to", "{name}");
        assert_eq!(attribute(&error, "message", "to"), "alice@coluc.com/x", "{name}");
        assert_eq!(attribute(&error, "message", "from"), "vngtp.lab", "{name}");
        let heard = stream.hear("/>").await;
        assert_eq!(attribute(&heard, "message", "id"), "good", "{name}: {heard}");
    }
    let counted = bad().len() as u64;
    lab.counts("stanzas_dropped_total{cause=\"malformed\"} ", counted);
}
