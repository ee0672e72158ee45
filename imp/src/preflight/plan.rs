//! What is to be looked at.

use std::collections::BTreeMap;
use std::time::Duration;

use xmpp_federation_core::{ComponentId, SecretBytes};

use crate::access::{AxlVersion, Credentials, NodeAddress, SecretVersion, ServerTrust, Target};
use crate::resolve::SystemResolver;

/// How long a port may take to answer.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct UserPassword {
    pub username: String,
    pub password: SecretBytes,
}

#[derive(Debug, Clone)]
pub struct Accounts {
    pub axl: UserPassword,
    /// For Control Center, where it is another one.
    pub control_center: Option<UserPassword>,
}

#[derive(Debug, Clone)]
pub struct Plan {
    /// Host name or address of the publisher, lower case.
    pub publisher: String,
    /// TCP port of AXL and Control Center.
    pub port: u16,
    pub router_port: u16,
    pub axl_version: Option<AxlVersion>,
    /// Addresses by host name.
    pub addresses: BTreeMap<String, NodeAddress>,
    /// How certificates are judged; `None`: only looked at.
    pub trust: Option<ServerTrust>,
    /// The accounts; `None`: names, ports and certificates only.
    pub logins: Option<Accounts>,
    /// Ids that are going to be registered, where they are known.
    pub component_ids: Vec<ComponentId>,
    /// Whether a row that is not there is to be deleted.
    pub prove_write: bool,
    pub time_limit: Duration,
    pub call_limit: Duration,
    /// What finds hosts without a given address.
    pub resolver: SystemResolver,
}

impl Plan {
    /// The same in the words of the client; `None` where nothing may be asked.
    pub fn target(&self) -> Option<Target> {
        let (logins, trust) = (self.logins.as_ref()?, self.trust.as_ref()?);
        Some(Target {
            name: "preflight".to_owned(),
            publisher: self.publisher.clone(),
            port: self.port,
            axl_version: self.axl_version,
            addresses: self.addresses.clone(),
            axl: credentials(&logins.axl, "axl"),
            control_center: logins
                .control_center
                .as_ref()
                .map(|login| credentials(login, "control-center")),
            tls: trust.clone(),
        })
    }
}

fn credentials(login: &UserPassword, name: &str) -> Credentials {
    Credentials {
        secret: SecretVersion {
            namespace: "preflight".to_owned(),
            name: name.to_owned(),
            uid: name.to_owned(),
            resource_version: "1".to_owned(),
        },
        username: login.username.clone(),
        password: login.password.clone(),
    }
}
