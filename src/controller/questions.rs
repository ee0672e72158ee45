//! What observers are asked, and what they answer.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::records::{NameAddresses, RecordStatus, ResolverError, Wanted};
use xmpp_federation_imp::access::Host;
use xmpp_federation_imp::desired::Desired;
use xmpp_federation_imp::report::{Removal, Report};

/// What a cluster of IM and Presence is asked for.
#[derive(Debug, Clone)]
pub enum ClusterQuestion {
    /// One step towards what is wanted.
    Reconcile(Arc<Desired>),
    /// One step of removing our rows.
    Remove(Arc<Desired>),
}

impl PartialEq for ClusterQuestion {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Reconcile(a), Self::Reconcile(b)) | (Self::Remove(a), Self::Remove(b)) => a.asks_the_same(b),
            _ => false,
        }
    }
}

impl ClusterQuestion {
    /// What is wanted.
    pub const fn desired(&self) -> &Arc<Desired> {
        match self {
            Self::Reconcile(desired) | Self::Remove(desired) => desired,
        }
    }
}

/// The answer to a question.
#[derive(Debug)]
pub enum ClusterAnswer {
    /// The state of the cluster.
    Reconcile(Arc<Report>),
    /// How far the removal is.
    Remove(Box<Removal>),
}

/// Which public records are looked up, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordsQuestion {
    pub wanted: Wanted,
    pub resolvers: Vec<IpAddr>,
    /// The request for a refresh that this serves.
    pub refresh: Option<String>,
}

/// What was found, or why nothing can be asked.
#[derive(Debug)]
pub struct RecordsAnswer {
    pub found: Result<Vec<RecordStatus>, ResolverError>,
    /// What the names of load balancers lead to.
    pub names: Vec<NameAddresses>,
    /// Looks in a row that found the same.
    pub repeats: u32,
}

/// The nodes of one cluster, and the hosts that the spec gives by node name in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutersQuestion {
    pub nodes: Vec<String>,
    pub given: BTreeMap<String, Host>,
}
