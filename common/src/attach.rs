//! The life of an attachment. A plugin implements [`Interface`]: what is recorded of an
//! interface, and how it is made, removed and verified. The rest is here, and the same for all
//! plugins: locks, the remains of an earlier ADD, the record that is written before the first
//! change, delegation, addresses and routes, the result, undo, CHECK, STATUS and GC.

mod add;
mod announce;
pub mod awaited;
mod check;
mod configuration;
mod deadlines;
mod end;
mod garbage;
pub mod inventory;
mod kept;
mod options;
mod recorded_sandbox;
mod release;
pub mod requested_mac;
mod route;
mod sandbox;
pub mod selector;
mod source_routing;
pub mod turn;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::address::Cidr;
use crate::cni::args::{CmdArgs, ConfArgs};
use crate::cni::result::AddResult;
use crate::error::{Error, Result};
use crate::kernel::netlink::{Link, Made, NetworkState};
use crate::plugin::Commands;
use crate::records::{Attachment, Records};

pub use configuration::Configuration;
pub use kept::Kept;
pub use options::Options;
pub use recorded_sandbox::{sandbox_at_end, sandbox_by_number, sandbox_for_del};
pub use release::Release;
pub use sandbox::{Sandbox, Sides};
pub use source_routing::SourceRouting;

/// The part of an attachment that differs between plugins. A value is the configuration of one
/// interface.
///
/// ADD calls `configure` and `plan`, writes the record, and calls `make`. DEL, GC and the undo
/// of a failed ADD call `remove`. CHECK calls `verify`. A plugin must implement the first seven
/// methods; the others have defaults.
pub trait Interface: Sized {
    /// The name of the plugin and of the directory of its records.
    const NAME: &'static str;
    /// The data of the interface that the record of an attachment has.
    type Device: Serialize + DeserializeOwned;
    /// The data that [`Self::plan`] passes to [`Self::make`] and that is not recorded.
    type Plan;

    /// Reads the plugin's own keys, for an ADD. Nothing is changed before the whole
    /// configuration is known to be valid.
    ///
    /// # Errors
    /// Code 6 for a key that cannot be read, 7 for an invalid value.
    fn configure(args: &CmdArgs, prev_result: Option<&AddResult>) -> Result<Self>;

    /// Examines the node and the container, and returns what is recorded before the interface
    /// is made. Changes nothing.
    ///
    /// # Errors
    /// The reason for which the interface cannot be made.
    fn plan(&self, args: &CmdArgs, sides: &mut Sides) -> Result<(Self::Device, Self::Plan)>;

    /// Makes the interface of the record. It may add data to the record on the way, and writes
    /// the record then.
    fn make(
        &self,
        plan: Self::Plan,
        record: &mut Attachment<Self::Device>,
        sides: &mut Sides,
    ) -> Made<Placed>;

    /// Whether the container has the interface, so that an ADD must not replace the record.
    ///
    /// # Errors
    /// Code 5 or 8 when the container's namespace cannot be examined, 999 when the kernel does
    /// not answer.
    fn is_attached(args: &CmdArgs, record: &Attachment<Self::Device>) -> Result<bool>;

    /// Removes the interface from the container. An interface that is missing, or was made only
    /// in part, is not an error. Calls [`Release::before_removal`] if the interface exists.
    ///
    /// # Errors
    /// The reason why the interface cannot be removed. Record and addresses are kept then.
    fn remove(
        args: &CmdArgs,
        record: &Attachment<Self::Device>,
        release: &mut Release<'_>,
    ) -> Result<()>;

    /// Compares `link` with the configuration and with the record, if there is one. The
    /// comparison with the result of ADD has succeeded before.
    ///
    /// # Errors
    /// Code 999 naming the first thing that differs.
    fn verify(
        args: &CmdArgs,
        record: Option<&Attachment<Self::Device>>,
        link: &Link,
        sandbox: Sandbox,
    ) -> Result<()>;

    /// Whether an ADD of this configuration could be served by the plugin itself, without its
    /// delegate.
    ///
    /// # Errors
    /// Code 6 or 7 for an invalid configuration, 50 when the node does not have what it needs.
    fn status(conf: &ConfArgs) -> Result<()>;

    /// Whether the interface keeps addresses that it has on the node, so that it has addresses
    /// without a delegate.
    fn keeps_addresses(&self) -> bool {
        false
    }

    /// The addresses and routes for the interface. `reserved` is the result of the delegate, if
    /// there is one. `earlier` is the result of the plugins before this one in the chain;
    /// addresses can be moved out of it.
    fn addresses(
        &self,
        _device: &Self::Device,
        reserved: Option<AddResult>,
        _earlier: &mut AddResult,
    ) -> AddResult {
        reserved.unwrap_or_default()
    }

    /// Completes the error of an ADD for which the kernel has reported that one of `addresses`
    /// is in use: names the interface that has the address.
    fn name_holder(
        &self,
        error: Error,
        _record: &Attachment<Self::Device>,
        _addresses: &[Cidr],
        _sides: &mut Sides,
    ) -> Error {
        error
    }

    /// Removes from the record of a successful ADD the data that only the undo of a failed one
    /// needs.
    ///
    /// # Errors
    /// Code 5 when the record cannot be written.
    fn trim_record(&self, _record: &mut Attachment<Self::Device>) -> Result<()> {
        Ok(())
    }

    /// Verifies an attachment that has no interface in the container. Returns false when the
    /// attachment has one.
    ///
    /// # Errors
    /// As for [`Self::verify`].
    fn verify_without_link(
        _args: &CmdArgs,
        _record: Option<&Attachment<Self::Device>>,
    ) -> Result<bool> {
        Ok(false)
    }

    /// Whether a record under another network's name is the one of the attachment in `args`,
    /// because the network was renamed.
    fn is_renamed(_args: &CmdArgs, _record: &Attachment<Self::Device>) -> bool {
        false
    }

    /// Removes the interface of an attachment without a record, such as one that a Go plugin
    /// has made, if configuration and result prove which interface that is. Returns true when
    /// it is certain that nothing of the attachment is left. If the attachment has a record
    /// that `is_damaged`, DEL continues only then.
    ///
    /// # Errors
    /// The reason why the interface cannot be removed.
    fn remove_unrecorded(
        _args: &CmdArgs,
        _is_damaged: bool,
        _release: &mut Release<'_>,
    ) -> Result<bool> {
        Ok(false)
    }

    /// Removes what an attachment has besides its interface, after the interface was removed.
    /// The addresses are released even if this fails.
    ///
    /// # Errors
    /// The reason why something is left. The record is kept then.
    fn remove_extras(_device: &Self::Device) -> Result<()> {
        Ok(())
    }

    /// Notes in a record that must be kept that its interface was removed, for plugins whose
    /// next DEL could take another interface for it.
    ///
    /// # Errors
    /// Code 5 when the record cannot be written.
    fn note_removed(_record: &Attachment<Self::Device>) -> Result<()> {
        Ok(())
    }

    /// Removes the record of an attachment that has ended.
    ///
    /// # Errors
    /// Code 5 naming the file.
    fn forget(args: &CmdArgs) -> Result<()> {
        records::<Self>().remove(args)
    }

    /// Further work of GC after it has ended the attachments that are not valid. Called only
    /// when GC has a list of the valid ones.
    ///
    /// # Errors
    /// Code 999 with the kernel's answer.
    fn collect_unrecorded(_conf: &ConfArgs) -> Result<()> {
        Ok(())
    }
}

/// The interface that [`Interface::make`] has made.
#[derive(Debug, Default)]
pub struct Placed {
    /// The interface in the container, down and without addresses; `None` when the container
    /// uses the device without an interface.
    pub link: Option<Link>,
    /// The PCI address of the device behind it; empty when that is not a PCI device.
    pub pci_id: String,
    /// Those addresses and routes that the interface had on the node and keeps, with every
    /// attribute.
    pub carried: NetworkState,
}

impl From<Link> for Placed {
    fn from(link: Link) -> Self {
        Self {
            link: Some(link),
            ..Self::default()
        }
    }
}

/// The commands of a plugin for these interfaces. `version` and `marker` are the plugin's.
pub const fn commands<I: Interface>(version: &'static str, marker: &'static str) -> Commands {
    Commands {
        name: I::NAME,
        version,
        marker,
        add: add::add::<I>,
        check: check::check::<I>,
        del: end::del::<I>,
        status: check::status::<I>,
        gc: garbage::collect::<I>,
    }
}

fn records<I: Interface>() -> Records {
    Records::of(I::NAME)
}

/// Returns the first error. An error of the clean-up after it is only logged.
fn undone(error: Error, cleaned_up: Result<()>) -> Error {
    if let Err(later) = cleaned_up {
        crate::say!("cleaning up after a failure: {later}");
    }
    error
}
