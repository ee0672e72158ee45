//! Certificate revocation lists (RFC 5280 section 5), read from files.

use std::path::PathBuf;

use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use crate::files::{FieldError, ReadFile};

/// All lists of the configuration; of one authority the latest comes first and is the one used.
#[derive(Debug, Default)]
pub(super) struct RevocationLists(Vec<webpki::CertRevocationList<'static>>);

impl RevocationLists {
    /// Reads the files. A list past its time is warned of: it still revokes what it names, since
    /// a peer must not become acceptable again only because nobody fetched the next one.
    pub(super) fn load(files: &[PathBuf], read: &ReadFile<'_>, warnings: &mut Vec<String>) -> Result<Self, FieldError> {
        let now = jiff::Timestamp::now().as_second();
        let mut lists = Vec::new();
        for (i, path) in files.iter().enumerate() {
            let field = format!("tls.revocationLists[{i}]");
            let pem = read(&field, path)?;
            let path = path.display();
            let fail = |why: String| {
                FieldError::new(
                    field.clone(),
                    format!("{path} holds an unusable revocation list: {why}"),
                )
            };
            let mut count = 0;
            for list in CertificateRevocationListDer::pem_slice_iter(&pem) {
                let der = list.map_err(|error| fail(error.to_string()))?;
                let (_, parsed) = CertificateRevocationList::from_der(&der).map_err(|error| fail(error.to_string()))?;
                let owned =
                    webpki::OwnedCertRevocationList::from_der(&der).map_err(|error| fail(format!("{error:?}")))?;
                if let Some(next) = parsed.next_update()
                    && next.timestamp() <= now
                {
                    let next = jiff::Timestamp::from_second(next.timestamp())
                        .map_or_else(|_| next.to_string(), |next| next.to_string());
                    warnings.push(format!(
                        "the revocation list of {} in {path} was to be replaced by {next}; it still counts, but does not know of what was revoked since",
                        parsed.issuer()
                    ));
                }
                lists.push((parsed.last_update().timestamp(), owned.into()));
                count += 1;
            }
            if count == 0 {
                return Err(FieldError::new(
                    field.clone(),
                    format!("{path} holds no PEM revocation list (-----BEGIN X509 CRL-----)"),
                ));
            }
        }
        lists.sort_by_key(|(issued, _)| std::cmp::Reverse(*issued));
        Ok(Self(lists.into_iter().map(|(_, list)| list).collect()))
    }

    pub(super) fn by_reference(&self) -> Vec<&webpki::CertRevocationList<'static>> {
        self.0.iter().collect()
    }

    /// Every certificate of a chain is looked up; one whose authority gave no list counts as not
    /// revoked.
    pub(super) fn options<'a>(
        lists: &'a [&'a webpki::CertRevocationList<'static>],
    ) -> Option<webpki::RevocationOptions<'a>> {
        let builder = webpki::RevocationOptionsBuilder::new(lists).ok()?;
        Some(
            builder
                .with_depth(webpki::RevocationCheckDepth::Chain)
                .with_status_policy(webpki::UnknownStatusPolicy::Allow)
                .with_expiration_policy(webpki::ExpirationPolicy::Ignore)
                .build(),
        )
    }
}
