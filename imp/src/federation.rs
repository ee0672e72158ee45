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
use super::observation::{Checked, Observation};

/// Asks; an error is one of the call, which says nothing about the query.
pub async fn ask(axl: &mut Axl<'_>, check: &FederationCheck) -> Result<Checked, CallError> {
    let shown = |value: &str| -> String { value.chars().filter(|c| !c.is_control()).take(120).collect() };
    match axl.one_value(&check.query).await {
        Ok(Ok(value)) if value == check.off_value => Ok(Checked::Off),
        Ok(Ok(value)) => Ok(Checked::On(shown(&value))),
        Ok(Err(what)) => Ok(Checked::Unreadable(what)),
        Err(CallError {
            kind: CallErrorKind::Fault(fault),
            ..
        }) => Ok(Checked::Unreadable(format!("it was answered with a fault: {fault}"))),
        Err(error) => Err(error),
    }
}

impl Observation {
    /// The state at a node: by its service where that proves something, else by the check.
    pub fn federation(&self, node: &str) -> ImpFederation {
        let by_service = self.federation_by_service(node);
        let checked = self.federation_check.as_ref().map(|check| &check.seen.value);
        match (by_service, checked) {
            (ImpFederation::Unknown, Some(Checked::Off)) => ImpFederation::Off,
            (ImpFederation::Unknown, Some(Checked::On(_))) => ImpFederation::On,
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
