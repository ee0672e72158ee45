//! An edge between a peer that may be hostile and a partner that nobody attacks.

use std::time::Duration;

use xmpp_federation_core::edge_config::EdgeConfig;
use xmpp_federation_edge::config::Live;

use super::{Lab, Peer, Router, RouterLink, Speaker, config, live};

/// A partner that nobody attacks, with a stream each way: what others suffer is seen here.
pub struct Bystander {
    _peer: Peer,
    inward: Speaker,
    outward: Speaker,
    count: usize,
}

impl Bystander {
    pub const DOMAIN: &'static str = "bystander.example";

    async fn new(lab: &Lab, peer: Peer, link: &mut RouterLink) -> Self {
        let inward = peer.open_authenticated(lab.s2s, "coluc.com").await;
        link.say(&Self::message("alice@coluc.com", "carol@bystander.example", 0));
        let mut outward = peer.accept_authenticated("coluc.com").await;
        outward.hear("id='bystander-0'/>").await;
        Self {
            _peer: peer,
            inward,
            outward,
            count: 0,
        }
    }

    fn message(from: &str, to: &str, n: usize) -> String {
        format!("<message from='{from}' to='{to}' id='bystander-{n}'/>")
    }

    /// One message in and one out over the streams that it has; gives everything else that came
    /// over the link meanwhile.
    pub async fn exchange(&mut self, link: &mut RouterLink) -> Vec<String> {
        let (alice, carol) = ("alice@coluc.com", "carol@bystander.example");
        self.count += 1;
        let id = format!("id='bystander-{}'", self.count);
        self.inward.say(&Self::message(carol, alice, self.count)).await;
        let mut others = Vec::new();
        loop {
            let heard = link.hear().await;
            if heard.contains(&id) {
                break;
            }
            if !heard.contains("id='bystander-") {
                others.push(heard);
            }
        }
        link.say(&Self::message(alice, carol, self.count));
        self.outward.hear(&format!("{id}/>")).await;
        others
    }

    /// Exchanges messages for as long as something else lasts, and once more after it; gives
    /// everything else that came over the link.
    pub async fn during<T>(&mut self, link: &mut RouterLink, other: impl Future<Output = T>) -> (T, Vec<String>) {
        let mut others = Vec::new();
        let done = {
            let exchanging = async {
                loop {
                    others.extend(self.exchange(link).await);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::select! {
                done = other => done,
                () = exchanging => unreachable!(),
            }
        };
        others.extend(self.exchange(link).await);
        (done, others)
    }
}

/// An edge with a hostile or odd peer, `vngtp.lab`, its link and a bystander.
pub type Scene = (Lab, Peer, RouterLink, Bystander);

pub async fn scene() -> Scene {
    configured_scene(|_| {}).await
}

pub async fn configured_scene(configure: impl FnOnce(&mut EdgeConfig)) -> Scene {
    scene_with(configure, |live| live).await
}

pub async fn scene_with(configure: impl FnOnce(&mut EdgeConfig), prepare: impl FnOnce(Live) -> Live) -> Scene {
    let (peer, other) = (Peer::new("vngtp.lab").await, Peer::new(Bystander::DOMAIN).await);
    let router = Router::new().await;
    let mut config = config(&[&peer, &other], &[&router]);
    configure(&mut config);
    let lab = Lab::start(prepare(live(config)));
    let mut link = router.accept().await;
    let bystander = Bystander::new(&lab, other, &mut link).await;
    (lab, peer, link, bystander)
}
