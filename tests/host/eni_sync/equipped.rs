//! A node whose agent has variables that the plugins of the node do not have.

use std::path::Path;

use harness::vpc::VpcNode;
use harness::{Call, Host, Node};

/// The node, and the environment of its agent beside that of the node.
pub(super) struct Equipped<'a> {
    pub(super) node: &'a VpcNode,
    pub(super) variables: Vec<(&'static str, String)>,
}

impl Host for Equipped<'_> {
    fn node(&self) -> &Node {
        self.node.node()
    }

    fn run_directory(&self) -> &Path {
        self.node.run_directory()
    }

    fn eni_sync(&self) -> Call {
        let variables = self.variables.iter();
        variables.fold(self.node.eni_sync(), |call, (name, value)| {
            call.env(name, value)
        })
    }
}
