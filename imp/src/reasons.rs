//! Reasons of the conditions and events about IM and Presence; the documentation is generated from here.

/// One reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason {
    /// The word as it stands in a condition or event.
    pub word: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What to do; empty where nothing is to be done.
    pub remedy: &'static str,
}

/// Declares the reasons: constant, word, meaning, remedy.
macro_rules! reasons {
    ($($name:ident = $word:literal: $meaning:literal, $remedy:literal;)*) => {
        $(#[doc = $meaning] pub const $name: &str = $word;)*
        /// All of them, in the catalogue's order.
        pub const ALL: &[Reason] = &[$(Reason { word: $word, meaning: $meaning, remedy: $remedy },)*];
    };
}

reasons! {
    AUTHENTICATED = "Authenticated": "Both accounts were accepted.", "";
    NOT_TRIED = "NotTried": "Nothing has been asked yet.", "Wait for the first look.";
    UNAUTHORIZED = "Unauthorized": "HTTP 401: IM&P refuses name or password; this version of the Secret is not used again for an hour.", "Correct the Secret named in the message, try it at the test URL there.";
    FORBIDDEN = "Forbidden": "HTTP 403: the account lacks a role.", "Give it Standard AXL API Access (AXL) or a serviceability role (Control Center), as the message says.";
    UNREACHABLE = "Unreachable": "No answer, or no connection.", "Check name, port 8443 and the network between operator and IM&P.";
    CERTIFICATE_REFUSED = "CertificateRefused": "The tomcat certificate of IM&P is not accepted.", "Put its authority into imp[].tls.caSecretRef, or its fingerprint into pinnedSha256.";
    TLS_FAILED = "TlsHandshakeFailed": "No TLS connection to IM&P: it speaks only TLS 1.0 or 1.1 (releases before 11.5), or is no TLS server.", "Allow TLS 1.2 in IM&P or update it; check imp[].axl.port.";
    THROTTLED = "Throttled": "IM&P asked to wait: HTTP 503, or an exceeded rate.", "Wait; it is tried again by itself.";
    VERSION_UNSUPPORTED = "AxlVersionUnsupported": "No AXL version is answered.", "Check imp[].axl.version, and that the AXL service is activated.";
    FAULT = "SoapFault": "IM&P answered with a SOAP fault.", "Read the message; it is IM&P's.";
    BAD_ANSWER = "BadAnswer": "The answer is not one of AXL or Control Center.", "Check that imp[].publisher names an IM&P publisher and no proxy stands between.";
    REGISTERED = "Registered": "All rows are there.", "";
    REGISTERING = "Registering": "Rows are being written.", "Wait.";
    PREPARED = "Prepared": "spec.activation is Prepared: no rows are written.", "Set activation to Active at the cut-over.";
    FOREIGN_COMPONENTS = "ForeignComponents": "Rows of others stand in the table, another federation edge is registered.", "Turn that one off, or set imp[].foreignComponents to Tolerate.";
    IDENTICAL_FOREIGN_ROW = "IdenticalForeignRow": "A row with our component id was not written by this operator.", "Take it over with the annotation xmppfederation.io/adopt-rows, or remove it.";
    ROWS_VANISHED = "RowsVanished": "Rows of ours were removed twice: something else writes the table.", "Find the other writer (Expressway-C?), then ask for a look with xmppfederation.io/refresh.";
    CLAIMED = "ClaimedByAnother": "Another resource has this IM&P cluster.", "Delete one of the two, or set it to Prepared.";
    SAME_CLUSTER = "SameCluster": "Two entries of spec.imp lead to one cluster.", "Keep one of the two, with the domains of both.";
    OTHER_CLUSTER = "OtherCluster": "The publisher's name leads to another cluster by now.", "Remove the rows named in the message by hand, where the old cluster still runs.";
    MAINTENANCE = "Maintenance": "imp[].maintenance is true: no writes, no restarts.", "Set it to false after the upgrade.";
    LEDGER_UNAVAILABLE = "LedgerUnavailable": "The record of what was done to this cluster cannot be read or written; nothing is done without it.", "Check the operator's right to ConfigMaps in its namespace.";
    NODE_LIST = "NodeListUnusable": "IM&P's node list is empty or has no publisher.", "Check the account's rights and that imp[].publisher is the publisher.";
    IN_SYNC = "InSync": "All routers provably read the rows.", "";
    PROPAGATING = "Propagating": "The rows are on their way to all nodes.", "Wait for imp[].restart.propagationDelay.";
    RESTARTING = "Restarting": "A router restart is under way or next.", "Wait.";
    RESTART_BY_HAND = "RestartByHand": "Routers wait to be restarted by a person, because the mode is Manual.", "Restart Cisco XCP Router on the nodes named in the message.";
    RESTART_REFUSED = "RestartRefused": "IM&P refuses to restart the router over its interface.", "Restart it by hand as the message says.";
    RESTART_OUTCOME_UNKNOWN = "RestartOutcomeUnknown": "A restart command may or may not have arrived.", "Look at the node; ask for another one with xmppfederation.io/restart-routers.";
    RESTART_HANGS = "RestartHangs": "A restart did not finish.", "Look at the node's services in Cisco Unified IM and Presence Serviceability.";
    MIN_INTERVAL = "MinInterval": "The node was restarted less than imp[].restart.minInterval ago.", "Wait, or ask with xmppfederation.io/restart-routers.";
    RESTART_WINDOW = "WaitingForWindow": "Routers are restarted when the window of imp[].restart opens.", "Wait until the time in the message, or ask with xmppfederation.io/restart-routers.";
    NODE_NOT_HEALTHY = "NodeNotHealthy": "Another node has to be healthy and readable first.", "Bring the node named in the message back.";
    CANARY = "WaitingForFirstLink": "The first restarted node's link has to work before the next one is restarted.", "Check TCP 7400 and imp[].router.secretRef if it does not come up.";
    STILL_BOUNCING = "StillBouncingAfterRestart": "A router that provably read the rows returns everything that is sent to it.", "Check the table on that node; Cisco's last resort is a reboot of the cluster's nodes by an administrator.";
    NOT_ANNOUNCED = "NotAnnouncedAsGateway": "Profile Xcp: another link of the edge sees that a router that was restarted announces a component without default-gateway.", "Check Cisco XCP Config Manager on the node in the message, then ask with xmppfederation.io/restart-routers.";
    UNPROVEN = "Unproven": "Nothing is proven about the routers.", "Wait for the next look; the message says what is missing.";
    FEDERATION_OFF = "NotActivated": "IM&P's own XMPP federation is off, as it must be.", "";
    FEDERATION_ON = "FederationOn": "IM&P's own XMPP federation is on.", "Turn it off: Presence > Inter-Domain Federation > XMPP Federation > Settings.";
    FEDERATION_UNKNOWN = "NotProven": "Its service is stopped or cannot be read, which proves nothing.", "Look at Presence > Inter-Domain Federation > XMPP Federation > Settings.";
    ROW_INSERTED = "RowInserted": "Event: a row was inserted, or not.", "";
    ROW_DELETED = "RowDeleted": "Event: a row was deleted, or not.", "";
    ROW_ADOPTED = "RowAdopted": "Event: a row was taken over.", "";
    ROUTER_RESTART = "RouterRestart": "Event: a restart was commanded, with its reason and answer.", "";
    ROUTER_BACK = "RouterBack": "Event: a router that was restarted is back, with its up times before and after.", "";
    ROUTER_IN_SYNC = "RouterInSync": "Event: a router is back and has read the rows.", "";
    NODE_REMOVED = "NodeRemoved": "Event: IM&P's node list does not name a node any more.", "Look at System > Server where that was not meant.";
    RESTART_WOULD_CLEAN = "RestartWouldClean": "Event: rows are gone, and routers know them until they are restarted.", "Restart the routers at a quiet hour, if at all.";
}
