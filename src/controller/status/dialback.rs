//! `DialbackSecretReady`: the secret exists and all pods sign with it.

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use super::{Inputs, answering};
use crate::api::conditions::Verdict;
use crate::api::reasons::Reason;

pub(super) fn verdict(inputs: &Inputs<'_>) -> Verdict {
    let name = inputs.valid.owner.dialback();
    let secret = match &inputs.material.dialback {
        Err(error) => return Verdict::no(error.reason(), error.to_string()),
        Ok(dialback) => &dialback.secret,
    };
    let mark = mark(secret.expose());
    let stale: Vec<&str> = answering(&inputs.view.pods)
        .filter(|(_, status)| status.dialback_secrets.first().is_some_and(|m| *m != mark))
        .map(|(pod, _)| pod.name.as_str())
        .collect();
    if stale.is_empty() {
        Verdict::yes(Reason::AsWanted, format!("Secret {name}, the same in all pods"))
    } else {
        Verdict::no(
            Reason::ConfigNotLoaded,
            format!(
                "{} still sign with another secret than Secret {name} holds; they are being told",
                stale.join(", ")
            ),
        )
    }
}

/// A secret as the edge shows it: it can be compared, and gives nothing away.
pub(super) fn mark(secret: &[u8]) -> String {
    let twice = Sha256::digest(Sha256::digest(secret));
    HEXLOWER.encode(&twice).chars().take(16).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::testing::{status, verdict, world};
    use crate::api::conditions::{Status, Type};
    use serde_json::Value;

    #[test]
    fn a_pod_that_signs_with_another_secret_is_named() {
        let mut world = world("", Value::Null);
        status(&mut world).dialback_secrets = vec!["0123456789abcdef".to_owned()];
        let verdict = verdict(&world, Type::DialbackSecretReady);
        assert_eq!(verdict.status, Status::False);
        assert!(verdict.message.contains("coluc-edge-0"), "{}", verdict.message);
    }
}
