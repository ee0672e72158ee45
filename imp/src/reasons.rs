//! Reasons of the conditions and events about IM and Presence; the documentation is generated from here.

/// Declares an enum of reasons: word, meaning and remedy, which is empty where nothing is to be done. A last line
/// `..Variant(Type)` takes in the reasons of another catalogue.
#[macro_export]
macro_rules! reasons {
    (
        $(#[$doc:meta])*
        $Reason:ident {
            $($name:ident: $meaning:literal, $remedy:literal;)*
            $(..$other:ident($Other:ty))?
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $Reason {
            $(#[doc = $meaning] $name,)*
            $(/// One of the other catalogue.
            $other($Other),)?
        }

        impl $Reason {
            /// The reasons declared here, in the catalogue's order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word as it stands in a condition or event.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                    $(Self::$other(reason) => reason.as_str(),)?
                }
            }

            /// What it means.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning,)*
                    $(Self::$other(reason) => reason.meaning(),)?
                }
            }

            /// What to do; empty where nothing is to be done.
            pub const fn remedy(self) -> &'static str {
                match self {
                    $(Self::$name => $remedy,)*
                    $(Self::$other(reason) => reason.remedy(),)?
                }
            }
        }

        impl std::fmt::Display for $Reason {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        $(impl From<$Other> for $Reason {
            fn from(reason: $Other) -> Self {
                Self::$other(reason)
            }
        })?
    };
}

crate::reasons! {
    /// Why a condition about IM and Presence has its status, or what an event is about.
    Reason {
        Authenticated: "Both accounts were accepted.", "";
        NotTried: "Nothing has been asked yet.", "Wait for the first look.";
        Unauthorized: "HTTP 401: IM&P refuses name or password; this version of the Secret is not used again for an hour.", "Correct the Secret named in the message, try it at the test URL there.";
        Forbidden: "HTTP 403: the account lacks a role.", "Give it Standard AXL API Access (AXL) or a serviceability role (Control Center), as the message says.";
        Unreachable: "No answer, or no connection.", "Check name, port 8443 and the network between operator and IM&P.";
        CertificateRefused: "The tomcat certificate of IM&P is not accepted.", "Put its authority into imp[].tls.caSecretRef, or its fingerprint into pinnedSha256.";
        TlsHandshakeFailed: "No TLS connection to IM&P: it speaks only TLS 1.0 or 1.1 (releases before 11.5), or is no TLS server.", "Allow TLS 1.2 in IM&P or update it; check imp[].axl.port.";
        Throttled: "IM&P asked to wait: HTTP 503, or an exceeded rate.", "Wait; it is tried again by itself.";
        AxlVersionUnsupported: "No AXL version is answered.", "Check imp[].axl.version, and that the AXL service is activated.";
        SoapFault: "IM&P answered with a SOAP fault.", "Read the message; it is IM&P's.";
        BadAnswer: "The answer is not one of AXL or Control Center.", "Check that imp[].publisher names an IM&P publisher and no proxy stands between.";
        Registered: "All rows are there.", "";
        Registering: "Rows are being written.", "Wait.";
        Prepared: "spec.activation is Prepared: no rows are written.", "Set activation to Active at the cut-over.";
        ForeignComponents: "Rows of others stand in the table, another federation edge is registered.", "Turn that one off, or set imp[].foreignComponents to Tolerate.";
        IdenticalForeignRow: "A row with our component id was not written by this operator.", "Take it over with the annotation xmppfederation.io/adopt-rows, or remove it.";
        RowsVanished: "Rows of ours were removed twice: something else writes the table.", "Find the other writer (Expressway-C?), then ask for a look with xmppfederation.io/refresh.";
        ClaimedByAnother: "Another resource has this IM&P cluster.", "Delete one of the two, or set it to Prepared.";
        SameCluster: "Two entries of spec.imp lead to one cluster.", "Keep one of the two, with the domains of both.";
        OtherCluster: "The publisher's name leads to another cluster by now.", "Remove the rows named in the message by hand, where the old cluster still runs.";
        Maintenance: "imp[].maintenance is true: no writes, no restarts.", "Set it to false after the upgrade.";
        LedgerUnavailable: "The record of what was done to this cluster cannot be read or written; nothing is done without it.", "Check the operator's right to ConfigMaps in its namespace.";
        NodeListUnusable: "IM&P's node list is empty or has no publisher.", "Check the account's rights and that imp[].publisher is the publisher.";
        InSync: "All routers provably read the rows.", "";
        Propagating: "The rows are on their way to all nodes.", "Wait for imp[].restart.propagationDelay.";
        Restarting: "A router restart is under way or next.", "Wait.";
        RestartByHand: "Routers wait to be restarted by a person, because the mode is Manual.", "Restart Cisco XCP Router on the nodes named in the message.";
        RestartRefused: "IM&P refuses to restart the router over its interface.", "Restart it by hand as the message says.";
        RestartOutcomeUnknown: "A restart command may or may not have arrived.", "Look at the node; ask for another one with xmppfederation.io/restart-routers.";
        RestartHangs: "A restart did not finish.", "Look at the node's services in Cisco Unified IM and Presence Serviceability.";
        MinInterval: "The node was restarted less than imp[].restart.minInterval ago.", "Wait, or ask with xmppfederation.io/restart-routers.";
        WaitingForWindow: "Routers are restarted when the window of imp[].restart opens.", "Wait until the time in the message, or ask with xmppfederation.io/restart-routers.";
        NodeNotHealthy: "Another node has to be healthy and readable first.", "Bring the node named in the message back.";
        WaitingForFirstLink: "The first restarted node's link has to work before the next one is restarted.", "Check TCP 7400 and imp[].router.secretRef if it does not come up.";
        StillBouncingAfterRestart: "A router that provably read the rows returns everything that is sent to it.", "Check the table on that node; Cisco's last resort is a reboot of the cluster's nodes by an administrator.";
        NotAnnouncedAsGateway: "Profile Xcp: another link of the edge sees that a router that was restarted announces a component without default-gateway.", "Check Cisco XCP Config Manager on the node in the message, then ask with xmppfederation.io/restart-routers.";
        Unproven: "Nothing is proven about the routers.", "Wait for the next look; the message says what is missing.";
        NotActivated: "IM&P's own XMPP federation is off, as it must be.", "";
        FederationOn: "IM&P's own XMPP federation is on.", "Turn it off: Presence > Inter-Domain Federation > XMPP Federation > Settings.";
        NotProven: "Its service is stopped or cannot be read, which proves nothing.", "Look at Presence > Inter-Domain Federation > XMPP Federation > Settings.";
        RowInserted: "Event: a row was inserted, or not.", "";
        RowDeleted: "Event: a row was deleted, or not.", "";
        RowAdopted: "Event: a row was taken over.", "";
        RouterRestart: "Event: a restart was commanded, with its reason and answer.", "";
        RouterBack: "Event: a router that was restarted is back, with its up times before and after.", "";
        RouterInSync: "Event: a router is back and has read the rows.", "";
        NodeRemoved: "Event: IM&P's node list does not name a node any more.", "Look at System > Server where that was not meant.";
        RestartWouldClean: "Event: rows are gone, and routers know them until they are restarted.", "Restart the routers at a quiet hour, if at all.";
    }
}
