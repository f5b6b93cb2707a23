//! The result of examining the node, for the thread that communicates with the kubelet.

use common::files::file::Edition;

use crate::agent::devices::shown::Shown;

/// The result of examining the node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Look {
    /// Whether this agent serves plugins. Only that agent registers the resources: two would
    /// take them from each other.
    pub(crate) is_serving: bool,
    /// The socket of the kubelet, if there is one.
    pub(crate) kubelet: Option<Edition>,
    /// The resources, in the order of the configuration.
    pub(crate) resources: Vec<Shown>,
}
