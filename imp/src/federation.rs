//! IM&P's own XMPP federation, which must be off beside ours: what its services prove, and the
//! administrator's own check where they prove nothing.
//!
//! A started connection manager means On, one that is not activated (-1068) means Off, and a
//! stopped one nothing. Cisco publishes no table that tells, so the check is a query that the
//! administrator has found out and answers for; it is asked only while the services leave a node
//! open, in place of a read of the rows.

use super::axl::Axl;
use super::control_center::ImpFederation;
use super::desired::FederationCheck;
use super::error::{CallError, CallErrorKind};
use super::observation::{CheckAnswer, Observation};

/// Asks; an error is one of the call, which says nothing about the query.
pub async fn ask(axl: &mut Axl<'_>, check: &FederationCheck) -> Result<CheckAnswer, CallError> {
    let shown = |value: &str| -> String { value.chars().filter(|c| !c.is_control()).take(120).collect() };
    match axl.one_value(&check.query).await {
        Ok(Ok(value)) if value == check.off_value => Ok(CheckAnswer::Off),
        Ok(Ok(value)) => Ok(CheckAnswer::On(shown(&value))),
        Ok(Err(what)) => Ok(CheckAnswer::Unreadable(what.to_string())),
        Err(CallError {
            kind: CallErrorKind::Fault(fault),
            ..
        }) => Ok(CheckAnswer::Unreadable(format!(
            "it was answered with a fault: {fault}"
        ))),
        Err(error) => Err(error),
    }
}

impl Observation {
    /// The state at a node: by its service where that proves something, else by the check.
    pub fn federation(&self, node: &str) -> ImpFederation {
        let by_service = self.federation_by_service(node);
        let checked = self.federation_check.as_ref().map(|check| &check.seen.value);
        match (by_service, checked) {
            (ImpFederation::Unknown, Some(CheckAnswer::Off)) => ImpFederation::Off,
            (ImpFederation::Unknown, Some(CheckAnswer::On(_))) => ImpFederation::On,
            (state, _) => state,
        }
    }

    fn federation_by_service(&self, node: &str) -> ImpFederation {
        self.services
            .get(node)
            .map_or(ImpFederation::Unknown, |services| services.value.federation)
    }

    /// Whether the services were read and leave it open, so that the check has to be asked.
    pub fn federation_is_open(&self) -> bool {
        let states = || {
            self.node_list().iter().filter_map(|node| {
                let services = self.services.get(&node.name)?;
                Some(services.value.federation)
            })
        };
        states().any(|state| state == ImpFederation::Unknown) && !states().any(|state| state == ImpFederation::On)
    }
}
