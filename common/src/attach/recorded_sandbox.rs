//! Finds what a record is about in the kernel: the container's namespace, and the rules of its
//! source routing.

use serde::Serialize;

use super::sandbox::Sandbox;
use crate::cni::args::CmdArgs;
use crate::cni::result::AddResult;
use crate::error::{Errors, Result};
use crate::kernel::netlink::Link;
use crate::kernel::netns::{Found, Holders, NetNs, NetNsId, hidden, look};
use crate::records::{Attachment, Records, boot_id};
use crate::say;

impl<D> Attachment<D> {
    /// Records the addresses in `own` that get a rule, if the attachment has source routing. This
    /// is done before the kernel gets the rules, so that DEL can find them.
    ///
    /// # Errors
    /// As for [`Policy::claim`](crate::records::Policy::claim), and code 5 when the record cannot be written.
    pub fn claim(&mut self, records: &Records, link: &Link, own: &mut AddResult) -> Result<()>
    where
        D: Serialize,
    {
        let Some(policy) = &mut self.source_routing else {
            return Ok(());
        };
        policy.claim(link, own)?;
        records.write(self)
    }

    /// Removes the rules of the attachment's source routing, if its container still exists.
    ///
    /// # Errors
    /// As for [`sandbox_at_end`], and code 999 with the kernel's answer.
    pub fn withdraw_rules(&self, args: &CmdArgs) -> Result<()> {
        let Some(policy) = self.source_routing.as_ref().filter(|p| p.has_rules()) else {
            return Ok(());
        };
        match sandbox_at_end(args, self)? {
            Some(mut sandbox) => policy.withdraw(&mut sandbox.netlink),
            None => Ok(()),
        }
    }
}

/// The container's namespace on DEL; `None` when it has ended. With a record it is the
/// namespace of the ADD or none: the path of the DEL may be empty, or lead to another namespace
/// now, where an interface of the same name belongs to another container. A namespace whose
/// path is not visible, because this process is in another mount namespace than the runtime, is
/// entered by another mount or a descriptor.
///
/// # Errors
/// Code 5 or 8 when the namespace cannot be examined, 999 when no netlink socket can be opened in
/// it.
pub fn sandbox_for_del<D>(
    args: &CmdArgs,
    record: Option<&Attachment<D>>,
) -> Result<Option<Sandbox>> {
    let Some(record) = record else {
        return Sandbox::open_for_del(&args.netns);
    };
    if boot_id()? != record.boot_id {
        return Ok(None);
    }
    let mut errors = Errors::default();
    let mut paths = vec![&args.netns, &record.netns];
    paths.dedup();
    for path in paths {
        if let Some(sandbox) = errors.keep(open_if_same(path, record.netns_id)).flatten() {
            return Ok(Some(sandbox));
        }
    }
    errors.into_result()?;
    sandbox_elsewhere(&record.netns, record.netns_id)
}

/// The namespace `id` where `path`, which led to it, does not lead there.
fn sandbox_elsewhere(path: &str, id: NetNsId) -> Result<Option<Sandbox>> {
    // A runtime that has removed the path has ended the container.
    if look(path, id)? != Found::Hidden {
        return Ok(None);
    }
    let holders = Holders::default();
    if let Some(elsewhere) = holders.path_to(&id)?
        && let Some(sandbox) = open_if_same(&elsewhere.to_string_lossy(), id)?
    {
        return Ok(Some(sandbox));
    }
    match holders.none_of(&id) {
        true => Ok(None),
        false => Err(hidden(path)),
    }
}

/// The container's namespace at the end of its attachment: also where no path leads to it any more
/// and a process, a mount or a descriptor keeps it alive. Otherwise an address would be given to
/// another pod while an interface in it has the address. `None` when it has ended, or when the
/// kernel does not tell it from the next one that has its number.
///
/// # Errors
/// As for [`sandbox_for_del`] and [`sandbox_by_number`].
pub fn sandbox_at_end<D>(args: &CmdArgs, record: &Attachment<D>) -> Result<Option<Sandbox>> {
    if let Some(sandbox) = sandbox_for_del(args, Some(record))? {
        return Ok(Some(sandbox));
    }
    if boot_id()? != record.boot_id {
        return Ok(None);
    }
    let Some(sandbox) = sandbox_by_number(record)? else {
        return Ok(None);
    };
    if sandbox.netns.id()?.is_certainly(&record.netns_id) {
        return Ok(Some(sandbox));
    }
    say!(
        "netns {:?} is taken for ended: another one may have its number, and kernels before 5.14 do \
         not tell them apart",
        record.netns
    );
    Ok(None)
}

/// The namespace of a record that no path of [`sandbox_for_del`] leads to, by a mount, a descriptor
/// or a process that keeps it alive. It can also be another one that has its number now: the caller
/// may only look at it, until something in it proves what it is.
///
/// # Errors
/// Code 8 when a process or the namespace cannot be examined, 999 when no netlink socket can be
/// opened in it.
pub fn sandbox_by_number<D>(record: &Attachment<D>) -> Result<Option<Sandbox>> {
    let id = record.netns_id;
    let Some(paths) = Holders::default().paths_to(&id)? else {
        say!(
            "netns {:?} is taken for ended: it cannot be examined what keeps the namespaces of the \
             node alive",
            record.netns
        );
        return Ok(None);
    };
    let mut errors = Errors::default();
    for path in paths {
        if let Some(netns) = errors.keep(NetNs::open_held(&path, id.inode)).flatten() {
            return Sandbox::of(netns).map(Some);
        }
    }
    errors.into_result().map(|()| None)
}

/// Opens the namespace at `path`, if it is `id`.
fn open_if_same(path: &str, id: NetNsId) -> Result<Option<Sandbox>> {
    if look(path, id)? != Found::Same {
        return Ok(None);
    }
    match Sandbox::open(path) {
        Ok(sandbox) if sandbox.netns.is(id)? => Ok(Some(sandbox)),
        Ok(_) => Ok(None),
        // The namespace may have ended just now. Otherwise it still exists, and the error must not
        // be taken for its end.
        Err(error) => match look(path, id)? {
            Found::Same => Err(error),
            Found::Other | Found::Missing | Found::Hidden => Ok(None),
        },
    }
}
