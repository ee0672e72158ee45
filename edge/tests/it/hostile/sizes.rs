//! Stanzas that are too deep, too wide or too long in odd places, from an authenticated peer.

use rstest::rstest;

use crate::support::{Lab, Speaker, to_alice};

async fn condition(peer: &mut Speaker) -> String {
    let text = peer.hear("</stream:stream>").await;
    let error = text.split("<stream:error><").nth(1);
    let error = error.unwrap_or_else(|| panic!("no error in {text}"));
    error.split([' ', '/']).next().unwrap().to_owned()
}

const START: &str = "<message from='bob@vngtp.lab' to='alice@coluc.com' id='odd'>";

fn many(count: usize, text: impl Fn(usize) -> String) -> String {
    (0..count).map(text).collect::<Vec<_>>().concat()
}

#[rstest]
#[case::depth(format!("{START}{}", "<a>".repeat(10_000)))]
#[case::attributes(format!("{START}<a {}/></message>", many(1500, |n| format!(" a{n}='1'"))))]
#[case::namespaces(format!("{START}<a {}/></message>", many(10_000, |n| format!(" xmlns:p{n}='u'"))))]
#[case::name(format!("{START}<{}/></message>", "n".repeat(1_000_000)))]
#[case::attribute_name(format!("{START}<a {}='1'/></message>", "n".repeat(1_000_000)))]
#[case::attribute_value(format!("{START}<a b='{}'/></message>", "v".repeat(1_000_000)))]
#[case::end_tag(format!("{START}<a></{}>", "n".repeat(1_000_000)))]
#[case::references(format!("{START}{}", "&lt;".repeat(300_000)))]
#[case::key(format!("<db:result from='vngtp.lab' to='conf.coluc.com'>{}</db:result>", "k".repeat(1_000_000)))]
#[tokio::test]
async fn what_exceeds_a_limit_ends_the_stream(#[case] text: String) {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let mut hostile = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    // The edge may end the stream before everything is written.
    let _ = hostile.try_say(text.as_bytes()).await;
    assert_eq!(condition(&mut hostile).await, "policy-violation");
    bob.say(&to_alice("other")).await;
    assert!(
        link.hear().await.contains("other"),
        "nothing of the odd one, and others go on"
    );
}

#[tokio::test]
async fn many_children_within_the_limit_pass_unchanged() {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let stanza = format!("{START}{}</message>", "<a/>".repeat(25_000));
    bob.say(&stanza).await;
    assert_eq!(link.hear().await, stanza);
}

#[tokio::test]
async fn white_space_between_stanzas_is_swallowed_without_growth() {
    let (lab, peer, _router, mut link) = Lab::with_link().await;
    let mut bob = peer.open_authenticated(lab.s2s, "coluc.com").await;
    let spaces = vec![b' '; 1024 * 1024];
    for _ in 0..8 {
        bob.try_say(&spaces).await.unwrap();
    }
    bob.say(&to_alice("after")).await;
    assert_eq!(
        link.hear().await,
        "<message from='bob@vngtp.lab' to='alice@coluc.com' id='after'/>"
    );
}
