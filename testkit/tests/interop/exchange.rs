//! One message from one user to another, and what became of it.

use std::time::Duration;

use testkit_acceptance::users::User;
use testkit_base::Error;
use uuid::Uuid;

/// Longer than the edge's and the servers' own time-outs of 30 s: silence is theirs, not our haste.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It arrived as it was sent.
    Delivered,
    /// It came back with this condition.
    Bounced(String),
    /// Neither within [`PATIENCE`]
    Silence,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Delivered => write!(f, "delivered"),
            Self::Bounced(condition) => write!(f, "{condition}"),
            Self::Silence => write!(f, "silence"),
        }
    }
}

/// Sends a message and waits for it at the receiver, or for an error at the sender.
pub async fn message(sender: &User, receiver: &User) -> Result<Outcome, Error> {
    let id = format!("interop-{}", Uuid::new_v4().simple());
    let (sent_from, seen_from) = (sender.position().await?, receiver.position().await?);
    sender
        .send(&format!(
            "<message to='{}' id='{id}' type='chat'><body>Grüße {id}</body></message>",
            receiver.jid()
        ))
        .await?;
    let body = format!("Grüße {id}");
    let arrives = receiver.expect(seen_from, "the message", PATIENCE, |stanza| {
        stanza.id == id && stanza.kind != "error" && stanza.body == body
    });
    let bounces = sender.expect(sent_from, "an error", PATIENCE, |stanza| {
        stanza.id == id && stanza.kind == "error"
    });
    Ok(tokio::select! {
        Ok(_) = arrives => Outcome::Delivered,
        Ok(stanza) = bounces => {
            Outcome::Bounced(stanza.error_condition().unwrap_or_else(|| "an error without condition".to_owned()))
        }
        else => Outcome::Silence,
    })
}
