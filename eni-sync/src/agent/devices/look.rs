//! What the look at the node finds, for the thread that speaks with the kubelet.

use common::files::file::Edition;

use crate::agent::devices::shown::Shown;

/// What the look at the node has found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Look {
    /// Whether this agent is the one that serves plugins. That one registers the resources: two
    /// would take them from each other.
    pub(crate) is_serving: bool,
    /// The socket of the kubelet, if there is one.
    pub(crate) kubelet: Option<Edition>,
    /// The resources, in the order of the configuration.
    pub(crate) resources: Vec<Shown>,
}
