//! What a failed request to the Kubernetes API says to a person.

use std::future::Future;
use std::time::Duration;

/// The client repeats a request for minutes by itself; nobody waits that long.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The API server's answer, or what kept it away.
    #[error("{}", sentence(.0))]
    Failed(#[from] kube::Error),
    /// No answer.
    #[error("the Kubernetes API did not answer within {} s", TIMEOUT.as_secs())]
    Timeout,
}

impl ApiError {
    /// HTTP status of the answer, if there was one.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Failed(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }
}

/// Bounds a request in time.
pub async fn bounded<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, ApiError> {
    let answer = tokio::time::timeout(TIMEOUT, request).await;
    Ok(answer.map_err(|_| ApiError::Timeout)??)
}

/// The API server's own words, or the innermost cause: what wraps it names Rust types.
pub fn sentence(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        let said = if status.message.is_empty() {
            &status.reason
        } else {
            &status.message
        };
        return format!("the Kubernetes API answered {}: {said}", status.code);
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    format!("the Kubernetes API cannot be asked: {innermost}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use kube::core::Status;

    #[test]
    fn an_error_is_a_sentence_in_the_servers_words() {
        let mut status = Status::failure("configmaps \"x\" is forbidden: no", "Forbidden").with_code(403);
        let error = |status: &Status| ApiError::from(kube::Error::Api(Box::new(status.clone())));
        let said = error(&status).to_string();
        assert_eq!(
            said,
            "the Kubernetes API answered 403: configmaps \"x\" is forbidden: no"
        );
        assert_eq!(error(&status).code(), Some(403));
        status.message.clear();
        assert_eq!(error(&status).to_string(), "the Kubernetes API answered 403: Forbidden");
        let io = std::io::Error::other("connection refused");
        let said = ApiError::from(kube::Error::Service(Box::new(io))).to_string();
        assert_eq!(said, "the Kubernetes API cannot be asked: connection refused");
    }
}
