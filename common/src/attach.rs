//! The life of an attachment. A plugin says what is particular to its interfaces: what to
//! record of one, how it is made, removed and verified. Everything around that is here, and
//! the same for all: the turn, what an earlier ADD has left, the record before the first
//! change, the delegate, addresses and routes, the result, undo, CHECK, STATUS and GC.

mod add;
mod announce;
pub mod awaited;
mod check;
mod configuration;
mod deadlines;
mod end;
mod garbage;
pub mod inventory;
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
pub use options::Options;
pub use recorded_sandbox::sandbox_for_del;
pub use release::Release;
pub use sandbox::{Sandbox, Sides};
pub use source_routing::SourceRouting;

/// What is particular to the interfaces of one plugin. A value is what a configuration asks
/// for.
///
/// ADD: `configure`, then `plan`, then the record, then `make`. DEL, GC and what undoes an ADD:
/// `remove`. CHECK: `verify`. A plugin needs the first seven methods; the others are for
/// what only some can do.
pub trait Interface: Sized {
    /// The name of the plugin and of the directory of its records.
    const NAME: &'static str;
    /// What the record of an attachment keeps of the interface.
    type Device: Serialize + DeserializeOwned;
    /// What [`Self::make`] needs to know of [`Self::plan`] and no record keeps.
    type Plan;

    /// Reads the plugin's own keys, for an ADD. Nothing is touched before all of the
    /// configuration is known to be valid.
    ///
    /// # Errors
    /// Code 6 for what cannot be read, 7 for a value that cannot be right.
    fn configure(args: &CmdArgs, prev_result: Option<&AddResult>) -> Result<Self>;

    /// Looks at the node and the container, and says what is to be recorded before the
    /// interface is made. Changes nothing of the attachment.
    ///
    /// # Errors
    /// The reason for which the interface cannot be made.
    fn plan(&self, args: &CmdArgs, sides: &mut Sides) -> Result<(Self::Device, Self::Plan)>;

    /// Makes the interface that is recorded. What it learns meanwhile it adds to the record,
    /// and writes that.
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

    /// Removes the interface from the container, as far as it was made: what is missing is
    /// removed already. Calls [`Release::before_removal`] where the interface is there.
    ///
    /// # Errors
    /// What keeps the interface where it is; record and addresses stay then.
    fn remove(
        args: &CmdArgs,
        record: &Attachment<Self::Device>,
        release: &mut Release<'_>,
    ) -> Result<()>;

    /// Compares `link`, which has what the result of ADD says, with the configuration and with
    /// the record, where there is one.
    ///
    /// # Errors
    /// Code 999 naming the first thing that differs.
    fn verify(
        args: &CmdArgs,
        record: Option<&Attachment<Self::Device>>,
        link: &Link,
        sandbox: Sandbox,
    ) -> Result<()>;

    /// Whether an ADD of this configuration could be served, as far as the plugin itself
    /// tells.
    ///
    /// # Errors
    /// Code 6 or 7 for a configuration that is wrong, 50 where the node lacks what it needs.
    fn status(conf: &ConfArgs) -> Result<()>;

    /// Whether the interface brings addresses along, so that it needs no delegate to have any.
    fn brings_addresses(&self) -> bool {
        false
    }

    /// What the interface gets: `reserved` is what the delegate has given, if there is a
    /// delegate, and `earlier` is the result of the plugins before this one, from which
    /// addresses can be taken.
    fn addresses(
        &self,
        _device: &Self::Device,
        reserved: Option<AddResult>,
        _earlier: &mut AddResult,
    ) -> AddResult {
        reserved.unwrap_or_default()
    }

    /// The error of an ADD to which the kernel says that one of `addresses` is in use, with
    /// the name of who has it.
    fn name_holder(
        &self,
        error: Error,
        _record: &Attachment<Self::Device>,
        _addresses: &[Cidr],
        _sides: &mut Sides,
    ) -> Error {
        error
    }

    /// Takes from the record of an ADD that has succeeded what only one that fails needs.
    ///
    /// # Errors
    /// Code 5 when the record cannot be written.
    fn settle(&self, _record: &mut Attachment<Self::Device>) -> Result<()> {
        Ok(())
    }

    /// Verifies an attachment that has no interface in the container; false when it is not
    /// one of these.
    ///
    /// # Errors
    /// As for [`Self::verify`].
    fn verify_without_link(
        _args: &CmdArgs,
        _record: Option<&Attachment<Self::Device>>,
    ) -> Result<bool> {
        Ok(false)
    }

    /// Whether a record under another network's name is that of the attachment that a DEL is
    /// about: the network was renamed.
    fn is_meant(_args: &CmdArgs, _record: &Attachment<Self::Device>) -> bool {
        false
    }

    /// Removes the interface of an attachment that has no record, such as one that a Go plugin
    /// has made, where configuration and result prove which one that is. Returns whether
    /// nothing of the attachment is left for certain; where its record `is_damaged`, that
    /// decides whether DEL may go on.
    ///
    /// # Errors
    /// What keeps the interface where it is.
    fn remove_unrecorded(
        _args: &CmdArgs,
        _is_damaged: bool,
        _release: &mut Release<'_>,
    ) -> Result<bool> {
        Ok(false)
    }

    /// Removes what an attachment has beside its interface, when that has gone. The addresses
    /// are released whatever comes of it.
    ///
    /// # Errors
    /// What is left; the record stays then.
    fn tidy_up(_device: &Self::Device) -> Result<()> {
        Ok(())
    }

    /// Notes in a record that has to stay that its interface has gone, where the next DEL could
    /// take another one for it.
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

    /// What GC does beyond ending the attachments that are not valid, when it has got a list
    /// of those that are.
    ///
    /// # Errors
    /// Code 999 with the kernel's answer.
    fn collect_unrecorded(_conf: &ConfArgs) -> Result<()> {
        Ok(())
    }
}

/// What was made.
#[derive(Debug, Default)]
pub struct Placed {
    /// The interface in the container, down and without addresses; nothing where the
    /// container reaches the device without one.
    pub link: Option<Link>,
    /// The PCI address of the device behind it; empty when that is not a PCI device.
    pub pci_id: String,
    /// Those of its addresses and routes that it has brought from the node, to get them with
    /// every attribute.
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

/// The error that counts: the first one. What goes wrong while cleaning up after it is only
/// shown.
fn undone(error: Error, cleaned_up: Result<()>) -> Error {
    if let Err(later) = cleaned_up {
        crate::say!("cleaning up after a failure: {later}");
    }
    error
}
