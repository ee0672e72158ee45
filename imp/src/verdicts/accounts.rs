//! `AxlAuthenticated`: which interface refuses which account, what is known to be right with that account,
//! and what does not work until somebody corrects it.
//!
//! Symptom one of Cisco's guide: AXL answers 401, messages go one way only, and IM&P's status
//! still shows Active.

use super::ReportInput;
use crate::access::ServerTrust;
use crate::desired::Desired;
use crate::error::{CallError, CallErrorKind, Interface};
use crate::reasons::Reason;
use crate::report::Verdict;
use crate::text::names;

impl<'a> ReportInput<'a> {
    pub(super) fn axl_authenticated(&self) -> Verdict {
        if let Some(error) = self.setup_error {
            return Reason::CertificateRefused.no(error);
        }
        let control_center = self
            .seen
            .control_center_failures
            .values()
            .map(|failure| &failure.error)
            .find(|error| error.is_about_account());
        let axl = self.seen.axl_failure.as_ref().map(|failure| &failure.error);
        if let Some(error) = axl {
            let mut message = self.refused(error);
            if let Some(other) = control_center.filter(|_| !one_account(self.desired)) {
                message += ". Also: ";
                message += &self.refused(other);
            }
            return error.reason().no(message);
        }
        if let Some(error) = control_center {
            return error.reason().no(self.refused(error));
        }
        if self.seen.nodes.is_none() {
            return Reason::NotTried.unknown(format!(
                "AXL at {} has not been asked yet",
                self.desired.target.publisher
            ));
        }
        self.accepted()
    }

    fn accepted(&self) -> Verdict {
        let (reached, unreached): (Vec<_>, Vec<_>) = self
            .seen
            .node_list()
            .iter()
            .map(|node| node.name.as_str())
            .partition(|name| {
                self.seen.services.contains_key(*name) && !self.seen.control_center_failures.contains_key(*name)
            });
        let mut message = format!(
            "AXL {} at {} accepts the user of Secret {}",
            self.axl_version.map(|version| version.to_string()).unwrap_or_default(),
            self.desired.target.publisher,
            self.desired.target.axl.secret
        );
        if !reached.is_empty() {
            message += "; Control Center of ";
            message += &names(reached.into_iter());
            message += " too";
        }
        if self.rests() {
            message += "; nothing else is read there by this resource";
        } else if !unreached.is_empty() {
            message += "; Control Center of ";
            message += &names(unreached.into_iter());
            message += " has not answered";
        }
        let strangers = self.strange_overrides();
        if !strangers.is_empty() {
            message += "; imp[].nodes gives addresses to ";
            message += &names(strangers.into_iter());
            message += ", which IM&P does not list as nodes: its nodes are ";
            message += &names(self.seen.node_list().iter().map(|node| node.name.as_str()));
        }
        if matches!(self.desired.target.tls, ServerTrust::Insecure) {
            message += "; certificates are not verified (imp[].tls.insecureSkipVerify)";
        }
        Reason::Authenticated.yes(message)
    }

    /// Names with an address of their own that belong to no node.
    fn strange_overrides(&self) -> Vec<&'a str> {
        let target = &self.desired.target;
        let known = |name: &str| name == target.publisher || self.seen.node_list().iter().any(|node| node.name == name);
        let given = target.addresses.keys().map(String::as_str);
        given.filter(|name| !known(name)).collect()
    }

    /// The error, and for an account what the other interface tells about it.
    fn refused(&self, error: &CallError) -> String {
        let mut message = error.to_string();
        if error.is_about_account() {
            for more in [self.field(error), self.other(error), cause(error)] {
                if !more.is_empty() {
                    message += ". ";
                    message += &more;
                }
            }
            message += match error.interface {
                Interface::Axl => {
                    ". Until then no row is read or written: what is registered goes on, and where rows are missing messages go one way only, although IM&P shows its side as active"
                }
                Interface::ControlCenter => {
                    ". Until then the operator neither restarts routers nor sees what they do; rows and messages go on"
                }
            };
        }
        message
    }

    /// Which field names the Secret, and which keys it has to have.
    fn field(&self, error: &CallError) -> String {
        let separate = self.desired.target.control_center.is_some();
        let field = match error.interface {
            Interface::ControlCenter if separate => "imp[].controlCenterCredentialsSecretRef",
            _ => "imp[].credentialsSecretRef",
        };
        format!("The Secret is that of {field}, keys username and password")
    }

    /// What the other interface says about the account.
    fn other(&self, error: &CallError) -> String {
        let one = one_account(self.desired);
        let forbidden = error.kind == CallErrorKind::Forbidden;
        match error.interface {
            Interface::Axl => {
                let accepted: Vec<&str> = self
                    .seen
                    .node_list()
                    .iter()
                    .map(|node| node.name.as_str())
                    .filter(|name| {
                        self.seen.services.contains_key(*name) && !self.seen.control_center_failures.contains_key(*name)
                    })
                    .collect();
                let nodes = names(accepted.iter().copied());
                match (one, accepted.is_empty(), forbidden) {
                    (_, _, true) => "Name and password are right, or it would have been a 401".to_owned(),
                    (true, true, _) => {
                        "Control Center is asked with the same account, so it is not asked either".to_owned()
                    }
                    (true, false, _) => format!(
                        "Control Center of {nodes} accepted the same account before, so its password was changed or it was locked since; it is not asked there either"
                    ),
                    (false, true, _) => {
                        "Control Center has an account of its own, which this says nothing about".to_owned()
                    }
                    (false, false, _) => {
                        format!("Control Center of {nodes} accepts its own account, so IM&P itself is well")
                    }
                }
            }
            Interface::ControlCenter => {
                let accepted = self.seen.nodes.is_some() && self.seen.axl_failure.is_none();
                match (one && accepted, forbidden) {
                (_, true) => "Name and password are right, or it would have been a 401".to_owned(),
                (true, _) => "AXL accepted the same account before, so its password was changed or it was locked since, or this node does not have it by replication yet".to_owned(),
                (false, _) if accepted => "AXL accepts its own account, so IM&P itself is well".to_owned(),
                (false, _) => String::new(),
            }
            }
        }
    }
}

/// Whether both interfaces are asked with one user and password, be it from two Secrets.
fn one_account(desired: &Desired) -> bool {
    let axl = &desired.target.axl;
    desired
        .target
        .control_center
        .as_ref()
        .is_none_or(|other| other.username == axl.username && other.password.expose() == axl.password.expose())
}

/// What a 401 may mean beside a wrong password.
fn cause(error: &CallError) -> String {
    if error.kind == CallErrorKind::Forbidden {
        return String::new();
    }
    "An account that IM&P has locked is answered 401 too: IM&P's administration shows and ends that at User Management > Application User > Edit Credential".to_owned()
}

#[cfg(test)]
mod tests;
