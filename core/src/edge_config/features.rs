//! What an older edge would do wrong by ignoring a field, for each field of the file.
//!
//! A new field that restricts something gets a feature: the operator names it in `requires` wherever it writes the field, and
//! an edge that does not know the feature refuses the file.

use serde_yaml::Value;

/// What becomes of a restriction if a reader ignores the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bearing {
    /// It would be lost, and no reader of `requires` ignores the field: the first release has it.
    Base,
    /// It would be lost in releases without this feature. The field is written only where it restricts something.
    Feature(&'static str),
    /// The field restricts nothing, for this reason.
    Free(&'static str),
}

use Bearing::{Base, Free};

/// Why the fields about reading are free.
const ABOUT_READING: &str = "an edge that does not know it reads no file of a later release";

/// Each field by its path; `[]` stands behind a list of objects.
pub const FIELDS: &[(&str, Bearing)] = &[
    ("writtenBy", Free(ABOUT_READING)),
    ("requires", Free(ABOUT_READING)),
    ("domains", Base),
    ("listen.s2s", Base),
    ("listen.directTls", Free("one more port, with the rules of the first")),
    ("listen.admin", Base),
    ("listen.control", Base),
    ("dialback.sign", Base),
    ("dialback.accept", Free("further secrets admit keys")),
    ("tls.mode", Base),
    ("tls.certificates[].certificateFile", Base),
    ("tls.certificates[].privateKeyFile", Base),
    (
        "tls.clientCertificate.certificateFile",
        Free("it is shown, and judges nobody"),
    ),
    (
        "tls.clientCertificate.privateKeyFile",
        Free("it is shown, and judges nobody"),
    ),
    ("tls.trustAnchors.system", Base),
    ("tls.trustAnchors.file", Free("further authorities admit certificates")),
    ("tls.revocationLists", Base),
    ("tls.requireClientCertificates", Base),
    ("tls.minVersion", Base),
    ("privacy.mode", Base),
    ("privacy.domains", Base),
    ("partners[].domain", Base),
    ("partners[].tls.mode", Base),
    ("partners[].tls.requireCertificate", Base),
    ("partners[].tls.pinnedSha256", Base),
    ("partners[].route[].host", Base),
    ("partners[].route[].port", Base),
    ("partners[].limits.maxStanzaBytes", Base),
    ("partners[].limits.messagesPerSecond", Base),
    ("partners[].limits.bytesPerSecond", Base),
    ("partners[].comment", Free("a note for administrators")),
    ("dns.resolvers", Base),
    ("dns.allowPrivateTargets", Free("exceptions from a restriction")),
    ("dns.denyTargets", Base),
    ("routers[].name", Base),
    ("routers[].domains", Base),
    ("routers[].profile", Base),
    ("routers[].componentIds", Base),
    ("routers[].secretFile", Base),
    ("routers[].endpoints[].name", Base),
    ("routers[].endpoints[].address", Base),
    ("limits.maxStanzaBytes", Base),
    ("limits.messagesPerSecond", Base),
    ("limits.bytesPerSecond", Base),
    ("limits.maxUnauthenticatedBytes", Base),
    ("limits.maxDepth", Base),
    ("limits.maxAttributes", Base),
    ("limits.maxConnections", Base),
    ("limits.maxConnectionsPerAddress", Base),
    ("limits.maxConnectionsPer56", Base),
    ("limits.maxConnectionsPer48", Base),
    ("limits.newConnectionsPerSecond", Base),
    ("limits.maxPairsPerStream", Base),
    ("limits.maxVerifications", Base),
    ("limits.maxQueuedStanzas", Free("every release ignores it")),
    ("limits.maxQueuedBytes", Base),
    ("limits.negotiationTimeout", Base),
    ("limits.dialbackTimeout", Base),
    ("limits.idleTimeout", Base),
    ("proxyProtocol.trustedSources", Base),
    ("drainDelay", Free("how an edge stops")),
    ("log.level", Free("what is logged")),
];

/// The features in a table of fields, each once.
pub fn names(fields: &[(&'static str, Bearing)]) -> Vec<&'static str> {
    let mut names = Vec::new();
    for (_, bearing) in fields {
        if let Bearing::Feature(name) = bearing
            && !names.contains(name)
        {
            names.push(*name);
        }
    }
    names
}

/// The features that a file uses, by a table of fields.
pub fn used(fields: &[(&'static str, Bearing)], file: &Value) -> Vec<&'static str> {
    let mut written = fields.to_vec();
    written.retain(|(path, _)| is_written(path, file));
    names(&written)
}

fn is_written(path: &str, value: &Value) -> bool {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let (name, list) = first.strip_suffix("[]").map_or((first, false), |name| (name, true));
    match value.get(name) {
        None => false,
        Some(_) if rest.is_empty() => true,
        Some(entries) if list => entries
            .as_sequence()
            .is_some_and(|entries| entries.iter().any(|entry| is_written(rest, entry))),
        Some(inner) => is_written(rest, inner),
    }
}
