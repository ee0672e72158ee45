//! The catalogue of reasons: bounded words for conditions, events and metrics.
//!
//! Each carries its meaning and the usual remedy; the documentation is generated from here. Those
//! of IM and Presence stand in [`xmpp_federation_imp::reasons`].

use xmpp_federation_imp::reasons::Reason as ImpReason;

xmpp_federation_imp::reasons! {
    /// Why a condition has its status, or what an event is about.
    Reason {
        AsWanted: "Everything is as the spec wants it.", "";
        InProgress: "Work is under way.", "Wait; the message says for what.";
        NotLookedYet: "It has not been looked at yet.", "Wait for the first look.";
        Prepared: "spec.activation is Prepared: no rows and no links. Ready is True with this reason where all else is in order.", "Set activation to Active at the cut-over.";
        Paused: "spec.paused is true: nothing is done.", "Set paused to false.";
        Deleting: "The resource is being deleted.", "";
        RowsAbandoned: "Event: a deletion gave up; rows may be left in IM and Presence.", "Remove them on the publisher with the commands in the message.";
        RowsRetained: "Event: rows stay in IM and Presence, because onDelete is Retain.", "";
        SecretsRetained: "Event: the dialback secret and the own authority stay after a deletion, because onDelete is Retain, or because they cannot be deleted.", "Delete the Secrets in the message if no resource of this name will need them.";
        CertificateIssued: "Event: the own authority issued a certificate; the message says why.", "";
        SpecUnreadable: "The object does not fit the schema of this release.", "Correct the field named in the message.";
        SpecInvalid: "A value of the spec is wrong or not available in this release.", "Correct the field named in the message.";
        UsedTwice: "A domain, realm or IM and Presence cluster is used by two resources.", "Remove it from one of the two resources.";
        ForeignObject: "An object of a needed name exists and is not ours.", "Delete or rename that object, or name the resource differently. A restored dialback secret or authority is taken over by annotation; the message says so.";
        FormerObject: "An object of a former resource of this name is still being deleted.", "Wait for the garbage collector.";
        WritesUndone: "Somebody changes an object of ours back after each write.", "Stop the writer that the message names.";
        ApiRefused: "The Kubernetes API refused an object.", "Read the message; it is the API server's.";
        SecretMissing: "A Secret or a key in it is missing.", "Create the Secret with the key named in the message.";
        SecretNotAllowed: "A Secret lacks the label xmppfederation.io/use=allowed, which this operator requires. Nothing is read of it; what runs keeps what it has.", "If the resource may use that Secret, set the label with the command in the message.";
        SecretInvalid: "A Secret's content is not usable.", "Correct the Secret as the message says.";
        NoPods: "No edge pod is wanted.", "Set spec.edge.replicas above 0.";
        PodsNotCreated: "The API server refuses to create a pod: a quota, a LimitRange, a missing PriorityClass, pod security, or a webhook.", "Do what the message says; it has the API server's words.";
        PodsNotReady: "Fewer edge pods are ready than wanted.", "Look at the pods named in the message.";
        PodsReplaced: "Pods are being replaced, one after the other, because what they are made of changed.", "Wait; the ones that run go on serving.";
        UpgradeWaits: "The edge pods are those of an earlier release of the operator, and wait until other federations have theirs of this one. EdgeAvailable is True with this reason.", "Wait; or raise upgrades.atOnce of the operator's chart.";
        UpgradeHalted: "A federation was Ready before its edge pods were replaced by those of a new release, and is not Ready again in time. No other federation is upgraded meanwhile.", "Correct what its conditions say, go back to the former release, or go on by the annotation continue-upgrade on it.";
        ConfigNotLoaded: "A pod has not loaded the newest configuration.", "Wait; read the pod's log if it lasts.";
        ConfigRejected: "A pod refused the newest configuration: it goes on with the old one, or waits for one that it can read.", "Correct the value named in the message; or update the edge, where its release is too old for it.";
        NoAddress: "The Service shows neither an address nor a host name yet.", "Check the load balancer's controller, or set spec.edge.publicAddresses.";
        FieldsAdded: "Others have set fields in objects of ours that the operator does not set.", "Remove the fields named in the message, or set what they are for in the spec.";
        NobodyAdmitted: "The allow list is empty and partners names no domain, so nothing federates. Ready is True with this reason.", "List domains in spec.privacy.domains or spec.partners.";
        CertificateKey: "The private key is not usable, or not that of the certificate.", "Write certificate and key of one issuance into the Secret.";
        CertificateExpired: "The certificate, or one of its chain, has expired.", "Renew the certificate named in the message in its Secret.";
        CertificateNotYetValid: "The certificate, or one of its chain, is not valid yet.", "Keep the former one until then.";
        CertificateChain: "The certificates do not lead to an authority that peers know, or not in order.", "Write the certificate, then that of its issuer and so on, as the message says.";
        CertificateUnfit: "The certificate, or one of its chain, is weak or not made for this use.", "Have it issued anew as the message says.";
        CertificateExpiring: "The certificate, or one of its chain, ends within 21 days.", "Write the renewed chain into the Secret before the date in the message.";
        CertificateExpiringSoon: "The certificate, or one of its chain, ends within 7 days.", "Write the renewed chain into the Secret now.";
        CertificateNames: "The certificate lacks a domain.", "Have it issued with all names in the message.";
        RecordsWrong: "A public DNS record is missing or wrong.", "Publish the record named in the message.";
        RecordsUnknown: "DNS does not answer.", "Check spec.dns.resolvers.";
        ClusterLeft: "A cluster left spec.imp, and rows of ours may still be in its table.", "Wait; or remove them by hand as the message says, or give them up by annotation.";
        LinksDown: "A pod has no link to a router.", "The message tells network, secret and unread table apart.";
        LinkStateUnknown: "An edge pod of a later release tells a state of a link that this operator does not know.", "Update the operator.";
        RouterSecretWrong: "A router refuses the shared secret.", "Correct the Secret and key of spec.imp[].router.secretRef named in the message.";
        RouterUnreachable: "A pod cannot connect to TCP 7400 of a node: a closed port or the network.", "Check the router and the way there; the message has the command that captures on IM&P.";
        TableNotRead: "A router refuses a component id whose row stands: it has not read its table since (symptom two of Cisco's guide).", "Restart Cisco XCP Router on that node, or wait for the operator: the message says who does it.";
        RowNotKnown: "A router that had read a row refuses its component id: IM&P was restored or rebuilt, or the router read another copy of the table.", "Look at the table on that node, then restart its router, as the message says.";
        EverythingReturned: "A router accepts the link and returns every message and request.", "Restart Cisco XCP Router on that node, or wait for the operator: the message says who does it.";
        PartnersFailing: "A configured partner cannot be reached.", "See the reason in the message; it is rarely on our side.";
        NoPartners: "No partner is configured by name.", "";
        InternalError: "The operator failed.", "Report it with the message.";
        ..Imp(ImpReason)
    }
}
