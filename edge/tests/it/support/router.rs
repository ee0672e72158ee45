//! An XCP router.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::{PATIENCE, Peer, Speaker, attribute, to_bob};

pub const COMPONENT: &str = "cm-2_s2scp-1.eft-xwye-a-coluc-com";

/// An XCP router: handshake, echo of pings, everything else is heard through a channel.
pub struct Router {
    pub listener: TcpListener,
}

/// One link as the router sees it.
pub struct RouterLink {
    pub heard: mpsc::UnboundedReceiver<String>,
    say: mpsc::UnboundedSender<String>,
    pub echo: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Router {
    pub async fn new() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    pub async fn accept(&self) -> RouterLink {
        RouterLink::start(self.accept_stream().await)
    }

    /// A link that is up and that nobody reads yet.
    pub async fn accept_stream(&self) -> Speaker {
        let mut speaker = self.accept_header().await;
        let handshake = speaker.hear("</handshake>").await;
        // SHA-1("router-stream" + "router-secret")
        assert!(
            handshake.contains("d66b21135a20916ec1e6ab86b00e7cc9445f3264"),
            "{handshake}"
        );
        speaker.say("<handshake/>").await;
        speaker
    }

    pub async fn accept_header(&self) -> Speaker {
        let mut speaker = self.accept_tcp().await;
        let opened = speaker.hear("accept'").await + &speaker.hear(">").await;
        assert_eq!(attribute(&opened, "stream:stream", "to"), COMPONENT);
        speaker
            .say(&format!(
                "<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' \
                 xmlns:stream='http://etherx.jabber.org/streams' from='{COMPONENT}' id='router-stream'>"
            ))
            .await;
        speaker
    }

    pub async fn accept_tcp(&self) -> Speaker {
        let (tcp, _) = timeout(PATIENCE, self.listener.accept())
            .await
            .expect("the edge did not dial the router")
            .unwrap();
        Speaker::new(tcp)
    }

    /// Profile Xcp: a link that was accepted, whose component has announced itself.
    pub async fn accept_xcp_stream(&self) -> Speaker {
        let mut speaker = self.accept_tcp().await;
        let opened = speaker.hear("<stream:stream").await + &speaker.hear(">").await;
        assert_eq!(
            opened,
            format!(
                "<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' \
                 xmlns:stream='http://etherx.jabber.org/streams' to='{COMPONENT}' id='{COMPONENT}' version='1.0'>"
            )
        );
        speaker
            .say(&format!(
                "<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' \
                 xmlns='jabber:component:accept' from='{COMPONENT}' id='65f0c3a1' \
                 xmlns:jd='http://jabber.com/config/jabberd' jd:realm='jabber'><stream:features/>"
            ))
            .await;
        // SHA-1("65f0c3a1" + "router-secret")
        assert_eq!(
            speaker.hear("</handshake>").await,
            "<handshake>c53c932f23615d1856c351e88a8c5527a38e3f20</handshake>"
        );
        speaker.say("<handshake/>").await;
        assert_eq!(
            speaker.hear("</route>").await,
            format!(
                "<route from='{COMPONENT}' to='presence@-internal' type='component-presence'>\
                 <presence from='{COMPONENT}' to='presence@-internal'>\
                 <x xmlns='http://www.jabber.com/schemas/component-presence.xsd' protocol-version='1.1'/>\
                 </presence></route>"
            )
        );
        speaker
    }

    /// Profile Xcp: a link that was accepted and hears of the router's own connection manager.
    pub async fn accept_xcp(&self) -> RouterLink {
        let mut speaker = self.accept_xcp_stream().await;
        speaker.say(&announced("cm-1.jabber", "<local-hosts/>")).await;
        RouterLink::start(speaker)
    }
}

/// What a router says of the component that is its way to foreign domains.
pub const GATEWAY: &str = "<local-hosts><host>cm-2_s2scp-1.eft-xwye-a-coluc-com</host></local-hosts><default-gateway/>";

/// A router's announcement of a component.
pub fn announced(component: &str, inside: &str) -> String {
    format!(
        "<route from='{component}' to='{COMPONENT}' type='component-presence'>\
         <presence from='{component}' to='{COMPONENT}'>\
         <x xmlns='http://www.jabber.com/schemas/component-presence.xsd' protocol-version='1.1'>{inside}</x>\
         </presence></route>"
    )
}

impl RouterLink {
    pub fn start(speaker: Speaker) -> Self {
        Self::start_at(speaker, f64::INFINITY)
    }

    /// The same with a router that processes only so many stanzas in a second.
    pub fn start_at(speaker: Speaker, per_second: f64) -> Self {
        let each = Duration::from_secs_f64(per_second.recip());
        let (heard_tx, heard) = mpsc::unbounded_channel();
        let (say, mut say_rx) = mpsc::unbounded_channel::<String>();
        let echo = Arc::new(AtomicBool::new(true));
        let echoing = echo.clone();
        let task = tokio::spawn(async move {
            let (io, mut heard) = speaker.into_parts();
            let (mut read, mut write) = tokio::io::split(io);
            let mut bytes = vec![0; 64 * 1024];
            let mut due = Instant::now();
            loop {
                while let Some(end) = end_of_first_element(&heard) {
                    let rest = heard.split_off(end);
                    let element = std::mem::replace(&mut heard, rest);
                    let is_ping = element.starts_with("<iq") || element.starts_with("<route");
                    if is_ping && element.contains("id='proof-") {
                        if echoing.load(Ordering::SeqCst) {
                            let _ = write.write_all(element.as_bytes()).await;
                        }
                    } else {
                        due = due.max(Instant::now()) + each;
                        if due > Instant::now() + Duration::from_millis(5) {
                            tokio::time::sleep_until(due).await;
                        }
                        let _ = heard_tx.send(element);
                    }
                }
                tokio::select! {
                    read = read.read(&mut bytes) => match read {
                        Ok(0) | Err(_) => return,
                        Ok(n) => heard.push_str(&String::from_utf8_lossy(&bytes[..n])),
                    },
                    said = say_rx.recv() => match said {
                        Some(text) if text.is_empty() => return,
                        Some(text) => { let _ = write.write_all(text.as_bytes()).await; }
                        None => return,
                    },
                }
            }
        });
        Self { heard, say, echo, task }
    }

    pub fn say(&self, text: &str) {
        let _ = self.say.send(text.to_owned());
    }

    /// A way to say something from another task.
    pub fn sayer(&self) -> impl Fn(&str) + Send + 'static {
        let say = self.say.clone();
        move |text| {
            let _ = say.send(text.to_owned());
        }
    }

    /// The next element that is no ping.
    pub async fn hear(&mut self) -> String {
        timeout(PATIENCE, self.heard.recv())
            .await
            .expect("nothing came over the link")
            .expect("the link ended")
    }

    pub async fn stays_silent(&mut self, time: Duration) {
        let heard = timeout(time, self.heard.recv()).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    /// The edge ends the link, and so does the router.
    pub async fn ends(&mut self) {
        assert_eq!(self.hear().await, "</stream:stream>");
        self.say("</stream:stream>");
        self.say("");
    }

    /// A stream for stanzas of coluc.com to this peer, opened by a message with this id.
    pub async fn opens(&self, peer: &Peer, id: &str) -> Speaker {
        self.say(&to_bob(id));
        let mut stream = peer.accept_authenticated("coluc.com").await;
        stream.hear(&format!("id='{id}'/>")).await;
        stream
    }

    /// Breaks the connection without a word; gives what had been taken by then.
    pub async fn cut(mut self) -> Vec<String> {
        self.task.abort();
        let _ = self.task.await;
        let mut taken = Vec::new();
        while let Ok(element) = self.heard.try_recv() {
            taken.push(element);
        }
        taken
    }
}

/// Where the first element of the edge's plain output ends; texts hold no `<`.
pub fn end_of_first_element(xml: &str) -> Option<usize> {
    if xml.starts_with("</stream:stream>") {
        return Some("</stream:stream>".len());
    }
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(open) = xml[at..].find('<') {
        let start = at + open;
        if xml[start..].starts_with("<![CDATA[") {
            at = start + xml[start..].find("]]>")? + 3;
            continue;
        }
        let end = start + xml[start..].find('>')? + 1;
        let tag = &xml[start..end];
        if tag.starts_with("</") {
            depth -= 1;
        } else if !tag.ends_with("/>") {
            depth += 1;
        }
        if depth == 0 {
            return Some(end);
        }
        at = end;
    }
    None
}
