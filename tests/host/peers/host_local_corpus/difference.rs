//! How ours differs from Go's host-local.

/// Every difference that a user of the Go plugin (1.1.1) can see, with its reason. The
/// numeric codes are another: Go's are 999 for everything, ours those of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Difference {
    /// Go refuses to release when the configuration or `CNI_ARGS` have become wrong,
    /// and the container cannot be removed any more.
    DelWithoutValidation,
    /// Go leaves the turn of the earlier range sets moved, and releases whatever the
    /// attachment had before; a failed ADD of ours leaves the store as it was.
    FailedAddChangesNothing,
    /// Once per range set, Go looks for files to release. With two sets it finds the
    /// ones that name the container only after the ones that name the attachment.
    LegacyFilesAreReleasedAlone,
    /// To Go, the empty file of a killed plugin is taken for ever.
    EmptyFilesAreReclaimed,
    /// After the broadcast address, Go goes on with the next network.
    StartAtBroadcastIsRefused,
    /// A subnet that is `null` is not set for us, and wrong for Go.
    NullSubnetIsNotSet,
    /// The text of a failed system call or of a JSON reader, and which of two mistakes in
    /// one document is found first.
    OtherWordsOfTheSystem,
}

/// All of them.
pub(super) const ALL: [Difference; 7] = [
    Difference::DelWithoutValidation,
    Difference::FailedAddChangesNothing,
    Difference::LegacyFilesAreReleasedAlone,
    Difference::EmptyFilesAreReclaimed,
    Difference::StartAtBroadcastIsRefused,
    Difference::NullSubnetIsNotSet,
    Difference::OtherWordsOfTheSystem,
];
