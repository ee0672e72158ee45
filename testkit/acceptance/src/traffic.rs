//! Exchanges between alice@coluc.com and bob@vngtp.lab: one of each kind, and many at once with an account of every message.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::report::{Talk, ensure};
use super::users::User;
use testkit_base::Error;

/// How long a single stanza may take; the first one waits for DNS, TLS and dialback.
const PATIENCE: Duration = Duration::from_secs(20);

fn unique(what: &str) -> String {
    format!("{what}-{}", Uuid::new_v4().simple())
}

/// One message each way; the body must arrive as it was sent.
pub async fn messages(talk: Talk, alice: &User, bob: &User) -> Result<(), Error> {
    for (sender, receiver) in [(alice, bob), (bob, alice)] {
        let id = unique("message");
        let body = format!("Grüße & <tags> {id}");
        let seq = receiver.position().await?;
        let began = Instant::now();
        sender
            .send(&format!(
                "<message to='{}' id='{id}' type='chat'><body>{}</body></message>",
                receiver.jid(),
                body.replace('&', "&amp;").replace('<', "&lt;")
            ))
            .await?;
        let got = receiver
            .expect(seq, "the message", PATIENCE, |stanza| stanza.id == id)
            .await?;
        ensure(got.name == "message" && got.kind == "chat", || {
            format!("not a chat message any more: {}", got.xml())
        })?;
        ensure(got.body == body, || {
            format!("sent the body {body:?}, received {:?}", got.body)
        })?;
        ensure(bare(&got.from) == sender.jid(), || {
            format!("the message claims to be from {}", got.from)
        })?;
        talk.fact(
            &format!("message {} → {}", sender.jid(), receiver.jid()),
            format_args!("{:?} in {} ms", got.body, began.elapsed().as_millis()),
        );
    }
    Ok(())
}

/// A presence subscription each way, asked and granted; withdrawn at the end, so that it can be played again.
pub async fn subscriptions(talk: Talk, alice: &User, bob: &User) -> Result<(), Error> {
    for (asker, granter) in [(bob, alice), (alice, bob)] {
        let seq = granter.position().await?;
        let asked_from = asker.position().await?;
        presence(asker, granter, "subscribe").await?;
        granter
            .expect(seq, "the subscription request", PATIENCE, |stanza| {
                stanza.name == "presence" && stanza.kind == "subscribe" && bare(&stanza.from) == asker.jid()
            })
            .await?;
        presence(granter, asker, "subscribed").await?;
        asker
            .expect(asked_from, "the granted subscription", PATIENCE, |stanza| {
                stanza.name == "presence" && stanza.kind == "subscribed" && bare(&stanza.from) == granter.jid()
            })
            .await?;
        talk.fact(
            &format!("subscription {} → {}", asker.jid(), granter.jid()),
            "asked and granted",
        );
    }
    for (asker, granter) in [(bob, alice), (alice, bob)] {
        presence(asker, granter, "unsubscribe").await?;
    }
    Ok(())
}

async fn presence(from: &User, to: &User, kind: &str) -> Result<(), Error> {
    let stanza = format!("<presence to='{}' type='{kind}'/>", to.jid());
    from.send(&stanza).await
}

/// A ping each way, answered by the other side.
pub async fn pings(talk: Talk, alice: &User, bob: &User) -> Result<(), Error> {
    // Prosody answers for a bare JID itself; the full one leads to bob's own client.
    let bob_session = bob.full_jid().await?;
    for (asker, asked) in [(alice, bob_session.as_str()), (bob, alice.jid())] {
        let began = Instant::now();
        iq(asker, asked, "<ping xmlns='urn:xmpp:ping'/>").await?;
        talk.fact(
            &format!("IQ ping {} → {asked}", asker.jid()),
            format_args!("result in {} ms", began.elapsed().as_millis()),
        );
    }
    Ok(())
}

/// Sends an IQ get and waits for its result.
async fn iq(asker: &User, to: &str, payload: &str) -> Result<(), Error> {
    let id = unique("iq");
    let seq = asker.position().await?;
    asker
        .send(&format!("<iq to='{to}' id='{id}' type='get'>{payload}</iq>"))
        .await?;
    let answer = asker
        .expect(seq, "the answer to its IQ", PATIENCE, |stanza| {
            stanza.name == "iq" && stanza.id == id
        })
        .await?;
    ensure(answer.kind == "result" && answer.from == to, || {
        format!(
            "{to} answered with {}",
            answer.error_condition().unwrap_or_else(|| answer.xml())
        )
    })
}

/// A message from the alias to bob, one back to it, and a query that the alias answers.
pub async fn conference(talk: Talk, alias: &User, bob: &User) -> Result<(), Error> {
    messages(talk, alias, bob).await?;
    iq(
        bob,
        alias.jid(),
        "<query xmlns='http://jabber.org/protocol/disco#info'/>",
    )
    .await?;
    talk.fact(&format!("disco#info {} → {}", bob.jid(), alias.jid()), "result");
    Ok(())
}

fn bare(jid: &str) -> &str {
    jid.split('/').next().unwrap_or(jid)
}

/// The account of a run of messages in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Accepted from the sender.
    pub sent: usize,
    /// Distinct messages in the receiver's inbox.
    pub delivered: usize,
    /// Messages that the sender was told about by an error, and that were not delivered.
    pub reported: usize,
    /// Delivered and reported at once: allowed, and counted.
    pub both: usize,
    /// Copies beyond the first in the receiver's inbox.
    pub duplicates: usize,
    /// Neither delivered nor reported.
    pub lost: usize,
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} sent = {} delivered + {} reported to the sender + {} lost; {} delivered and reported, {} duplicates",
            self.sent, self.delivered, self.reported, self.lost, self.both, self.duplicates
        )
    }
}

/// A run of messages from one user to another.
#[derive(Debug)]
pub struct Run {
    tag: String,
    count: usize,
    sender_from: u64,
    receiver_from: u64,
}

impl Run {
    /// Notes where both inboxes stand.
    pub async fn prepare(sender: &User, receiver: &User, count: usize) -> Result<Self, Error> {
        Ok(Self {
            tag: unique("run"),
            count,
            sender_from: sender.position().await?,
            receiver_from: receiver.position().await?,
        })
    }

    /// Sends them: `burst` at once, the rest `pause` apart. Returns how many the sender's server took.
    pub async fn send(&self, sender: &User, receiver: &User, burst: usize, pause: Duration) -> Result<usize, Error> {
        for number in 0..self.count {
            if number >= burst {
                tokio::time::sleep(pause).await;
            }
            let id = format!("{}-{number}", self.tag);
            sender
                .send(&format!(
                    "<message to='{}' id='{id}' type='chat'><body>{id}</body></message>",
                    receiver.jid()
                ))
                .await?;
        }
        Ok(self.count)
    }

    /// Reads both inboxes until every message is accounted for or `limit` is over.
    pub async fn settle(&self, sender: &User, receiver: &User, limit: Duration) -> Result<Account, Error> {
        let deadline = Instant::now() + limit;
        loop {
            let account = self.account(sender, receiver).await?;
            if account.lost == 0 || Instant::now() >= deadline {
                return Ok(account);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn account(&self, sender: &User, receiver: &User) -> Result<Account, Error> {
        let mut copies: BTreeMap<String, usize> = BTreeMap::new();
        for stanza in receiver.inbox(self.receiver_from, Duration::ZERO).await? {
            if stanza.kind != "error" && stanza.id.starts_with(&self.tag) && stanza.body == stanza.id {
                *copies.entry(stanza.id).or_default() += 1;
            }
        }
        let mut errors: BTreeMap<String, String> = BTreeMap::new();
        for stanza in sender.inbox(self.sender_from, Duration::ZERO).await? {
            if stanza.id.starts_with(&self.tag)
                && let Some(condition) = stanza.error_condition()
            {
                errors.insert(stanza.id, condition);
            }
        }
        let mut account = Account {
            sent: self.count,
            ..Account::default()
        };
        for number in 0..self.count {
            let id = format!("{}-{number}", self.tag);
            let copies = copies.get(&id).copied().unwrap_or(0);
            account.duplicates += copies.saturating_sub(1);
            match (copies > 0, errors.contains_key(&id)) {
                (true, reported) => {
                    account.delivered += 1;
                    account.both += usize::from(reported);
                }
                (false, true) => account.reported += 1,
                (false, false) => account.lost += 1,
            }
        }
        Ok(account)
    }
}

/// Messages both ways that must all be delivered, once each.
pub async fn unharmed(talk: Talk, alice: &User, bob: &User, count: usize) -> Result<(), Error> {
    let there = Run::prepare(alice, bob, count).await?;
    let back = Run::prepare(bob, alice, count).await?;
    let pause = Duration::from_millis(20);
    tokio::try_join!(there.send(alice, bob, 0, pause), back.send(bob, alice, 0, pause))?;
    for (run, sender, receiver) in [(&there, alice, bob), (&back, bob, alice)] {
        let account = run.settle(sender, receiver, PATIENCE).await?;
        talk.fact(&format!("{} → {}", sender.jid(), receiver.jid()), account);
        ensure(account.delivered == count && account.duplicates == 0, || {
            format!("{} → {}: {account}", sender.jid(), receiver.jid())
        })?;
    }
    Ok(())
}
