//! The end of an attachment, which is the same for DEL, for GC, for the remains of an earlier
//! ADD, and for the undo of an ADD that fails.

use super::release::Release;
use super::{Interface, records, undone};
use crate::attach::turn::Turn;
use crate::cni::args::CmdArgs;
use crate::error::{Error, Errors, Result};
use crate::records::Attachment;
use crate::records::{Recorded, only_identity};
use crate::say;

/// Ends the attachment of a DEL: by its record, by its record under the network's former name, or
/// by what configuration and result prove.
pub(super) fn del<I: Interface>(args: &CmdArgs) -> Result<()> {
    let _turn = Turn::to_detach(args)?;
    let records = records::<I>();
    if let Some(only) = only_identity() {
        // Another one may have been made since.
        let meant = records
            .read(args)?
            .filter(|record| record.identity() == only);
        return meant.map_or(Ok(()), |record| end::<I>(args, &record));
    }
    let renamed = match records.look_up(args)? {
        Recorded::Whole(record) => return end::<I>(args, &record),
        Recorded::Unreadable(why) => return end_unrecorded::<I>(args, Some(why)),
        Recorded::Absent => records.read_renamed(args, |record| I::is_renamed(args, record))?,
    };
    match renamed {
        None => end_unrecorded::<I>(args, None),
        Some(record) => {
            end::<I>(&record.del_args(&args.conf.delegates)?, &record)?;
            release_unrecorded::<I>(args, Release::of::<I::Device>(args, None))
        }
    }
}

/// Ends an attachment: first its interface and its rules, then its addresses, then its record. An
/// address stays reserved while an interface has it. A delegate that needs the interface releases
/// the address earlier, after it was removed from the interface.
pub(super) fn end<I: Interface>(args: &CmdArgs, record: &Attachment<I::Device>) -> Result<()> {
    let mut release = Release::of(args, Some(record));
    I::remove(args, record, &mut release)?;
    let mut errors = Errors::default();
    errors.keep(I::remove_extras(&record.device));
    errors.keep(record.withdraw_rules(args).and_then(|()| release.finish()));
    match errors.into_result() {
        Ok(()) => I::forget(args),
        Err(error) => Err(undone(error, I::note_removed(record))),
    }
}

/// Ends an attachment without a record, or with one that cannot be read. Such a record is kept
/// unless nothing of the attachment is left.
fn end_unrecorded<I: Interface>(args: &CmdArgs, damage: Option<Error>) -> Result<()> {
    let mut release = Release::of::<I::Device>(args, None);
    let is_gone = I::remove_unrecorded(args, damage.is_some(), &mut release)?;
    match damage {
        Some(damage) if !is_gone => return Err(damage),
        Some(damage) => say!("{damage}"),
        None => {}
    }
    release_unrecorded::<I>(args, release)
}

fn release_unrecorded<I: Interface>(args: &CmdArgs, release: Release<'_>) -> Result<()> {
    release.finish()?;
    // An ADD that was killed may have left a temporary file of its record.
    I::forget(args)
}

/// Ends what a killed ADD, or one of an earlier boot, has left of this attachment. An attachment
/// that the container still has is an error, and is not changed.
pub(super) fn end_stale<I: Interface>(args: &CmdArgs) -> Result<()> {
    let Some(record) = records::<I>().read(args)? else {
        return Ok(());
    };
    if I::is_attached(args, &record)? {
        return Err(record.already_exists());
    }
    end::<I>(&record.del_args(&args.conf.delegates)?, &record)
}
