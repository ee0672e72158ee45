//! Control Center Services: state of a node's services, and the one command there is.

/// State of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServiceState {
    /// Running.
    Started,
    /// Not running.
    Stopped,
    /// Coming.
    Starting,
    /// Going.
    Stopping,
    /// Anything else.
    Unknown,
}

/// State of the XCP router.
pub type RouterState = ServiceState;
